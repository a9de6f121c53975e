"""`explain VIDEO -o FILE`: draw where each word of a caption, or of an answer, came from."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..output import atomic_write, resolve_output
from . import arguments, messages, videos
from .answer import video_of_base, warn_if_not_tuned
from .caption import judged_caption

if TYPE_CHECKING:
    from ..explanation.explanation import Explanation
    from ..model.videococa import VideoCoCa

ENDINGS = (".html", ".gif", ".png")
CAVEAT = "(may not be a description: this checkpoint knows coloured shapes only)"
COMPARED = ("adapter", "formula", "frames", "tuned", "weights")


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "explain",
        run,
        "Draw where each word of a caption, or of an answer, came from.",
        add_arguments,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "videos",
        type=arguments.path,
        metavar="VIDEO",
        nargs="+",
        help=f"{videos.VIDEO}; two of them are compared side by side",
    )
    arguments.add_output(
        parser,
        "FILE",
        "the file to write, in place of one that is there: a page for the browser (.html), an animation "
        "(.gif) or a picture (.png)",
    )
    parser.add_argument(
        "--question", type=arguments.text, metavar="TEXT", help="explain the answer to this question"
    )
    add_comparison(parser)
    arguments.add_model(parser, f"; {arguments.IN_WORLD}")
    arguments.add_adapter(parser)
    arguments.add_part(parser)
    arguments.add_decoding(parser, leave_out=("candidates", "prompt"))
    parser.checks.append(wrong_comparison)


def add_comparison(parser: arguments.Parser) -> None:
    """Add --compare and --formula."""
    from ..explanation.relevance import FORMULAS

    parser.add_argument(
        "--compare",
        type=comparison,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="compare with the same video under another option: adapter=mean, tuned=PATH, weights=W, "
        "frames=T or formula=attention; repeat it to change several",
    )
    parser.add_argument(
        "--formula",
        choices=list(FORMULAS),
        default=next(iter(FORMULAS)),
        help="how the maps are computed: gradient weights the attention by the gradient of the word, "
        "attention does not (default: gradient)",
    )


def comparison(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE. The value is checked as that of the option --KEY."""
    from ..explanation.relevance import FORMULAS
    from ..model.config import ADAPTERS

    key, equals, value = text.partition("=")
    if key not in COMPARED or not (equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE with KEY one of {', '.join(COMPARED)}")
    choices = {"adapter": list(ADAPTERS), "formula": list(FORMULAS)}.get(key, [])
    if choices and value not in choices:
        raise argparse.ArgumentTypeError(f"{key} is {value!r}: give {', '.join(choices)}")
    read: dict[str, Callable[[str], Any]] = {
        "frames": arguments.positive,
        "tuned": arguments.path,
        "weights": arguments.weights,
    }
    return key, read.get(key, str)(value)


def wrong_comparison(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the output's name or with what is compared."""
    if not args.output.lower().endswith(ENDINGS):
        return f"-o {args.output}: end the name with {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
    if len(args.videos) > 2:
        return f"explain takes one VIDEO or two: {args.videos[2]!r} is one too many"
    if len(args.videos) == 2 and os.path.realpath(args.videos[0]) == os.path.realpath(args.videos[1]):
        return f"{args.videos[1]} is the same video: give another one, or --compare KEY=VALUE"
    if len(args.videos) == 2 and args.compare:
        return "two videos are compared already: leave out one of them, or --compare"
    return None


def run(args: argparse.Namespace) -> int:
    """Write the file, and print each text that it explains."""
    destination = resolve_output(args.output, args.videos)  # before the work
    for path in args.videos:
        videos.check_one(path)  # before the weights
    arguments.decoding_options(args)
    explained = list(explain_all(args))
    with atomic_write(destination) as partial:
        titles = [label if args.compare else Path(label).name for label, _, _ in explained]
        caveats = [f" {CAVEAT}" if known == [False] else "" for _, _, known in explained]
        labels = [title + caveat for title, caveat in zip(titles, caveats, strict=True)]
        write(partial, destination.suffix.lower(), [explanation for _, explanation, _ in explained], labels)
    lines = []
    for label, explanation, known in explained:
        lines.append(explanation.text if len(explained) == 1 else f"{label}: {explanation.text}")
        lines += [messages.NO_DESCRIPTION] if known == [False] and not args.quiet else []
    data = {"explanation": args.output, "texts": [fields_of(*record) for record in explained]}
    messages.print_result(args, lines, data)
    how = ": open it in a browser" if destination.suffix.lower() == ".html" else ""
    messages.say(args, f"wrote {args.output}{how}")
    return 0


def explain_all(args: argparse.Namespace) -> Iterator[tuple[str, Explanation, list[bool] | None]]:
    """Yield a label and an explanation for each video, or for each of the compared options.

    Beside them stands whether the video looks like the embedded checkpoint's shapes; None for other
    checkpoints.
    """
    others = [argparse.Namespace(**vars(args) | dict(args.compare))] if args.compare else []
    model, loaded = None, None
    for variant in (args, *others):
        if model is None or (variant.weights, variant.tuned) != loaded:
            model = None  # so that its memory is free for the next
            model = arguments.load_model(variant, part=tuned_of(variant))
            loaded = variant.weights, variant.tuned
        if variant is args:
            refuse_the_same(args, model)
        for path in args.videos:
            explanation = explain_one(variant, model, path)
            chosen = vars(variant) | {"tuned": tuned_of(variant)}
            changed = [label_of(key, chosen[key], explanation) for key, _ in args.compare]
            yield ", ".join(changed) or path, explanation, known_in_world(variant, path, explanation)


def explain_one(args: argparse.Namespace, model: VideoCoCa, path: str) -> Explanation:
    """Explain the caption of a video, or the answer to the question about it."""
    from ..explanation.explain import explain
    from ..model.generation import DecodingOptions

    if args.question:
        messages.refuse_unknown_words(args, model, [args.question])
        warn_if_not_tuned(args, model)
    given = arguments.given_decoding(args)
    try:
        return explain(
            model,
            path,
            args.question,
            num_frames=args.frames,
            start=args.start,
            end=args.end,
            adapter=args.adapter,
            formula=args.formula,
            progress=arguments.progress(args),
            **given,
        )
    except ValueError as error:
        raise ValueError(arguments.with_flags(str(error), given, DecodingOptions)) from None


def tuned_of(args: argparse.Namespace) -> str | None:
    """Return the tuned part; for a question to the embedded checkpoint it is its own, unless one is given."""
    from ..checkpoint.tuned import QUESTIONS

    return QUESTIONS if args.question and not (args.tuned or args.weights) else args.tuned


def refuse_the_same(args: argparse.Namespace, model: VideoCoCa) -> None:
    """Raise ValueError if what is given to --compare is what is explained already."""
    given = vars(args) | {"adapter": model.config.check_adapter(args.adapter), "tuned": tuned_of(args)}
    if args.compare and all(given[key] == value for key, value in args.compare):
        same = ", ".join(f"{key}={value}" for key, value in args.compare)
        raise ValueError(f"--compare {same} is what is explained already: give another value")


def label_of(key: str, value: object, explanation: Explanation) -> str:
    """Return what is compared, as KEY=VALUE."""
    if key == "tuned" and value is None:
        return "not tuned"
    default = {"adapter": explanation.adapter, "weights": "embedded"}
    return f"{key}={default[key] if value is None else value}"


def known_in_world(args: argparse.Namespace, path: str, explanation: Explanation) -> list[bool] | None:
    """Return whether a video looks like the embedded checkpoint's shapes; None for other checkpoints."""
    if args.question:
        return messages.videos_in_world(args, [video_of_base(args, path, explanation.video)])
    return messages.videos_in_world(args, [explanation.video], judged_caption(args, explanation.text))


def fields_of(label: str, explanation: Explanation, known: list[bool] | None) -> dict[str, Any]:
    """Return the JSON object of an explanation: its words with their probabilities and frames' weights."""
    words = zip(explanation.words, explanation.probabilities, explanation.frame_weights, strict=True)
    return {
        "of": label,
        "question": explanation.question,
        "text": explanation.text,
        "times": explanation.times,
        "adapter": explanation.adapter,
        **messages.world_field(known),
        "words": [
            {"word": word, "probability": float(p), "frames": [round(float(x), 4) for x in frames]}
            for word, p, frames in words
        ],
    }


def write(path: Path, ending: str, explanations: Sequence[Explanation], labels: Sequence[str]) -> None:
    """Write explanations to a file of this kind."""
    if ending == ".html":
        from ..explanation.page import page

        path.write_text(page(explanations, labels=labels), encoding="utf-8")
        return
    from ..explanation.drawing import stack, stack_animations, write_gif

    if ending == ".gif":
        write_gif(path, stack_animations([x.animation() for x in explanations], labels))
    else:
        stack([x.figure() for x in explanations], labels).save(path, "PNG")
