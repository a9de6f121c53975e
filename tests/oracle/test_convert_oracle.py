"""Against torch and open_clip: names, shapes and defaults, and files as torch.save writes them."""

import copy
import dataclasses
import json
import os
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg
from safetensors.torch import load_file, save_file

from minivideococa.checkpoint.config import DECODER, PREPROCESS, TEXT, VISION, parse_config
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import read_checkpoint
from minivideococa.checkpoint.table import parameter_shapes
from minivideococa.checkpoint.unpickler import read_pickle

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

import make_torch_files  # noqa: E402
from test_unpickler import program, tensor, write_legacy, write_zip  # noqa: E402

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 17,
        "patch_size": 5,
        "width": 24,
        "layers": 2,
        "head_width": 8,
        "mlp_ratio": 2.3,
        "attentional_pool": True,
        "attn_pooler_queries": 5,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 7,
        "vocab_size": 30,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "mlp_ratio": 3,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 9,
        "width": 16,
        "layers": 3,
        "heads": 4,
        "mlp_ratio": 9,
        "vocab_size": 8,
    },
}


def small(vision: dict | None = None, **model: object) -> dict:
    source = copy.deepcopy(SMALL) | model
    source["vision_cfg"] |= vision or {}
    return source


FORMS = {
    "true": small(),
    "true, one width": small({"width": 16}),
    "parallel": small({"width": 16, "attentional_pool": "parallel"}),
    "cascade": small({"width": 16, "attentional_pool": "cascade"}),
    "no ln_pre": small({"no_ln_pre": True}),
    "sin_cos_2d": small({"pos_embed_type": "sin_cos_2d"}),
    "logit scale [1]": small(nonscalar_logit_scale=True),
    "final_ln_after_pool": small({"final_ln_after_pool": True, "patch_dropout": 0.5}),
}


def random_coca(source: dict) -> CoCa:
    model = CoCa(**{name: value for name, value in source.items() if name != "custom_text"})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def shapes(model: CoCa) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "coca_ViT-L-14"])
def test_table_of_the_released_models(name: str) -> None:
    source = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = CoCa(**{field: value for field, value in source.items() if field != "custom_text"})
    assert parameter_shapes(parse_config(source)) == shapes(model)


@pytest.mark.parametrize("name", ["coca_base", "coca_roberta-ViT-B-32"])
def test_other_models_are_refused(name: str) -> None:
    """Neither pools attentionally; the first does not even run in open_clip."""
    with pytest.raises(ValueError, match="vision_cfg.attentional_pool"):
        parse_config(open_clip.get_model_config(name))


@pytest.mark.parametrize("form", FORMS)
def test_table_of_every_form(form: str) -> None:
    expected = shapes(random_coca(FORMS[form]))
    if form == "logit scale [1]":
        assert expected.pop("logit_scale") == (1,)
        expected["logit_scale"] = ()
    assert parameter_shapes(parse_config(FORMS[form])) == expected


@pytest.mark.parametrize(
    "section, rules",
    [(CLIPVisionCfg, VISION), (CLIPTextCfg, TEXT), (MultimodalCfg, DECODER), (PreprocessCfg, PREPROCESS)],
)
def test_fields_and_defaults(section: type, rules: dict) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(section)}
    assert rules.keys() - fields.keys() <= {"correct_cls_mask"} and fields.keys() <= rules.keys()
    for name, rule in rules.items():
        if rule.default is not None:
            assert rule.default == fields.get(name, False), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", ["zip", "legacy", "safetensors"])
