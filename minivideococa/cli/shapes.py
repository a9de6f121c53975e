"""`shapes DIR`: write clips of coloured shapes, and a manifest for `evaluate`."""

from __future__ import annotations

import argparse

from . import arguments, messages


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "shapes",
        run,
        "Write clips of coloured shapes, and a manifest for `evaluate`.",
        add_arguments,
        prints_result=lambda args: args.json,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", type=arguments.path, metavar="DIR", help="the folder to make")
    arguments.add_json(parser)
    parser.add_argument(
        "--count", type=arguments.positive, default=200, metavar="N", help="number of clips (default: 200)"
    )
    parser.add_argument(
        "--seed",
        type=arguments.whole,
        default=0,
        metavar="N",
        help="seed of the random clips (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder; with --json, print the path of the manifest."""
    from ..world.shapes import ANSWERS, write_shapes

    manifest = write_shapes(args.folder, args.count, args.seed, progress=arguments.progress(args))
    if args.json:
        messages.print_result(args, [], {"manifest": str(manifest), "clips": args.count})
    else:
        messages.say(
            args,
            f"wrote {args.count} clips to {args.folder}; to evaluate a model on them: minivideococa evaluate "
            f"{manifest} --answers-file {manifest.with_name(ANSWERS)}",
        )
    return 0
