"""Changes of the forward pass: operations, parameters or configuration fields replaced.

A known mistake is written as such a change, so that there is only one forward pass. The first half of this
page holds the ways to write a change; the second half the operations that stand in for ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from math import pi, sqrt
from typing import Any

import numpy as np

from ..model import ops, transformer
from ..model.config import (
    Array,
    Config,
    FactorizedConfig,
    Params,
    PreprocessConfig,
    StackConfig,
    VisionConfig,
)
from ..model.videococa import VideoCoCa

Operation = Callable[..., Any]
Make = Callable[[Operation], Operation]  # an operation of the forward pass -> its replacement


@dataclass(frozen=True)
class Change:
    """What is replaced.

    operations: name of a replaceable operation -> its replacement made from the original, see
    `replace_operations`. with_ids: the same for replacements that depend on the ids, which are passed with
    `pad_id`.
    parameters: pattern of parameter names ("*.out_proj.bias") -> function of the array. config: function of
    the configuration.
    outputs: name of an activation that no other depends on -> function of it. adapter: the one that pools.
    within: prefix of the only activations that the operations change; "" for all that they take part in.
    """

    operations: Mapping[str, Make] = field(default_factory=dict)
    parameters: Mapping[str, Callable[[Array], Any]] = field(default_factory=dict)
    config: Callable[[Config], Config] | None = None
    with_ids: Mapping[str, Callable[[Array, int], Make]] = field(default_factory=dict)
    outputs: Mapping[str, Callable[[Array], Array]] = field(default_factory=dict)
    adapter: str | None = None
    within: str = ""

    def replacements(self, ids: Array | None, pad_id: int) -> dict[str, Make]:
        """Return the replacements for `replace_operations`. ids: [L] or [B, L]; None without a text."""
        if ids is None:
            return dict(self.operations)
        made = {name: make(np.atleast_2d(ids), pad_id) for name, make in self.with_ids.items()}
        return {**self.operations, **made}

    def apply(self, model: VideoCoCa, parameters: Iterable[str]) -> VideoCoCa:
        """Return the model with the changed configuration, and with those of `parameters` changed that match.

        The operations are for `replace_operations`.
        """
        params = model.params
        for pattern, function in self.parameters.items():
            for name in parameters:
                if fnmatchcase(name, pattern):
                    params = changed_parameter(params, name.split("."), function)
        config = self.config(model.config) if self.config else model.config
        return rebuilt(model, params, config)


def rebuilt(model: VideoCoCa, params: Params, config: Config) -> VideoCoCa:
    """Return the model with other parameters and configuration. It does not check memory: `memory` does."""
    media = {name: function for name, function in model.media.items() if name != "require_memory_for"}
    return VideoCoCa(config, params, model.tokenizer, **media)


def changed_parameter(tree: Any, path: list[str], function: Callable[[Array], Any]) -> Any:
    """Return a copy of a parameter tree with `function` applied to one array. Other branches are shared."""
    key = int(path[0]) if isinstance(tree, list) else path[0]
    branch = tree[key]
    copy = tree.copy()
    copy[key] = changed_parameter(branch, path[1:], function) if path[1:] else function(branch)
    return copy


def map_parameters(tree: Any, function: Callable[[str, Array], Any], prefix: str = "") -> Any:
    """Return a parameter tree with `function(name, array)` for each array. Names are as in a checkpoint."""
    if isinstance(tree, dict):
        return {key: map_parameters(branch, function, f"{prefix}{key}.") for key, branch in tree.items()}
    if isinstance(tree, list):
        return [map_parameters(branch, function, f"{prefix}{i}.") for i, branch in enumerate(tree)]
    return function(prefix[:-1], tree)


# Ways to write a change -------------------------------------------------------------------------------------


def operation(name: str, make: Make) -> Change:
    """Replace one operation."""
    return Change({name: make})


def constant(substitute: Operation) -> Make:
    """Return a replacement that does not depend on the original."""
    return lambda original: substitute


def parameter(pattern: str, function: Callable[[Array], Any]) -> Change:
    """Replace the parameters whose names match a pattern."""
    return Change(parameters={pattern: function})


def shifted(positions: str, by: int) -> Change:
    """Rotate the rows of a positional embedding."""
    return parameter(positions, lambda x: np.roll(x, by, axis=0))


def without_norm(pattern: str) -> Change:
    """Leave out a LayerNorm: its weight becomes None, and `layer_norm` without a weight the identity."""

    def make(layer_norm: Operation) -> Operation:
        return lambda x, weight, bias, **options: (
            x if weight is None else layer_norm(x, weight, bias, **options)
        )

    return Change({"ops.layer_norm": make}, {f"{pattern}.weight": lambda weight: None})


def other_heads(part: str, name: str = "heads") -> tuple[Change, ...]:
    """Use another number of heads in a part of the configuration: the variants of `likely_heads`."""

    def with_heads(i: int) -> Change:
        def config(config: Config) -> Config:
            options = getattr(config, part)
            if options is None:  # no factorized layers
                return config
            width = config.embed_dim if name == "pooler_heads" else options.width
            heads = likely_heads(getattr(options, name), width)
            changed = replace(options, **{name: heads[i]}) if i < len(heads) else options
            return replace(config, **{part: changed})

        return Change(config=config)

    return tuple(with_heads(i) for i in range(6))


def likely_heads(heads: int, width: int) -> list[int]:
    """Return up to six other numbers of heads: twice, half, one, and usual defaults that divide the width."""
    likely = dict.fromkeys((2 * heads, heads // 2, 1, 8, 12, 16))
    return [n for n in likely if n not in (0, heads) and width % n == 0]


def output(name: str, function: Callable[[Array], Array]) -> Change:
    """Change an activation that no other depends on."""
    return Change(outputs={name: function})


def eps(value: float) -> Change:
    """Use another eps in LayerNorm."""
    return operation("ops.layer_norm", lambda layer_norm: partial(layer_norm, eps=value))


def mean_and_std(function: Callable[[PreprocessConfig], tuple[Any, Any]]) -> Change:
    """Use another mean and standard deviation in preprocessing."""

    def config(config: Config) -> Config:
        mean, std = function(config.preprocess)
        return replace(config, preprocess=replace(config.preprocess, mean=mean, std=std))

    return Change(config=config)


def patches(function: Callable[[Array], Array]) -> Change:
    """Rearrange the patches [T, n * n, 3, P, P] before they are flattened."""

    def make(patchify: Operation) -> Operation:
        def rearranged(pixels: Array, patch_size: int) -> Array:
            x = patchify(pixels, patch_size)
            return function(x.reshape(*x.shape[:2], 3, patch_size, patch_size)).reshape(x.shape)

        return rearranged

    return operation("vision.patchify", make)


def across_frames(mask: Callable[[int], Array]) -> Change:
    """Mask the attention of the layers across T frames by `mask(T)`, bool [T, T]."""

    def make(block: Operation) -> Operation:
        def masked(x: Array, p: Params, config: StackConfig, *rest: Any, **options: Any) -> Any:
            if isinstance(config, FactorizedConfig):
                return block(x, p, config, mask(x.shape[-2]))
            return block(x, p, config, *rest, **options)

        return masked

    return Change({"transformer.residual_block": make}, within="factorized.")


# Replacements of operations ---------------------------------------------------------------------------------


def tanh_gelu(x: Array) -> Array:
    """Approximate GELU by tanh (arXiv 1606.08415, section 2)."""
    y: Array = 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
    return y


def unbiased_layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Apply LayerNorm with the unbiased variance: the sum of squares divided by n - 1."""
    variance = x.var(axis=-1, keepdims=True, ddof=1)
    y: Array = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + eps) * weight + bias
    return y


