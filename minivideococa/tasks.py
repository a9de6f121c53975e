"""What a VideoCoCa does with no training of its own: classify and retrieve by comparing latents, and score texts.

VideoCoCa (arXiv 2212.04979), section 4: zero-shot classification and text-to-video retrieval.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from .model import arguments
from .model.config import Source, Video, check_finite
from .model.ops import log_softmax, normalize, softmax
from .model.videococa import VideoCoCa
from .progress import advance

TEMPLATES = ("a video of {}.",)
ENSEMBLE = (  # to average over, for labels that are things as well as for those that are actions
    "a video of {}.",
    "a short clip of {}.",
    "this video shows {}.",
    "a scene with {}.",
    "a recording of {}.",
    "in this clip we see {}.",
    "a home video of {}.",
    "footage of {} from a camera.",
)


def label_sentences(labels: Sequence[str], templates: Sequence[str] | None = None) -> list[list[str]]:
    """Each label's sentences, one per template with a `{}`. Raises ValueError where there is nothing to choose from."""
    labels = arguments.texts("labels", labels, blank=False)
    templates = list(TEMPLATES) if templates is None else arguments.texts("templates", templates)
    wrong = [t for t in templates if t.count("{}") != 1]
    if wrong:
        raise ValueError(f"a template holds {{}} once, where the label goes: not {wrong[0]!r}")
    return [[template.replace("{}", label) for template in templates] for label in labels]


def label_latents(
    model: VideoCoCa, labels: Sequence[str], templates: Sequence[str] | None = None
) -> np.ndarray:
    """Each label's latent [labels, E], of unit length: the mean over its sentences.

    Averaging over several templates is CLIP's prompt ensembling (arXiv 2103.00020, section 3.1.4).
    """
    latents = []
    for texts in label_sentences(labels, templates):
        latents.append(normalize(model.encode_text(texts).mean(axis=0)))
        advance(len(texts))
    return np.stack(latents)


def classify(
    model: VideoCoCa,
    video: Video | Source,
    labels: Sequence[str] | np.ndarray,
    templates: Sequence[str] | np.ndarray | None = None,
    by: str = "latent",
    *,
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
    adapter: str = "attentional",
) -> list[tuple[str, float]]:
    """Zero-shot classification: [(label, probability)], best first.

    by "latent": the video is compared with "a video of LABEL.", or with each label's average over `templates`, as the
    paper does. by "likelihood": how probable the decoder finds those sentences, added up for each label.
    The last keywords are those of `VideoCoCa.encode`.
    Raises ValueError for another `by`, and without a label or template.
    """
    if not isinstance(by, str) or by not in ("latent", "likelihood"):
        raise ValueError(f"by is 'latent' or 'likelihood', not {arguments.shown(by)}")
    labels = arguments.texts("labels", labels, blank=False)
    sentences = label_sentences(labels, templates)
    part = {"num_frames": num_frames, "start": start, "end": end, "adapter": adapter}
    if by == "latent":
        _warn(model)
        latents = label_latents(model, labels, templates)
        logits = model.logit_scale * cosine(latents, model.encode(video, **part).latent)
    else:
        scores = score(model, video, [text for texts in sentences for text in texts], **part)
        logits = np.logaddexp.reduce(scores.reshape(len(labels), -1), axis=1)
    probabilities = softmax(check_finite("the logits are", logits))
    return [(labels[i], float(probabilities[i])) for i in best_first(probabilities)]


TEXTS_AT_ONCE = 16  # a text's logits take L x V numbers


