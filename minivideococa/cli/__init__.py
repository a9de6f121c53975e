"""The command line: arguments and errors. The work is in the modules that the commands call.

Results go to standard output, messages to standard error. Exit status:

0    all is done
1    `verify` found a wrong tensor, compared none, or (with --strict) misses some
2    an error: one line on standard error says what is wrong
3    there is a result, but some inputs could not be read and were left out of it
130  interrupted by Ctrl-C; 143 and 129: ended by SIGTERM or SIGHUP. No half-written file stays.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .. import __version__, terminal
from ..inputs import read_text
from ..output import json_text, resolve_output
from ..progress import progress, say

if TYPE_CHECKING:
    from ..model.videococa import Video, VideoCoCa


NO_DESCRIPTION = (
    "(not a description: the embedded checkpoint knows coloured shapes only, and this video does not look "
    "like them; use --weights)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status. Raises SystemExit for wrong usage (2), --help (0) and SIGTERM (143)."""
    terminal.open_streams()
    try:
        with _signals(), _warnings():
            args = parser().parse_args(arguments)
            prints = args.run is not run_convert and (args.run is not run_shapes or args.json)
            if sys.stdout is None and prints:  # before the work, not after it
                raise OSError(terminal.CLOSED)
            return args.run(args) or 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, MemoryError) as error:
        terminal.tell(f"minivideococa: {_reason(error)}")
        return 2
    except RuntimeError as error:  # Python 3.11 makes one of a Ctrl-C while a class is created
        if isinstance(error.__cause__, KeyboardInterrupt):
            return 130
        raise


