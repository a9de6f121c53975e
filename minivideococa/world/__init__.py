"""A small synthetic world of coloured shapes, for training and testing without any data set.

`scenes` draws still images, `captions` says what is in them, `clips` sets them in motion, and `shapes` writes clips
to files, with a manifest. `judgement` tells whether a video looks like one of the world. Everything follows from a `numpy.random.Generator`, so a seed is enough to have the same
pictures, sentences and videos again.
"""

from .captions import LABELS, SPECIAL, VOCABULARY, caption, caption_of, objects_named, question_of
from .clips import CLIP_SETS, Clip, caption_throughout, draw_clip, sample_clip
from .judgement import in_world, is_embedded
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
