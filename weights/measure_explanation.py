"""Measure whether the maps of `minivideococa.explain` are fair, for several formulas.

    python weights/measure_explanation.py

Pointing: the maximum of the map of a word that names an object, its colour or its shape, lies on that object:
on a patch that shows part of it. Chance is the share of such patches among the patches of all frames. Words
of captions that name no object of the clip are left out.

Deletion: the word's probability, given the true words before it, while patches of the video are occluded,
those that the map ranks highest or as many at random. A patch is occluded by the median colour of its frame,
and the frames are encoded anew. The area between the two curves is the mean difference of the probability
over the fractions from 0 to the last of FRACTIONS. A map that tells nothing has an area of 0.

The clips have 8 frames, and training never used their seed. minivideococa/explanation/README.md says on which
clips the formulas were compared.
Intervals are 95%, by bootstrap over the clips. The `ok` and `MISSED` lines are about the default formula; the
exit status is 1 if anything is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import minivideococa as mvc
from minivideococa.explanation.explain import forward
from minivideococa.explanation.relevance import FORMULAS, Pass, cross_weights, pooler_weights
from minivideococa.model.generation import DecodingOptions
from minivideococa.model.ops import softmax
from minivideococa.world import Clip, draw, draw_clip, sample_clip

Array = NDArray[Any]
Curves = dict[str, list[Array]]  # ranking -> for each clip, probabilities [words, 1 + FRACTIONS]

SETS = ("single", "pair", "mixed", "brief", "split")
SEED = 12288
FRAMES = 8
FRACTIONS = (0.025, 0.05, 0.1, 0.2, 0.4)  # of the patches of all frames
POINTING = {"single": 0.98, "pair": 0.92}  # what the default should reach


class Named(NamedTuple):
    """A word that names an object of the clip: its position among the words, and the object's."""

    word: int
    object: int


# Formulas to compare with, for attentional pooling


def rollout(run: Pass) -> Array:
    """Follow attention through the self-attention of the decoder too: attention rollout (arXiv 2005.00928).

    Half of a self-attention block's output counts as its residual connection; a layer's cross-attention is
    added.
    """
    total = np.zeros((len(run.decoding["logits"]), len(run.video.tokens)))
    for i in range(run.config.decoder.layers):
        weights = run.decoding[f"decoder.block.{i}.self.weights"].mean(axis=0)
        total = (weights @ total + total) / 2 + run.decoding[f"decoder.block.{i}.cross.weights"].mean(axis=0)
    return np.tensordot(total[run.positions], pooler_weights(run).mean(axis=0), axes=1)


def norm(run: Pass) -> Array:
    """Weight attention by the norms of the values: |sum_h A_hqm V_hm W_O^h| (arXiv 2004.10102), twice."""
    layers = run.params["text_decoder"]["cross_attn"]
    cross = sum(
        weighted_norms(weights, run.decoding[f"decoder.block.{i}.cross.v"], p["attn"])
        for i, (weights, p) in enumerate(zip(cross_weights(run), layers, strict=True))
    )
    weights = pooler_weights(run)  # [H, Q', T, N]
    H, Q, T, N = weights.shape
    pooler = weighted_norms(
        weights.reshape(H, Q, T * N), run.pooling["pool.v"], run.params["visual"]["attn_pool"]["attn"]
    )
    return (cross @ pooler).reshape(-1, T, N)


def weighted_norms(weights: Array, values: Array, p: Any) -> Array:
    """Return |sum_h A_hxm V_hm W_O^h| [X, M] for weights [H, X, M] and values [H, M, D]."""
    heads, _, D = values.shape
    vectors = values @ p["out_proj"]["weight"].T.reshape(heads, D, -1)  # [H, M, E]
    products = np.einsum("hme,gme->hgm", vectors, vectors)
    return np.sqrt(np.maximum(np.einsum("hxm,hgm,gxm->xm", weights, products, weights), 0))


COMPARED: dict[str, Callable[[Pass], Array]] = FORMULAS | {"rollout": rollout, "norm": norm}


