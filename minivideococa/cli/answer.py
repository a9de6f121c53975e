"""`answer VIDEO QUESTION`: answer a question about a video, or complete a sentence about it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import arguments, messages, videos

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
        "the answer after the question",
    )
    arguments.add_model(parser, f"; {arguments.IN_WORLD}")
    arguments.add_adapter(parser)
    arguments.add_part(parser)


def run(args: argparse.Namespace) -> int:
    """Print the generated answer, or the given ones, the most probable first."""
    answers = args.answer or ([] if args.answers is None else arguments.items("--answers", args.answers))
    videos.check_one(args.video)  # before the weights
    model = arguments.load_model(args)
    messages.refuse_unknown_words(args, model, [args.question, *answers])
    video = videos.encode_with_bar(args, model, args.video)
    ranking = answer_question(args, model, video, answers)
    known = messages.videos_in_world(args, [video])
    messages.warn_of_limits(args, model, [args.question, *answers], known)
    messages.print_result(
        args,
        [f"{row['score']:8.3f}  {row['answer']}" if answers else row["answer"] for row in ranking],
        {"video": args.video, "question": args.question, "answers": ranking, **messages.world_field(known)},
    )
    return 0


def answer_question(
    args: argparse.Namespace, model: VideoCoCa, video: Video, answers: Sequence[str]
) -> list[dict[str, Any]]:
    """Return [{"answer", "score"}] of the given answers, best first; or [{"answer"}], generated."""
    from ..tasks import answer, best_first, score

    with arguments.progress(args)(len(answers) or 30, "texts" if answers else "tokens") as update:
        if not answers:
            return [{"answer": answer(model, video, args.question, progress=update)}]
        scores = score(model, video, answers, args.question, progress=update)
        return [{"answer": answers[i], "score": float(scores[i])} for i in best_first(scores)]
