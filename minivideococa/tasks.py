"""What a VideoCoCa does with no training of its own: classify and retrieve, by comparing latents.

VideoCoCa (arXiv 2212.04979), section 4: zero-shot classification and text-to-video retrieval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .model import Source, Video, VideoCoCa
from .ops import softmax, unit

TEMPLATES = ("a video of {}.",)


def label_latents(model: VideoCoCa, labels: Sequence[str], templates: Sequence[str] | None = None) -> np.ndarray:
    """Each label's latent [labels, E], of unit length: the mean over its sentences, one per template with a `{}`.

    Averaging over several templates is CLIP's prompt ensembling (arXiv 2103.00020, section 3.1.4).
    """
    templates = TEMPLATES if templates is None else templates
    if not labels or not templates or isinstance(labels, str) or isinstance(templates, str):
        raise ValueError("classification needs a list of labels, and of templates, of at least one each")
    wrong = [t for t in templates if t.count("{}") != 1]
    if wrong:
        raise ValueError(f"a template holds {{}} once, where the label goes: not {wrong[0]!r}")
    return unit(np.stack([
        model.encode_text([template.replace("{}", label) for template in templates]).mean(axis=0)
        for label in labels]))


def classify(
    model: VideoCoCa, video: Video | Source, labels: Sequence[str], templates: Sequence[str] | None = None,
) -> list[tuple[str, float]]:
    """Zero-shot classification: [(label, probability)], best first.

    The video is compared with "a video of LABEL.", or with each label's average over `templates`.
    """
    cosines = cosine(label_latents(model, labels, templates), model.encode(video).latent)
    probabilities = softmax(model.logit_scale * cosines)
    return [(labels[i], float(probabilities[i])) for i in best_first(probabilities)]


def retrieve(
    model: VideoCoCa, query: str | Video | Source, candidates: Sequence[str | Video | Source],
) -> list[tuple[int, float]]:
    """[(index, cosine)], best first: videos for a text, or texts for a video.

    A `str` as the query is a text, and the candidates are videos (encoded, frames or paths). Any other query is a
    video, and the candidates are texts; to ask with a file, give a `pathlib.Path`.
    """
    if not candidates or isinstance(candidates, str):
        raise ValueError("give a list of at least one video or text to choose from")
    if isinstance(query, str):
        cosines = cosine(np.stack([model.encode(video).latent for video in candidates]), model.encode_text(query)[0])
    else:
        cosines = cosine(model.encode_text(candidates), model.encode(query).latent)
    return [(int(i), float(cosines[i])) for i in best_first(cosines)]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rows [n, E] and one [E], all of unit length -> [n]. Row by row, so that equal rows have equal cosines."""
    return (a * b).sum(axis=-1)


def best_first(scores: np.ndarray) -> np.ndarray:
    """Indices by falling score; equals keep their order."""
    return np.argsort(-scores, kind="stable")
