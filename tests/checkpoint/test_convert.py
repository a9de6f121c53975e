"""Conversion of open_clip's files: the same values, or one line and nothing written."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from platforms import posix
from safetensors.numpy import load_file, save_file
from test_tokenizer import word_level

from minivideococa.checkpoint import load
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import read_checkpoint
from minivideococa.checkpoint.table import parameter_shapes

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"
CONFIG = GOLDEN / "coca.json"
SOURCE = json.loads(CONFIG.read_text())
WEIGHTS = load_file(GOLDEN / "coca.safetensors")  # written by safetensors.torch
HUB_CONFIG = {"model_cfg": SOURCE, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(HUB_CONFIG))
    shutil.copy(GOLDEN / "coca_legacy.bin", folder / "open_clip_pytorch_model.bin")
    return folder


def refusal(*arguments: object, kind: type = ValueError, **keywords: object) -> str:
    with pytest.raises(kind) as error:
        convert(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def equal(folder: Path, expected: dict[str, np.ndarray]) -> bool:
    written = load_file(folder / "model.safetensors")
    return written.keys() == expected.keys() and all(
        written[name].dtype == array.dtype and np.array_equal(written[name], array)
        for name, array in expected.items()
    )


def test_hub_folder(hub_folder: Path, tmp_path: Path) -> None:
    dest = convert(hub_folder, tmp_path / "out")
    assert dest == tmp_path / "out" and equal(dest, WEIGHTS)
    assert json.loads((dest / "config.json").read_text()) == HUB_CONFIG
    assert sorted(path.name for path in dest.iterdir()) == ["config.json", "model.safetensors"]
    config, tensors = read_checkpoint(dest)
    assert config.preprocess.mean == (0.5, 0.5, 0.5)
    assert tensors.keys() == WEIGHTS.keys()


@pytest.mark.filterwarnings("ignore:.*using the weights in")
def test_safetensors_come_before_the_pickle(hub_folder: Path, tmp_path: Path) -> None:
    other = {name: np.asarray(array + 1) for name, array in WEIGHTS.items()}
    save_file(other, hub_folder / "open_clip_model.safetensors")
    assert equal(convert(hub_folder, tmp_path / "out"), other)


@pytest.mark.parametrize("file", ["coca_legacy.bin", "coca.safetensors", "epoch_3.pt"])
def test_weights_file_with_a_configuration(file: str, tmp_path: Path) -> None:
    dest = convert(GOLDEN / file, tmp_path / "out", config=CONFIG)
    assert equal(dest, WEIGHTS)
    assert json.loads((dest / "config.json").read_text()) == {"model_cfg": SOURCE, "preprocess_cfg": {}}
    assert "--config" in refusal(GOLDEN / file, tmp_path / "another")


def test_checkpoint_folder_as_source(hub_folder: Path, tmp_path: Path) -> None:
    first = convert(hub_folder, tmp_path / "first")
    word_level(first / "tokenizer.json", ["its"])
    text = (first / "tokenizer.json").read_text()
    second = convert(first, tmp_path / "second", dtype="float16")
    assert equal(second, {name: array.astype("f2") for name, array in WEIGHTS.items()})
    assert (second / "tokenizer.json").read_text() == text
    assert (second / "config.json").read_text() == (first / "config.json").read_text()


def test_progress_counts_tensors(hub_folder: Path, tmp_path: Path) -> None:
    stages, counts = [], []

    @contextmanager
    def progress(total: int, unit: str) -> Iterator[Callable[[int], object]]:
        stages.append((total, unit))
        yield counts.append

    convert(hub_folder, tmp_path / "out", progress=progress)
    assert stages == [(len(WEIGHTS), "tensors")] and counts == [1] * len(WEIGHTS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_are_removed(prefix: str, tmp_path: Path) -> None:
    save_file({prefix + name: array for name, array in WEIGHTS.items()}, tmp_path / "w.safetensors")
    assert equal(convert(tmp_path / "w.safetensors", tmp_path / "out", config=CONFIG), WEIGHTS)


def test_masks_of_older_versions_are_dropped(tmp_path: Path) -> None:
    masks = {"text.attn_mask": np.zeros((4, 4), "f4"), "text_decoder.attn_mask": np.zeros((3, 3), "f4")}
    save_file(WEIGHTS | masks, tmp_path / "w.safetensors")
    assert equal(convert(tmp_path / "w.safetensors", tmp_path / "out", config=CONFIG), WEIGHTS)


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
def test_dtypes(stored: str, dtype: str | None, tmp_path: Path) -> None:
    tensors = {name: array.astype(stored) for name, array in WEIGHTS.items()}
    save_file(tensors, tmp_path / "w.safetensors")
    dest = convert(tmp_path / "w.safetensors", tmp_path / "out", dtype, CONFIG)
    assert equal(dest, {name: array.astype(dtype or stored) for name, array in tensors.items()})


@pytest.mark.parametrize(
    "dtype, number, expected",
    [
        ("float16", 65504, ""),
        ("float16", 65520, "overflow float16"),
        ("float16", -9e5, "overflow float16"),
        (None, 9e5, ""),
        (None, np.nan, "not finite"),
        (None, 1e30, "up to 1e+30, and no weight exceeds 1e+06"),
        ("float16", 1e-9, "underflow to zero in float16"),
        ("float32", np.inf, "not finite"),
        ("float16", np.nan, "not finite"),
    ],
)
def test_values_out_of_range_are_refused(dtype, number: float, expected: str, tmp_path: Path) -> None:
    tensors = WEIGHTS | {"text.ln_final.bias": np.array([0, number], "f4")}
    save_file(tensors, tmp_path / "w.safetensors")
    arguments = (tmp_path / "w.safetensors", tmp_path / "out", dtype, CONFIG)
    if not expected:
        convert(*arguments)
    else:
        message = refusal(*arguments)
        assert "text.ln_final.bias" in message and expected in message
        assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.fixture
def clip_sized(tmp_path: Path) -> Path:
    """A folder whose vocabulary has CLIP's 49408 ids."""
    source = json.loads(CONFIG.read_text())
    source["text_cfg"]["vocab_size"] = 49408
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps(source))
    (tmp_path / "clip" / "tokenizer.json").write_text("another")
    save_file(
        {name: np.full(shape, 0.1, "f4") for name, shape in parameter_shapes(parse_config(source)).items()},
        tmp_path / "clip" / "model.safetensors",
    )
    return tmp_path / "clip"


