"""What the figures depend on: the processor, the number of threads, and the versions of the libraries.

Run as a script, in the environment of the competitors, it prints what they would find there.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib import metadata
from pathlib import Path

from race import environment

PACKAGES = ("numpy", "threadpoolctl", "torch", "onnxruntime", "open_clip_torch", "transformers")


def conditions(threads: int) -> dict[str, str]:
    """Name -> what it is, in words."""
    told = subprocess.check_output([sys.executable, __file__], env=environment(threads))
    return {"date": str(date.today()), "processor": processor(), "threads": str(threads)} | json.loads(told)


def processor() -> str:
    """The processor's name, and its family and model, since the names in virtual machines say little."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name, family, model = (facts.get(key, "?") for key in ("model name", "cpu family", "model"))
    return f"{name} (family {family}, model {model}), {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    from minivideococa import __version__

    found = {"minivideococa": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found | {"python": platform.python_version()}


def numpys_blas() -> str:
    """Name, version and kernel of the BLAS that NumPy has loaded, as threadpoolctl sees them."""
    import numpy  # noqa: F401               # loads it
    from threadpoolctl import threadpool_info

    return ", ".join(
        f"{blas['internal_api']} {blas['version']}, kernel {blas.get('architecture')}"
        for blas in threadpool_info()
        if blas["user_api"] == "blas"
    )


if __name__ == "__main__":
    print(json.dumps(versions() | {"numpy's BLAS": numpys_blas()}))
