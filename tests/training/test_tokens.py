"""Frame tokens and pixels of clips on disk: their bits, their keys, unreadable clips, damaged files."""

import os
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import minivideococa as mvc
from minivideococa.cache import encoder_hash, model_hash
from minivideococa.checkpoint import assemble, with_tensors
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry
from minivideococa.model.vision import encode_jointly
from minivideococa.training import tokens
from minivideococa.training.data import Dataset, examples_of
from minivideococa.training.tokens import ClipStore

FRAMES = 3


@pytest.fixture
def model(tiny_model, tokenizer):
    return tiny_model(2, tokenizer=tokenizer)


@pytest.fixture
def clips(tmp_path):
    """Entries of two animations, a part of one, and a picture, whose files may be deleted."""
    for name in ("single.gif", "brief.gif"):
        shutil.copy(CLIPS / name, tmp_path / name)
    picture = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    return [
        Entry(tmp_path / "single.gif", ("a red circle", "a circle")),
        Entry(tmp_path / "brief.gif", ("a star",)),
        Entry(tmp_path / "brief.gif", ("a part",), start=0.9, end=1.5),
        Entry(tmp_path / "picture.png", ("nothing",)),
    ]


@pytest.fixture
def read(monkeypatch):
    """The arguments of each call of read_video."""
    seen = []

    def counted(*args):
        seen.append(args)
        return mvc.read_video(*args)

    monkeypatch.setattr(tokens, "read_video", counted)
    return seen


