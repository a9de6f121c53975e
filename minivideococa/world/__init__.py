"""A small synthetic world of coloured shapes, for training and testing without a data set.

scenes      still images
captions    sentences about them, and what a given sentence names
clips       videos of moving shapes
questions   questions about them, and their answers
shapes      clips as files, with a manifest
detection   whether a video looks like the synthetic world

All randomness comes from a `numpy.random.Generator`: the same seed gives the same pictures, sentences and
videos.
"""

from .captions import LABELS, SPECIAL, VOCABULARY, caption, caption_of, objects_named, question_of
from .clips import (
    CLIP_SETS,
    HELD_OUT,
    QUESTION_SETS,
    SPLITS,
    Clip,
    caption_throughout,
    draw_clip,
    sample_clip,
)
from .detection import in_world, is_embedded
from .questions import QUESTION_KINDS, QUESTION_WORDS, Question, questions_of, sample_questions
from .scenes import COLOURS, SHAPES, SIZE, Object, draw, farther, sample_background, sample_objects

__all__ = [
    "CLIP_SETS",
    "COLOURS",
    "HELD_OUT",
    "LABELS",
    "QUESTION_KINDS",
    "QUESTION_SETS",
    "QUESTION_WORDS",
    "SHAPES",
    "SIZE",
    "SPECIAL",
    "SPLITS",
    "VOCABULARY",
    "Clip",
    "Object",
    "Question",
    "caption",
    "caption_of",
    "caption_throughout",
    "draw",
    "draw_clip",
    "farther",
    "in_world",
    "is_embedded",
    "objects_named",
    "question_of",
    "questions_of",
    "sample_background",
    "sample_clip",
    "sample_objects",
    "sample_questions",
]
