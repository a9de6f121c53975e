"""The catalogue of known porting mistakes. Each is one operation, or one parameter, of our own forward pass replaced.

A mistake that comes in several variants has several changes; a new one is a line in `MISTAKES`. Several mistakes at once
are applied in the order of the catalogue. The last ones have no change: they are recognized by the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import pi, sqrt
from typing import Any

import numpy as np

from ..model import transformer
from ..model.config import Config, PreprocessConfig
from ..model.ops import gelu, keys_and_values, quick_gelu
from ..model.videococa import VideoCoCa
from .substitution import changing, with_parameters

Make = Callable[[Callable], Callable]  # a function of the forward pass -> what stands for it


@dataclass(frozen=True)
class Change:
    """What is replaced: functions by name (see `substituted`), arrays by a pattern of theirs, the configuration."""

    operations: Mapping[str, Make] = field(default_factory=dict)
    parameters: Mapping[str, Callable] = field(default_factory=dict)
    config: Callable[[Config], Config] | None = None

    def of(self, model: VideoCoCa) -> VideoCoCa:
        """The model with the changed parameters and configuration; the operations are for `substituted`."""
        params = with_parameters(model.params, changing(self.parameters)) if self.parameters else model.params
        return VideoCoCa(self.config(model.config) if self.config else model.config, params, model.tokenizer)


@dataclass(frozen=True)
class Mistake:
    """A mistake by its name, what it is in words, and the changes that are its variants."""

    name: str
    words: str
    changes: tuple[Change, ...]


def mistake(name: str, words: str, *changes: Change) -> Mistake:
    """A `Mistake`, written down."""
    return Mistake(name, words, changes)


# How changes are written down ----------------------------------------------------------------------------------


def instead(substitute: Callable) -> Make:
    """Another function in its place."""
    return lambda original: substitute


def parameter(pattern: str, make: Callable[[np.ndarray], Any]) -> Change:
    """Arrays replaced, by the pattern of their names."""
    return Change(parameters={pattern: make})


def shifted(positions: str, by: int) -> Change:
    """Positions moved on by so many rows; what falls off one end comes in at the other."""
    return parameter(positions, lambda x: np.roll(x, by, axis=0))


def left_out(norm: str) -> Change:
    """A layer norm that does nothing: its weight is taken away, and without a weight there is no norm."""

    def make(layer_norm: Callable) -> Callable:
        return lambda x, weight, bias, **more: x if weight is None else layer_norm(x, weight, bias, **more)

    return Change({"layer_norm": make}, {f"{norm}.weight": lambda weight: None})


def other_eps(eps: float) -> Change:
    """LayerNorm with this eps."""
    return Change({"layer_norm": lambda layer_norm: partial(layer_norm, eps=eps)})


def normalised(how: Callable[[PreprocessConfig], tuple]) -> Change:
    """Another mean and standard deviation in preprocessing."""

    def config(config: Config) -> Config:
        mean, std = how(config.preprocess)
        return replace(config, preprocess=replace(config.preprocess, mean=mean, std=std))

    return Change(config=config)


def patches_seen(reorder: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Patches [T, n n, 3, P, P] in another order before they are flattened."""

    def make(patchify: Callable) -> Callable:
        def patches(pixels, patch_size):
            x = patchify(pixels, patch_size)
            return reorder(x.reshape(*x.shape[:2], 3, patch_size, patch_size)).reshape(x.shape)

        return patches

    return Change({"patchify": make})


# What stands for the forward pass's own functions --------------------------------------------------------------


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    """GELU's approximation by tanh (arXiv 1606.08415, section 2)."""
    return 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))


def post_norm_block(x, p, heads, activation, mask=None, context=None, past=None):
    """A residual block that norms after the sums and not before the layers, by transformer.py's own functions."""
    layer_norm = transformer.layer_norm
    context = keys_and_values(x, p["attn"], heads) if context is None else context
    x = layer_norm(x + transformer.attention(x, *context, p["attn"], heads, mask), **p["ln_1"])
    return layer_norm(x + transformer.mlp(x, p["mlp"], activation), **p["ln_2"])