def test_converted_tensors_are_the_same(form: str, file: str, tmp_path: Path) -> None:
    model = random_coca(FORMS[form])
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "open_clip_config.json").write_text(json.dumps({"model_cfg": FORMS[form]}))
    if file == "safetensors":
        save_file(model.state_dict(), tmp_path / "hub" / "open_clip_model.safetensors")
    else:
        torch.save(
            model.state_dict(),
            tmp_path / "hub" / "open_clip_pytorch_model.bin",
            _use_new_zipfile_serialization=file == "zip",
        )
    dest = convert(tmp_path / "hub", tmp_path / "out")
    written = load_file(dest / "model.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())
    model.load_state_dict(written, strict=True)
    _, tensors = read_checkpoint(dest, "float64")
    assert all(np.array_equal(tensors[name], value.double()) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("file", ["w.bin", "w.safetensors"])
def test_other_dtypes(dtype: torch.dtype, file: str, tmp_path: Path) -> None:
    state = {name: value.to(dtype) for name, value in random_coca(SMALL).state_dict().items()}
    save_file(state, tmp_path / file) if file == "w.safetensors" else torch.save(state, tmp_path / file)
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    kept = torch.float32 if dtype == torch.bfloat16 else dtype
    for requested, expected in (None, kept), ("float16", torch.float16):
        dest = convert(tmp_path / file, tmp_path / str(requested), requested, tmp_path / "config.json")
        written = load_file(dest / "model.safetensors")
        assert all(
            written[name].dtype == expected and torch.equal(written[name], value.to(expected))
            for name, value in state.items()
        )


@pytest.mark.parametrize("zipped", [True, False])
def test_training_checkpoint(zipped: bool, tmp_path: Path) -> None:
    """As open_clip's training writes it: names of a distributed run, NumPy scalars, a scaler."""
    model = random_coca(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * (1 + np.cos(np.pi * 0.3)) * 1e-3
    assert isinstance(optimizer.param_groups[0]["lr"], np.floating)
    distributed = OrderedDict((f"module.{name}", value) for name, value in model.state_dict().items())
    torch.save(
        {
            "epoch": 5,
            "name": "run",
            "state_dict": distributed,
            "optimizer": optimizer.state_dict(),
            "scaler": torch.amp.GradScaler("cpu").state_dict(),
        },
        tmp_path / "epoch_5.pt",
        _use_new_zipfile_serialization=zipped,
    )
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    dest = convert(tmp_path / "epoch_5.pt", tmp_path / "out", config=tmp_path / "config.json")
    written = load_file(dest / "model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_around_the_weights(zipped: bool, tmp_path: Path) -> None:
    """A state dict may come with parameters, sizes, devices and dtypes."""
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save(
        {
            "a": torch.nn.Parameter(weight.T),
            "size": weight.shape,
            "device": weight.device,
            "dtypes": [torch.float32, torch.bfloat16],
            "number": np.float32(1),
            "rest": (1, None, b"y"),
        },
        tmp_path / "x.pt",
        _use_new_zipfile_serialization=zipped,
    )
    assert np.array_equal(read_pickle(tmp_path / "x.pt")["a"].read(), weight.T)


class Evil:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle(zipped: bool, tmp_path: Path) -> None:
    state = random_coca(SMALL).state_dict() | {"evil": Evil(tmp_path / "called")}
    torch.save(state, tmp_path / "evil.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"evil.bin: .* it asks for {os.name}.mkdir, which no state dict"):
        read_pickle(tmp_path / "evil.bin")
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "storage, dtype", [("FloatStorage", "f4"), ("HalfStorage", "f2"), ("LongStorage", "i8")]
)
@pytest.mark.parametrize("form", ["little", "big", "legacy"])
def test_torch_reads_the_files_made_by_hand(storage: str, dtype: str, form: str, tmp_path: Path) -> None:
    numbers = np.arange(12).astype(dtype)
    raw = numbers.astype(numbers.dtype.newbyteorder(">" if form == "big" else "<")).tobytes()
    size, stride, offset, path = (2, 3), (1, 3), 2, tmp_path / "x.pt"
    legacy = form == "legacy"
    data = program({"a": tensor("0", storage, 12, offset, size, stride, *([None] if legacy else []))})
    write_legacy(path, data, {"0": (12, raw)}) if legacy else write_zip(path, data, {"0": raw}, form)
    expected = torch.from_numpy(numbers).as_strided(size, stride, offset)
    assert torch.equal(torch.load(path, weights_only=True)["a"], expected)
    assert np.array_equal(read_pickle(path)["a"].read(), expected)


def test_golden_files_are_what_torch_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = make_torch_files.GOLDEN
    monkeypatch.setattr(make_torch_files, "GOLDEN", tmp_path)
    make_torch_files.main()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in committed.iterdir()}
    assert (tmp_path / "coca.json").read_text() == (committed / "coca.json").read_text()
    for path in tmp_path.glob("*.safetensors"):
        new, old = load_file(path), load_file(committed / path.name)
        assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in new)
    for path in (*tmp_path.glob("*.pt"), *tmp_path.glob("*.bin")):
        new, old = (torch.load(folder / path.name, weights_only=False) for folder in (tmp_path, committed))
        new, old = new.get("state_dict", new), old.get("state_dict", old)
        assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in new)
