"""A tuned part: what was tuned is stored alone, and the tuned model is restored; other bases are refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from platforms import posix
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import minivideococa as mvc
from minivideococa import cli
from minivideococa.checkpoint import tuned as module
from minivideococa.checkpoint import with_tensors
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import embedded_checkpoint, read_origin
from minivideococa.checkpoint.table import parameter_shapes, unnest
from minivideococa.checkpoint.tuned import ABOUT, kept_hash, read_tuned, write_tuned, write_whole
from minivideococa.model.videococa import VideoCoCa

POOLER = "visual.attn_pool.query"
VIDEO = {
    "adapter": "factorized",
    "factorized": {"layers": 2, "heads": 2, "positions": 5},
    "answers": ["red", "blue"],
}


def tune(model: VideoCoCa, *beginnings: str, **options: object) -> VideoCoCa:
    """Return the model with random numbers in the tensors whose names begin so."""
    rng = np.random.default_rng(1)
    tensors = {
        name: rng.standard_normal(tensor.shape).astype(model.dtype)
        for name, tensor in unnest(model.params).items()
        if name.startswith(beginnings)
    }
    return with_tensors(model, tensors, **options)


def tune_lit(model: VideoCoCa, **options: object) -> VideoCoCa:
    """As LiT does: everything but the image encoder."""
    return tune(model, "visual.attn_pool", "visual.ln_post", "visual.proj", "text", "logit_scale", **options)


def same(a: VideoCoCa, b: VideoCoCa) -> bool:
    """Whether two models have the same configuration and, bit for bit, the same weights."""
    x, y = unnest(a.params), unnest(b.params)
    return a.config == b.config and x.keys() == y.keys() and all(np.array_equal(x[n], y[n]) for n in x)


@pytest.fixture
def base(tmp_path: Path, tiny_model, tokenizer) -> VideoCoCa:
    """A model that was loaded from the checkpoint folder `base`."""
    folder = write_whole(tmp_path / "base", tiny_model(dtype="float32", tokenizer=tokenizer))
    return mvc.load(folder)


# Writing and reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_tuned_model_is_restored(tmp_path: Path, base: VideoCoCa, dtype: str) -> None:
    tuned = tune_lit(base, tuned_for="caption")
    path = write_tuned(tmp_path / "tuned.safetensors", tuned, options={"tune": "lit"})
    for source in (path, tmp_path, str(path)):
        loaded = mvc.load(tmp_path / "base", dtype, tuned=source)
        assert loaded.dtype == dtype and loaded.tuned_for == "caption" and same(loaded, tuned)
    assert read_tuned(path).options == {"tune": "lit"} and base.tuned_for is None
    assert loaded.tokenizer.vocabulary.get_vocab() == base.tokenizer.vocabulary.get_vocab()


def test_only_tuned_tensors_are_stored(tmp_path: Path, base: VideoCoCa) -> None:
    tuned = tune(base, "visual.attn_pool", "visual.proj")
    stored = load_file(write_tuned(tmp_path / "x.safetensors", tuned))
    names = {
        name for name in parameter_shapes(base.config) if name.startswith(("visual.attn", "visual.proj"))
    }
    assert stored.keys() == names and all(np.array_equal(stored[n], unnest(tuned.params)[n]) for n in names)


def test_float16(tmp_path: Path, base: VideoCoCa) -> None:
    tuned = tune_lit(base)
    path = write_tuned(tmp_path / "x.safetensors", tuned, "float16")
    assert {x.dtype for x in load_file(path).values()} == {np.dtype("float16")}
    weights = unnest(mvc.load(tmp_path / "base", tuned=path).params)
    for name, tensor in unnest(tuned.params).items():
        rounded = tensor.astype("float16").astype("float32") if name in tuned.changed else tensor
        assert np.array_equal(weights[name], rounded), name


def test_float16_does_not_overflow(tmp_path: Path, base: VideoCoCa) -> None:
    large = with_tensors(base, {POOLER: unnest(base.params)[POOLER] + np.float32(1e5)})
    with pytest.raises(ValueError, match=f"{POOLER} has values that overflow float16"):
        write_tuned(tmp_path / "x.safetensors", large, "float16")
    assert not (tmp_path / "x.safetensors").exists()


def test_new_layers(tmp_path: Path, base: VideoCoCa, tiny_model) -> None:
    """The factorized adapter and the question head are in no base."""
    config = parse_config(base.config.source | {"video_cfg": VIDEO})
    donor = unnest(tiny_model(3, "float32", video=VIDEO).params)
    new = {name: x for name, x in donor.items() if name.startswith(("factorized.", "question_head."))}
    tuned = with_tensors(base, new, config=config, tuned_for="qa")
    path = write_tuned(tmp_path / "x.safetensors", tuned)
    assert load_file(path).keys() == new.keys()
    loaded = mvc.load(tmp_path / "base", tuned=path)
    assert same(loaded, tuned) and loaded.config.answers == ("red", "blue")
    assert loaded.config.adapter == "factorized" and loaded.tuned_for == "qa"


def test_files_are_deterministic(tmp_path: Path, base: VideoCoCa) -> None:
    files = [write_tuned(tmp_path / name, tune_lit(base)).read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_metadata(tmp_path: Path, base: VideoCoCa) -> None:
    path = write_tuned(tmp_path / "x.safetensors", tune(base, POOLER, tuned_for="qa"))
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    about = json.loads(metadata[ABOUT])
    assert metadata.keys() == {ABOUT} and about["version"] == mvc.__version__ and about["task"] == "qa"
    assert about["config"] == base.config.source and str(tmp_path) not in metadata[ABOUT]
    kept = {name: x for name, x in unnest(base.params).items() if name != POOLER}
    assert about["base"] == {"name": "the checkpoint base", "sha256": kept_hash(kept)}


def test_options_are_json(tmp_path: Path, base: VideoCoCa) -> None:
    """Python's NaN is none, and could not be read again."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_tuned(tmp_path / "x", tune(base, POOLER), options={"clip": float("nan")})
    path = write_tuned(tmp_path / "é", tune(base, POOLER), options={"manifest": "ünïcode \ud800"})
    assert read_tuned(path).options == {"manifest": "ünïcode \ud800"}