def _reason(error: Exception) -> str:
    """Return the text of an error, beginning with the file's name."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})" if str(error) else "not enough memory"
    return str(error) or type(error).__name__


@contextmanager
def _signals() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP, so that half-written files are removed. Ignored signals stay ignored."""

    def end(number: int, _: Any) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one does not interrupt the removal
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    unhandled = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in unhandled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in unhandled:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _warnings() -> Iterator[None]:
    """Print each warning as one line, and once."""
    said: set[str] = set()

    def show(message: Warning | str, *_: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            say(f"{message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one line, and prints help as results are printed."""

    def error(self, message: str) -> NoReturn:
        terminal.tell(f"minivideococa: {message}; see {self.prog} --help")
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        terminal.write(message.rstrip("\n"))


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = _Parser(
        prog="minivideococa", description="Captions, classes and rankings of videos, by VideoCoCa in NumPy."
    )
    top.add_argument("--version", action="version", version=f"minivideococa {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print JSON, for programs")
    model = argparse.ArgumentParser(add_help=False, parents=[output])
    weights_help = (
        "a checkpoint folder, or hf-hub:OWNER/NAME "
        "(default: the embedded tiny one, which knows coloured shapes and nothing else)"
    )
    model.add_argument("--weights", type=_path, metavar="W", help=weights_help)
    model.add_argument(
        "--frames", type=_positive, default=8, metavar="T", help="frames to look at (default: 8)"
    )
    model.add_argument(
        "--force", action="store_true", help="go on with words that the checkpoint's vocabulary lacks"
    )
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument("--start", type=_time, metavar="TIME", help="begin there: seconds, mm:ss or hh:mm:ss")
    part.add_argument("--end", type=_time, metavar="TIME", help="end there: seconds, mm:ss or hh:mm:ss")
    adapted = argparse.ArgumentParser(add_help=False, parents=[model])
    adapted.add_argument(
        "--adapter",
        choices=("attentional", "mean", "joint"),
        default="attentional",
        help="how frames become a video: all their tokens pooled at once, each frame pooled by itself and "
        "averaged, or all frames through the encoder as one sequence (default: attentional)",
    )

    search = argparse.ArgumentParser(add_help=False)
    search.add_argument(
        "--min-length", type=_positive, default=5, metavar="N", help="fewest tokens (default: 5)"
    )
    search.add_argument(
        "--max-length", type=_positive, default=30, metavar="N", help="most tokens (default: 30)"
    )
    search.add_argument("--prompt", default="", metavar="TEXT", help="how the caption begins")
    search.add_argument(
        "--beams",
        type=_positive,
        default=6,
        metavar="N",
        help="captions to search for the best among (default: 6; 1 takes the likeliest token each time)",
    )
    search.add_argument(
        "--beam-groups",
        type=_positive,
        metavar="N",
        help="groups of beams, alike unless there is a --diversity-penalty (default: 3 for 6 beams, else 1)",
    )
    search.add_argument(
        "--diversity-penalty",
        type=_number,
        default=0.0,
        metavar="X",
        help="what a group pays for a token that another took (default: 0)",
    )
    search.add_argument(
        "--repetition-penalty",
        type=_number,
        default=1.0,
        metavar="X",
        help="more than 1 avoids tokens that were there already (default: 1)",
    )
    search.add_argument(
        "--length-penalty",
        type=_number,
        default=1.0,
        metavar="X",
        help="a beam's score is divided by its length to this power (default: 1)",
    )
    search.add_argument(
        "--top-k", type=_positive, metavar="N", help="draw each token at random from the N likeliest"
    )
    search.add_argument(
        "--top-p",
        type=_number,
        metavar="P",
        help="draw each token at random from the likeliest that have probability P together",
    )
    search.add_argument(
        "--temperature",
        type=_number,
        metavar="X",
        help="draw each token at random; above 1 more, below 1 less surprising ones",
    )
    search.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="another seed, another draw (default: 0)"
    )
    search.add_argument(
        "--textbook",
        action="store_true",
        help="search and draw by probabilities, not by open_clip's habits (see the walkthrough)",
    )
    templates = argparse.ArgumentParser(add_help=False)
    sentences = templates.add_mutually_exclusive_group()
    sentences.add_argument(
        "--templates-file",
        type=_path,
        metavar="F",
        help='a file with a sentence a line, {} where the label goes (default: "a video of {}.")',
    )
    sentences.add_argument(
        "--ensemble", action="store_true", help="average over several sentences that come with the package"
    )

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int | None],
        parents: Sequence[argparse.ArgumentParser],
        text: str,
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=parents, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = command("caption", run_caption, [adapted, part, search], "Say what a video shows.")
    sub.add_argument(
        "video", type=_path, metavar="VIDEO", help="a video, a GIF, an image, or a folder of images"
    )

    sub = command(
        "classify", run_classify, [adapted, part, templates], "Tell which of some labels fits a video best."
    )
    sub.add_argument(
        "video", type=_path, metavar="VIDEO", help="a video, a GIF, an image, or a folder of images"
    )
    labels = sub.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", metavar='"A,B,C"', help="the labels, with commas between")
    labels.add_argument("--labels-file", type=_path, metavar="F", help="a file with a label a line")
    sub.add_argument(
        "--by",
        choices=["latent", "likelihood"],
        default="latent",
        help="compare latents, or how likely the decoder finds the sentences (default: latent)",
    )

    sub = command("retrieve", run_retrieve, [adapted, part], "Rank videos by how well they fit a text.")
    sub.add_argument("text", type=_text, metavar="TEXT", help="what to look for")
    sub.add_argument("videos", type=_path, metavar="VIDEO", nargs="+", help="where to look")

    sub = command(
        "trace", run_trace, [model, part], "Write every intermediate tensor of a video and a text to a file."
    )
    sub.add_argument(
        "video", type=_path, metavar="VIDEO", help="a video, a GIF, an image, or a folder of images"
    )
    sub.add_argument(
        "-o", "--output", type=_path, required=True, metavar="FILE", help="the safetensors file to write"
    )
    sub.add_argument(
        "--text", metavar="TEXT", help="the text to read and decode (default: the video's own caption)"
    )
    sub.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="to compute in (default: float32)"
    )

    sub = command(
        "verify", run_verify, [output], "Tell which tensor of another implementation is wrong first, and why."
    )
    sub.add_argument(
        "trace",
        type=_path,
        metavar="TRACE",
        help="a safetensors file that any program wrote: frames or pixels, ids, and "
        "tensors under the names that `trace` writes, in float64, float32, float16 or bfloat16",
    )
    sub.add_argument("--weights", type=_path, metavar="W", help=weights_help)
    sub.add_argument(
        "--dtype",
        choices=("float64", "float32", "float16", "bfloat16"),
        help="what TRACE was computed in, if that is coarser than what it is stored in",
    )
    sub.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1, too, if TRACE lacks a tensor that `trace` would write for its inputs",
    )
    sub.epilog = (
        "Exit status: 0, all that was compared is within what rounding explains; 1, something is not, no tensor of "
        "the network was compared, or, with --strict, some are missing; 2, this is no trace."
    )

    sub = command(
        "answer",
        run_answer,
        [adapted, part],
        "Answer a question about a video, or complete a sentence about it.",
    )
    sub.add_argument(
        "video", type=_path, metavar="VIDEO", help="a video, a GIF, an image, or a folder of images"
    )
    sub.add_argument(
        "question", type=_text, metavar="QUESTION", help="the question, or how the sentence begins"
    )
    sub.add_argument(
        "--answers", metavar='"A,B"', help="rank these, with commas between (default: write one)"
    )

    sub = command(
        "evaluate", run_evaluate, [adapted, search, templates], "Tell how good a model is on a data set."
    )
    sub.add_argument(
        "manifest",
        type=_path,
        metavar="MANIFEST",
        help="a file with a JSON object a line: video, and what is true of it: "
        "captions, label or labels, question and answer; or, with --format, what a data set publishes",
    )
    sub.add_argument(
        "--format",
        choices=("msrvtt", "msrvtt-1ka", "msrvtt-qa", "activitynet", "kinetics", "ucf101"),
        help="MANIFEST is this data set's own annotation file (the clips are in --videos)",
    )
    sub.add_argument(
        "--videos",
        type=_path,
        metavar="DIR",
        help="with --format: the folder with the clips, or with folders of them",
    )
    sub.add_argument(
        "--split", metavar="NAME", help="with --format: only this split, where the file tells them apart"
    )
    sub.add_argument(
        "--tasks",
        metavar='"A,B"',
        help="some of classify, retrieve, caption, qa (default: all that MANIFEST has what it takes for)",
    )
    sub.add_argument(
        "--answers-file",
        type=_path,
        metavar="F",
        help="a file with an answer a line, to rank for each question (default: write one)",
    )
    sub.add_argument(
        "--tokenizer",
        choices=("words", "ptb"),
        default="words",
        help="how caption metrics cut texts: into lower-case words without punctuation, or as published figures "
        "do, for which pycocoevalcap runs Java (default: words)",
    )
    place = sub.add_mutually_exclusive_group()
    place.add_argument(
        "--cache",
        type=_path,
        metavar="DIR",
        help="where encoded videos and written texts are kept for another run "
        "(default: with downloaded checkpoints)",
    )
    place.add_argument("--no-cache", action="store_true", help="keep nothing")
    sub.add_argument(
        "-o",
        "--output",
        type=_path,
        metavar="FILE",
        help="write what was predicted: a JSON object for each line of MANIFEST, in its order",
    )

    command(
        "demo", run_demo, [output], "Caption, classify and retrieve on the clips that come with the package."
    )

    sub = command("convert", run_convert, [], "Make a checkpoint folder from open_clip's files.")
    sub.add_argument(
        "source", type=_path, metavar="SRC", help="a folder as on the Hugging Face hub, or a weights file"
    )
    sub.add_argument("dest", type=_path, metavar="DEST", help="the folder to make")
    sub.add_argument(
        "--dtype", choices=["float16", "float32"], help="of the weights in it (default: as in SRC)"
    )
    sub.add_argument(
        "--config",
        type=_path,
        metavar="FILE",
        help="the configuration: a file, coca_ViT-B-32 or coca_ViT-L-14 (default: "
        "the one in SRC, else that of the two which fits the weights)",
    )

    sub = command(
        "shapes",
        run_shapes,
        [output],
        "Write clips of coloured shapes, and a manifest of what is true of them.",
    )
    sub.add_argument("folder", type=_path, metavar="DIR", help="the folder to make")
    sub.add_argument("--count", type=_positive, default=200, metavar="N", help="clips (default: 200)")
    sub.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="another seed, other clips (default: 0)"
    )
    return top


