"""`retrieve TEXT VIDEO ...`: rank videos by how well they fit a text, or search a library."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from . import arguments, messages, stored, videos

if TYPE_CHECKING:
    from ..library import Hit

TOP = 10  # hits of a library


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "retrieve",
        run,
        "Rank videos by how well they fit a text; with --index, search a library of many.",
        add_arguments,
        exit_status=arguments.EXIT_STATUS_OF_SEVERAL,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "text",
        type=arguments.text,
        metavar="TEXT",
        help="what to search for; with --index also a video, to find those like it",
    )
    videos.add_videos(parser, nargs="*")
    parser.add_argument(
        "--index",
        type=arguments.path,
        metavar="LIBRARY",
        help="search a library that the command index made, in place of VIDEO ...",
    )
    parser.add_argument(
        "--top",
        type=arguments.positive,
        metavar="N",
        help=f"print the N best only (default: all; with --index {TOP})",
    )
    arguments.add_model(parser, f"; {arguments.IN_WORLD}", "; with --index, that of the library")
    parser.set_defaults(frames=None)  # 8, or those of the library
    arguments.add_adapter(parser)
    arguments.add_part(parser)
    stored.add_cache(parser)
    parser.checks.append(wrong_arguments)


def wrong_arguments(args: argparse.Namespace) -> str | None:
    """Return what is wrong with TEXT, VIDEO ... and --index together."""
    text = args.text
    if args.index is None:
        if os.path.splitext(text)[1] and os.path.isfile(text):  # the text has been forgotten
            return f"TEXT: {text} is a file: the first argument is the text to search for"
        return None if args.videos else "VIDEO ... is missing, or --index LIBRARY"
    if args.videos:
        return f"with --index there is no VIDEO: {args.videos[0]!r} is one too many"
    if is_video(text):
        return None
    if text.lower().endswith(videos.VIDEO_ENDINGS):
        return f"TEXT: {text}: there is no such file"
    if args.start is not None or args.end is not None:
        return "--start and --end are of a video to search for, and TEXT is not one"
    return None


def is_video(query: str) -> bool:
    """Tell whether TEXT names a file with a suffix, or a folder by a path."""
    name, suffix = os.path.splitext(query)
    return (bool(suffix) and os.path.isfile(query)) or (os.path.dirname(name) != "" and os.path.isdir(query))


def run(args: argparse.Namespace) -> int:
    """Print the videos, the best match first."""
    if args.index is not None:
        return run_search(args)
    from ..tasks import retrieve

    args.frames = args.frames or 8
    given = list(dict.fromkeys(videos.expand(args.videos)))
    failed = videos.check_all(given)  # before the weights
    model = arguments.load_model(args)
    messages.refuse_unknown_words(args, model, [args.text])
    readable = [path for path in given if path not in failed]
    with arguments.progress(args)(len(readable) * args.frames, "frames") as update:
        encoded, damaged = videos.try_each(readable, lambda path: videos.encode(args, model, path, update))
    failed |= damaged
    status = videos.report_left_out(args, failed, given)
    paths = list(encoded)
    ranking = retrieve(model, args.text, list(encoded.values()))
    known = messages.videos_in_world(args, list(encoded.values()))
    messages.warn_of_limits(args, model, [args.text], known)
    ranking = ranking[: args.top]
    messages.print_result(
        args,
        [f"{cosine:{width([cosine for _, cosine in ranking])}.3f}  {paths[i]}" for i, cosine in ranking],
        {
            "text": args.text,
            "videos": [
                {"video": paths[i], "cosine": cosine, **messages.world_field(known, i)}
                for i, cosine in ranking
            ],
            "left_out": [{"video": path, "why": failed[path]} for path in given if path in failed],
        },
    )
    return status


def run_search(args: argparse.Namespace) -> int:
    """Print the clips of a library that fit a text or are like a video, with the time of the best frame."""
    from ..library import read_library, search

    library, query_is_video = read_library(args.index), is_video(args.text)  # before the weights
    library.check({name: value for name in ("adapter", "frames") if (value := getattr(args, name))})
    args.adapter, args.frames = library.facts["adapter"], library.facts["frames"]
    if query_is_video:
        videos.check_one(args.text)
    model = arguments.load_model(args)
    if not query_is_video:
        messages.refuse_unknown_words(args, model, [args.text])
    query: Any = videos.encode_with_bar(args, model, args.text) if query_is_video else args.text
    key = stored.visual_key(args, model)
    hits = search(model, query, args.index, args.top or TOP, model_key=key)
    messages.warn_of_limits(args, model, [] if query_is_video else [args.text])
    w = width([hit.cosine for hit in hits])
    messages.print_result(
        args,
        [f"{hit.cosine:{w}.3f}  {hit.video}" + shown(hit.time) for hit in hits],
        {
            "video" if query_is_video else "text": args.text,
            "library": args.index,
            "videos": [fields(hit) for hit in hits],
        },
    )
    return 0


def width(cosines: list[float]) -> int:
    """Return the width of a column of cosines."""
    return 6 if any(cosine < 0 for cosine in cosines) else 5


def shown(time: float | None) -> str:
    """Return the time of a frame as it is given to --start: 2:05.3; nothing if there is none."""
    if time is None:
        return ""
    minutes, rest = divmod(round(time, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    clock = f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
    return f"  {clock}"


def fields(hit: Hit) -> dict[str, Any]:
    """Return a hit for JSON; start and end only where the clip is a part of a video."""
    part = {name: x for name, x in (("start", hit.start), ("end", hit.end)) if x is not None}
    return {"video": hit.video, "cosine": hit.cosine, "time": hit.time, **part}
