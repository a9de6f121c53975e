"""`evaluate MANIFEST`: measure a model on a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..output import resolve_output
from . import arguments, messages, scheduler, stored, videos

if TYPE_CHECKING:
    from ..evaluation import Entry


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "evaluate",
        run,
        "Measure a model on a data set.",
        add_arguments,
        exit_status=arguments.EXIT_STATUS_OF_SEVERAL,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    from ..evaluation import FORMATS, TASKS

    parser.add_argument(
        "manifest",
        type=arguments.path,
        metavar="MANIFEST",
        help="a file with one JSON object per line: a video with its captions, labels, question and answer; "
        "or, with --format, the annotation file of a data set",
    )
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        help="MANIFEST is the annotation file of this data set (its clips are in --videos)",
    )
    parser.add_argument(
        "--videos",
        type=arguments.path,
        metavar="DIR",
        help="with --format: the folder with the clips, or with folders of them",
    )
    parser.add_argument(
        "--split", metavar="NAME", help="with --format: only this split, if the file names splits"
    )
    parser.add_argument(
        "--tasks",
        metavar='"A,B"',
        help=f"any of {', '.join(task.name for task in TASKS)} (default: all that MANIFEST has data for)",
    )
    parser.add_argument(
        "--answers-file",
        type=arguments.path,
        metavar="F",
        help="a file with one answer per line, to rank for each question without choices of its own "
        "(default: the checkpoint's classifier answers, or else one is generated)",
    )
    parser.add_argument(
        "--train",
        type=arguments.path,
        metavar="MANIFEST",
        help="the training set of the questions, in the form of the first MANIFEST: the question-only "
        "baseline has the mean of its videos in place of a video (default: the mean of the evaluated ones)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("words", "ptb"),
        default="words",
        help="tokenization for caption metrics: lower-case words without punctuation, or that of published "
        "figures, for which pycocoevalcap runs Java (default: words)",
    )
    stored.add_cache(parser)
    scheduler.add_scheduler(parser, "encode videos and generate texts")
    arguments.add_output(
        parser,
        "FILE",
        "write the predictions: one JSON object per line of MANIFEST, in its order",
        required=False,
    )
    arguments.add_model(parser)
    arguments.add_adapter(parser)
    arguments.add_templates(parser)
    arguments.add_decoding(parser, leave_out=["candidates"])


def run(args: argparse.Namespace) -> int:
    """Print the metrics, and write the predictions to --output."""
    from ..evaluation import evaluate, report, split_name, write_predictions
    from ..evaluation.run import choose_tasks
    from ..media.video import files_of

    options = arguments.decoding_options(args)
    entries = read_entries(args)
    train = read_list(args, args.train) if args.train else []
    inputs = [args.manifest, args.train or "", args.answers_file or "", args.templates_file or ""]
    inputs += [str(entry.video) for entry in (*entries, *train)]
    output = resolve_output(args.output, inputs) if args.output else None
    tasks = [task.strip() for task in args.tasks.split(",")] if args.tasks is not None else None
    templates = arguments.templates(args)
    answers = arguments.lines(args.answers_file) if args.answers_file else None
    videos.try_each([str(entry.video) for entry in entries], files_of)  # before the weights
    chosen = [task.name for task in choose_tasks(tasks, entries)]
    warn_of_unused(args, chosen)
    cluster = scheduler.cluster_of(args)
    model = arguments.load_model(args)
    given = [options.prompt, *(answers or []), *(templates or [] if args.templates_file else [])]
    messages.refuse_unknown_words(args, model, given)
    templates = messages.known_templates(args, model, templates)
    if "caption" in chosen:
        arguments.check_decoding(args, model, options)
    result = evaluate(
        model,
        entries,
        tasks,
        num_frames=args.frames,
        adapter=args.adapter,
        templates=templates,
        answers=answers,
        tokenizer=args.tokenizer,
        split=split_name(entries, args.format, args.split),
        train=train,
        cache=stored.folder_of(args),
        model_key=stored.model_key(args, model),
        cluster=cluster,
        options=options,
        progress=arguments.progress(args),
    )
    predictions = result.pop("predictions")
    texts = [
        text
        for entry in entries
        for text in (*entry.labels, *entry.captions, entry.question or "", *entry.choices)
    ]
    messages.warn_of_words(args, model, [options.prompt, *texts, *(templates or []), *(answers or [])])
    try:
        if output:
            write_predictions(output, predictions)
            messages.say(args, f"wrote the predictions to {args.output}")
    finally:  # metrics are printed although the predictions cannot be written
        messages.print_result(args, report(result).split("\n"), {"manifest": args.manifest, **result})
    return 3 if result["unreadable"] else 0


def warn_of_unused(args: argparse.Namespace, tasks: Sequence[str]) -> None:
    """Print which of the given options have no effect on these tasks."""
    flags = {
        "--templates-file": args.templates_file and "classify" not in tasks,
        "--ensemble": args.ensemble and "classify" not in tasks,
        "--answers-file": args.answers_file and "qa" not in tasks,
        "--train": args.train and "qa" not in tasks,
    }
    if "caption" not in tasks and ("qa" not in tasks or args.answers_file):
        flags |= {arguments.flag(name): True for name in arguments.given_decoding(args)}
    if unused := [flag for flag, is_unused in flags.items() if is_unused]:
        verb = "has" if len(unused) == 1 else "have"
        messages.say(args, f"{' and '.join(unused)} {verb} no effect on the tasks {', '.join(tasks)}")


def read_entries(args: argparse.Namespace) -> list[Entry]:
    """Read the manifest or annotation file. Raises ValueError for flags that need --format."""
    if (args.format is None) != (args.videos is None) or (args.split and not args.format):
        raise ValueError("--format and --videos go together, and --split with them")
    return read_list(args, args.manifest, args.split)


def read_list(args: argparse.Namespace, path: str, split: str | None = None) -> list[Entry]:
    """Read a file in the form of the manifest: one, or an annotation file of --format."""
    from ..evaluation import read_annotations, read_manifest

    if args.format:
        return read_annotations(args.format, path, args.videos, split)
    return read_manifest(path)