def run_caption(args: argparse.Namespace) -> None:
    """`caption VIDEO`."""
    from ..checkpoint import load
    from ..media.video import files_of

    files_of(args.video)  # before the weights
    model = load(args.weights)
    _refuse_unknown(args, model, [args.prompt])
    with progress(args.frames, "frames"):
        video = _encode(model, args, args.video)
    with progress(args.max_length, "tokens"):
        caption = model.caption(video, **_search(args))
    known = _in_world(args, [video], None if args.adapter == "mean" else caption)
    _caveat(args, model, [args.prompt], known)
    _print(
        args,
        [caption, *([NO_DESCRIPTION] if known == [False] else [])],
        {"video": args.video, "caption": caption, **_world_field(known)},
    )


def _search(args: argparse.Namespace) -> dict[str, Any]:
    """How texts are written: the keywords of `generate`."""
    return {
        name: getattr(args, name)
        for name in (
            "min_length",
            "max_length",
            "prompt",
            "beams",
            "beam_groups",
            "diversity_penalty",
            "repetition_penalty",
            "length_penalty",
            "top_k",
            "top_p",
            "temperature",
            "seed",
            "textbook",
        )
    }


def run_classify(args: argparse.Namespace) -> None:
    """`classify VIDEO --labels "A,B,C"`."""
    from ..checkpoint import load
    from ..media.video import files_of
    from ..tasks import classify

    labels = _lines(args.labels_file) if args.labels_file else _items("--labels", args.labels)
    templates = _templates(args)
    files_of(args.video)  # before the weights
    model = load(args.weights)
    _refuse_unknown(args, model, [*labels, *(templates or [] if args.templates_file else [])])
    templates = _known_templates(args, model, templates)
    with progress(args.frames, "frames"):
        video = _encode(model, args, args.video)
    with progress(len(labels) * len(templates or [""]), "texts"):
        ranking = classify(model, video, labels, templates, args.by)
    known = _in_world(args, [video])
    _caveat(args, model, [*labels, *(templates or [])], known)
    _print(
        args,
        [f"{probability:.3f}  {label}" for label, probability in ranking],
        {
            "video": args.video,
            "labels": [{"label": label, "probability": p} for label, p in ranking],
            **_world_field(known),
        },
    )


