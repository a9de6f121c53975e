"""Sentences about scenes: captions and questions, and the objects that a given sentence names."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .scenes import COLOURS, SHAPES, Object, pick

PREFIXES = ("", "a photo of", "a picture of", "an image of", "a video of", "there is", "this is", "we see")
# probabilities of "small" or "large", and of a relation such as "left of"
SIZE_NAMED, RELATION_NAMED = 0.4, 0.3
LABELS = [f"{'an' if colour == 'orange' else 'a'} {colour} {shape}" for colour in COLOURS for shape in SHAPES]

SPECIAL = ("<pad>", "<start_of_text>", "<end_of_text>", "<unk>")
VOCABULARY = SPECIAL + tuple(
    dict.fromkeys(
        " ".join(PREFIXES).split()
        + ["a", "an", "and", "nothing", "small", "large", "left", "right", "of", "above", "below"]
        + list(COLOURS)
        + list(SHAPES)
    )
)


def _phrase(o: Object, with_size: bool) -> str:
    """Return a noun phrase: "a small red circle"."""
    words = [*([o.size] if with_size and o.size else []), o.colour, o.shape]
    return " ".join([("an" if words[0][0] in "aeiou" else "a"), *words])


def _relation(a: Object, b: Object) -> str:
    """Return the position of the first object relative to the second."""
    if abs(a.x - b.x) >= abs(a.y - b.y):
        return "left of" if a.x < b.x else "right of"
    return "above" if a.y < b.y else "below"


def caption(objects: tuple[Object, ...], rng: np.random.Generator, together: bool = True) -> str:
    """Return a random true sentence about an image: order, prefix, sizes and relation vary.

    A relation such as "left of" is only used with `together`, for objects that are visible at the same time.
    """
    objects = tuple(objects[i] for i in rng.permutation(len(objects)))
    phrases = [_phrase(o, rng.random() < SIZE_NAMED) for o in objects] or ["nothing"]
    link = "and"
    if together and len(objects) == 2 and rng.random() < RELATION_NAMED:
        link = _relation(*objects)
    return " ".join([pick(PREFIXES, rng), f" {link} ".join(phrases)]).strip()


def caption_of(objects: tuple[Object, ...], link: str = "and") -> str:
    """Return the plain sentence: every object by colour and shape, nothing else.

    The link "then", for objects that follow each other, is not in the VOCABULARY.
    """
    return f" {link} ".join(_phrase(o, with_size=False) for o in objects) or "nothing"


def question_of(objects: tuple[Object, ...], rng: np.random.Generator) -> tuple[str, str]:
    """Return a question and its only answer.

    The question is the beginning of a sentence up to a colour, the answer is the shape that completes it.
    The vocabulary has no question words. Other objects of the same colour are named first, so that the answer
    is unique: "we see a red circle and a red" -> "star". Raises ValueError without an object.
    """
    if not objects:
        raise ValueError("there is no object to ask for")
    target = pick(objects, rng)
    others = [_phrase(o, with_size=False) for o in objects if o.colour == target.colour and o is not target]
    beginning = " and ".join([*others, _phrase(target, with_size=False).removesuffix(f" {target.shape}")])
    return f"{pick(PREFIXES, rng)} {beginning}".strip(), target.shape


def objects_named(text: str) -> set[tuple[str, str]]:
    """Return the (colour, shape) pairs that a sentence names."""
    words = text.split()
    return {(a, b) for a, b in pairwise(words) if a in COLOURS and b in SHAPES}
