"""The runs of the forward pass that a trace is judged by: the reference, and runs with rounding.

Only the reference is kept whole. Every other run is compared with it as it goes, one activation after
another, and leaves no more than errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..model import decoder, text, videococa
from ..model.config import Array, Params, VisionConfig
from ..model.hooks import replace_operations, trace
from ..model.kernels import map_frames
from ..model.videococa import VideoCoCa
from ..model.vision import BATCH_TOKENS
from ..progress import Update
from .changes import Operation
from .names import Arrays, activation_names
from .precision import (
    EPSILON,
    SAMPLES,
    cast,
    in_float64,
    matrices_in_float64,
    narrow,
    perturb,
    rounded_in,
    rounding,
)
from .recompute import no_caption_tokens
from .report import largest_row, typical_row
from .traces import INPUTS, Trace

# Frame tokens: the largest error of so many is shown by one sample, and of more tokens, by a part of them
MANY_ROWS = 1000

Step = Callable[[str, slice, Array], Array]  # a name, frames, their activation -> what to continue from
ALL = slice(None)


def forward(model: VideoCoCa, tested: Trace, tokens: Array | None = None) -> Array | None:
    """Run the model on the inputs of a trace; nothing is refused that is not finite.

    tokens: the frame tokens to continue from. Returns the frame tokens; None without a video.
    """
    config, params = model.config, model.params
    caption_tokens = no_caption_tokens(model).astype(model.dtype)
    if tested.pixels is not None:
        if tokens is None:
            config.check_frames(len(tested.pixels), config.adapter)
            pixels = config.check_pixels(tested.pixels, model.dtype)
            tokens = videococa.frame_tokens(pixels, params, config, config.adapter)
        caption_tokens = videococa.pool(tokens, params, config, config.adapter).tokens
    if "ids" in tested.inputs:
        ids = config.check_ids(np.atleast_2d(tested.inputs["ids"]))
        _, features = text.encode_text(ids, params["text"], config.text)
        kv = decoder.cross_attention_kv(caption_tokens[None], params["text_decoder"], config.decoder)
        decoder.decode(features, kv, params["text_decoder"], config.decoder)
    return tokens


def exact_run(model: VideoCoCa, tested: Trace, patch: Arrays | None = None) -> Arrays:
    """Return every activation that the model computes in float64, continuing from the patch."""
    with matrices_in_float64(), trace(patch) as activations:
        forward(in_float64(model), tested)
    return activations


def walk(
    model: VideoCoCa,
    tested: Trace,
    step: Step,
    tokens: Array | None = None,
    every: int = 1,
    fill: Callable[[Array], Array] | None = None,
) -> Array | None:
    """Run the forward pass; after each activation it continues from what `step` returns.

    The image encoder computes frames in parts, in threads. tokens and the result: as in `forward`. every:
    only frames 0, `every`, ... are encoded, and `fill` returns the tokens of all frames from theirs.
    """

    def patch(frames: slice) -> dict[str, Operation]:
        return {name: partial(step, name, frames) for name in activation_names(model.config)}

    def in_parts(transformer: Operation) -> Operation:
        def run(x: Array, visual: Params, config: VisionConfig) -> Array:
            def encode(numbers: Array) -> Array:
                part = slice(int(numbers[0]), int(numbers[-1]) + 1, every)
                with trace(patch(part)):
                    return transformer(x[part], visual, config)

            with trace():  # `map_frames` computes all frames at once if they are patched
                frames, batch = np.arange(0, len(x), every), max(1, BATCH_TOKENS // config.tokens_per_frame)
                found = map_frames(encode, frames, batch)
            return fill(found) if fill and len(found) < len(x) else found

        return run

    with replace_operations({"vision.transformer": in_parts}), trace(patch(ALL)):
        return forward(model, tested, tokens)


def rounding_errors(
    model: VideoCoCa, dtype: str, tested: Trace, patch: Arrays, exact: Arrays, update: Update
) -> dict[str, float]:
    """Return the largest `Difference.rel` that rounding to a dtype causes in each activation in a few runs.

    patch: tensors to continue from. exact: what they are compared with. float64's errors are float32's,
    scaled: our own float64 run is the reference. Of many frame tokens one sample is taken, of some of the
    frames; the others are given the errors of these.
    """
    run_in = rounded_in(dtype)
    rough, scale = cast(model, run_in), EPSILON[dtype] / EPSILON[run_in]
    errors = {name: [EPSILON[dtype]] for name in exact if name not in ("frames", "ids")}
    typical = {name: typical_row(exact[name]) for name in errors}
    tokens, last = None, f"vision.block.{model.config.vision.layers - 1}"
    every = 1 if tested.pixels is None else max(1, exact[last][..., 0].size // MANY_ROWS)

    def fill(found: Array) -> Array:
        right = patch.get(last, exact[last])
        return (right + np.repeat(found - right[::every], every, axis=0)[: len(right)]).astype(np.float32)

    def step(sample: int, name: str, frames: slice, x: Array) -> Array:
        if name in errors:
            x = narrow(x, run_in)
            errors[name].append(scale * largest_row(x, exact[name][frames]) / typical[name])
            x = patch[name][frames] if name in patch else x
        return perturb(x, name, run_in, sample, (frames.start or 0) * x[:1].size)

    for sample in range(SAMPLES):
        with rounding(run_in):
            tokens = walk(rough, tested, partial(step, sample), tokens, every, fill)
        if tokens is not None and tokens[..., 0].size < MANY_ROWS:
            tokens = None  # every sample encodes the frames again
        update(1)
    return {name: max(found) for name, found in errors.items()}


def nearby_run(model: VideoCoCa, tested: Trace, patch: Arrays, reference: Arrays, stretch: float) -> Arrays:
    """Return what `exact_run` returns for a patch close to the reference, from a run in float32.

    So close, each block is linear: it is run `stretch` times as far from the reference as the patch is, and
    what its result moves by is divided by that. So is the error of float32.
    """
    local = {name: x if name in INPUTS else np.empty_like(x) for name, x in reference.items()}

    def step(name: str, frames: slice, x: Array) -> Array:
        if name in INPUTS:
            return x
        exact = reference[name][frames]
        local[name][frames] = exact + (x - exact) / stretch
        if name not in patch:
            return x
        return (exact + stretch * (patch[name][frames] - exact)).astype(np.float32)

    walk(cast(model, "float32"), tested, step)
    return local
