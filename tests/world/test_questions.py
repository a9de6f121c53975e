"""Questions: answers are true of the rendered frames and balanced; seeds determine everything; files."""

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples

import minivideococa as mvc
from minivideococa import cli
from minivideococa.evaluation.manifest import read_manifest
from minivideococa.world import (
    COLOURS,
    SHAPES,
    VOCABULARY,
    Object,
    caption_of,
    draw,
    draw_clip,
    objects_named,
    sample_clip,
)
from minivideococa.world.clips import CLIP_SETS, HELD_OUT, QUESTION_SETS, SPLITS, Clip
from minivideococa.world.questions import (
    ASKED,
    QUESTION_KINDS,
    QUESTION_WORDS,
    ask,
    questions_of,
    sample_questions,
    words_of,
)
from minivideococa.world.scenes import SIZE
from minivideococa.world.shapes import write_animation, write_questions

seeds = st.integers(0, 2**32 - 1)
splits = st.sampled_from(list(SPLITS))
wordings = st.sampled_from(["training", "canonical", "held-out"])
kinds = pytest.mark.parametrize("kind", QUESTION_KINDS)
CANONICAL = {
    "colour": "what colour is the {shape}?",
    "shape": "what shape is {colour}?",
    "count": "how many shapes are there?",
    "exists": "is there {a} {colour} {shape}?",
    "largest": "which is largest?",
    "where": "where is the {shape}?",
    "place": "where is the {shape}?",
    "moment": "what appears for a moment?",
    "first": "what comes first?",
}


def masks(clip):
    """Return which pixels of each frame show each object: bool [objects, T, 64, 64].

    From the frames alone: an object is where its own colour is inside its own drawing.
    """
    frames, empty = draw_clip(clip), draw((), clip.background)
    shown = np.zeros((len(clip.first), *frames.shape[:3]), bool)
    for t, objects in enumerate(clip.trajectory):
        for i, o in enumerate(objects):
            own = (draw((o,), clip.background) != empty).any(axis=2)
            shown[i, t] = own & (np.abs(frames[t] - np.array(o.rgb) * 255) <= 1).all(axis=2)
    return shown


def centre(mask):
    """Return the mean (x, y) of the pixels of a mask."""
    y, x = np.nonzero(mask)
    return np.array([x.mean(), y.mean()])


def extent(mask):
    """Return the greatest distance between the borders of the pixels of a mask."""
    y, x = np.nonzero(mask)
    return np.hypot(np.ptp(x), np.ptp(y))


def names_in(text):
    """Return the (colour, shape) pairs that a question names."""
    return objects_named(" ".join(words_of(text)))


def one(values):
    """Return the only element."""
    (value,) = values
    return value


def true_answer(kind, words, clip, shown):
    """Return the answer to a question from the `masks`. The words of the question tell what it is about."""
    present = shown.sum(axis=(2, 3)) > 0.1 * np.pi * np.array([[o.radius**2] for o in clip.first]).reshape(
        -1, 1
    )
    colour, shape = ([word for word in words if word in known] for known in (COLOURS, SHAPES))
    if kind == "moment":
        assert present.any(axis=1).all() and (present.sum(axis=1) < present.shape[1]).sum() == 1
        return " ".join(clip.first[int(present.sum(axis=1).argmin())].name)
    if kind == "first":
        begins, ends = present.argmax(axis=1), present.shape[1] - present[:, ::-1].argmax(axis=1)
        order = np.argsort(begins)
        assert ends[order[0]] <= begins[order[1]] and present.any(axis=1).all()
        return clip.first[order[0]].shape
    assert present.all()
    if kind == "colour":
        return one(o.colour for o in clip.first if o.shape == one(shape))
    if kind == "shape":
        return one(o.shape for o in clip.first if o.colour == one(colour))
    if kind == "count":
        return ("zero", "one", "two", "three")[one(set(present.sum(axis=0).tolist()))]
    if kind == "exists":
        return "yes" if (one(colour), one(shape)) in [o.name for o in clip.first] else "no"
    if kind == "largest":
        extents = np.array([[extent(frame) for frame in frames] for frames in shown])  # [objects, T]
        largest = one(set(extents.argmax(axis=0).tolist()))
        for o in clip.first:
            assert o is clip.first[largest] or o.radius < 0.85 * clip.first[largest].radius
        areas = shown.sum(axis=(2, 3))
        assert (areas.argmax(axis=0) == largest).all()
        return " ".join(clip.first[largest].name)
    i = one(i for i, o in enumerate(clip.first) if o.shape == one(shape))
    middle = np.array([(SIZE - 1) / 2, (SIZE - 1) / 2])
    others = [middle if kind == "place" else centre(mask) for mask in shown[1 - i if kind == "where" else i]]
    away = np.array([centre(mask) - other for mask, other in zip(shown[i], others, strict=True)])
    axis = one(set(np.abs(away).argmax(axis=1).tolist()))
    return (("left", "right"), ("above", "below"))[axis][one(set((away[:, axis] > 0).tolist()))]


