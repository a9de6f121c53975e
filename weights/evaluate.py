"""VideoCoCa's experiment in small: what a checkpoint that was trained on stills can do with videos of the world.

    python weights/evaluate.py

200 clips a set, of 16 frames each, from a seed that training never used; T of these frames are seen. The paper's ways to
make one video of them: attentional pooling of all frames' tokens (VideoCoCa's choice), mean pooling, the joint space-time
encoder; with T = 1, the centre frame, they are all the same. "sharper" is beyond the paper: attentional pooling with the
pooler's queries multiplied by a number, which is chosen on clips of another seed. Greedy captions; NumPy alone. Each share comes with a 95%
interval, by bootstrap over the clips. An `ok` line tells whether attentional pooling reaches, at T = 8, what the checkpoint is
meant to reach; the exit status is 1 where it does not.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

import numpy as np

import minivideococa as mvc
from minivideococa.media.video import sample_indices
from minivideococa.model.pooling import mean_pool
from minivideococa.model.config import ADAPTERS, Video
from minivideococa.tasks import label_latents
from minivideococa.world import (
    LABELS,
    caption_of,
    draw,
    draw_clip,
    objects_named,
    sample_background,
    sample_clip,
    sample_objects,
)

FRAMES = 16  # of a clip
SEEN = (1, 4, 8, 16)  # T
SETS = ("single", "brief", "pair", "split", "mixed")
SCALES = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)  # of the queries, to choose from
CLASSIFIED = ("single", "brief")  # sets with one object in a clip; texts search the others
MEANT = {
    ("class", "brief"): 0.95,
    ("caption", "brief"): 0.95,
    ("caption", "split"): 0.60,
    ("caption", "mixed"): 0.92,
    ("R@1", "mixed"): 0.95,
}
Way = tuple[str, int]  # adapter, or "sharper", and T


def sample_set(kind: str, count: int, seed: int) -> list:
    """Clips of one set. Where texts are to find clips, no two show the same objects: a text is true of one alone."""
    rng = np.random.default_rng([seed, SETS.index(kind)])
    clips, seen = [], set()
    while len(clips) < count:
        clip = sample_clip(kind, rng, FRAMES)
        if kind in CLASSIFIED or frozenset(clip.names) not in seen:
            seen.add(frozenset(clip.names))
            clips.append(clip)
    return clips


def encode(model: mvc.VideoCoCa, sharper: mvc.VideoCoCa, frames: np.ndarray) -> dict[Way, Video]:
    """A clip's frames [16, 64, 64, 3] -> the video in each way. Frames are encoded once."""
    pixels, visual, config = model.preprocess(frames), model.params["visual"], model.config.vision
    tokens = model.encode_frames(pixels)
    videos = {}
    for T in SEEN:
        some = sample_indices(FRAMES, T)
        videos["attentional", T] = model.pool(tokens[some])
        if T > 1:
            videos["mean", T] = Video(*mean_pool(tokens[some], visual, config))
            videos["joint", T] = model.encode_video(pixels[some], "joint")
            videos["sharper", T] = sharper.pool(tokens[some])
    return videos


def measure(
    model: mvc.VideoCoCa, sharper: mvc.VideoCoCa, kind: str, count: int, seed: int
) -> dict[Way, dict[str, np.ndarray]]:
    """way -> {"caption": bool [clips], "class" or "R@1": bool [clips]} on one set: whether each clip is right."""
    clips = sample_set(kind, count, seed)
    texts, labels = (
        model.encode_text([caption_of(clip.first) for clip in clips]),
        label_latents(model, LABELS),
    )
    videos: dict[Way, list[Video]] = defaultdict(list)
    for clip in clips:
        for way, video in encode(model, sharper, draw_clip(clip)).items():
            videos[way].append(video)
    found = {}
    for way, seen in videos.items():
        latents = np.stack([video.latent for video in seen])
        found[way] = {"caption": right(captions(model, seen), clips)}
        if kind in CLASSIFIED:
            found[way]["class"] = right([LABELS[i] for i in (latents @ labels.T).argmax(axis=1)], clips)
        else:
            found[way]["R@1"] = (texts @ latents.T).argmax(axis=1) == np.arange(len(clips))
    return found


def captions(model: mvc.VideoCoCa, videos: list[Video]) -> list[str]:
    """Each video's greedy caption."""
    return [
        model.tokenizer.decode(ids)
        for ids in model.generate(np.stack([video.tokens for video in videos]), beams=1)
    ]


def right(sentences: list[str], clips: list) -> np.ndarray:
    """Whether each sentence names exactly what its clip shows: bool [clips]."""
    return np.array([objects_named(text) == clip.names for text, clip in zip(sentences, clips, strict=True)])


def stills(model: mvc.VideoCoCa, objects: int, count: int, seed: int) -> np.ndarray:
    """Whether the greedy caption of a still with so many objects names exactly them: bool [count]."""
    rng = np.random.default_rng([seed, 100 + objects])
    found = []
    for _ in range(count):
        scene = sample_objects(rng, objects)
        caption = model.caption(draw(scene, sample_background(rng))[None], beams=1)
        found.append(objects_named(caption) == {o.name for o in scene})
    return np.array(found)


