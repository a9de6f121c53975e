"""Draw the figures of walkthrough.md from real runs of the embedded checkpoint: figures/*.png.

python assets/draw_figures.py [FOLDER]   # half a minute; needs the extra `docs`

Every figure has a white ground of its own, for light and dark pages, and letters that can be read at the
width of a phone.
"""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import minivideococa as mvc
from minivideococa.demo import CLIPS
from minivideococa.model.generation import TEXTBOOK, DecodingOptions, beam_search, model_logits, suppress_end
from minivideococa.model.hooks import replace_operations
from minivideococa.model.ops import log_softmax, quick_gelu
from minivideococa.model.text import attention_mask

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))
import costs

FOLDER = Path(__file__).with_name("figures")
WIDTH, DPI = 5.4, 150  # inches, pixels per inch
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#9A4D8A", "#666666"
HEAT = "magma"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.05,
}
SENTENCES = {
    "single": "a green crescent",
    "brief": "a yellow crescent",
    "pair": "a red ring and a green diamond",
    "split": "a purple triangle and a red ring",
    "mixed": "a purple ring and an orange star and a blue star",
}


# Runs


@cache
def model() -> Any:
    return mvc.load()


@cache
def frames(clip: str, num_frames: int = 8) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # brief.gif stores equal frames once
        return mvc.read_video(CLIPS / f"{clip}.gif", num_frames=num_frames)


@cache
def tokens(clip: str) -> np.ndarray:
    return model().encode_frames(model().preprocess(frames(clip)))


@cache
def pooled(clip: str, adapter: str = "attentional") -> tuple[Any, np.ndarray]:
    """Return the encoded clip, and its pooler's attention weights [H, Q, T, N]."""
    with mvc.trace(weights=True) as trace:
        video = model().pool(tokens(clip), adapter)
    weights = trace["pool.weights"]
    if adapter == "mean":  # [T, H, Q, N], each frame's summing to 1
        weights = weights.transpose(1, 2, 0, 3) / len(weights)
    return video, weights.reshape(*weights.shape[:2], 8, -1)


def words(ids: Any) -> list[str]:
    return [model().tokenizer.decode(np.array([i])) for i in ids]


# Parts of figures


def figure(height: float, *layout: Any, **keywords: Any) -> tuple[Figure, Any]:
    return plt.subplots(*layout, figsize=(WIDTH, height), layout="constrained", **keywords)


def blank(ax: Axes) -> Axes:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.patch.set_visible(False)  # letters of a neighbour may reach into it
    return ax


def show(ax: Axes, picture: np.ndarray, title: str = "", **keywords: Any) -> None:
    blank(ax).imshow(picture, interpolation="nearest", **keywords)
    ax.set_title(title)


def heat_map(weights: np.ndarray, picture: np.ndarray, most: float) -> np.ndarray:
    """Return a picture, dark where the weights [64] of its patches are small against `most`."""
    share = np.clip(weights.reshape(8, 8) / most, 0, 1) ** 0.5
    return (picture * (0.25 + 0.75 * share.repeat(8, 0).repeat(8, 1))[..., None]).astype(np.uint8)


def box(ax: Axes, x: float, y: float, text: str, color: str = "white", width: float = 4.0) -> None:
    edge = GREY if color == "white" else color
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.36), width, 0.72, boxstyle="round,pad=0.08", fc=color, ec=edge, lw=1.2
        )
    )
    ax.text(x, y, text, ha="center", va="center", color="black" if color == "white" else "white")


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, shrinkA=0, shrinkB=0)
    )


def annotate(ax: Axes, values: np.ndarray, middle: float, size: float = 10) -> None:
    """Write each value of a matrix into its cell, in white on dark cells."""
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value < middle else "black"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=size)


# Figures, in the order of the walkthrough


