"""VideoCoCa in JAX: an independent implementation to test the verifier on, and an example of a port.

It is written from the papers (CoCa, arXiv 2205.01917; VideoCoCa, arXiv 2212.04979), open_clip's checkpoint
layout and the names of a trace, and shares no code with the package. `trace` runs it in any of four
precisions, correctly or with some of the MISTAKES common in ports: every `port.has("...")` plants one.

    python tests/conformance/jax_coca.py CHECKPOINT INPUTS.safetensors OUT.safetensors
           [--dtype float32] [--mistake ID ...]

Axes: T frames, S image size, P patch size, G = S // P patches per side, N = 1 + G * G tokens per frame,
W vision width, Q queries, E width of everything after the pooler, L tokens of text, V vocabulary;
inside attention H heads of dimension D, L queries, K keys.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)  # JAX has no float64 otherwise
jax.config.update("jax_default_matmul_precision", "highest")  # otherwise float32 products may lose precision

Arrays = dict[str, jax.Array]
Tree = dict[str, Any]  # parameters, nested as their names are

DTYPES = ("float64", "float32", "float16", "bfloat16")
# Mean and standard deviation of red, green and blue.
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MISTAKES = (
    "tanh_gelu",
    "quick_gelu",
    "no_quick_gelu",
    "relu",
    "silu",
    "layer_norm_unbiased",
    "layer_norm_eps",
    "no_ln_pre",
    "no_ln_q",
    "no_ln_k",
    "no_ln_post",
    "no_ln_1",
    "no_ln_2",
    "no_ln_1_kv",
    "post_norm",
    "no_mlp_residual",
    "no_attention_residual",
    "attention_unscaled",
    "attention_scaled_twice",
    "attention_scaled_by_width",
    "vision_heads",
    "pooler_heads",
    "text_heads",
    "decoder_heads",
    "factorized_heads",
    "heads_interleaved",
    "heads_not_moved",
    "heads_merged_unmoved",
    "heads_split_unmoved",
    "heads_split_interleaved",
    "heads_merged_interleaved",
    "attention_over_frames",
    "qk_swapped",
    "kv_swapped",
    "qv_swapped",
    "qkv_transposed",
    "out_proj_transposed",
    "pool_proj_transposed",
    "text_projection_transposed",
    "class_token_last",
    "no_class_embedding",
    "no_positions",
    "no_text_positions",
    "no_text_class_embedding",
    "text_class_first",
    "positions_shifted",
    "text_positions_shifted",
    "patches_by_column",
    "patch_channels_last",
    "patch_transposed",
    "patches_not_moved",
    "pixels_not_moved",
    "bgr",
    "pixels_not_normalized",
    "pixels_to_255",
    "pixels_raw",
    "imagenet_mean",
    "bgr_kernel",
    "mask_not_shifted",
    "mask_shifted_back",
    "mask_in_class_row",
    "no_padding_mask",
    "text_not_causal",
    "decoder_not_causal",
    "padding_mask_in_decoder",
    "log_probabilities",
    "logits_shifted",
    "latent_of_end_token",
    "mean_pooling",
    "ln_final_on_features",
    "no_text_ln_final",
    "no_decoder_ln_final",
    "query_0_kept",
    "latent_last_query",
    "last_query_dropped",
    "not_unit",
    "no_frame_positions",
    "frame_positions_shifted",
    "frames_causal",
    "frames_apart",
    "no_in_proj_bias",
    "no_out_proj_bias",
    "no_c_fc_bias",
    "no_c_proj_bias",
    "axes_transposed",
    "batch_axis",
    "other_weights",
)


@dataclass(frozen=True)
class Port:
    """Options of all layers: the kind of GELU, and the mistakes that are planted."""

    quick_gelu: bool
    mistakes: frozenset[str]

    def has(self, mistake: str) -> bool:
        assert mistake in MISTAKES, mistake
        return mistake in self.mistakes


# Arithmetic, compiled once per shape; no mistakes are planted here ------------------------------------------


@partial(jax.jit, static_argnames="grid")
def patchify(pixels: jax.Array, kernel: np.ndarray, grid: str) -> jax.Array:
    """Embed pixels [T, 3, S, S] by a kernel [W, 3, P, P] -> [T, G * G, W], row by row if grid is "ij".

    A convolution of stride P. Pixels beyond the last whole patch are dropped.
    """
    frames, size, width, side = len(pixels), pixels.shape[-1], *kernel.shape[::3]
    n = size // side
    patches = pixels[:, :, : n * side, : n * side].reshape(frames, 3, n, side, n, side)
    return jnp.einsum(f"tciajb,wcab->t{grid}w", patches, kernel).reshape(frames, n * n, width)


@partial(jax.jit, static_argnames="order")
def linear(x: jax.Array, weight: np.ndarray, bias: np.ndarray | None = None, order: str = "oi") -> jax.Array:
    """Map [..., in] -> [..., out]. PyTorch's layers store [out, in], CLIP's bare projections [in, out]."""
    y = jnp.einsum(f"...i,{order}->...o", x, weight)
    return y if bias is None else y + bias


@partial(jax.jit, static_argnames="ddof")
def standardize(x: jax.Array, eps: float, weight: np.ndarray, bias: np.ndarray, ddof: int = 0) -> jax.Array:
    """Normalize [..., C] to mean 0 and variance 1 (divided by C - ddof), then scale and shift it."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True, ddof=ddof)
    return (x - mean) * jax.lax.rsqrt(variance + eps) * weight + bias