def test_clips_vocabulary_gets_clips_tokenizer(clip_sized: Path, tmp_path: Path) -> None:
    import tokenizers

    dest = convert(clip_sized, tmp_path / "out")
    tokenizer = tokenizers.Tokenizer.from_file(str(dest / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 49408 and tokenizer.token_to_id("<end_of_text>") == 49407


def test_load(hub_folder: Path, clip_sized: Path, tmp_path: Path) -> None:
    without = load(convert(hub_folder, tmp_path / "a"), dtype="float64")
    assert without.config.embed_dim == 2 and without.tokenizer is None
    assert without.params["text"]["transformer"]["resblocks"][0]["ln_1"]["bias"].dtype == np.float64
    model = load(str(convert(clip_sized, tmp_path / "b")))
    assert model.params["logit_scale"].shape == () and model.params["logit_scale"].dtype == np.float32
    tokenizer = model.tokenizer
    assert (tokenizer.context_length, tokenizer.pad_id, tokenizer.clean) == (3, 0, "lower")
    with pytest.raises(ValueError, match="float32 or float64"):
        load(tmp_path / "a", dtype="float16")
    with pytest.raises(FileNotFoundError, match="minivideococa convert"):
        load(hub_folder)


@pytest.mark.filterwarnings("ignore:.*using the weights in")
def test_all_mismatches_are_in_one_message(hub_folder: Path, tmp_path: Path) -> None:
    less = dict(WEIGHTS)
    del less["visual.proj"], less["text.cls_emb"]
    save_file(
        less | {"logit_bias": np.zeros(1, "f4"), "text.ln_final.weight": np.zeros(3, "f4")},
        hub_folder / "open_clip_model.safetensors",
    )
    message = refusal(hub_folder, tmp_path / "out")
    for expected in (
        "open_clip_model.safetensors",
        "missing: visual.proj, text.cls_emb",
        "unexpected: logit_bias",
        "misshapen: text.ln_final.weight [3], not [2]",
    ):
        assert expected in message
    assert not (tmp_path / "out").exists()


def test_existing_files_are_not_overwritten(hub_folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    dest.mkdir()
    (dest / "mine").touch()
    assert "exists and is not empty" in refusal(hub_folder, dest)
    assert [path.name for path in dest.iterdir()] == ["mine"]


def test_destination_is_checked_before_the_weights_are_read(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minivideococa.checkpoint.convert.read_weights", None)
    (tmp_path / "file").touch()
    assert refusal(hub_folder, tmp_path / "file").startswith(f"{tmp_path / 'file'}: exists and is a file: ")
    for place in (tmp_path / "file" / "out", tmp_path / "file" / "a" / "out"):
        message = refusal(hub_folder, place, kind=PermissionError)
        assert message == f"{place}: cannot be written; give another place"


@posix
def test_source_is_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    message = refusal(tmp_path / "loop", tmp_path / "out", kind=FileNotFoundError)
    assert (
        message
        == f"{tmp_path / 'loop'}: Too many levels of symbolic links; give a folder, or a file of weights"
    )


def test_interrupted(hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(hub_folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_wrong_sources(hub_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no such file or folder" in refusal(tmp_path / "absent", out, kind=FileNotFoundError)
    assert "float16 or float32" in refusal(hub_folder, out, "bfloat16")
    assert "neither a file nor the name" in refusal(
        GOLDEN / "coca.safetensors", out, config=tmp_path / "no.json", kind=FileNotFoundError
    )
    (tmp_path / "empty").mkdir()
    assert "no weights: neither open_clip_model.safetensors, " in refusal(
        tmp_path / "empty", out, kind=FileNotFoundError
    )
    (hub_folder / "open_clip_config.json").write_text("{")
    assert "open_clip_config.json: not JSON" in refusal(hub_folder, out)
    (hub_folder / "open_clip_config.json").unlink()
    assert "it has none of open_clip_config.json, config.json" in refusal(
        hub_folder, out, kind=FileNotFoundError
    )
    assert not out.exists()


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"version https://git-lfs.example/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"plain text", "not a readable PyTorch file"),
        (b"", "not a readable PyTorch file"),
    ],
)
def test_other_files_are_refused(data: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(data)
    message = refusal(tmp_path / "w.bin", tmp_path / "out", config=CONFIG)
    assert expected in message and str(tmp_path / "w.bin") in message


@pytest.mark.parametrize(
    "pickled, expected",
    [
        (b"N", "holds no state dict"),
        (b"}", "holds no state dict"),
        (b"}X\1\0\0\0aI1\ns", "'a' is not a tensor"),
        (b"}X\x0a\0\0\0state_dict]s", "holds no state dict"),
        (b"cos\nsystem\n", "asks for os.system"),
    ],
)
def test_other_pickles_are_refused(pickled: bytes, expected: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + pickled + b".")
    assert expected in refusal(tmp_path / "w.pt", tmp_path / "out", config=CONFIG)
    assert not (tmp_path / "out").exists()
