"""The command line: arguments and errors. What the commands do stands in the modules they call.

Results go to standard output, messages to standard error. Exit status: 0, or 2 after one line that says what is
wrong, or 130 after Ctrl-C; `verify` ends with 1 where something diverges.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .output import json_text, place_for
from .progress import progress

if TYPE_CHECKING:
    from .model import Video, VideoCoCa


NO_DESCRIPTION = ("(no description: the embedded checkpoint knows coloured shapes only, and this does not look like its "
                  "world; give --weights)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Argparse itself ends wrong usage with status 2."""
    args = parser().parse_args(arguments)
    try:
        status = args.run(args) or 0
        sys.stdout.flush()
    except (ValueError, OSError, RuntimeError) as error:    # the last: imageio_ffmpeg finds no ffmpeg
        if isinstance(error, BrokenPipeError):       # the reader (`| head`) has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"minivideococa: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = argparse.ArgumentParser(
        prog="minivideococa", description="Captions, classes and rankings of videos, by VideoCoCa in NumPy.")
    top.add_argument("--version", action="version", version=f"minivideococa {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print JSON, for programs")
    model = argparse.ArgumentParser(add_help=False, parents=[output])
    weights_help = ("a checkpoint folder, or hf-hub:OWNER/NAME "
                    "(default: the embedded tiny one, which knows coloured shapes and nothing else)")
    model.add_argument("--weights", metavar="W", help=weights_help)
    model.add_argument("--frames", type=_positive, default=8, metavar="T", help="frames to look at (default: 8)")
    adapted = argparse.ArgumentParser(add_help=False, parents=[model])
    adapted.add_argument("--adapter", choices=("attentional", "mean", "joint"), default="attentional",
                         help="how frames become a video: all their tokens pooled at once, each frame pooled by itself and "
                         "averaged, or all frames through the encoder as one sequence (default: attentional)")

    search = argparse.ArgumentParser(add_help=False)
    search.add_argument("--min-length", type=_positive, default=5, metavar="N", help="fewest tokens (default: 5)")
    search.add_argument("--max-length", type=_positive, default=30, metavar="N", help="most tokens (default: 30)")
    search.add_argument("--prompt", default="", metavar="TEXT", help="how the caption begins")
    search.add_argument("--beams", type=_positive, default=6, metavar="N",
                        help="captions to search for the best among (default: 6; 1 takes the likeliest token each time)")
    search.add_argument("--beam-groups", type=_positive, metavar="N",
                        help="groups of beams, alike unless there is a --diversity-penalty (default: 3 for 6 beams, else 1)")
    search.add_argument("--diversity-penalty", type=float, default=0.0, metavar="X",
                        help="what a group pays for a token that another took (default: 0)")
    search.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X",
                        help="more than 1 avoids tokens that were there already (default: 1)")
    search.add_argument("--length-penalty", type=float, default=1.0, metavar="X",
                        help="a beam's score is divided by its length to this power (default: 1)")
    search.add_argument("--top-k", type=_positive, metavar="N", help="draw each token at random from the N likeliest")
    search.add_argument("--top-p", type=float, metavar="P",
                        help="draw each token at random from the likeliest that have probability P together")
    search.add_argument("--temperature", type=float, metavar="X",
                        help="draw each token at random; above 1 more, below 1 less surprising ones")
    search.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another draw (default: 0)")
    search.add_argument("--textbook", action="store_true",
                        help="search and draw by probabilities, not by open_clip's habits (see the walkthrough)")
    templates = argparse.ArgumentParser(add_help=False)
    sentences = templates.add_mutually_exclusive_group()
    sentences.add_argument("--templates-file", metavar="F",
                           help='a file with a sentence a line, {} where the label goes (default: "a video of {}.")')
    sentences.add_argument("--ensemble", action="store_true", help="average over several sentences that come with the package")

    def command(name: str, run, parents: Sequence[argparse.ArgumentParser], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=parents, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = command("caption", run_caption, [adapted, search], "Say what a video shows.")
    sub.add_argument("video", metavar="VIDEO", help="a video, a GIF, an image, or a folder of images")

    sub = command("classify", run_classify, [adapted, templates], "Tell which of some labels fits a video best.")
    sub.add_argument("video", metavar="VIDEO", help="a video, a GIF, an image, or a folder of images")
    labels = sub.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", metavar='"A,B,C"', help="the labels, with commas between")
    labels.add_argument("--labels-file", metavar="F", help="a file with a label a line")
    sub.add_argument("--by", choices=["latent", "likelihood"], default="latent",
                     help="compare latents, or how likely the decoder finds the sentences (default: latent)")

    sub = command("retrieve", run_retrieve, [adapted], "Rank videos by how well they fit a text.")
    sub.add_argument("text", metavar="TEXT", help="what to look for")
    sub.add_argument("videos", metavar="VIDEO", nargs="+", help="where to look")

    sub = command("trace", run_trace, [model], "Write every intermediate tensor of a video and a text to a file.")
    sub.add_argument("video", metavar="VIDEO", help="a video, a GIF, an image, or a folder of images")
    sub.add_argument("-o", "--output", required=True, metavar="FILE", help="the safetensors file to write")
    sub.add_argument("--text", metavar="TEXT", help="the text to read and decode (default: the video's own caption)")
    sub.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="to compute in (default: float32)")

    sub = command("verify", run_verify, [output], "Tell which tensor of another implementation is wrong first, and why.")
    sub.add_argument("trace", metavar="TRACE", help="a safetensors file that any program wrote: frames or pixels, ids, and "
                     "tensors under the names that `trace` writes, in float64, float32, float16 or bfloat16")
    sub.add_argument("--weights", metavar="W", help=weights_help)
    sub.add_argument("--dtype", choices=("float64", "float32", "float16", "bfloat16"),
                     help="what TRACE was computed in, if that is coarser than what it is stored in")
    sub.epilog = "Exit status: 0, all within what rounding explains; 1, something is not; 2, this is no trace."

    sub = command("answer", run_answer, [adapted], "Answer a question about a video, or complete a sentence about it.")
    sub.add_argument("video", metavar="VIDEO", help="a video, a GIF, an image, or a folder of images")
    sub.add_argument("question", metavar="QUESTION", help="the question, or how the sentence begins")
    sub.add_argument("--answers", metavar='"A,B"', help="rank these, with commas between (default: write one)")

    sub = command("evaluate", run_evaluate, [adapted, search, templates], "Tell how good a model is on a data set.")
    sub.add_argument("manifest", metavar="MANIFEST", help="a file with a JSON object a line: video, and what is true of it: "
                     "captions, label or labels, question and answer; or, with --format, what a data set publishes")
    sub.add_argument("--format", choices=("msrvtt", "msrvtt-1ka", "msrvtt-qa", "activitynet", "kinetics", "ucf101"),
                     help="MANIFEST is this data set's own annotation file (the clips are in --videos)")
    sub.add_argument("--videos", metavar="DIR", help="with --format: the folder with the clips, or with folders of them")
    sub.add_argument("--split", metavar="NAME", help="with --format: only this split, where the file tells them apart")
    sub.add_argument("--tasks", metavar='"A,B"',
                     help="some of classify, retrieve, caption, qa (default: all that MANIFEST has what it takes for)")
    sub.add_argument("--answers-file", metavar="F",
                     help="a file with an answer a line, to rank for each question (default: write one)")
    sub.add_argument("--tokenizer", choices=("words", "ptb"), default="words",
                     help="how caption metrics cut texts: into lower-case words without punctuation, or as published figures "
                     "do, for which pycocoevalcap runs Java (default: words)")
    place = sub.add_mutually_exclusive_group()
    place.add_argument("--cache", metavar="DIR", help="where encoded videos and written texts are kept for another run "
                       "(default: with downloaded checkpoints)")
    place.add_argument("--no-cache", action="store_true", help="keep nothing")
    sub.add_argument("-o", "--output", metavar="FILE", help="write what was predicted: a JSON object for each line of MANIFEST, in its order")

    command("demo", run_demo, [output], "Caption, classify and retrieve on the clips that come with the package.")

    sub = command("convert", run_convert, [], "Make a checkpoint folder from open_clip's files.")
    sub.add_argument("source", metavar="SRC", help="a folder as on the Hugging Face hub, or a weights file")
    sub.add_argument("dest", metavar="DEST", help="the folder to make")
    sub.add_argument("--dtype", choices=["float16", "float32"], help="of the weights in it (default: as in SRC)")
    sub.add_argument("--config", metavar="FILE", help="the configuration, for a weights file that comes without")

    sub = command("shapes", run_shapes, [output], "Write clips of coloured shapes, and a manifest of what is true of them.")
    sub.add_argument("folder", metavar="DIR", help="the folder to make")
    sub.add_argument("--count", type=_positive, default=200, metavar="N", help="clips (default: 200)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other clips (default: 0)")
    return top


