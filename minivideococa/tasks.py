"""Tasks: classification and retrieval by latents, scoring and question answering by the decoder.

VideoCoCa (arXiv 2212.04979), section 4: zero-shot classification and text-to-video retrieval, and question
answering, for which a model is finetuned.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .answers import normalize_answer
from .model.config import (
    Array,
    Source,
    Time,
    Video,
    check_finite,
    check_int,
    check_text,
    check_texts,
    describe,
    shorten,
)
from .model.generation import MAX_BEAMS, DecodingOptions, score_texts
from .model.hooks import tracing
from .model.ops import log_softmax, normalize, softmax
from .model.videococa import VideoCoCa
from .progress import Progress, Update, no_progress
from .question_head import classify_questions

TEMPLATES = ("a video of {}.",)
ENSEMBLE = (  # for labels that are things and for labels that are actions
    "a video of {}.",
    "a short clip of {}.",
    "this video shows {}.",
    "a scene with {}.",
    "a recording of {}.",
    "in this clip we see {}.",
    "a home video of {}.",
    "footage of {} from a camera.",
)
TEXTS = 256  # texts that are encoded at a time and cached together
CAPTIONS = 16  # texts that are generated at a time
BATCH_SIZE = 16  # texts that are scored at a time in a trace; the logits of one take L x V numbers


def label_sentences(labels: Sequence[str], templates: Sequence[str] | Array | None = None) -> list[list[str]]:
    """Return the sentences of each label: one for each template, with the label in place of its `{}`.

    The default is `TEMPLATES`. Raises ValueError without a template and for one that does not hold exactly
    one `{}`.
    """
    templates = list(TEMPLATES) if templates is None else check_texts("templates", templates)
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"a template holds {{}} once, where the label goes: not {template!r}")
    return [[template.replace("{}", label) for template in templates] for label in labels]


def label_latents(
    model: VideoCoCa,
    labels: Sequence[str] | Array,
    templates: Sequence[str] | Array | None = None,
    *,
    progress: Update | None = None,
) -> Array:
    """Return the unit-length latent of each label, averaged over its sentences: `[labels, E]`.

    Averaging over several templates is CLIP's prompt ensembling (arXiv 2103.00020, section 3.1.4). `progress`
    is called with the number of sentences just encoded. Raises ValueError without a label, for a blank one,
    and as `label_sentences`.
    """
    labels = check_texts("labels", labels, blank=False)
    sentences = label_sentences(labels, templates)
    warn_if_cut(model, [text for texts in sentences for text in texts])
    return mean_latents(model, sentences, progress)


def mean_latents(
    model: VideoCoCa, sentences: Sequence[Sequence[str]], progress: Update | None = None
) -> Array:
    """Return the normalized mean of the latents of each label's sentences, of equal number: `[labels, E]`."""
    latents = model.encode_text([text for texts in sentences for text in texts], progress)
    return normalize(latents.reshape(len(sentences), -1, latents.shape[-1]).mean(axis=1))


