"""Output of the commands: results on standard output, messages on standard error."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from .. import terminal
from ..output import json_text

if TYPE_CHECKING:
    from ..model.config import Video
    from ..model.videococa import VideoCoCa

OTHERS = "such as hf-hub:laion/CoCa-ViT-L-14-laion2B-s13B-b90k"  # weights, for other videos
NO_DESCRIPTION = (
    "(may not be a description: the embedded checkpoint was trained on coloured shapes only, and this video "
    f"does not look like them; give --weights, {OTHERS})"
)
WORDS_NAMED = 20  # at most, in a message


def print_result(args: argparse.Namespace, lines: Sequence[str], data: Mapping[str, Any]) -> None:
    """Print a result: lines of text or, with --json, one line of JSON.

    Control characters in lines are escaped; JSON has its own escapes for what the stream cannot encode.
    """
    if args.json:
        text = json_text(data)
        shown = terminal.encodable(terminal.printable(text), sys.stdout)
        terminal.write(text if shown == text else json.dumps(data))
    else:
        terminal.write("\n".join(map(terminal.printable, lines)))


def print_left_out(args: argparse.Namespace, paths: Sequence[str], failed: Mapping[str, str]) -> None:
    """With --json, print an object for each video that is left out."""
    for path in paths if args.json else ():
        print_result(args, [], {"video": path, "left_out": failed[path]})


def say(args: argparse.Namespace, message: str) -> None:
    """Print a message, unless --quiet is given."""
    if not args.quiet:
        _say(message)


def _say(message: str) -> None:
    """Write "minivideococa: " and a message to standard error, as one line, above the bar if there is one."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        terminal.tell(f"minivideococa: {message}")


@contextmanager
def printed_warnings(quiet: bool) -> Iterator[None]:
    """Print each warning of the library as one line, once; none if `quiet`. Nothing that Pillow logs."""
    import logging

    printed: set[str] = set()
    logger = logging.getLogger("PIL")

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if not quiet and str(message) not in printed:
            printed.add(str(message))
            _say(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def reason(error: BaseException) -> str:
    """Return the message of an error, beginning with the file's name if it has one."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})" if str(error) else "not enough memory"
    return str(error) or type(error).__name__


# The embedded checkpoint


def for_shapes_only(args: argparse.Namespace) -> bool:
    """Return whether the model is the embedded checkpoint, alone or with its own part for questions.

    A part that a user has tuned from it has seen other videos and may know other words.
    """
    from ..checkpoint.tuned import QUESTIONS
    from ..world import is_embedded

    return is_embedded(args.weights) and args.tuned in (None, QUESTIONS)


def videos_in_world(
    args: argparse.Namespace, videos: Sequence[Video], caption: str | None = None
) -> list[bool] | None:
    """Return whether each video looks like the embedded checkpoint's shapes; None for other checkpoints.

    None also with a tuned part, which may have tuned the poolers: their outputs are what is compared.
    """
    from ..world import in_world, is_embedded

    known = is_embedded(args.weights) and args.tuned is None
    return [in_world(video, caption) for video in videos] if known else None


def world_field(known: Sequence[bool] | None, i: int = 0) -> dict[str, bool]:
    """Return the JSON field of video i for `videos_in_world`; none for other checkpoints."""
    return {"in_world": known[i]} if known else {}


def warn_of_limits(
    args: argparse.Namespace, model: VideoCoCa, texts: Sequence[str], known: Sequence[bool] | None = None
) -> None:
    """Print what limits a result: the embedded checkpoint, and words missing from the vocabulary.

    `known` is the result of `videos_in_world`. The checkpoint is not mentioned if all videos look like its
    shapes.
    """
    if for_shapes_only(args) and not (known and all(known)):
        say(
            args,
            "the embedded checkpoint was trained on coloured shapes only; for other videos give --weights, "
            f"{OTHERS}",
        )
    warn_of_words(args, model, texts)


# Words that are missing from a vocabulary of whole words


def warn_of_words(args: argparse.Namespace, model: VideoCoCa, texts: Sequence[str]) -> None:
    """Print the words of the texts that are missing from the vocabulary."""
    if unknown := unknown_words(model, texts):
        checkpoint = "the embedded" if for_shapes_only(args) else "this"
        say(
            args,
            f"{checkpoint} checkpoint's vocabulary lacks {word_list(unknown)}: the result is not reliable",
        )


def refuse_unknown_words(
    args: argparse.Namespace, model: VideoCoCa, texts: Sequence[str], way_out: str = ""
) -> None:
    """Raise ValueError for the user's words that are missing from the vocabulary, unless --force is given.

    `way_out` is what else may be given instead of other words.
    """
    if args.force or not model.tokenizer:
        return
    for text in filter(str.strip, texts):
        if model.tokenizer.encode(text)[0, 1] == model.tokenizer.end_id:
            raise ValueError(
                f"{text!r} has no word that this checkpoint's tokenizer reads; give other words, or --force "
                "to go on"
            )
    if unknown := unknown_words(model, texts):
        raise ValueError(_refusal(args, with_nearest(model, unknown), f"{way_out}, " if way_out else ""))


def _refusal(args: argparse.Namespace, words: Sequence[str], way_out: str) -> str:
    """Return the message for words that are missing from the vocabulary."""
    if for_shapes_only(args):
        return (
            "the embedded checkpoint is for coloured shapes only, and its vocabulary lacks "
            f"{word_list(words)}: give {way_out}--weights ({OTHERS}), other words, or --force to go on"
        )
    lacks = f"this checkpoint's vocabulary lacks {word_list(words)}"
    return f"{lacks}: give {way_out}other words, or --force to go on"


def with_nearest(model: VideoCoCa, unknown: Sequence[str]) -> list[str]:
    """Return unknown words, each with the word of the vocabulary that it may be a misspelling of."""
    vocabulary = model.require_tokenizer().vocabulary
    special = {token.content for token in vocabulary.get_added_tokens_decoder().values()}
    words = sorted(vocabulary.get_vocab().keys() - special)
    named = [  # the few that are printed
        f"{word} (nearest: {nearest[0]})"
        if (nearest := get_close_matches(word, words, n=1, cutoff=0.65))
        else word
        for word in unknown[:WORDS_NAMED]
    ]
    return [*named, *unknown[WORDS_NAMED:]]


def known_templates(
    args: argparse.Namespace, model: VideoCoCa, templates: Sequence[str] | None
) -> Sequence[str] | None:
    """Return the templates, without those of the package that have unknown words; "{}" if none is left.

    The user's own templates are kept.
    """
    from ..tasks import TEMPLATES

    candidates = templates or TEMPLATES
    known = [template for template in candidates if not unknown_words(model, [template])]
    if args.templates_file or len(known) == len(candidates):
        return templates
    say(
        args,
        f"{len(candidates) - len(known)} of {len(candidates)} templates are left out: this checkpoint's "
        f"vocabulary lacks {word_list(unknown_words(model, candidates))}",
    )
    return known or ["{}"]


def unknown_words(model: VideoCoCa, texts: Sequence[str]) -> list[str]:
    """Return the words of texts or templates that are missing from the tokenizer's vocabulary."""
    return model.tokenizer.unknown([text.replace("{}", "") for text in texts]) if model.tokenizer else []


def word_list(words: Sequence[str]) -> str:
    """Return words separated by commas; of many, the first `WORDS_NAMED` and the number of others."""
    more = len(words) - WORDS_NAMED
    return ", ".join(words[:WORDS_NAMED]) + (f" and {more} more" if more > 0 else "")
