"""The synthetic world: drawings match their captions, seeds determine everything, clips match their set."""

import colorsys
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples

from minivideococa import read_video, world
from minivideococa.demo import CLIPS
from minivideococa.tasks import TEMPLATES
from minivideococa.world.scenes import RADII

seeds = st.integers(0, 2**32 - 1)
kinds = pytest.mark.parametrize("kind", world.CLIP_SETS)


def scene(seed, count=None):
    rng = np.random.default_rng(seed)
    return world.sample_objects(rng, count), world.sample_background(rng), rng


def painted(objects, background):
    """Return the pixels that the objects change: bool [64, 64]."""
    return (world.draw(objects, background) != world.draw((), background)).any(axis=2)


WRONG_ARTICLE = re.compile(r"\b(an [^aeiou]|a [aeiou])")
CORNERS = 12  # pixels that the corners of two objects may share


def shared(places):
    """Return the number of pixels that belong to more than one object."""
    return (sum(place.astype(int) for place in places) > 1).sum()


def colour_of(o):
    """Return the names of the colours whose ranges contain the object's."""
    hue, saturation, value = colorsys.rgb_to_hsv(*o.rgb)
    return [
        name
        for name, (middle, jitter, saturations, values) in world.COLOURS.items()
        if abs((hue * 360 - middle + 180) % 360 - 180) <= jitter + 1e-6
        and saturations[0] - 1e-9 <= saturation <= saturations[1] + 1e-9
        and values[0] - 1e-9 <= value <= values[1] + 1e-9
    ]


# Stills


@settings(max_examples=examples(100))
@given(seeds)
def test_objects(seed):
    objects, _, _ = scene(seed)
    assert len(objects) <= 3
    assert len({o.name for o in objects}) == len(objects)
    for o in objects:
        assert o.name == (o.colour, o.shape) and o.shape in world.SHAPES
        assert colour_of(o) == [o.colour]
        assert RADII[o.size][0] <= o.radius <= RADII[o.size][1]


@settings(max_examples=examples(60))
@given(seeds, st.sampled_from([1, 2, 3]))
def test_objects_are_apart_and_inside(seed, count):
    """Each object changes different pixels, around its circle. Corners may extend beyond the circle."""
    objects, background, _ = scene(seed, count)
    assert len(objects) == count
    places = [painted((o,), background) for o in objects]
    assert shared(places) <= CORNERS
    for o, place in zip(objects, places, strict=True):
        assert o.x - o.radius > 0 and o.x + o.radius < 64 and o.y - o.radius > 0 and o.y + o.radius < 64
        y, x = np.nonzero(place)
        assert np.hypot(x + 0.5 - o.x, y + 0.5 - o.y).max() <= 1.3 * o.radius + 1
    everything = painted(objects, background)
    np.testing.assert_array_equal(everything, np.any(places, axis=0))


@settings(max_examples=examples(60))
@given(seeds)
def test_an_object_has_its_colour(seed):
    """Pixels inside have its colour; its area is neither tiny nor larger than its circle."""
    objects, background, _ = scene(seed)
    image = world.draw(objects, background)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    for o in objects:
        its_own = (np.abs(image - np.array(o.rgb) * 255) <= 1).all(axis=2) & painted((o,), background)
        assert 0.15 < its_own.sum() / (np.pi * o.radius**2) < 1.05


@pytest.mark.parametrize("shape", world.SHAPES)
def test_every_shape_is_drawn_whole_at_every_tilt(shape):
    """In the middle of the image nothing is cut off: area and extent are those of the outline."""
    background = np.zeros((64, 64, 3), np.float32)
    areas = []
    for degrees in (-30, -11, 0, 17, 30):
        o = world.Object(shape, "red", (1.0, 0.0, 0.0), 32.0, 32.0, 16.0, np.radians(degrees))
        image = world.draw((o,), background)[..., 0] / 255
        areas.append(image.sum())
        y, x = np.nonzero(image > 0.5)
        assert np.hypot(x - 31.5, y - 31.5).max() > 0.85 * 16
    outline, *holes = world.SHAPES[shape]

    def area(points):
        x, y = points.T
        return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2

    want = 16**2 * (area(outline) - sum(map(area, holes)))
    np.testing.assert_allclose(areas, want, rtol=0.05)  # a sixth of a pixel along the edges


