"""Detect whether a video looks like the synthetic world that the embedded checkpoint was trained on.

The criterion is the Mahalanobis distance of the mean caption token. The likelihood of the caption and its
cosine with the video do not separate the two: the checkpoint is as confident on real footage.
weights/README.md has the error rates.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..checkpoint.folder import embedded_checkpoint
from ..checkpoint.folder import is_embedded as is_embedded
from ..model.config import Array, Video

# in the folder of the embedded checkpoint, written by weights/measure_in_world.py
STATISTICS = "in_world.npz"


def in_world(video: Video, caption: str | None = None) -> bool:
    """Tell whether a video encoded with the embedded checkpoint looks like the synthetic world.

    It does if `distance` is at most the threshold and its caption, if given, does not say "nothing": every
    clip of the synthetic world shows a shape. Pass captions of attentional or joint pooling only, since mean
    pooling misses short events. weights/README.md has the error rates.
    """
    mean, precision, threshold = _statistics()
    return bool(distance(video, mean, precision) <= threshold) and "nothing" not in (caption or "").split()


def distance(video: Video, mean: Array, precision: Array) -> float:
    """Return the squared Mahalanobis distance of a video's mean caption token `[E]` from a Gaussian.

    `mean` is `[E]`, `precision` the inverse covariance `[E, E]`. The Mahalanobis distance in feature space as
    a measure for out-of-distribution detection: arXiv 1807.03888, section 2.1.
    """
    difference = video.tokens.mean(axis=0) - mean
    return float(difference @ precision @ difference)


@cache
def _statistics() -> tuple[Array, Array, float]:
    """Return the mean `[E]` and inverse covariance `[E, E]` of the Gaussian, float64, and the threshold."""
    with np.load(embedded_checkpoint() / STATISTICS) as file:
        return file["mean"].astype(np.float64), file["precision"].astype(np.float64), float(file["limit"])
