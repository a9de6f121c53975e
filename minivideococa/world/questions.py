"""Questions about clips and their answers: nine kinds, several wordings of each.

A question is asked only where its answer is unique, and true in every frame. Where nothing else is said, all
objects of the clip are always visible:

| kind    | example                    | asked of clips                                                      |
|---------|----------------------------|---------------------------------------------------------------------|
| colour  | what colour is the star?   | with one object of the shape                                        |
| shape   | what shape is red?         | with one object of the colour                                       |
| count   | how many shapes are there? | of any number of objects                                            |
| exists  | is there a red star?       | with an object                                                      |
| largest | which is largest?          | with one object LARGER than all others, in radius and in area       |
| where   | where is the star?         | of two objects, on one side of each other throughout: see `_side`   |
| place   | where is the star?         | of one object, on one side of the picture's centre throughout       |
| moment  | what appears for a moment? | with one object visible for a MOMENT, and all others always         |
| first   | what comes first?          | of two objects of different shapes, one after the other             |

The tokens of the embedded checkpoint's image encoder hold almost no positions, so "where" and "place" need
positions that are written into it; see weights/README.md. "place" is the easier of the two, and learned
first. "first" needs the factorized adapter with positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from ..model.config import check_choice, check_int
from .captions import VOCABULARY
from .clips import SPLITS, Clip, sample_clip
from .scenes import NAMES, SIZE, Object, pick

NUMBERS = ("zero", "one", "two", "three")
LARGER = 1.25  # least ratio of the largest radius, and of the largest area, to the next
CLEAR = 1.5  # least ratio of the distances along the two axes
CLEARER = 2.5  # the same for the distances from the middle of the picture, which may be shorter
NEAR = SIZE / 5  # least distance from the middle of the picture, along the longer axis, pixels
MOMENT = 3 / 8  # of the frames, at most

Wordings = Literal["training", "canonical", "held-out"]
Names = tuple[tuple[str, str], ...]  # pairs of a colour and a shape
Fields = dict[str, str]  # what a wording names: "colour", "shape", "a"


@dataclass(frozen=True)
class Question:
    """A question about a clip, its answer, and its kind, a key of `QUESTION_KINDS`."""

    kind: str
    question: str
    answer: str


class Kind(NamedTuple):
    """A kind of questions.

    `ask` returns the fields of a wording and the answer; None if the question has no single true answer.
    `clips` is the set of clips whose answers are balanced. The first of the `training` wordings is the
    canonical one. `held_out` wordings are never trained on, but all of their words are.
    """

    ask: Callable[[Clip, Names, np.random.Generator], tuple[Fields, str] | None]
    clips: str
    training: tuple[str, ...]
    held_out: tuple[str, ...]


def _ask_colour(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask for the colour of the only object with its shape."""
    shapes = [o.shape for o in clip.first]
    return _ask_about([o for o in clip.first if shapes.count(o.shape) == 1], "shape", "colour", clip, rng)