def _templates(args: argparse.Namespace) -> Sequence[str] | None:
    from ..tasks import ENSEMBLE

    return _lines(args.templates_file) if args.templates_file else ENSEMBLE if args.ensemble else None


def _known_templates(
    args: argparse.Namespace, model: VideoCoCa, templates: Sequence[str] | None
) -> Sequence[str] | None:
    """The user's own templates; of the package's, those without unknown words, or the bare label if none is left."""
    from ..tasks import TEMPLATES

    ours = templates or TEMPLATES
    known = [template for template in ours if not _unknown(model, [template])]
    if args.templates_file or len(known) == len(ours):
        return templates
    say(
        f"{len(ours) - len(known)} of {len(ours)} sentences for labels are left out: this checkpoint's "
        f"vocabulary lacks {_some(_unknown(model, ours))}"
    )
    return known or ["{}"]


def run_retrieve(args: argparse.Namespace) -> int:
    """`retrieve TEXT VIDEO...`."""
    from ..checkpoint import load
    from ..media.video import files_of
    from ..tasks import retrieve

    readable, missing = _each(args.videos, files_of)
    model = load(args.weights)
    _refuse_unknown(args, model, [args.text])
    with progress(len(readable) * args.frames, "frames"):
        videos, damaged = _each(list(readable), lambda path: _encode(model, args, path))
    why_not = missing | damaged
    left_out = {path: why_not[path] for path in args.videos if path in why_not}
    for why in left_out.values():
        say(f"left out: {why}")
    paths = [path for path in args.videos if path in videos]
    ranking = retrieve(model, args.text, [videos[path] for path in paths])
    known = _in_world(args, [videos[path] for path in paths])
    _caveat(args, model, [args.text], known)
    found = [{"video": paths[i], "cosine": cosine, **_world_field(known, i)} for i, cosine in ranking]
    _print(
        args,
        [f"{cosine:.3f}  {paths[i]}" for i, cosine in ranking],
        {
            "text": args.text,
            "videos": found,
            "left_out": [{"video": path, "why": why} for path, why in left_out.items()],
        },
    )
    return 3 if left_out else 0


