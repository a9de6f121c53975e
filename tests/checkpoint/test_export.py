"""`convert --to open_clip`. tests/oracle/test_to_open_clip_oracle.py loads its output with open_clip."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import minivideococa as mvc
from minivideococa import cli
from minivideococa.checkpoint import with_tensors
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import read_origin
from minivideococa.checkpoint.table import unnest
from minivideococa.checkpoint.tuned import read_tuned, write_tuned, write_whole

FILES = ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"]
FACTORIZED = {"adapter": "factorized", "factorized": {"layers": 2, "heads": 2}, "answers": ["red", "blue"]}


def identical(a, b):
    """Whether two dicts of arrays are the same, bit for bit, with dtypes and shapes."""
    return a.keys() == b.keys() and all(
        (a[n].dtype, a[n].shape, a[n].tobytes()) == (b[n].dtype, b[n].shape, b[n].tobytes()) for n in a
    )


def export(folder, tmp_path, **options):
    """Return the exported folder and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = convert(folder, tmp_path / "out", to="open_clip", **options)
    return out, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path, tiny_model, tokenizer, dtype):
    folder = write_whole(tmp_path / "ours", tiny_model(dtype="float32", tokenizer=tokenizer), dtype)
    out, messages = export(folder, tmp_path)
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert [message.partition(": ")[2] for message in messages] == [
        "open_clip's tokenizer is CLIP's: tokenize with tokenizer.json"
    ]
    before = load_file(folder / "model.safetensors")
    assert identical(load_file(out / "open_clip_model.safetensors"), before)
    back = convert(out, tmp_path / "back")
    assert identical(load_file(back / "model.safetensors"), before)
    assert mvc.load(back).config == mvc.load(folder).config
    assert (back / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_the_configuration_is_open_clips(tmp_path, tiny_model):
    model = tiny_model(dtype="float32", text={"correct_cls_mask": True}, video=FACTORIZED)
    out, messages = export(write_whole(tmp_path / "ours", model), tmp_path)
    source = json.loads((out / "open_clip_config.json").read_text())
    assert source.keys() == {"model_cfg", "preprocess_cfg"}
    assert source["model_cfg"]["custom_text"] is True
    assert "correct_cls_mask" not in source["model_cfg"]["text_cfg"]
    assert source["model_cfg"]["vision_cfg"]["output_tokens"] is True
    assert any("set model.text.correct_cls_mask = True in open_clip" in message for message in messages)
    assert model.config.source["video_cfg"] == FACTORIZED  # the model's own is not changed


def test_new_layers_are_stored_apart(tmp_path, tiny_model, tokenizer):
    model = tiny_model(dtype="float32", tokenizer=tokenizer, video=FACTORIZED)
    folder = write_whole(tmp_path / "ours", model)
    out, messages = export(folder, tmp_path)
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "new_layers.safetensors"])
    before, new = load_file(folder / "model.safetensors"), load_file(out / "new_layers.safetensors")
    added = {name: x for name, x in before.items() if name.startswith(("factorized.", "question_head."))}
    assert len(added) > 10 and identical(new, added)
    assert not added.keys() & load_file(out / "open_clip_model.safetensors").keys()
    assert any("open_clip has no factorized layers and no question head: stored apart" in x for x in messages)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the new layers are not mistaken for other weights
        warnings.filterwarnings("ignore", ".*new_layers.safetensors is left out: give it to --tuned")
        plain = convert(out, tmp_path / "plain")
    with pytest.warns(UserWarning, match="new_layers.safetensors is left out"):
        convert(out, tmp_path / "again")
    assert mvc.load(plain).config.factorized is None
    back = convert(out, tmp_path / "back", tuned=out / "new_layers.safetensors")
    assert identical(load_file(back / "model.safetensors"), before)
    assert mvc.load(back).config == mvc.load(folder).config
    over = mvc.load(plain, tuned=out / "new_layers.safetensors")
    assert identical(unnest(over.params), unnest(mvc.load(folder).params))


