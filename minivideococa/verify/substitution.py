"""The forward pass with some of its own functions, or of its parameters, replaced: never a second forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from threading import RLock
from typing import Any

from ..media import preprocess
from ..model import decoder, hooks, ops, pooling, text, transformer, videococa, vision

STAGES = {
    module.__name__.rpartition(".")[2]: module
    for module in (ops, hooks, transformer, preprocess, vision, pooling, text, decoder, videococa)
}

_lock = RLock()  # what is replaced is replaced for the whole process


@contextmanager
def substituted(operations: Mapping[str, Callable[[Callable], Callable]]) -> Iterator[None]:
    """While it lasts, the forward pass's functions of these names are what is made from them.

    "gelu" is that function wherever a stage uses it, "vision.layer_norm" the use of `layer_norm` in vision.py alone.
    No other thread may run a model meanwhile.
    """
    with _lock:
        before = []
        try:
            for name, make in operations.items():
                stage, _, function = name.rpartition(".")
                for key, module in STAGES.items():
                    if stage in ("", key) and hasattr(module, function):
                        before.append((module, function, getattr(module, function)))
                        setattr(module, function, make(getattr(module, function)))
            yield
        finally:
            for module, function, original in reversed(before):
                setattr(module, function, original)


def with_parameters(tree: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """A parameter tree like this one with `change(name, array)` for each array; names as in the checkpoint."""
    if isinstance(tree, dict):
        return {
            key: with_parameters(branch, change, f"{path}.{key}".lstrip(".")) for key, branch in tree.items()
        }
    if isinstance(tree, list):
        return [with_parameters(branch, change, f"{path}.{i}") for i, branch in enumerate(tree)]
    return change(path, tree)


def changing(changes: Mapping[str, Callable]) -> Callable[[str, Any], Any]:
    """For `with_parameters`: pattern of a name ("*.out_proj.bias") -> what becomes of the array."""

    def change(name: str, array: Any) -> Any:
        for pattern, make in changes.items():
            if fnmatchcase(name, pattern):
                array = make(array)
        return array

    return change
