"""What rounding in a dtype does to the forward pass: found by running it in that dtype, not by a magic number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from zlib import crc32

import numpy as np

from ..checkpoint.folder import widen_bfloat16
from ..model.videococa import VideoCoCa
from .substitution import substituted, with_parameters

# The distance from 1 to the next number, by dtype: finest first
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

SAMPLES = 3  # so often is the forward pass run to see what rounding does
FACTOR = 8  # up to so many times as much is called rounding

# The narrow dtypes are rounded before and after these, which together see nearly every array of the forward pass; what
# is inside them, long sums above all, implementations keep in float32
ROUNDED = ("linear", "layer_norm", "softmax", "gelu", "quick_gelu")


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 -> the nearest bfloat16, as float32; halfway between two, the even one."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return widen_bfloat16(((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16))


def to_float16(x: np.ndarray) -> np.ndarray:
    """float32 -> the nearest float16, as float32."""
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite
        return x.astype(np.float16).astype(np.float32)


NARROW: dict[str, Callable[[np.ndarray], np.ndarray]] = {"float16": to_float16, "bfloat16": to_bfloat16}


def coarsest(dtypes: Iterable[str]) -> str:
    """The one of these dtypes that rounds most."""
    return max(dtypes, key=EPSILON.__getitem__)


def coarser_than(dtype: str) -> list[str]:
    """The dtypes that round more than this one, finest first."""
    return [other for other, epsilon in EPSILON.items() if epsilon > EPSILON[dtype]]


def is_held(x: np.ndarray, dtype: str) -> bool:
    """Whether every number of a float64 array is one of this dtype, so that storing it there loses nothing."""
    with np.errstate(all="ignore"):
        narrow = x.astype(np.float32)
        if not np.array_equal(narrow, x, equal_nan=True):
            return False
        return dtype == "float32" or np.array_equal(NARROW[dtype](narrow), narrow, equal_nan=True)


def cast(model: VideoCoCa, dtype: str) -> VideoCoCa:
    """The model with its weights in this dtype: float64, float32, or one of the narrow ones held as float32."""

    def change(name: str, weight: np.ndarray) -> np.ndarray:
        weight = weight.astype("float64" if dtype == "float64" else "float32", copy=False)
        return NARROW[dtype](weight) if dtype in NARROW else weight

    return VideoCoCa(model.config, with_parameters(model.params, change), model.tokenizer)


def rounding(dtype: str, sample: int) -> AbstractContextManager:
    """While it lasts, the forward pass rounds to this dtype after each operation; float32 does so of its own accord.

    What is traced is moved by about another rounding before the next block has it. For it may be rounded on its way into
    somebody's file; and every `sample` is moved otherwise, which shows how far errors scatter.
    """
    narrow = NARROW.get(dtype, lambda x: x)

    def rounds(operation: Callable) -> Callable:
        return lambda x, *rest, **more: narrow(operation(narrow(x), *rest, **more))

    def notes(record: Callable) -> Callable:
        def recorded(name: str, x: np.ndarray) -> np.ndarray:
            if x.dtype.kind != "f":  # frames and ids
                return record(name, x)
            x = record(name, narrow(x))
            moves = np.random.default_rng([sample, crc32(name.encode())]).uniform(-0.5, 0.5, x.shape)
            return (x * (1 + EPSILON[dtype] * moves)).astype(np.float32)

        return recorded

    return substituted({"record": notes} | ({name: rounds for name in ROUNDED} if dtype in NARROW else {}))