def post_norm_block(
    x: Array,
    p: Params,
    config: StackConfig,
    mask: ops.Mask = None,
    kv: transformer.KV | None = None,
    cache: transformer.KVCache | None = None,
) -> Array:
    """Run a post-norm residual block: LayerNorm after each residual sum."""
    kv = ops.keys_and_values(x, p["attn"], config.heads) if kv is None else kv
    x = ops.layer_norm(x + ops.attention(x, *kv, p["attn"], config.heads, mask), **p["ln_1"])
    return ops.layer_norm(x + transformer.mlp(x, p["mlp"], config.quick_gelu), **p["ln_2"])


def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    return np.maximum(x, 0)


def silu(x: Array) -> Array:
    """Return x sigmoid(x), also called swish."""
    y: Array = x / (1 + np.exp(-x))
    return y


def without_residual(attention: bool = True, mlp: bool = True) -> Operation:
    """Return a residual block without one of its two residual sums: the one that is False."""

    def block(
        x: Array,
        p: Params,
        config: StackConfig,
        mask: ops.Mask = None,
        kv: transformer.KV | None = None,
        cache: transformer.KVCache | None = None,
    ) -> Array:
        normed = ops.layer_norm(x, **p["ln_1"])
        kv = ops.keys_and_values(normed, p["attn"], config.heads) if kv is None else kv
        x = attention * x + ops.attention(normed, *kv, p["attn"], config.heads, mask)
        return mlp * x + transformer.mlp(ops.layer_norm(x, **p["ln_2"]), p["mlp"], config.quick_gelu)

    return block


