"""The first wrong tensor inside a block, where the trace holds the block's finer tensors.

Names as those of `trace(weights=True)`: "vision.block.3.q". Only the block of a fault is looked into. Each
finer tensor is recomputed from the trace's own before it, as the blocks are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..model.config import Array, Config
from ..model.hooks import Patch
from ..model.videococa import VideoCoCa
from .layout import without_unit_axes
from .names import Arrays, activation_names
from .precision import EPSILON, FACTOR, SAMPLES, narrow, perturbed, rounded_in, rounding
from .recompute import recompute
from .report import Fault, Row, difference, relative_error
from .search import Search

# In path order, each with what computes it
PARTS = {
    "q": "the norm before it and the projection of the queries, which are not scaled yet",
    "k": "the norm before it and the projection of the keys",
    "v": "the norm before it and the projection of the values",
    "weights": "the scores q k^T / sqrt(D), the mask and the softmax",
    "attention": "the sum of the values by the weights, the merging of the heads and the output projection",
    "mlp.hidden": "the first residual sum, the norm after it, the first layer of the MLP and its activation",
    "mlp": "the second layer of the MLP",
}
IN_HEADS = ("q", "k", "v", "weights")
USED_BY = {"q": "weights", "k": "weights", "v": "attention", "weights": "attention"}
USED_BY |= {"attention": "mlp.hidden", "mlp.hidden": "mlp"}


@dataclass(frozen=True)
class Block:
    """What gives a tensor. name: as in `trace`. parts: of PARTS, in path order. last: what follows them."""

    name: str
    parts: tuple[str, ...]
    last: str

    def path(self, part: str) -> str:
        """Return the name of a part in a trace."""
        return f"{self.name}.{part}"


def block_of(name: str, config: Config) -> Block | None:
    """Return the block that gives a tensor; None for a tensor of no block."""
    if ".block." in name:
        return Block(name, tuple(PARTS), "the last residual sum, of the block's input, attention and mlp")
    if name == "pool.attended":  # the attention itself
        return Block("pool", IN_HEADS, PARTS["attention"])
    two_poolers = config.vision.attentional_pool is not True
    if name == "pool.latent" and two_poolers and config.adapter != "factorized":
        return Block(
            "pool.contrastive", (*IN_HEADS, "attention"), "the projection and the scaling to length 1"
        )
    return None


def blocks_of(config: Config) -> list[str]:
    """Return the names of the blocks with finer tensors, in path order."""
    blocks = [block_of(name, config) for name in activation_names(config)]
    return [block.name for block in blocks if block]


def inside_of(search: Search, name: str) -> dict[str, Any]:
    """Return what the trace's finer tensors show of a wrong tensor, as fields of a `Fault`."""
    block, row = block_of(name, search.model.config), search.rows[name]
    if block is None or row.layout or row.shape != row.expected_shape:
        return {}
    found = {
        part: search.stored[block.path(part)] for part in block.parts if block.path(part) in search.stored
    }
    if refused := [part for part, x in found.items() if x.dtype.kind != "f"]:
        name, x = block.path(refused[0]), found[refused[0]]
        raise ValueError(f"{name} is {x.dtype}: give float64, float32, float16 or bfloat16")
    try:
        rows, sum_is_wrong = judged_parts(search, name, block, found) if found else ({}, True)
    except (ValueError, IndexError):  # the tensor before the block has another shape
        return {}
    judged = [part for part, row in rows.items() if row.status != "not judged"]
    first = next((part for part in judged if rows[part].status == "wrong"), None)
    end = block.parts.index(first) if first else len(block.parts)
    start = max((i + 1 for i in range(3, end) if block.parts[i] in judged), default=0)  # after q, k and v
    fields = {
        "inside": tuple(rows.values()),
        "wanted": tuple(block.path(part) for part in block.parts[start:end] if part not in judged),
    }
    if first:
        return fields | {"narrowed": block.path(first), "operation": PARTS[first]}
    if found and sum_is_wrong and not fields["wanted"]:
        return fields | {"narrowed": name, "operation": block.last}
    return fields


def judged_parts(search: Search, name: str, block: Block, found: Arrays) -> tuple[dict[str, Row], bool]:
    """Return the rows of the parts, and whether the tensor is wrong even when computed from the parts."""
    with np.errstate(all="ignore"):
        exact, allowed = with_tolerances(search, name, block, {})
        arrays = {part: fitted(part, x.astype(np.float64), exact[part].shape) for part, x in found.items()}
        patch = {part: x for part, x in arrays.items() if x.shape == exact[part].shape}
        local, local_allowed = with_tolerances(search, name, block, patch)
    rows = {
        part: Row(
            block.path(part),
            x.shape,
            exact[part].shape,
            difference(x, exact[part]),
            allowed[part],
            relative_error(x, local[part]),
            local_allowed[part],
            "ok",
        )
        for part, x in arrays.items()
    }
    sum_is_wrong = relative_error(search.found[name], local["block"]) > local_allowed["block"]
    return {part: replace(rows[part], status=status_of(part, rows)) for part in rows}, sum_is_wrong