LEFT, RIGHT, MIDDLE = 2.4, 7.6, 5.0  # columns of the architecture
BOXES = [  # column, height, text, the array whose shape is added, colour
    (LEFT, 11, "frames", "frames", "white"),
    (LEFT, 9.8, "pixels", "pixels", "white"),
    (LEFT, 8.5, "image encoder (frozen)", "", BLUE),
    (LEFT, 7.2, "tokens", "vision.block.3", "white"),
    (LEFT, 6.0, "flattened", "pool.flat", "white"),
    (LEFT, 4.7, "attentional pooler", "", ORANGE),
    (LEFT, 2.6, "caption tokens", "pool.tokens", "white"),
    (RIGHT, 11, "ids", "ids", "white"),
    (RIGHT, 8.5, "unimodal decoder", "", BLUE),
    (RIGHT, 2.6, "token features", "text.tokens", "white"),
    (MIDDLE, 1.3, "multimodal decoder", "", BLUE),
    (MIDDLE, 0.1, "logits", "logits", "white"),
]
ARROWS = [  # from, to, colour
    *[((LEFT, top - 0.45), (LEFT, top - 0.75), GREY) for top in (11.0, 7.2)],
    *[((LEFT, top - 0.45), (LEFT, top - 0.85), GREY) for top in (9.8, 8.5, 6.0)],
    ((LEFT, 4.25), (LEFT, 3.05), GREY),
    ((RIGHT, 10.55), (RIGHT, 8.95), GREY),
    ((RIGHT + 1.5, 8.05), (RIGHT + 1.5, 3.05), GREY),
    ((LEFT + 0.5, 2.15), (MIDDLE - 1.2, 1.75), GREY),
    ((RIGHT - 0.5, 2.15), (MIDDLE + 1.2, 1.75), GREY),
    ((MIDDLE, 0.85), (MIDDLE, 0.55), GREY),
    ((4.9, 5.55), (4.0, 5.12), ORANGE),
    ((4.48, 4.7), (5.42, 4.7), GREEN),
    ((7.0, 8.05), (7.0, 5.14), GREEN),
]


def architecture() -> Figure:
    with mvc.trace() as t:
        model()(model().preprocess(frames("pair")), model().tokenize([SENTENCES["pair"]]))
    fig, ax = figure(6.4)
    blank(ax).set(xlim=(-0.3, 10.3), ylim=(-0.5, 13))
    for i in range(4):
        ax.imshow(frames("pair")[2 * i], extent=(0.4 + i * 1.05, 1.35 + i * 1.05, 12, 12.95), aspect="auto")
    for x, y, text, name, color in BOXES:
        box(ax, x, y, f"{text} {list(t[name].shape)}" if name else text, color)
    box(ax, 7.0, 4.7, f"latents {list(t['pool.latent'].shape)}", GREEN, 3.0)
    for start, end, color in ARROWS:
        arrow(ax, start, end, color)
    queries = list(model().params["visual"]["attn_pool"]["query"].shape)
    small = {"va": "center", "fontsize": 9}
    ax.text(RIGHT, 12.45, f"“{SENTENCES['pair']}”", ha="center", style="italic", **small)
    ax.text(4.7, 6.0, f"queries\n{queries}", ha="left", color=ORANGE, **small)
    ax.text(7.0, 3.85, "compared by cosine", ha="center", color=GREEN, **small)
    return fig