@partial(jax.jit, static_argnames="kind")
def gelu(x: jax.Array, kind: str) -> jax.Array:
    """Apply GELU: "exact", or its approximations "tanh" and "quick"; or "relu" or "silu"."""
    if kind in ("relu", "silu"):
        return getattr(jax.nn, kind)(x)
    return x * jax.nn.sigmoid(1.702 * x) if kind == "quick" else jax.nn.gelu(x, approximate=kind == "tanh")


@jax.jit
def attend(q: Any, k: Any, v: Any, mask: np.ndarray | None, scale: float) -> jax.Array:
    """Attend from q [..., H, L, D] to k and v [..., H, K, D] -> [..., H, L, D]; mask [L, K], True: attend."""
    scores = jnp.einsum("...ld,...kd->...lk", q, k) * scale
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jnp.einsum("...lk,...kd->...ld", jax.nn.softmax(scores), v)


def split_heads(x: jax.Array, heads: int, axes: str) -> np.ndarray:
    """Reshape [..., L, E] to the axes, "lhd" if right, and transpose to [..., H, L, D].

    In NumPy, since JAX would compile each variant for each shape.
    """
    *batch, length, width = x.shape
    size = {"l": length, "h": heads, "d": width // heads}
    y = np.asarray(x).reshape(*batch, *(size[axis] for axis in axes))
    return np.moveaxis(y, [axes.index(axis) - 3 for axis in "hld"], [-3, -2, -1])


def merge_heads(x: jax.Array, axes: str) -> np.ndarray:
    """Transpose [..., H, L, D] to the axes, "lhd" if right, and reshape to [..., L, E]."""
    *batch, heads, length, size = x.shape
    y = np.moveaxis(np.asarray(x), ["hld".index(axis) - 3 for axis in axes], [-3, -2, -1])
    return y.reshape(*batch, length, heads * size)


# Layers -----------------------------------------------------------------------------------------------------


def layer_norm(port: Port, p: Tree, x: jax.Array, unless: str | None = None) -> jax.Array:
    """Apply LayerNorm to [..., C]. The mistake `unless` leaves it out."""
    if unless is not None and port.has(unless):
        return x
    eps = 1e-6 if port.has("layer_norm_eps") else 1e-5
    return standardize(x, eps, p["weight"], p["bias"], 1 if port.has("layer_norm_unbiased") else 0)


def attention(
    port: Port, p: Tree, x: jax.Array, context: jax.Array, heads: int, mask: np.ndarray | None = None
) -> jax.Array:
    """Attend from x [..., L, E] to a context [..., K, C] -> [..., L, E]; mask [L, K], True: attend."""
    if "in_proj_weight" in p:
        weights = np.split(p["in_proj_weight"], 3)  # of query, key and value, [E, E] each
    else:  # [E, E], [E, C], [E, C]
        weights = [p[f"{name}_proj_weight"] for name in "qkv"]
    biases = [None] * 3 if port.has("no_in_proj_bias") else np.split(p["in_proj_bias"], 3)
    for mistake, i, j in ("qk_swapped", 0, 1), ("kv_swapped", 1, 2), ("qv_swapped", 0, 2):
        if port.has(mistake) and weights[i].shape == weights[j].shape:
            for thirds in weights, biases:
                thirds[i], thirds[j] = thirds[j], thirds[i]
    q, k, v = (
        linear(source, w, b, "io" if port.has("qkv_transposed") and w.shape[0] == w.shape[1] else "oi")
        for source, w, b in zip((x, context, context), weights, biases)
    )

    power = 0.0 if port.has("attention_unscaled") else 1.0 if port.has("attention_scaled_twice") else 0.5
    split = "ldh" if port.has("heads_interleaved") else "hld" if port.has("heads_not_moved") else "lhd"
    merged = (
        "hld"
        if port.has("heads_merged_unmoved")
        else "ldh"
        if port.has("heads_merged_interleaved")
        else split
    )
    split = (
        "hld" if port.has("heads_split_unmoved") else "ldh" if port.has("heads_split_interleaved") else split
    )
    scale = (q.shape[-1] // heads) ** -power
    if port.has("attention_scaled_by_width"):
        scale = q.shape[-1] ** -0.5
    y = merge_heads(attend(*(split_heads(x, heads, split) for x in (q, k, v)), mask, scale), merged)
    p, order = p["out_proj"], "io" if port.has("out_proj_transposed") else "oi"
    return linear(y, p["weight"], None if port.has("no_out_proj_bias") else p["bias"], order)


def mlp(port: Port, p: Tree, x: jax.Array) -> jax.Array:
    """Apply the MLP: [..., E] -> [..., E]."""
    quick = port.has("quick_gelu") or (port.quick_gelu and not port.has("no_quick_gelu"))
    x = linear(x, p["c_fc"]["weight"], None if port.has("no_c_fc_bias") else p["c_fc"]["bias"])
    kind = "quick" if quick else "tanh" if port.has("tanh_gelu") else "exact"
    x = gelu(x, next((other for other in ("relu", "silu") if port.has(other)), kind))
    return linear(x, p["c_proj"]["weight"], None if port.has("no_c_proj_bias") else p["c_proj"]["bias"])


def block(
    port: Port,
    p: Tree,
    x: jax.Array,
    heads: int,
    mask: np.ndarray | None = None,
    context: jax.Array | None = None,
) -> jax.Array:
    """Apply attention over x [..., L, E] or a context [K, E], then the MLP, both with residuals."""
    if context is not None:
        context = layer_norm(port, p["ln_1_kv"], context, unless="no_ln_1_kv")

    def attended(x: jax.Array) -> jax.Array:
        if x.ndim == 3 and port.has("attention_over_frames"):  # [T, N, W] taken for [N, T, W]
            x = x.swapaxes(0, 1)
            return attention(port, p["attn"], x, x, heads, mask).swapaxes(0, 1)
        return attention(port, p["attn"], x, x if context is None else context, heads, mask)

    if port.has("post_norm"):
        x = layer_norm(port, p["ln_1"], x + attended(x))
        return layer_norm(port, p["ln_2"], x + mlp(port, p["mlp"], x))
    y = attended(layer_norm(port, p["ln_1"], x, unless="no_ln_1"))
    x = y if port.has("no_attention_residual") else x + y
    y = mlp(port, p["mlp"], layer_norm(port, p["ln_2"], x, unless="no_ln_2"))
    return y if port.has("no_mlp_residual") else x + y


def tower(
    port: Port, name: str, blocks: Tree, x: jax.Array, heads: int, mask: np.ndarray | None = None
) -> tuple[jax.Array, Arrays]:
    """Apply all blocks to x [..., L, E]."""
    out = {f"{name}.embed": x}
    for i in sorted(blocks, key=int):
        x = out[f"{name}.block.{i}"] = block(port, blocks[i], x, heads, mask)
    return x, out


def unit(port: Port, x: jax.Array) -> jax.Array:
    """L2-normalize [E]."""
    return x if port.has("not_unit") else x / jnp.linalg.norm(x)


# Stages: each returns its result and the intermediates by name ---------------------------------------------


def preprocess(port: Port, cfg: Mapping[str, Any], frames: jax.Array) -> jax.Array:
    """Normalize frames [T, S, S, 3], 0 to 255 -> pixels [T, 3, S, S]."""
    mean, std = cfg.get("mean") or CLIP[0], cfg.get("std") or CLIP[1]
    if port.has("imagenet_mean"):
        mean, std = IMAGENET
    x = frames[..., ::-1] if port.has("bgr") else frames
    if not (port.has("pixels_to_255") or port.has("pixels_raw")):
        x = x / 255
    if not (port.has("pixels_not_normalized") or port.has("pixels_raw")):
        x = (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)
    return x.reshape(len(x), 3, *x.shape[1:3]) if port.has("pixels_not_moved") else jnp.moveaxis(x, -1, 1)


def vision(port: Port, cfg: Mapping[str, Any], p: Tree, pixels: jax.Array) -> tuple[jax.Array, Arrays]:
    """Encode each frame separately: pixels [T, 3, S, S] -> tokens [T, N, W]."""
    kernel = p["conv1"]["weight"]  # [W, 3, P, P]
    width, _, side, _ = kernel.shape
    if port.has("patch_channels_last"):  # as stored, but read as [W, P, P, 3]
        kernel = np.moveaxis(kernel.reshape(width, side, side, 3), -1, 1)
    if port.has("patch_transposed"):
        kernel = kernel.swapaxes(2, 3)
    if port.has("bgr_kernel"):
        kernel = kernel[:, ::-1]
    x = patchify(pixels, kernel, "ji" if port.has("patches_by_column") else "ij")
    if port.has("patches_not_moved"):  # [T, W, G * G] reshaped, and not transposed
        x = x.swapaxes(1, 2).reshape(x.shape)
    token = np.broadcast_to(p["class_embedding"], (len(pixels), 1, width))
    if port.has("no_class_embedding"):
        token = np.zeros_like(token)
    x = jnp.concatenate([x, token] if port.has("class_token_last") else [token, x], axis=1)
    positions = p["positional_embedding"]  # [N, W]
    if port.has("no_positions"):
        positions = np.zeros_like(positions)
    x = x + (np.roll(positions, 1, axis=0) if port.has("positions_shifted") else positions)
    if not cfg.get("no_ln_pre"):
        x = layer_norm(port, p["ln_pre"], x, unless="no_ln_pre")
    heads = width // cfg.get("head_width", 64) * (2 if port.has("vision_heads") else 1)
    return tower(port, "vision", p["transformer"]["resblocks"], x, heads)


def pooler(port: Port, cfg: Mapping[str, Any], p: Tree, context: jax.Array) -> jax.Array:
    """Attend from learned queries to a context: [K, W] -> [Q, E]."""
    context = layer_norm(port, p["ln_k"], context, unless="no_ln_k")
    query = layer_norm(port, p["ln_q"], p["query"], unless="no_ln_q")
    heads = cfg.get("attn_pooler_heads", 8) * (2 if port.has("pooler_heads") else 1)
    return attention(port, p["attn"], query, context, heads)


def pool(port: Port, cfg: Mapping[str, Any], p: Tree, tokens: jax.Array) -> tuple[jax.Array, Arrays]:
    """Pool tokens [T, N, W] -> caption tokens [Q', E]; the latent [E] is among the intermediates."""
    form = cfg.get("attentional_pool", False)
    flat = tokens.reshape(-1, tokens.shape[-1])  # [T N, W]: all that VideoCoCa adds to CoCa
    if form is True:  # one pooler: query 0 is for the latent
        attended = pooler(port, cfg, p["attn_pool"], flat)
        if port.has("mean_pooling"):
            attended = jnp.stack([pooler(port, cfg, p["attn_pool"], frame) for frame in tokens])
        x = layer_norm(port, p["ln_post"], attended, unless="no_ln_post")
        if port.has("mean_pooling"):
            x = x.mean(0)
        latent, caption = x[0], x[1:]
        if port.has("query_0_kept"):
            caption = x
        if port.has("last_query_dropped"):
            caption = x[:-1]
        if port.has("latent_last_query"):
            latent = x[-1]
    elif form in ("parallel", "cascade"):  # CoCa, figure 2: a pooler for each
        context = layer_norm(port, p["ln_post"], flat, unless="no_ln_post")
        attended = caption = pooler(port, cfg, p["attn_pool"], context)
        context = context if form == "parallel" else caption
        latent = pooler(port, cfg, p["attn_pool_contrastive"], context)[0]
    else:
        raise ValueError(f'vision_cfg.attentional_pool is {form!r}: give true, "parallel" or "cascade"')
    latent = linear(latent, p["proj"], None, "oi" if port.has("pool_proj_transposed") else "io")
    return caption, {
        "pool.flat": flat,
        "pool.attended": attended,
        "pool.tokens": caption,
        "pool.latent": unit(port, latent),
    }


def factorized(
    port: Port, config: Mapping[str, Any], p: Tree, layers: Tree, tokens: jax.Array
) -> tuple[jax.Array, Arrays]:
    """Pool each frame of tokens [T, N, W] to one embedding, then apply a transformer -> [T, E].

    VideoCoCa's factorized encoder, for a single pooler (`attentional_pool: true`). The latent [E] is among
    the intermediates.
    """
    cfg, across = config["model_cfg"]["vision_cfg"], config["video_cfg"]["factorized"]
    attended = jnp.stack([pooler(port, cfg, p["attn_pool"], frame) for frame in tokens])
    x = layer_norm(port, p["ln_post"], attended, unless="no_ln_post")[:, 0]  # [T, E]
    if across.get("positions") and not port.has("no_frame_positions"):
        positions = layers["positional_embedding"]
        x = (
            x
            + (np.roll(positions, 1, axis=0) if port.has("frame_positions_shifted") else positions)[: len(x)]
        )
    mask = np.tri(len(x), dtype=bool) if port.has("frames_causal") else None
    mask = np.eye(len(x), dtype=bool) if port.has("frames_apart") else mask
    heads = across.get("heads", 8) * (2 if port.has("factorized_heads") else 1)
    x, out = tower(port, "factorized", layers["resblocks"], x, heads, mask)
    latent = linear(x.mean(0), p["proj"], None, "oi" if port.has("pool_proj_transposed") else "io")
    return x, {"pool.attended": attended} | out | {"pool.tokens": x, "pool.latent": unit(port, latent)}


def text(port: Port, cfg: Mapping[str, Any], p: Tree, ids: np.ndarray) -> tuple[jax.Array, Arrays]:
    """Encode ids [L] -> features [L, E]; the latent [E] is among the intermediates."""
    x, token, positions = p["token_embedding"]["weight"][ids], p["cls_emb"][None], p["positional_embedding"]
    if port.has("no_text_class_embedding"):
        token = np.zeros_like(token)
    if port.has("no_text_positions"):
        positions = np.zeros_like(positions)
    x = jnp.concatenate([token, x] if port.has("text_class_first") else [x, token])  # [L + 1, E]
    if port.has("text_positions_shifted"):
        positions = np.roll(positions, -1, axis=0)
    x = x + positions[: len(x)]

    mask, kept = np.tri(len(x), dtype=bool), ids != cfg.get("pad_id", 0)
    unshifted = cfg.get("correct_cls_mask") or port.has("mask_not_shifted")
    kept = np.insert(kept, len(ids) if unshifted else 0, True)  # at 0 in released weights: one key too late
    if port.has("mask_shifted_back"):
        kept = np.append(ids[1:] != cfg.get("pad_id", 0), [True, True])
    if port.has("text_not_causal"):
        mask = np.ones_like(mask)
    if port.has("mask_in_class_row"):
        mask[-1] &= kept
    elif not port.has("no_padding_mask"):
        mask = mask & kept

    heads = cfg.get("heads", 8) * (2 if port.has("text_heads") else 1)
    x, out = tower(port, "text", p["transformer"]["resblocks"], x, heads, mask)
    last = np.flatnonzero(ids != cfg.get("pad_id", 0))[-1] if port.has("latent_of_end_token") else -1
    features, latent = x[:-1], layer_norm(port, p["ln_final"], x[last], unless="no_text_ln_final")
    if port.has("ln_final_on_features"):
        features = layer_norm(port, p["ln_final"], features)
    order = "oi" if port.has("text_projection_transposed") else "io"
    latent = linear(latent, p["text_projection"], None, order)
    return features, out | {"text.tokens": features, "text.latent": unit(port, latent)}


def decoder(
    port: Port, cfg: Mapping[str, Any], p: Tree, x: jax.Array, caption: jax.Array, kept: np.ndarray
) -> Arrays:
    """Decode features [L, E] -> logits [L, V], among the intermediates. kept: True where no padding is."""
    causal = None if port.has("decoder_not_causal") else np.tri(len(x), dtype=bool)
    if port.has("padding_mask_in_decoder"):
        causal = np.tri(len(x), dtype=bool) & kept
    heads, out = cfg.get("heads", 8) * (2 if port.has("decoder_heads") else 1), {}
    for i in sorted(p["resblocks"], key=int):
        x = out[f"decoder.block.{i}.self"] = block(port, p["resblocks"][i], x, heads, causal)
        x = out[f"decoder.block.{i}.cross"] = block(port, p["cross_attn"][i], x, heads, context=caption)
    x = layer_norm(port, p["ln_final"], x, unless="no_decoder_ln_final")
    logits = linear(x, p["text_projection"], None, "io")
    if port.has("log_probabilities"):
        logits = jax.nn.log_softmax(logits)
    return out | {"logits": jnp.roll(logits, 1, axis=0) if port.has("logits_shifted") else logits}


# The whole model --------------------------------------------------------------------------------------------


def parameters(weights: Mapping[str, np.ndarray], dtype: str) -> Tree:
    """Nest {"text.ln_final.bias": x} to {"text": {"ln_final": {"bias": x}}}, in the dtype.

    The arrays stay NumPy's: slicing them needs no compilation.
    """
    tree: Tree = {}
    for name, x in weights.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = np.asarray(x, jnp.dtype(dtype))
    return tree


def trace(
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    *,
    ids: np.ndarray | None = None,
    frames: np.ndarray | None = None,
    pixels: np.ndarray | None = None,
    dtype: str = "float32",
    mistake: str | Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Return every named intermediate that follows from the inputs, in path order, in the dtype.

    config: the contents of config.json, or its model_cfg. weights: by open_clip's names. ids: integers [L].
    frames: uint8 [T, S, S, 3]; the pixels are computed from them. pixels: [T, 3, S, S]. dtype: one of DTYPES.
    mistake: one or several of MISTAKES, without effect where they cannot apply.

    Raises ValueError for another dtype, mistake or shape, or a configuration without an attentional pooler.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: give {', '.join(DTYPES)}")
    mistakes = frozenset([mistake] if isinstance(mistake, str) else mistake or ())
    if not mistakes <= set(MISTAKES):
        unknown = ", ".join(sorted(mistakes - set(MISTAKES)))
        raise ValueError(f"unknown mistakes {unknown}: give {', '.join(MISTAKES)}")
    cfg = config.get("model_cfg", config)
    if "other_weights" in mistakes:  # the same numbers in other places
        weights = {
            name: np.random.RandomState(1).permutation(x.ravel()).reshape(x.shape)
            for name, x in weights.items()
        }
    port, p = Port(cfg.get("quick_gelu", False), mistakes), parameters(weights, dtype)
    size = cfg["vision_cfg"].get("image_size", 224)
    out: dict[str, Any] = {}
    if frames is not None:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (size, size, 3):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}: give uint8 [T, {size}, {size}, 3]")
        out["frames"] = frames
        pixels = preprocess(port, config.get("preprocess_cfg") or {}, jnp.asarray(frames, dtype))
    if pixels is not None:
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise ValueError(f"pixels are {pixels.shape}: give [T, 3, {size}, {size}]")
        out["pixels"] = jnp.asarray(pixels, dtype)
        tokens, intermediates = vision(port, cfg["vision_cfg"], p["visual"], out["pixels"])
        if config.get("video_cfg", {}).get("adapter") == "factorized":
            caption, pooled = factorized(port, config, p["visual"], p["factorized"], tokens)
        else:
            caption, pooled = pool(port, cfg["vision_cfg"], p["visual"], tokens)
        out |= intermediates | pooled
    if ids is not None:
        longest = len(p["text"]["positional_embedding"]) - 1
        if ids.ndim != 1 or len(ids) > longest:
            raise ValueError(f"ids are {ids.shape}: give [L], one text of at most {longest}")
        out["ids"] = ids.astype(np.int64)
        features, intermediates = text(port, cfg["text_cfg"], p["text"], ids)
        out |= intermediates
        if pixels is not None:
            kept = ids != cfg["text_cfg"].get("pad_id", 0)
            out |= decoder(port, cfg["multimodal_cfg"], p["text_decoder"], features, caption, kept)
    return {name: written(port, name, np.asarray(x)) for name, x in out.items()}


def written(port: Port, name: str, x: np.ndarray) -> np.ndarray:
    """Return a tensor as the trace stores it."""
    if port.has("axes_transposed") and name.startswith("vision"):  # sequence first, [N, T, W]
        x = np.ascontiguousarray(x.swapaxes(0, 1))
    if port.has("batch_axis") and name not in ("frames", "ids"):  # a batch of two
        x = np.stack([x, x[..., ::-1]])
    return x


def main() -> None:
    from safetensors.flax import load_file, save_file  # knows bfloat16

    parser = argparse.ArgumentParser(description="Write the trace of a VideoCoCa in JAX.")
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("inputs", type=Path, help="safetensors file with frames or pixels, ids, or both")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--mistake", metavar="ID", nargs="+", help="plant some: " + ", ".join(MISTAKES))
    args = parser.parse_args()
    try:
        config = json.loads((args.checkpoint / "config.json").read_text())
        weights = load_file(args.checkpoint / "model.safetensors")
        stored = load_file(args.inputs)
        inputs = {name: np.asarray(stored[name]) for name in ("frames", "pixels", "ids") if name in stored}
        if not inputs:
            raise ValueError(f"{args.inputs} holds no inputs: it needs frames, pixels or ids")
        tensors = trace(config, weights, **inputs, dtype=args.dtype, mistake=args.mistake)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    part = args.out.with_name(args.out.name + ".part")
    try:
        save_file({name: jnp.asarray(x) for name, x in tensors.items()}, part)
        os.replace(part, args.out)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