# Measures


def patches_of(clip: Clip, index: int, rows: int) -> Array:
    """Return which patches show an object of a clip: bool `[T, rows, rows]`."""
    shown = []
    for objects, visible in zip(clip.trajectory, clip.visible.T, strict=True):
        black = np.zeros((*clip.background.shape[:2], 3), np.float32)
        drawn = draw((objects[index],) if visible[index] else (), black).max(axis=-1) > 0  # [S, S]
        P = len(drawn) // rows
        shown.append(drawn.reshape(rows, P, rows, P).any(axis=(1, 3)))
    return np.stack(shown)


def named_objects(words: list[str], clip: Clip) -> Iterator[Named]:
    """Yield the words that name an object of the clip: a colour and the shape after it."""
    names = [o.name for o in clip.first]
    for i, name in enumerate(pairwise(words)):
        if name in names:
            yield Named(i, names.index(name))
            yield Named(i + 1, names.index(name))


def occluded(frames: Array, order: Array, fraction: float, rows: int) -> Array:
    """Return frames `[T, S, S, 3]` without the first patches of an order `[T rows rows]`."""
    T, S = frames.shape[:2]
    hidden = np.zeros(T * rows * rows, bool)
    hidden[order[: round(fraction * len(hidden))]] = True
    pixels = hidden.reshape(T, rows, rows).repeat(S // rows, axis=1).repeat(S // rows, axis=2)
    median = np.median(frames, axis=(1, 2), keepdims=True).astype(np.uint8)
    return np.where(pixels[..., None], median, frames)


def deletion(model: mvc.VideoCoCa, frames: Array, ids: Array, order: Array, rows: int) -> Array:
    """Return the words' probabilities while more and more patches are occluded: `[M - 1, 1 + F]`.

    The words are the ids `[M]` after the start token; F are the FRACTIONS.
    """
    clips = [frames] + [occluded(frames, order, fraction, rows) for fraction in FRACTIONS]
    tokens = model.encode_frames(model.preprocess(np.concatenate(clips)))
    curves = []
    for part in np.split(tokens, len(clips)):
        probabilities = softmax(model.decode(model.pool(part).tokens, ids[None, :-1])[0])
        curves.append(probabilities[np.arange(len(ids) - 1), ids[1:]])
    return np.stack(curves, axis=-1)


def area(curve: Array) -> Array:
    """Return the mean of curves `[..., 1 + F]` over the fractions, by the trapezoidal rule."""
    fractions = np.array([0, *FRACTIONS])
    return np.trapezoid(curve, fractions, axis=-1) / fractions[-1]


def bootstrap(rows: list[Array], digits: int = 3) -> str:
    """Return the mean of the words of all clips, with its interval by bootstrap over the clips."""
    sums, sizes = np.array([row.sum() for row in rows]), np.array([len(row) for row in rows])
    samples = np.random.default_rng(0).integers(0, len(rows), (2000, len(rows)))
    low, high = np.quantile(sums[samples].sum(axis=1) / sizes[samples].sum(axis=1), (0.025, 0.975))
    return f"{sums.sum() / sizes.sum():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


class Results(NamedTuple):
    """The measures of a set of clips: an array per clip, with an element per word."""

    pointing: dict[str, list[Array]]  # formula -> whether the maximum lies on the object
    chance: list[Array]
    areas: dict[str, list[Array]]  # formula -> area between the random curve and the map's
    curves: dict[str, list[Array]]  # formula or "random" -> probabilities [words, 1 + F]


def measure(model: mvc.VideoCoCa, kind: str, count: int, deleted: int) -> Results:
    """Measure `count` clips of one set, and the deletion curves of the first `deleted` of them."""
    vision, vocabulary = model.config.vision, model.require_tokenizer().vocabulary
    rows, start = vision.image_size // vision.patch_size, model.require_tokenizer().start_id
    results = Results({f: [] for f in COMPARED}, [], {f: [] for f in COMPARED}, {"random": []})
    for i in range(count):
        rng = np.random.default_rng([SEED, SETS.index(kind), i])
        clip = sample_clip(kind, rng, FRAMES)
        frames = draw_clip(clip)
        run = forward(model, model.preprocess(frames), "attentional", DecodingOptions())
        words = [vocabulary.id_to_token(int(word)) for word in run.words]
        named = list(named_objects(words, clip))
        if not named:
            continue
        positions = [word for word, _ in named]
        truth = np.stack([patches_of(clip, index, rows) for _, index in named]).reshape(len(named), -1)
        results.chance.append(truth.mean(axis=1))
        ids = np.concatenate([[start], run.words])
        if i < deleted:
            order = rng.permutation(truth.shape[1])
            random = deletion(model, frames, ids, order, rows)[positions]
            results.curves["random"].append(random)
        for formula, relevance in COMPARED.items():
            maps = relevance(run)[positions, :, 1:].reshape(len(named), -1)  # [words, T rows rows]
            results.pointing[formula].append(truth[np.arange(len(named)), maps.argmax(axis=1)])
            if i < deleted:
                curves = np.stack(
                    [
                        deletion(model, frames, ids, np.argsort(-m, kind="stable"), rows)[word]
                        for m, word in zip(maps, positions, strict=True)
                    ]
                )
                results.areas[formula].append(area(random) - area(curves))
                results.curves.setdefault(formula, []).append(curves)
    return results


def main() -> int:
    """Print the tables and the checks. Return 0 if all checks pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="clips per set (default: 200)")
    parser.add_argument("--deleted", type=int, default=10, help="with deletion curves (default: 10)")
    args = parser.parse_args()
    model = mvc.load()
    results = {kind: measure(model, kind, args.count, args.deleted) for kind in SETS}
    print_tables(results)
    checks = check(results)
    print("\n" + "\n".join(f"{'ok     ' if passed else 'MISSED '} {text}" for text, passed in checks))
    return 0 if all(passed for _, passed in checks) else 1


def print_tables(results: dict[str, Results]) -> None:
    """Print the pointing, the areas, and the curves of all sets together."""
    print("| pointing | " + " | ".join(f"{kind}" for kind in results) + " |")
    print("|---" * (1 + len(results)) + "|")
    print("| chance | " + " | ".join(bootstrap(r.chance) for r in results.values()) + " |")
    for formula in COMPARED:
        print(f"| {formula} | " + " | ".join(bootstrap(r.pointing[formula]) for r in results.values()) + " |")
    print("| words | " + " | ".join(str(sum(map(len, r.chance))) for r in results.values()) + " |\n")
    if not results["single"].curves["random"]:
        return
    print("| deletion, area | " + " | ".join(results) + " |")
    print("|---" * (1 + len(results)) + "|")
    for formula in COMPARED:
        print(f"| {formula} | " + " | ".join(bootstrap(r.areas[formula]) for r in results.values()) + " |")
    print("\n| probability, occluded | 0 | " + " | ".join(f"{f:.1%}" for f in FRACTIONS) + " |")
    print("|---" * (2 + len(FRACTIONS)) + "|")
    for name in ("random", *COMPARED):
        mean = np.concatenate([row for r in results.values() for row in r.curves[name]]).mean(axis=0)
        print(f"| {name} | " + " | ".join(f"{p:.3f}" for p in mean) + " |")


def check(results: dict[str, Results]) -> list[tuple[str, bool]]:
    """Return what the default formula should reach, and whether it does."""
    default, checks = next(iter(FORMULAS)), []
    for kind, least in POINTING.items():
        value = float(np.concatenate(results[kind].pointing[default]).mean())
        checks.append((f"pointing {kind} {value:.3f} >= {least}", value >= least))
    for kind, r in results.items():
        if r.areas[default]:
            interval = bootstrap(r.areas[default])
            checks.append((f"deletion {kind} {interval} > 0", not interval.partition("(")[2].startswith("-")))
    return checks


if __name__ == "__main__":
    sys.exit(main())
