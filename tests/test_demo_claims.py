"""The claims about the demo's clips: which frames show which object, and what each pooling finds."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
import minivideococa.demo
from minivideococa.demo import CLIPS, run
from minivideococa.world import LABELS, objects_named, sample_clip

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))
import render_demo

SCENES = {
    kind: sample_clip(kind, np.random.default_rng([render_demo.SEED, i]), render_demo.FRAMES)
    for i, kind in enumerate(render_demo.SETS)
}

# sampled frames that show each object, first to last, of T = 8 and of T = 16
EVERY = {8: range(8), 16: range(16)}
SHOWN = {
    "single": [EVERY],
    "brief": [{8: range(3, 5), 16: range(6, 10)}],
    "pair": [EVERY, EVERY],
    "split": [{8: range(4), 16: range(8)}, {8: range(4, 8), 16: range(8, 16)}],
    "mixed": [EVERY, EVERY, EVERY],
}
LOST_BY_MEAN_POOLING = {"brief": {("yellow", "crescent")}, "split": {("red", "ring")}}


@pytest.fixture(scope="module")
def model():
    return mvc.load()


@pytest.fixture(scope="module")
def encoded(model):
    """A function that returns the encoded clip of a set; each is encoded once."""
    return functools.cache(
        lambda kind, T, adapter: model.encode(CLIPS / f"{kind}.gif", num_frames=T, adapter=adapter)
    )


def pixels_of(thing, frames, background):
    """Count the pixels of each frame that have an object's colour where the background has another: [T]."""
    distance = np.abs(frames - 255.0 * np.array(thing.rgb)).max(axis=-1)
    return ((distance < 20) & (np.abs(frames - 255.0 * background).max(axis=-1) > 40)).sum(axis=(1, 2))


@pytest.mark.parametrize("T", [8, 16])
@pytest.mark.parametrize("kind", SHOWN)
def test_the_sampled_frames_that_show_each_object(kind, T):
    scene, frames = SCENES[kind], mvc.read_video(CLIPS / f"{kind}.gif", num_frames=T)
    shown = [
        np.flatnonzero(pixels_of(thing, frames, scene.background) > 50).tolist() for thing in scene.first
    ]
    assert shown == [list(frames_of[T]) for frames_of in SHOWN[kind]]


def test_what_the_demo_says_of_its_clips():
    numbers = ("no", "one", "two", "three")
    for kind in ("single", "brief", "pair", "mixed"):
        frames = [len(frames_of[8]) for frames_of in SHOWN[kind]]
        objects = f"{numbers[len(frames)]} object{'s' if len(frames) > 1 else ''}"
        seen = "always visible" if frames[0] == 8 else f"visible in {frames[0]} of 8 frames"
        assert minivideococa.demo.SHOWN[kind] == f"{objects}, {seen}"


def test_the_other_frames_of_brief_are_empty():
    frames = mvc.read_video(CLIPS / "brief.gif", num_frames=16)
    difference = np.abs(frames - 255.0 * SCENES["brief"].background).max(axis=(1, 2, 3))
    shown = SHOWN["brief"][0][16]
    assert all((difference[t] > 100) == (t in shown) for t in range(16))
    assert np.delete(difference, shown).max() < 10  # what the GIF's palette costs


@pytest.mark.slow
@pytest.mark.parametrize("T", [8, 16])
@pytest.mark.parametrize("kind", SHOWN)
@pytest.mark.parametrize("beams", [1, 6])
def test_attentional_pooling_names_all_and_mean_pooling_loses_short_events(model, encoded, kind, T, beams):
    there, mean = SCENES[kind].names, encoded(kind, T, "mean")
    assert objects_named(model.caption(encoded(kind, T, "attentional"), beams=beams)) == there
    assert objects_named(model.caption(mean, beams=beams)) == there - LOST_BY_MEAN_POOLING.get(kind, set())


@pytest.mark.parametrize("T", [8, 16])
def test_mean_pooling_ranks_the_brief_object_first_but_with_half_the_probability(model, T):
    frames = mvc.read_video(CLIPS / "brief.gif", num_frames=T)
    first = {
        adapter: mvc.classify(model, model.encode(frames, adapter=adapter), LABELS)[0]
        for adapter in ("attentional", "mean")
    }
    assert {label for label, _ in first.values()} == {"a yellow crescent"}
    assert first["attentional"][1] > 0.95 and 0.4 < first["mean"][1] < 0.6


@pytest.mark.slow
def test_the_demo_warns_of_nothing(recwarn):
    run()
    assert not recwarn.list
