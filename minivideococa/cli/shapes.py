"""`shapes DIR`: write clips of coloured shapes, and a manifest for `evaluate` or `finetune`."""

from __future__ import annotations

import argparse
from functools import partial

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
    parser.add_argument(
        "--questions",
        choices=("train", "test"),
        help="write clips with questions of several kinds, as animated PNGs; those for tests show objects, "
        "sizes, backgrounds and speeds that those for training do not",
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder; with --json, print the path of the manifest."""
    from ..world.shapes import ANSWERS, write_questions, write_shapes

    write = partial(write_questions, split=args.questions) if args.questions else write_shapes
    manifest = write(args.folder, args.count, args.seed, progress=arguments.progress(args))
    if args.json:
        messages.print_result(args, [], {"manifest": str(manifest), "clips": args.count})
        return 0
    use = {
        None: f"evaluate a model on them: minivideococa evaluate {manifest} "
        f"--answers-file {manifest.with_name(ANSWERS)}",
        "test": f"evaluate a model on them: minivideococa evaluate {manifest} --tasks qa",
        "train": f"finetune a model on them: minivideococa finetune {manifest} --task qa --add-words -o DIR",
    }
    messages.say(
        args, f"wrote {args.count} clip{'s' * (args.count != 1)} to {args.folder}; to {use[args.questions]}"
    )
    return 0