def status_of(part: str, rows: dict[str, Row]) -> str:
    """Return the verdict on a part, see `Row`.

    It is right if what is computed from it agrees with what the block's input gives: the port may store it in
    another form, such as queries that are scaled.
    """
    row, later = rows[part], rows.get(USED_BY.get(part, ""))
    if row.shape != row.expected_shape or not np.isfinite(row.local_allowed):
        return "not judged"
    wrong = row.local_error > row.local_allowed and not row.agrees and not (later and later.agrees)
    return "wrong" if wrong else "ok"


def with_tolerances(
    search: Search, name: str, block: Block, patch: Arrays
) -> tuple[Arrays, dict[str, float]]:
    """Return the parts and the block, computed with a patch of parts, and the errors allowed in them."""
    exact = run_block(search, search.model, name, block, patch)
    dtype = rounded_in(search.dtype)
    scale = EPSILON[search.dtype] / EPSILON[dtype]
    errors = dict.fromkeys(exact, EPSILON[search.dtype])
    for sample in range(SAMPLES):
        with rounding(dtype):
            rough = run_block(search, search.rough, name, block, patch, sample)
        for part, x in rough.items():
            error = relative_error(narrow(x, dtype).astype(np.float64), exact[part])
            errors[part] = max(errors[part], scale * error)
    return exact, {part: FACTOR * error for part, error in errors.items()}


def run_block(
    search: Search, model: VideoCoCa, name: str, block: Block, patch: Arrays, sample: int | None = None
) -> Arrays:
    """Return the parts, and as "block" the tensor. It continues from the trace's tensors and from `patch`.

    sample: see `perturbed`; None: nothing is perturbed.
    """
    needed, known = (search.upstream(name) | {name}) - {"pixels"}, search.activations
    fixed = {key: x for key, x in known.items() if key not in needed}
    fixed |= {block.path(part): x for part, x in patch.items()}
    functions: dict[str, Any] = {key: partial(constant, x) for key, x in fixed.items()}
    if sample is not None:
        known = {key: x.astype(np.float32) if x.dtype.kind == "f" else x for key, x in known.items()}
        names = [*search.sources, *map(block.path, block.parts)]
        functions = perturbed(names, fixed, rounded_in(search.dtype), sample)
    parts: Arrays = {}

    def keep(part: str, function: Patch, x: Array) -> Array:
        parts[part] = x
        return function(x)

    for part in block.parts:
        functions[block.path(part)] = partial(keep, part, functions.get(block.path(part), unchanged))
    whole = recompute(model, [], search.inputs, known, needed, name, functions, weights=block.name)
    return parts | {"block": whole}


def constant(x: Array, _: Array) -> Array:
    """Return x for any activation."""
    return x


def unchanged(x: Array) -> Array:
    """Return x."""
    return x


def fitted(part: str, x: Array, shape: tuple[int, ...]) -> Array:
    """Return a part with the axes of a trace; q, k and v may have their heads in one axis, [..., L, E].

    The batch and the heads may be one axis, too: [B H, L, D].
    """
    x = without_unit_axes(x, shape)
    if part not in IN_HEADS or x.shape == shape or x.size != prod(shape) or x.ndim < 2:
        return x
    *leading, heads, length, width = shape
    if x.shape[-2:] == (length, heads * width):
        return x.reshape(*leading, length, heads, width).swapaxes(-2, -3)
    return x.reshape(shape) if x.shape[-2:] == (length, width) else x


def part_of(row: Row) -> str:
    """Return the part that a row is of, without its block."""
    return next(part for part in PARTS if row.name.endswith(f".{part}"))


def described(fault: Fault, dtype: str) -> list[str]:
    """Say what is wrong first inside the block of a fault, and which tensors would tell more."""
    lines = [
        f"Not compared: {row.name}, whose shape is {list(row.shape)}, not {list(row.expected_shape)}."
        for row in fault.inside
        if row.status == "not judged" and row.shape != row.expected_shape
    ]
    right = [part_of(row) for row in fault.inside if row.status == "ok"]
    wrong = [row for row in fault.inside if row.status == "wrong"]
    if right:
        lines.append(f"Inside it, these are right: {', '.join(right)}.")
    if wrong:
        error, allowed = f"{wrong[0].local_error:.1e}", f"{wrong[0].local_allowed:.1e}"
        lines.append(
            f"Inside it, the first wrong tensor is {fault.narrowed}. Recomputed from your tensors before it, "
            f"it is off by {error}; {dtype} rounding explains {allowed}. It is computed by {fault.operation}."
        )
    elif fault.narrowed:
        lines.append(f"So the fault is in what follows these: {fault.operation}.")
    if wrong[1:]:
        lines.append(f"Inside it, also wrong: {', '.join(map(part_of, wrong[1:]))}.")
    if fault.wanted and fault.mistake is None:
        lines.append(f"To narrow it, also record {', '.join(fault.wanted)}.")
    return lines
