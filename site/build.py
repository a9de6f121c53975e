"""Build the page that runs this package in a browser: a folder of static files.

python site/build.py [-o FOLDER] [--runtime FOLDER] [--wheel FILE]      # default: build/site

The package goes in as its own wheel, unchanged. Pyodide is loaded from its own distribution, in the version
and with the hashes of runtime.json; with --runtime its files are taken from a folder and copied, and the page
needs no other host. The examples that the page shows at first are computed here, by the same session.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SITE = Path(__file__).resolve().parent
ROOT = SITE.parent
sys.path.insert(0, str(SITE))

import session  # noqa: E402 - beside this file

from minivideococa import __version__  # noqa: E402
from minivideococa.demo import CLIPS  # noqa: E402
from minivideococa.output import atomic_folder  # noqa: E402

PAGE = ("index.html", "page.css", "page.js", "code.js", "frames.js", "runtime.js", "worker.js", "session.py")
LIMIT = 30_000_000  # bytes in all, the runtime included


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build" / "site", help="a new folder")
    parser.add_argument("--runtime", type=Path, help="a folder with the files of runtime.json, to copy")
    parser.add_argument("--wheel", type=Path, help="the package's wheel (default: it is built)")
    options = parser.parse_args(arguments)
    try:
        print(build(options.output, options.runtime, options.wheel))
    except (ValueError, OSError) as error:
        sys.exit(f"site/build.py: {error}")


def build(output: Path, runtime: Path | None = None, wheel: Path | None = None) -> str:
    """Build the page in `output`, which must be new or empty. Return a line about its size.

    Raises ValueError for a runtime of another version, and if the page is larger than LIMIT.
    """
    with atomic_folder(output) as folder:
        for name in PAGE:
            shutil.copy(SITE / name, folder)
        for path in sorted(CLIPS.glob("*.gif")):
            (folder / "clips").mkdir(exist_ok=True)
            shutil.copy(path, folder / "clips")
        package = shutil.copy(wheel, folder) if wheel else pack_wheel(folder)
        pinned = json.loads((SITE / "runtime.json").read_text())
        if runtime:
            pinned["base"] = copy_runtime(pinned, runtime, folder / "runtime")
        write_settings(folder, pinned, Path(package))
        write_examples(folder)
        own, others = (
            folder_size(folder),
            0 if runtime else sum(size for size, _ in runtime_files(pinned).values()),
        )
        if own + others > LIMIT:
            raise ValueError(f"{(own + others) / 1e6:.1f} MB are more than {LIMIT / 1e6:.0f} MB")
    elsewhere = f", and {others / 1e6:.1f} MB from {pinned['base']}" if others else ""
    return f"{output}: {own / 1e6:.1f} MB{elsewhere}"


def pack_wheel(folder: Path) -> Path:
    """Build the package's wheel into a folder. Raises ValueError if that fails."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", scratch, str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(
                f"the wheel cannot be built: {done.stderr.strip().splitlines()[-1:]}; or give --wheel"
            )
        return Path(shutil.copy(next(Path(scratch).glob("*.whl")), folder))


def runtime_files(pinned: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """Return the size and the SHA-256 of each file of the runtime."""
    return pinned["core"] | pinned["packages"]


def copy_runtime(pinned: dict[str, Any], source: Path, folder: Path) -> str:
    """Copy the runtime's files; return the folder's address. Raises ValueError for other files."""
    folder.mkdir()
    for name, (_, sha256) in runtime_files(pinned).items():
        if hash_of(source / name) != sha256:
            raise ValueError(f"{source / name}: not the file of Pyodide {pinned['version']}")
        shutil.copy(source / name, folder)
    return "runtime/"


def write_settings(folder: Path, pinned: dict[str, Any], wheel: Path) -> None:
    """Write site.json: what the worker loads, with sizes and hashes."""
    packed = (wheel.stat().st_size, hash_of(wheel))
    settings = {**pinned, "lock": lock_file(pinned), "package": __version__, "wheel": {wheel.name: packed}}
    (folder / "site.json").write_text(json.dumps(settings))


def lock_file(pinned: dict[str, Any]) -> dict[str, Any]:
    """Return Pyodide's lock file for the pinned packages alone."""
    packages = {}
    for file, (_, sha256) in pinned["packages"].items():
        name, version = file.split("-")[:2]
        packages[name] = {
            "name": name,
            "version": version,
            "file_name": file,
            "sha256": sha256,
            "install_dir": "site",
            "package_type": "package",
            "imports": [{"pillow": "PIL"}.get(name, name)],
            "depends": [],
            "unvendored_tests": False,
        }
    return {**pinned["lock"], "packages": packages}


def write_examples(folder: Path) -> None:
    """Write examples.json, the list of clips, and what the page shows of each, computed natively."""
    (folder / "examples").mkdir()
    running, clips = session.Session(), session.clips()
    for clip in clips:
        result = session.example(running, clip)
        (folder / "examples" / f"{Path(clip['clip']).stem}.json").write_text(json.dumps(result))
    index = {"clips": clips, "formulas": session.formulas(), "exercises": session.exercise_sources()}
    (folder / "examples.json").write_text(json.dumps(index))


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_size(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
