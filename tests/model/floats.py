"""Shared by tests of float functions: dtypes, points over their range, errors in units of rounding."""

import numpy as np
import pytest

DTYPES = [np.float32, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def over_the_range(dtype):
    """Points of both signs from the smallest subnormal to the largest number, most where erf bends."""
    info = np.finfo(dtype)
    dense = np.linspace(0, 7, 20_001)
    wide = 2.0 ** np.linspace(info.minexp, info.maxexp - 1, 2_001)
    tiny = [0.0, float(info.smallest_subnormal), float(info.tiny) / 4]
    worst = [5.894912257104385]  # of millions: here the quotient rounds worst
    x = np.concatenate([dense, wide, tiny, worst, [info.max]]).astype(dtype)
    return np.concatenate([-x, x])


def exactly(function, x):
    """`function` of each number of x in Python's own float64."""
    return np.array([function(float(v)) for v in x.ravel()]).reshape(x.shape)


def units(got, want, dtype):
    """The relative error in the dtype's eps; a subnormal result's, relative to the smallest normal number."""
    info = np.finfo(dtype)
    error = np.abs(got.astype(np.float64) - want)
    return error / np.maximum(np.abs(want), float(info.tiny)) / float(info.eps)
