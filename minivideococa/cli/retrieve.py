"""`retrieve TEXT VIDEO ...`: rank videos by how well they fit a text."""

from __future__ import annotations

import argparse

from . import arguments, messages, videos


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands, "retrieve", run, "Rank videos by how well they fit a text.", add_arguments
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    parser.add_argument("text", type=arguments.text, metavar="TEXT", help="what to search for")
    videos.add_videos(parser)
    arguments.add_model(parser)
    arguments.add_adapter(parser)
    arguments.add_part(parser)


def run(args: argparse.Namespace) -> int:
    """Print the videos, the best match first."""
    from ..tasks import retrieve

    given = videos.expand(args.videos)
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
    messages.print_result(
        args,
        [f"{cosine:.3f}  {paths[i]}" for i, cosine in ranking],
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
