"""The error that rounding to a dtype causes, measured by running the forward pass with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from zlib import crc32

import numpy as np

from ..checkpoint.folder import widen_bfloat16
from ..model.config import Array
from ..model.hooks import replace_operations
from ..model.videococa import VideoCoCa
from .changes import Operation, map_parameters, rebuilt

# The distance from 1 to the next number, by dtype: finest first
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

SAMPLES = 3  # runs with rounding
FACTOR = 8  # errors of up to this many times the largest one in these runs count as rounding

# Narrow dtypes round the inputs and outputs of these: nearly every array of the forward pass.
# Sums inside them stay in float32, as implementations keep them.
ROUNDED = ("ops.linear", "ops.layer_norm", "ops.softmax", "ops.gelu", "ops.quick_gelu")


def to_bfloat16(x: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even; the result is float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return widen_bfloat16(((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16))


def to_float16(x: Array) -> Array:
    """Round float32 to the nearest float16; the result is float32, infinite where float16 overflows."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


NARROW: dict[str, Callable[[Array], Array]] = {"float16": to_float16, "bfloat16": to_bfloat16}


def coarsest(dtypes: Iterable[str]) -> str:
    """Return the dtype with the largest epsilon."""
    return max(dtypes, key=EPSILON.__getitem__)


def coarser_than(dtype: str) -> list[str]:
    """Return the dtypes with a larger epsilon, finest first."""
    return [other for other, epsilon in EPSILON.items() if epsilon > EPSILON[dtype]]


def rounded_in(dtype: str) -> str:
    """Return the dtype to run in: float32 instead of float64, whose errors are scaled from it."""
    return "float32" if dtype == "float64" else dtype


def is_exact(x: Array, dtype: str) -> bool:
    """Return whether a float64 array is stored in this dtype without loss."""
    with np.errstate(all="ignore"):
        narrow = x.astype(np.float32)
        if not np.array_equal(narrow, x, equal_nan=True):
            return False
        return dtype == "float32" or np.array_equal(NARROW[dtype](narrow), narrow, equal_nan=True)


def cast(model: VideoCoCa, dtype: str) -> VideoCoCa:
    """Return the model with its weights rounded to a dtype. Narrow dtypes are held as float32."""

    def convert(name: str, weight: Array) -> Array:
        weight = weight.astype("float64" if dtype == "float64" else "float32", copy=False)
        return NARROW[dtype](weight) if dtype in NARROW else weight

    return rebuilt(model, map_parameters(model.params, convert), model.config)


def in_float64(model: VideoCoCa) -> VideoCoCa:
    """Return the model in float64, but for its matrices: see `matrices_in_float64`."""

    def convert(name: str, weight: Array) -> Array:
        matrix = weight.ndim > 1 and name.endswith(("weight", "proj", "projection"))
        return weight if matrix else weight.astype(np.float64, copy=False)

    return rebuilt(model, map_parameters(model.params, convert), model.config)


def matrices_in_float64() -> AbstractContextManager[None]:
    """Cast each matrix where it is used, so that one at a time is held in float64."""

    def make(linear: Operation) -> Operation:
        return lambda x, weight, bias=None: linear(x, weight.astype(x.dtype, copy=False), bias)

    return replace_operations({"ops.linear": make})


def rounding(dtype: str) -> AbstractContextManager[None]:
    """Round to a narrow dtype before and after each operation; float32 arrays are rounded anyway."""
    narrow = NARROW.get(dtype)
    if narrow is None:
        return replace_operations({})

    def make(operation: Operation) -> Operation:
        return lambda x, *rest, **options: narrow(operation(narrow(x), *rest, **options))

    return replace_operations(dict.fromkeys(ROUNDED, make))


def perturbed(
    names: Iterable[str], patch: Mapping[str, Array], dtype: str, sample: int
) -> dict[str, Operation]:
    """Return a patch that rounds every activation and perturbs it by about one more rounding.

    patch: tensors to continue from instead of the computed ones.
    """

    def make(name: str) -> Operation:
        return lambda x: perturb(patch.get(name, narrow(x, dtype)), name, dtype, sample)

    return {name: make(name) for name in names}


def perturb(x: Array, name: str, dtype: str, sample: int, before: int = 0) -> Array:
    """Return an activation perturbed by about one rounding, as float32; frames and ids stay as they are.

    A trace's tensors are rounded on their way into its file. Each `sample` perturbs differently, which shows
    the spread of the errors. before: the number of the activation's elements before x, if x is a part of it.
    """
    if x.dtype.kind != "f":
        return x
    random = np.random.PCG64([sample, crc32(name.encode())]).advance(before)
    moves = np.random.Generator(random).uniform(-0.5, 0.5, x.shape)
    return (x.astype(np.float32) * (1 + EPSILON[dtype] * moves)).astype(np.float32)


def narrow(x: Array, dtype: str) -> Array:
    """Round a float32 array to a dtype; the result is float32."""
    return NARROW[dtype](x) if dtype in NARROW and x.dtype.kind == "f" else x
