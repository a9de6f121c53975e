"""Sentences about the world: what a caption may say, and what a given sentence says."""

from __future__ import annotations

import numpy as np

from .scenes import COLOURS, SHAPES, Object, pick

PREFIXES = ("", "a photo of", "a picture of", "an image of", "a video of", "there is", "this is", "we see")
SIZE_NAMED, RELATION_NAMED = 0.4, 0.3  # how often a caption says "small", or where two objects stand
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
    words = [*([o.size] if with_size and o.size else []), o.colour, o.shape]
    return " ".join([("an" if words[0][0] in "aeiou" else "a"), *words])


def _relation(a: Object, b: Object) -> str:
    """Where the first object stands, seen from the second."""
    if abs(a.x - b.x) >= abs(a.y - b.y):
        return "left of" if a.x < b.x else "right of"
    return "above" if a.y < b.y else "below"


def caption(objects: tuple[Object, ...], rng: np.random.Generator, together: bool = True) -> str:
    """One of the many sentences that are true of an image: order, prefix, sizes and relation by chance.

    Without `together` it does not say where one object stands, seen from another.
    """
    objects = tuple(objects[i] for i in rng.permutation(len(objects)))
    phrases = [_phrase(o, rng.random() < SIZE_NAMED) for o in objects] or ["nothing"]
    link = "and"
    if together and len(objects) == 2 and rng.random() < RELATION_NAMED:
        link = _relation(*objects)
    return " ".join([pick(PREFIXES, rng), f" {link} ".join(phrases)]).strip()


def caption_of(objects: tuple[Object, ...]) -> str:
    """The plain sentence: every object by colour and shape, nothing else."""
    return " and ".join(_phrase(o, with_size=False) for o in objects) or "nothing"


def question_of(objects: tuple[Object, ...], rng: np.random.Generator) -> tuple[str, str]:
    """A question and its answer: how a sentence begins, up to a colour, and the shape that goes on from there.

    The vocabulary has no word to ask with. Where objects have one colour, all of them but the one asked for are named first:
    "we see a red circle and a red" -> "star". So there is one answer. Raises ValueError without an object.
    """
    if not objects:
        raise ValueError("there is no object to ask for")
    asked = pick(objects, rng)
    known = [_phrase(o, with_size=False) for o in objects if o.colour == asked.colour and o is not asked]
    begun = " and ".join([*known, _phrase(asked, with_size=False).removesuffix(f" {asked.shape}")])
    return f"{pick(PREFIXES, rng)} {begun}".strip(), asked.shape


def objects_named(text: str) -> set[tuple[str, str]]:
    """The (colour, shape) pairs that a sentence names."""
    words = text.split()
    return {(a, b) for a, b in zip(words, words[1:], strict=False) if a in COLOURS and b in SHAPES}
