"""`retrieve TEXT VIDEO ...`: rank videos by how well they fit a text."""

from __future__ import annotations

import argparse
import os

from . import arguments, messages, stored, videos


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "retrieve",
        run,
        "Rank videos by how well they fit a text.",
        add_arguments,
        exit_status=arguments.EXIT_STATUS_OF_SEVERAL,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    parser.add_argument("text", type=search_text, metavar="TEXT", help="what to search for")
    videos.add_videos(parser)
    arguments.add_model(parser, f"; {arguments.IN_WORLD}")
    arguments.add_adapter(parser)
    arguments.add_part(parser)
    stored.add_cache(parser)


def search_text(value: str) -> str:
    """Read the text to search for. The name of a file is refused: the text has been forgotten."""
    if os.path.splitext(value)[1] and os.path.isfile(value):
        raise argparse.ArgumentTypeError(f"{value} is a file: the first argument is the text to search for")
    return arguments.text(value)


def run(args: argparse.Namespace) -> int:
    """Print the videos, the best match first."""
    from ..tasks import retrieve

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
    width = 6 if any(cosine < 0 for _, cosine in ranking) else 5
    messages.print_result(
        args,
        [f"{cosine:{width}.3f}  {paths[i]}" for i, cosine in ranking],
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