# Truth


@kinds
@settings(max_examples=examples(20), deadline=None)
@given(seed=seeds, split=splits, wordings=wordings)
def test_answers_are_true_of_the_frames(kind, seed, split, wordings):
    clip, questions = sample_questions(kind, np.random.default_rng(seed), 8, split, wordings)
    assert questions[0].kind == kind and len({q.kind for q in questions}) == len(questions)
    shown = masks(clip)
    for q in questions:
        assert true_answer(q.kind, words_of(q.question), clip, shown) == q.answer


@settings(max_examples=examples(60), deadline=None)
@given(seed=seeds, kind=st.sampled_from([*CLIP_SETS, *QUESTION_SETS]), frames=st.integers(2, 16))
def test_questions_about_clips_of_every_set(seed, kind, frames):
    """Nothing is asked that the frames do not answer, whatever the clip shows."""
    rng = np.random.default_rng(seed)
    clip = sample_clip(kind, rng, frames)
    shown = masks(clip)
    for q in questions_of(clip, rng):
        assert true_answer(q.kind, words_of(q.question), clip, shown) == q.answer


def new_object(shape="star", colour="red", x=32.0, y=32.0, radius=8.0):
    return Object(shape, colour, (1.0, 0.0, 0.0), x, y, radius, 0.0)


def new_clip(*first, last=None, visible=None, frames=8):
    background = np.zeros((64, 64, 3), np.float32)
    visible = np.ones((len(first), frames), bool) if visible is None else np.array(visible, bool)
    return Clip(first, last or first, visible, background)


def asked(clip):
    """Return the kinds that are asked of a clip, and the questions of 50 seeds."""
    questions = [q for seed in range(50) for q in questions_of(clip, np.random.default_rng(seed))]
    return {q.kind for q in questions}, questions


def test_nothing_ambiguous_is_asked():
    red, blue = new_object(x=12.0, y=12.0), new_object(colour="blue", x=50.0, y=50.0)
    names, _ = asked(new_clip(red, blue))  # two stars of one size, on a diagonal
    assert names == {"shape", "count", "exists"}
    heart = new_object("heart", x=50.0, y=12.0)
    names, _ = asked(new_clip(red, heart))  # two red shapes, side by side
    assert names == {"colour", "count", "exists", "where"}
    large = new_object("square", "blue", 50.0, 12.0, 14.0)
    assert asked(new_clip(red, large))[0] == {"colour", "shape", "count", "exists", "where", "largest"}
    moved = new_object("square", "blue", 12.0, 50.0, 14.0)
    assert "where" not in asked(new_clip(red, large, last=(red, moved)))[0]
    small = new_object("square", "blue", 50.0, 12.0, 8.0)
    assert "largest" not in asked(new_clip(red, large, last=(red, small)))[0]
    star = new_object(x=50.0, radius=10.1)  # a star has less area than a square of a smaller radius
    assert "largest" not in asked(new_clip(star, new_object("square", x=12.0)))[0]
    assert asked(new_clip())[0] == {"count"}


def test_what_is_not_always_visible():
    pair = new_object(x=12.0), new_object("heart", "blue", x=50.0)
    late = [[1] * 8, [0] * 5 + [1] * 3]
    assert asked(new_clip(*pair, visible=late))[0] == {"moment"}
    assert asked(new_clip(*pair, visible=[[1] * 8, [0] * 4 + [1] * 4]))[0] == set()
    assert asked(new_clip(*pair, visible=[[1] + [0] * 7, [0] + [1] * 7]))[0] == {"first"}
    assert asked(new_clip(*pair, visible=[[1] * 5 + [0] * 3, [0] * 4 + [1] * 4]))[0] == set()  # both at once
    assert asked(new_clip(*pair, visible=[[1] * 4 + [0] * 4, [0] * 8]))[0] == set()
    two_stars = pair[0], new_object(colour="blue", x=50.0)
    assert asked(new_clip(*two_stars, visible=[[1] * 4 + [0] * 4, [0] * 4 + [1] * 4]))[0] == set()
    (first,) = questions_of(
        new_clip(*pair, visible=[[0] * 4 + [1] * 4, [1] * 4 + [0] * 4]), np.random.default_rng(0)
    )
    assert (first.kind, first.answer) == ("first", "heart")


