"""Tell clips of the world from other footage, by what the embedded checkpoint makes of them.

Neither the likelihood of a caption nor its cosine separates the two: the checkpoint is as confident on real footage. The
Mahalanobis distance of the mean caption token does; weights/README.md has the rates.
"""

from __future__ import annotations

import os
from functools import cache

import numpy as np

from ..checkpoint.folder import embedded_checkpoint
from ..model.config import Video

STATISTICS = "in_world.npz"  # in the embedded checkpoint's folder, written by weights/measure_in_world.py


def is_embedded(weights: str | os.PathLike[str] | None) -> bool:
    """Tell whether `load(weights)` is the embedded checkpoint: None, or the path of its folder."""
    return weights is None or os.path.isdir(weights) and os.path.samefile(weights, embedded_checkpoint())


def in_world(video: Video, caption: str | None = None) -> bool:
    """Tell whether a video that the embedded checkpoint encoded looks like its world of coloured shapes.

    It does if `distance` is at most the limit and its caption, if given, does not say "nothing": every clip shows a shape.
    Give captions of attentional or joint pooling, since mean pooling misses short events. weights/README.md has the
    rates of wrong judgements.
    """
    mean, precision, limit = _statistics()
    return bool(distance(video, mean, precision) <= limit) and "nothing" not in (caption or "").split()


def distance(video: Video, mean: np.ndarray, precision: np.ndarray) -> float:
    """Return the squared Mahalanobis distance of a video's mean caption token [E] to a Gaussian over the world's clips.

    Mahalanobis distance in feature space as a measure of what is out of distribution: arXiv 1807.03888, section 2.1.
    """
    difference = video.tokens.mean(axis=0) - mean
    return float(difference @ precision @ difference)


@cache
def _statistics() -> tuple[np.ndarray, np.ndarray, float]:
    """The Gaussian's mean [E] and inverse covariance [E, E], and the limit."""
    with np.load(embedded_checkpoint() / STATISTICS) as file:
        return file["mean"].astype(np.float64), file["precision"].astype(np.float64), float(file["limit"])
