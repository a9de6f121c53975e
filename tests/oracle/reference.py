"""VideoCoCa on open_clip: its CoCa under PyTorch with one hook, and every named intermediate of a run.

No part of the network is reimplemented here. A hook after the image encoder flattens the tokens of all
frames into one sequence, which is all that VideoCoCa (arXiv 2212.04979) adds; its factorized encoder has a
transformer of open_clip's more. Other hooks record the outputs of open_clip's modules.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Arrays
from open_clip.coca_model import CoCa
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU, Transformer
from PIL import Image


def video_coca(model_cfg: dict[str, Any], video_cfg: dict[str, Any] | None = None) -> CoCa:
    """Return open_clip's CoCa of a `model_cfg`; its batch of images is the T frames of one video.

    With a `video_cfg`, which is this project's, it has the factorized adapter's layers.
    """
    if video_cfg:
        return with_factorized(coca(model_cfg), model_cfg, **video_cfg["factorized"])
    return flatten_frames(coca(model_cfg))


def with_factorized(
    model: CoCa, model_cfg: dict[str, Any], layers: int, heads: int, positions: int | None = None
) -> CoCa:
    """Add a transformer of open_clip's across the frames: VideoCoCa's factorized encoder."""
    width, act = model_cfg["embed_dim"], QuickGELU if model_cfg.get("quick_gelu") else torch.nn.GELU
    model.factorized = Transformer(width, layers, heads, act_layer=act).eval()
    if positions:
        model.factorized.positional_embedding = torch.nn.Parameter(torch.empty(positions, width))
    return model


def encode_video(model: CoCa, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the latent [1, E] or [1, 1, E], and caption tokens [1, Q', E]; [1, T, E] if factorized."""
    if not hasattr(model, "factorized"):
        return model._encode_image(pixels)
    proj, model.visual.proj = model.visual.proj, None  # open_clip then returns what it would project
    embeddings, _ = model._encode_image(pixels, normalize=False)
    model.visual.proj = proj
    x = embeddings.reshape(1, len(pixels), -1)
    if hasattr(model.factorized, "positional_embedding"):
        x = x + model.factorized.positional_embedding[: len(pixels)]
    x = model.factorized(x)
    return F.normalize(x.mean(1) @ proj, dim=-1), x


def coca(model_cfg: dict[str, Any]) -> CoCa:
    """Return open_clip's unchanged CoCa of a `model_cfg`.

    `text_cfg.correct_cls_mask` is an attribute in open_clip. Load weights before use: some are uninitialized.
    """
    model_cfg = deepcopy(model_cfg)
    model_cfg.pop("custom_text", None)  # for open_clip's factory, not for its class
    correct_cls_mask = model_cfg["text_cfg"].pop("correct_cls_mask", False)
    model_cfg["vision_cfg"]["output_tokens"] = model_cfg["text_cfg"]["output_tokens"] = True
    model = CoCa(**model_cfg).eval()
    model.text.correct_cls_mask = correct_cls_mask
    return model


def flatten_frames(model: CoCa) -> CoCa:
    """Flatten the output of the image encoder, [T, N, W], into one long image [1, T N, W]."""
    model.visual.transformer.register_forward_hook(lambda module, args, x: x.reshape(1, -1, x.shape[-1]))
    return model


