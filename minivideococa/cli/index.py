"""`index DIR -o LIBRARY`: encode a collection of videos once, for `retrieve --index`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import arguments, messages, scheduler, videos

if TYPE_CHECKING:
    from ..library import Clip

WORDS = {  # of the numbers that `library.index` returns: what is printed
    "copies": "copies of other files",
    "moved": "moved",
    "replaced": "replaced, their files have new content",
    "pruned": "removed, their files are gone",
    "missing": "whose files are gone: --prune removes them",
}


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "index",
        run,
        "Encode a collection of videos into a library, which retrieve --index searches.",
        add_arguments,
        exit_status=arguments.EXIT_STATUS_OF_SEVERAL,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    from ..library.store import DTYPES
    from ..library.vectors import SUFFIXES

    suffixes = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    parser.add_argument(
        "source",
        type=arguments.path,
        metavar="SOURCE",
        help="a folder, whose videos are encoded, and those of its subfolders; a manifest, as for evaluate; "
        f"a {suffixes} file, whose vectors are imported; or a library, to export its vectors",
    )
    arguments.add_output(
        parser,
        "LIBRARY",
        "the library, a folder: it is made, or what is new is added to it. With a library as SOURCE, the "
        f"{suffixes} file to write",
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove clips from the library whose files are gone"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="the numbers that are stored (default: float16, or those of the library)",
    )
    scheduler.add_scheduler(parser, "encode videos")
    arguments.add_json(parser)
    arguments.add_weights(parser)
    arguments.add_frames(parser, None, ", or that of the library")
    arguments.add_adapter(parser)


def run(args: argparse.Namespace) -> int:
    """Index videos, import vectors or export them, and print how many."""
    from ..library.store import is_library
    from ..library.vectors import SUFFIXES

    if is_library(args.source):
        return run_export(args)
    if args.source.endswith(SUFFIXES):
        return run_import(args)
    if args.output.endswith(SUFFIXES):
        raise ValueError(
            f"{args.source}: not a library: {args.output} can be written from a library, which index makes"
        )
    return run_index(args)


def run_index(args: argparse.Namespace) -> int:
    """Encode the videos of a folder or a manifest."""
    from ..library import index
    from ..library.store import require_place

    clips, failed = clips_of(args)
    require_place(args.output)  # before the weights
    cluster = scheduler.cluster_of(args)
    model = arguments.load_model(args)
    result = index(model, clips, args.output, prune=args.prune, cluster=cluster, **options(args))
    left_out = [{"video": path, "why": why} for path, why in failed.items()] + result["unreadable"]
    for clip in left_out:
        messages.say(args, f"left out: {clip['why']}")
    print_counts(args, result | {"unreadable": left_out})
    return 3 if left_out else 0


def run_import(args: argparse.Namespace) -> int:
    """Import the vectors of a file."""
    from ..inputs import regular_file
    from ..library import import_vectors
    from ..library.store import require_place

    regular_file(args.source, "give a file of vectors")
    require_place(args.output)
    warn_of_unused(args, ("prune", "scheduler"), "for an import")
    model = arguments.load_model(args)
    print_counts(args, import_vectors(model, args.source, args.output, **options(args)))
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Export the vectors of a library."""
    from ..library import export_vectors

    unused = ("prune", "dtype", "scheduler", "weights", "tuned", "frames", "adapter")
    warn_of_unused(args, unused, "for an export")
    count = export_vectors(args.source, args.output, progress=arguments.progress(args))
    data = {"library": args.source, "clips": count, "file": args.output}
    messages.print_result(args, [f"{count} vectors of {args.source} in {args.output}"], data)
    return 0


def warn_of_unused(args: argparse.Namespace, names: Sequence[str], what: str) -> None:
    """Print which of these options are given and have no effect."""
    if flags := [arguments.flag(name) for name in names if getattr(args, name)]:
        messages.say(args, f"{' and '.join(flags)} {'has' if len(flags) == 1 else 'have'} no effect {what}")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that indexing and importing share."""
    return {
        "num_frames": args.frames,
        "adapter": args.adapter,
        "dtype": args.dtype,
        "progress": arguments.progress(args),
    }


def clips_of(args: argparse.Namespace) -> tuple[list[Clip], dict[str, str]]:
    """Return the clips of a folder or a manifest, and why subfolders cannot be used. Raises ValueError."""
    from ..library import Clip

    if os.path.isdir(args.source):
        paths, failed = videos.walk(args.source)
        return [Clip(path) for path in paths], failed
    from ..evaluation import read_manifest

    if args.source.lower().endswith(videos.VIDEO_ENDINGS):
        raise ValueError(f"{args.source}: a video: give the folder that it is in, or a manifest")
    entries = read_manifest(args.source)
    return [Clip(str(entry.video), entry.start, entry.end) for entry in entries], {}


def print_counts(args: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Print how many clips were added, and whatever else happened."""
    line = f"{result['added']} added, {result['known']} there already"
    line += "".join(f", {result[name]} {text}" for name, text in WORDS.items() if result.get(name))
    messages.print_result(
        args, [f"{args.output}: {result['clips']} clips: {line}"], {"library": args.output, **result}
    )