def test_angles_turn_an_object():
    background = np.zeros((64, 64, 3), np.float32)
    arrow = {
        degrees: world.draw(
            (world.Object("arrow", "red", (1.0, 0.0, 0.0), 32.0, 32.0, 16.0, np.radians(degrees)),),
            background,
        )[..., 0].astype(float)
        for degrees in (0, 90)
    }
    assert np.abs(np.rot90(arrow[0], -1) - arrow[90]).mean() < 5  # clockwise: y is downwards


@settings(max_examples=examples(60))
@given(seeds)
def test_backgrounds_have_low_saturation(seed):
    background = world.sample_background(np.random.default_rng(seed))
    assert background.shape == (64, 64, 3) and background.dtype == np.float32
    assert background.min() >= 0 and background.max() <= 1
    red, green, blue = background.reshape(-1, 3).mean(axis=0)
    assert colorsys.rgb_to_hsv(red, green, blue)[1] <= 0.35  # .28, and a little for noise cut at 0 and 1


def test_draw_does_not_change_its_background():
    objects, background, _ = scene(3, 2)
    before = background.copy()
    world.draw(objects, background)
    np.testing.assert_array_equal(background, before)


@pytest.mark.slow
def test_object_counts_follow_their_probabilities():
    counts = np.bincount([len(scene(seed)[0]) for seed in range(2000)], minlength=4) / 2000
    np.testing.assert_allclose(counts, [0.04, 0.36, 0.38, 0.22], atol=0.04)  # more than 3 standard errors


@pytest.mark.slow
def test_all_shapes_and_colours_are_sampled():
    seen = {o.name for seed in range(2500) for o in scene(seed, 1)[0]}
    assert seen == {(colour, shape) for colour in world.COLOURS for shape in world.SHAPES}


# Determinism


def everything_from(seed):
    rng = np.random.default_rng(seed)
    objects = world.sample_objects(rng)
    background = world.sample_background(rng)
    clips = [world.draw_clip(world.sample_clip(kind, rng)) for kind in world.CLIP_SETS]
    return [world.draw(objects, background), *clips], (objects, world.caption(objects, rng))