def run_caption(args: argparse.Namespace) -> None:
    """`caption VIDEO`."""
    from .checkpoint import load
    model = load(args.weights)
    video = _encode(model, args, [args.video])[0]
    with progress(args.max_length, "tokens"):
        caption = model.caption(video, **_search(args))
    known = _in_world(args, [video])
    _caveat(args, model, [args.prompt], known)
    _print(args, "\n".join([caption, *([NO_DESCRIPTION] if known == [False] else [])]),
           {"video": args.video, "caption": caption, **({"in_world": known[0]} if known else {})})


def _search(args: argparse.Namespace) -> dict[str, Any]:
    """How texts are written: the keywords of `generate`."""
    return {name: getattr(args, name) for name in (
        "min_length", "max_length", "prompt", "beams", "beam_groups", "diversity_penalty", "repetition_penalty",
        "length_penalty", "top_k", "top_p", "temperature", "seed", "textbook")}


def run_classify(args: argparse.Namespace) -> None:
    """`classify VIDEO --labels "A,B,C"`."""
    from .checkpoint import load
    from .tasks import classify
    labels = _lines(args.labels_file) if args.labels_file else [x.strip() for x in args.labels.split(",") if x.strip()]
    templates = _templates(args)
    model = load(args.weights)
    video = _encode(model, args, [args.video])[0]
    with progress(len(labels) * len(templates or [""]), "texts"):
        ranking = classify(model, video, labels, templates, args.by)
    known = _in_world(args, [video])
    _caveat(args, model, [*labels, *(templates or [])], known)
    _print(args, "\n".join(f"{probability:.3f}  {label}" for label, probability in ranking),
           {"video": args.video, "labels": [{"label": label, "probability": p} for label, p in ranking],
            **({"in_world": known[0]} if known else {})})


