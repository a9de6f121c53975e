"""The dimensions of a model, as frozen dataclasses.

`minivideococa.checkpoint.config` makes them from a `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class VisionConfig:
    """The frozen image encoder and its attentional pooler."""

    image_size: int  # S, pixels
    patch_size: int  # P, pixels
    width: int  # W
    layers: int
    heads: int
    mlp_width: int
    ln_pre: bool
    attentional_pool: bool | str  # True, "parallel" or "cascade"
    queries: int  # Q: with attentional_pool True, query 0 is the latent and Q' = Q - 1 are caption tokens
    pooler_heads: int
    quick_gelu: bool

    @property
    def tokens(self) -> int:
        """N, the tokens of a frame: the class token and floor(S / P)^2 patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextConfig:
    """The unimodal text decoder."""

    context_length: int  # the longest L; the class token's position comes on top
    vocab_size: int  # V
    width: int  # = E
    layers: int
    heads: int
    mlp_width: int
    pad_id: int  # the id that the attention mask takes for padding
    correct_cls_mask: bool  # our extension to the layout: an attribute in open_clip
    quick_gelu: bool


@dataclass(frozen=True)
class DecoderConfig:
    """The multimodal text decoder."""

    context_length: int
    width: int  # = E
    layers: int
    heads: int
    mlp_width: int  # always 4 * width
    quick_gelu: bool


@dataclass(frozen=True)
class PreprocessConfig:
    """From frames to pixels."""

    size: int  # S: open_clip takes the vision tower's image_size, whatever preprocess_cfg.size says
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bicubic" or "bilinear"
    resize_mode: str  # "shortest", "longest" or "squash"
    fill_color: int  # 0 to 255, the borders of "longest"


@dataclass(frozen=True)
class Config:
    """All that the weights do not say. Made by `parse_config`."""

    embed_dim: int  # E
    vision: VisionConfig
    text: TextConfig
    decoder: DecoderConfig
    preprocess: PreprocessConfig
    pad_id: int  # the padding of generation; `text.pad_id` is the mask's
    tokenizer_clean: str  # "lower" or "whitespace": what is done to a text before it is tokenized
    source: dict[str, Any] = field(repr=False, compare=False)  # the config.json, always with its two sections