def test_a_failed_write_keeps_the_old_part(tmp_path: Path, base: VideoCoCa, monkeypatch) -> None:
    path = write_tuned(tmp_path / "x.safetensors", tune(base, POOLER))
    before = path.read_bytes()

    def fail(file: Path, *_: object) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_tensors", fail)
    with pytest.raises(KeyboardInterrupt):
        write_tuned(path, tune_lit(base))
    assert path.read_bytes() == before and {x.name for x in tmp_path.iterdir()} == {"base", "x.safetensors"}


def test_tuned_twice(tmp_path: Path, base: VideoCoCa) -> None:
    """A model that was tuned, and then tuned further in fewer tensors, is restored from the first base."""
    first = write_tuned(tmp_path / "a", tune_lit(base, tuned_for="caption"))
    second = tune(mvc.load(tmp_path / "base", tuned=first), POOLER, tuned_for="qa")
    path = write_tuned(tmp_path / "b", second)
    assert load_file(path).keys() == load_file(first).keys()
    loaded = mvc.load(tmp_path / "base", tuned=path)
    assert same(loaded, second) and loaded.tuned_for == "qa" and loaded.base == "the checkpoint base"


def test_whole_checkpoint(tmp_path: Path, base: VideoCoCa) -> None:
    tuned = tune_lit(base, tuned_for="caption")
    loaded = mvc.load(write_whole(tmp_path / "whole", tuned))
    assert same(loaded, tuned) and loaded.tuned_for == "caption"
    assert loaded.tokenizer.vocabulary.get_vocab() == base.tokenizer.vocabulary.get_vocab()
    half = mvc.load(write_whole(tmp_path / "half", tuned, "float16"))
    assert not same(half, tuned) and half.config == tuned.config


