"""A self-contained HTML page of explanations: one file with its styles, script, frames and arrays.

`page.html`, `base.css`, `page.css` and `page.js` are joined, and the data stand in the page as JSON. Arrays
are stored as bytes: values divided by the largest of their map, times 255. The page loads nothing, and its
Content-Security-Policy makes the browser refuse to.
"""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..style import base_style

if TYPE_CHECKING:
    from .explanation import Explanation

POOLER_BYTES = 300_000  # of the poolers' attention in one page; what takes more is averaged over heads
FEWER_QUERIES = 16  # those of most weight, if the average over heads takes more, too
EXACT_SIDE = 96  # pixels: smaller frames are stored exactly, as PNG; larger ones as JPEG
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Section:
    """Explanations to show side by side, under a heading."""

    explanations: Sequence[Explanation]
    heading: str = ""
    note: str = ""
    labels: Sequence[str] = ()  # one for each explanation


def page(
    explanations: Sequence[Explanation], title: str = "What the model looked at", labels: Sequence[str] = ()
) -> str:
    """Return an HTML page of one explanation, or of several side by side.

    labels : a name for each of several; by default their adapters, if these differ.

    Raises ValueError without explanations, and unless there is a label for each.
    """
    return page_of_sections([Section(explanations, labels=labels)], title)


def page_of_sections(
    sections: Sequence[Section], title: str, lead: str = "", footer: str = "", folded: bool = False
) -> str:
    """Return an HTML page of several sections.

    lead, footer : plain text under the title and at the end.
    folded : show the caption and the strip of frames of each explanation; the rest is unfolded on demand.

    Raises ValueError for a section without explanations, and unless there are no labels or one for each.
    """
    images: dict[str, int] = {}  # data URI -> its place in the page's list: equal frames are stored once
    budget = POOLER_BYTES // max(1, sum(len(section.explanations) for section in sections))
    data = {
        "title": title,
        "lead": lead,
        "footer": footer,
        "folded": folded,
        "sections": [_section(section, images, budget) for section in sections],
        "images": list(images),
    }
    source = {
        name: (resources.files(__package__) / f"page.{name}").read_text(encoding="utf-8") for name in _PARTS
    }
    return Template(source["html"]).substitute(
        title=html.escape(title),
        style=base_style() + source["css"],
        script=source["js"],
        captions="\n".join(_plain(e) for section in sections for e in section.explanations),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),  # "</script>" in a text
    )


_PARTS = ("html", "css", "js")


def _plain(explanation: Explanation) -> str:
    """Return the caption as HTML, for a browser without scripts."""
    return f"<p>{html.escape(explanation.text)}</p>"


def _section(section: Section, images: dict[str, int], budget: int) -> dict[str, Any]:
    """Return the data of a section, and add its frames to `images`."""
    explanations, labels = section.explanations, list(section.labels) or _labels(section.explanations)
    if not explanations or len(labels) != len(explanations):
        raise ValueError(f"{len(labels)} labels for {len(explanations)} explanations: give one for each")
    return {
        "heading": section.heading,
        "note": section.note,
        "panels": [
            {"label": label, **_panel(explanation, images, budget)}
            for label, explanation in zip(labels, explanations, strict=True)
        ],
    }


def _labels(explanations: Sequence[Explanation]) -> list[str]:
    """Return the adapters if they differ, else ""."""
    adapters = [explanation.adapter for explanation in explanations]
    return adapters if len(set(adapters)) > 1 else [""] * len(adapters)


def _panel(explanation: Explanation, images: dict[str, int], budget: int) -> dict[str, Any]:
    """Return the data of one explanation; `page.js` reads them by these names."""
    pooler, queries = _fewer(explanation.pooler, explanation.cross, budget)
    latent = explanation.latent if len(pooler) > 1 else explanation.latent.mean(axis=0, keepdims=True)
    return {
        "text": explanation.text,
        "question": explanation.question,
        "formula": explanation.formula,
        "times": None if explanation.times is None else _rounded(explanation.times),
        "words": list(explanation.words),
        "probabilities": _rounded(explanation.probabilities),
        "likeliest": [[[word, _round(p)] for word, p in step] for step in explanation.likeliest],
        "side": explanation.frames.shape[2],  # S
        "frames": [_place(frame, images) for frame in explanation.frames],
        "frameWeights": [_rounded(row) for row in explanation.frame_weights],  # [L, T]
        "maps": pack(explanation.maps, 3),  # [L, T, rows, cols]
        "pooler": pack(pooler, 2),  # [H, Q', T, N], or [1, 16, T, N]
        "latent": pack(latent, 2),  # [H, T, N]
        "cross": pack(explanation.cross[..., queries], 1),  # [layers, H, L, Q']
        "queries": [int(q) for q in queries],  # where they stand among the Q' caption queries
        "allQueries": explanation.pooler.shape[1],  # Q'
        "averaged": len(pooler) < len(explanation.pooler),
        "shapes": [[name, list(shape)] for name, shape in explanation.shapes],
    }


def _fewer(
    pooler: NDArray[Any], cross: NDArray[Any], budget: int
) -> tuple[NDArray[Any], NDArray[np.integer[Any]]]:
    """Return the pooler's attention [H, Q', T, N] in at most `budget` bytes if possible, and its queries.

    First the heads are averaged, then the queries of most weight are kept: the mean of `cross`
    [layers, H, L, Q'] over layers, heads and words.
    """
    queries = np.arange(pooler.shape[1])
    if pooler.size > budget:
        pooler = pooler.mean(axis=0, keepdims=True)
    if pooler.size > budget and len(queries) > FEWER_QUERIES:
        weight = cross.mean(axis=(0, 1, 2))  # [Q']
        queries = np.sort(np.argsort(-weight, kind="stable")[:FEWER_QUERIES])
        pooler = pooler[:, queries]
    return pooler, queries


def pack(values: NDArray[Any], axes: int) -> Mapping[str, Any]:
    """Return non-negative values as bytes, in base64, with a scale for each map: the last `axes` axes.

    A value is byte / 255 * scale, so that its error is at most 1/510 of the largest value of its map.
    """
    maps = values.reshape(*values.shape[: values.ndim - axes], -1)  # [..., size]
    scales = maps.max(axis=-1, keepdims=True)
    bytes_ = np.rint(255 * maps / np.where(scales > 0, scales, 1)).astype(np.uint8)
    return {
        "shape": list(values.shape),
        "scales": _rounded(scales.ravel()),
        "bytes": b64encode(bytes_.tobytes()).decode(),
    }


def _rounded(values: Any) -> list[float]:
    """Return a vector as a list of floats of four digits."""
    return [_round(value) for value in values]


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _place(frame: NDArray[np.uint8], images: dict[str, int]) -> int:
    """Return the place of a frame in the page's list of images, and add it if it is new."""
    return images.setdefault(_data_uri(frame), len(images))


def _data_uri(frame: NDArray[np.uint8]) -> str:
    """Return a frame uint8 [S, S, 3] as a data URI."""
    from PIL import Image

    stream = BytesIO()
    if max(frame.shape[:2]) <= EXACT_SIDE:
        Image.fromarray(frame).save(stream, kind := "png", optimize=True)
    else:
        Image.fromarray(frame).save(stream, kind := "jpeg", quality=JPEG_QUALITY)
    return f"data:image/{kind};base64,{b64encode(stream.getvalue()).decode()}"