def unbiased_layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """LayerNorm with the variance's sum divided by n - 1."""
    variance = x.var(axis=-1, keepdims=True, ddof=1)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + eps) * weight + bias


def over_frames(block: Callable) -> Callable:
    """A block that takes [T, N, W] for [N, T, W]: each token attends to the same token of the other frames."""
    return lambda x, *rest: block(x.swapaxes(0, 1), *rest).swapaxes(0, 1)


def not_transposed(source: int, destination: int) -> Make:
    """A result y that was made with one axis in another place, and then reshaped to y's shape instead of transposed."""

    def make(function: Callable) -> Callable:
        def reshaped(*arguments):
            y = function(*arguments)
            return np.moveaxis(y, source, destination).reshape(y.shape)

        return reshaped

    return make


def keys_times(power: float) -> Make:
    """Attention whose scores are multiplied by a power of the head width."""
    return lambda attention: lambda x, keys, *rest: attention(x, keys * keys.shape[-1] ** power, *rest)


def swapped(a: str, b: str) -> Make:
    """Two of q, k and v taken for each other."""
    return lambda projection: lambda p, which: projection(p, {a: b, b: a}.get(which, which))


def transposed_where_square(projection: Callable) -> Callable:
    """q, k and v multiplied the wrong way round."""

    def make(p, which):
        weight, bias = projection(p, which)
        return (weight.T if weight.shape[0] == weight.shape[1] else weight), bias

    return make


def split_interleaved(x: np.ndarray, heads: int) -> np.ndarray:
    """[..., L, E] -> [..., heads, L, E / heads], number i of the E to head i modulo heads."""
    return np.moveaxis(x.reshape(*x.shape[:-1], -1, heads), -1, -3)


def merge_interleaved(x: np.ndarray) -> np.ndarray:
    """The inverse of `split_interleaved`."""
    x = np.moveaxis(x, -3, -1)
    return x.reshape(*x.shape[:-2], -1)


def split_unmoved(x: np.ndarray, heads: int) -> np.ndarray:
    """[..., L, E] read as [..., heads, L, E / heads] without moving anything."""
    return x.reshape(*x.shape[:-2], heads, x.shape[-2], -1)


def merge_unmoved(x: np.ndarray) -> np.ndarray:
    """[..., heads, L, E / heads] read as [..., L, E] without moving anything."""
    return x.reshape(*x.shape[:-3], x.shape[-2], -1)


def by_column(patches: np.ndarray) -> np.ndarray:
    """The grid of patches [T, n n, 3, P, P] read column by column."""
    n = round(sqrt(patches.shape[1]))
    return patches.reshape(-1, n, n, *patches.shape[2:]).swapaxes(1, 2)


def class_last(embed: Callable) -> Callable:
    """The image's class token behind the patches; row i has position i all the same."""

    def make(pixels, visual, config):
        positions = np.roll(visual["positional_embedding"], 1, axis=0)
        return np.roll(embed(pixels, visual | {"positional_embedding": positions}, config), -1, axis=1)

    return make


def class_first(embed: Callable) -> Callable:
    """The text's class embedding before the words; row i has position i all the same."""

    def make(ids, text):
        positions = np.roll(text["positional_embedding"][: ids.shape[1] + 1], -1, axis=0)
        return np.roll(embed(ids, text | {"positional_embedding": positions}), 1, axis=1)

    return make


def reversed_channels(preprocess: Callable) -> Callable:
    """Preprocessing that takes RGB for BGR."""
    return lambda frames, config: preprocess(frames[..., ::-1], config)


def flipped_cls_mask(config: Config) -> Config:
    """The padding mask shifted where it should not be, and the reverse."""
    return replace(config, text=replace(config.text, correct_cls_mask=not config.text.correct_cls_mask))


