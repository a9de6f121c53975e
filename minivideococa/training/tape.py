"""The tape: what back-propagation needs of a forward pass, kept while the model's own forward pass runs.

    with keep() as tape:
        features = text.encode_text(ids, params["text"], config.text)
    backward.encode_text(...)  # takes the entries from the end of the tape

The forward pass is not written a second time. `keep` replaces the operations of `model.ops` by ones that
call them and append their inputs (of `softmax` and `split_heads` the result) to a list. Back-propagation runs
through the operations in the opposite order, so it takes each entry from the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..model.hooks import replace_operations

Tape = list[tuple[str, tuple[Any, ...]]]  # (operation, arrays), in the order of the calls


@contextmanager
def keep(recompute: bool = False) -> Iterator[Tape]:
    """Yield the tape of all operations that run inside the `with` block.

    recompute : keep only the inputs of each residual block, and not the 16 arrays of their size and the
        attention weights of its operations. Back-propagation then runs the block a second time, so the time
        of the forward pass is spent twice (gradient checkpointing, arXiv 1604.06174).
    """
    tape: Tape = []
    blocks = {"transformer.residual_block": _residual_block} if recompute else {}
    with replace_operations({name: partial(record, tape) for name, record in (KEPT | blocks).items()}):
        yield tape


def pop(tape: Tape, operation: str) -> tuple[Any, ...]:
    """Take the last entry from the tape. Raises RuntimeError if it is of another operation."""
    name, arrays = tape.pop()
    if name != operation:
        raise RuntimeError(f"the tape ends with {name}, not with {operation}")
    return arrays


# Each function takes the tape and an operation, and returns what runs in its place. No array is copied: the
# model does not change an operation's inputs or results in place.

Operation = Callable[..., Any]


def _linear(tape: Tape, linear: Operation) -> Operation:
    def run(x: Any, weight: Any, bias: Any = None) -> Any:
        tape.append(("linear", (x, weight)))
        return linear(x, weight, bias)

    return run


def _layer_norm(tape: Tape, layer_norm: Operation) -> Operation:
    def run(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
        tape.append(("layer_norm", (x, weight, bias, eps)))
        return layer_norm(x, weight, bias, eps)

    return run


def _input(name: str) -> Callable[[Tape, Operation], Operation]:
    """Return the function that keeps the only input of an operation."""

    def keep_input(tape: Tape, operation: Operation) -> Operation:
        def run(x: Any) -> Any:
            tape.append((name, (x,)))
            return operation(x)

        return run

    return keep_input


def _result(name: str) -> Callable[[Tape, Operation], Operation]:
    """Return the function that keeps the result of an operation, from which its gradient is computed."""

    def keep_result(tape: Tape, operation: Operation) -> Operation:
        def run(*args: Any) -> Any:
            result = operation(*args)
            tape.append((name, (result,)))
            return result

        return run

    return keep_result


def _attention(tape: Tape, attention: Operation) -> Operation:
    def run(x: Any, keys: Any, values: Any, p: Any, heads: int, mask: Any = None) -> Any:
        result = attention(x, keys, values, p, heads, mask)
        tape.append(("attention", (keys, values)))
        return result

    return run


def _residual_block(tape: Tape, residual_block: Operation) -> Operation:
    def run(*args: Any, **kwargs: Any) -> Any:
        length = len(tape)
        result = residual_block(*args, **kwargs)
        tape[length:] = [("residual_block", (args, kwargs))]
        return result

    return run


KEPT: dict[str, Callable[[Tape, Operation], Operation]] = {
    "ops.linear": _linear,
    "ops.layer_norm": _layer_norm,
    "ops.gelu": _input("gelu"),
    "ops.quick_gelu": _input("quick_gelu"),
    "ops.softmax": _result("softmax"),
    "ops.normalize": _input("normalize"),
    "ops.attention": _attention,
    "ops.split_heads": _result("split_heads"),
}