def sampling() -> Figure:
    every = mvc.read_video(CLIPS / "split.gif", num_frames=16)
    fig, axes = figure(2.1, 3, 16, height_ratios=[1, 0.55, 0.55])
    for i, ax in enumerate(axes[0]):
        show(ax, every[i], str(i))
    for row, T in ((1, 8), (2, 4)):
        chosen = [(2 * t + 1) * 16 // (2 * T) for t in range(T)]
        for i, ax in enumerate(axes[row]):
            blank(ax).set(xlim=(0, 1), ylim=(0, 1))
            if i in chosen:
                ax.add_patch(Rectangle((0.05, 0), 0.9, 1, color=BLUE))
                ax.text(0.5, 0.47, str(chosen.index(i)), ha="center", va="center", color="white")
        axes[row, 0].text(-0.1, 0.5, f"T = {T}", ha="right", va="center")
    axes[0, 0].text(-8, 32, "frame", ha="right", va="center")
    return fig


def pixels() -> Figure:
    picture = frames("mixed")[0]
    x = model().preprocess(picture[None])[0]
    fig, axes = figure(1.75, 1, 4)
    show(axes[0], picture, "uint8")
    for c, ax in enumerate(axes[1:]):
        show(ax, x[c], ("red", "green", "blue")[c], cmap="RdBu_r", vmin=-2.2, vmax=2.2)
    bar = fig.colorbar(axes[3].images[0], ax=axes[1:], shrink=0.8, ticks=(-2, 0, 2))
    bar.outline.set_visible(False)
    return fig


def patches() -> Figure:
    row, column = 2, 4
    picture, token = frames("pair")[0], tokens("pair")[0, 1 + row * 8 + column]
    patch = picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    fig, axes = figure(2.3, 1, 3, width_ratios=[1.5, 1, 1])
    show(axes[0], picture, "64 patches")
    for i in np.arange(8, 64, 8) - 0.5:
        axes[0].axvline(i, color="white", lw=0.8)
        axes[0].axhline(i, color="white", lw=0.8)
    axes[0].add_patch(Rectangle((8 * column - 0.5, 8 * row - 0.5), 8, 8, fill=False, ec="yellow", lw=3))
    show(axes[1], patch, "one patch:\n3 x 8 x 8 = 192")
    most = abs(token).max() / 2
    show(axes[2], token.reshape(16, 10), "its token:\n160 numbers", cmap="RdBu_r", vmin=-most, vmax=most)
    return fig


def flatten() -> Figure:
    x = tokens("pair").reshape(520, -1)
    x = x - x.mean(axis=0)
    color = (
        x @ np.linalg.svd(x, full_matrices=False)[2][:3].T
    )  # [T N, 3]: the main directions as red, green, blue
    low, high = np.percentile(color, (2, 98), axis=0)
    color = np.clip((color - low) / (high - low), 0, 1)
    fig = plt.figure(figsize=(WIDTH, 3.0), layout="constrained")
    grid = fig.add_gridspec(4, 8, height_ratios=[1, 1.1, 0.55, 0.55])
    for t in range(8):
        show(fig.add_subplot(grid[0, t]), frames("pair")[t], f"t = {t}")
        by_place = color.reshape(8, 65, 3)[t, 1:].reshape(8, 8, 3)
        show(fig.add_subplot(grid[1, t]), by_place)
    fig.axes[0].set_ylabel("frames")
    fig.axes[1].set_ylabel("[8, 65, 160]")
    ax = fig.add_subplot(grid[2, :])
    show(ax, color[None], "flattened: one sequence [520, 160]", aspect="auto")
    ax = blank(fig.add_subplot(grid[3, :]))
    ax.set(xlim=(-0.5, 519.5), ylim=(0, 1))
    for query in np.linspace(20, 500, 32):
        ax.plot([query, 260 + (query - 260) * 1.0], [0.62, 1.0], color=ORANGE, lw=0.8)
        ax.plot(query, 0.55, "o", color=ORANGE, ms=5)
    ax.text(260, 0.05, "32 queries, each of which attends to all 520", ha="center", va="center", color=ORANGE)
    return fig


def pooling() -> Figure:
    shown = frames("brief")
    most = np.percentile(pooled("brief")[1][:, 1:, :, 1:].mean(axis=(0, 1)), 99.5)
    fig, axes = figure(4.6, 5, 8, height_ratios=[1, 1, 1.4, 1, 1.4])
    for t in range(8):
        show(axes[0, t], shown[t], f"t = {t}")
    for row, adapter, color in ((1, "attentional", BLUE), (3, "mean", ORANGE)):
        video, weights = pooled("brief", adapter)
        caption_queries = weights[:, 1:].mean(axis=(0, 1))  # [T, N]: the mean of their heads and queries
        for t in range(8):
            show(axes[row, t], heat_map(caption_queries[t, 1:], shown[t], most))
            ax = blank(axes[row + 1, t])
            share = caption_queries[t].sum()
            ax.bar(0, share, color=color, width=0.7)
            ax.text(0, share + 0.008, f"{share:.3f}", ha="center", fontsize=9)
            ax.set(ylim=(-0.09, 0.24), xlim=(-0.5, 0.5))
        caption = model().caption(video)
        label = f"{adapter}: “{caption}”"
        text = axes[row + 1, 0].text(-0.5, -0.03, label, color=color, va="top", fontsize=11, weight="bold")
        text.set_in_layout(False)  # it is wider than its axes
    return fig


def queries() -> Figure:
    by_frame = pooled("brief")[1].sum(axis=-1)  # [H, Q, T]
    fig, axes = figure(4.9, 1, 2)
    for ax, shares, what in (
        (axes[0], by_frame.mean(axis=0), "queries, mean of heads"),
        (axes[1], by_frame[:, 0], "heads of query 0"),
    ):
        ax.imshow(shares, cmap=HEAT, vmin=0, vmax=0.5, aspect="auto", interpolation="nearest")
        ax.set(title=what, xlabel="frame", xticks=range(8))
    axes[0].set(ylabel="query (0 makes the latent)", yticks=range(0, 32, 4))
    axes[1].set(ylabel="head", yticks=range(8))
    bar = fig.colorbar(axes[1].images[0], ax=axes, shrink=0.6, location="bottom", ticks=(0, 0.125, 0.25, 0.5))
    bar.ax.set_xticklabels(["0", "1/8", "1/4", "1/2"])
    bar.set_label("share of the frame")
    return fig


def diluted(x: np.ndarray, T: int) -> np.ndarray:
    """Return T frames, of pixels or tokens: the two of brief.gif that show the crescent, the rest empty."""
    return np.concatenate([x[3:5]] + [x[:1]] * (T - 2))


def margin(video: Any) -> float:
    """Return the log of how much likelier captions with a yellow crescent are than captions with nothing."""
    beginnings = [f"{article} of" for article in ("a photo", "a picture", "a video", "an image")]
    sizes = ("", "small ", "large ")
    crescent = [f"{begin} a {size}yellow crescent" for begin in beginnings for size in sizes]
    log_probs = mvc.score(model(), video, crescent + [f"{begin} nothing" for begin in beginnings])
    right, nothing = log_probs[: len(crescent)], log_probs[len(crescent) :]
    return float(np.logaddexp.reduce(right) - np.logaddexp.reduce(nothing))


def sharper(x: np.ndarray) -> Any:
    with mvc.trace(patch={"pool.q": lambda q: 1.2 * q}, weights=True):
        return model().pool(x)


def dilution() -> Figure:
    brief, images = tokens("brief"), model().preprocess(frames("brief"))
    every, fewer = [2, 4, 8, 16, 32, 64], [2, 4, 8, 16, 32]  # joint takes T times as long
    lines: list[tuple[str, str, str, list[int], Callable[[int], Any]]] = [
        ("queries x 1.2", PURPLE, "v", every, lambda T: sharper(diluted(brief, T))),
        ("joint", GREEN, "s", fewer, lambda T: model().encode_video(diluted(images, T), "joint")),
        ("attentional", BLUE, "o", every, lambda T: model().pool(diluted(brief, T))),
        ("mean", ORANGE, "^", every, lambda T: model().pool(diluted(brief, T), "mean")),
    ]
    fig, ax = figure(3.6)
    ax.axhspan(-13, 0, color="#eeeeee", zorder=0)
    for name, color, marker, Ts, encode in lines:
        ax.plot(Ts, [margin(encode(T)) for T in Ts], color=color, marker=marker, label=name, lw=2)
    ax.set_xscale("log", base=2)
    ax.set(
        xticks=every,
        xticklabels=every,
        ylim=(-13, 10),
        xlabel="T: two frames with the crescent, T - 2 empty",
        ylabel="log P(crescent) - log P(nothing)",
    )
    ax.text(75, 8.7, "above 0: “a yellow crescent”", va="center", ha="right", color=GREY)
    ax.text(75, -12, "below 0: “nothing”", va="center", ha="right", color=GREY)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.45, 1), ncols=2)
    return fig


