"""What the Python interface refuses: one line that names the argument, before anything is computed."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import minivideococa as mvc
from minivideococa import resources
from minivideococa.media import video
from minivideococa.media.preprocess import as_frames
from minivideococa.model import config, decoder, text, vision
from minivideococa.output import json_text

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 20, 16, 3), np.uint8)
PIXELS, TOKENS, CAPTION = np.zeros((2, 3, 14, 14)), np.zeros((2, 10, 12)), np.zeros((3, 8))
VIDEO = mvc.Video(np.eye(8)[0], np.random.default_rng(0).standard_normal((3, 8)))
LABELS = ["a red circle", "a blue square"]
NAN, INF = math.nan, math.inf


@pytest.fixture
def model(tiny_model, tokenizer):
    return tiny_model(2, tokenizer=tokenizer)


def refused(call: Callable[[], object], *facts: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and len(message) < 300
    assert all(re.search(fact, message) for fact in facts), (message, facts)


def with_one(x: np.ndarray, value: complex) -> np.ndarray:
    x = x.astype(np.result_type(x, type(value)))
    x.flat[5] = value
    return x


# Arrays: (method, what is wrong, the message)


def stable_id(value):
    """Return a test's id without addresses, so that every process collects the same ids."""
    return value if isinstance(value, str) else ""


BAD_FLOATS = [
    (lambda x: with_one(x, NAN), "not finite"),
    (lambda x: with_one(x, INF), "not finite"),
    (lambda x: with_one(x, -INF), "not finite"),
    (lambda x: x.astype(np.uint8), "uint8"),
    (lambda x: x.astype(np.int64), "int64"),
    (lambda x: x.astype(complex), "complex128"),
    (lambda x: x.astype(bool), "bool"),
    (lambda x: x.astype(object), "object"),
    (lambda x: x.astype(str), "<U"),
    (lambda x: None, r"shape \[\]"),
    (lambda x: "pixels", r"shape \[\]"),
    (lambda x: x[..., :-1], "shape"),
    (lambda x: [[1.0], [2.0, 3.0]], "array"),
    (lambda x: x.tolist()[0][0], "shape"),
]


@pytest.mark.parametrize(
    "name, call, good",
    [
        ("pixels", lambda model, x: model.encode_frames(x), PIXELS),
        ("pixels", lambda model, x: model.encode_video(x), PIXELS),
        ("pixels", lambda model, x: model.encode_video(x, "joint"), PIXELS),
        ("frame tokens", lambda model, x: model.pool(x), TOKENS),
        ("caption tokens", lambda model, x: model.decode(x, np.ones((2, 4), int)), CAPTION),
        ("caption tokens", lambda model, x: model.generate(x), CAPTION),
        ("the latent", lambda model, x: mvc.classify(model, mvc.Video(x, CAPTION), LABELS), np.eye(8)[0]),
        ("the latent", lambda model, x: mvc.retrieve(model, "a star", [mvc.Video(x, CAPTION)]), np.eye(8)[0]),
        ("caption tokens", lambda model, x: mvc.score(model, mvc.Video(VIDEO.latent, x), LABELS), CAPTION),
    ],
    ids=stable_id,
)
@pytest.mark.parametrize("spoil, fact", BAD_FLOATS, ids=[fact for _, fact in BAD_FLOATS])
def test_arrays_of_floats(model, name, call, good, spoil, fact):
    call(model, good)
    if good.ndim == 1 and fact == "shape" and np.ndim(spoil(good[None, None])) == 1:
        good = good[None]  # a list of one number less
    try:
        bad = spoil(good)
    except (IndexError, TypeError):
        return  # a vector cannot be spoilt so
    refused(lambda: call(model, bad), f"^{name}", fact)


def test_a_float64_that_float32_cannot_hold(tiny_model):
    """No overflow warning and no NaN: refused, with the dtype."""
    with np.errstate(all="raise"):
        refused(
            lambda: tiny_model(dtype="float32").encode_video(with_one(PIXELS, 1e300)), "pixels", "float32"
        )


