"""One LiT step from cached frame tokens, ours and open_clip's under PyTorch: time and memory.

A step is the losses (2 x captioning + contrastive, CoCa's weights), their gradients, clipping by the norm,
and AdamW. Both compute the same: the poolers, both text decoders, the losses over one batch; the image
encoder is frozen, its frame tokens are given.

PyTorch is run as open_clip's own training does: CoCa.forward, CoCaLoss and torch.optim.AdamW, eager, texts
padded to the context length. Two more rows show what it takes if its user does more. *trimmed*: what only
padding depends on is left out, in both text decoders, as in ours; this needs other code than open_clip's.
*fused*: AdamW with fused=True.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import models
import numpy as np
from memory import megabytes, peak
from race import Racer, race
from report import Section, ratio

if TYPE_CHECKING:
    import torch
    from open_clip.coca_model import CoCa

FRAMES = 8
CLIPS = {"tiny": 32, "B-32": 8, "L-14": 8}
STEPS = {"tiny": 10, "B-32": 1, "L-14": 1}  # of a turn
CAPTION, FULL = "captions of 10 to 14 ids", "captions as long as the context"
LOSS_WEIGHTS = {"caption": 2.0, "contrastive": 1.0}  # arXiv 2205.01917, section 4.1
RATE, WEIGHT_DECAY, MAX_NORM = 1e-5, 0.1, 1.0
BETAS, EPS = (0.9, 0.98), 1e-6  # open_clip's of a vision transformer
SAME = 1e-3  # the relative difference of two losses in float32 that can be rounding


class Batch(NamedTuple):
    """What a step is computed from: frame tokens [B, T, N, W], ids int64 [B, L], and targets bool [B, L]."""

    inputs: np.ndarray
    ids: np.ndarray
    targets: np.ndarray


def measure(folder: Path, model: str, rounds: int, threads: int) -> Section:
    """Race ours and PyTorch's. Raises RuntimeError if their losses differ."""
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(Racer(f"train_step.{name}", str(folder), model, threads=threads))
            for name in ("ours", "open_clip")
        )
        competitors: dict[str, Callable] = {}
        for texts, trimmed in (CAPTION, (False, True)), (FULL, (False,)):
            competitors[f"minivideococa, {texts}"] = partial(ours, texts)
            for trim, fused in [(trim, fused) for trim in trimmed for fused in (False, True)]:
                name = ", ".join(["torch", *["trimmed"] * trim, *["fused"] * fused, texts])
                competitors[name] = partial(theirs, texts, trim, fused)
        turns = race(competitors, rounds)
    rows = []
    for name, mine in turns.items():
        reference = turns[f"minivideococa, {CAPTION if name.endswith(CAPTION) else FULL}"]
        check_same_losses(name, mine[0]["losses"], reference[0]["losses"])
        milliseconds = sorted(1000 * turn["seconds"] / STEPS[model] for turn in mine)
        middle = f"{np.median(milliseconds):.0f}"
        rows.append([name, middle, f"{milliseconds[0]:.0f} - {milliseconds[-1]:.0f}", ratio(mine, reference)])
    return Section(
        f"A LiT step: {title(model)}, {CLIPS[model]} clips of {FRAMES} frames from cached tokens",
        ["", "ms a step", "min - max", "times ours"],
        rows,
        [f"{STEPS[model]} steps a turn; captioning and contrastive loss, clipping, AdamW; float32."],
        turns,
    )


def measure_memory(folder: Path, model: str, rounds: int, threads: int) -> Section:
    """Return the peaks of processes that make one step each, with captions as long as the context."""
    turns = {}
    for name, function in {"minivideococa": "ours", "torch (open_clip)": "open_clip"}.items():
        with Racer(f"train_step.{function}", str(folder), model, threads=threads) as racer:
            turns |= race({name: partial(racer, FULL)}, 1, warm_up=False)
    rows = [[name, megabytes(turn["peak"]), megabytes(turn["weights"])] for name, (turn,) in turns.items()]
    return Section(
        f"Memory of a LiT step: {title(model)}, {CLIPS[model]} clips of {FRAMES} frames from cached tokens",
        ["", "peak", "of it the weights"],
        rows,
        ["One step in a process of its own, the loading of the weights included; captions fill the context."],
        turns,
    )


