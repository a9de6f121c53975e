"""The frozen image encoder: a vision transformer (arXiv 2010.11929) that sees each frame by itself.

Pixels [T, 3, S, S] become frame tokens [T, N, W]: one class token and (S // P)^2 patches of P x P pixels.
Nothing in `encode_frames` knows that the frames are a video; that is VideoCoCa's point.
"""

from __future__ import annotations

import numpy as np

from .hooks import record
from .kernels import spread
from .ops import Params, activation, layer_norm, linear
from .transformer import residual_block

PIECE_ROWS = 1100  # tokens at a time: fewer slow the matrix products, more take memory


def patchify(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """[T, 3, S, S] -> [T, (S // P)^2, 3 P P]: patches row by row, each flattened as [3, P, P].

    Pixels beyond the last whole patch are dropped.
    """
    t, channels, s, _ = pixels.shape
    n, p = s // patch_size, patch_size
    x = pixels[:, :, : n * p, : n * p].reshape(t, channels, n, p, n, p)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(t, n * n, channels * p * p)


def embed(pixels: np.ndarray, visual: Params, config) -> np.ndarray:
    """Pixels [T, 3, S, S] -> [T, N, W]: a linear map of each patch, the class token in front, positions, a norm."""
    kernel = visual["conv1"]["weight"]  # [W, 3, P, P]: a convolution of stride P
    width = len(kernel)
    patches = linear(patchify(pixels, config.patch_size), kernel.reshape(width, -1))  # [T, N - 1, W]
    class_token = np.broadcast_to(visual["class_embedding"], (len(patches), 1, width))
    x = np.concatenate([class_token, patches], axis=1) + visual["positional_embedding"]
    return layer_norm(x, **visual["ln_pre"]) if config.ln_pre else x


def blocks(x: np.ndarray, visual: Params, config) -> np.ndarray:
    """[B, L, W] -> [B, L, W] through all blocks: B sequences, each by itself; no norm after the last block."""
    act = activation(config.quick_gelu)
    for i, block in enumerate(visual["transformer"]["resblocks"]):
        x = record(f"vision.block.{i}", residual_block(x, block, config.heads, act))
    return x


def encode_frames(pixels: np.ndarray, visual: Params, config) -> np.ndarray:
    """Pixels [T, 3, S, S] -> frame tokens [T, N, W], each frame by itself.

    VideoCoCa (arXiv 2212.04979), section 3: the encoder whose weights stay as the image-text model left them.
    """

    def encode(pixels: np.ndarray) -> np.ndarray:
        return blocks(record("vision.embed", embed(pixels, visual, config)), visual, config)

    return spread(encode, pixels, max(1, PIECE_ROWS // config.tokens))


def encode_jointly(pixels: np.ndarray, visual: Params, config) -> np.ndarray:
    """Pixels [T, 3, S, S] -> tokens [T, N, W], all frames in one sequence, so that every token sees all others.

    The joint space-time encoder that VideoCoCa compares itself with (arXiv 2212.04979, section 3). Each frame keeps its class
    token, and has the positions that an image has. Attention's cost grows with the square of T.
    """
    x = record("vision.embed", embed(pixels, visual, config))
    return blocks(x.reshape(1, -1, x.shape[-1]), visual, config).reshape(x.shape)
