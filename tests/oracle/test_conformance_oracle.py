"""The conformance kit is reproducible, and open_clip's port and the project agree with it."""

import json
import sys

import make_conformance
import numpy as np
import pytest
import reference
import torch
from common import errors
from make_conformance import FOLDERS, KIT, NAMES, dumps, metadata
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

import minivideococa as mvc
from minivideococa.verify import verify, verify_file

sys.path.insert(0, str(KIT))

import open_clip_coca

INPUTS = ("frames", "pixels", "ids")
# 1.5 times the largest error of open_clip itself, relative to a tensor's largest magnitude:
# 1.1e-6 in float32, 5.0e-3 in float16, 4.4e-2 in bfloat16.
ALLOWED = {"float64": 1e-12, "float32": 2e-6, "float16": 7.5e-3, "bfloat16": 6.6e-2}
# Of the smallest models, whose few numbers cancel more often: 1.2e-6, 6.2e-3 and 0.107.
SMALLEST = {"float64": 1e-12, "float32": 2e-6, "float16": 9.3e-3, "bfloat16": 0.16}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request):
    return KIT / request.param


@pytest.fixture(scope="module")
def truth(folder):
    return load_file(folder / "truth.safetensors")


def test_every_configuration_has_a_folder_and_a_line_in_the_readme():
    folders = {path.parent for path in KIT.rglob("truth.safetensors")}
    assert folders == {KIT / name for name in FOLDERS}
    assert all(f"`{name}`" in (KIT / "README.md").read_text(encoding="utf-8") for name in NAMES)


def test_the_kit_is_below_5_megabytes():
    assert sum(path.stat().st_size for path in KIT.rglob("*") if "__pycache__" not in path.parts) < 5e6


def test_a_smallest_model_is_below_100_kilobytes():
    for name in NAMES:
        assert sum(path.stat().st_size for path in (KIT / "smallest" / name).iterdir()) < 100e3, name


def test_the_kit_is_reproducible(folder, truth):
    config, weights, made = make_conformance.make(folder.relative_to(KIT).as_posix())
    assert json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(config))
    with safe_open(folder / "truth.safetensors", "numpy") as file:
        assert file.metadata() == metadata(config)
    committed = load_file(folder / "model.safetensors")
    assert committed.keys() == weights.keys()
    for name, x in weights.items():
        assert committed[name].dtype == np.float32 and np.array_equal(committed[name], x), name
    for name in INPUTS:
        assert truth[name].dtype == made[name].dtype and np.array_equal(truth[name], made[name]), name
    assert {x.dtype.name for name, x in truth.items() if name not in INPUTS} == {"float64"}
    found = errors(made, truth)
    assert max(found.values()) < 1e-12, found


def test_files_have_the_same_bytes_every_time(tmp_path):
    tensors = {"b": np.arange(3), "a": np.ones((2, 2)).T, "c": np.zeros(5, np.uint8)}
    about = dict.fromkeys("zebra", "value")
    data = dumps(tensors, about)
    assert {dumps(tensors, about) for _ in range(20)} == {data}
    (tmp_path / "file").write_bytes(data)
    with safe_open(tmp_path / "file", "numpy") as file:
        assert file.metadata() == about
        assert all(np.array_equal(file.get_tensor(name), x) for name, x in tensors.items())


def test_each_pooler_has_a_case_of_several_frames():
    frame_counts = {}
    for name in NAMES:
        vision = json.loads((KIT / name / "config.json").read_text())["model_cfg"]["vision_cfg"]
        with safe_open(KIT / name / "truth.safetensors", "numpy") as file:
            count = file.get_slice("frames").get_shape()[0]
            frame_counts.setdefault(vision["attentional_pool"], []).append(count)
    assert frame_counts.keys() == {True, "parallel", "cascade"}
    assert all(max(counts) > 1 for counts in frame_counts.values())


def test_the_project_agrees(folder, truth):
    model = mvc.load(folder, dtype="float64")
    with mvc.trace() as trace:
        model.decode(model.encode_video(model.preprocess(truth["frames"])).tokens, truth["ids"][None])
    found = errors(trace, truth)
    assert max(found.values()) < 1e-12, found


@pytest.mark.parametrize("dtype", open_clip_coca.DTYPES)
def test_the_open_clip_port_agrees(folder, truth, dtype):
    trace = open_clip_coca.trace(folder, truth, dtype)
    assert {x.dtype for name, x in trace.items() if name not in ("frames", "ids")} == {getattr(torch, dtype)}
    found = errors({name: x.double().numpy() for name, x in trace.items()}, truth)
    allowed = SMALLEST if folder.parent.name == "smallest" else ALLOWED
    assert max(found.values()) < allowed[dtype], found