def not_padded(attention_mask: Callable) -> Callable:
    """The mask of a text without padding."""
    return lambda ids, pad_id, correct_cls_mask: attention_mask(
        np.full_like(ids, pad_id + 1), pad_id, correct_cls_mask
    )


def not_backwards(attention_mask: Callable) -> Callable:
    """What the last position may look at, for every position."""
    return lambda *how: attention_mask(*how)[..., -1:, :]


def not_causal(block: Callable) -> Callable:
    """A block without its mask."""

    def make(x, p, heads, activation, mask=None, context=None, past=None):
        return block(x, p, heads, activation, context=context, past=past)

    return make


def normed_features(tower: Callable) -> Callable:
    """ln_final on all that leaves the text tower."""

    def make(x, mask, text, config, past=None):
        return transformer.layer_norm(tower(x, mask, text, config, past), **text["ln_final"])

    return make


# The catalogue, in path order where a mistake has its place ----------------------------------------------------

MISTAKES = (
    mistake(
        "tanh_gelu",
        "GELU by its tanh approximation; CoCa's is the exact one, with erf",
        Change({"gelu": instead(tanh_gelu)}),
    ),
    mistake(
        "quick_gelu",
        "QuickGELU, x sigmoid(1.702 x), where the configuration has the exact GELU",
        Change({"gelu": instead(quick_gelu)}),
    ),
    mistake(
        "no_quick_gelu",
        "the exact GELU where the configuration has QuickGELU, x sigmoid(1.702 x)",
        Change({"quick_gelu": instead(gelu)}),
    ),
    mistake(
        "layer_norm_unbiased",
        "LayerNorm with the unbiased variance (divided by n - 1); LayerNorm's is biased (divided by n)",
        Change({"layer_norm": instead(unbiased_layer_norm)}),
    ),
    mistake(
        "layer_norm_eps",
        "another eps than 1e-5 in LayerNorm",
        other_eps(1e-6),
        other_eps(1e-12),
        other_eps(1e-3),
    ),
    mistake("no_ln_pre", "ln_pre left out, the norm before the first block", left_out("visual.ln_pre")),
    mistake("no_ln_q", "ln_q left out, the norm of the pooler's queries", left_out("*.ln_q")),
    mistake("no_ln_k", "ln_k left out, the norm of what the pooler attends to", left_out("*.ln_k")),
    mistake(
        "no_ln_post",
        "ln_post left out, the norm behind the pooler (before it, in the paper's two poolers)",
        left_out("visual.ln_post"),
    ),
    mistake("no_ln_1", "ln_1 left out, the norm before a block's attention", left_out("*.ln_1")),
    mistake("no_ln_2", "ln_2 left out, the norm before a block's MLP", left_out("*.ln_2")),
    mistake(
        "no_ln_1_kv", "ln_1_kv left out, the norm of what cross-attention looks at", left_out("*.ln_1_kv")
    ),
    mistake(
        "post_norm",
        "norms after the residual sums (post-norm); CoCa's blocks norm before attention and MLP",
        Change({"residual_block": instead(post_norm_block)}),
    ),
    mistake(
        "attention_unscaled",
        "attention's scores not divided by the root of the head width",
        Change({"attention": keys_times(0.5)}),
    ),
    mistake(
        "attention_scaled_twice",
        "attention's scores divided by the root of the head width twice",
        Change({"attention": keys_times(-0.5)}),
    ),
    mistake(
        "heads_interleaved",
        "heads split on the wrong axis: [L, E] is [L, heads, E / heads], not [L, E / heads, heads]",
        Change({"split_heads": instead(split_interleaved), "merge_heads": instead(merge_interleaved)}),
    ),
    mistake(
        "heads_not_moved",
        "heads split by one reshape to [heads, L, E / heads]; it is [L, heads, E / heads], then transposed",
        Change({"split_heads": instead(split_unmoved), "merge_heads": instead(merge_unmoved)}),
    ),
    mistake(
        "heads_merged_unmoved",
        "heads merged by one reshape of [heads, L, E / heads] to [L, E]; they must be moved behind L first",
        Change({"merge_heads": instead(merge_unmoved)}),
    ),
    mistake(
        "heads_split_unmoved",
        "heads merged without having been split: split by one reshape to [heads, L, E / heads], then merged by transposing",
        Change({"split_heads": instead(split_unmoved)}),
    ),
    mistake(
        "heads_split_interleaved",
        "heads split without merging back: split as [L, E / heads, heads], but merged as [L, heads, E / heads]",
        Change({"split_heads": instead(split_interleaved)}),
    ),
    mistake(
        "heads_merged_interleaved",
        "heads merged as [L, E / heads, heads] without having been split so: they are split as [L, heads, E / heads]",
        Change({"merge_heads": instead(merge_interleaved)}),
    ),
    mistake(
        "attention_over_frames",
        "the image encoder's attention goes over the frames and not over a frame's tokens: [T, N, W] is taken for "
        "[N, T, W] (batch_first)",
        Change({"vision.residual_block": over_frames}),
    ),
    mistake(
        "qk_swapped",
        "queries and keys taken for each other; the order in in_proj is q, k, v",
        Change({"projection": swapped("q", "k")}),
    ),
    mistake(
        "kv_swapped",
        "keys and values taken for each other; the order in in_proj is q, k, v",
        Change({"projection": swapped("k", "v")}),
    ),
    mistake(
        "qv_swapped",
        "queries and values taken for each other; the order in in_proj is q, k, v",
        Change({"projection": swapped("q", "v")}),
    ),
    mistake(
        "qkv_transposed",
        "attention's q, k and v weights the wrong way round: [out, in], they multiply as x @ weight.T",
        Change({"projection": transposed_where_square}),
    ),
    mistake(
        "out_proj_transposed",
        "attention's out_proj the wrong way round: [out, in], it multiplies as x @ weight.T",
        parameter("*.out_proj.weight", np.transpose),
    ),
    mistake(
        "pool_proj_transposed",
        "visual.proj the wrong way round: [in, out], it multiplies as x @ proj",
        parameter("visual.proj", np.transpose),
    ),
    mistake(
        "text_projection_transposed",
        "text.text_projection the wrong way round: [in, out], it multiplies as x @ text_projection",
        parameter("text.text_projection", np.transpose),
    ),
    mistake(
        "class_token_last",
        "the image's class token behind the patches; it stands before them",
        Change({"vision.embed": class_last}),
    ),
    mistake(
        "positions_shifted",
        "the image's positional embedding shifted by one row",
        shifted("visual.positional_embedding", 1),
        shifted("visual.positional_embedding", -1),
    ),
    mistake("patches_by_column", "patches in column order; they go row by row", patches_seen(by_column)),
    mistake(
        "patch_transposed",
        "each patch's rows and columns exchanged",
        patches_seen(lambda x: x.swapaxes(-1, -2)),
    ),
    mistake(
        "bgr_kernel",
        "the channels of the patches reversed, BGR for RGB, though the pixels are right",
        patches_seen(lambda x: x[:, :, ::-1]),
    ),
    mistake(
        "patch_channels_last",
        "patches flattened with their channels last; the kernel is [W, 3, P, P], channels first",
        patches_seen(lambda x: np.moveaxis(x, 2, -1)),
    ),
    mistake(
        "patches_not_moved",
        "the patch embedding's output [T, W, patches] reshaped to [T, patches, W]; its axes must be transposed",
        Change({"vision.linear": not_transposed(-1, 1)}),
    ),
    mistake(
        "bgr",
        "the frames' channels in the order BGR; they are RGB",
        Change({"preprocess.preprocess": reversed_channels}),
    ),
    mistake(
        "pixels_not_normalised",
        "pixels from 0 to 1, without mean and standard deviation",
        normalised(lambda p: ((0.0,) * 3, (1.0,) * 3)),
    ),
    mistake(
        "pixels_to_255",
        "pixels not divided by 255 before mean and standard deviation",
        normalised(lambda p: ([m / 255 for m in p.mean], [s / 255 for s in p.std])),
    ),
    mistake(
        "pixels_raw",
        "pixels from 0 to 255, as they are in the frames",
        normalised(lambda p: ((0.0,) * 3, (1 / 255,) * 3)),
    ),
    mistake(
        "pixels_not_moved",
        "frames [T, S, S, 3] reshaped to [T, 3, S, S]; their axes must be transposed",
        Change({"preprocess.preprocess": not_transposed(1, -1)}),
    ),
    mistake(
        "imagenet_mean",
        "pixels normalised by ImageNet's mean and standard deviation; preprocess_cfg has others",
        normalised(lambda p: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ),
    mistake(
        "text_positions_shifted",
        "the text's positional embedding shifted by one row",
        shifted("text.positional_embedding", -1),
        shifted("text.positional_embedding", 1),
    ),
    mistake(
        "text_class_first",
        "the text's class embedding before the words; it stands after the last position, padding included",
        Change({"text.embed": class_first}),
    ),
    mistake(
        "mask_not_shifted",
        "the text's padding mask where the padding is; open_clip's is one key further, unless correct_cls_mask",
        Change(config=flipped_cls_mask),
    ),
    mistake("no_padding_mask", "no padding mask in the text tower", Change({"attention_mask": not_padded})),
    mistake("text_not_causal", "no causal mask in the text tower", Change({"attention_mask": not_backwards})),
    mistake(
        "ln_final_on_features",
        "ln_final on the token features; only the text's latent passes it",
        Change({"tower": normed_features}),
    ),
    mistake(
        "no_text_ln_final",
        "text.ln_final left out, the norm before the text's projection",
        left_out("text.ln_final"),
    ),
    mistake(
        "query_0_kept",
        "query 0 kept among the caption tokens; it makes the latent alone",
        Change({"split_queries": instead(lambda normed: (normed[..., 0, :], normed))}),
    ),
    mistake(
        "latent_last_query",
        "the latent from the last query; it comes from query 0",
        Change({"split_queries": instead(lambda normed: (normed[..., -1, :], normed[..., :-1, :]))}),
    ),
    mistake("not_unit", "the latent not divided by its length", Change({"unit": instead(lambda x: x)})),
    mistake(
        "decoder_not_causal", "no causal mask in the decoder", Change({"decoder.residual_block": not_causal})
    ),
    mistake(
        "no_decoder_ln_final",
        "text_decoder.ln_final left out, the norm before the vocabulary",
        left_out("text_decoder.ln_final"),
    ),
    mistake(
        "no_in_proj_bias", "attention's in_proj_bias dropped", parameter("*.in_proj_bias", np.zeros_like)
    ),
    mistake(
        "no_out_proj_bias", "attention's out_proj.bias dropped", parameter("*.out_proj.bias", np.zeros_like)
    ),
    mistake("no_c_fc_bias", "the MLP's c_fc.bias dropped", parameter("*.c_fc.bias", np.zeros_like)),
    mistake("no_c_proj_bias", "the MLP's c_proj.bias dropped", parameter("*.c_proj.bias", np.zeros_like)),
    mistake(
        "axes_transposed",
        "the tensor is right but for the order of its axes (sequence first, batch first, channels last): transpose it "
        "before it is written",
    ),
    mistake(
        "batch_axis",
        "the tensor is right but for a batch axis of more than one: a trace is of one video, so write one of the batch",
    ),
    mistake(
        "other_weights",
        "the weights are not these: another model's, a finetuned twin's, or quantized ones; give the checkpoint that was "
        "run with --weights",
    ),
)

AXES_TRANSPOSED, BATCH_AXIS, OTHER_WEIGHTS = MISTAKES[-3:]