def test_the_caveat_of_latents_ends_with_contrastive_tuning(base: VideoCoCa) -> None:
    base.caveat = "do not compare latents"
    assert tune(base, POOLER, tuned_for="caption").caveat == base.caveat
    assert tune(base, POOLER, tuned_for="caption+contrastive").caveat is None


def test_tensors_that_do_not_fit_are_refused(base: VideoCoCa) -> None:
    for tensors in ({POOLER: np.zeros((2, 2), "f4")}, {"new.weight": np.zeros(2, "f4")}):
        with pytest.raises(ValueError, match=next(iter(tensors))):
            with_tensors(base, tensors)


# The base ---------------------------------------------------------------------------------------------------


def other_base(folder: Path, model: VideoCoCa, name: str, change: float) -> Path:
    """Write a checkpoint that differs from `model` in one element."""
    tensor = unnest(model.params)[name].copy()
    tensor.flat[-1] = np.nextafter(tensor.flat[-1], np.float32(9)) if change == 0 else change
    return write_whole(folder, with_tensors(model, {name: tensor}))


def test_a_base_of_the_same_frozen_tensors_is_as_good(tmp_path: Path, base: VideoCoCa) -> None:
    tuned = tune_lit(base)
    path = write_tuned(tmp_path / "x", tuned)
    other = other_base(tmp_path / "other", base, "text.cls_emb", 7)
    assert same(mvc.load(other, tuned=path), tuned)


@pytest.mark.parametrize("name", ["visual.conv1.weight", "visual.transformer.resblocks.1.mlp.c_proj.bias"])
def test_one_bit_of_a_frozen_tensor_makes_another_base(tmp_path: Path, base: VideoCoCa, name: str) -> None:
    path = write_tuned(tmp_path / "x", tune_lit(base))
    other = other_base(tmp_path / "other", base, name, 0)
    with pytest.raises(ValueError) as error:
        mvc.load(other, tuned=path)
    assert str(error.value) == (
        f"{path}: tuned from the checkpoint base, and the checkpoint other has other weights: "
        "give the checkpoint base to --weights"
    )


def test_a_copy_of_the_base_in_another_dtype(tmp_path: Path, tiny_model) -> None:
    """The values count, not the dtype in which they are stored or loaded."""
    half = mvc.load(write_whole(tmp_path / "half", tiny_model(dtype="float32"), "float16"))
    whole = write_whole(tmp_path / "whole", half)
    assert {x.dtype.name for x in load_file(whole / "model.safetensors").values()} == {"float32"}
    path = write_tuned(tmp_path / "x", tune_lit(half))
    assert same(mvc.load(whole, "float64", tuned=path), mvc.load(tmp_path / "half", tuned=path))


def test_the_base_of_another_size(tmp_path: Path, base: VideoCoCa) -> None:
    path = write_tuned(tmp_path / "x", tune_lit(base))
    with pytest.raises(ValueError, match=r"tuned from the checkpoint base, and the embedded checkpoint has"):
        mvc.load(tuned=path)


def test_a_part_of_the_embedded_checkpoint(tmp_path: Path, base: VideoCoCa) -> None:
    tuned = tune_lit(mvc.load(), tuned_for="caption")
    path = write_tuned(tmp_path / "x", tuned)
    assert same(mvc.load(tuned=path), tuned) and same(mvc.load(embedded_checkpoint(), tuned=path), tuned)
    assert mvc.load(tuned=path).base == "the embedded checkpoint"
    with pytest.raises(
        ValueError, match=r"tuned from the embedded checkpoint, and the checkpoint base has .*: leave out --w"
    ):
        mvc.load(tmp_path / "base", tuned=path)


def test_a_part_of_the_hub(tmp_path: Path, base: VideoCoCa, monkeypatch) -> None:
    from minivideococa.checkpoint import hub

    monkeypatch.setattr(hub, "fetch", lambda name, progress=None: tmp_path / "base")
    downloaded = mvc.load("hf-hub:me/mine@v1")
    path = write_tuned(tmp_path / "x", tune_lit(downloaded))
    assert mvc.load("hf-hub:me/mine@v1", tuned=path).base == "hf-hub:me/mine@v1"
    with pytest.raises(
        ValueError, match=r"tuned from hf-hub:me/mine@v1, .*: give hf-hub:me/mine@v1 to --wei"
    ):
        mvc.load(tuned=path)


