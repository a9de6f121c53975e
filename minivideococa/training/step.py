"""One step of training: the model's own forward pass, the losses, and back-propagation.

A batch is processed in micro-batches, whose gradients add up to those of the batch. The clips of a
micro-batch are spread over the threads of BLAS, as frames are in `model.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from .. import question_head
from ..model import decoder, pooling, text, vision
from ..model.config import Array, Config, Params
from ..model.kernels import frame_threads
from . import backward
from .data import Batch
from .losses import answer_loss, captioning_loss, contrastive_loss
from .parameters import Parameters
from .tape import Tape, keep

LOSSES = {  # the losses of each task
    "caption": ("caption",),
    "contrastive": ("contrastive",),
    "caption+contrastive": ("caption", "contrastive"),
    "qa": ("caption",),  # the answer is generated after the question
    "qa-classifier": ("answer",),
}
WEIGHTS = {"caption": 2.0, "contrastive": 1.0, "answer": 1.0}  # CoCa's, section 4.1; "answer" stands alone
STAGES = ("vision", "pool", "text", "decoder")

R = TypeVar("R")


@dataclass
class Pass:
    """The results of a forward pass over B clips, and the tapes of the stages to differentiate."""

    tokens: Array  # frame tokens [B, T, N, W]
    latents: Array  # of the videos [B, E]
    caption_tokens: Array  # [B, Q', E]
    texts: Array  # latents of the texts [B, E]
    features: Array  # token features [B, L, E]
    logits: Array | None = None  # [B, n, V] of the first n positions; or of the answers [B, answers]
    tapes: dict[str, Tape] = field(default_factory=dict)  # by stage


def accumulate(
    batch: Batch,
    parameters: Parameters,
    config: Config,
    *,
    adapter: str,
    task: str,
    micro_batch: int | None = None,
    recompute: bool = False,
    weights: Mapping[str, float] = WEIGHTS,
) -> dict[str, float]:
    """Add the gradients of a batch's loss to `parameters.gradients`, and return its losses.

    With micro-batches the contrastive loss is still that of the whole batch: a first pass computes all
    latents and the gradients with respect to them, and a second pass back-propagates these, one micro-batch
    at a time. Only the memory is that of a micro-batch (GradCache, arXiv 2101.06983).

    Parameters
    ----------
    task : one of `LOSSES`.
    micro_batch : the number of clips whose activations are in memory. None: the whole batch.
    recompute : see `tape.keep`.
    weights : the factors of the losses, by name, in their sum.

    Returns
    -------
    dict
        "loss", the weighted sum; "caption", nats per target token; "contrastive"; "answer" and "accuracy" of
        the classifier.
    """
    losses = LOSSES[task]
    parts = batch.split(micro_batch or len(batch))
    totals = dict.fromkeys(losses, 0.0)
    dlatents = None
    if "contrastive" in losses and len(parts) > 1:
        pairs = [latents_of(part, parameters, config, adapter) for part in parts]
        totals["contrastive"], dlatents = _contrastive(pairs, parameters, weights["contrastive"])