def over_frames(block: Operation) -> Operation:
    """Attend over the frames in the image encoder: [T, N, W] is read as [N, T, W]."""

    def make(
        x: Array, p: Params, config: StackConfig, mask: Any = None, kv: Any = None, cache: Any = None
    ) -> Any:
        if not isinstance(config, VisionConfig):
            return block(x, p, config, mask, kv, cache)
        return block(x.swapaxes(0, 1), p, config).swapaxes(0, 1)

    return make


def reshaped(source: int, destination: int) -> Make:
    """Reshape a result that has one axis in another place, instead of transposing it."""

    def make(function: Operation) -> Operation:
        def result(*arguments: Any) -> Any:
            y = function(*arguments)
            return np.moveaxis(y, source, destination).reshape(y.shape)

        return result

    return make


def scaled_keys(power: float) -> Make:
    """Multiply the attention scores by a power of the head width."""
    return lambda attention: lambda x, keys, *rest: attention(x, keys * keys.shape[-1] ** power, *rest)


def scaled_by_width(attention: Operation) -> Operation:
    """Divide the attention scores by sqrt(E) instead of sqrt(D)."""
    return lambda x, keys, values, p, heads, *rest: attention(x, keys * heads**-0.5, values, p, heads, *rest)


def swapped(a: str, b: str) -> Make:
    """Swap two of the projections "q", "k" and "v"."""
    return lambda in_projection: lambda p, which: in_projection(p, {a: b, b: a}.get(which, which))


def transposed_projections(in_projection: Operation) -> Operation:
    """Transpose the weights of q, k and v where they are square."""

    def make(p: Params, which: str) -> tuple[Array, Array]:
        weight, bias = in_projection(p, which)
        return (weight.T if weight.shape[0] == weight.shape[1] else weight), bias

    return make


def split_interleaved(x: Array, heads: int) -> Array:
    """[..., L, E] -> [..., H, L, D] by way of [..., L, D, H]: channel i belongs to head i modulo H."""
    return np.moveaxis(x.reshape(*x.shape[:-1], -1, heads), -1, -3)


def merge_interleaved(x: Array) -> Array:
    """[..., H, L, D] -> [..., L, E] by way of [..., L, D, H]: the inverse of `split_interleaved`."""
    x = np.moveaxis(x, -3, -1)
    return x.reshape(*x.shape[:-2], -1)


def split_without_transpose(x: Array, heads: int) -> Array:
    """[..., L, E] -> [..., H, L, D] by a reshape alone."""
    return x.reshape(*x.shape[:-2], heads, x.shape[-2], -1)


def merge_without_transpose(x: Array) -> Array:
    """[..., H, L, D] -> [..., L, E] by a reshape alone."""
    return x.reshape(*x.shape[:-3], x.shape[-2], -1)


def column_major(x: Array) -> Array:
    """Return the grid of patches [T, n * n, 3, P, P] in column-major order."""
    n = round(sqrt(x.shape[1]))
    return x.reshape(-1, n, n, *x.shape[2:]).swapaxes(1, 2)