@pytest.mark.parametrize(
    "call", [lambda model, ids: model.encode_text(ids), lambda model, ids: model.decode(CAPTION, ids)]
)
@pytest.mark.parametrize(
    "ids, fact",
    [
        (np.array([[-1, 1]]), "from -1"),
        (np.array([[1, 10**6]]), "to 1000000"),
        (np.array([[1.0, 2.0]]), "float64"),
        (np.array([[True]]), "bool"),
        (np.array([[NAN]]), "float64"),
        (np.array([1, 2]), "shape"),
        (np.array(1), "shape"),
        (np.array([[2**64 - 1]], np.uint64), "18446744073709551615"),
        (np.array([[1j]]), "complex"),
    ],
    ids=str,
)
def test_ids(model, call, ids, fact):
    refused(lambda: call(model, ids), "^ids", fact)


@pytest.mark.parametrize("ids", [None, [[1, 2], [3]], "ids", [None], 3])
def test_what_is_no_ids(model, ids):
    refused(lambda: model.decode(CAPTION, ids), "^ids")
    refused(lambda: model.tokenizer.decode(ids), "ids")


@pytest.mark.parametrize(
    "ids, fact",
    [
        ([1, -4], "-4"),
        ([1, 10**6], "1000000"),
        ([2**70], "object|1180591620717411303424"),
        ([1.5], "float64"),
        ([True], "bool"),
    ],
)
def test_ids_that_a_tokenizer_decodes(model, ids, fact):
    refused(lambda: model.tokenizer.decode(ids), "ids", fact)
    assert model.tokenizer.decode([]) == ""


# Numbers

NO_NUMBERS = [None, "3", [3], NAN, 1j, True, np.array([1, 2]), np.bool_(True)]
NO_WHOLE = [*NO_NUMBERS, 2.5, 2.0, np.float32(2), INF]


@pytest.mark.parametrize(
    "name", ["beams", "beam_groups", "min_length", "max_length", "seed", "top_k", "start_id", "end_id"]
)
@pytest.mark.parametrize("value", NO_WHOLE, ids=str)
def test_whole_numbers_of_generate(model, monkeypatch, name, value):
    monkeypatch.setattr(decoder, "cross_attention_kv", None)  # nothing is computed first
    if value is None and name in ("top_k", "beam_groups", "max_length", "start_id", "end_id"):
        return  # its default
    refused(lambda: model.generate(CAPTION, **{name: value}), f"^{name} is ", "whole number")


@pytest.mark.parametrize(
    "name", ["top_p", "temperature", "repetition_penalty", "diversity_penalty", "length_penalty"]
)
@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, INF, -INF, 1e300, -1e300, 10**400], ids=lambda value: str(value)[:9]
)
def test_numbers_of_generate(model, monkeypatch, name, value):
    monkeypatch.setattr(decoder, "cross_attention_kv", None)
    if value is None and name in ("top_p", "temperature"):
        return
    refused(lambda: model.generate(CAPTION, **{name: value}), f"^{name} is ", "number")


@pytest.mark.parametrize(
    "name, values",
    [
        ("beams", [0, -1, 1001, 10**9, 10**5000]),
        ("min_length", [-1]),
        ("seed", [-1]),
        ("top_k", [0]),
        ("start_id", [-1, 10**6]),
        ("end_id", [-1, 10**6]),
        ("textbook", [None, 1, "no"]),
        ("cache", [None, 1, "no"]),
        ("prompt", [None, 3, ["a"], b"a"]),
    ],
)
def test_other_values_of_generate(model, name, values):
    for value in values:
        refused(lambda: model.generate(CAPTION, **{name: value}), f"^{name}\\b")


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.array])
def test_numpys_integers_are_whole_numbers(model, kind):
    want = model.generate(CAPTION, beams=4, beam_groups=2, min_length=3, max_length=8)
    got = model.generate(
        CAPTION, beams=kind(4), beam_groups=kind(2), min_length=kind(3), max_length=kind(8), seed=kind(0)
    )
    np.testing.assert_array_equal(got, want)
    got = model.generate(CAPTION, length_penalty=np.float32(1), repetition_penalty=1)
    np.testing.assert_array_equal(got, model.generate(CAPTION))