@pytest.mark.parametrize("changed", [{"video": {"adapter": "mean"}}, {"text": {"correct_cls_mask": True}}])
def test_what_only_the_configuration_says_comes_back(tmp_path, tiny_model, changed):
    folder = write_whole(tmp_path / "ours", tiny_model(dtype="float32", **changed))
    out, _ = export(folder, tmp_path)
    back = convert(out, tmp_path / "back", tuned=out / "new_layers.safetensors")
    config = mvc.load(folder).config
    assert mvc.load(back).config == config
    with pytest.warns(UserWarning, match="new_layers.safetensors is left out"):
        assert mvc.load(convert(out, tmp_path / "plain")).config != config


def test_a_tuned_part_is_laid_over_first(tmp_path, tiny_model, tokenizer):
    folder = write_whole(tmp_path / "ours", tiny_model(dtype="float32", tokenizer=tokenizer))
    base = mvc.load(folder)
    tuned = with_tensors(base, {"visual.proj": -unnest(base.params)["visual.proj"]}, tuned_for="caption")
    part = write_tuned(tmp_path / "x", tuned)
    out, _ = export(folder, tmp_path, tuned=part)
    assert identical(load_file(out / "open_clip_model.safetensors"), unnest(tuned.params))
    assert read_origin(out / "open_clip_model.safetensors")["tuned_for"] == "caption"
    assert mvc.load(convert(out, tmp_path / "back")).tuned_for == "caption"


def test_float16(tmp_path, tiny_model):
    out, _ = export(
        write_whole(tmp_path / "ours", tiny_model(dtype="float32", video=FACTORIZED)),
        tmp_path,
        dtype="float16",
    )
    for name in ("open_clip_model.safetensors", "new_layers.safetensors"):
        assert {x.dtype for x in load_file(out / name).values()} == {np.dtype("float16")}
    back = convert(out, tmp_path / "back", tuned=out / "new_layers.safetensors")
    assert mvc.load(back).config.answers == ("red", "blue")


@pytest.mark.parametrize("nonscalar", [False, True])
@pytest.mark.parametrize("stored", [(), (1,)])
def test_the_shape_of_logit_scale_is_the_configurations(tmp_path, tiny_model, nonscalar, stored):
    model = tiny_model(dtype="float32", nonscalar_logit_scale=nonscalar)
    folder = write_whole(tmp_path / "ours", model)
    tensors = load_file(folder / "model.safetensors")
    tensors["logit_scale"] = tensors["logit_scale"].reshape(stored)
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors")
    out, _ = export(folder, tmp_path)
    shape = load_file(out / "open_clip_model.safetensors")["logit_scale"].shape
    assert shape == ((1,) if nonscalar else ())


def test_from_the_hub(tmp_path, tiny_model, monkeypatch):
    from minivideococa.checkpoint import hub

    folder = write_whole(tmp_path / "ours", tiny_model(dtype="float32"))
    monkeypatch.setattr(hub, "fetch", lambda name, progress=None: folder)
    base = mvc.load("hf-hub:me/mine")
    part = write_tuned(
        tmp_path / "x", with_tensors(base, {"visual.proj": -unnest(base.params)["visual.proj"]})
    )
    assert read_tuned(part).base == "hf-hub:me/mine"
    out, _ = export("hf-hub:me/mine", tmp_path, tuned=part)
    assert (out / "open_clip_model.safetensors").is_file()
    with pytest.raises(ValueError, match="convert takes local files"):
        convert("hf-hub:me/mine", tmp_path / "other")


def test_nothing_is_left_behind(tmp_path, tiny_model, monkeypatch):
    from minivideococa.checkpoint import export as module

    folder = write_whole(tmp_path / "ours", tiny_model(dtype="float32", video=FACTORIZED))
    monkeypatch.setattr(module, "save_part", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "out", to="open_clip")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="not empty"):
        convert(folder, tmp_path / "full", to="open_clip")


def test_command(tmp_path, tiny_model, capsys):
    folder = write_whole(tmp_path / "ours", tiny_model(dtype="float32"))
    assert cli.main(["convert", str(folder), str(tmp_path / "out"), "--to", "open_clip"]) == 0
    assert f'use it with open_clip.create_model("local-dir:{tmp_path}/out")' in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", str(folder), str(tmp_path / "x"), "--to", "onnx"])
    assert ended.value.code == 2 and not Path(tmp_path / "x").exists()
    with pytest.raises(ValueError, match="to is 'onnx': give minivideococa, open_clip"):
        convert(folder, tmp_path / "x", to="onnx")
