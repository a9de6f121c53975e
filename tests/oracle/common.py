"""Random weights, random pixels and a measure of error, for the oracle and for tests without torch."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod, sqrt

import numpy as np

Arrays = dict[str, np.ndarray]


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Arrays:
    """Return every tensor of a CoCa, float32, by name. A seed gives the same numbers on every machine.

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
    """Return pixels float32 [T, 3, S, S] in the range of normalized ones."""
    return (4 * np.random.RandomState(seed).random_sample((frames, 3, size, size)) - 2).astype(np.float32)


def cast(weights: Arrays, dtype: str) -> Arrays:
    """Return the weights in another dtype."""
    return {name: array.astype(dtype, copy=False) for name, array in weights.items()}


def checksum(weights: Arrays) -> int:
    """Return the CRC-32 of all tensors, in the order of their names."""
    crc = 0
    for name in sorted(weights):
        crc = zlib.crc32(np.ascontiguousarray(weights[name]), crc)
    return crc


def errors(trace: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return each tensor's largest difference relative to its largest magnitude.

    Raises AssertionError if names or shapes differ.
    """
    assert trace.keys() == expected.keys(), f"in one of the traces only: {trace.keys() ^ expected.keys()}"
    result = {}
    for name, x in expected.items():
        assert trace[name].shape == x.shape, f"{name} is {trace[name].shape}, not {x.shape}"
        result[name] = float(abs(trace[name] - x).max() / (abs(x).max() or 1))
        assert np.isfinite(result[name]), f"{name} holds numbers that are not finite"
    return result