def shapes(model_cfg: dict[str, Any], video_cfg: dict[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in open_clip."""
    with torch.device("meta"):  # allocates no memory
        tensors = video_coca(model_cfg, video_cfg).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def load(model: CoCa, weights: Arrays) -> CoCa:
    """Load weights into the model, in their dtype and without a copy, and return it."""
    tensors = {name: torch.from_numpy(x) for name, x in weights.items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model


def preprocess(frames: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Preprocess frames uint8 [T, H, W, 3] to pixels float32 [T, 3, S, S], as config.json says."""
    size = config["model_cfg"]["vision_cfg"]["image_size"]  # open_clip's factory adds it
    cfg = PreprocessCfg(**config.get("preprocess_cfg", {}) | {"size": size})
    transform = image_transform_v2(cfg, is_train=False)
    return np.stack([transform(Image.fromarray(frame)).numpy() for frame in frames])


def trace(model: CoCa, pixels: np.ndarray, ids: np.ndarray) -> Arrays:
    """Return every intermediate by name, as `mvc.trace` does, for pixels [T, 3, S, S] and ids [B, L]."""
    activations = intermediates(model, torch.from_numpy(pixels), torch.from_numpy(ids))
    return {name: x.numpy() for name, x in activations.items()}


@torch.no_grad()
def intermediates(
    model: CoCa, pixels: torch.Tensor | None, ids: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Return the trace as torch tensors (so also in bfloat16). Without pixels or ids, what needs neither."""
    visual, text, decoder = model.visual, model.text, model.text_decoder
    modules = {
        "vision.embed": visual.ln_pre,
        "pool.flat": visual.transformer,
        "pool.attended": visual.attn_pool,
    }
    modules |= {f"vision.block.{i}": block for i, block in enumerate(visual.transformer.resblocks)}
    if factorized := getattr(model, "factorized", None):
        del modules["pool.flat"]  # each frame is pooled separately
        modules |= {f"factorized.block.{i}": block for i, block in enumerate(factorized.resblocks)}
    modules |= {f"text.block.{i}": block for i, block in enumerate(text.transformer.resblocks)}
    modules |= {f"decoder.block.{i}.self": block for i, block in enumerate(decoder.resblocks)}
    modules |= {f"decoder.block.{i}.cross": block for i, block in enumerate(decoder.cross_attn)}

    activations: dict[str, torch.Tensor] = {}

    def record(name: str, x: torch.Tensor) -> None:  # a batch of one loses its axis
        of_frames = name.startswith("vision.") or (factorized and name == "pool.attended")
        x = x if of_frames or len(x) > 1 else x[0]
        activations[name] = x.clone(memory_format=torch.contiguous_format)

    def recorder(name: str) -> Callable:
        return lambda module, args, output: record(name, output)

    handles = [module.register_forward_hook(recorder(name)) for name, module in modules.items()]
    handles.append(
        text.transformer.register_forward_pre_hook(lambda module, args: record("text.embed", args[0]))
    )
    if factorized:
        handles.append(
            factorized.register_forward_pre_hook(lambda module, args: record("factorized.embed", args[0]))
        )
    try:
        if pixels is not None:
            latent, caption_tokens = encode_video(model, pixels.to(model.logit_scale.dtype))
            record("pool.tokens", caption_tokens)
            record("pool.latent", latent.reshape(1, -1))  # [1, 1, E] with "parallel" and "cascade"
        if ids is not None:
            record("ids", ids)
            text_latent, features = model._encode_text(ids)
            record("text.tokens", features)
            record("text.latent", text_latent)
        if pixels is not None and ids is not None:
            record("logits", decoder(caption_tokens.expand(len(ids), -1, -1), features))
    finally:
        for handle in handles:
            handle.remove()
    return activations


def greedy(
    model: CoCa, pixels: np.ndarray, start_id: int, end_id: int, min_length: int, max_length: int
) -> np.ndarray:
    """Return the greedy ids [L] by open_clip's `generate`, up to the end token or `max_length`.

    Two properties of its sampling are avoided: it forces an end at the limit (so the limit is one higher and
    the last id is cut off), and the padding id also ends a text (so there is none).
    """
    ids = model.generate(
        torch.from_numpy(pixels).to(model.logit_scale.dtype),
        text=torch.tensor([[start_id]]),
        generation_type="top_k",
        top_k=1,
        seq_len=max_length + 1,
        min_seq_len=min_length,
        sot_token_id=start_id,
        eos_token_id=end_id,
        pad_token_id=-1,
    )
    return ids[0, :max_length].numpy()