def score(
    model: VideoCoCa,
    video: Video | Source,
    texts: Sequence[str] | np.ndarray,
    prompt: str = "",
    *,
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
    adapter: str = "attentional",
) -> np.ndarray:
    """The natural logarithm of each text's probability, given the video and the prompt that the text goes on from: [B].

    It is the sum over the text's tokens, and its end, of the log-probability that the decoder gives each after those
    before it; a text that is longer than the context counts as far as it goes.
    The last keywords are those of `VideoCoCa.encode`.
    Raises ValueError without a text, and for a prompt that leaves it no room.
    """
    texts, prompt = arguments.texts("texts", texts), arguments.text("prompt", prompt)
    ids = model.tokenize([f"{prompt} {text}" for text in texts] if prompt else texts)
    begin = (
        text_lengths(model, model.tokenize(prompt))[0] - 1 if prompt else 1
    )  # where the text's own tokens begin
    if begin > model.config.text.context_length - 2:
        raise ValueError(
            f"{prompt!r} leaves no room: this model's texts have at most "
            f"{model.config.text.context_length} tokens"
        )
    video = model.encode(video, num_frames, adapter, start, end)
    lengths = text_lengths(model, ids)
    scores = np.zeros(len(ids), model.params["logit_scale"].dtype)
    for i in range(0, len(ids), TEXTS_AT_ONCE):
        some = slice(i, i + TEXTS_AT_ONCE)
        given, asked = ids[some, : lengths[some].max() - 1], ids[some, 1 : lengths[some].max()]
        told = np.take_along_axis(log_softmax(model.decode(video.tokens, given)), asked[..., None], axis=-1)[
            ..., 0
        ]
        advance(len(asked))
        places = np.arange(1, 1 + asked.shape[1])
        scores[some] = np.where((begin <= places) & (places < lengths[some, None]), told, 0).sum(axis=1)
    return scores


def text_lengths(model: VideoCoCa, ids: np.ndarray) -> np.ndarray:
    """How many ids each text [B, L] has, start and end included: [B]."""
    return 2 + (ids[:, 1:] == model.tokenizer.end_id).argmax(axis=1)


def answer(
    model: VideoCoCa,
    video: Video | Source,
    question: str,
    answers: Sequence[str] | np.ndarray | None = None,
    *,
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
    adapter: str = "attentional",
    **how,
) -> str:
    """The answer to a question about a video: the likeliest of `answers` after the question, by `score`.

    Without answers to choose from, what the decoder writes after the question. `how`: the keywords of `generate`, whose
    `max_length` counts the question too; `min_length` is 1 unless given. A model that was not finetuned for questions
    has only seen captions: "the colour of the circle is" may suit it better than "what colour is the circle?".
    The keywords before `how` are those of `VideoCoCa.encode`.
    Raises ValueError without a question, and for one that leaves no room.
    """
    if not arguments.text("question", question).strip():
        raise ValueError("question is blank: give a question")
    part = {"num_frames": num_frames, "start": start, "end": end, "adapter": adapter}
    if answers is not None:
        answers = arguments.texts("answers", answers)
        return answers[int(score(model, video, answers, question, **part).argmax())]
    video = model.encode(video, **part)
    asked = text_lengths(model, model.tokenize(question))[0] - 1
    return model.tokenizer.decode(
        model.generate(video.tokens, prompt=question, **{"min_length": 1} | how)[asked:]
    )


def retrieve(
    model: VideoCoCa,
    query: str | Video | Source,
    candidates: Sequence[str | Video | Source] | np.ndarray,
    *,
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
    adapter: str = "attentional",
) -> list[tuple[int, float]]:
    """[(index, cosine)], best first: videos for a text, or texts for a video.

    A `str` as the query is a text, and the candidates are videos (encoded, frames or paths). Any other query is a
    video, and the candidates are texts; to ask with a file, give a `pathlib.Path`. The keywords are those of
    `VideoCoCa.encode`.
    """
    part = {"num_frames": num_frames, "start": start, "end": end, "adapter": adapter}
    _warn(model)
    if isinstance(query, str):
        query = arguments.text("query", query, blank=False)
        if not isinstance(candidates, list | tuple) or not candidates:
            raise ValueError(
                f"candidates must be a list of at least one video, not {arguments.what(candidates)}"
            )
        text = model.encode_text(query)[0]
        cosines = cosine(np.stack([model.encode(video, **part).latent for video in candidates]), text)
    else:
        texts = arguments.texts("candidates", candidates, blank=False)
        latents = []
        for i in range(0, len(texts), TEXTS_AT_ONCE):
            latents.append(model.encode_text(texts[i : i + TEXTS_AT_ONCE]))
            advance(len(latents[-1]))
        cosines = cosine(np.concatenate(latents), model.encode(query, **part).latent)
    return [(int(i), float(cosines[i])) for i in best_first(cosines)]


def _warn(model: VideoCoCa) -> None:
    """Warn if the model's weights are known to have latents that cannot be compared."""
    if model.caveat:
        warnings.warn(model.caveat, stacklevel=3)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rows [n, E] and one [E], all of unit length -> [n]. Row by row, so that equal rows have equal cosines."""
    return (a * b).sum(axis=-1)


def best_first(scores: np.ndarray) -> np.ndarray:
    """Indices by falling score; equals keep their order."""
    return np.argsort(-scores, kind="stable")