def title(model: str) -> str:
    return "the embedded checkpoint" if model == "tiny" else f"coca_ViT-{model}"


def check_same_losses(name: str, losses: dict[str, float], expected: dict[str, float]) -> None:
    """Raise RuntimeError if losses differ by more than rounding."""
    for loss in LOSS_WEIGHTS:
        if not math.isclose(losses[loss], expected[loss], rel_tol=SAME):
            raise RuntimeError(f"{name}: the {loss} loss is {losses[loss]}, not {expected[loss]}")


# What the child processes prepare and run -------------------------------------------------------------------


def checkpoint(folder: str, model: str) -> Path:
    """Return the folder of the weights."""
    from minivideococa.checkpoint.folder import embedded_checkpoint

    return embedded_checkpoint() if model == "tiny" else Path(folder) / models.CHECKPOINT


def batches(folder: str, model: str) -> dict[str, Batch]:
    """Return the batch of each length of captions; the frame tokens are random, as the ids."""
    from minivideococa.checkpoint.config import parse_config

    config = parse_config(json.loads((checkpoint(folder, model) / "config.json").read_text()))
    rng, clips, context = np.random.default_rng(0), CLIPS[model], config.text.context_length
    shape = clips, FRAMES, config.vision.tokens_per_frame, config.vision.width
    inputs = rng.standard_normal(shape, np.float32)
    ids = rng.integers(1, config.text.vocab_size, (clips, context))  # 0 is the padding
    result = {}
    for texts, lengths in {CAPTION: rng.integers(10, 15, clips), FULL: np.full(clips, context)}.items():
        kept = np.arange(context) < lengths[:, None]
        result[texts] = Batch(inputs, ids * kept, kept & (np.arange(context) > 0))
    return result


def ours(folder: str, model: str) -> Callable[[str], dict[str, Any]]:
    """Return a function that makes the steps of a turn."""
    import minivideococa
    from minivideococa.checkpoint.table import unnest
    from minivideococa.training import data
    from minivideococa.training.optimizer import AdamW, clamp_logit_scale, clip
    from minivideococa.training.parameters import Parameters
    from minivideococa.training.step import Objective, accumulate

    models.tune()
    loaded = minivideococa.load(checkpoint(folder, model))
    objective = Objective(loaded.config, "attentional", LOSS_WEIGHTS)
    parameters = Parameters.of(loaded.params, "lit")
    del loaded  # the tuned tensors have been copied
    optimizer = AdamW.of(parameters, WEIGHT_DECAY, BETAS, EPS)
    given = {texts: data.Batch(*batch) for texts, batch in batches(folder, model).items()}

    def losses_of(texts: str) -> dict[str, float]:
        parameters.gradients[:] = 0
        return accumulate(given[texts], parameters, objective)

    def step(texts: str) -> None:
        losses_of(texts)
        clip(parameters.gradients, MAX_NORM)
        optimizer.update(parameters.values, parameters.gradients, RATE)
        clamp_logit_scale(parameters)

    losses = {texts: losses_of(texts) for texts in given}
    return turn_of(model, step, losses, sum(x.nbytes for x in unnest(parameters.params).values()))


def open_clip(folder: str, model: str) -> Callable[[str, bool, bool], dict[str, Any]]:
    """Return a function that makes the steps of a turn, by default as open_clip's own training does."""
    import torch
    from open_clip.loss import CoCaLoss

    torch.set_num_threads(models.threads())
    coca = load_coca(checkpoint(folder, model))
    loss_of = CoCaLoss(LOSS_WEIGHTS["caption"], LOSS_WEIGHTS["contrastive"])
    optimizer = adamw(coca)
    given = {texts: Batch(*map(torch.from_numpy, batch)) for texts, batch in batches(folder, model).items()}

    def losses_of(texts: str, trim: bool = False) -> dict[str, torch.Tensor]:
        output = (trimmed_forward if trim else forward)(coca, given[texts])
        return loss_of(**output, output_dict=True)

    def step(texts: str, trim: bool = False, fused: bool = False) -> None:
        for group in optimizer.param_groups:
            group["fused"] = fused
        optimizer.zero_grad()
        sum(losses_of(texts, trim).values()).backward()
        torch.nn.utils.clip_grad_norm_(coca.parameters(), MAX_NORM)
        optimizer.step()
        with torch.no_grad():
            coca.logit_scale.clamp_(0, math.log(100))

    with torch.no_grad():
        losses, trimmed = (
            {texts: unweighted(losses_of(texts, trim)) for texts in given} for trim in (False, True)
        )
    for texts in given:
        check_same_losses("trimmed", trimmed[texts], losses[texts])
    return turn_of(model, step, losses, sum(p.nbytes for p in coca.parameters()))


