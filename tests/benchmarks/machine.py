"""The conditions of a measurement: processor, number of threads, versions of the libraries.

Run as a script in the environment of the competitors, it prints the versions there.
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
    """Return the conditions by name."""
    printed = subprocess.check_output([sys.executable, __file__], env=environment(threads))
    return {"date": str(date.today()), "processor": processor(), "threads": str(threads)} | json.loads(
        printed
    )


def processor() -> str:
    """Return the processor's name, family and model; the names in virtual machines say little."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name, family, model = (facts.get(key, "?") for key in ("model name", "cpu family", "model"))
    return f"{name} (family {family}, model {model}), {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter, by name."""
    from minivideococa import __version__

    result = {"minivideococa": __version__}
    for package in PACKAGES:
        try:
            result[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result | {"python": platform.python_version()}


def numpy_blas() -> str:
    """Return name, version and kernel of NumPy's BLAS, as reported by threadpoolctl."""
    import numpy  # noqa: F401  (loads its BLAS)
    from threadpoolctl import threadpool_info

    return ", ".join(
        f"{blas['internal_api']} {blas['version']}, kernel {blas.get('architecture')}"
        for blas in threadpool_info()
        if blas["user_api"] == "blas"
    )


if __name__ == "__main__":
    print(json.dumps(versions() | {"numpy's BLAS": numpy_blas()}))
