"""`answer VIDEO QUESTION`: answer a question about a video, or complete a sentence about it.

The embedded checkpoint answers with its part for questions, unless --weights or --tuned names another model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import arguments, messages, stored, videos

if TYPE_CHECKING:
    from ..model.config import Video
    from ..model.videococa import VideoCoCa


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "answer",
        run,
        "Answer a question about a video, or complete a sentence about it.",
        add_arguments,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    videos.add_video(parser)
    parser.add_argument(
        "question",
        type=arguments.text,
        metavar="QUESTION",
        help="the question, or how a sentence begins",
    )
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument(
        "--answers",
        metavar='"A,B"',
        help='answers to rank, separated by commas, in "quotes" if they hold one (default: generate one)',
    )
    answers.add_argument(
        "--answer",
        action="append",
        type=arguments.text,
        metavar="A",
        help="one answer to rank; repeat it for others. The number printed is the log-probability of "
        "the answer after the question; of a checkpoint with a classifier of answers, that of its class",
    )
    parser.add_argument(
        "--top",
        type=arguments.positive,
        metavar="K",
        help="print the K best answers with their probabilities: among the given answers, among the classes "
        "of a classifier, or of a generated answer among all texts",
    )
    arguments.add_model(parser, f"; {arguments.IN_WORLD}")
    arguments.add_adapter(parser)
    arguments.add_part(parser)
    stored.add_cache(parser)


def run(args: argparse.Namespace) -> int:
    """Print the answer, or the best ones, the most probable first."""
    from ..checkpoint.tuned import QUESTIONS

    answers = args.answer or ([] if args.answers is None else arguments.items("--answers", args.answers))
    videos.check_one(args.video)  # before the weights
    model = arguments.load_model(args, part=QUESTIONS)
    texts = [args.question, *(answers if not model.config.answers else [])]  # a classifier reads no answer
    messages.refuse_unknown_words(args, model, texts)
    video = videos.encode_with_bar(args, model, args.video)
    ranking = answer_question(args, model, video, answers)
    known = messages.videos_in_world(args, [video_of_base(args, args.video, video)])
    messages.warn_of_limits(args, model, texts, known)
    tuned = warn_if_not_tuned(args, model)
    messages.print_result(
        args,
        [line_of(args, row) for row in ranking],
        {
            "video": args.video,
            "question": args.question,
            "answers": ranking,
            "tuned_for_questions": tuned,
            **messages.world_field(known),
        },
    )
    return 0


def video_of_base(args: argparse.Namespace, path: str, video: Video) -> Video:
    """Return the video at a path as the embedded checkpoint encodes it, without its part for questions.

    The two are not the same, and only the former tells whether the video looks like coloured shapes.
    """
    from ..checkpoint import load

    return video if args.weights or args.tuned else videos.encode(args, load(), path, lambda n: None)


def answer_question(
    args: argparse.Namespace, model: VideoCoCa, video: Video, answers: Sequence[str]
) -> list[dict[str, Any]]:
    """Return [{"answer"}]; with given answers or --top [{"answer", "score", "probability"}], best first."""
    from ..tasks import answer, rank_answers

    with arguments.progress(args)(len(answers) or 30, "texts" if answers else "tokens") as update:
        if not answers and args.top is None:
            return [{"answer": answer(model, video, args.question, progress=update)}]
        ranking = rank_answers(model, video, args.question, answers or None, args.top or 1, progress=update)
    return [row._asdict() for row in ranking[: args.top]]


def line_of(args: argparse.Namespace, row: dict[str, Any]) -> str:
    """Return the line of an answer: its probability with --top, else its log-probability if it is ranked."""
    if "score" not in row:
        return str(row["answer"])
    if args.top is None:
        return f"{row['score']:8.3f}  {row['answer']}"
    number = f"{row['probability']:.3f}" if row["probability"] >= 0.0005 else f"{row['probability']:.1e}"
    return f"{number:>8}  {row['answer']}"


def warn_if_not_tuned(args: argparse.Namespace, model: VideoCoCa) -> bool:
    """Return whether the model was finetuned for questions; if not, print that it was not."""
    from ..tasks import is_tuned_for_questions

    tuned = is_tuned_for_questions(model)
    if not tuned:
        messages.say(
            args,
            "this checkpoint was not finetuned for questions: an answer is what continues the question as in "
            "a caption",
        )
    return tuned