def misses(model: mvc.VideoCoCa, kind: str, count: int, seed: int) -> str:
    """What goes wrong in captions of one set, attentional pooling at T = 8: in a line."""
    clips = sample_set(kind, count, seed)
    said = captions(
        model,
        [
            model.pool(model.encode_frames(model.preprocess(draw_clip(clip)[sample_indices(FRAMES, 8)])))
            for clip in clips
        ],
    )
    pairs = [(clip.names, objects_named(text)) for clip, text in zip(clips, said, strict=True)]
    wrong = [(shown, named) for shown, named in pairs if named != shown]
    one_colour = [
        shown != named
        for shown, named in pairs
        if len(shown) > 1 and len({colour for colour, _ in shown}) == 1
    ]
    crosses = sum(
        "cross" in dict(shown).values() and "square" in dict(named).values() for shown, named in wrong
    )
    return (
        f"{kind}: {len(wrong)} of {count} captions are wrong; "
        f"{sum(named < shown for shown, named in wrong)} name too little and nothing else; "
        f"{sum(one_colour)} of {len(one_colour)} clips with objects of one colour; {crosses} take a cross for a square"
    )


def cell(correct: np.ndarray) -> str:
    """A share with its 95% interval: the quantiles of the shares of 2000 samples of as many clips, with replacement."""
    drawn = np.random.default_rng(0).integers(0, len(correct), (2000, len(correct)))
    low, high = np.quantile(correct[drawn].mean(axis=1), (0.025, 0.975))
    return f"{correct.mean():.3f} ({low:.2f}-{high:.2f})"


def main() -> int:
    """Print the table and the checks; 0 if all are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=None, help="a checkpoint folder (default: the embedded one)")
    parser.add_argument("--count", type=int, default=200, help="clips a set")
    parser.add_argument("--seed", type=int, default=4096)
    args = parser.parse_args()
    model = mvc.load(args.weights)
    scale = choose_scale(model, args.count // 2, args.seed + 1)
    sharper = with_queries(model, scale)
    three = stills(model, 3, args.count, args.seed)
    print(f"stills of three objects, exact caption: {cell(three)}\n")
    results = {kind: measure(model, sharper, kind, args.count, args.seed) for kind in SETS}
    columns = [
        (task, kind)
        for task in ("class", "caption", "R@1")
        for kind in SETS
        if task in results[kind]["attentional", 1]
    ]
    print("| T | | " + " | ".join(f"{task} {kind}" for task, kind in columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for T in SEEN:
        for adapter in (*ADAPTERS, "sharper"):
            if (adapter, T) in results["single"]:
                name = "centre frame" if T == 1 else f"queries x {scale}" if adapter == "sharper" else adapter
                cells = [cell(results[kind][adapter, T][task]) for task, kind in columns]
                print(f"| {T} | {name} | " + " | ".join(cells) + " |")
    print("\n" + "\n".join(misses(model, kind, args.count, args.seed) for kind in ("brief", "split")))
    shares = {
        (task, kind, adapter): results[kind][adapter, 8][task].mean()
        for task, kind in columns
        for adapter in ADAPTERS
    }
    checks = [
        (
            f"{task} {kind} {shares[task, kind, 'attentional']:.3f} >= {least}",
            shares[task, kind, "attentional"] >= least,
        )
        for (task, kind), least in MEANT.items()
    ]
    checks += [(f"three objects on stills {three.mean():.3f} >= 0.95", three.mean() >= 0.95)]
    checks += [
        (
            f"{task} {kind}: attentional ahead of mean",
            shares[task, kind, "attentional"] > shares[task, kind, "mean"],
        )
        for task, kind in (("class", "brief"), ("caption", "brief"), ("caption", "split"))
    ]
    print("\n" + "\n".join(f"{'ok     ' if good else 'MISSED '} {what}" for what, good in checks))
    return 0 if all(good for _, good in checks) else 1


def with_queries(model: mvc.VideoCoCa, scale: float) -> mvc.VideoCoCa:
    """The model with what `ln_q` makes of the pooler's queries multiplied: above 1, its attention is sharper.

    A softmax over T times as many tokens is flatter, which this makes up for. It is beyond the paper.
    """
    visual = model.params["visual"]
    norm = {name: x * x.dtype.type(scale) for name, x in visual["attn_pool"]["ln_q"].items()}
    pooler = visual["attn_pool"] | {"ln_q": norm}
    return mvc.VideoCoCa(
        model.config, model.params | {"visual": visual | {"attn_pool": pooler}}, model.tokenizer
    )


def choose_scale(model: mvc.VideoCoCa, count: int, seed: int) -> float:
    """The scale of the queries with the most right captions of brief, split and mixed clips at T = 8: the least of equals."""
    clips = [clip for kind in ("brief", "split", "mixed") for clip in sample_set(kind, count, seed)]
    tokens = [
        model.encode_frames(model.preprocess(draw_clip(clip)[sample_indices(FRAMES, 8)])) for clip in clips
    ]
    shares = []
    for scale in SCALES:
        sharper = with_queries(model, scale)
        shares.append(right(captions(model, [sharper.pool(x) for x in tokens]), clips).mean())
    print(
        f"captions right on {len(clips)} other clips, by the queries' scale: "
        + ", ".join(f"{scale} {share:.3f}" for scale, share in zip(SCALES, shares, strict=True))
    )
    return SCALES[int(np.argmax(shares))]


if __name__ == "__main__":
    sys.exit(main())
