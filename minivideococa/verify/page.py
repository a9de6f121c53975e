"""A report as a self-contained page for the browser: charts as SVG and PNG, no network.

`page.html`, `base.css` and `page.css` are joined, and everything is drawn here. The page's script only
follows the system's choice of light or dark.
"""

from __future__ import annotations

import html
import math
from base64 import b64encode
from collections.abc import Sequence
from importlib import resources
from io import BytesIO
from string import Template

import numpy as np

from ..model.config import Array
from ..style import base_style
from .formatting import HEADER, cells, sentences
from .names import axis_words
from .report import Evidence, Report, Row

STEP, HEIGHT, LEFT, NAMES = 18, 240, 60, 150  # pixels of the chart: a tensor, its area, and room for text
HEADROOM = 60  # decibels above the tolerance: what is above that is drawn there
BINS = 64  # of a histogram
SIDE = 512  # pixels of a heat map at most: larger ones show the largest error of several elements
COLOUR = (217, 96, 20)  # of the largest error, in light and in dark


def page(report: Report, title: str) -> str:
    """Return a report as an HTML page."""
    source = {
        kind: (resources.files(__package__) / f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css")
    }
    return Template(source["html"]).substitute(
        title=html.escape(title),
        style=base_style() + source["css"],
        verdict="\n".join(f"<p>{html.escape(line)}</p>" for line in sentences(report)),
        caption=_caption(report),
        path=_path(report),
        accused=_accused(report.evidence, report.tolerance) if report.evidence else "",
        table=_table(report),
    )


# Along the path ---------------------------------------------------------------------------------------------


def _caption(report: Report) -> str:
    if report.tolerance is not None:
        return "Signal-to-quantization-noise ratio of each tensor in decibels; dashed: the tolerance."
    return (
        "Local error of each tensor, recomputed from the trace’s own tensors before it, on a logarithmic "
        f"scale; dashed: what {html.escape(report.dtype)} rounding explains. Wrong ones are filled."
    )


def _value(row: Row, tolerance: float | None) -> float:
    """Return what the chart shows of a tensor: decibels, or the exponent of its local error."""
    if tolerance is not None:
        return min(row.difference.sqnr, tolerance + HEADROOM)
    return math.log10(row.local_error) if row.local_error > 0 else -math.inf


def _limit(row: Row, tolerance: float | None) -> float:
    """Return the value that a tensor is allowed."""
    return math.log10(row.local_allowed) if tolerance is None else tolerance


def _path(report: Report) -> str:
    """Draw a dot for each tensor, and the limit as a line; values that are not finite are at the edges."""
    values = [_value(row, report.tolerance) for row in report.rows]
    limits = [_limit(row, report.tolerance) for row in report.rows]
    finite = [x for x in (*values, *limits) if math.isfinite(x)] or [0.0]
    step = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200) if max(finite) - min(finite) <= 8 * n)
    low, high = step * math.floor(min(finite) / step), step * math.ceil(max(finite) / step + 1e-9)
    width = LEFT + STEP * len(report.rows) + 20

    def y(value: float) -> float:
        inside = low if math.isnan(value) else min(max(value, low), high)
        return 10 + HEIGHT * (high - inside) / max(1, high - low)

    parts = [f'<svg width="{width}" height="{HEIGHT + NAMES}" role="img" aria-label="Errors along the path">']
    first = report.first_divergence
    for i, row in enumerate(report.rows):
        if first and row.name == first.name:
            parts.append(
                f'<rect class="accused" x="{LEFT + STEP * i}" y="10" width="{STEP}" height="{HEIGHT}"/>'
            )
    for tick in range(low, high + 1, step):
        label = f"{tick} dB" if report.tolerance is not None else f"1e{tick}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{label}</text>')
    centres = [LEFT + STEP * (i + 0.5) for i in range(len(report.rows))]
    line = " ".join(f"{x:.1f},{y(limit):.1f}" for x, limit in zip(centres, limits, strict=True))
    parts.append(f'<polyline class="allowed" points="{line}"/>')
    for x, value, row in zip(centres, values, report.rows, strict=True):
        name = html.escape(row.name)
        tip = html.escape(": ".join((row.name, cells(row, report.tolerance)[-1])))
        named = ' class="named"' if first and row.name == first.name else ""
        parts.append(
            f'<circle class="dot {row.status.replace(" ", "-")}" cx="{x:.1f}" cy="{y(value):.1f}" r="4">'
            f"<title>{tip}</title></circle>"
            f'<text{named} transform="translate({x + 4:.1f} {HEIGHT + 20}) rotate(-90)" text-anchor="end">'
            f"{name}</text>"
        )
    return "\n".join([*parts, "</svg>"])