def _each(paths: Sequence[str], read: Callable[[str], Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What `read` makes of each path, and for those that it cannot read, why. Raises ValueError if it can read none."""
    done, failed = {}, {}
    for path in dict.fromkeys(paths):
        try:
            done[path] = read(path)
        except (OSError, ValueError, MemoryError) as error:
            reason = _reason(error)
            failed[path] = (
                f"{path}: {reason}" if isinstance(error, MemoryError) and path not in reason else reason
            )
    if not done:
        reason = next(iter(failed.values()))
        raise ValueError(
            reason if len(failed) == 1 else f"none of the {len(failed)} videos can be read: {reason}"
        )
    return done, failed


def _encode(model: VideoCoCa, args: argparse.Namespace, path: str) -> Video:
    """The video, or the part of it that is asked for."""
    how = {name: getattr(args, name, None) for name in ("adapter", "start", "end")}
    return model.encode(
        path, args.frames, **{name: value for name, value in how.items() if value is not None}
    )


def run_answer(args: argparse.Namespace) -> None:
    """`answer VIDEO "QUESTION" [--answers "A,B"]`."""
    from ..checkpoint import load
    from ..media.video import files_of
    from ..tasks import answer, best_first, score

    answers = [] if args.answers is None else _items("--answers", args.answers)
    files_of(args.video)  # before the weights
    model = load(args.weights)
    _refuse_unknown(args, model, [args.question, *answers])
    with progress(args.frames, "frames"):
        video = _encode(model, args, args.video)
    with progress(len(answers) or 30, "texts" if answers else "tokens"):
        if answers:
            scores = score(model, video, answers, args.question)
            ranking = [{"answer": answers[i], "score": float(scores[i])} for i in best_first(scores)]
        else:
            ranking = [{"answer": answer(model, video, args.question)}]
    known = _in_world(args, [video])
    _caveat(args, model, [args.question, *answers], known)
    _print(
        args,
        [f"{row['score']:8.3f}  {row['answer']}" if answers else row["answer"] for row in ranking],
        {"video": args.video, "question": args.question, "answers": ranking, **_world_field(known)},
    )


def run_trace(args: argparse.Namespace) -> None:
    """`trace VIDEO -o FILE`."""
    import numpy as np

    from ..checkpoint import load
    from ..media.video import files_of
    from ..model.hooks import trace
    from ..verify import write_trace

    resolve_output(args.output, [args.video])  # before the work
    files_of(args.video)  # before the weights
    model = load(args.weights, dtype=args.dtype)
    _refuse_unknown(args, model, [args.text or ""])
    with progress(args.frames, "frames"), trace() as seen:
        video = _encode(model, args, args.video)
    if args.text is None:
        ids = np.full((1, model.config.text.context_length), model.config.text.pad_id)
        caption = model.generate(video.tokens)
        ids[0, : len(caption)] = caption
    else:
        ids = model.tokenize(args.text)
    with trace() as read:  # apart from the caption's search, which computes the same names in steps
        model.decode(video.tokens, ids)
    tensors = [
        {"name": name, "shape": list(x.shape), "dtype": str(x.dtype)} for name, x in (seen | read).items()
    ]
    _warn_of_words(model, [args.text or ""])
    write_trace(args.output, seen | read, model)
    _print(
        args,
        [f"{x['name']:<24} {x['dtype']:<8} {x['shape']}" for x in tensors],
        {"trace": args.output, "tensors": tensors},
    )


def run_verify(args: argparse.Namespace) -> int:
    """`verify TRACE`."""
    from ..verify import as_json, text, verify_file

    report = verify_file(args.trace, args.weights, args.dtype)
    _print(args, text(report).split("\n"), as_json(report))
    return (
        0
        if report.right and not (args.strict and (report.missing or len(report.compared) < len(report.rows)))
        else 1
    )


def run_evaluate(args: argparse.Namespace) -> int:
    """`evaluate MANIFEST`."""
    from ..checkpoint import load
    from ..checkpoint.hub import cache_folder
    from ..evaluation import evaluate, read_annotations, read_manifest, report, write_predictions
    from ..media.video import files_of

    if (args.format is None) != (args.videos is None) or args.split and not args.format:
        raise ValueError("--format and --videos go together, and --split with them")
    entries = (
        read_annotations(args.format, args.manifest, args.videos, args.split)
        if args.format
        else read_manifest(args.manifest)
    )
    read = [
        args.manifest,
        args.answers_file or "",
        args.templates_file or "",
        *(entry.video for entry in entries),
    ]
    place = resolve_output(args.output, read) if args.output else None
    tasks = [task.strip() for task in args.tasks.split(",")] if args.tasks is not None else None
    templates, answers = _templates(args), _lines(args.answers_file) if args.answers_file else None
    cache = None if args.no_cache else Path(args.cache or cache_folder() / "videos")
    _each([str(entry.video) for entry in entries], files_of)
    model = load(args.weights)
    _refuse_unknown(
        args, model, [args.prompt, *(answers or []), *(templates or [] if args.templates_file else [])]
    )
    templates = _known_templates(args, model, templates)
    result = evaluate(
        model,
        entries,
        tasks,
        num_frames=args.frames,
        adapter=args.adapter,
        templates=templates,
        answers=answers,
        tokenizer=args.tokenizer,
        cache=cache,
        **_search(args),
    )
    predictions = result.pop("predictions")
    texts = [text for entry in entries for text in (*entry.labels, *entry.captions, entry.question or "")]
    _caveat(args, model, [args.prompt, *texts, *(templates or []), *(answers or [])])
    try:
        if place:
            write_predictions(place, predictions)
    finally:
        _print(args, report(result).split("\n"), {"manifest": args.manifest, **result})
    return 3 if result["unreadable"] else 0


def run_demo(args: argparse.Namespace) -> None:
    """`demo`."""
    from ..demo import report, run

    result = run()
    _print(args, report(result).split("\n"), result)


def run_convert(args: argparse.Namespace) -> None:
    """`convert SRC DEST`."""
    from ..checkpoint.convert import convert

    dest = convert(args.source, args.dest, dtype=args.dtype, config=args.config)
    say(f"{dest} is ready: use it with --weights {dest}")


def run_shapes(args: argparse.Namespace) -> None:
    """`shapes DIR`."""
    from ..world.shapes import write_shapes

    with progress(args.count, "clips"):
        manifest = write_shapes(args.folder, args.count, args.seed)
    if args.json:
        _print(args, [], {"manifest": str(manifest), "clips": args.count})
    else:
        say(f"{args.count} clips are in {args.folder}, and what is true of them in {manifest}")


# Messages


def _in_world(
    args: argparse.Namespace, videos: Sequence[Video], caption: str | None = None
) -> list[bool] | None:
    """Tell of each video whether it looks like the embedded checkpoint's world; None for other weights."""
    from ..world import in_world, is_embedded

    return [in_world(video, caption) for video in videos] if is_embedded(args.weights) else None


def _world_field(known: list[bool] | None, i: int = 0) -> dict[str, bool]:
    """Return the field of JSON that says whether video i is of the embedded checkpoint's world; none for others."""
    return {"in_world": known[i]} if known else {}


def _caveat(
    args: argparse.Namespace, model: VideoCoCa, texts: Sequence[str], known: list[bool] | None = None
) -> None:
    """Say what limits a result: the embedded checkpoint, and words that the vocabulary lacks.

    `known` is what `_in_world` tells of the videos. The first is left out where all are of the checkpoint's world.
    """
    from ..world import is_embedded

    if is_embedded(args.weights) and not (known and all(known)):
        say("the embedded checkpoint knows coloured shapes only; for other videos give --weights")
    _warn_of_words(model, texts)


def _warn_of_words(model: VideoCoCa, texts: Sequence[str]) -> None:
    if unknown := _unknown(model, texts):
        say(f"this checkpoint's vocabulary lacks {_some(unknown)}: do not trust the result")


def _refuse_unknown(args: argparse.Namespace, model: VideoCoCa, texts: Sequence[str]) -> None:
    """Raise ValueError for words of the user's own that a vocabulary of whole words lacks, unless --force is given."""
    from difflib import get_close_matches

    if args.force or not model.tokenizer:
        return
    for text in filter(str.strip, texts):
        if model.tokenizer.encode(text)[0, 1] == model.tokenizer.end_id:
            raise ValueError(
                f"{text!r} has no word that this checkpoint's tokenizer reads; give other words, or --force to go on"
            )
    if not (unknown := _unknown(model, texts)):
        return
    special = {token.content for token in model.tokenizer.vocabulary.get_added_tokens_decoder().values()}
    words = sorted(model.tokenizer.vocabulary.get_vocab().keys() - special)
    nearest = [get_close_matches(word, words, n=1, cutoff=0.1) for word in unknown[:SOME]]
    told = [f"{word} (nearest: {near[0]})" if near else word for word, near in zip(unknown, nearest)]
    raise ValueError(
        f"this checkpoint's vocabulary lacks {_some([*told, *unknown[SOME:]])}; "
        "give other words, or --force to go on"
    )


def _unknown(model: VideoCoCa, texts: Sequence[str]) -> list[str]:
    """The words of texts or templates that the tokenizer's vocabulary lacks."""
    return model.tokenizer.unknown([text.replace("{}", "") for text in texts]) if model.tokenizer else []


SOME = 20


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:SOME]) + (f" and {len(words) - SOME} more" if len(words) > SOME else "")


