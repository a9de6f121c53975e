"""`convert SRC DEST`: make a checkpoint folder from open_clip's files, or the reverse."""

from __future__ import annotations

import argparse

from . import arguments, messages


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "convert",
        run,
        "Make a checkpoint folder from open_clip's files, or the reverse.",
        add_arguments,
        prints_result=lambda args: False,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    from ..checkpoint.convert import TARGETS

    parser.add_argument(
        "source",
        type=arguments.path,
        metavar="SRC",
        help="a folder with the files of a repository on the Hugging Face hub, a checkpoint folder, or a "
        "weights file; with --tuned or --to also hf-hub:OWNER/NAME",
    )
    parser.add_argument("dest", type=arguments.path, metavar="DEST", help="the folder to make")
    parser.add_argument(
        "--dtype", choices=["float16", "float32"], help="the dtype of the new weights (default: as in SRC)"
    )
    parser.add_argument(
        "--config",
        type=arguments.path,
        metavar="FILE",
        help="the configuration: a file, coca_ViT-B-32 or coca_ViT-L-14 (default: that in SRC, else that of "
        "these two which fits the weights)",
    )
    arguments.add_tuned(parser)
    described = "; ".join(f"{name}: {text}" for name, text in TARGETS.items())
    parser.add_argument(
        "--to",
        choices=list(TARGETS),
        default="minivideococa",
        help=f"what to write (default: minivideococa). {described}",
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder."""
    from ..checkpoint.convert import convert

    folder = convert(
        args.source,
        args.dest,
        dtype=args.dtype,
        config=args.config,
        tuned=args.tuned,
        to=args.to,
        progress=arguments.progress(args),
    )
    use = f"--weights {folder}"
    if args.to == "open_clip":
        use = f'open_clip.create_model("local-dir:{folder}")'
    messages.say(args, f"{folder} is ready: use it with {use}")
    return 0