def _table(report: Report) -> str:
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    rows = [
        f'<tr class="{row.status.replace(" ", "-")}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row, report.tolerance))
        + "</tr>"
        for row in report.rows
    ]
    return "\n".join(["<table>", f"<tr>{head}</tr>", *rows, "</table>"])


# The accused tensor -----------------------------------------------------------------------------------------


def _accused(evidence: Evidence, tolerance: float | None) -> str:
    """Show where in the tensor the error sits, and the distribution of its numbers."""
    with np.errstate(all="ignore"):
        error = np.abs(evidence.found - evidence.expected)
    error = np.where(np.isfinite(error), error, np.nanmax(error, initial=0, where=np.isfinite(error)) or 1)
    words = axis_words(evidence.name, error.ndim)
    maps = [_heat_map(plane, axes, note) for plane, axes, note in _planes(error, words)]
    expected = "the reference" if tolerance is not None else "recomputed from the trace’s tensor before it"
    return f"""<section>
<h2>{html.escape(evidence.name)}</h2>
<p>Absolute error, from none to {error.max():.3g}; the colour grows with its square root.</p>
<div class="pair">
{"".join(maps)}
</div>
<h3>Histogram</h3>
<p>The numbers of <span class="key">the trace</span>, and what they should be: {expected}. The height is the
logarithm of their count.</p>
<figure>{_histogram(evidence)}</figure>
</section>"""


def _planes(error: Array, words: Sequence[str]) -> list[tuple[Array, tuple[str, str], str]]:
    """Return two-dimensional maps of an error [..., n] with the words of their axes, and a note.

    The last two axes, where the others are those of the largest error; and for three axes or more the first
    and the second last, where the largest of the others counts.
    """
    if error.ndim == 1:
        return [(error[None], ("", words[0]), "")]
    worst = np.unravel_index(np.argmax(error), error.shape)[:-2]
    at = ", ".join(f"{word} {i}" for word, i in zip(words, worst, strict=False))
    planes = [(error[worst], (words[-2], words[-1]), f"at {at}" if at else "")]
    if error.ndim > 2:
        others = tuple(i for i in range(error.ndim) if i not in (0, error.ndim - 2))
        note = f"the largest of all {' and '.join(f'{words[i]}s' for i in others)}"
        planes.insert(0, (error.max(axis=others), (words[0], words[-2]), note))
    return planes


def _heat_map(plane: Array, axes: tuple[str, str], note: str) -> str:
    """Draw a map as a PNG whose opacity grows with the error, so that it stands on light and on dark."""
    from PIL import Image

    for axis in (0, 1):
        starts = np.arange(0, plane.shape[axis], math.ceil(plane.shape[axis] / SIDE))
        plane = np.maximum.reduceat(plane, starts, axis=axis)
    picture = np.zeros((*plane.shape, 4), np.uint8)
    picture[..., :3] = COLOUR
    picture[..., 3] = np.rint(255 * np.sqrt(plane / (plane.max() or 1)))
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "png", optimize=True)
    down = f"down: {axes[0]}; " if axes[0] else ""
    caption = html.escape(f"{down}across: {axes[1]}" + (f"; {note}" if note else ""))
    data = b64encode(stream.getvalue()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="Heat map of the error, {caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _histogram(evidence: Evidence) -> str:
    """Draw the histograms of the two tensors, on one scale."""
    arrays = {
        kind: x[np.isfinite(x)] for kind, x in (("expected", evidence.expected), ("found", evidence.found))
    }
    numbers = np.concatenate([x.ravel() for x in arrays.values()])
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 1.0)
    counts = {kind: np.histogram(x, BINS, (low, high))[0] for kind, x in arrays.items()}
    top = math.log10(1 + max(int(c.max()) for c in counts.values())) or 1
    lines = []
    for kind, count in counts.items():
        heights = [150 * math.log10(1 + int(n)) / top for n in count]
        steps = " ".join(
            f"{10 * i},{160 - h:.1f} {10 * (i + 1)},{160 - h:.1f}" for i, h in enumerate(heights)
        )
        lines.append(f'<polyline class="{kind}" points="{steps}"/>')
    return (
        f'<svg viewBox="0 0 {10 * BINS} 162" preserveAspectRatio="none" role="img" aria-label="Histograms">'
        f'<line class="grid" x1="0" x2="{10 * BINS}" y1="160" y2="160"/>{"".join(lines)}'
        f"</svg><figcaption>from {low:.4g} to {high:.4g}</figcaption>"
    )
