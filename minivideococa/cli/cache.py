"""`cache info` and `cache clear`: show what is kept for later runs, and remove it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import arguments, messages, stored

if TYPE_CHECKING:
    from ..eviction import CacheFile

NAMES = {  # of the kinds of files; "" is of earlier versions
    "video": "encoded videos",
    "labels": "encoded labels",
    "texts": "encoded texts",
    "caption": "captions",
    "answer": "answers",
    "tokens": "clips for finetuning",
    "joint-tokens": "clips for finetuning, joint",
    "squares": "clips for finetuning, as pictures",
    "hash": "hashes of large files",
}


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands, "cache", run, "Show or remove what is kept for later runs.", add_arguments
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "action",
        choices=("info", "clear"),
        help="info: print the folder, the number of files and their bytes by kind, and the limit, which the "
        "environment variable MINIVIDEOCOCA_CACHE_LIMIT sets (a size, such as 20GB; 0: no limit; default: "
        "10GB). clear: remove the files, except checkpoints and what a running finetune needs",
    )
    parser.add_argument(
        "--older-than",
        type=days,
        metavar="DAYS",
        help="with clear: remove only what has not been used for this many days",
    )
    parser.add_argument(
        "--cache", type=arguments.path, metavar="DIR", help="the folder (default: that of the other commands)"
    )
    arguments.add_json(parser)
    parser.set_defaults(no_cache=False)
    parser.checks.append(wrong_option)


def days(text: str) -> float:
    """Read a number of days."""
    if (value := arguments.number(text)) < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def wrong_option(args: argparse.Namespace) -> str | None:
    """Return what is wrong if `info` is to remove something."""
    wrong = args.action == "info" and args.older_than is not None
    return "--older-than goes with cache clear" if wrong else None


def run(args: argparse.Namespace) -> int:
    """Print what is in the cache, or remove it."""
    folder = stored.folder_of(args)
    assert folder is not None
    return clear(args, folder) if args.action == "clear" else info(args, folder)


def info(args: argparse.Namespace, folder: Path) -> int:
    """Print the folder, the files by kind, the limit, and the checkpoints beside them."""
    from ..cache import size_limit
    from ..eviction import list_files
    from ..resources import format_bytes

    files, limit, checkpoints = list_files(folder), size_limit(), converted_checkpoints()
    kinds = {kind: [file for file in files if file.kind == kind] for kind in sorted({f.kind for f in files})}
    rows = [(NAMES.get(kind, kind or "of earlier versions"), found) for kind, found in kinds.items()]
    width = max(len(name) for name, _ in [*rows, ("total", files)])
    lines = [f"{name:{width}}  {describe(found)}" for name, found in [*rows, ("total", files)]]
    lines[-1] += f" of {format_bytes(limit)}" if limit else ", no limit"
    for checkpoint, size in checkpoints.items():
        lines.append(f"{checkpoint}: a checkpoint, {format_bytes(size)}, which does not count and stays")
    messages.print_result(
        args,
        [str(folder), *lines],
        {
            "folder": str(folder),
            **counts(files),
            "limit": limit,
            "kinds": {kind or "other": counts(found) for kind, found in kinds.items()},
            "checkpoints": [{"folder": str(path), "bytes": size} for path, size in checkpoints.items()],
        },
    )
    return 0


def clear(args: argparse.Namespace, folder: Path) -> int:
    """Remove files, and print how many."""
    from ..eviction import list_files, removable_files, remove
    from ..output import remove_abandoned

    def is_old(file: CacheFile) -> bool:
        return args.older_than is None or file.used <= time.time() - 86400 * args.older_than

    with removable_files(folder, by_user=True) as files:
        removed = remove(filter(is_old, files))
    if folder.is_dir():
        remove_abandoned(folder)
    kept = [file for file in list_files(folder) if is_old(file)]
    if kept:
        messages.say(args, f"kept, in use or not removable: {describe(kept)}")
    messages.print_result(
        args,
        [f"removed {describe(removed)}"],
        {"folder": str(folder), "removed": counts(removed), "kept": counts(kept)},
    )
    return 0


def counts(files: Sequence[CacheFile]) -> dict[str, int]:
    """Return the number of files and their bytes."""
    return {"files": len(files), "bytes": sum(file.bytes for file in files)}


def describe(files: Sequence[CacheFile]) -> str:
    """Return the number of files and their size: "2 files, 1.5 MB"."""
    from ..resources import format_bytes

    noun = "file" if len(files) == 1 else "files"
    return f"{len(files)} {noun}, {format_bytes(sum(file.bytes for file in files))}"


def converted_checkpoints() -> dict[Path, int]:
    """Return the sizes of the checkpoints that were downloaded and converted, by their folders."""
    from ..checkpoint.folder import WEIGHTS
    from ..checkpoint.hub import cache_folder

    weights = sorted(cache_folder().glob(f"*/{WEIGHTS}"))
    return {file.parent: sum(path.stat().st_size for path in file.parent.iterdir()) for file in weights}
