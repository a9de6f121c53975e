"""Explain a caption or an answer: one pass of the image encoder, the text, and one pass over the text."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..media.preprocess import square_frames
from ..model.config import Array, Config, Source, Time, Video, check_choice
from ..model.generation import DecodingOptions, best_indices
from ..model.hooks import STAGES, TEXT, Activations, trace
from ..model.ops import softmax
from ..model.videococa import VideoCoCa, frame_tokens
from ..progress import Progress, no_progress
from ..tasks import answering_options, check_question, class_logits, prompt_length, require_captions
from ..training.tape import keep
from .explanation import LIKELIEST, Explanation
from .relevance import FORMULAS, Pass, cross_weights, latent_weights, pooler_weights

PATH = rf"{STAGES}|{TEXT}|decoder\.block\.\d+\.cross"  # names of the activations whose shapes are shown


def explain(
    model: VideoCoCa,
    video: Source,
    question: str | None = None,
    *,
    num_frames: int = 8,
    start: Time = None,
    end: Time = None,
    adapter: str | None = None,
    formula: str = "gradient",
    options: DecodingOptions | None = None,
    progress: Progress = no_progress,
    **keywords: Any,
) -> Explanation:
    """Explain the caption of a video, or the answer to a question: where the model looked for each word.

    The frames are encoded and the text is generated as `VideoCoCa.caption` and `answer` do. One
    teacher-forced pass of the decoder over the finished text then gives the attention weights and, from its
    tape, the gradients of the words. The image encoder runs once.

    Parameters
    ----------
    video : a path, frames uint8 [T, H, W, 3] or a list of frames. An encoded video has no frames to show.
    question : the text that is explained is the answer to it; None: the caption.
    num_frames, start, end, adapter : as in `VideoCoCa.encode`.
    formula : of the maps. "attention" composes the decoder's attention with the pooler's; "gradient" also
        weights both by the gradient of the word's log-odds. See `relevance`.
    options, keywords : how to generate, as in `VideoCoCa.generate` and `answer`.
    progress : stages "frames" and "tokens".

    The answer of a model with a classifier of answers is one word.

    Raises ValueError for an encoded video, for several candidates, and as `VideoCoCa.encode` and
    `VideoCoCa.generate`.
    """
    check_choice("formula", formula, FORMULAS)
    if isinstance(video, Video):
        raise ValueError("an encoded video has no frames to explain: give its path or its frames")
    options = _options(model, question, options, keywords)
    adapter = model.config.check_adapter(adapter)
    raw, times = model.media["timed_frames"](video, num_frames, start, end)
    pixels = model.preprocess(raw)
    if question is not None and model.config.answers:
        run = forward_classified(model, pixels, adapter, question, progress)
    else:
        run = forward(model, pixels, adapter, options, progress)
    return _explanation(run, model, raw, times, question, formula)


def _explanation(
    run: Pass,
    model: VideoCoCa,
    raw: Array,
    times: tuple[float, ...] | None,
    question: str | None,
    formula: str,
) -> Explanation:
    """Return the explanation of a text, or of a class, of frames uint8 [T, H, W, 3] as they were read."""
    config, words, probabilities = run.config, run.words, softmax(run.logits)
    name = (lambda i: config.answers[i]) if run.classified else partial(_word, model)
    relevance = _shares(FORMULAS[formula](run))  # [L, T, N]
    L, T, _ = relevance.shape
    side = config.vision.image_size // config.vision.patch_size
    return Explanation(
        frames=square_frames(raw, config.preprocess),
        times=times,
        text=name(words[0]) if run.classified else model.require_tokenizer().decode(words),
        question=question,
        adapter=run.adapter,
        formula=formula,
        words=tuple(map(name, words)),
        probabilities=probabilities[np.arange(L), words],
        likeliest=tuple(_likeliest(row, name) for row in probabilities),
        patch_size=config.vision.patch_size,
        maps=relevance[:, :, 1:].reshape(L, T, side, side),
        frame_weights=relevance.sum(axis=-1),
        pooler=pooler_weights(run),
        latent=latent_weights(run),
        cross=cross_weights(run),
        shapes=_shapes(config, raw, run),
        video=run.video,
    )


def forward(
    model: VideoCoCa, pixels: Array, adapter: str, options: DecodingOptions, progress: Progress = no_progress
) -> Pass:
    """Encode pixels [T, 3, S, S], generate a text, and decode it once more with teacher forcing."""
    video, pooling = _encode(model, pixels, adapter, progress)
    ids, words = _generate(model, video, options, progress)
    with trace(weights=True) as decoding, keep() as tape:
        logits = model.decode(video.tokens, ids[None, :-1])[0]
    logits = logits[-len(words) :]
    return Pass(model.params, model.config, adapter, video, pooling, decoding, tape, words, logits)


def forward_classified(
    model: VideoCoCa, pixels: Array, adapter: str, question: str, progress: Progress = no_progress
) -> Pass:
    """Encode pixels [T, 3, S, S], and classify the answer to a question, as `answer` does."""
    video, pooling = _encode(model, pixels, adapter, progress)
    with trace(weights=True) as decoding, keep() as tape:
        logits = class_logits(model, video, question)[None]
    best = logits.argmax(axis=1)
    return Pass(model.params, model.config, adapter, video, pooling, decoding, tape, best, logits, True)


def _options(
    model: VideoCoCa, question: str | None, options: DecodingOptions | None, keywords: dict[str, Any]
) -> DecodingOptions:
    """Return the options with which the text is generated. Raises ValueError if it cannot be explained."""
    if question is None:
        options = DecodingOptions.create(options, **keywords)
        require_captions(model, options.prompt)
    else:
        check_question(question)
        options = answering_options(model, question, options, keywords)
    if options.candidates > 1:
        raise ValueError(f"candidates is {options.candidates}: one text is explained at a time; leave it out")
    return options


def _encode(model: VideoCoCa, pixels: Array, adapter: str, progress: Progress) -> tuple[Video, Activations]:
    """Encode pixels [T, 3, S, S]. Return the video and the activations of the poolers, with their weights."""
    T, config = len(pixels), model.config
    config.check_frames(T, adapter)
    model.media["require_memory_for"](
        T, _bytes_to_explain(model, adapter), f"explaining {T} frames", "frames"
    )
    with progress(T, "frames") as update:
        tokens = frame_tokens(config.check_pixels(pixels, model.dtype), model.params, config, adapter, update)
    with trace(weights=True) as activations:  # of the poolers alone: those of the encoder are large
        video = model.pool(tokens, adapter)
    return video, activations


def _bytes_to_explain(model: VideoCoCa, adapter: str) -> Callable[[int], int]:
    """Return T -> an estimate of the bytes that explaining T frames takes, their encoding included."""
    config, itemsize = model.config, model.dtype.itemsize
    encoding, c = config.bytes_to_encode(adapter, model.dtype), config.vision
    weights = c.pooler_heads * c.queries * c.tokens_per_frame  # twice: as computed, and a copy
    return lambda T: encoding(T) + 2 * T * itemsize * weights


def _generate(
    model: VideoCoCa, video: Video, options: DecodingOptions, progress: Progress
) -> tuple[Array, Array]:
    """Generate a text. Return its ids, and those of them [L] that follow the prompt."""
    total = min(options.max_length or 30, model.config.text.context_length)
    with progress(total, "tokens") as update:
        ids = model.generate(video.tokens, options, progress=update)
    words = ids[prompt_length(model, options.prompt) :]
    if not len(words):
        raise ValueError(f"nothing was generated after {options.prompt!r}: give another prompt, or beams=1")
    return ids, words


def _shares(relevance: Array) -> Array:
    """Divide the relevance [L, T, N] of each word by its sum. Where all is 0, all shares are the same."""
    total = relevance.sum(axis=(1, 2), keepdims=True)
    even = np.full_like(relevance, 1 / relevance[0].size)
    return np.divide(relevance, total, out=even, where=total > 0)


def _word(model: VideoCoCa, token: int) -> str:
    """Return the text of a token: "" for the end token, and special tokens by their names."""
    tokenizer = model.require_tokenizer()
    if token == tokenizer.end_id:
        return ""
    text = tokenizer.vocabulary.decode([int(token)], skip_special_tokens=False).strip()
    return text or tokenizer.vocabulary.id_to_token(int(token))  # a token of white space


def _likeliest(probabilities: Array, name: Callable[[int], str]) -> tuple[tuple[str, float], ...]:
    """Return the likeliest words and their probabilities [V], the best first."""
    best = best_indices(probabilities, min(LIKELIEST, len(probabilities)))
    return tuple((name(i), float(probabilities[i])) for i in best)


def _shapes(config: Config, raw: Array, run: Pass) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes of the arrays from the frames to the logits, by their names in a trace."""
    T, c = len(raw), config.vision
    shapes = {
        "frames": raw.shape,
        "pixels": (T, 3, c.image_size, c.image_size),
        f"vision.block.{c.layers - 1}": (T, c.tokens_per_frame, c.width),  # the frame tokens
    }
    for activations in (run.pooling, run.decoding):
        shapes |= {name: x.shape for name, x in activations.items() if re.fullmatch(PATH, name)}
    return tuple(shapes.items())
