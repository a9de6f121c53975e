"""Training VideoCoCa on open_clip's modules: the losses of a batch, and their gradients by torch's autograd.

No layer is reimplemented here. The poolers and the stacks are open_clip's, and what is new in training is
built from its modules: the factorized encoder from a Transformer, the question head from an
AttentionalPooler. Everything runs in the dtype of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import reference
import torch
import torch.nn.functional as F
from common import Arrays
from open_clip.coca_model import CoCa
from open_clip.transformer import AttentionalPooler
from torch import Tensor, nn

Losses = dict[str, Tensor]

# The four ways of tuning are made of three phases; a tensor is tuned in a phase if its name begins so.
POOLERS = ("visual.attn_pool", "visual.ln_post", "visual.proj")
TEXTS = ("text.", "text_decoder.", "logit_scale")
NEW = ("factorized.", "question_head.")
TUNED = {"frozen": POOLERS + NEW, "lit": POOLERS + TEXTS + NEW, "full": ("",)}


class Batch(NamedTuple):
    """The arrays of B clips.

    inputs: pixels [B, T, 3, S, S] or frame tokens [B, T, N, W]. ids: int64 [B, L]. targets: bool [B, L], the
    ids to predict. labels: int64 [B], the classes of answers, or None.
    """

    inputs: np.ndarray
    ids: np.ndarray
    targets: np.ndarray
    labels: np.ndarray | None = None


# The model --------------------------------------------------------------------------------------------------


class PaddedPooler(AttentionalPooler):
    """open_clip's pooler for a padded context: [B, L, E] and a mask [B, L], True where to attend."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, queries = self.ln_k(x), self.ln_q(self.query).expand(len(x), -1, -1)
        return self.attn(queries, x, x, key_padding_mask=~mask, need_weights=False)[0]  # [B, Q, E]


class QuestionHead(nn.Module):
    """CoCa's classifier of answers (arXiv 2205.01917, appendix B): a pooler with one query, and a linear."""

    def __init__(self, width: int, heads: int, answers: int) -> None:
        super().__init__()
        self.pooler = PaddedPooler(width, width, heads, n_queries=1)
        self.classifier = nn.Linear(width, answers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.classifier(self.pooler(x, mask)[:, 0])


def new_model(config: Mapping[str, Any]) -> CoCa:
    """Return open_clip's CoCa of a config.json, with the layers that its `video_cfg` adds."""
    model_cfg, video_cfg = config["model_cfg"], config.get("video_cfg", {})
    model = reference.coca(model_cfg)
    if factorized := video_cfg.get("factorized"):
        reference.with_factorized(model, model_cfg, **factorized)
    if answers := video_cfg.get("answers"):
        heads = model_cfg["vision_cfg"].get("attn_pooler_heads", 8)
        model.question_head = QuestionHead(model_cfg["embed_dim"], heads, len(answers))
    return model


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in new_model(config).state_dict().items()}


def load(config: Mapping[str, Any], weights: Arrays) -> CoCa:
    """Return the model with these weights, in their dtype and without a copy."""
    return reference.load(new_model(config), weights)


# The forward pass -------------------------------------------------------------------------------------------


def encode_frames(model: CoCa, pixels: Tensor, jointly: bool = False) -> Tensor:
    """Encode pixels [B, T, 3, S, S] to frame tokens [B, T, N, W]."""
    visual = model.visual
    x = visual._embeds(pixels.flatten(0, 1))  # [B T, N, W]
    sequences = x.reshape(len(pixels), -1, x.shape[-1]) if jointly else x
    return visual.transformer(sequences).reshape(*pixels.shape[:2], *x.shape[1:])


def encode_videos(model: CoCa, inputs: Tensor, adapter: str) -> tuple[Tensor, Tensor]:
    """Encode pixels or frame tokens to latents [B, E], of unit length, and caption tokens [B, Q', E].

    Frame tokens are those of the adapter: `encode_frames(jointly=True)` makes those of "joint".
    """
    tokens = encode_frames(model, inputs, adapter == "joint") if inputs.ndim == 5 else inputs
    B, T, proj = *tokens.shape[:2], model.visual.proj
    if adapter in ("attentional", "joint"):
        embeddings, tokens = model.visual._pool(tokens.flatten(1, 2))
        latents = embeddings.reshape(B, -1) @ proj
    else:
        embeddings, tokens = model.visual._pool(tokens.flatten(0, 1))
        embeddings, tokens = embeddings.reshape(B, T, -1), tokens.unflatten(0, (B, T))
        if adapter == "mean":
            latents, tokens = (embeddings @ proj).mean(1), tokens.mean(1)
        else:
            tokens = across_frames(model, embeddings)
            latents = tokens.mean(1) @ proj
    return F.normalize(latents, dim=-1), tokens


