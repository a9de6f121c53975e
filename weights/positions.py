"""Write the positions of patches into the embedded checkpoint, and a way to read them into its pooler.

    python weights/positions.py      how well positions are kept, and what that costs, by their amplitude

The image encoder drops positions in its first block, see README.md, so a tuning that leaves it frozen cannot
learn where an object is. Both changes here are in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import minivideococa as mvc
from minivideococa.checkpoint import with_tensors
from minivideococa.model.ops import layer_norm
from minivideococa.world import caption_of, draw_clip, objects_named, sample_clip
from minivideococa.world.questions import sample_questions

Array = NDArray[Any]

AMPLITUDE = 8.0  # of the positions that are written, see README.md
GAIN = 2.0  # of the positions that are read, in standard deviations of a head's values
STILLS, RIDGE = 600, 0.02  # that the reading is fitted to; the weight of its penalty
CAPTIONED = 200  # stills


def with_positions(model: mvc.VideoCoCa, seed: int) -> mvc.VideoCoCa:
    """Return the model with positions in its frame tokens, and in the values of its pooler."""
    return read_positions(write_positions(model), seed)


def grid(model: mvc.VideoCoCa) -> Array:
    """Return the column and the row of each patch, both from -1 to 1: [n n, 2]."""
    n = model.config.vision.image_size // model.config.vision.patch_size
    row, column = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    return np.stack([column.ravel(), row.ravel()], axis=1)


def unread_directions(visual: Mapping[str, Any], count: int) -> Array:
    """Return the directions in which the encoder's blocks read their inputs least: orthonormal [count, W].

    A block reads its normalized input by the matrices of its attention and its MLP, whose columns are scaled
    by the norm's gains to A. Of the direction d it reads |A d|^2 / |A|^2. The direction in which all numbers
    change alike does not count, since the norm takes it out.
    """
    width = len(visual["class_embedding"])
    read = np.full((width, width), 1e3)  # d^T read d: what is read of d; of all numbers alike, the most
    for p in visual["transformer"]["resblocks"]:
        for norm, weight in ("ln_1", p["attn"]["in_proj_weight"]), ("ln_2", p["mlp"]["c_fc"]["weight"]):
            A = weight * p[norm]["weight"]
            read += A.T @ A / np.sum(A * A)
    return np.linalg.eigh(read)[1].T[:count]  # in ascending order of what is read


def write_positions(model: mvc.VideoCoCa, amplitude: float = AMPLITUDE) -> mvc.VideoCoCa:
    """Return the model with each patch's column and row in its positional embedding.

    They are added along one of the `unread_directions` each, from -amplitude to amplitude, strong enough to
    be still there after the last block.
    """
    visual = model.params["visual"]
    embedding = visual["positional_embedding"].copy()  # [1 + n n, W]
    embedding[1:] += amplitude * grid(model) @ unread_directions(visual, 2)
    return with_tensors(model, {"visual.positional_embedding": embedding})


def read_positions(model: mvc.VideoCoCa, seed: int) -> mvc.VideoCoCa:
    """Return the model whose pooler's values carry the column and the row of the patches that it attends to.

    Ridge regression predicts both from the normalized tokens of patches that show an object. Each head of
    the pooler adds the predictions to its values along the two directions in which these vary least.
    """
    pooler, name = model.params["visual"]["attn_pool"], "visual.attn_pool.attn.v_proj_weight"
    tokens, positions = tokens_of_objects(model, seed)
    tokens = layer_norm(tokens, **pooler["ln_k"])  # [n, W]
    read, x = ridge(tokens, positions), tokens - tokens.mean(axis=0)
    weight = pooler["attn"]["v_proj_weight"].copy()  # [E, W]
    for head in np.split(weight, model.config.vision.pooler_heads):  # views
        variances, directions = np.linalg.eigh(np.cov(head @ x.T))  # ascending
        scale = GAIN * np.sqrt(variances.mean()) / (x @ read).std()
        head += scale * directions[:, :2] @ read.T
    return with_tensors(model, {name: weight})


def ridge(x: Array, y: Array) -> Array:
    """Return the weights [W, 2] of a ridge regression of y [n, 2] on x [n, W], both centred here."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.asarray(np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y))


def tokens_of_objects(model: mvc.VideoCoCa, seed: int) -> tuple[Array, Array]:
    """Return the tokens of patches whose centre is on an object, and their positions: [n, W] and [n, 2]."""
    tokens, positions, size = [], [], model.config.vision.patch_size
    centres = (grid(model) + 1) / 2 * (model.config.vision.image_size - size) + size / 2  # pixels
    for i in range(STILLS):
        clip, _ = sample_questions("where", np.random.default_rng([seed, i]), frames=3)
        still = model.preprocess(draw_clip(clip)[:1])
        distances = [np.hypot(*(centres - (o.x, o.y)).T) / o.radius for o in clip.first]  # in radii
        shown = np.min(distances, axis=0) < 1
        tokens.append(model.encode_frames(still)[0, 1:][shown])
        positions.append(grid(model)[shown])
    return np.concatenate(tokens), np.concatenate(positions)


def kept(model: mvc.VideoCoCa, seed: int) -> float:
    """Return R^2 of columns and rows, predicted from the tokens of one half of the stills, on the other."""
    tokens, positions = tokens_of_objects(model, seed)
    tokens = layer_norm(tokens, **model.params["visual"]["attn_pool"]["ln_k"])
    half = len(tokens) // 2
    x, y = tokens[half:] - tokens[:half].mean(axis=0), positions[half:] - positions[:half].mean(axis=0)
    error = x @ ridge(tokens[:half], positions[:half]) - y
    return float(1 - (error**2).sum() / ((y - y.mean(axis=0)) ** 2).sum())


def captions_right(model: mvc.VideoCoCa, seed: int) -> float:
    """Return the share of stills of two objects whose greedy captions name exactly these."""
    clips = [sample_clip("pair", np.random.default_rng([seed, i]), 2) for i in range(CAPTIONED)]
    captions = [model.caption(draw_clip(clip)[:1], beams=1) for clip in clips]
    truths = [caption_of(clip.first) for clip in clips]
    return float(
        np.mean([objects_named(a) == objects_named(b) for a, b in zip(captions, truths, strict=True)])
    )


def main() -> None:
    """Print a row for each amplitude; the last one also has the pooler that reads positions."""
    base, seed = mvc.load(), 16388
    print("| amplitude | R^2 of positions in the pooler's input | captions that are still right |")
    print("|---|---|---|")
    for amplitude in (0, 4, 6, 8, 12):
        model = write_positions(base, amplitude)
        print(f"| {amplitude} | {kept(model, seed):.2f} | {captions_right(model, seed):.3f} |", flush=True)
    print(f"| {AMPLITUDE:g}, read | | {captions_right(with_positions(base, seed), seed):.3f} |")


if __name__ == "__main__":
    main()
