"""`finetune MANIFEST -o DIR`: finetune a model on clips with captions, or with questions and answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..inputs import read_json
from . import arguments, messages

if TYPE_CHECKING:
    from ..training.options import TuningOptions

FROM_OTHERS = ("adapter", "num_frames")  # fields that --adapter and --frames are for


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "finetune",
        run,
        "Finetune a model on clips with captions, or with questions and answers.",
        add_arguments,
        exit_status=arguments.EXIT_STATUS_OF_SEVERAL,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments, with a flag for each field of `TuningOptions`."""
    from ..training.options import TuningOptions

    parser.add_argument(
        "manifest",
        type=arguments.path,
        metavar="MANIFEST",
        help="a file with one JSON object per line: a video with its captions, or a question and its answer",
    )
    arguments.add_output(
        parser,
        "DIR",
        "the folder of the run: its log, its state, and at the end tuned.safetensors. A run that was "
        "interrupted resumes when its command is run again",
    )
    parser.add_argument(
        "--validate",
        type=arguments.path,
        metavar="MANIFEST",
        help="clips on which the loss is measured at intervals; the result is the model with the lowest",
    )
    parser.add_argument(
        "--whole", action="store_true", help="also write a whole checkpoint, in the folder DIR/checkpoint"
    )
    parser.add_argument(
        "--plot",
        type=arguments.path,
        metavar="FILE",
        help="plot the losses: a .png, .pdf or .svg file (needs matplotlib)",
    )
    parser.add_argument(
        "--cache",
        type=arguments.path,
        metavar="DIR",
        help="where to keep what the clips are encoded to (default: beside downloaded checkpoints)",
    )
    arguments.add_model(parser)
    arguments.add_adapter(parser)
    arguments.add_options(parser, TuningOptions, "finetuning", FROM_OTHERS)


def run(args: argparse.Namespace) -> int:
    """Finetune, and print what came out."""
    from ..evaluation import read_manifest
    from ..training.data import examples_of
    from ..training.finetune import finetune, texts_read
    from ..training.state import SUMMARY

    options = tuning_options(args)
    entries = examples_of(read_manifest(args.manifest), options.task, args.manifest)
    validation = None
    if args.validate:
        validation = examples_of(read_manifest(args.validate), options.task, args.validate)
    texts = texts_read([*entries, *(validation or [])], options)
    model = arguments.load_model(args, adds_layers=True)
    if not options.add_words:
        messages.refuse_unknown_words(args, model, texts, "--add-words to learn them")
    try:
        finetune(
            model,
            entries,
            args.output,
            validate=validation,
            cache=args.cache,
            plot=args.plot,
            whole=args.whole,
            options=options,
            progress=arguments.progress(args),
        )
    except (KeyboardInterrupt, SystemExit):
        say_how_to_resume(args)
        raise
    summary = read_json(Path(args.output) / SUMMARY, "finetune again")
    messages.print_result(args, report(summary), {"manifest": args.manifest, **summary})
    return 3 if summary["left_out"] else 0


def tuning_options(args: argparse.Namespace) -> TuningOptions:
    """Return the given options. Raises ValueError, which names the flag, for impossible values."""
    from ..training.options import TuningOptions

    given = arguments.given_options(args, TuningOptions)
    try:
        return TuningOptions(**{**given, "adapter": args.adapter, "num_frames": args.frames})
    except ValueError as error:
        raise ValueError(arguments.with_flags(str(error), given, TuningOptions)) from None


def say_how_to_resume(args: argparse.Namespace) -> None:
    """Print which state an interrupted run goes on from."""
    from ..training.state import saved_steps

    folder = Path(args.output)
    steps = saved_steps(folder) if folder.is_dir() else []
    if steps:
        messages.say(args, f"interrupted: repeat the command to go on from step {steps[-1]}, the last saved")
    else:
        messages.say(args, "interrupted before a state was saved: the command starts from the beginning")


def report(summary: dict[str, Any]) -> list[str]:
    """Return the summary of a run as lines."""
    examples = counted(summary["clips"], "question" if summary["task"] == "qa" else "clip")
    steps = counted(summary["steps"], "step")
    epochs = f"{summary['epochs']:g} epoch" + "s" * (summary["epochs"] != 1)
    lines = [f"{examples}, {steps} ({epochs}) in {summary['seconds']:g} s"]
    if loss := summary["loss"]:
        lines.append(f"loss {loss['first']:.4f} -> {loss['last']:.4f}")
    if validation := summary["validation"]:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in validation.items())
        lines.append(f"validation, at its best after step {summary['best_step']}: {shown}")
    if summary["left_out"]:
        lines.append(f"left out, because they cannot be read: {counted(len(summary['left_out']), 'clip')}")
    lines.append(f"tuned part: {summary['tuned']} (give it to --tuned)")
    if summary["checkpoint"]:
        lines.append(f"checkpoint: {summary['checkpoint']} (give it to --weights)")
    return lines


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 clip", "2 clips"."""
    return f"{count} {noun}" + "s" * (count != 1)