def _ask_shape(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask for the shape of the only object with its colour."""
    colours = [o.colour for o in clip.first]
    return _ask_about([o for o in clip.first if colours.count(o.colour) == 1], "colour", "shape", clip, rng)


def _ask_about(
    objects: list[Object], given: str, asked: str, clip: Clip, rng: np.random.Generator
) -> tuple[Fields, str] | None:
    """Ask for one attribute of one of the objects, given the other."""
    if not objects or not clip.visible.all():
        return None
    target = pick(objects, rng)
    return {given: getattr(target, given)}, getattr(target, asked)


def _ask_count(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask for the number of objects."""
    return ({}, NUMBERS[len(clip.first)]) if clip.visible.all() else None


def _ask_exists(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask whether there is an object with one of the `names`; the answer is "yes" half of the time.

    Of the names that are absent, half have one word of an object in the clip; the others have none, or the
    words of two objects.
    """
    if not clip.first or not clip.visible.all():
        return None
    if rng.random() < 0.5:
        return _named(pick(clip.first, rng).name), "yes"
    colours, shapes = {o.colour for o in clip.first}, {o.shape for o in clip.first}
    absent: list[list[tuple[str, str]]] = [[], [], []]  # by the number of words that are right
    for colour, shape in names:
        if (colour, shape) not in clip.names:
            absent[(colour in colours) + (shape in shapes)].append((colour, shape))
    right = 1 if rng.random() < 0.5 else pick([words for words in (0, 2) if absent[words]], rng)
    return _named(pick(absent[right], rng)), "no"


def _named(name: tuple[str, str]) -> Fields:
    """Return the fields of a noun phrase."""
    return {"a": "an" if name[0][0] in "aeiou" else "a", "colour": name[0], "shape": name[1]}


def _ask_largest(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask for the largest of two or more objects."""
    if len(clip.first) < 2 or not clip.visible.all():
        return None
    largest = max(range(len(clip.first)), key=lambda i: clip.first[i].radius)
    for objects in clip.trajectory:
        o, *others = objects[largest], *objects[:largest], *objects[largest + 1 :]
        if o.radius < LARGER * max(p.radius for p in others) or o.area < LARGER * max(p.area for p in others):
            return None
    return {}, " ".join(clip.first[largest].name)


def _ask_where(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask for the side of the other object that one of two objects is on."""
    if len(clip.first) != 2 or not clip.visible.all() or clip.first[0].shape == clip.first[1].shape:
        return None
    i = int(rng.integers(2))
    sides = {_side(objects[i], objects[1 - i]) for objects in clip.trajectory}
    side = sides.pop()
    return None if sides or side is None else ({"shape": clip.first[i].shape}, side)


def _ask_place(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask for the side of the picture that the only object is on, unless it is near the middle."""
    if len(clip.first) != 1 or not clip.visible.all():
        return None
    centre = replace(clip.first[0], x=SIZE / 2, y=SIZE / 2)
    sides = {_side(o, centre, CLEARER) for (o,) in clip.trajectory}
    if any(max(abs(o.x - centre.x), abs(o.y - centre.y)) < NEAR for (o,) in clip.trajectory):
        return None
    side = sides.pop()
    return None if sides or side is None else ({"shape": clip.first[0].shape}, side)


def _side(a: Object, b: Object, clear: float = CLEAR) -> str | None:
    """Return the side of b that a is on; None if both axes are about equal."""
    x, y = a.x - b.x, a.y - b.y
    if abs(x) >= clear * abs(y):
        return "left" if x < 0 else "right"
    if abs(y) >= clear * abs(x):
        return "above" if y < 0 else "below"
    return None


def _ask_moment(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask for the object that is visible briefly."""
    shares = clip.visible.mean(axis=1)
    brief = [i for i, share in enumerate(shares) if 0 < share <= MOMENT]
    if len(brief) != 1 or any(share < 1 for i, share in enumerate(shares) if i != brief[0]):
        return None
    return {}, " ".join(clip.first[brief[0]].name)


def _ask_first(clip: Clip, names: Names, rng: np.random.Generator) -> tuple[Fields, str] | None:
    """Ask for the shape that comes first."""
    if len(clip.first) != 2 or clip.first[0].shape == clip.first[1].shape:
        return None
    times = [np.flatnonzero(visible) for visible in clip.visible]
    if not all(map(len, times)):
        return None
    first = int(times[1][0] < times[0][0])
    return None if times[first][-1] >= times[1 - first][0] else ({}, clip.first[first].shape)


WHERE = (
    (
        "where is the {shape}?",
        "where do you see the {shape}?",
        "on which side is the {shape}?",
        "which side is the {shape} on?",
    ),
    ("on which side do you see the {shape}?", "where can you see the {shape}?"),
)

QUESTION_KINDS = {
    "colour": Kind(
        _ask_colour,
        "count",
        (
            "what colour is the {shape}?",
            "which colour is the {shape}?",
            "what color is the {shape}?",
            "what is the colour of the {shape}?",
            "the {shape} is what colour?",
        ),
        ("which color is the {shape}?", "what is the color of the {shape}?"),
    ),
    "shape": Kind(
        _ask_shape,
        "count",
        (
            "what shape is {colour}?",
            "which shape is {colour}?",
            "what is {colour}?",
            "what is the {colour} shape?",
            "which object is {colour}?",
        ),
        ("what object is {colour}?", "which is the {colour} shape?"),
    ),
    "count": Kind(
        _ask_count,
        "count",
        (
            "how many shapes are there?",
            "how many shapes do you see?",
            "how many objects are there?",
            "what is the number of shapes?",
        ),
        ("how many objects do you see?", "what is the number of objects?"),
    ),
    "exists": Kind(
        _ask_exists,
        "count",
        (
            "is there {a} {colour} {shape}?",
            "do you see {a} {colour} {shape}?",
            "is {a} {colour} {shape} there?",
            "can you see {a} {colour} {shape}?",
        ),
        ("do we see {a} {colour} {shape}?", "can we see {a} {colour} {shape}?"),
    ),
    "largest": Kind(
        _ask_largest,
        "count",
        (
            "which is largest?",
            "which shape is largest?",
            "what is the largest shape?",
            "which object is the biggest?",
            "which is the largest?",
        ),
        ("which shape is the biggest?", "what is the biggest object?"),
    ),
    "where": Kind(_ask_where, "pair", *WHERE),
    "place": Kind(_ask_place, "single", *WHERE),
    "moment": Kind(
        _ask_moment,
        "moment",
        (
            "what appears for a moment?",
            "which shape appears for a moment?",
            "what is there for a moment?",
            "what do you see for a moment?",
            "which object appears briefly?",
        ),
        ("which object appears for a moment?", "what appears briefly?"),
    ),
    "first": Kind(
        _ask_first,
        "order",
        (
            "what comes first?",
            "which shape comes first?",
            "what do you see first?",
            "which object appears first?",
        ),
        ("which object comes first?", "what appears first?"),
    ),
}


# The kinds that the embedded part is trained and measured on. Attentional pooling does not know the order of
# frames.
ASKED = tuple(kind for kind in QUESTION_KINDS if kind not in ("place", "first"))


def _wordings(kind: Kind, wordings: str) -> tuple[str, ...]:
    """Return the wordings of one kind. Raises ValueError for an unknown choice."""
    choices = {"training": kind.training, "canonical": kind.training[:1], "held-out": kind.held_out}
    return choices[check_choice("wordings", wordings, choices)]


def questions_of(
    clip: Clip, rng: np.random.Generator, wordings: Wordings = "training", names: Names = NAMES
) -> list[Question]:
    """Return a question of each kind that can be asked of a clip, in the order of `QUESTION_KINDS`.

    What is asked for and the wording are random. `names` are the pairs of a colour and a shape that "is
    there a red star?" may name without their being there. Raises ValueError for unknown `wordings`.
    """
    questions = (ask(name, clip, rng, wordings, names) for name in QUESTION_KINDS)
    return [question for question in questions if question]


def ask(
    kind: str,
    clip: Clip,
    rng: np.random.Generator,
    wordings: Wordings = "training",
    names: Names = NAMES,
) -> Question | None:
    """Return a question of one kind, as `questions_of`; None if it has no single true answer."""
    templates = _wordings(QUESTION_KINDS[kind], wordings)
    asked = QUESTION_KINDS[kind].ask(clip, names, rng)
    if asked is None:
        return None
    fields, answer = asked
    return Question(kind, pick(templates, rng).format(**fields), answer)


def sample_questions(
    kind: str,
    rng: np.random.Generator,
    frames: int = 8,
    split: Literal["train", "test"] = "train",
    wordings: Wordings = "training",
) -> tuple[Clip, list[Question]]:
    """Return a random clip that allows a question of one kind, with this and its other questions.

    `split` is one of `SPLITS`. The answers to each question are balanced over many clips. "count" is only
    asked as the first question for this reason: every clip for "where" has two objects.

    Raises ValueError for an unknown kind, split or choice of wordings, and for less than 3 frames.
    """
    check_choice("kind", kind, QUESTION_KINDS)
    check_int("frames", frames, 3)  # one of two frames is not a moment
    composition = SPLITS[check_choice("split", split, SPLITS)]
    while True:
        clip = sample_clip(QUESTION_KINDS[kind].clips, rng, frames, composition)
        if question := ask(kind, clip, rng, wordings, composition.names):
            break
    others = questions_of(clip, rng, wordings, composition.names)
    return clip, [question, *(q for q in others if q.kind not in (kind, "count"))]


def words_of(text: str) -> list[str]:
    """Return the words of a text, as the tokenizer of the embedded checkpoint splits it."""
    return re.sub("[.,;:!?]", " ", text).split()


# The words of all questions, answers and captions that the embedded checkpoint lacks.
QUESTION_WORDS = tuple(
    dict.fromkeys(
        word
        for text in (
            *(text for kind in QUESTION_KINDS.values() for text in (*kind.training, *kind.held_out)),
            *("yes", "no", *NUMBERS, "then"),
        )
        for word in words_of(text.format(colour="", shape="", a=""))
        if word not in VOCABULARY
    )
)