def latents_in_parts(
    model: VideoCoCa,
    sentences: Sequence[Sequence[str]],
    cached: Callable[[list[Sequence[str]], Callable[[], Array]], Array],
    progress: Update | None = None,
) -> Array:
    """Return `mean_latents` of sentences in parts of about `TEXTS`, so that a cache keeps what is done.

    `cached` takes the sentences of a part and the function that computes their latents. It calls the function
    unless it knows the latents.
    """
    latents = []
    for rows in batches(len(sentences), max(1, TEXTS // len(sentences[0]))):
        part = list(sentences[rows])
        latents.append(cached(part, partial(mean_latents, model, part)))
        if progress:
            progress(sum(map(len, part)))
    return np.concatenate(latents)


def classify(
    model: VideoCoCa,
    video: Video | Source,
    labels: Sequence[str] | Array,
    templates: Sequence[str] | Array | None = None,
    by: str = "latent",
    *,
    num_frames: int = 8,
    start: Time = None,
    end: Time = None,
    adapter: str | None = None,
    latents: Array | None = None,
    progress: Update | None = None,
) -> list[tuple[str, float]]:
    """Classify a video zero-shot: return (label, probability) for each label, the most probable first.

    Parameters
    ----------
    labels, templates : the classes, and sentences in which `{}` stands for the label. Default: "a video of
        {}."
    by : "latent" compares the video's latent with that of each label, averaged over the templates, as the
        paper does. "likelihood" uses the probability that the decoder assigns to the sentences, summed over
        the templates.
    num_frames, start, end, adapter : as in `VideoCoCa.encode`.
    latents : what `label_latents` returns for the labels and templates, to encode them once for many videos.
    progress : called with the number of texts just encoded or scored.

    Raises ValueError for another `by`, without a label or template, for `latents` of another shape, and as
    `VideoCoCa.encode`.
    """
    if not isinstance(by, str) or by not in ("latent", "likelihood"):
        raise ValueError(f"by is 'latent' or 'likelihood', not {shorten(by)}")
    labels = check_texts("labels", labels, blank=False)
    sentences = label_sentences(labels, templates)
    warn_if_cut(model, [text for texts in sentences for text in texts])
    if by == "latent":
        _warn_of_caveat(model)
        of_labels = mean_latents(model, sentences, progress) if latents is None else latents
        if (found := np.shape(of_labels)) != (shape := (len(labels), model.config.embed_dim)):
            raise ValueError(f"latents has the shape {found}, not {shape}: one for each label")
    video = model.encode(video, num_frames, adapter, start, end)
    if by == "latent":
        logits = model.logit_scale * cosine(of_labels, video.latent)
    else:
        # one template after another: its sentences begin with the same words, which `score_ids` computes once
        by_template = (model.tokenize(texts) for texts in zip(*sentences, strict=True))
        scores = [score_ids(model, video.tokens, ids, progress=progress) for ids in by_template]
        logits = np.logaddexp.reduce(scores, axis=0)
    probabilities = softmax(check_finite("the logits are", logits))
    return [(labels[i], float(probabilities[i])) for i in best_first(probabilities)]


def score(
    model: VideoCoCa,
    video: Video | Source,
    texts: Sequence[str] | Array,
    prompt: str = "",
    *,
    num_frames: int = 8,
    start: Time = None,
    end: Time = None,
    adapter: str | None = None,
    progress: Update | None = None,
) -> Array:
    """Return the log-probability (natural logarithm) of each text given the video and the prompt: `[B]`.

    It is the sum, over the text's tokens and its end token, of the log-probability that the decoder assigns
    to each given the tokens before it (teacher forcing). The tokens of the prompt do not count. Text beyond
    the context is cut, with a warning.

    Parameters
    ----------
    prompt : the text that each of `texts` continues.
    num_frames, start, end, adapter : as in `VideoCoCa.encode`.
    progress : called with the number of texts just scored.

    Raises ValueError without a text, for a prompt that leaves no room in the context, and as
    `VideoCoCa.encode`.
    """
    texts, prompt = check_texts("texts", texts), check_text("prompt", prompt)
    begin = prompt_length(model, prompt)
    longest = model.config.text.context_length
    if begin > longest - 2:
        raise ValueError(f"{prompt!r} leaves no room: this model's texts have at most {longest} tokens")
    texts = [f"{prompt} {text}" for text in texts] if prompt else texts
    warn_if_cut(model, texts)
    ids = model.tokenize(texts)  # [B, L]
    tokens = model.encode(video, num_frames, adapter, start, end).tokens
    return score_ids(model, tokens, ids, begin, progress)


def score_ids(
    model: VideoCoCa, tokens: Array, ids: Array, begin: int = 1, progress: Update | None = None
) -> Array:
    """Return the log-probabilities of texts, from position `begin` of their ids `[B, L]` on: `[B]`.

    tokens: the caption tokens of the video, `[Q', E]`. A trace records all positions of all texts.
    """
    lengths = text_lengths(model, ids)  # [B]
    ids = ids[:, : lengths.max()]
    if not tracing():
        ids = model.config.check_ids(ids)
        tokens = model.config.check_caption_tokens(tokens, model.dtype)  # [1, Q', E]
        return score_texts(model, tokens, ids, lengths, begin, progress)
    scores = np.zeros(len(ids), model.dtype)
    for rows in batches(len(ids)):
        longest = lengths[rows].max()
        log_probs = log_softmax(model.decode(tokens, ids[rows, : longest - 1]))  # [B, L, V]
        log_probs = np.take_along_axis(log_probs, ids[rows, 1:longest, None], axis=-1)[..., 0]  # [B, L]
        positions = np.arange(1, longest)  # of the ids that are predicted
        counted = (begin <= positions) & (positions < lengths[rows, None])
        scores[rows] = np.where(counted, log_probs, 0).sum(axis=1)
        if progress:
            progress(len(log_probs))
    return scores


def text_lengths(model: VideoCoCa, ids: Array) -> Array:
    """Return the number of ids of each text `[B, L]`, start and end included: `[B]`."""
    end_id = model.require_tokenizer().end_id
    return np.asarray(2 + (ids[:, 1:] == end_id).argmax(axis=1))


def prompt_length(model: VideoCoCa, prompt: str) -> int:
    """Return the number of ids of a prompt, the start token included."""
    return int(text_lengths(model, model.tokenize(prompt))[0]) - 1 if prompt else 1


class RankedAnswer(NamedTuple):
    """An answer with its log-probability (natural logarithm) and its probability, see `rank_answers`."""

    answer: str
    score: float
    probability: float


def answer(
    model: VideoCoCa,
    video: Video | Source,
    question: str,
    answers: Sequence[str] | Array | None = None,
    *,
    top: int | None = None,
    num_frames: int = 8,
    start: Time = None,
    end: Time = None,
    adapter: str | None = None,
    options: DecodingOptions | None = None,
    progress: Update | None = None,
    **keywords: Any,
) -> Any:
    """Return the answer to a question about a video; with `top`, the best as a list of (answer, probability).

    A model with a classifier of answers, which `finetune --task qa --head classifier` trains, takes the most
    probable class. Another one generates a continuation of the question. With `answers` it is the most
    probable of those, see `rank_answers`. A model that was not finetuned for question answering has only seen
    captions: "the colour of the circle is" may suit it better than "what colour is the circle?".

    Parameters
    ----------
    top : the number of answers to return, with their probabilities as in `rank_answers`; fewer if there are
        not as many. None: the best, a str.
    num_frames, start, end, adapter : as in `VideoCoCa.encode`.
    options, keywords : how to generate, as in `VideoCoCa.generate`. `max_length` counts the question too;
        `min_length` is 1 unless given, and `beams` too for a model that was tuned for questions. The prompt
        is the question.
    progress : called with the number of texts just scored, or of tokens just generated.

    Raises ValueError for a blank question, for one that leaves no room in the context, and as
    `VideoCoCa.encode`.
    """
    top = None if top is None else check_int("top", top, 1)
    check_question(question)
    answers = None if answers is None else check_texts("answers", answers)
    video = model.encode(video, num_frames, adapter, start, end)
    if top is None and answers is None and not model.config.answers:
        options = answering_options(model, question, options, keywords)
        return _generate_answers(model, video, question, options, progress)[0]
    ranking = rank_answers(
        model, video, question, answers, top or 1, options=options, progress=progress, **keywords
    )
    return ranking[0].answer if top is None else [(row.answer, row.probability) for row in ranking[:top]]


def rank_answers(
    model: VideoCoCa,
    video: Video,
    question: str,
    answers: Sequence[str] | Array | None = None,
    candidates: int = 1,
    *,
    options: DecodingOptions | None = None,
    progress: Update | None = None,
    **keywords: Any,
) -> list[RankedAnswer]:
    """Rank answers to a question about an encoded video, the most probable first.

    Where the numbers come from:

    - A classifier of answers without `answers`: all its classes, by its softmax.
    - `answers`, without a classifier: each is scored as a continuation of the question, see `score`. The
      probability is the softmax over the scores of the given answers, so it sums to 1 over them; a long
      answer is less probable than a short one.
    - `answers` and a classifier: the given answers among its classes, compared by `normalize_answer`, by its
      log-probabilities; the probability is their softmax. Others are left out with a warning. If none is
      among the classes, the decoder scores them, with a warning: finetuning the classifier has not trained it
      to continue questions.
    - Neither: `candidates` that beam search finds, scored by `score`. The probability is that of the text
      among all texts, the exponential of the score, so the sum is at most 1. Unless the options are given,
      the search is for the most probable texts; `answer` without `top` searches as `generate` does by
      default, and may find another one.

    options, keywords, progress : as in `answer`. Raises ValueError as `answer`.
    """
    check_question(question)
    if answers is None and not model.config.answers:
        options = answering_options(
            model, question, options, _most_probable(model, candidates, options, keywords)
        )
        return _rank_generated(model, video, question, options, progress)
    given = None if answers is None else check_texts("answers", answers)
    classes = _classes(model, given)
    if given and not classes:
        scores = score(model, video, given, question, progress=progress)
        return _ranking(given, scores, softmax(scores))
    scores = log_softmax(class_logits(model, video, question))[[*classes]]
    return _ranking([*classes.values()], scores, softmax(scores))


def _ranking(answers: Sequence[str], scores: Array, probabilities: Array) -> list[RankedAnswer]:
    """Return answers with their scores and probabilities, the best first."""
    return [RankedAnswer(answers[i], float(scores[i]), float(probabilities[i])) for i in best_first(scores)]


def check_question(question: str) -> str:
    """Return a question. Raises ValueError if it is blank."""
    if not check_text("question", question).strip():
        raise ValueError("question is blank: give a question")
    return question


def require_captions(model: VideoCoCa, prompt: str = "") -> None:
    """Raise ValueError if a model was tuned to answer questions, and has no prompt to continue.

    Neither the generated answers nor the classifier of answers have trained it to write captions.
    """
    if model.tuned_for == "qa" and not prompt:
        raise ValueError(
            "this model was tuned to answer questions and writes no captions: give a question, or leave out "
            "the tuned part"
        )


def is_tuned_for_questions(model: VideoCoCa) -> bool:
    """Tell whether a model was finetuned for question answering, by either head."""
    return bool(model.config.answers) or model.tuned_for == "qa"


# By the classifier


def _classes(model: VideoCoCa, answers: list[str] | None) -> dict[int, str]:
    """Return the classes of the classifier: class -> answer; of `answers`, those that it knows.

    Warns of the others. Empty without a classifier, and if it knows none of `answers`.
    """
    if answers is None or not model.config.answers:
        return dict(enumerate(model.config.answers))
    numbers = {normalize_answer(text): i for i, text in enumerate(model.config.answers)}
    known = {numbers[key]: text for text in answers if (key := normalize_answer(text)) in numbers}
    if unknown := [text for text in answers if normalize_answer(text) not in numbers]:
        what = "is not a class" if len(unknown) == 1 else "are not classes"
        then = "left out" if known else "ranked by the decoder, which was not trained for it"
        named = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        warnings.warn(f"{named} {what} of this model's classifier of answers: {then}", stacklevel=4)
    return known


def class_logits(model: VideoCoCa, video: Video, question: str) -> Array:
    """Return the logits of the classifier's answers to a question: `[answers]`.

    A question beyond the context is cut, with a warning.
    """
    warn_if_cut(model, [question])
    ids = model.tokenize(question)  # [1, context_length]
    ids = ids[:, : text_lengths(model, ids)[0]]  # [1, L], start and end included, without padding
    tokens = model.config.check_caption_tokens(video.tokens, model.dtype)  # [1, Q', E]
    logits = classify_questions(ids, tokens, model.params, model.config)[0]
    return check_finite("the logits of the answers are", logits)


# By generation


def _most_probable(
    model: VideoCoCa, candidates: int, options: DecodingOptions | None, keywords: dict[str, Any]
) -> dict[str, Any]:
    """Return keywords for a search for the most probable texts, as far as the caller leaves it open.

    Textbook beam search without a length penalty ranks texts by their log-probability, as `score` does;
    open_clip's sums raw logits. A text that reaches the maximum has room for the end token, which `score`
    counts.
    """
    if options is not None:
        return {"candidates": candidates} | keywords
    defaults = {
        "beams": min(max(DecodingOptions.beams, candidates), MAX_BEAMS),
        "convention": "textbook",
        "length_penalty": 0.0,
        "max_length": min(30, model.config.text.context_length - 1),
    }
    return {"candidates": candidates} | defaults | keywords


def answering_options(
    model: VideoCoCa, question: str, options: DecodingOptions | None, keywords: dict[str, Any]
) -> DecodingOptions:
    """Return the options with which an answer to a question is generated.

    A model that was tuned for questions answers greedily unless told otherwise: it was trained to give the
    next id the highest probability, and the beams of open_clip's search sum logits, which are none.
    """
    if options is None:
        searched = not is_tuned_for_questions(model) or keywords.keys() & {"beam_groups", "candidates"}
        keywords = {"min_length": 1} | ({} if searched else {"beams": 1}) | keywords
    return DecodingOptions.create(options, prompt=question, **keywords)


def _generate_answers(
    model: VideoCoCa, video: Video, question: str, options: DecodingOptions, progress: Update | None
) -> list[str]:
    """Return `options.candidates` generated answers: the decoder's texts after the question."""
    texts = model.generate(video.tokens, options, progress=progress)
    decode, begin = model.require_tokenizer().decode, prompt_length(model, question)
    return [str(decode(ids[begin:])) for ids in (texts if isinstance(texts, list) else [texts])]


def _rank_generated(
    model: VideoCoCa, video: Video, question: str, options: DecodingOptions, progress: Update | None
) -> list[RankedAnswer]:
    """Return different generated answers, by their scores."""
    found = list(dict.fromkeys(_generate_answers(model, video, question, options, progress)))
    scores = score(model, video, found, question)
    return _ranking(found, scores, np.exp(scores))


def retrieve(
    model: VideoCoCa,
    query: str | Video | Source,
    candidates: Sequence[str | Video | Source] | Array,
    *,
    num_frames: int = 8,
    start: Time = None,
    end: Time = None,
    adapter: str | None = None,
    progress: Update | None = None,
) -> list[tuple[int, float]]:
    """Rank videos by a text, or texts by a video: return (index, cosine) for each candidate, the best first.

    A `str` as the query is a text, and the candidates are videos (encoded, frames or paths). Any other query
    is a video, and the candidates are texts. Give a file as the query as a `pathlib.Path`.

    Parameters
    ----------
    num_frames, start, end, adapter : as in `VideoCoCa.encode`.
    progress : called with the number of candidate texts just encoded.

    Raises ValueError without a candidate, for a blank text, and as `VideoCoCa.encode`.
    """
    _warn_of_caveat(model)

    def latent(video: Any) -> Array:
        return model.encode(video, num_frames, adapter, start, end).latent

    if isinstance(query, str):
        query = check_text("query", query, blank=False)
        if not isinstance(candidates, list | tuple) or not candidates:
            raise ValueError(f"candidates must be a list of at least one video, not {describe(candidates)}")
        warn_if_cut(model, [query])
        text = model.encode_text(query)[0]  # [E]
        cosines = cosine(np.stack([latent(video) for video in candidates]), text)
    else:
        texts = check_texts("candidates", candidates, blank=False)
        warn_if_cut(model, texts)
        cosines = cosine(model.encode_text(texts, progress), latent(query))
    return [(int(i), float(cosines[i])) for i in best_first(cosines)]


def caption_many(
    model: VideoCoCa,
    videos: Sequence[Video | Source],
    *,
    num_frames: int = 8,
    adapter: str | None = None,
    options: DecodingOptions | None = None,
    progress: Update | None = None,
    **keywords: Any,
) -> list[Any]:
    """Generate a sentence about each of several videos, as `VideoCoCa.caption` does about one.

    Up to `CAPTIONS` texts are decoded together: a step reads the decoders' weights once for all of them.

    Parameters
    ----------
    videos : encoded videos, paths or frames, see `VideoCoCa.encode`.
    num_frames, adapter : as in `VideoCoCa.encode`.
    options, keywords : how to generate, as in `VideoCoCa.generate`.
    progress : called with the number of captions just written.

    Raises ValueError if `videos` is not a list, and as `require_captions`, `VideoCoCa.encode` and
    `VideoCoCa.generate`.
    """
    if not isinstance(videos, list | tuple):
        raise ValueError(f"videos must be a list, not {describe(videos)}")
    options, captions = DecodingOptions.create(options, **keywords), []
    require_captions(model, options.prompt)
    for rows in batches(len(videos), CAPTIONS):
        encoded = [model.encode(video, num_frames, adapter) for video in videos[rows]]
        captions += caption_batch(model, encoded, options)
        if progress:
            progress(len(encoded))
    return captions


def caption_stretches(
    model: VideoCoCa,
    video: str | os.PathLike[str],
    every: float | str = 10.0,
    *,
    num_frames: int = 8,
    start: Time = None,
    end: Time = None,
    adapter: str | None = None,
    options: DecodingOptions | None = None,
    progress: Progress = no_progress,
    **keywords: Any,
) -> Iterator[tuple[float, float, Any]]:
    """Yield (start, end, caption) for each stretch of a video file, however long, which is decoded once.

    The caption is that of `VideoCoCa.caption` for this part of the file; the times are in seconds.

    Parameters
    ----------
    every : the length of a stretch, in seconds or as "2min". What is left at the end is a stretch of its own,
        unless it is at most a tenth of `every`: then it belongs to the stretch before.
    num_frames, adapter : as in `VideoCoCa.encode`, for each stretch.
    start, end : the part of the video that is cut into stretches.
    options, keywords : how to generate, as in `VideoCoCa.generate`.
    progress : opens a bar for the seconds of the video.

    Raises ValueError as `media.stretches.read_stretches`, `require_captions`, `VideoCoCa.encode` and
    `VideoCoCa.generate`; if the file cannot be read to its end, after the captions before that.
    """
    options = DecodingOptions.create(options, **keywords)
    require_captions(model, options.prompt)
    stretches = encode_stretches(model, video, every, num_frames, start, end, adapter, progress)
    return ((start, end, caption) for start, end, _, caption in caption_encoded(model, stretches, options))


def encode_stretches(
    model: VideoCoCa,
    video: str | os.PathLike[str],
    every: float | str,
    num_frames: int = 8,
    start: Time = None,
    end: Time = None,
    adapter: str | None = None,
    progress: Progress = no_progress,
    *,
    folder: Path | None = None,
    model_key: str | None = None,
) -> Iterator[tuple[float, float, Video]]:
    """Yield (start, end, encoded video) for each stretch of a video, see `caption_stretches`.

    `folder` is a cache, whose stretches are not encoded again; `model_key` is the model's `cache.model_hash`.
    """
    from .cache import cached_stretches
    from .media.stretches import read_stretches

    stretches = read_stretches(video, every, num_frames, start, end, progress)
    return cached_stretches(model, video, stretches, num_frames, adapter, folder=folder, model_key=model_key)


def caption_encoded(
    model: VideoCoCa, stretches: Iterator[tuple[float, float, Video]], options: DecodingOptions
) -> Iterator[tuple[float, float, Video, Any]]:
    """Yield (start, end, encoded video, caption) for encoded stretches.

    The first is captioned alone, so that its caption comes soon; then 2, 4, ... up to `CAPTIONS` together. If
    `stretches` raises, those before that are captioned first.
    """
    failure: Exception | None = None

    def until_failure() -> Iterator[tuple[float, float, Video]]:
        nonlocal failure
        try:
            yield from stretches
        except (OSError, ValueError, MemoryError) as error:
            failure = error

    size, readable = 1, until_failure()
    while batch := list(islice(readable, size)):
        captions = caption_batch(model, [video for _, _, video in batch], options)
        for stretch, caption in zip(batch, captions, strict=True):
            yield *stretch, caption
        size = min(2 * size, CAPTIONS)
    if failure:
        raise failure


def caption_batch(
    model: VideoCoCa, videos: Sequence[Video], options: DecodingOptions, progress: Update | None = None
) -> list[Any]:
    """Generate a sentence about each of a few encoded videos, all at once where that changes nothing.

    One after another are sampled texts, since the draws of a text depend on its place in a batch, and videos
    with different numbers of caption tokens, which the factorized adapter gives. `progress` is called with
    the number of tokens just generated.
    """
    decode, tokens = model.require_tokenizer().decode, [video.tokens for video in videos]
    if options.is_sampling or len({x.shape for x in tokens}) > 1:
        texts = [model.generate(x, options, progress) for x in tokens]
    else:
        texts = model.generate(np.stack(tokens), options, progress)
    return [[decode(ids) for ids in text] if isinstance(text, list) else decode(text) for text in texts]


def _warn_of_caveat(model: VideoCoCa) -> None:
    """Warn if the weights are known to have latents that cannot be compared."""
    if model.caveat:
        warnings.warn(model.caveat, stacklevel=3)


def warn_if_cut(model: VideoCoCa, texts: Sequence[str], stacklevel: int = 3) -> None:
    """Warn, once for all of the texts, if some have more ids than the model's context."""
    longest = model.config.text.context_length
    cut = [length for length in model.require_tokenizer().lengths(texts) if length > longest]
    if cut:
        subject = f"{'the' if len(texts) == 1 else 'a'} text has {cut[0]} ids"
        if len(cut) > 1:
            subject = f"{len(cut)} of {len(texts)} texts have more than {longest} ids, up to {max(cut)}"
        warnings.warn(f"{subject}; the first {longest} are used", stacklevel=stacklevel)


def batches(count: int, size: int = BATCH_SIZE) -> Iterator[slice]:
    """Yield the slices of `size` that cover `count` texts."""
    for i in range(0, count, size):
        yield slice(i, min(i + size, count))


def cosine(a: Array, b: Array) -> Array:
    """Return the cosines of unit vectors `[n, E]` with one `[E]`: `[n]`, the same for equal rows."""
    return np.asarray((a * b).sum(axis=-1))


def best_first(scores: Array) -> Array:
    """Return the indices of scores in descending order; equal ones keep their order."""
    return np.argsort(-scores, kind="stable")