@given(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(), st.complex_numbers()),
    st.integers(-10, 10),
    st.integers(0, 20),
)
def test_a_whole_number_is_taken_as_it_is_or_refused(value, least, span):
    fits = type(value) is int and least <= value <= least + span
    if fits:
        assert config.check_int("x", value, least, least + span) == value
    else:
        refused(
            lambda: config.check_int("x", value, least, least + span),
            f"^x is .*from {least} to {least + span}",
        )


@given(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text()),
    st.floats(-10, 10),
    st.floats(0, 20),
)
def test_a_number_is_taken_as_it_is_or_refused(value, least, span):
    if type(value) in (int, float) and least <= value <= least + span:
        assert config.check_number("x", value, least, least + span) == value
    else:
        refused(lambda: config.check_number("x", value, least, least + span), "^x is ")


# Videos

PATH_CALLS = [
    lambda model, video, **how: model.encode(video, **how),
    lambda model, video, **how: model.caption(video, **how),
    lambda model, video, **how: mvc.classify(model, video, LABELS, **how),
    lambda model, video, **how: mvc.score(model, video, LABELS, **how),
    lambda model, video, **how: mvc.answer(model, video, "a red", **how),
    lambda model, video, **how: mvc.answer(model, video, "a red", ["star"], **how),
    lambda model, video, **how: mvc.retrieve(
        model, Path(video) if isinstance(video, str) else video, LABELS, **how
    ),
]
path_calls = pytest.mark.parametrize(
    "call",
    PATH_CALLS,
    ids=["encode", "caption", "classify", "score", "answer", "answer from some", "retrieve"],
)


@path_calls
def test_a_path_is_read_as_asked(model, monkeypatch, call):
    """num_frames, start and end reach the reader; adapter reaches the encoder."""
    read, adapters = [], []
    monkeypatch.setattr(
        video, "read_timed", lambda path, *args, **how: read.append((str(path), args, how)) or (FRAMES, None)
    )
    encode_video = type(model).encode_video
    monkeypatch.setattr(
        type(model),
        "encode_video",
        lambda self, x, adapter, progress: adapters.append(adapter) or encode_video(self, x, adapter),
    )
    call(model, "a.mp4")
    call(model, "a.mp4", adapter=None)
    call(model, "a.mp4", num_frames=5, start="0:01", end=2.5, adapter="mean")
    assert read == [("a.mp4", (8, None, None), {})] * 2 + [("a.mp4", (5, "0:01", 2.5), {})]
    assert adapters == ["attentional", "attentional", "mean"]


def test_paths_among_candidates_are_read_as_asked(model, monkeypatch):
    read = []
    monkeypatch.setattr(
        video, "read_timed", lambda path, *args, **how: read.append((args, how)) or (FRAMES, None)
    )
    mvc.retrieve(model, "a star", ["a.mp4", Path("b.mp4")], num_frames=3, start=1, end=2)
    assert read == [((3, 1, 2), {})] * 2


@path_calls
def test_how_a_path_is_read_is_checked_first(model, monkeypatch, call):
    monkeypatch.setattr(video, "read_timed", None)
    for value in [*NO_WHOLE, 0, -1]:
        refused(lambda: call(model, "a.mp4", num_frames=value), "^num_frames is ")
    for adapter in ("max", "", 3, ["mean"], np.array(["mean", "joint"])):
        refused(lambda: call(model, "a.mp4", adapter=adapter), "^adapter is ", "attentional, mean, joint")
    for given_video in (FRAMES, VIDEO, list(FRAMES)):
        refused(lambda: call(model, given_video, start=1), "^start can only be given with a path")