def test_a_seed_determines_everything():
    for seed in range(3):
        pictures, sentences = everything_from(seed)
        again, same = everything_from(seed)
        assert sentences == same
        for a, b in zip(pictures, again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(everything_from(0)[0][0], everything_from(1)[0][0])


# Captions


@settings(max_examples=examples(300))
@given(seeds)
def test_a_caption_names_exactly_the_objects(seed):
    objects, _, rng = scene(seed)
    names = {o.name for o in objects}
    assert world.objects_named(world.caption_of(objects)) == names
    for _ in range(4):
        text = world.caption(objects, rng)
        assert world.objects_named(text) == names
        assert set(text.split()) <= set(world.VOCABULARY)
        assert len(text.split()) + 2 <= 20  # with start and end; the recipe's context length
        assert ("nothing" in text.split()) == (not objects)
        assert not WRONG_ARTICLE.search(text)


@settings(max_examples=examples(300))
@given(seeds)
def test_relations_and_sizes_in_captions_are_true(seed):
    objects, _, rng = scene(seed, 2)
    by_name = {o.name: o for o in objects}
    holds = {
        "left of": lambda a, b: a.x < b.x,
        "right of": lambda a, b: a.x > b.x,
        "above": lambda a, b: a.y < b.y,
        "below": lambda a, b: a.y > b.y,
    }  # y is downwards
    for _ in range(4):
        phrase = r"an? (?:(small|large) )?(\w+) (\w+)"
        a_size, *a, link, b_size, b_colour, b_shape = re.search(
            rf"{phrase} (and|left of|right of|above|below) {phrase}$", world.caption(objects, rng)
        ).groups()
        first, second = by_name[tuple(a)], by_name[b_colour, b_shape]
        assert link == "and" or holds[link](first, second)
        assert a_size in (None, first.size) and b_size in (None, second.size)


@settings(max_examples=examples(200))
@given(seeds)
def test_farther_objects_are_smaller_and_otherwise_the_same(seed):
    objects, _, rng = scene(seed)
    for near, far in zip(objects, world.farther(objects, rng), strict=True):
        assert 0.5 <= far.radius / near.radius <= 1
        assert (far.name, far.rgb, far.x, far.y, far.angle) == (
            near.name,
            near.rgb,
            near.x,
            near.y,
            near.angle,
        )
        words = world.caption((far,), np.random.default_rng(seed)).split()
        assert "small" not in words or far.radius <= 9
        assert "large" not in words or far.radius >= 12.5


def test_farther_covers_its_range():
    objects, _, rng = scene(0, 3)
    ratios = [
        far.radius / near.radius
        for _ in range(100)
        for near, far in zip(objects, world.farther(objects, rng))
    ]
    assert min(ratios) < 0.52 and max(ratios) > 0.98


def test_captions_vary():
    """Prefix, order, sizes and relations vary, for the same two objects."""
    objects, _, rng = scene(5, 2)
    texts = [world.caption(objects, rng) for _ in range(300)]
    assert len(set(texts)) > 60
    for words in ("a photo of", "there is", "small|large", " and ", "left of|right of|above|below"):
        assert 0 < sum(bool(re.search(words, text)) for text in texts) < len(texts)


@pytest.mark.slow
def test_the_longest_caption_fits_into_the_context():
    rng = np.random.default_rng(0)
    longest = max(len(world.caption(world.sample_objects(rng, 3), rng).split()) for _ in range(2000))
    assert longest + 2 in (19, 20)


def test_the_vocabulary():
    shapes = "circle square triangle star heart cross ring diamond crescent arrow"
    assert set(world.SHAPES) == set(shapes.split())
    assert set(world.COLOURS) == {"red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"}
    assert len(set(world.VOCABULARY)) == len(world.VOCABULARY)
    assert world.VOCABULARY[:4] == world.SPECIAL == ("<pad>", "<start_of_text>", "<end_of_text>", "<unk>")
    assert len(world.LABELS) == len(set(world.LABELS)) == len(world.COLOURS) * len(world.SHAPES)
    assert not [label for label in world.LABELS if WRONG_ARTICLE.search(label)]
    for label in world.LABELS:
        for template in TEMPLATES:
            sentence = template.format(label)
            assert set(re.findall(r"\w+", sentence)) <= set(world.VOCABULARY)
            assert len(world.objects_named(label)) == 1
    assert set().union(*map(world.objects_named, world.LABELS)) == {
        (colour, shape) for colour in world.COLOURS for shape in world.SHAPES
    }


def test_objects_named_in_other_sentences():
    assert world.objects_named("a video of a small red star left of an orange heart") == {
        ("red", "star"),
        ("orange", "heart"),
    }
    assert world.objects_named("a red and a circle, nothing") == set()
    assert world.objects_named("") == set()


# Clips


@kinds
def test_visibility_and_counts_of_each_set(kind):
    for seed in range(25):
        clip = world.sample_clip(kind, np.random.default_rng(seed))
        visible, objects = clip.visible, len(clip.first)
        assert visible.shape == (objects, 8) and visible.dtype == bool and len(clip.last) == objects
        assert len(clip.names) == objects  # no two alike
        if kind == "brief":
            assert objects == 1 and visible.sum() in (2, 3)
        elif kind == "split":
            assert visible.astype(int).tolist() == [[1] * 4 + [0] * 4, [0] * 4 + [1] * 4]
        else:
            assert (
                visible.all()
                and objects in {"single": [1], "pair": [2], "mixed": [1, 2, 3], "grow": [1, 2]}[kind]
            )


def test_random_choices_of_the_sets_vary():
    clips = {
        kind: [world.sample_clip(kind, np.random.default_rng(seed)) for seed in range(60)]
        for kind in ("brief", "mixed")
    }
    assert {int(c.visible.sum()) for c in clips["brief"]} == {2, 3}
    assert len({c.visible.tobytes() for c in clips["brief"]}) > 6  # early and late
    assert {len(c.first) for c in clips["mixed"]} == {1, 2, 3}


@kinds
def test_a_frame_shows_the_visible_objects_and_no_others(kind):
    for seed in range(8):
        clip = world.sample_clip(kind, np.random.default_rng(seed))
        frames = world.draw_clip(clip)
        assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8
        empty = world.draw((), clip.background)
        for i, frame in enumerate(frames):
            changed = (frame != empty).any(axis=2)
            assert changed.any() == clip.visible[:, i].any()
            for o, seen in zip(clip.trajectory[i], clip.visible[:, i], strict=True):
                its_own = (np.abs(frame - np.array(o.rgb) * 255) <= 1).all(axis=2) & changed
                assert (its_own.sum() > 0.15 * np.pi * o.radius**2) == seen


@kinds
def test_objects_move_and_turn_and_keep_apart(kind):
    moved = turned = 0
    for seed in range(15):
        clip = world.sample_clip(kind, np.random.default_rng(seed))
        for a, b in zip(clip.first, clip.last, strict=True):
            assert (a.name, a.rgb) == (b.name, b.rgb)
            assert (a.radius == b.radius) == (kind != "grow")
            assert np.hypot(a.x - b.x, a.y - b.y) <= 20 + 1e-9
            moved += np.hypot(a.x - b.x, a.y - b.y) > 1
            turned += abs(a.angle - b.angle) > 0.05
            assert max(abs(a.angle), abs(b.angle)) <= np.radians(30)
        for ends in (clip.first, clip.last):
            if kind != "split":  # its two are never there together
                places = [painted((o,), clip.background) for o in ends]
                assert shared(places) <= CORNERS
    assert moved > 10 and turned > 10


def test_objects_of_grow_grow_and_shrink():
    """By a factor of 1.25 to 2, linearly, inside the image and apart in every frame."""
    growth = []
    for seed in range(40):
        clip = world.sample_clip("grow", np.random.default_rng(seed), 9)
        radii = np.array([[o.radius for o in now] for now in clip.trajectory])
        np.testing.assert_allclose(np.diff(radii, axis=0), np.repeat((radii[-1:] - radii[:1]) / 8, 8, axis=0))
        assert radii.min() >= 7 and radii.max() <= 16
        growth += list(radii[-1] / radii[0])
        areas = [[painted((o,), clip.background).sum() for o in now] for now in (clip.first, clip.last)]
        assert ((np.diff(areas, axis=0)[0] > 0) == (radii[-1] > radii[0])).all()
        for now in clip.trajectory:
            assert all(o.radius < min(o.x, o.y, 64 - o.x, 64 - o.y) for o in now)
            assert shared([painted((o,), clip.background) for o in now]) <= CORNERS
    factors = [max(g, 1 / g) for g in growth]
    assert 1.25 <= min(factors) < 1.3 and 1.9 < max(factors) <= 2 + 1e-9
    assert 15 < sum(g > 1 for g in growth) < len(growth) - 15


@kinds
@settings(max_examples=examples(60))
@given(seed=seeds)
def test_captions_of_a_clip_are_true_in_every_frame(kind, seed):
    rng = np.random.default_rng(seed)
    clip = world.sample_clip(kind, rng)
    text = world.caption_throughout(clip, rng)
    assert world.objects_named(text) == clip.names and set(text.split()) <= set(world.VOCABULARY)
    for size, *name in re.findall(r"(small|large) (\w+) (\w+)", text):
        radii = [o.radius for now in clip.trajectory for o in now if o.name == tuple(name)]
        assert max(radii) <= 9 if size == "small" else min(radii) >= 12.5
    relation = re.search(
        r"(\w+) (\w+) (left of|right of|above|below) an? (?:(?:small|large) )?(\w+) (\w+)$", text
    )
    if relation:
        assert clip.visible.all()
        *a, where, b_colour, b_shape = relation.groups()
        for now in clip.trajectory:
            first, second = ({o.name: o for o in now}[name] for name in (tuple(a), (b_colour, b_shape)))
            assert {
                "left of": first.x < second.x,
                "right of": first.x > second.x,
                "above": first.y < second.y,
                "below": first.y > second.y,
            }[where]


@pytest.mark.slow
def test_captions_of_a_clip_name_what_does_not_change():
    """Sizes except in "grow", relations if objects are visible together, and prefixes in all sets."""
    for kind in world.CLIP_SETS:
        rng = np.random.default_rng(1)
        texts = " / ".join(world.caption_throughout(world.sample_clip(kind, rng), rng) for _ in range(150))
        assert all(f"/ {prefix} a" in texts for prefix in ("a photo of", "there is", "we see"))
        assert ("small" in texts and "large" in texts) == (kind != "grow")
        assert bool(re.search("left of|right of|above|below", texts)) == (kind in ("pair", "mixed", "grow"))


@settings(max_examples=examples(300))
@given(seeds, st.sampled_from([1, 2, 3]))
def test_a_question_has_one_answer(seed, count):
    """One object has the colour that the question ends with and is not named in it."""
    objects, _, rng = scene(seed, count)
    question, answer = world.question_of(objects, rng)
    words = question.split()
    assert set(words) <= set(world.VOCABULARY) and not WRONG_ARTICLE.search(question)
    meant = [o for o in objects if o.colour == words[-1] and o.name not in world.objects_named(question)]
    assert [o.shape for o in meant] == [answer]
    assert world.objects_named(f"{question} {answer}") <= {o.name for o in objects}


def test_questions_about_objects_of_one_colour():
    circle, star, heart = (
        world.Object(shape, colour, (1.0, 0.0, 0.0), 32.0, 32.0, 8.0, 0.0)
        for shape, colour in (("circle", "red"), ("star", "red"), ("heart", "orange"))
    )
    asked = {world.question_of((circle, star, heart), np.random.default_rng(seed)) for seed in range(100)}
    endings = {(question.removeprefix("a photo of "), answer) for question, answer in asked}
    assert endings > {
        ("a red circle and a red", "star"),
        ("a red star and a red", "circle"),
        ("an orange", "heart"),
    }
    with pytest.raises(ValueError, match="no object"):
        world.question_of((), np.random.default_rng(0))


def test_the_demos_clips_are_still_what_their_seeds_give():
    """Up to the 256 colours of a GIF. Another use of the random numbers would give another clip."""
    for i, line in enumerate((CLIPS / "clips.jsonl").read_text().strip().split("\n")):
        entry = json.loads(line)
        clip = world.sample_clip(entry["set"], np.random.default_rng([9, i]), 16)
        assert world.caption_of(clip.first) == entry["text"]
        away = np.abs(read_video(CLIPS / entry["clip"], 16).astype(int) - world.draw_clip(clip))
        assert away.mean() < 6 and np.quantile(away, 0.99) < 40


@kinds
def test_the_first_and_the_last_frame(kind):
    clip = world.sample_clip(kind, np.random.default_rng(4))
    frames = world.draw_clip(clip)
    for i, ends in ((0, clip.first), (7, clip.last)):
        there = tuple(o for o, seen in zip(ends, clip.visible[:, i], strict=True) if seen)
        np.testing.assert_array_equal(frames[i], world.draw(there, clip.background))


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 16, 25])
@kinds
def test_clips_of_any_length(kind, frames):
    clip = world.sample_clip(kind, np.random.default_rng(1), frames)
    assert world.draw_clip(clip).shape == (frames, 64, 64, 3)
    if kind == "brief":
        assert 1 <= clip.visible.sum() <= max(1, 3 * frames / 8)
    if kind == "split" and frames > 1:
        assert clip.visible.any(axis=1).all() and (clip.visible.sum(axis=0) == 1).all()


def test_an_unknown_set():
    with pytest.raises((ValueError, KeyError)):
        world.sample_clip("triple", np.random.default_rng(0))