def test_a_base_that_has_changed(tmp_path: Path, base: VideoCoCa) -> None:
    path = write_tuned(tmp_path / "x", tune_lit(base))
    shutil.rmtree(tmp_path / "base")
    other_base(tmp_path / "base", tune(base, POOLER), "visual.conv1.weight", 0)
    with pytest.raises(
        ValueError, match="tuned from another version of the checkpoint base: give that one to --weights"
    ):
        mvc.load(tmp_path / "base", tuned=path)


# Faulty files -----------------------------------------------------------------------------------------------


def refusal(tuned: object, source: Path) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        mvc.load(source, tuned=tuned)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000
    return message


def test_missing_files(tmp_path: Path, base: VideoCoCa) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "no", tmp_path / "base").startswith(
        f"{tmp_path}/no: no such file or folder; gi"
    )
    assert refusal(tmp_path / "empty", tmp_path / "base").startswith(
        f"{tmp_path}/empty: tuned.safetensors is"
    )
    for invalid in ("", 5, "a\0b", []):
        assert refusal(invalid, tmp_path / "base").startswith("tuned is ")


@posix
def test_special_files(tmp_path: Path, base: VideoCoCa) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refusal(tmp_path / "fifo", tmp_path / "base")


def test_the_embedded_part_may_be_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "embedded_checkpoint", lambda: tmp_path)
    assert "questions.safetensors: the embedded part for questions is missing: reinstall" in refusal(
        "questions", embedded_checkpoint()
    )


def test_the_embedded_part(tmp_path: Path, monkeypatch) -> None:
    tuned = tune_lit(mvc.load(), tuned_for="qa")
    write_tuned(tmp_path / "questions.safetensors", tuned)
    monkeypatch.setattr(module, "embedded_checkpoint", lambda: tmp_path)
    assert same(mvc.load(tuned="questions"), tuned)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_cut_files(tmp_path: Path, base: VideoCoCa, size: int) -> None:
    path = write_tuned(tmp_path / "x", tune_lit(base))
    path.write_bytes(path.read_bytes()[:size])
    assert "not a safetensors file, or a damaged one" in refusal(path, tmp_path / "base")


def test_other_safetensors_files(tmp_path: Path, base: VideoCoCa) -> None:
    assert "not a tuned part: give the tuned.safetensors" in refusal(
        tmp_path / "base" / "model.safetensors", tmp_path / "base"
    )


def rewrite(path: Path, change) -> None:
    """Apply a function to a part's tensors and its JSON object; it may return another text for the latter."""
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()[ABOUT])
    tensors = load_file(path)
    text = change(tensors, about)
    save_file(tensors, path, {ABOUT: json.dumps(about) if text is None else text})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors, about: "{", "its metadata: not JSON"),
        (lambda tensors, about: "[]", "its metadata is damaged"),
        (lambda tensors, about: about.__delitem__("task"), "its metadata is damaged"),
        (lambda tensors, about: about.update(task=3), "its metadata is damaged"),
        (lambda tensors, about: about.update(base="x"), "its metadata is damaged"),
        (lambda tensors, about: about.update(base={"name": "x"}), "its metadata is damaged"),
        (lambda tensors, about: about.update(options=[]), "its metadata is damaged"),
        (lambda tensors, about: about.update(tokenizer=3), "its metadata is damaged"),
        (lambda tensors, about: about.update(tokenizer="{}"), "its tokenizer: not a tokenizer.json"),
        (lambda tensors, about: about.update(config=3), "its configuration: not a configuration"),
        (lambda tensors, about: about["config"].update(new={}), "its configuration: new is unknown"),
        (lambda tensors, about: tensors.update(a=np.zeros(2)), "unexpected: a"),
        (lambda tensors, about: tensors.update({POOLER: np.ones(2, "f4")}), f"misshapen: {POOLER} [2]"),
        (lambda tensors, about: tensors.update({POOLER: np.ones((4, 8), "i4")}), f"floating point: {POOLER}"),
        (lambda tensors, about: tensors[POOLER].fill(np.nan), f"{POOLER} has values that are not finite"),
        (lambda tensors, about: tensors[POOLER].fill(1e9), f"{POOLER} has values up to 1e+09"),
        (lambda tensors, about: tensors.__delitem__(POOLER), "tuned from another version"),
    ],
)
def test_faulty_parts(tmp_path: Path, base: VideoCoCa, change, message: str) -> None:
    path = write_tuned(tmp_path / "x", tune_lit(base))
    rewrite(path, change)
    found = refusal(path, tmp_path / "base")
    assert found.startswith(str(path)) and message in found