@path_calls
def test_lists_of_frames_and_of_images_are_videos(model, call):
    images = [Image.fromarray(frame) for frame in FRAMES]
    want = call(model, FRAMES)
    for same in (list(FRAMES), tuple(FRAMES), images, tuple(images)):
        got = call(model, same)
        if isinstance(want, mvc.Video):
            np.testing.assert_equal(vars(got), vars(want))
        else:
            np.testing.assert_equal(got, want)


def test_images_of_other_modes_are_rgb_over_black(model):
    rgba = np.dstack([FRAMES[0], np.tile(np.uint8([[0, 255]]), (20, 8))])
    grey = np.repeat(FRAMES[0, :, :, :1], 3, axis=2)
    for image, want in [
        (Image.fromarray(rgba), np.where(rgba[..., 3:] == 0, 0, FRAMES[0])),
        (Image.fromarray(FRAMES[0, :, :, 0]), grey),
    ]:
        np.testing.assert_array_equal(as_frames("video", [image])[0], want)
    deep = [
        Image.fromarray(np.full((20, 16), 65535, np.uint16)),
        Image.fromarray(np.ones((20, 16), np.float32)),
    ]
    for image in deep:  # modes I;16 and F
        assert (as_frames("video", [image]) == 255).all()
    for mode, fact in ("I", "32-bit"), ("LAB", "LAB"):
        refused(lambda: model.encode([Image.new(mode, (4, 4))]), r"video\[0\]", fact)


@path_calls
@pytest.mark.parametrize(
    "bad, fact",
    [
        (lambda: (frame for frame in FRAMES), "generator"),
        (lambda: ["a.mp4", "b.mp4"], r"\[0\] is str 'a.mp4': a list holds the frames"),
        (lambda: [Path("a.mp4")], "one path"),
        (list, "list"),
        (lambda: None, "None"),
        (lambda: 3, "int"),
        (lambda: b"a.mp4", "bytes"),
        (lambda: [FRAMES[0], FRAMES[1][:-1]], r"16 x 19.*16 x 20"),
        (lambda: [FRAMES[0], FRAMES[1] / 255], "float64"),
        (lambda: [FRAMES, FRAMES], r"uint8 \[3, 20, 16, 3\]"),
        (lambda: [VIDEO], "Video"),
        (lambda: {"a": FRAMES}, "dict"),
        (lambda: FRAMES / 255, "uint8"),
        (lambda: FRAMES[0], "uint8"),
        (lambda: np.array(["a.mp4"]), "uint8"),
    ],
    ids=stable_id,
)
def test_what_is_no_video(model, call, bad, fact):
    refused(lambda: call(model, bad()), fact)


# Texts


def test_arrays_of_labels(model):
    labels = np.array(LABELS)
    assert mvc.classify(model, VIDEO, labels, np.array(["{}"])) == mvc.classify(model, VIDEO, LABELS, ["{}"])
    assert {type(label) for label, _ in mvc.classify(model, VIDEO, labels)} == {str}
    likely = mvc.classify(model, VIDEO, LABELS, by="likelihood")
    assert mvc.classify(model, VIDEO, labels.astype(object), by="likelihood") == likely
    assert mvc.retrieve(model, VIDEO, labels) == mvc.retrieve(model, VIDEO, tuple(LABELS))
    np.testing.assert_array_equal(mvc.score(model, VIDEO, labels), mvc.score(model, VIDEO, LABELS))
    np.testing.assert_array_equal(model.encode_text(labels), model.encode_text(LABELS))
    assert mvc.answer(model, VIDEO, "a red", np.array(["star", "ring"])) in ("star", "ring")


