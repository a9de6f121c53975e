"""Hooks into the forward pass: named activations to record or patch, and operations to replace.

    with minivideococa.trace() as activations:
        model.encode_video(pixels)
    activations["vision.block.0"]  # [T, N, W]

`trace` and `replace_operations` are scoped to the context (`contextvars`): other threads are not affected,
and the model's own worker threads inherit the context of their caller.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Operation = TypeVar("Operation", bound=Callable[..., Any])
Patch = Callable[[Array], Array]
Activations = dict[str, Array]  # name -> array, in the order in which they were computed


class _Trace:
    """What one `trace` records, and what it changes."""

    def __init__(
        self, patch: Mapping[str, Array | Patch] | None, weights: bool | str, until: str | None
    ) -> None:
        self.activations: Activations = {}
        self.patch, self.weights, self.until = patch, weights, until


class _Reached(BaseException):  # not for `except Exception` in the block
    """The activation that a trace waits for has been recorded."""


# The names of activations: "vision.block.3", "decoder.block.0.cross.weights"
STAGES = r"frames|pixels|ids|logits|(vision|factorized)\.embed|pool\.(flat|attended|tokens|latent)"
TEXT = r"text\.(embed|tokens|latent)"
BLOCKS = r"(vision|factorized|text)\.block\.\d+|decoder\.block\.\d+\.(self|cross)|pool(\.contrastive)?"
INSIDE = r"q|k|v|weights|attention|mlp|mlp\.hidden"
NAME = re.compile(rf"{STAGES}|{TEXT}|({BLOCKS})(\.({INSIDE}))?")

_trace: ContextVar[_Trace | None] = ContextVar("trace", default=None)
_block: ContextVar[tuple[str, int | None]] = ContextVar("block", default=("", None))


# Activations


@contextmanager
def trace(
    patch: Mapping[str, Array | Patch] | None = None, *, weights: bool | str = False, until: str | None = None
) -> Iterator[Activations]:
    """Record every named activation that the model computes inside the `with` block.

    Yield a dict from name to array. A name that is computed again replaces the earlier array. A trace inside
    another takes over until it ends.

    patch : arrays of the recorded shapes, or functions of the activation that return an array. After each of
        these names the model continues from the given array (activation patching); its own activation is
        recorded all the same.
    weights : also record the attention weights, and inside each block q, k, v, the attention's output, and
        the MLP's hidden activations and output. These are large; the name of a block, such as
        "vision.block.3" or "pool", records those of this block alone.
    until : end the `with` block as soon as this activation has been recorded.

    While a text is generated with a key-value cache, only the newest position is computed, and so recorded.

    Raises ValueError for a name that no activation or block has, and for a patch of another shape. Warns
    (UserWarning) of `until` and of patches that were never reached.
    """
    for name in {*(patch or ()), *([until] if until is not None else [])}:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not the name of an activation, such as vision.block.0 or pool.latent"
            )
    if isinstance(weights, str) and not re.fullmatch(BLOCKS, weights):
        raise ValueError(f"weights is {weights!r}: give True or the name of a block, such as vision.block.0")
    current = _Trace(patch, weights, until)
    token = _trace.set(current)
    try:
        yield current.activations
        if until is not None:
            warnings.warn(f"until={until!r}: no such activation was computed", stacklevel=3)
        if patch and not patch.keys() & current.activations.keys():
            name = next(iter(patch))
            warnings.warn(f"patch: {name} was never computed, nor any other of its names", stacklevel=3)
    except _Reached:
        pass
    finally:
        _trace.reset(token)


def record(name: str, x: Array) -> Array:
    """Record an activation if a trace is active. Return the array to continue from: x, or a patched one."""
    current = _trace.get()
    if current is None:
        return x
    current.activations[name] = x.copy()  # later operations may work in place
    if name == current.until:
        raise _Reached
    if current.patch is None or name not in current.patch:
        return x
    value = current.patch[name]
    return value(x) if callable(value) else _as_patch(name, value, x)


def _as_patch(name: str, value: Any, x: Array) -> Array:
    """Return an array to patch in for x: of its shape and, unless it is an input, of its dtype."""
    array = np.asarray(value)
    if array.shape != x.shape or array.dtype.kind not in "fiu":
        raise ValueError(f"patch of {name}: {array.dtype} {list(array.shape)}, not {x.dtype} {list(x.shape)}")
    return array if name in ("frames", "pixels", "ids") else array.astype(x.dtype, copy=False)


def record_texts(name: str, x: Array) -> Array:
    """Record an activation of a batch of texts [B, ...]; a batch of one loses its batch axis in the trace."""
    return record(name, x[0] if len(x) == 1 else x).reshape(x.shape)


def record_inside(name: str, x: Array) -> Array:
    """Record an activation inside the current `block` as "BLOCK.name", if the trace has its `weights`."""
    current, (prefix, texts) = _trace.get(), _block.get()
    if current is None or current.weights not in (True, prefix):
        return x
    if not prefix.startswith(("text", "decoder")):
        return record(f"{prefix}.{name}", x)
    if texts is None or len(x) == texts:
        return record_texts(f"{prefix}.{name}", x)
    unfolded = x.reshape(len(x), *x.shape[1:-2], texts // len(x), -1, x.shape[-1])  # [B, ..., R / B, L, C]
    by_text = np.moveaxis(unfolded, -3, 1)  # [B, R / B, ..., L, C]
    by_text = record_texts(f"{prefix}.{name}", by_text.reshape(texts, *by_text.shape[2:])).reshape(
        by_text.shape
    )
    return np.moveaxis(by_text, 1, -3).reshape(x.shape)


@contextmanager
def block(name: str, texts: int | None = None) -> Iterator[None]:
    """Name the block that `record_inside` records for inside the `with` block.

    texts: the number R of texts, where those of a video are folded into one sequence [B, ..., (R / B) L, C].
    They are recorded as [R, ..., L, C].
    """
    token = _block.set((name, texts))
    try:
        yield
    finally:
        _block.reset(token)


def tracing() -> bool:
    """Return whether a trace is active."""
    return _trace.get() is not None


def patched() -> bool:
    """Return whether the active trace patches activations."""
    current = _trace.get()
    return current is not None and current.patch is not None


def whole_batch() -> bool:
    """Return whether all frames must be computed at once: a patch is of all, and `until` ends with all."""
    current = _trace.get()
    return patched() or (current is not None and current.until is not None)


def traced(function: Callable[[Array], Array]) -> Callable[[Array], tuple[Array, Activations]]:
    """Return x -> (function(x), its activations), for a part of a batch; the caller joins the parts."""
    outer = _trace.get()

    def run(x: Array) -> tuple[Array, Activations]:
        if outer is None:
            return function(x), {}
        with trace(weights=outer.weights) as activations:
            return function(x), activations

    return run


# Operations

# "module.function" -> the function, as marked where it is defined
REPLACEABLE: dict[str, Callable[..., Any]] = {}
_replacements: ContextVar[Mapping[str, Callable[..., Any]] | None] = ContextVar("replacements", default=None)


def replaceable(function: Operation) -> Operation:
    """Mark an operation as one that `replace_operations` can replace, under the name "module.function"."""
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    REPLACEABLE[name] = function

    @wraps(function)
    def operation(*args: Any, **kwargs: Any) -> Any:
        replacements = _replacements.get()
        return (replacements.get(name, function) if replacements else function)(*args, **kwargs)

    return operation  # type: ignore[return-value]


@contextmanager
def replace_operations(replacements: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Replace operations of the forward pass inside the `with` block.

    replacements : name -> function that takes the operation and returns the one to run in its place, for
        example {"ops.layer_norm": lambda layer_norm: partial(layer_norm, eps=1e-6)}. Inside another
        `replace_operations` it takes the outer replacement. To use the operation, the replacement calls its
        argument: calling it by its public name would run the replacement again.

    Raises ValueError for a name that is not marked as `replaceable`.
    """
    if unknown := replacements.keys() - REPLACEABLE.keys():
        names = ", ".join(sorted(REPLACEABLE))
        raise ValueError(f"no replaceable operation {', '.join(sorted(unknown))}: there are {names}")
    current = dict(_replacements.get() or {})
    for name, make in replacements.items():
        current[name] = _replacement(name, make, current.get(name, REPLACEABLE[name]))
    token = _replacements.set(current)
    try:
        yield
    finally:
        _replacements.reset(token)


def _replacement(name: str, make: Callable[[Any], Any], operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return what replaces an operation. Raises ValueError unless `make` returns a function."""
    hint = f"{name}: give a function that takes the operation and returns its replacement"
    try:
        replacement = make(operation)
    except Exception as error:
        raise ValueError(f"{hint} ({type(error).__name__}: {error})") from error
    if not callable(replacement):
        raise ValueError(f"{hint}, which is a function too")
    return replacement