@pytest.fixture(autouse=True)
def without_repeats():
    """Ignore that a short clip has fewer frames than are sampled."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*different frames.*", UserWarning)
        yield


def prepared(model, folder, entries, **keywords):
    store = ClipStore(model, folder, num_frames=FRAMES, **keywords)
    assert store.prepare(entries) == entries
    return store


def pixels_of(model, entry):
    return model.preprocess(mvc.read_video(entry.video, FRAMES, entry.start, entry.end))


# What is stored


@pytest.mark.parametrize("adapter", ["attentional", "joint"])
def test_tokens_are_those_of_the_encoder_bit_for_bit(model, clips, tmp_path, adapter):
    store = prepared(model, tmp_path / "cache", clips, adapter=adapter)
    for entry in clips:
        pixels = pixels_of(model, entry)
        expected = model.encode_frames(pixels)
        if adapter == "joint":
            expected = encode_jointly(pixels.astype("float64"), model.params["visual"], model.config.vision)
        np.testing.assert_array_equal(store.read(entry), expected, strict=True)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixels_are_those_of_the_frames_bit_for_bit(tiny_model, clips, tmp_path, mode, dtype):
    model = tiny_model(2, dtype)
    preprocess = replace(model.config.preprocess, resize_mode=mode, fill_color=7)
    model = assemble(replace(model.config, preprocess=preprocess), model.params)
    store = prepared(model, tmp_path / "cache", clips, pixels=True)
    for entry in clips:
        expected = pixels_of(model, entry).astype(dtype)
        np.testing.assert_array_equal(store.read(entry), expected, strict=True)


def test_tokens_are_memory_mapped(model, clips, tmp_path):
    array = prepared(model, tmp_path / "cache", clips).read(clips[0])
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert type(array.base).__name__ == "mmap"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_half_tokens_are_off_by_the_rounding_of_float16(tiny_model, clips, tmp_path, dtype):
    model = tiny_model(2, dtype)
    whole, half = (prepared(model, tmp_path / "cache", clips, half=half) for half in (False, True))
    for entry in clips:
        exact, rounded = whole.read(entry), half.read(entry)
        assert rounded.dtype == exact.dtype == dtype
        assert (rounded != exact).any()
        assert (np.abs(rounded - exact) <= np.maximum(2.0**-11 * np.abs(exact), 2.0**-25)).all()
        assert half.file(entry).stat().st_size < whole.file(entry).stat().st_size


@given(st.floats(-65504, 65504))
def test_the_error_that_half_states_is_that_of_float16(x):
    assert abs(float(np.float16(x)) - x) <= max(2.0**-11 * abs(x), 2.0**-25)


def test_tokens_beyond_float16_are_refused(tiny_model, clips, tmp_path):
    model = tiny_model(2)
    model.params["visual"]["transformer"]["resblocks"][-1]["mlp"]["c_proj"]["bias"][0] = 7e4
    with pytest.raises(
        ValueError, match=r"^[^\n]*single.gif: its frame tokens reach 7e\+04, [^\n]*--half\)$"
    ):
        ClipStore(model, tmp_path / "cache", num_frames=FRAMES, half=True).prepare(clips)
    prepared(model, tmp_path / "cache", clips)


# Each video is read once


@pytest.mark.parametrize("pixels", [False, True])
def test_a_second_epoch_does_not_read_a_video_again(model, clips, tmp_path, read, pixels):
    """The files are gone."""
    store = prepared(model, tmp_path / "cache", clips, pixels=pixels)
    data = Dataset(model, examples_of(clips, "caption"), "caption", store, batch_size=2)
    first = list(data.batches(0))
    assert len(read) == 4
    for path in {entry.video for entry in clips}:
        path.unlink()
    for batch, again in zip(first, data.batches(0), strict=True):
        np.testing.assert_array_equal(batch.inputs, again.inputs)
    assert sum(len(batch.examples) for batch in data.batches(1)) == 4 and len(read) == 4


def test_questions_about_a_clip_share_its_tokens(model, clips, tmp_path, read):
    asked = [replace(clips[0], captions=(), question=f"is it {n}", answer="a star") for n in range(3)]
    store = prepared(model, tmp_path / "cache", asked)
    assert len(read) == len(list((tmp_path / "cache").iterdir())) == 1
    assert store.prepare(asked[:2]) == asked[:2] and len(read) == 1  # a validation set


def test_a_clip_with_few_frames_is_no_warning(tmp_path):
    """num_frames is that of all clips; a message for each of a thousand clips helps nobody."""
    entry = Entry(CLIPS / "brief.gif", ("a yellow crescent",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ClipStore(mvc.load(), tmp_path).prepare([entry]) == [entry]


def test_a_copy_of_a_video_is_not_encoded_again(model, clips, tmp_path, read):
    shutil.copy(clips[0].video, tmp_path / "copy.gif")
    prepared(model, tmp_path / "cache", [clips[0], Entry(tmp_path / "copy.gif", ("a circle",))])
    assert len(read) == 1


def test_a_clip_under_two_links_is_one(model, clips, tmp_path, read):
    """With the same part; it is encoded once, and if it cannot be read, it is one bad clip."""
    bad, links = broken(tmp_path, 1)[0], []
    for entry in clips[2], bad:
        os.symlink(entry.video, link := tmp_path / f"link-{entry.video.name}")
        links.append(replace(entry, video=link))
    store, counts = ClipStore(model, tmp_path / "cache", num_frames=FRAMES, allow_bad=1), []

    @contextmanager
    def progress(total, _):
        counts.append(total)
        yield lambda *_: None

    with pytest.warns(UserWarning, match="^left out: ") as warned:
        assert store.prepare([links[1], bad, *links, clips[2]], progress) == [links[0], clips[2]]
    assert counts == [2] and len(warned) == 1 and len(read) == 2
    assert [entry.video for entry, _ in store.left_out.values()] == [links[1].video]  # as it is named first
    assert store.file(links[0]) == store.file(clips[2])


# What the tokens depend on


def tuned(model, name):
    """Return a model of which one tensor has changed."""

    def change(node, path):
        if isinstance(node, list):
            return [change(child, f"{path}.{i}") for i, child in enumerate(node)]
        if isinstance(node, dict):
            return {key: change(child, f"{path}.{key}") for key, child in node.items()}
        return node * 1.5 if path.startswith(f".{name}") else node

    return assemble(model.config, change(model.params, ""), model.tokenizer)


POOLERS = ("visual.attn_pool", "visual.ln_post", "visual.proj", "text.", "text_decoder", "logit_scale")
ENCODER = (
    "visual.conv1",
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.ln_pre",
    "visual.transformer",
)


@pytest.mark.parametrize("name", POOLERS + ENCODER)
@pytest.mark.parametrize("pooling", [True, "cascade"])
def test_tokens_are_used_again_unless_the_encoder_has_changed(
    tiny_model, clips, tmp_path, read, name, pooling
):
    model = tiny_model(2, vision={"attentional_pool": pooling, "width": 12 if pooling is True else 8})
    before, other = (prepared(m, tmp_path / "cache", clips[:1]) for m in (model, tuned(model, name)))
    assert len(read) == (2 if name in ENCODER else 1)
    assert np.array_equal(before.read(clips[0]), other.read(clips[0])) == (name not in ENCODER)


def test_the_poolers_dimensions_do_not_count_and_the_encoders_do(tiny_model):
    model = tiny_model(2)

    def hash_with(part, **fields):
        config = replace(model.config, **{part: replace(getattr(model.config, part), **fields)})
        return encoder_hash(assemble(config, model.params))

    plain = encoder_hash(model)
    assert hash_with("vision", queries=9, pooler_heads=4, attentional_pool="cascade") == plain
    assert hash_with("text", context_length=5) == plain
    changed = [
        hash_with("vision", heads=3),
        hash_with("vision", quick_gelu=True),
        hash_with("preprocess", mean=(0.1, 0.1, 0.1)),
        hash_with("preprocess", interpolation="bilinear"),
        encoder_hash(tiny_model(2, "float32")),
    ]
    assert len({plain, *changed}) == 6


def test_the_hash_does_not_depend_on_how_the_model_was_made():
    """A file may list its tensors in another order than a tuned model: the tokens are the same."""
    model = mvc.load()
    assert encoder_hash(with_tensors(model, {})) == encoder_hash(model)
    assert model_hash(with_tensors(model, {})) == model_hash(model)


def test_what_else_is_in_the_key(model, clips, tmp_path, read, monkeypatch):
    def reads(entry=clips[1], **keywords):
        before = len(read)
        ClipStore(model, tmp_path / "cache", **{"num_frames": FRAMES} | keywords).prepare([entry])
        return len(read) - before

    assert reads() == 1 and reads() == 0
    assert reads(adapter="mean") == reads(adapter="factorized") == reads(half=False) == 0
    assert reads(num_frames=2) == 1
    assert reads(adapter="joint") == 1
    assert reads(half=True) == 1
    assert reads(pixels=True) == 1 and reads(pixels=True, half=True, adapter="joint") == 0
    assert reads(clips[2]) == 1 and reads(replace(clips[2], end=1.4)) == 1
    assert reads(replace(clips[1], start=0.0)) == 0
    shutil.copy(clips[0].video, clips[1].video)
    assert reads() == 1
    monkeypatch.setattr(tokens, "RULE", "another")
    assert reads() == 1


# Unreadable clips


def broken(tmp_path, count):
    paths = [tmp_path / f"broken{i}.gif" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(b"GIF89a no clip %d" % i)
    return [Entry(path, ("a circle",)) for path in paths]


def test_an_unreadable_clip_is_an_error_that_names_it(model, clips, tmp_path):
    for entry, why in (broken(tmp_path, 1)[0], ""), (Entry(tmp_path / "none.mp4", ("x",)), "no such file"):
        with pytest.raises(ValueError) as error:
            ClipStore(model, tmp_path / "cache", num_frames=FRAMES).prepare([clips[0], entry])
        message = str(error.value)
        assert message.startswith(f"{entry.video}: {why}") and "\n" not in message
        assert message.endswith(
            "; a clip cannot be read, and allow_bad (--allow-bad) is 0: correct the manifest, or allow more"
        )


def test_unreadable_clips_are_left_out_and_counted(model, clips, tmp_path):
    bad = broken(tmp_path, 3)
    store = ClipStore(model, tmp_path / "cache", num_frames=FRAMES, allow_bad=2)
    with pytest.warns(UserWarning) as warned:
        assert store.prepare([bad[0], *clips, bad[1], bad[0]]) == clips
    left_out = [str(w.message) for w in warned if str(w.message).startswith("left out: ")]
    assert [entry for entry, _ in store.left_out.values()] == bad[:2]
    assert left_out == [f"left out: {why}" for _, why in store.left_out.values()]
    assert all(why.startswith(f"{entry.video}: ") for entry, why in store.left_out.values())
    assert store.prepare([bad[0], clips[0]]) == [clips[0]]  # known already: no second warning
    with pytest.raises(
        ValueError, match=r"broken2.gif[^\n]*; 3 clips cannot be read, and allow_bad [^\n]* is 2:"
    ):
        store.prepare([bad[2]])


def test_a_decoder_that_fails_is_no_traceback(model, clips, tmp_path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(tokens, "read_video", fails)
    with pytest.raises(
        ValueError, match=r"single.gif: it cannot be read \(ZeroDivisionError: division by zero\)"
    ):
        prepared(model, tmp_path / "cache", clips)


@pytest.mark.filterwarnings("ignore:left out")
def test_no_readable_clip_at_all_is_an_error(model, tmp_path):
    store = ClipStore(model, tmp_path / "cache", allow_bad=9)
    with pytest.raises(ValueError, match=r"^no clip can be read: [^\n]*broken0.gif[^\n]*$"):
        store.prepare(broken(tmp_path, 2))


def test_weights_that_give_no_numbers_are_an_error(model, clips, tmp_path):
    model.params["visual"]["conv1"]["weight"][:] = np.nan
    for adapter in ("attentional", "joint"):
        with pytest.raises(ValueError, match="frame tokens are not finite"):
            ClipStore(model, tmp_path / "cache", adapter=adapter, allow_bad=9).prepare(clips)
    assert not list((tmp_path / "cache").iterdir())


# The files


def test_a_damaged_file_is_computed_again(model, clips, tmp_path, read):
    store = prepared(model, tmp_path / "cache", clips)
    expected = store.read(clips[0]).copy()
    damaged = bytearray(store.file(clips[0]).read_bytes())
    damaged[-100] ^= 1
    store.file(clips[0]).write_bytes(damaged)
    again = prepared(model, tmp_path / "cache", clips)
    np.testing.assert_array_equal(again.read(clips[0]), expected)
    assert len(read) == 5


@pytest.mark.parametrize("damage", [os.unlink, lambda path: path.write_bytes(b"no header")])
def test_a_file_that_is_gone_is_an_error_that_names_it(model, clips, tmp_path, damage):
    store = prepared(model, tmp_path / "cache", clips)
    damage(store.file(clips[0]))
    with pytest.raises(
        OSError, match=r"^[^\n]*safetensors: the cached frames of [^\n]*single.gif were removed"
    ):
        store.read(clips[0])


def test_a_folder_that_cannot_be_written_is_an_error(model, clips):
    with pytest.raises(ValueError, match="single.gif: is not a folder"):
        ClipStore(model, clips[0].video)
    with pytest.raises(OSError, match="the cache cannot be written"):
        ClipStore(model, clips[0].video / "inside", num_frames=FRAMES).prepare(clips)


def test_progress_counts_the_clips_that_are_not_known_yet(model, clips, tmp_path):
    stages = []

    @contextmanager
    def progress(total, unit):
        stages.append([total, unit, 0])

        def update(count):
            stages[-1][2] += count

        yield update

    store = ClipStore(model, tmp_path / "cache", num_frames=FRAMES, allow_bad=1)
    with pytest.warns(UserWarning, match="left out"):
        store.prepare([*clips, clips[0], *broken(tmp_path, 1)], progress)
    store.prepare(clips, progress)
    assert stages == [[5, "clips", 5], [0, "clips", 0]]


def test_frames_that_do_not_fit_into_memory_are_refused_before_a_video_is_read(model, tmp_path, monkeypatch):
    monkeypatch.setattr("minivideococa.resources.available_memory", lambda: 10**5)
    with pytest.raises(ValueError, match="^encoding 1000 frames needs"):
        ClipStore(model, tmp_path / "cache", num_frames=1000)


def test_invalid_arguments(model, tmp_path):
    for keywords, message in ({"num_frames": 0}, "num_frames is 0"), ({"allow_bad": -1}, "allow_bad is -1"):
        with pytest.raises(ValueError, match=message):
            ClipStore(model, Path(tmp_path), **keywords)