@pytest.mark.parametrize(
    "name, call, blank",
    [
        ("labels", lambda model, x: mvc.classify(model, VIDEO, x), False),
        ("labels", lambda model, x: mvc.classify(model, VIDEO, x, by="likelihood"), False),
        ("templates", lambda model, x: mvc.classify(model, VIDEO, LABELS, x), None),
        ("texts", lambda model, x: mvc.score(model, VIDEO, x), True),
        ("answers", lambda model, x: mvc.answer(model, VIDEO, "a", x), True),
        ("candidates", lambda model, x: mvc.retrieve(model, VIDEO, x), False),
    ],
)
def test_lists_of_texts(model, name, call, blank):
    for bad in (
        [],
        (),
        "red",
        "",
        3,
        np.zeros(2),
        np.array([["a"]]),
        (x for x in "ab"),
        {"a": 1},
        {"a"},
        b"ab",
        [None],
        ["a", 3],
        [b"a"],
        [["a"]],
        [True],
        np.array(["a", None]),
    ):
        refused(lambda: call(model, bad), f"^{name}")
    if blank is False:
        for bad in ([""], ["a", " \n"]):
            refused(lambda: call(model, bad), f"^{name}.*blank")
    elif blank:
        call(model, ["", "a"])


@pytest.mark.parametrize("bad", [None, 3, ["a"], b"a", "", " \t\n"])
def test_one_text(model, bad):
    refused(lambda: mvc.answer(model, VIDEO, bad), "^question")
    if isinstance(bad, str):
        refused(lambda: mvc.retrieve(model, bad, [VIDEO]), "^query is blank")
    else:
        refused(lambda: mvc.score(model, VIDEO, LABELS, bad), "^prompt")
        refused(lambda: mvc.classify(model, VIDEO, LABELS, by=bad), "latent.*likelihood")
        for read in (model.tokenize, model.encode_text):
            if not isinstance(bad, list):
                refused(lambda: read(bad), "^texts")


def test_candidates_that_are_no_videos(model):
    for bad in ([], "a.mp4", None, (one for one in [VIDEO]), {"a": VIDEO}, 3):
        refused(lambda: mvc.retrieve(model, "a star", bad), "^candidates.*video")
    refused(lambda: mvc.retrieve(model, "a star", [VIDEO, None]), "^video")


# What is not finite in the end


@pytest.mark.parametrize(
    "name, fact", [("visual", "latent|tokens"), ("text", "latent|logits"), ("text_decoder", "logits")]
)
@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_not_finite(model, name, fact, value):
    """No NaN comes out, from whichever call first depends on them."""

    def spoil(tree):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            spoil(branch) if isinstance(branch, dict | list) else branch.__setitem__(..., value)

    spoil(model.params[name])
    calls = {
        "visual": [
            lambda: model.encode_frames(PIXELS),
            lambda: model.pool(TOKENS),
            lambda: model.encode(FRAMES, adapter="mean"),
            lambda: model.encode(FRAMES, adapter="joint"),
            lambda: model.caption(FRAMES),
        ],
        "text": [
            lambda: model.encode_text("a star"),
            lambda: model.decode(CAPTION, np.ones((1, 4), int)),
            lambda: model.generate(CAPTION),
            lambda: mvc.classify(model, VIDEO, LABELS),
        ],
        "text_decoder": [
            lambda: model.decode(CAPTION, np.ones((1, 4), int)),
            lambda: model.generate(CAPTION, cache=False),
            lambda: model.generate(CAPTION),
            lambda: model.generate(CAPTION, top_k=2),
            lambda: mvc.score(model, VIDEO, LABELS),
        ],
    }[name]
    with np.errstate(all="ignore"):
        for call in calls:
            refused(call, fact, "not finite: check the weights and the input")


def test_a_logit_scale_that_is_not_finite(model):
    model.params["logit_scale"] = np.array(NAN)
    refused(lambda: mvc.classify(model, VIDEO, LABELS), "not finite")