@pytest.mark.parametrize("dtype", open_clip_coca.DTYPES)
def test_verify_passes_open_clip(folder, truth, dtype, tmp_path):
    """Through a file, as users do: torch writes bfloat16, which NumPy does not have."""
    save_tensors(open_clip_coca.trace(folder, truth, dtype), tmp_path / "open_clip.safetensors")
    report = verify_file(tmp_path / "open_clip.safetensors", folder)
    assert report.dtype == dtype and len(report.rows) >= 16 and report.unknown == []
    assert [row.name for row in report.rows if row.status != "ok"] == []


def with_tanh(model):
    for module in model.modules():
        if isinstance(module, torch.nn.GELU):
            module.approximate = "tanh"


def without_ln_k(model):
    model.visual.attn_pool.ln_k = torch.nn.Identity()


def with_frames_apart(model):
    """As `batch_first` does where it is wrong: each frame becomes a sequence of its own."""
    for module in model.factorized.resblocks:
        attend = module.attention
        module.attention = lambda q_x, attend=attend, **rest: attend(q_x.swapaxes(0, 1), **rest).swapaxes(
            0, 1
        )


def with_another_eps(model):
    for module in model.text_decoder.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6


@pytest.mark.parametrize(
    "folder, plant, name, mistake",
    [
        ("as_released", with_tanh, "vision.block.0", "tanh_gelu"),
        ("as_released", without_ln_k, "pool.attended", "no_ln_k"),
        ("as_released", with_another_eps, "decoder.block.0.self", "layer_norm_eps"),
        ("factorized", with_frames_apart, "factorized.block.0", "frames_apart"),
    ],
)
def test_verify_names_a_mistake_in_open_clip(monkeypatch, folder, plant, name, mistake):
    """The mistakes are made in open_clip's modules, since its configuration cannot express them."""
    folder, built = KIT / folder, reference.video_coca

    def planted(model_cfg, video_cfg):
        model = built(model_cfg, video_cfg)
        plant(model)
        if plant is without_ln_k:  # its weights have no module
            model.load_state_dict = lambda tensors, assign: torch.nn.Module.load_state_dict(
                model, {key: x for key, x in tensors.items() if ".ln_k." not in key}, assign=assign
            )
        return model

    monkeypatch.setattr(reference, "video_coca", planted)
    trace = open_clip_coca.trace(folder, load_file(folder / "truth.safetensors"), "float64")
    report = verify(mvc.load(folder, dtype="float64"), {key: x.numpy() for key, x in trace.items()})
    assert (report.first_divergence.name, report.mistake.name) == (name, mistake)


def test_the_port_accepts_any_subset_of_inputs(folder, truth):
    def names(*inputs):
        trace = open_clip_coca.trace(folder, {name: truth[name] for name in inputs}, "float64")
        found = errors({name: x.numpy() for name, x in trace.items()}, {name: truth[name] for name in trace})
        assert max(found.values()) < 1e-12, found
        return set(trace)

    video = {name for name in truth if name.startswith(("pixels", "vision", "pool", "factorized"))}
    text = {name for name in truth if name.startswith(("ids", "text"))}
    assert names("pixels") == video
    assert names("frames") == video | {"frames"}
    assert names("ids") == text
    assert names("pixels", "ids") == truth.keys() - {"frames"}
    with pytest.raises(ValueError, match="no inputs"):
        names()


@pytest.mark.parametrize("dtype", open_clip_coca.DTYPES)
def test_the_command_line_of_the_port(tmp_path, monkeypatch, dtype):
    folder = KIT / "as_released"
    run(monkeypatch, folder, folder / "truth.safetensors", tmp_path / "out.safetensors", "--dtype", dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    written = load_tensors(tmp_path / "out.safetensors")
    trace = open_clip_coca.trace(folder, load_file(folder / "truth.safetensors"), dtype)
    assert written.keys() == trace.keys()
    assert all(written[name].dtype == x.dtype and torch.equal(written[name], x) for name, x in trace.items())
    # its output can serve as input
    run(monkeypatch, folder, tmp_path / "out.safetensors", tmp_path / "again.safetensors", "--dtype", dtype)
    again = load_tensors(tmp_path / "again.safetensors")
    assert all(torch.equal(again[name], x) for name, x in written.items())


def test_errors_of_the_port_are_one_line(tmp_path, monkeypatch, capsys):
    save_file({"x": np.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no such thing")
    good = KIT / "as_released"
    for checkpoint, inputs in (
        (good, tmp_path / "other.safetensors"),
        (good, tmp_path / "text.safetensors"),
        (good, tmp_path / "absent"),
        (tmp_path, good / "truth.safetensors"),
    ):
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, checkpoint, inputs, tmp_path / "out.safetensors")
        assert end.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["open_clip_coca.py", *map(str, args)])
    open_clip_coca.main()
