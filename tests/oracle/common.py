"""For the oracle and for tests that run without torch: random weights and pixels, and a measure of error."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod, sqrt

import numpy as np

Arrays = dict[str, np.ndarray]


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Arrays:
    """Every tensor of a CoCa, float32, by name: the same numbers from the same seed everywhere and always.

    RandomState's stream is frozen across versions of NumPy, and uniform numbers need no mathematical library.
    """
    uniform = np.random.RandomState(seed).random_sample
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        x = 2 * uniform(shape) - 1  # of standard deviation 1 / sqrt 3
        if len(shape) < 2:  # biases, norms, class tokens, logit_scale
            x = x / 2 + (".ln_" in name and name.endswith("weight"))
        elif name.endswith(("query", "embedding", "embedding.weight")):
            x *= sqrt(3)
        else:  # 1.5: attention neither uniform nor one-hot
            fan_in = shape[0] if name.endswith(("proj", "projection")) else prod(shape[1:])
            x *= 1.5 * sqrt(3 / fan_in)
        weights[name] = np.asarray(x, np.float32)
    return weights


def random_pixels(frames: int, size: int, seed: int) -> np.ndarray:
    """Pixels float32 [T, 3, S, S], about as large as normalized ones are."""
    return (4 * np.random.RandomState(seed).random_sample((frames, 3, size, size)) - 2).astype(np.float32)


def cast(weights: Arrays, dtype: str) -> Arrays:
    return {name: array.astype(dtype, copy=False) for name, array in weights.items()}


def checksum(weights: Arrays) -> int:
    """CRC-32 of all tensors, by sorted name."""
    crc = 0
    for name in sorted(weights):
        crc = zlib.crc32(np.ascontiguousarray(weights[name]), crc)
    return crc


def errors(trace: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Each tensor's largest difference, relative to its largest magnitude. Names and shapes must be equal."""
    assert trace.keys() == expected.keys(), f"in one of the traces only: {trace.keys() ^ expected.keys()}"
    found = {}
    for name, x in expected.items():
        assert trace[name].shape == x.shape, f"{name} is {trace[name].shape}, not {x.shape}"
        found[name] = float(abs(trace[name] - x).max() / (abs(x).max() or 1))
        assert np.isfinite(found[name]), f"{name} holds numbers that are not finite"
    return found