def test_a_trace_that_gives_tensors_is_not_judged(model):
    """Those are another implementation's, and `verify` reports what is not finite among them."""
    with mvc.trace({"pool.flat": np.full((20, 12), NAN)}) as tape, np.errstate(all="ignore"):
        model.encode_video(PIXELS)
    assert np.isnan(tape["pool.latent"]).all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_json_has_no_nan(value):
    with pytest.raises(ValueError):
        json_text({"value": [value]})
    assert json.loads(json_text({"value": 1.5})) == {"value": 1.5}


# Memory


@pytest.fixture
def memory(monkeypatch):
    """Set how many bytes are available; by then nothing is to be computed."""

    def available(count):
        monkeypatch.setattr(resources, "available_memory", lambda: count)

    for module, name in [
        (vision, "encode_frames"),
        (vision, "encode_jointly"),
        (decoder, "cross_attention_kv"),
        (video, "read_timed"),
    ]:
        monkeypatch.setattr(module, name, None)
    available(10**6)
    return available


@pytest.mark.parametrize("adapter", ["attentional", "mean", "joint"])
@pytest.mark.parametrize("frames", [10**4, 10**8, 2**31 - 1])
def test_frames_that_do_not_fit(model, memory, adapter, frames):
    refused(
        lambda: model.encode("a.mp4", frames, adapter),
        f"encoding {frames} frames needs .*1.0 MB are available; \\d+ frames would fit",
    )


def test_as_many_frames_as_are_said_to_fit_do(model, memory):
    for adapter in ("attentional", "joint"):
        with pytest.raises(ValueError) as error:
            model.encode("a.mp4", 10**6, adapter)
        fits = int(re.search(r"(\d+) frames would fit", str(error.value))[1])
        refused(lambda: model.encode("a.mp4", fits + 1, adapter), f"; {fits} frames would fit")
        with pytest.raises(TypeError, match="NoneType"):  # it goes on, to the reader
            model.encode("a.mp4", fits, adapter)


def test_attention_over_all_frames_takes_the_square(model, memory):
    """At least H (T N)^2 numbers: 2 heads, 10 tokens a frame, 8 bytes."""
    memory(2 * (100 * 10) ** 2 * 8)
    refused(lambda: model.encode_video(np.zeros((100, 3, 14, 14)), "joint"), "100 frames")


def test_arrays_that_do_not_fit(model, memory):
    memory(1000)
    for call in (
        lambda: model.encode_frames(PIXELS),
        lambda: model.pool(TOKENS),
        lambda: model.encode_video(PIXELS),
    ):
        refused(call, "encoding 2 frames", "0 frames would fit")


def test_beams_that_do_not_fit(model, memory):
    """At least keys and values: 4 layers, 9 positions, 8 numbers of 8 bytes, twice, for each of 900 beams."""
    least = 900 * 2 * 4 * 9 * 8 * 8
    memory(least)
    refused(
        lambda: model.generate(CAPTION, beams=900),
        "1 x 900 beams needs .* available; \\d+ beams in all would fit",
    )
    refused(
        lambda: model.generate(np.zeros((300, 3, 8)), beams=6, beam_groups=3, diversity_penalty=1),
        "300 x 6 beams",
    )
    refused(
        lambda: model.generate(np.zeros((2000, 3, 8)), temperature=1), "2000 texts needs", "texts would fit"
    )
    refused(lambda: model.generate(CAPTION, beams=900, cache=False), "900 beams")
    with pytest.raises(TypeError, match="NoneType"):  # it goes on: without a penalty the groups are one
        model.generate(CAPTION, beams=900, beam_groups=900)


def test_all_texts_of_a_large_choice_are_counted(model, monkeypatch):
    """A few at a time, so that a bar moves and memory does not grow with the number of texts."""
    parts, batches, transformer = [], [], text.transformer

    def count(x, *args, **kwargs):
        batches.append(len(x))
        return transformer(x, *args, **kwargs)

    monkeypatch.setattr(text, "transformer", count)
    assert len(mvc.retrieve(model, VIDEO, LABELS * 50, progress=parts.append)) == 100
    assert sum(parts) == sum(batches) == 100 and len(parts) == len(batches) > 1