# Wordings and words


@settings(max_examples=examples(100), deadline=None)
@given(seed=seeds, kind=st.sampled_from(list(QUESTION_KINDS)))
def test_the_canonical_wordings(seed, kind):
    _, questions = sample_questions(kind, np.random.default_rng(seed), 8, "test", "canonical")
    for q in questions:
        words = words_of(q.question)
        colour, shape = ([word for word in words if word in known] for known in (COLOURS, SHAPES))
        assert q.question == CANONICAL[q.kind].format(
            colour=(colour or [""])[0],
            shape=(shape or [""])[0],
            a="an" if colour and colour[0] == "orange" else "a",
        )


@pytest.mark.slow
@kinds
def test_wordings_differ_and_use_known_words(kind):
    training, held_out = QUESTION_KINDS[kind].training, QUESTION_KINDS[kind].held_out
    assert len(set(training)) >= 4 and len(set(held_out)) >= 2 and not set(training) & set(held_out)
    trained = {word for k in QUESTION_KINDS.values() for text in k.training for word in words_of(text)}
    assert {word for text in held_out for word in words_of(text)} <= trained | set(VOCABULARY)
    rng = np.random.default_rng(0)
    seen = {sample_questions(kind, rng)[1][0].question for _ in range(120)}
    patterns = [re.sub(r"\\{(a|colour|shape)\\}", r"\\w+", re.escape(text)) for text in training]
    assert all(any(re.fullmatch(pattern, text) for text in seen) for pattern in patterns)


def test_no_two_kinds_share_a_wording():
    """But for the one about a single object, which is never asked of the clips of the other."""
    kinds = [k for name, k in QUESTION_KINDS.items() if name != "place"]
    texts = [text for k in kinds for text in (*k.training, *k.held_out)]
    assert len(texts) == len(set(texts))


@pytest.mark.slow
def test_new_words_complete_the_vocabulary():
    known = {*VOCABULARY, *QUESTION_WORDS}
    assert len(known) == len(VOCABULARY) + len(QUESTION_WORDS)
    assert {"yes", "no", "zero", "one", "two", "three", "then", "what"} <= set(QUESTION_WORDS)
    for seed in range(60):
        for kind in QUESTION_KINDS:
            clip, questions = sample_questions(kind, np.random.default_rng(seed))
            texts = [text for q in questions for text in (q.question, q.answer)]
            for text in [*texts, caption_of(clip.first, "then")]:
                assert set(words_of(text)) <= known
            for q in questions:  # start, question, answer, end
                assert len(words_of(f"{q.question} {q.answer}")) + 2 <= 20


def test_words_are_those_of_the_tokenizer():
    """Every known word of a text is one id; punctuation gives none."""
    model = mvc.load()
    text = "a red circle, then a star: above? a blue. ring!"
    ids = [i for i in model.tokenize([text])[0].tolist() if i > 2]
    unknown = model.tokenize(["then"])[0, 1]
    assert len(ids) == len(words_of(text)) and ids.count(unknown) == 1
    assert words_of(text) == "a red circle then a star above a blue ring".split()


# Splits and balance


@settings(max_examples=examples(100), deadline=None)
@given(seed=seeds, kind=st.sampled_from(list(QUESTION_KINDS)), wordings=wordings)
def test_training_never_shows_or_names_the_held_out_pairs(seed, kind, wordings):
    clip, questions = sample_questions(kind, np.random.default_rng(seed), 8, "train", wordings)
    assert not clip.names & set(HELD_OUT)
    for q in questions:
        assert not names_in(q.question) & set(HELD_OUT)


def test_the_held_out_pairs():
    assert len(HELD_OUT) == len(set(HELD_OUT)) == 16
    assert set(Counter(colour for colour, _ in HELD_OUT).values()) == {2}
    assert set(Counter(shape for _, shape in HELD_OUT)) == set(SHAPES)
    assert max(Counter(shape for _, shape in HELD_OUT).values()) == 2
    assert ("red", "circle") in HELD_OUT and ("red", "star") not in HELD_OUT