def unweighted(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the losses under our names."""
    return {name: losses[f"{name}_loss"].item() / weight for name, weight in LOSS_WEIGHTS.items()}


def turn_of(
    model: str, step: Callable[..., object], losses: dict[str, dict[str, float]], weights: int
) -> Callable[..., dict[str, Any]]:
    """Return a function that makes the steps of a turn, and answers with the losses before the first one."""

    def run(texts: str, *options: bool) -> dict[str, Any]:
        for _ in range(STEPS[model]):
            step(texts, *options)
        return {"losses": losses[texts], "peak": peak(), "weights": weights}

    return run


def load_coca(folder: Path) -> CoCa:
    """Return open_clip's model in float32 with a frozen image encoder."""
    import reference
    from safetensors.torch import load_file

    coca = reference.coca(json.loads((folder / "config.json").read_text())["model_cfg"])
    weights = {name: x.float() for name, x in load_file(folder / "model.safetensors").items()}
    coca.load_state_dict(weights, strict=True, assign=True)
    visual = coca.visual
    visual.class_embedding.requires_grad = visual.positional_embedding.requires_grad = False
    for frozen in (visual.conv1, visual.ln_pre, visual.transformer):
        frozen.requires_grad_(False)
    return coca.train()


def adamw(coca: CoCa) -> torch.optim.Optimizer:
    """Return the optimizer with the weight decay and the groups of open_clip's own training."""
    import torch

    tuned = [p for p in coca.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in tuned if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in tuned if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
    ]
    return torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPS)


def encode_videos(coca: CoCa, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool frame tokens [B, T, N, W] to latents [B, E] and caption tokens [B, Q', E]."""
    import torch.nn.functional as F

    embeddings, caption_tokens = coca.visual._pool(tokens.flatten(1, 2))
    return F.normalize(embeddings @ coca.visual.proj, dim=-1), caption_tokens


def forward(coca: CoCa, batch: Batch) -> dict[str, torch.Tensor]:
    """Return what CoCa's forward pass gives its loss."""
    latents, caption_tokens = encode_videos(coca, batch.inputs)
    output = coca(None, batch.ids, image_latent=latents, image_embs=caption_tokens)
    return {name: output[name] for name in (*FEATURES, "logits", "labels", "logit_scale")}


FEATURES = "image_features", "text_features"


def trimmed_forward(coca: CoCa, batch: Batch) -> dict[str, torch.Tensor]:
    """Return the same without the positions that only padding depends on.

    The class token stays at the end of the context. It attends to the first padding too, by open_clip's
    shifted mask.
    """
    import torch
    import torch.nn.functional as F

    text, context = coca.text, batch.ids.shape[1]
    longest = int(batch.targets.sum(1).max()) + 1
    latents, caption_tokens = encode_videos(coca, batch.inputs)
    x, mask = text._embeds(batch.ids)
    kept = torch.tensor([*range(min(longest + 1, context)), context])
    x = text.transformer(x[:, kept], attn_mask=mask[:, kept][:, :, kept])
    texts = F.normalize(text.ln_final(x[:, -1]) @ text.text_projection, dim=-1)
    logits = coca.text_decoder(caption_tokens, x[:, : longest - 1])
    labels = batch.ids[:, 1:longest]
    return dict(zip(FEATURES, (latents, texts))) | {
        "logits": logits,
        "labels": labels,
        "logit_scale": coca.logit_scale.exp(),
    }