def _templates(args: argparse.Namespace) -> Sequence[str] | None:
    from .tasks import ENSEMBLE
    return _lines(args.templates_file) if args.templates_file else ENSEMBLE if args.ensemble else None


def run_retrieve(args: argparse.Namespace) -> None:
    """`retrieve TEXT VIDEO...`."""
    from .checkpoint import load
    from .tasks import retrieve
    model = load(args.weights)
    videos = _encode(model, args, args.videos)
    ranking = retrieve(model, args.text, videos)
    known = _in_world(args, videos)
    _caveat(args, model, [args.text], known)
    _print(args, "\n".join(f"{cosine:.3f}  {args.videos[i]}" for i, cosine in ranking),
           {"text": args.text, "videos": [{"video": args.videos[i], "cosine": cosine, **({"in_world": known[i]} if known else {})}
                                          for i, cosine in ranking]})


def _encode(model: VideoCoCa, args: argparse.Namespace, paths: Sequence[str]) -> list[Video]:
    """The videos, with a bar that counts their frames."""
    with progress(len(paths) * args.frames, "frames"):
        return [model.encode(path, args.frames, args.adapter) for path in paths]


def run_answer(args: argparse.Namespace) -> None:
    """`answer VIDEO "QUESTION" [--answers "A,B"]`."""
    from .checkpoint import load
    from .tasks import answer, best_first, score
    answers = [x.strip() for x in (args.answers or "").split(",") if x.strip()]
    model = load(args.weights)
    video = _encode(model, args, [args.video])[0]
    with progress(len(answers) or 30, "texts" if answers else "tokens"):
        if answers:
            scores = score(model, video, answers, args.question)
            ranking = [{"answer": answers[i], "score": float(scores[i])} for i in best_first(scores)]
        else:
            ranking = [{"answer": answer(model, video, args.question)}]
    known = _in_world(args, [video])
    _caveat(args, model, [args.question, *answers], known)
    _print(args, "\n".join(f"{row['score']:8.3f}  {row['answer']}" if answers else row["answer"] for row in ranking),
           {"video": args.video, "question": args.question, "answers": ranking, **({"in_world": known[0]} if known else {})})


def run_trace(args: argparse.Namespace) -> None:
    """`trace VIDEO -o FILE`."""
    import numpy as np

    from .checkpoint import load
    from .trace import trace
    from .verify import write_trace
    place_for(args.output, [args.video])     # before the work
    model = load(args.weights, dtype=args.dtype)
    with progress(args.frames, "frames"), trace() as seen:
        video = model.encode(args.video, args.frames)
    if args.text is None:
        ids = np.full((1, model.config.text.context_length), model.config.text.pad_id)
        caption = model.generate(video.tokens)
        ids[0, :len(caption)] = caption
    else:
        ids = model.tokenize(args.text)
    with trace() as read:                    # apart from the caption's search, which computes the same names in steps
        model.decode(video.tokens, ids)
    write_trace(args.output, seen | read, model)
    tensors = [{"name": name, "shape": list(x.shape), "dtype": str(x.dtype)} for name, x in (seen | read).items()]
    _warn_of_words(model, [args.text or ""])
    _print(args, "\n".join(f"{x['name']:<24} {x['dtype']:<8} {x['shape']}" for x in tensors),
           {"trace": args.output, "tensors": tensors})