def across_frames(model: CoCa, embeddings: Tensor) -> Tensor:
    """Apply the factorized encoder's layers to one embedding per frame: [B, T, E] -> [B, T, E]."""
    positions = getattr(model.factorized, "positional_embedding", None)
    if positions is not None:
        embeddings = embeddings + positions[: embeddings.shape[1]]
    return model.factorized(embeddings)


def hidden_states(model: CoCa, features: Tensor, caption_tokens: Tensor) -> Tensor:
    """Return the decoder's outputs [B, L, E] after `ln_final`, before the projection to the vocabulary."""
    outputs = []
    handle = model.text_decoder.ln_final.register_forward_hook(lambda module, args, x: outputs.append(x))
    try:
        model.text_decoder(caption_tokens, features)
    finally:
        handle.remove()
    return outputs[0]


# The losses -------------------------------------------------------------------------------------------------


def caption_loss(logits: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over the targets of a batch, in nats.

    logits: [B, L - 1, V], of the ids after the first. open_clip's loss has the same mean; it takes all ids
    but padding as targets.
    """
    return F.cross_entropy(logits[targets[:, 1:]], ids[:, 1:][targets[:, 1:]])


def contrastive_loss(videos: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric cross-entropy of latents [B, E] with those of the same clip."""
    similarities, same = scale * videos @ texts.T, torch.arange(len(videos))
    return (F.cross_entropy(similarities, same) + F.cross_entropy(similarities.T, same)) / 2


def losses(model: CoCa, batch: Batch, adapter: str, weights: Mapping[str, float]) -> Losses:
    """Return the losses that have a weight, by name, and their weighted sum as "loss".

    weights: of "caption" and "contrastive", or of "answer". The ids of that batch are questions, whose
    targets are all but the start token; a label of -1 is an answer that is no class.
    """
    inputs, ids, targets = map(torch.from_numpy, batch[:3])
    latents, caption_tokens = encode_videos(model, inputs, adapter)
    text_latents, features = model._encode_text(ids)
    result: Losses = {}
    if "caption" in weights:
        logits = model.text_decoder(caption_tokens, features[:, :-1])  # as in CoCa.forward
        result["caption"] = caption_loss(logits, ids, targets)
    if "contrastive" in weights:
        result["contrastive"] = contrastive_loss(latents, text_latents, model.logit_scale.exp())
    if "answer" in weights:
        question = torch.cat([torch.ones_like(targets[:, :1]), targets[:, 1:]], dim=1)
        logits = model.question_head(hidden_states(model, features, caption_tokens), question)
        result["answer"] = F.cross_entropy(logits, torch.from_numpy(batch.labels), ignore_index=-1)
    return result | {"loss": sum(weights[name] * loss for name, loss in result.items())}


def gradients(
    config: Mapping[str, Any], weights: Arrays, batch: Batch, adapter: str, loss_weights: Mapping[str, float]
) -> tuple[dict[str, float], Arrays]:
    """Return the losses of a batch, and the gradient of their sum for each tensor that it depends on."""
    model = load(config, weights)
    values = losses(model, batch, adapter, loss_weights)
    values["loss"].backward()
    grads = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return {name: x.item() for name, x in values.items()}, grads


def tuned(names: Iterable[str], phase: str) -> set[str]:
    """Return the names of the tensors that are tuned in a phase."""
    return {name for name in names if name.startswith(TUNED[phase])}


def train(
    config: Mapping[str, Any],
    weights: Arrays,
    batches: Iterable[Batch],
    adapter: str,
    loss_weights: Mapping[str, float],
    phase: str,
    *,
    rate: float,
    max_norm: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> Arrays:
    """Take one step for each batch as open_clip's own training does, and return the tuned tensors."""
    model = load(config, {name: x.copy() for name, x in weights.items()})
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in tuned([name], phase)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [p for name, p in parameters.items() if not _is_decayed(name, p)]
    with_decay = [p for name, p in parameters.items() if _is_decayed(name, p)]
    groups = [{"params": without, "weight_decay": 0.0}, {"params": with_decay}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, eps=eps, weight_decay=weight_decay)
    for batch in batches:
        optimizer.zero_grad()
        losses(model, batch, adapter, loss_weights)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
    return {name: p.detach().numpy() for name, p in parameters.items()}


def _is_decayed(name: str, parameter: Tensor) -> bool:
    """Return whether open_clip_train/main.py gives this parameter weight decay."""
    without = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
    return not without