def test_a_lone_part_is_no_checkpoint(tmp_path: Path, base: VideoCoCa) -> None:
    (tmp_path / "run").mkdir()
    path = write_tuned(tmp_path / "run" / "tuned.safetensors", tune_lit(base))
    for source in (path, tmp_path / "run"):
        with pytest.raises(
            ValueError, match="a tuned part, .*: give it to --tuned, and its base to --weights"
        ):
            mvc.load(source)
        with pytest.raises(
            ValueError, match="a tuned part, .*: give it to --tuned, and its base as the source"
        ):
            convert(source, tmp_path / "out")


# Conversion and commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_base_and_part_become_a_checkpoint(tmp_path: Path, base: VideoCoCa, dtype: str | None) -> None:
    path = write_tuned(tmp_path / "x", tune_lit(base, tuned_for="caption"))
    folder = convert(tmp_path / "base", tmp_path / "out", dtype, tuned=path)
    loaded, expected = mvc.load(folder), mvc.load(tmp_path / "base", tuned=path)
    assert loaded.tuned_for == "caption" and loaded.tokenizer.unknown("a red circle") == []
    assert same(loaded, expected) is (dtype is None) and loaded.config == expected.config
    assert read_origin(folder / "model.safetensors")["tuned_for"] == "caption"


def test_convert_refuses_another_base(tmp_path: Path, base: VideoCoCa) -> None:
    path = write_tuned(tmp_path / "x", tune_lit(base))
    with pytest.raises(ValueError, match="tuned from the checkpoint base, and the embedded checkpoint has"):
        convert(embedded_checkpoint(), tmp_path / "out", tuned=path)
    assert not (tmp_path / "out").exists()


def command(capsys, *args: object) -> tuple[int, str, str]:
    try:
        status = cli.main([str(arg) for arg in args])
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


@pytest.mark.slow
def test_commands(tmp_path: Path, capsys) -> None:
    clip = Path(mvc.__file__).parent / "data" / "demo" / "brief.gif"
    base = mvc.load()
    swapped = unnest(base.params)["text_decoder.text_projection"][:, ::-1].copy()
    tuned = with_tensors(base, {"text_decoder.text_projection": swapped}, tuned_for="caption")
    path = write_tuned(tmp_path / "tuned.safetensors", tuned)
    expected = tuned.caption(clip)
    assert expected != base.caption(clip)
    status, out, _ = command(capsys, "caption", clip, "--tuned", path, "-q")
    assert status == 0 and out == f"{expected}\n"
    status, out, _ = command(capsys, "caption", clip, "--tuned", tmp_path, "--json", "-q")
    assert json.loads(out)["caption"] == expected and "in_world" not in out
    trace = tmp_path / "trace.safetensors"
    assert command(capsys, "trace", clip, "-o", trace, "--tuned", path, "--dtype", "float64")[0] == 0
    assert command(capsys, "verify", trace, "--tuned", path)[0] == 0
    assert command(capsys, "verify", trace)[0] == 1
    status, out, err = command(capsys, "caption", clip, "--tuned", tmp_path / "no")
    assert status == 2 and not out and err.count("\n") == 1 and "no: no such file or folder" in err
    status, _, err = command(capsys, "convert", embedded_checkpoint(), tmp_path / "out", "--tuned", path)
    assert status == 0 and same(mvc.load(tmp_path / "out"), tuned)