def _print(args: argparse.Namespace, lines: Sequence[str], data: dict[str, Any]) -> None:
    """Write a result: lines, or with --json a line of JSON, which has escapes of its own for what cannot be shown."""
    if args.json:
        text = json_text(data)
        shown = terminal.encodable(terminal.printable(text), sys.stdout)
        terminal.write(text if shown == text else json.dumps(data))
    else:
        terminal.write("\n".join(map(terminal.printable, lines)))


# Values of arguments. Where one is wrong, argparse adds the argument's name to the message.


def _positive(text: str) -> int:
    return _whole(text, 1, 2**31 - 1)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**64 - 1)


def _whole(text: str, least: int, most: int) -> int:
    try:
        value = int(text[:100])  # Python refuses to read thousands of digits
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a whole number") from None
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
    return value


def _number(text: str) -> float:
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a finite number")


def _time(text: str) -> float:
    from ..media.sampling import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a path")
    return text


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: give a text")
    return text


def _items(name: str, text: str) -> list[str]:
    """The texts between the commas of an argument. Raises ValueError if there is none."""
    if not (items := [item.strip() for item in text.split(",") if item.strip()]):
        raise ValueError(f"{name} is empty: give texts with commas between")
    return items


def _lines(path: str) -> list[str]:
    """The lines of a text file that are not blank. Raises as `read_text`, and ValueError if there is none."""
    hint = "give a file with one entry a line"
    if not (lines := [line.strip() for line in read_text(path, hint).split("\n") if line.strip()]):
        raise ValueError(f"{path} is empty: {hint}")
    return lines
