"""A small synthetic world of coloured shapes, for training and testing without a data set.

scenes      still images
captions    sentences about them, and what a given sentence names
clips       videos of moving shapes
shapes      clips as files, with a manifest
detection   whether a video looks like the synthetic world

All randomness comes from a `numpy.random.Generator`: the same seed gives the same pictures, sentences and
videos.
"""

from .captions import LABELS, SPECIAL, VOCABULARY, caption, caption_of, objects_named, question_of
from .clips import CLIP_SETS, Clip, caption_throughout, draw_clip, sample_clip
from .detection import in_world, is_embedded
from .scenes import COLOURS, SHAPES, SIZE, Object, draw, farther, sample_background, sample_objects

__all__ = [
    "CLIP_SETS",
    "COLOURS",
    "LABELS",
    "SHAPES",
    "SIZE",
    "SPECIAL",
    "VOCABULARY",
    "Clip",
    "Object",
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
    "sample_background",
    "sample_clip",
    "sample_objects",
]
