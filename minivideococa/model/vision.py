"""The frozen image encoder: a vision transformer (arXiv 2010.11929), applied to each frame separately.

Pixels [T, 3, S, S] become frame tokens [T, N, W]: a class token and floor(S / P)^2 patches of P x P pixels.
"""

import numpy as np

from .config import Array, Callback, Params, VisionConfig
from .hooks import block, record, replaceable
from .kernels import map_distinct
from .ops import layer_norm, linear
from .transformer import residual_block

BATCH_TOKENS = 1100  # tokens at a time: with fewer, matrix products are slower; more take more memory


@replaceable
def patchify(pixels: Array, patch_size: int) -> Array:
    """Cut images [T, 3, S, S] into patches [T, n n, 3 P P], n = floor(S / P).

    The patches go row by row, each flattened as [3, P, P]. Pixels beyond the last whole patch are dropped.
    """
    T, channels, S, _ = pixels.shape
    n, P = S // patch_size, patch_size
    x = pixels[:, :, : n * P, : n * P].reshape(T, channels, n, P, n, P)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(T, n * n, channels * P * P)


@replaceable
def embed_patches(patches: Array, kernel: Array) -> Array:
    """Project patches [T, n n, 3 P P] by the kernel [W, 3, P, P], a convolution of stride P: [T, n n, W]."""
    return linear(patches, kernel.reshape(len(kernel), -1))


@replaceable
def embed(pixels: Array, visual: Params, config: VisionConfig) -> Array:
    """Embed pixels [T, 3, S, S] -> [T, N, W]: the class token, then the patches; positions; `ln_pre`."""
    patches = embed_patches(patchify(pixels, config.patch_size), visual["conv1"]["weight"])  # [T, N - 1, W]
    class_token = np.broadcast_to(visual["class_embedding"], (len(patches), 1, config.width))
    x = np.concatenate([class_token, patches], axis=1) + visual["positional_embedding"]
    return layer_norm(x, **visual["ln_pre"]) if config.ln_pre else x


@replaceable
def transformer(x: Array, visual: Params, config: VisionConfig) -> Array:
    """Apply all blocks to B independent sequences [B, L, W] -> [B, L, W]. No norm follows the last block."""
    for i, p in enumerate(visual["transformer"]["resblocks"]):
        with block(f"vision.block.{i}"):
            x = residual_block(x, p, config)
        x = record(f"vision.block.{i}", x)
    return x


def encode_frames(pixels: Array, visual: Params, config: VisionConfig, progress: Callback = None) -> Array:
    """Encode each frame separately: pixels [T, 3, S, S] -> frame tokens [T, N, W].

    The frozen image encoder of VideoCoCa (arXiv 2212.04979, section 3). progress: called with the number of
    frames just finished.
    """

    def encode(pixels: Array) -> Array:
        return transformer(record("vision.embed", embed(pixels, visual, config)), visual, config)

    return map_distinct(encode, pixels, max(1, BATCH_TOKENS // config.tokens_per_frame), progress)


def encode_jointly(pixels: Array, visual: Params, config: VisionConfig, progress: Callback = None) -> Array:
    """Encode all frames as one sequence, every token attending to all others: [T, 3, S, S] -> [T, N, W].

    The joint space-time encoder that VideoCoCa compares with (arXiv 2212.04979, section 3). Each frame keeps
    its class token, and its positions are an image's. The cost of attention grows with the square of T.
    """
    x = record("vision.embed", embed(pixels, visual, config))  # [T, N, W]
    tokens = transformer(x.reshape(1, -1, config.width), visual, config).reshape(x.shape)
    if progress:
        progress(len(pixels))
    return tokens