def image_class_last(embed: Operation) -> Operation:
    """Put the class token after the patches. Row i still has position i."""

    def make(pixels: Array, visual: Params, config: VisionConfig) -> Array:
        positions = np.roll(visual["positional_embedding"], 1, axis=0)
        return np.roll(embed(pixels, visual | {"positional_embedding": positions}, config), -1, axis=1)

    return make


def without_class_token(embed: Operation) -> Operation:
    """Leave out the class token's row. The patches keep their positions."""
    return lambda *arguments: embed(*arguments)[:, 1:]


def text_class_first(embed: Operation) -> Operation:
    """Put the class embedding before the tokens. Row i still has position i."""

    def make(ids: Array, text: Params) -> Array:
        positions = np.roll(text["positional_embedding"][: ids.shape[1] + 1], -1, axis=0)
        return np.roll(embed(ids, text | {"positional_embedding": positions}), 1, axis=1)

    return make


def bgr_frames(preprocess: Operation) -> Operation:
    """Preprocess frames whose channels are reversed."""
    return lambda frames, config: preprocess(frames[..., ::-1], config)


def other_cls_mask(config: Config) -> Config:
    """Shift the padding mask where it must not be shifted, and the reverse."""
    return replace(config, text=replace(config.text, correct_cls_mask=not config.text.correct_cls_mask))


def mask_shifted_back(attention_mask: Operation) -> Operation:
    """Mask key j - 1 where ids[j] is padding. The last two keys stay visible."""
    return lambda ids, pad_id, _: attention_mask(np.roll(ids, -1, axis=1), pad_id, True)


def mask_in_class_row(attention_mask: Operation) -> Operation:
    """Mask the padding in the last row alone, the class token's. The mask stays causal."""
    causal = no_padding_mask(attention_mask)
    return lambda *arguments: np.concatenate(
        [causal(*arguments)[..., :-1, :], attention_mask(*arguments)[..., -1:, :]], axis=-2
    )


def no_padding_mask(attention_mask: Operation) -> Operation:
    """Mask a text as if it had no padding."""
    return lambda ids, pad_id, correct_cls_mask: attention_mask(
        np.full_like(ids, pad_id + 1), pad_id, correct_cls_mask
    )


def no_causal_mask(attention_mask: Operation) -> Operation:
    """Mask every position as the last one, which attends to all."""
    return lambda *arguments: attention_mask(*arguments)[..., -1:, :]


def all_true(mask: Operation) -> Operation:
    """Return a mask that hides nothing."""
    return lambda *arguments: np.ones_like(mask(*arguments))


def padding_in_decoder(ids: Array, pad_id: int) -> Make:
    """Mask the padding of ids [B, L] in the decoder's self-attention."""
    kept = (ids != pad_id)[:, None, None, :]
    return lambda causal_mask: lambda *arguments: causal_mask(*arguments) & kept


def latent_of_end_token(ids: Array, pad_id: int) -> Make:
    """Move the output at the last id that is not padding to the class position."""
    is_kept = ids != pad_id
    last = np.where(is_kept.any(axis=1), ids.shape[1] - 1 - is_kept[:, ::-1].argmax(axis=1), 0)

    def make(text_transformer: Operation) -> Operation:
        def result(*arguments: Any, **options: Any) -> Array:
            x = text_transformer(*arguments, **options)
            end = x[np.arange(len(x)), last]
            return np.concatenate([x[:, :-1], end[:, None]], axis=1)

        return result

    return make


def shifted_rows(by: int) -> Callable[[Array], Array]:
    """Rotate the positions of logits [..., L, V]."""
    return lambda x: np.roll(x, by, axis=-2)


def shifted_with_zeros(by: int) -> Callable[[Array], Array]:
    """Shift the positions of logits [..., L, V]; the position without logits gets zeros."""

    def function(x: Array) -> Array:
        x = np.roll(x, by, axis=-2)
        x[..., 0 if by > 0 else -1, :] = 0
        return x

    return function


def norm_after_transformer(text_transformer: Operation) -> Operation:
    """Apply `ln_final` to every position that leaves the text transformer."""

    def make(x: Array, mask: Array, text: Params, *rest: Any, **options: Any) -> Array:
        return ops.layer_norm(text_transformer(x, mask, text, *rest, **options), **text["ln_final"])

    return make
