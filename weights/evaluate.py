"""VideoCoCa's experiment on synthetic videos: what a checkpoint trained on still images does with clips.

    python weights/evaluate.py

200 clips per set of 16 frames each, from a seed that training never used; T of the frames are sampled. The
adapters are those that the paper compares: attentional pooling over the tokens of all frames (VideoCoCa's
choice), mean pooling and the joint space-time encoder. With T = 1, the centre frame, they are the same.
"sharper" is beyond the paper: attentional pooling with the pooler's queries multiplied by a factor that is
chosen on clips of another seed.

Captions are greedy. Each rate comes with a 95% confidence interval, by bootstrap over the clips. The `ok` and
`MISSED` lines compare attentional pooling at T = 8 with what the checkpoint should reach; the exit status is
1 if anything is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

import minivideococa as mvc
from minivideococa.checkpoint import assemble
from minivideococa.media.video import sample_indices
from minivideococa.model.config import ADAPTERS, Video
from minivideococa.tasks import label_latents
from minivideococa.world import (
    LABELS,
    Clip,
    caption_of,
    draw,
    draw_clip,
    objects_named,
    sample_background,
    sample_clip,
    sample_objects,
)

Array = NDArray[Any]
FRAMES = 16  # of a clip
SAMPLED = (1, 4, 8, 16)  # T
SETS = ("single", "brief", "pair", "split", "mixed")
SCALES = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)  # candidate factors of the queries
CLASSIFIED = ("single", "brief")  # sets with one object per clip; in the others clips are retrieved by texts
TARGETS = {
    ("class", "brief"): 0.95,
    ("caption", "brief"): 0.95,
    ("caption", "split"): 0.60,
    ("caption", "mixed"): 0.92,
    ("R@1", "mixed"): 0.95,
}
Setup = tuple[str, int]  # adapter or "sharper", and T
Correct = dict[str, Array]  # "caption", and "class" or "R@1" -> whether each clip is correct, bool [clips]


def sample_set(kind: str, count: int, seed: int) -> list[Clip]:
    """Return clips of one set.

    In the sets for retrieval no two show the same objects, so that texts are unique.
    """
    rng = np.random.default_rng([seed, SETS.index(kind)])
    clips: list[Clip] = []
    used = set()
    while len(clips) < count:
        clip = sample_clip(kind, rng, FRAMES)
        if kind in CLASSIFIED or frozenset(clip.names) not in used:
            used.add(frozenset(clip.names))
            clips.append(clip)
    return clips


def encode(model: mvc.VideoCoCa, sharper: mvc.VideoCoCa, frames: Array) -> dict[Setup, Video]:
    """Encode the frames `[16, 64, 64, 3]` of a clip in every setup.

    Each frame is encoded once, but for "joint".
    """
    pixels = model.preprocess(frames)
    tokens = model.encode_frames(pixels)
    videos = {}
    for T in SAMPLED:
        indices = sample_indices(FRAMES, T)
        videos["attentional", T] = model.pool(tokens[indices])
        if T > 1:
            videos["mean", T] = model.pool(tokens[indices], "mean")
            videos["joint", T] = model.encode_video(pixels[indices], "joint")
            videos["sharper", T] = sharper.pool(tokens[indices])
    return videos


def measure(
    model: mvc.VideoCoCa, sharper: mvc.VideoCoCa, kind: str, count: int, seed: int
) -> dict[Setup, Correct]:
    """Return for every setup which clips of one set are captioned, and classified or retrieved, correctly."""
    clips = sample_set(kind, count, seed)
    texts = model.encode_text([caption_of(clip.first) for clip in clips])  # [clips, E]
    labels = label_latents(model, LABELS)  # [labels, E]
    videos: dict[Setup, list[Video]] = defaultdict(list)
    for clip in clips:
        for setup, video in encode(model, sharper, draw_clip(clip)).items():
            videos[setup].append(video)
    results = {}
    for setup, encoded in videos.items():
        latents = np.stack([video.latent for video in encoded])
        results[setup] = {"caption": is_exact(greedy_captions(model, encoded), clips)}
        if kind in CLASSIFIED:
            best = [LABELS[i] for i in (latents @ labels.T).argmax(axis=1)]
            results[setup]["class"] = is_exact(best, clips)
        else:
            results[setup]["R@1"] = (texts @ latents.T).argmax(axis=1) == np.arange(len(clips))
    return results


def greedy_captions(model: mvc.VideoCoCa, videos: list[Video]) -> list[str]:
    """Return the greedy caption of each video."""
    tokens = np.stack([video.tokens for video in videos])
    return [model.tokenizer.decode(ids) for ids in model.generate(tokens, beams=1)]


def is_exact(sentences: list[str], clips: list[Clip]) -> Array:
    """Return whether each sentence names exactly the objects of its clip: bool `[clips]`."""
    return np.array([objects_named(text) == clip.names for text, clip in zip(sentences, clips, strict=True)])


def measure_stills(model: mvc.VideoCoCa, objects: int, count: int, seed: int) -> Array:
    """Return whether the greedy caption of each still names exactly its objects: bool `[count]`."""
    rng = np.random.default_rng([seed, 100 + objects])
    correct = []
    for _ in range(count):
        scene = sample_objects(rng, objects)
        caption = model.caption(draw(scene, sample_background(rng))[None], beams=1)
        correct.append(objects_named(caption) == {o.name for o in scene})
    return np.array(correct)


def describe_errors(model: mvc.VideoCoCa, kind: str, count: int, seed: int) -> str:
    """Summarize the errors of captions of one set, with attentional pooling at T = 8, in one line."""
    clips = sample_set(kind, count, seed)
    videos = [model.pool(encode_sampled(model, clip)) for clip in clips]
    named = [objects_named(text) for text in greedy_captions(model, videos)]
    pairs = [(clip.names, objects) for clip, objects in zip(clips, named, strict=True)]
    wrong = [(shown, objects) for shown, objects in pairs if objects != shown]
    same_colour = [
        shown != objects
        for shown, objects in pairs
        if len(shown) > 1 and len({colour for colour, _ in shown}) == 1
    ]
    crosses = sum(
        "cross" in dict(shown).values() and "square" in dict(objects).values() for shown, objects in wrong
    )
    return (
        f"{kind}: {len(wrong)} of {count} captions are wrong; "
        f"{sum(objects < shown for shown, objects in wrong)} omit an object and are otherwise correct; "
        f"{sum(same_colour)} of {len(same_colour)} clips with objects of one colour; "
        f"{crosses} name a square for a cross"
    )


def encode_sampled(model: mvc.VideoCoCa, clip: Clip) -> Array:
    """Return the frame tokens `[8, N, W]` of 8 frames of a clip."""
    return model.encode_frames(model.preprocess(draw_clip(clip)[sample_indices(FRAMES, 8)]))


def interval(correct: Array) -> str:
    """Return a rate with its 95% interval: quantiles of the rates of 2000 bootstrap samples."""
    samples = np.random.default_rng(0).integers(0, len(correct), (2000, len(correct)))
    low, high = np.quantile(correct[samples].mean(axis=1), (0.025, 0.975))
    return f"{correct.mean():.3f} ({low:.2f}-{high:.2f})"


def print_table(results: dict[str, dict[Setup, Correct]], scale: float) -> None:
    """Print a Markdown table of all rates: a row for each setup, a column for each task and set."""
    columns = [
        (task, kind)
        for task in ("class", "caption", "R@1")
        for kind in SETS
        if task in results[kind]["attentional", 1]
    ]
    print("| T | | " + " | ".join(f"{task} {kind}" for task, kind in columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for T in SAMPLED:
        for adapter in (*ADAPTERS, "sharper"):
            if (adapter, T) in results["single"]:
                name = "centre frame" if T == 1 else f"queries x {scale}" if adapter == "sharper" else adapter
                cells = [interval(results[kind][adapter, T][task]) for task, kind in columns]
                print(f"| {T} | {name} | " + " | ".join(cells) + " |")


def check(results: dict[str, dict[Setup, Correct]], stills: Array) -> list[tuple[str, bool]]:
    """Return what the checkpoint should reach at T = 8, and whether it does."""

    def rate(task: str, kind: str, adapter: str) -> float:
        return float(results[kind][adapter, 8][task].mean())

    checks = []
    for (task, kind), least in TARGETS.items():
        value = rate(task, kind, "attentional")
        checks.append((f"{task} {kind} {value:.3f} >= {least}", value >= least))
    checks.append((f"three objects on stills {stills.mean():.3f} >= 0.95", bool(stills.mean() >= 0.95)))
    for task, kind in (("class", "brief"), ("caption", "brief"), ("caption", "split")):
        better = rate(task, kind, "attentional") > rate(task, kind, "mean")
        checks.append((f"{task} {kind}: attentional better than mean", better))
    return checks


def scale_queries(model: mvc.VideoCoCa, scale: float) -> mvc.VideoCoCa:
    """Return the model with the pooler's queries, after `ln_q`, multiplied: above 1, attention is sharper.

    A softmax over T times as many tokens is flatter; this compensates for it. It is beyond the paper.
    """
    visual = model.params["visual"]
    norm = {name: x * x.dtype.type(scale) for name, x in visual["attn_pool"]["ln_q"].items()}
    pooler = visual["attn_pool"] | {"ln_q": norm}
    return assemble(model.config, model.params | {"visual": visual | {"attn_pool": pooler}}, model.tokenizer)


def choose_scale(model: mvc.VideoCoCa, count: int, seed: int) -> float:
    """Return the smallest factor with the most exact captions of brief, split and mixed clips at T = 8."""
    clips = [clip for kind in ("brief", "split", "mixed") for clip in sample_set(kind, count, seed)]
    tokens = [encode_sampled(model, clip) for clip in clips]
    rates = []
    for scale in SCALES:
        sharper = scale_queries(model, scale)
        rates.append(is_exact(greedy_captions(model, [sharper.pool(x) for x in tokens]), clips).mean())
    print(
        f"exact captions of {len(clips)} other clips, by the factor of the queries: "
        + ", ".join(f"{scale} {rate:.3f}" for scale, rate in zip(SCALES, rates, strict=True))
    )
    return SCALES[int(np.argmax(rates))]


def main() -> int:
    """Print the table and the checks. Return 0 if all checks pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=None, help="a checkpoint folder (default: the embedded one)")
    parser.add_argument("--count", type=int, default=200, help="clips per set")
    parser.add_argument("--seed", type=int, default=4096)
    args = parser.parse_args()
    model = mvc.load(args.weights)
    scale = choose_scale(model, args.count // 2, args.seed + 1)
    sharper = scale_queries(model, scale)
    stills = measure_stills(model, 3, args.count, args.seed)
    print(f"stills of three objects, exact caption: {interval(stills)}\n")
    results = {kind: measure(model, sharper, kind, args.count, args.seed) for kind in SETS}
    print_table(results, scale)
    errors = [describe_errors(model, kind, args.count, args.seed) for kind in ("brief", "split")]
    print("\n" + "\n".join(errors))
    checks = check(results, stills)
    print("\n" + "\n".join(f"{'ok     ' if passed else 'MISSED '} {text}" for text, passed in checks))
    return 0 if all(passed for _, passed in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
