"""What a checkpoint can do with videos of the world, having been trained on stills: the table in weights/README.md.

    python weights/evaluate.py

200 clips a set, 8 frames each, from a seed that training never used; greedy captions; NumPy alone. Three ways to
make one video of the frames: the centre frame by itself; every frame pooled by itself and the results averaged;
and VideoCoCa's, the frames' tokens flattened into one row. An `ok` line tells whether the flattened way reaches what
the checkpoint is meant to reach; the exit status is 1 where it does not.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import minivideococa as mvc
from minivideococa.ops import unit
from minivideococa.pooling import attentional_pool
from minivideococa.tasks import label_latents
from minivideococa.world import CLIP_SETS, LABELS, caption_of, draw, draw_clip, objects_named
from minivideococa.world import sample_background, sample_clip, sample_objects

CLASSIFIED = ("single", "brief")             # sets with one object in a clip; texts search the others
WAYS = ("centre frame", "mean pooling", "flattened")
MEANT = {("class", "brief"): 0.85, ("caption", "brief"): 0.80, ("caption", "pair"): 0.95, ("caption", "split"): 0.40,
         ("caption", "mixed"): 0.92, ("R@1", "mixed"): 0.95}


def mean_pooling(model: mvc.VideoCoCa, tokens: np.ndarray) -> mvc.Video:
    """Each frame pooled by itself; latents averaged before they are made unit length, caption tokens averaged."""
    pooled = [attentional_pool(frame, model.params["visual"], model.config.vision) for frame in tokens]
    latents, caption_tokens = zip(*pooled, strict=True)
    return mvc.Video(unit(np.mean(latents, axis=0)), np.mean(caption_tokens, axis=0))


def sample_set(kind: str, count: int, seed: int) -> list:
    """Clips of one set. Where texts are to find clips, no two show the same objects: a text is true of one alone."""
    rng = np.random.default_rng([seed, list(CLIP_SETS).index(kind)])
    clips, seen = [], set()
    while len(clips) < count:
        clip = sample_clip(kind, rng)
        if kind in CLASSIFIED or frozenset(clip.names) not in seen:
            seen.add(frozenset(clip.names))
            clips.append(clip)
    return clips


def measure(model: mvc.VideoCoCa, kind: str, count: int, seed: int) -> dict[str, dict[str, float]]:
    """way -> {"caption": share, "class" or "R@1": share} on one set: one object is classified, more are retrieved."""
    clips = sample_set(kind, count, seed)
    texts = model.encode_text([caption_of(clip.first) for clip in clips])
    labels = label_latents(model, LABELS)
    videos: dict[str, list[mvc.Video]] = {way: [] for way in WAYS}
    for clip in clips:
        tokens = model.encode_frames(model.preprocess(draw_clip(clip)))
        videos["centre frame"].append(model.pool(tokens[len(tokens) // 2:][:1]))
        videos["mean pooling"].append(mean_pooling(model, tokens))
        videos["flattened"].append(model.pool(tokens))
    found = {}
    for way in WAYS:
        latents = np.stack([video.latent for video in videos[way]])
        captions = [model.tokenizer.decode(model.generate(video.tokens, beams=1)) for video in videos[way]]
        found[way] = {"caption": np.mean([objects_named(c) == clip.names
                                          for c, clip in zip(captions, clips, strict=True)])}
        if kind in CLASSIFIED:
            answers = [LABELS[i] for i in (latents @ labels.T).argmax(axis=1)]
            found[way]["class"] = np.mean([objects_named(a) == clip.names
                                           for a, clip in zip(answers, clips, strict=True)])
        else:
            found[way]["R@1"] = np.mean((texts @ latents.T).argmax(axis=1) == np.arange(len(clips)))
    return found


def stills(model: mvc.VideoCoCa, count: int, seed: int) -> dict[int, float]:
    """number of objects -> how often the greedy caption of a still names exactly them."""
    found = {}
    for objects in (1, 2, 3):
        rng = np.random.default_rng([seed, 100 + objects])
        right = 0
        for _ in range(count):
            scene = sample_objects(rng, objects)
            frame = draw(scene, sample_background(rng))[None]
            right += objects_named(model.caption(frame, beams=1)) == {o.name for o in scene}
        found[objects] = right / count
    return found


def main() -> int:
    """Print the table and the checks; 0 if all are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=None, help="a checkpoint folder (default: the embedded one)")
    parser.add_argument("--count", type=int, default=200, help="clips a set")
    parser.add_argument("--seed", type=int, default=4096)
    args = parser.parse_args()
    model = mvc.load(args.weights)
    print("stills, exact caption: " + ", ".join(
        f"{n} object{'s' * (n > 1)} {share:.3f}" for n, share in stills(model, args.count, args.seed).items()))
    results = {kind: measure(model, kind, args.count, args.seed) for kind in CLIP_SETS}
    columns = [(task, kind) for task in ("class", "caption", "R@1") for kind in CLIP_SETS
               if task in results[kind]["flattened"]]
    print("\n| | " + " | ".join(f"{task} {kind}" for task, kind in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for way in WAYS:
        print(f"| {way} | " + " | ".join(f"{results[kind][way][task]:.3f}" for task, kind in columns) + " |")
    score = {(task, kind, way): results[kind][way][task] for task, kind in columns for way in WAYS}
    checks = [(f"{task} {kind} {score[task, kind, 'flattened']:.3f} >= {least}",
               score[task, kind, "flattened"] >= least) for (task, kind), least in MEANT.items()]
    checks += [(f"{task} {kind}: flattened ahead of mean pooling",
                score[task, kind, "flattened"] > score[task, kind, "mean pooling"])
               for task, kind in (("class", "brief"), ("caption", "brief"), ("caption", "split"))]
    print("\n" + "\n".join(f"{'ok     ' if good else 'MISSED '} {what}" for what, good in checks))
    return 0 if all(good for _, good in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