def run_verify(args: argparse.Namespace) -> int:
    """`verify TRACE`."""
    from .verify import as_json, text, verify_file
    report = verify_file(args.trace, args.weights, args.dtype)
    _print(args, text(report), as_json(report))
    return 1 if report.diverges else 0


def run_evaluate(args: argparse.Namespace) -> None:
    """`evaluate MANIFEST`."""
    from .checkpoint import load
    from .checkpoint.hub import cache_folder
    from .evaluation import evaluate, read_annotations, read_manifest, report, write_predictions
    if (args.format is None) != (args.videos is None) or args.split and not args.format:
        raise ValueError("--format and --videos go together, and --split with them")
    entries = (read_annotations(args.format, args.manifest, args.videos, args.split) if args.format
               else read_manifest(args.manifest))
    read = [args.manifest, args.answers_file or "", args.templates_file or "", *(entry.video for entry in entries)]
    place = place_for(args.output, read) if args.output else None
    tasks = [task.strip() for task in args.tasks.split(",")] if args.tasks is not None else None
    templates, answers = _templates(args), _lines(args.answers_file) if args.answers_file else None
    cache = None if args.no_cache else Path(args.cache or cache_folder() / "videos")
    model = load(args.weights)
    result = evaluate(model, entries, tasks, num_frames=args.frames, adapter=args.adapter, templates=templates,
                      answers=answers, tokenizer=args.tokenizer, cache=cache, **_search(args))
    predictions = result.pop("predictions")
    if place:
        write_predictions(place, predictions)
    texts = [text for entry in entries for text in (*entry.labels, *entry.captions, entry.question or "")]
    _caveat(args, model, [*texts, *(templates or []), *(answers or [])])
    _print(args, report(result), {"manifest": args.manifest, **result})


def run_demo(args: argparse.Namespace) -> None:
    """`demo`."""
    from .demo import report, run
    result = run()
    _print(args, report(result), result)


def run_convert(args: argparse.Namespace) -> None:
    """`convert SRC DEST`."""
    from .checkpoint.convert import convert
    dest = convert(args.source, args.dest, dtype=args.dtype, config=args.config)
    print(f"{dest} is ready: use it with --weights {dest}", file=sys.stderr)


def run_shapes(args: argparse.Namespace) -> None:
    """`shapes DIR`."""
    from .world.shapes import write_shapes
    with progress(args.count, "clips"):
        manifest = write_shapes(args.folder, args.count, args.seed)
    if args.json:
        print(json_text({"manifest": str(manifest), "clips": args.count}))
    else:
        print(f"{args.count} clips are in {args.folder}, and what is true of them in {manifest}", file=sys.stderr)


def _in_world(args: argparse.Namespace, videos: Sequence[Video]) -> list[bool] | None:
    """Tell of each video whether it looks like the embedded checkpoint's world; None for other weights."""
    from .world import in_world, is_embedded
    return [in_world(video) for video in videos] if is_embedded(args.weights) else None


def _caveat(args: argparse.Namespace, model: VideoCoCa, texts: Sequence[str], known: list[bool] | None = None) -> None:
    """What to know of a result: that it is the embedded checkpoint's, and which words are new to the tokenizer.

    `known` is what `_in_world` tells of the videos. The first is left out where all are of the checkpoint's world.
    """
    if args.weights is None and not (known and all(known)):
        print("minivideococa: the embedded checkpoint knows coloured shapes only; for other videos give --weights",
              file=sys.stderr)
    _warn_of_words(model, [text.replace("{}", "") for text in texts])


def _warn_of_words(model: VideoCoCa, texts: Sequence[str]) -> None:
    """Which words are new to the tokenizer."""
    if unknown := model.tokenizer.unknown(texts) if model.tokenizer else []:
        some = ", ".join(unknown[:20]) + (f" and {len(unknown) - 20} more" if len(unknown) > 20 else "")
        print(f"minivideococa: this checkpoint's vocabulary lacks {some}: do not trust the result",
              file=sys.stderr)


def _lines(path: str) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").split("\n")]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text: give a file with one entry a line") from None
    if not any(lines):
        raise ValueError(f"{path} is empty: give a file with one entry a line")
    return [line for line in lines if line]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _print(args: argparse.Namespace, text: str, data: dict) -> None:
    print(json_text(data) if args.json else text)