@pytest.mark.slow
def test_the_splits_differ_in_composition():
    def sampled(split):
        for seed in range(300):
            yield sample_questions(
                list(QUESTION_KINDS)[seed % len(QUESTION_KINDS)], np.random.default_rng(seed), 8, split
            )[0]

    sizes, names, moved = defaultdict(set), defaultdict(set), defaultdict(list)
    for split in SPLITS:
        for clip in sampled(split):
            sizes[split] |= {o.size for o in clip.first}
            names[split] |= clip.names
            moved[split] += [np.hypot(a.x - b.x, a.y - b.y) for a, b in zip(clip.first, clip.last)]
    assert sizes == {"train": {"small", "large"}, "test": {"small", "large", None}}
    assert max(moved["train"]) <= 20 < 24 < max(moved["test"]) <= 28
    assert set(HELD_OUT) <= names["test"] and not set(HELD_OUT) & names["train"]
    assert set(SPLITS["test"].backgrounds) - set(SPLITS["train"].backgrounds) == {"clouds"}


def best_guess(kind, split, count):
    """Return the accuracy, on `count` questions, of the most frequent answer to each on as many others."""
    known, right = defaultdict(Counter), 0
    for i in range(2 * count):
        q = sample_questions(kind, np.random.default_rng([5, i]), 8, split, "canonical")[1][0]
        if i < count:
            known[q.question][q.answer] += 1
        elif known[q.question]:
            right += known[q.question].most_common(1)[0][0] == q.answer
    return right / count


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("kind", "most"),
    {
        "colour": 1 / 6,
        "shape": 1 / 7,
        "count": 1 / 4,
        "exists": 1 / 2,
        "largest": 1 / 40,
        "where": 1 / 4,
        "moment": 1 / 40,
        "first": 1 / 10,
    }.items(),
)
def test_a_question_alone_does_not_tell_its_answer(kind, split, most):
    """Training has 6 or 7 colours of a shape, and 8 shapes of a colour."""
    count = 400
    assert best_guess(kind, split, count) <= most + 3 * np.sqrt(most * (1 - most) / count)


def test_count_is_only_asked_of_clips_of_its_own():
    """The other clips have one, two or three objects more often than none."""
    for kind in QUESTION_KINDS:
        for seed in range(20):
            asked = [q.kind for q in sample_questions(kind, np.random.default_rng(seed))[1]]
            assert ("count" in asked) == (kind == "count")


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_negatives_of_exists(split):
    """Half of the questions; half of these have one right word, the others none, or two of two objects."""
    right = Counter()
    for i in range(1000):
        clip, (q, *_) = sample_questions("exists", np.random.default_rng([6, i]), 8, split)
        ((colour, shape),) = names_in(q.question)
        if q.answer == "no":
            words = (colour in {o.colour for o in clip.first}) + (shape in {o.shape for o in clip.first})
            right[words] += 1
            assert words < 2 or len(clip.first) > 1
    assert abs(right.total() - 500) < 50 and abs(right[1] / right.total() - 0.5) < 0.07
    assert right[0] > 100 and right[2] > 40


# Clips


def test_clips_of_the_question_sets():
    assert not set(QUESTION_SETS) & set(CLIP_SETS)
    counts = Counter()
    for seed in range(60):
        count, moment, order = (sample_clip(kind, np.random.default_rng(seed)) for kind in QUESTION_SETS)
        counts[len(count.first)] += 1
        assert count.visible.all()
        assert sorted(moment.visible.sum(axis=1).tolist()) in ([2, 8], [3, 8])
        assert order.visible.astype(int).tolist() == [[1] * 4 + [0] * 4, [0] * 4 + [1] * 4]
        assert order.first[0].shape != order.first[1].shape
    assert set(counts) == {0, 1, 2, 3} and min(counts.values()) > 5
    brief = {
        int(sample_clip("moment", np.random.default_rng(seed)).visible[0].sum() < 8) for seed in range(9)
    }
    assert brief == {0, 1}  # which of the two is brief does not depend on their order


def test_the_area_of_an_object():
    for shape in SHAPES:
        o = new_object(shape, radius=16.0)
        drawn = draw((o,), np.zeros((64, 64, 3), np.float32))[..., 0].sum() / 255
        assert abs(drawn / o.area - 1) < 0.05


# Determinism and errors


