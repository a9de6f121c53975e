"""One step of training: the model's own forward pass, the losses, and back-propagation.

A batch is processed in micro-batches, whose gradients add up to those of the batch. The clips of a
micro-batch are spread over the threads of BLAS, as frames are in `model.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from ..model import decoder, pooling, text, vision
from ..model.config import Array, Config, Params
from ..model.kernels import frame_threads
from ..question_head import answer_logits
from . import backward
from .data import Batch
from .losses import answer_loss, captioning_loss, contrastive_loss
from .parameters import Parameters
from .tape import Tape, keep

Losses = dict[str, float]
Latents = tuple[Array, Array]  # of videos and of texts, or their gradients: each [B, E]


@dataclass(frozen=True)
class Objective:
    """What is minimized: the sum of some losses under an adapter, each with its factor."""

    config: Config
    adapter: str
    weights: Mapping[str, float]  # by loss: "caption" and "contrastive" or one of them, or "answer"


@dataclass
class Pass:
    """The forward pass of B clips: its results, and the tapes of the stages to differentiate."""

    batch: Batch
    latents: Latents
    caption_tokens: Array  # [B, Q', E]
    features: Array  # token features [B, L, E]
    logits: Array | None  # of the first n positions [B, n, V], or of the answers [B, answers]
    tapes: dict[str, Tape]  # by stage


# A batch


def accumulate(
    batch: Batch,
    parameters: Parameters,
    objective: Objective,
    micro_batch: int | None = None,
    recompute: bool = False,
) -> Losses:
    """Add the gradients of a batch's loss to `parameters.gradients`, and return its losses.

    With micro-batches the contrastive loss is still that of the whole batch: a first pass computes all
    latents and the gradients with respect to them, and a second pass back-propagates these through one
    micro-batch at a time. So only one has its activations in memory (arXiv 2101.06983).

    micro_batch : the number of clips whose activations are in memory. None: the whole batch.
    recompute : see `tape.keep`.

    Return "loss", the sum with the factors, and each loss by name: "caption" and "answer" are in nats per
    target. Beside "answer" stands the "accuracy" of the classifier.
    """
    params, grads = parameters.params, parameters.grads
    given: dict[str, Any] = {"params": params, "objective": objective}
    encode = partial(forward, **given, decode=False)
    run_forward = partial(forward, **given, stages=differentiated(grads), recompute=recompute)
    run_backward = partial(back_propagate, **given, counts=counts_of(batch))
    shares = []  # of the losses, one from each part of the batch
    dlatents: Iterator[Latents | None] = repeat(None)  # of the parts, one after another
    with _threads(batch, micro_batch) as (micro_batches, run):
        trees = parameters.grads_of_threads(len(micro_batches[0]))
        contrastive, whole = "contrastive" in objective.weights, len(micro_batches) == 1
        if contrastive and not whole:
            encoded = [done for parts in micro_batches for done in run(encode, parts)]
            share, dlatents = _contrastive(encoded, objective, params, grads)
            shares.append(share)
        for parts in micro_batches:
            passes = run(run_forward, parts)
            if contrastive and whole:
                share, dlatents = _contrastive(passes, objective, params, grads)
                shares.append(share)
            shares += run(run_backward, passes, dlatents, trees)
    parameters.gather()
    return _total(shares, objective)


def losses_of(batch: Batch, params: Params, objective: Objective, micro_batch: int | None = None) -> Losses:
    """Return the losses of a batch, as `accumulate` does, without gradients."""
    passes, shares, counts = [], [], counts_of(batch)
    with _threads(batch, micro_batch) as (micro_batches, run):
        for parts in micro_batches:
            for done in run(partial(forward, params=params, objective=objective), parts):
                shares.append(_share(done, objective, counts)[0])
                passes.append(replace(done, logits=None))
    if "contrastive" in objective.weights:
        shares.append(_contrastive(passes, objective, params)[0])
    return _total(shares, objective)


def mean_losses(
    batches: Iterable[Batch], params: Params, objective: Objective, micro_batch: int | None = None
) -> Losses:
    """Return the losses of several batches together: means over all that `counts_of` counts.

    So a long text weighs as much as in one batch. The negatives of the contrastive loss are those of each
    batch.
    """
    found = [(losses_of(batch, params, objective, micro_batch), counts_of(batch)) for batch in batches]

    def mean(name: str) -> float:
        total = sum(losses[name] * counts[name] for losses, counts in found)
        return total / max(1, sum(counts[name] for _, counts in found))

    return _total([{name: mean(name) for name in found[0][0] if name != "loss"}], objective)


def counts_of(batch: Batch) -> dict[str, int]:
    """Return what each loss of a batch is a mean over: targets, clips, known answers, and all answers."""
    labels = np.zeros(0) if batch.labels is None else batch.labels
    return {
        "caption": int(batch.targets.sum()),
        "contrastive": len(batch.ids),
        "answer": int((labels >= 0).sum()),
        "accuracy": len(labels),
    }


def _total(shares: list[Losses], objective: Objective) -> Losses:
    """Return the sums of the shares by name, after "loss", the sum of all losses with their factors."""
    losses: Losses = {}
    for share in shares:
        for name, value in share.items():
            losses[name] = losses.get(name, 0.0) + value
    return {"loss": sum(weight * losses[name] for name, weight in objective.weights.items())} | losses


@contextmanager
def _threads(
    batch: Batch, micro_batch: int | None
) -> Iterator[tuple[list[list[Batch]], Callable[..., list[Any]]]]:
    """Yield the micro-batches, each in one part per thread, and a function like `map` that runs the parts.

    BLAS is limited to one thread meanwhile, unless there are fewer clips than threads.
    """
    size = min(micro_batch or len(batch.ids), len(batch.ids))
    with frame_threads(size) as threads, ThreadPoolExecutor(threads) as executor:

        def run(function: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
            # a thread does not inherit the caller's context, in which operations are replaced
            contexts = [
                partial(copy_context().run, function, *values) for values in zip(*arguments, strict=False)
            ]
            return list(executor.map(lambda call: call(), contexts))

        yield [micro.parts(-(-size // threads)) for micro in batch.parts(size)], run


# Forward


def forward(
    batch: Batch,
    params: Params,
    objective: Objective,
    stages: Collection[str] = (),
    recompute: bool = False,
    decode: bool = True,
) -> Pass:
    """Run the model's own functions on a batch, and keep the tapes of these stages.

    decode: whether to compute the logits, if a loss depends on them. Those after the last target are not
    computed: the decoder is causal, so the others are the same without them.
    """
    config, adapter = objective.config, objective.adapter
    tapes: dict[str, Tape] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        if name not in stages:
            yield
            return
        with keep(recompute) as tapes[name]:
            yield

    with stage("vision"):
        tokens = encode_frames(batch.inputs, params["visual"], config, adapter)  # [B, T, N, W]
    with stage("pool"):
        video_latents, caption_tokens = pooling.pool_video(tokens, params, config, adapter)
    with stage("text"):
        text_latents, features = text.encode_text(batch.ids, params["text"], config.text)
    with stage("decoder"):
        logits = _logits(batch, features, caption_tokens, params, objective) if decode else None
    return Pass(batch, (video_latents, text_latents), caption_tokens, features, logits, tapes)


def encode_frames(inputs: Array, visual: Params, config: Config, adapter: str) -> Array:
    """Return the frame tokens [B, T, N, W] of pixels [B, T, 3, S, S], and frame tokens as they are."""
    if inputs.ndim == 4:
        return inputs
    B, T = inputs.shape[:2]
    x = vision.embed(inputs.reshape(B * T, *inputs.shape[2:]), visual, config.vision)  # [B T, N, W]
    x = x.reshape(B if adapter == "joint" else B * T, -1, x.shape[-1])
    return vision.transformer(x, visual, config.vision).reshape(B, T, -1, x.shape[-1])


def _logits(
    batch: Batch, features: Array, caption_tokens: Array, params: Params, objective: Objective
) -> Array | None:
    """Return the logits of the answers [B, answers], or of the ids after the first n positions [B, n, V]."""
    config, layers = objective.config, params["text_decoder"]
    if set(objective.weights) == {"contrastive"}:
        return None
    kv = decoder.cross_attention_kv(caption_tokens, layers, config.decoder)
    if "answer" in objective.weights:
        hidden = decoder.hidden_states(features, kv, layers, config.decoder)  # [B, L, E]
        mask = np.arange(hidden.shape[1]) < batch.lengths[:, None]  # [B, L], False at padding
        return answer_logits(hidden, mask, params["question_head"], config.vision.pooler_heads)
    return decoder.decode(features[:, : batch.lengths.max() - 1], kv, layers, config.decoder)


def _share(done: Pass, objective: Objective, counts: Mapping[str, int]) -> tuple[Losses, Array | None]:
    """Return what a part adds to the captioning or the answer loss, and the gradient of its logits."""
    batch, logits = done.batch, done.logits
    if logits is None:
        return {}, None
    if "answer" in objective.weights:
        assert batch.labels is not None
        loss, dlogits = answer_loss(logits, batch.labels, max(1, counts["answer"]))
        correct = int((logits.argmax(axis=1) == batch.labels).sum())
        return {"answer": loss, "accuracy": correct / counts["accuracy"]}, dlogits
    n = logits.shape[1] + 1
    loss, dlogits = captioning_loss(logits, batch.ids[:, :n], batch.targets[:, :n], counts["caption"])
    return {"caption": loss}, dlogits


def _contrastive(
    passes: list[Pass], objective: Objective, params: Params, grads: Params | None = None
) -> tuple[Losses, Iterator[Latents]]:
    """Return the contrastive loss of all parts together, and its gradients for the latents of each part.

    Add the gradient of the logit scale to `grads`.
    """
    videos, texts = (np.concatenate(latents) for latents in zip(*(p.latents for p in passes), strict=True))
    loss, gradients = contrastive_loss(videos, texts, params["logit_scale"])
    dvideos, dtexts, dscale = (objective.weights["contrastive"] * gradient for gradient in gradients)
    if grads is not None and grads["logit_scale"] is not None:
        grads["logit_scale"] += dscale
    ends = np.cumsum([len(p.batch.ids) for p in passes])[:-1]
    return {"contrastive": loss}, zip(np.split(dvideos, ends), np.split(dtexts, ends), strict=True)


# Backward


def differentiated(grads: Params) -> list[str]:
    """Return the stages that a gradient must flow through to reach what is tuned.

    The poolers are always tuned, and the decoder stands between them and the captioning loss. A frozen image
    encoder, before the poolers, and a frozen text decoder, beside them, are left out.
    """
    vision = ["vision"] if backward.is_encoder_tuned(grads["visual"]) else []
    text = ["text"] if backward.is_any_tuned(grads["text"]) else []
    return [*vision, "pool", *text, "decoder"]


def back_propagate(
    done: Pass,
    dlatents: Latents | None,
    grads: Params,
    *,
    params: Params,
    objective: Objective,
    counts: Mapping[str, int],
) -> Losses:
    """Back-propagate through the forward pass of a part of a batch, and return its shares of the losses.

    dlatents: the gradients of the contrastive loss, if it is one of the losses.
    """
    config, tapes = objective.config, done.tapes
    dvideos, dtexts = dlatents or (np.zeros_like(done.latents[0]), None)
    dfeatures, dtokens = np.zeros_like(done.features), np.zeros_like(done.caption_tokens)
    share, dlogits = _share(done, objective, counts)
    if dlogits is not None:
        done.logits = None  # its memory is free again
        dx, dkv = _decoder(dlogits, tapes["decoder"], objective, grads)
        dfeatures[:, : dx.shape[1]] = dx
        dtokens = backward.cross_attention_kv(dkv, tapes["decoder"], grads["text_decoder"])
    if "text" in tapes:
        dx = backward.encode_text(
            dtexts, dfeatures, tapes["text"], params["text"], config.text, grads["text"]
        )
        backward.embed_text(dx, done.batch.ids, grads["text"])
    dframes = _pool(dvideos, dtokens, done, params, objective, grads)
    if "vision" in tapes and dframes is not None:
        _vision(dframes, tapes["vision"], objective, grads["visual"])
    return share


def _decoder(
    dlogits: Array, tape: Tape, objective: Objective, grads: Params
) -> tuple[Array, list[backward.KV]]:
    """Back-propagate from the logits to the token features, and to the keys and values of each layer."""
    config, branch = objective.config, grads["text_decoder"]
    dlogits *= objective.weights["answer" if "answer" in objective.weights else "caption"]
    if "answer" not in objective.weights:
        return backward.decode(dlogits, tape, config.decoder, branch)
    dhidden = backward.answer_logits(dlogits, tape, config.vision.pooler_heads, grads["question_head"])
    return backward.hidden_states(dhidden, tape, config.decoder, branch)


def _pool(
    dvideos: Array, dtokens: Array, done: Pass, params: Params, objective: Objective, grads: Params
) -> Array | None:
    """Back-propagate from latents and caption tokens to the frame tokens [B, T, N, W] or [B, T N, W]."""
    where = (done.tapes["pool"], params, objective.config, grads)
    if objective.adapter == "factorized":
        return backward.factorized_pool(dvideos, dtokens, done.caption_tokens, *where)
    pool = backward.mean_pool if objective.adapter == "mean" else backward.pool
    return pool(dvideos, dtokens, *where)


def _vision(dtokens: Array, tape: Tape, objective: Objective, grads: Params) -> None:
    """Back-propagate from the frame tokens, of all frames together or of each, to the pixels' embeddings."""
    config = objective.config.vision
    joint = objective.adapter == "joint"
    dtokens = dtokens.reshape(len(dtokens), -1, config.width)  # [B, T N, W]
    frames = dtokens.reshape(-1, config.tokens_per_frame, config.width)  # [B T, N, W]
    dx = backward.encode_images(dtokens if joint else frames, tape, config, grads)
    if dx is not None:
        backward.embed_images(dx.reshape(frames.shape), tape, config, grads)