def mask() -> Figure:
    ids, names = np.array([[5, 6, 0, 0]]), ["a", "ring", "pad", "pad", "class"]
    fig, axes = figure(3.1, 1, 2)
    for ax, correct, title in ((axes[0], False, "as released"), (axes[1], True, "correct_cls_mask")):
        allowed = attention_mask(ids, pad_id=0, correct_cls_mask=correct)[0, 0]
        ax.imshow(allowed, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
        for (row, column), value in np.ndenumerate(allowed):
            text, color = ("1", "white") if value else ("0", "#999999")
            ax.text(column, row, text, ha="center", va="center", color=color)
        ax.set(title=title, xticks=range(5), yticks=range(5), xlabel="key")
        ax.set_xticklabels(names, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticklabels(names)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.add_patch(Rectangle((-0.5, 3.5), 5, 1, fill=False, ec=ORANGE, lw=2.5, clip_on=False))
    axes[0].set_ylabel("query")
    return fig


def cosines() -> Figure:
    latents = np.stack([pooled(clip)[0].latent for clip in SENTENCES])
    values = model().encode_text(list(SENTENCES.values())) @ latents.T  # a row per sentence
    fig, axes = figure(4.1, 2, 5, height_ratios=[1, 4.6])
    for clip, ax in zip(SENTENCES, axes[0], strict=True):
        show(ax, frames(clip)[3], clip)
    grid = axes[1, 0].get_gridspec()
    for ax in axes[1]:
        ax.remove()
    ax = fig.add_subplot(grid[1, :])
    ax.imshow(values, cmap="viridis", vmin=-0.3, vmax=1, aspect="auto")
    annotate(ax, values, 0.5, 11)
    ax.set(xticks=[], yticks=range(5))
    ax.set_yticklabels([textwrap.fill(text, 17) for text in SENTENCES.values()], fontsize=9.5)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def words_over_frames() -> Figure:
    video, weights = pooled("split")
    written = model().generate(video.tokens, beams=1)
    with mvc.trace(weights=True) as t:
        model().decode(video.tokens, written[None])
    layers = range(model().config.decoder.layers)
    cross = np.mean([t[f"decoder.block.{i}.cross.weights"] for i in layers], axis=(0, 1))  # [L, Q']
    shares = np.tensordot(cross, weights.mean(axis=0)[1:], 1).sum(axis=-1)  # [L, T]
    fig = plt.figure(figsize=(WIDTH, 4.6), layout="constrained")
    grid = fig.add_gridspec(2, 8, height_ratios=[1, 6])
    for i in range(8):
        show(fig.add_subplot(grid[0, i]), frames("split")[i])
    ax = fig.add_subplot(grid[1, :])
    ax.imshow(shares[:-1], cmap=HEAT, vmin=0.05, vmax=0.2, aspect="auto", interpolation="nearest")
    annotate(ax, shares[:-1], 0.147)
    ax.set(xticks=range(8), xlabel="frame", yticks=range(len(written) - 1))
    ax.set_yticklabels([word or "(end)" for word in words(written[1:])], fontsize=11)
    ax.tick_params(length=0)
    return fig


def kv_cache() -> Figure:
    config = costs.models()["L/14"]
    positions = np.arange(1, 31)
    cached = [costs.text(config, 1, n - 1) + costs.decoder(config, 1, n - 1) for n in positions]
    uncached = [costs.text(config, n + 1) + config.embed_dim**2 + costs.decoder(config, n) for n in positions]
    fig, axes = figure(4.4, 2, 1, sharex=True)
    axes[0].plot(positions, np.array(uncached) / 1e9, color=ORANGE, lw=2.5, label="without cache")
    axes[0].plot(positions, np.array(cached) / 1e9, color=BLUE, lw=2.5, label="with cache")
    axes[0].set(title="multiply-adds of each new token of L/14, in G", ylim=(0, None))
    for name, color in (("L/14", BLUE), ("B/32", GREEN)):
        c = costs.models()[name]
        numbers = 2 * (c.text.layers + c.decoder.layers) * c.embed_dim  # keys and values of one position
        axes[1].plot(positions, positions * numbers * 4 / 1e6, color=color, lw=2.5, label=name)
    axes[1].set(
        title="keys and values of the text in the cache, in MB of float32",
        xlabel="tokens so far",
        ylim=(0, None),
    )
    for ax in axes:
        ax.legend(frameon=False, loc="upper left")
    return fig


Step = tuple[np.ndarray, np.ndarray]  # the ids [R, L] of the beams, and the beams [R] that they continue


def search(beams: int) -> tuple[list[Step], list[np.ndarray], dict[tuple[int, ...], float]]:
    """Search for captions of split.gif: the steps, the texts, and the log-probabilities of all beginnings."""
    video, m = pooled("split")[0], model()
    next_logits = model_logits(m.params, m.config, video.tokens[None])
    steps: list[Step] = []
    scores: dict[tuple[int, ...], float] = {(m.tokenizer.start_id,): 0.0}

    def recorded(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        logits = next_logits(ids, rows)
        steps.append((ids, rows))
        for row, log_probs in zip(ids.tolist(), log_softmax(logits), strict=True):
            for token, log_prob in enumerate(log_probs):
                scores[(*row, token)] = scores[tuple(row)] + float(log_prob)
        return logits

    options = DecodingOptions(
        beams=beams, beam_groups=1, max_length=20, candidates=beams, convention="textbook"
    )
    start, end = np.array([[m.tokenizer.start_id]]), m.tokenizer.end_id
    processors = [suppress_end(options.min_length, end)]
    found = beam_search(recorded, start, processors, options, end, m.config.pad_id, TEXTBOOK.token_scores)
    return steps, found[0], scores


def beam_tree() -> Figure:
    beams = 3
    steps, texts, scores = search(beams)
    ends = {tuple(text[:-1].tolist()): text.tolist() for text in texts}
    best = {end[:n] for end in ends for n in range(1, len(end) + 1)}
    last = len(steps) - 1  # the step after which all three texts have ended
    fig, ax = figure(6.6)
    blank(ax).set(xlim=(-0.55, beams - 0.45), ylim=(last - 0.3, -0.4))
    ax.text(1, 0, "(start) 0.0", ha="center", va="center", color=GREY)
    white = {"fc": "white", "ec": "none", "pad": 1.5}
    for step, (ids, rows) in enumerate(steps[1:last], start=1):
        for beam, (row, parent) in enumerate(zip(map(tuple, ids.tolist()), rows, strict=True)):
            color, width, weight = (BLUE, 2.2, "bold") if row in best else ("#888888", 1, "normal")
            above = 1 if step == 1 else parent
            ax.plot([above, beam], [step - 0.8, step - 0.2], color=color, lw=width, zorder=0)
            text = {"ha": "center", "va": "center", "weight": weight, "bbox": white}
            ax.text(beam, step, f"{words(row[-1:])[0]} {scores[row]:.1f}", color=color, **text)
            if row in ends:
                total, length = scores[tuple(ends[row])], len(ends[row])
                label = f"ends: {total:.1f}/{length} = {total / length:.2f}"
                ax.text(beam, step + 0.32, label, color=GREEN, fontsize=9, **text)
    return fig


def divergence() -> Figure:
    m64, x = mvc.load(dtype="float64"), model().preprocess(frames("pair"))
    ids = model().tokenize([SENTENCES["pair"]])

    def activations(m: Any, pixels: np.ndarray) -> dict[str, np.ndarray]:
        with mvc.trace() as t:
            m(pixels, ids)
        return dict(t)

    right = activations(m64, x)
    runs = {"float32": activations(model(), x), "blue and red swapped": activations(m64, x[:, ::-1])}
    with replace_operations({"ops.gelu": lambda gelu: quick_gelu}):
        runs["QuickGELU for GELU"] = activations(m64, x)
    names = [name for name in right if name not in ("pixels", "ids") and not name.startswith("text")]
    fig, ax = figure(4.6)
    styles = ((GREEN, "o"), (ORANGE, "^"), (BLUE, "s"))
    for (name, run), (color, marker) in zip(runs.items(), styles, strict=True):
        errors = [abs(run[n] - right[n]).max() / abs(right[n]).max() for n in names]
        errors = [max(error, 1e-17) for error in errors]
        ax.plot(errors, range(len(names)), color=color, marker=marker, label=name, lw=1.5, ms=5)
    ax.set_xscale("log")
    ax.set(yticks=range(len(names)), xlim=(5e-18, 5), xticks=[1e-17, 1e-12, 1e-7, 1e-2])
    ax.set_xticklabels(["0", "1e-12", "1e-7", "1e-2"])
    ax.set_yticklabels(names)
    ax.set_xlabel("largest difference from float64, relative")
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.02))
    return fig


def gradient_of_frames() -> np.ndarray:
    """Return the gradient of the captioning loss with respect to the frame tokens of brief.gif: [8, N W]."""
    from minivideococa.model import decoder, pooling, text
    from minivideococa.training import backward
    from minivideococa.training.losses import captioning_loss
    from minivideococa.training.parameters import Parameters
    from minivideococa.training.tape import keep

    m = model()
    params, config, ids = m.params, m.config, m.tokenize([SENTENCES["brief"]])
    targets = (ids != config.pad_id) & (np.arange(ids.shape[1]) > 0)
    _, features = text.encode_text(ids, params["text"], config.text)
    with keep() as pool_tape:
        latent, caption_tokens = pooling.pool(tokens("brief")[None], params["visual"], config.vision)
    with keep() as decoder_tape:
        kv = decoder.cross_attention_kv(caption_tokens, params["text_decoder"], config.decoder)
        logits = decoder.decode(features[:, :-1], kv, params["text_decoder"], config.decoder)
    _, d = captioning_loss(logits, ids, targets, int(targets.sum()))
    grads = Parameters.of(params, "full").grads
    _, d = backward.decode(d, decoder_tape, config.decoder, grads["text_decoder"])
    d = backward.cross_attention_kv(d, decoder_tape, grads["text_decoder"])
    d = backward.pool(np.zeros_like(latent), d, pool_tape, params, config, grads)
    return d.reshape(8, -1)


def gradient() -> Figure:
    by_frame = np.linalg.norm(gradient_of_frames(), axis=1)
    shares = {
        "attention of the\ncaption queries": (BLUE, pooled("brief")[1][:, 1:].mean(axis=(0, 1)).sum(axis=-1)),
        "gradient": (ORANGE, by_frame / by_frame.sum()),
    }
    fig = plt.figure(figsize=(WIDTH, 2.9), layout="constrained")
    grid = fig.add_gridspec(2, 8, height_ratios=[1, 2.6])
    for t in range(8):
        show(fig.add_subplot(grid[0, t]), frames("brief")[t])
    ax = fig.add_subplot(grid[1, :])
    for i, (name, (color, share)) in enumerate(shares.items()):
        ax.bar(np.arange(8) + 0.4 * i - 0.2, share, 0.38, color=color, label=name)
    ax.set(xticks=range(8), xlabel="frame", ylabel="share", xlim=(-0.5, 7.5))
    ax.legend(frameon=False, loc="upper right")
    return fig


FIGURES: dict[str, Callable[[], Figure]] = {
    "architecture": architecture,
    "sampling": sampling,
    "pixels": pixels,
    "patches": patches,
    "flatten": flatten,
    "pooling": pooling,
    "queries": queries,
    "dilution": dilution,
    "mask": mask,
    "cosines": cosines,
    "words": words_over_frames,
    "cache": kv_cache,
    "beams": beam_tree,
    "divergence": divergence,
    "gradient": gradient,
}


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    with plt.rc_context(STYLE):
        for name, draw in FIGURES.items():
            path = folder / f"{name}.png"
            fig = draw()
            fig.savefig(path, dpi=DPI, facecolor="white", pil_kwargs={"optimize": True})
            plt.close(fig)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