@kinds
def test_a_seed_determines_clips_and_questions(kind):
    for split in SPLITS:
        (a, asked), (b, again) = (
            sample_questions(kind, np.random.default_rng(3), 8, split) for _ in range(2)
        )
        assert asked == again
        np.testing.assert_array_equal(draw_clip(a), draw_clip(b))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"kind": "size"}, "kind"),
        ({"split": "val"}, "split"),
        ({"wordings": "all"}, "wordings"),
        ({"frames": 2}, "frames"),
    ],
)
def test_errors_name_the_argument(wrong, named):
    with pytest.raises(ValueError, match=f"{named}.*give"):
        sample_questions(**{"kind": "moment", "rng": np.random.default_rng(0)} | wrong)


def test_ask_says_none_where_there_is_no_answer():
    assert ask("moment", new_clip(new_object()), np.random.default_rng(0)) is None


# Files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of 16 clips, two for each kind, from seed 7."""
    folder = tmp_path_factory.mktemp("questions") / "made"
    assert write_questions(folder, 16, 7, kinds=list(QUESTION_KINDS)) == folder / "manifest.jsonl"
    return folder


def expected(i):
    """Return the frames and the questions of clip i."""
    clip, questions = sample_questions(
        list(QUESTION_KINDS)[i % len(QUESTION_KINDS)], np.random.default_rng([7, i])
    )
    return clip, draw_clip(clip), questions


@pytest.mark.filterwarnings("error")
def test_frames_are_read_exactly(files):
    for i in range(16):
        np.testing.assert_array_equal(mvc.read_video(files / f"{i:04}.png", 8), expected(i)[1])


@pytest.mark.filterwarnings("error")
def test_equal_frames_are_kept(tmp_path):
    """Without a warning that frames repeat."""
    frames = draw_clip(sample_clip("brief", np.random.default_rng(0)))
    frames[:4] = frames[0]
    write_animation(tmp_path / "a.png", frames)
    np.testing.assert_array_equal(mvc.read_video(tmp_path / "a.png", 8), frames)
    np.testing.assert_array_equal(mvc.read_video(tmp_path / "a.png", 2, end=0.5), frames[[1, 3]])


def test_entries_are_questions_with_their_types(files):
    entries = read_manifest(files / "manifest.jsonl")
    for i in range(16):
        clip, _, questions = expected(i)
        mine = [entry for entry in entries if entry.video == files / f"{i:04}.png"]
        assert [(e.question_type, e.question, e.answer) for e in mine] == [
            (q.kind, q.question, q.answer) for q in questions
        ]
        assert mine[0].captions and not any(entry.captions for entry in mine[1:])
        for text in mine[0].captions:
            assert objects_named(text) == clip.names
        if questions[0].kind == "first":
            assert mine[0].captions == (caption_of(clip.first, "then"),) and " then " in mine[0].captions[0]


def test_a_seed_determines_every_byte_of_question_files(files, tmp_path):
    write_questions(tmp_path / "fewer", 3, 7, kinds=list(QUESTION_KINDS))
    for path in (tmp_path / "fewer").iterdir():
        whole = (files / path.name).read_bytes()
        assert (
            whole.startswith(path.read_bytes())
            if path.name == "manifest.jsonl"
            else whole == path.read_bytes()
        )
    lines = (tmp_path / "fewer" / "manifest.jsonl").read_text().strip().split("\n")
    assert {json.loads(line)["video"] for line in lines} == {"0000.png", "0001.png", "0002.png"}


def test_the_default_kinds_do_not_need_the_order_of_frames():
    assert set(QUESTION_KINDS) - set(ASKED) == {"place", "first"}


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"seed": -1}, {"frames": 2}, {"split": "val"}, {"kinds": ["a"]}]
)
def test_wrong_arguments_leave_no_files(tmp_path, wrong):
    with pytest.raises(ValueError, match="give"):
        write_questions(tmp_path / "made", **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("split", "use"), [("train", "finetune"), ("test", "evaluate")])
def test_the_command_writes_questions(tmp_path, capsys, split, use):
    assert cli.main(["shapes", str(tmp_path / "a"), "--count", "2", "--seed", "7", "--questions", split]) == 0
    out, err = capsys.readouterr()
    manifest = tmp_path / "a" / "manifest.jsonl"
    assert out == "" and err.count("\n") == 1 and f"minivideococa {use} {manifest} " in err
    write_questions(tmp_path / "b", 2, 7, split=split)
    assert manifest.read_bytes() == (tmp_path / "b" / "manifest.jsonl").read_bytes()
