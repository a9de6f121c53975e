"""One activation of the forward pass, recomputed from a trace's own tensors and with changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np

from ..model import videococa
from ..model.config import Array
from ..model.hooks import replace_operations, trace
from ..model.videococa import VideoCoCa
from .changes import Change, Make, Operation, map_parameters
from .names import FLATTENING, Arrays, parameters_of
from .precision import matrices_in_float64

# Module of an operation -> prefixes of the activations that it takes part in
STAGES = {
    "preprocess": ("pixels",),
    "vision": ("vision.",),
    "pooling": ("pool.", "factorized."),
    "text": ("text.",),
    "decoder": ("decoder.", "logits"),
}

POOLED = ("pool.attended", "factorized.embed", "pool.tokens", "pool.latent")


def recompute(
    model: VideoCoCa,
    operations: Sequence[Mapping[str, Make]],
    inputs: Arrays,
    known: Arrays,
    needed: set[str],
    name: str,
    patch: Mapping[str, Any] | None = None,
    adapter: str | None = None,
    weights: bool | str = False,
) -> Array:
    """Return the activation `name`, computed from known tensors.

    operations: replacements, applied in this order. needed: the names to compute. known: the tensors to
    continue from; for any other activation, an array of its shape.
    patch: what to continue from instead of `known`, see `trace`. adapter: the one that pools, if it
    is not the model's. weights: see `trace`.

    Raises ValueError or IndexError where a change does not fit the shapes.
    """
    if patch is None:
        # as functions, which may return other shapes and dtypes
        patch = {key: partial(_constant, x) for key, x in known.items() if key not in needed}
    with ExitStack() as stack:
        stack.enter_context(matrices_in_float64())
        for replacements in operations:
            stack.enter_context(replace_operations(replacements))
        stack.enter_context(replace_operations(only_blocks(model, needed)))
        activations = stack.enter_context(trace(patch, weights=weights, until=name))
        run_stages(model, inputs, known, needed, adapter)
    return activations[name]


def _constant(x: Array, _: Array) -> Array:
    return x


def run_stages(
    model: VideoCoCa, inputs: Arrays, known: Arrays, needed: set[str], adapter: str | None = None
) -> None:
    """Run those stages of the forward pass that compute a needed activation."""
    stages = {name.partition(".")[0] for name in needed}
    tokens = known.get(f"vision.block.{model.config.vision.layers - 1}")
    if stages & {"pixels", "vision"}:
        pixels = model.preprocess(inputs["frames"]) if "pixels" in needed else known["pixels"]
        pixels = model.config.check_pixels(pixels, model.dtype)
        tokens = videococa.frame_tokens(pixels, model.params, model.config, model.config.adapter)
    caption_tokens = known.get("pool.tokens", no_caption_tokens(model))
    if stages & {"pool", "factorized"} and tokens is not None:
        if "pool.flat" in known.keys() - needed:  # for an adapter that takes the tokens of each frame
            tokens = known["pool.flat"].reshape(len(tokens), -1, model.config.vision.width)
        adapter = adapter or model.config.adapter
        caption_tokens = videococa.pool(tokens, model.params, model.config, adapter).tokens
    if "text" in stages:
        model.encode_text(np.atleast_2d(inputs["ids"]))
    if stages & {"decoder", "logits"}:
        model.decode(caption_tokens, np.atleast_2d(inputs["ids"]))


def only_blocks(model: VideoCoCa, needed: set[str]) -> dict[str, Any]:
    """Return replacements that skip the residual blocks whose outputs are not needed."""
    needed_blocks = {id(p) for block, p in blocks(model).items() if block in needed}

    def block_if_needed(residual_block: Operation) -> Operation:
        return lambda x, p, *rest, **options: (
            residual_block(x, p, *rest, **options) if id(p) in needed_blocks else x
        )

    def kv_if_needed(cross_attention_kv: Operation) -> Operation:
        return lambda context, p, heads: (
            cross_attention_kv(context, p, heads) if id(p) in needed_blocks else (context, context)
        )

    return {"transformer.residual_block": block_if_needed, "transformer.cross_attention_kv": kv_if_needed}


def blocks(model: VideoCoCa) -> dict[str, dict[str, Any]]:
    """Return the parameters of each residual block by the name of its activation."""
    vision, text, decoder = model.params["visual"], model.params["text"], model.params["text_decoder"]
    across = model.params.get("factorized", {"resblocks": []})["resblocks"]
    return (
        {f"vision.block.{i}": p for i, p in enumerate(vision["transformer"]["resblocks"])}
        | {f"factorized.block.{i}": p for i, p in enumerate(across)}
        | {f"text.block.{i}": p for i, p in enumerate(text["transformer"]["resblocks"])}
        | {f"decoder.block.{i}.self": p for i, p in enumerate(decoder["resblocks"])}
        | {f"decoder.block.{i}.cross": p for i, p in enumerate(decoder["cross_attn"])}
    )


def no_caption_tokens(model: VideoCoCa) -> Array:
    """Return caption tokens [1, E] for a trace without a video, where nothing compared depends on them."""
    return np.zeros((1, model.config.embed_dim))


def parameter_names(model: VideoCoCa, needed: set[str]) -> list[str]:
    """Return the names of the parameters that the needed activations are computed with."""
    prefixes = tuple(prefix for name in needed for prefix in parameters_of(name))
    names: list[str] = []

    def visit(name: str, array: Array) -> Array:
        if name.startswith(prefixes):
            names.append(name)
        return array

    map_parameters(model.params, visit)
    return names


def affects(change: Change, model: VideoCoCa, needed: set[str], parameters: Sequence[str]) -> bool:
    """Return whether a change may affect one of the needed activations."""
    if change.parameters:
        return any(fnmatchcase(name, pattern) for name in parameters for pattern in change.parameters)
    config = change.config(model.config) if change.config else model.config
    prefixes = [
        *(["pixels"] if config.preprocess != model.config.preprocess else []),
        *(["vision."] if config.vision.heads != model.config.vision.heads else []),
        *(POOLED if config.vision.pooler_heads != model.config.vision.pooler_heads else []),
        *(POOLED if change.adapter and config.adapter in FLATTENING else []),
        *(["factorized."] if config.factorized != model.config.factorized else []),
        *(["text."] if config.text != model.config.text else []),
        *(["decoder."] if config.decoder != model.config.decoder else []),
        *change.outputs,
        *(
            change.within or prefix
            for operation in (*change.operations, *change.with_ids)
            for prefix in STAGES.get(operation.partition(".")[0], ("",))
        ),
    ]
    return any(name.startswith(tuple(prefixes)) for name in needed)
