"""Errors of `load` and `convert` for faulty checkpoints: one line that names the file."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from platforms import posix
from safetensors.numpy import load_file, save_file

from minivideococa.checkpoint import load
from minivideococa.checkpoint.config import MAX_SIZE, parse_config
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import embedded_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint."""
    return Path(shutil.copytree(embedded_checkpoint(), tmp_path / "checkpoint"))


def refusal(folder: Path, file: str) -> str:
    """Return the error message of `load` for a checkpoint; that of `convert` must name the file too."""
    started = time.monotonic()
    messages = []
    for action in (lambda: load(folder), lambda: convert(folder, folder.parent / "out")):
        with pytest.raises((ValueError, OSError)) as error:
            action()
        messages.append(str(error.value))
        assert "\n" not in messages[-1] and len(messages[-1]) < 1000 and str(folder / file) in messages[-1]
    assert not (folder.parent / "out").exists() and time.monotonic() - started < 5
    return messages[0]


def field(path: str, value: Any) -> Callable[[Any], None]:
    def change(config: dict) -> None:
        *sections, name = path.split(".")
        for section in sections:
            config = config.setdefault(section, {})
        config[name] = value

    return change


@pytest.mark.parametrize(
    "path, value",
    [
        ("model_cfg.vision_cfg.layers", 2147483648),
        ("model_cfg.text_cfg.layers", 2**31),
        ("model_cfg.multimodal_cfg.layers", 2**31),
        ("model_cfg.vision_cfg.layers", int("9" * 400)),
        ("model_cfg.vision_cfg.mlp_ratio", 1e308),
        ("model_cfg.text_cfg.mlp_ratio", 1e308),
        ("model_cfg.text_cfg.mlp_ratio", int("9" * 400)),
        ("model_cfg.embed_dim", int("9" * 400)),
        ("model_cfg.vision_cfg.image_size", int("9" * 400)),
        ("model_cfg.vision_cfg.width", MAX_SIZE + 1),
        ("model_cfg.text_cfg.context_length", 2**62),
        ("model_cfg.text_cfg.vocab_size", int("9" * 400)),
        ("preprocess_cfg.std", 1e-300),
        ("preprocess_cfg.std", [0.2, 1e-300, 0.2]),
        ("preprocess_cfg.std", 1e300),
        ("preprocess_cfg.mean", 1e300),
        ("preprocess_cfg.mean", [0.5, int("9" * 400), 0.5]),
        ("preprocess_cfg.mean", int("9" * 400)),
        ("model_cfg.vision_cfg.a\nb", 1),
    ],
)
def test_absurd_configurations(folder: Path, path: str, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    field(path, value)(config)
    (folder / "config.json").write_text(json.dumps(config))
    message = refusal(folder, "config.json")
    assert path.rpartition(".")[2].split("\n")[0] in message


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"model_cfg": {"embed_dim": NaN}}', "NaN is not JSON"),
        ('{"embed_dim": ' + "9" * 5000 + "}", "not JSON"),
        ("", "not JSON"),
        ("\0", "not JSON"),
        ('{"a": 1}', "not a configuration"),
    ],
)
def test_malformed_configurations(folder: Path, text: str, expected: str) -> None:
    (folder / "config.json").write_text(text)
    assert expected in refusal(folder, "config.json")


def test_byte_order_mark_is_accepted(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("\ufeff" + (folder / name).read_text())
    assert load(folder).tokenizer and load(convert(folder, folder.parent / "out")).tokenizer


def test_unusual_configurations_are_accepted() -> None:
    source = json.loads((embedded_checkpoint() / "config.json").read_text())
    for change in (
        field("model_cfg.vision_cfg.layers", 200),
        field("model_cfg.vision_cfg.mlp_ratio", 16),
        field("preprocess_cfg.std", [1, 1, 1]),
        field("preprocess_cfg.std", 1 / 255),
    ):
        change(source)
    assert parse_config(source).vision.layers == 200


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("visual.conv1.weight", np.nan, "not finite"),
        ("text.ln_final.bias", np.inf, "not finite"),
        ("text_decoder.text_projection", -np.inf, "not finite"),
        ("logit_scale", np.nan, "not finite"),
        ("logit_scale", np.inf, "not finite"),
        ("logit_scale", 1000, "too large for its exponential"),
        ("logit_scale", -1000, "too small for its exponential"),
    ],
)
def test_values_that_no_weight_has(folder: Path, dtype: str, name: str, value: float, expected: str) -> None:
    weights = {key: np.array(array, dtype) for key, array in load_file(folder / "model.safetensors").items()}
    weights[name].reshape(-1)[-1] = value
    save_file(weights, folder / "model.safetensors")
    message = refusal(folder, "model.safetensors")
    assert name in message and expected in message


@pytest.mark.parametrize(
    "zeros", ["all", "text_decoder.text_projection", "text.token_embedding.weight", "visual.ln_post.weight"]
)
def test_weights_of_zeros(folder: Path, zeros: str) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {
            name: np.asarray(array * (zeros not in ("all", name)), array.dtype)
            for name, array in weights.items()
        },
        folder / "model.safetensors",
    )
    assert "zero everywhere" in refusal(folder, "model.safetensors")


def test_zero_biases_are_accepted(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {
            name: np.asarray(array * (not name.endswith("bias")), array.dtype)
            for name, array in weights.items()
        },
        folder / "model.safetensors",
    )
    load(folder)


def beyond(tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[next(reversed(vocabulary))] = 10**6


def double(tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[second] = vocabulary[first]


def empty(tokenizer: dict) -> None:
    tokenizer["model"]["vocab"] = {}


def lacking(tokenizer: dict) -> None:
    for word in "ring", "red":
        del tokenizer["model"]["vocab"][word]


def short(tokenizer: dict) -> None:
    tokenizer["model"]["vocab"].popitem()


def panicking(tokenizer: dict) -> None:
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


def long_text(tokenizer: dict) -> None:
    tokenizer["version"] = "x" * 100_000


def shifted(tokenizer: dict) -> None:
    tokenizer["added_tokens"][1]["id"] += 7


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda tokenizer: {}, "not a tokenizer.json"),
        (beyond, "has the id 1000000, and the model has the ids 0 to"),
        (double, "have the same id"),
        (empty, "its vocabulary is empty"),
        (shifted, "is declared with the id"),
        (lacking, "2 of the model's 42 ids have no token, the first is"),
        (short, "1 of the model's 42 ids have no token, the first is 41"),
        (panicking, "not a tokenizer.json"),
        (long_text, "not a tokenizer.json"),
        (lambda tokenizer: json.loads("[" * 500 + "]" * 500), "not a tokenizer.json"),
    ],
)
def test_faulty_tokenizers(folder: Path, change: Callable[[dict], Any], expected: str) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    replaced = change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer if replaced is None else replaced))
    assert expected in refusal(folder, "tokenizer.json")


@posix
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_fifo_in_a_checkpoint_folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name}: not a regular file"):
        load(folder)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_impossible_names(name: str, tmp_path: Path) -> None:
    for action in (
        lambda: load(name),
        lambda: convert(name, tmp_path / "out"),
        lambda: convert(GOLDEN, name),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match="not the name|no such folder"):
            action()


def test_memory_is_checked_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minivideococa.resources.available_memory", lambda: 1_000_000)
    numbers = sum(array.size for array in load_file(folder / "model.safetensors").values())
    with pytest.raises(
        ValueError, match=f"{folder}: loading it in float64 needs {8 * numbers // 10**6} MB of memory, and"
    ):
        load(folder, dtype="float64")
    with pytest.raises(
        ValueError,
        match=f"model.safetensors: converting it needs {2 * numbers / 10**6:.1f} MB .*; close other",
    ):
        convert(folder, folder.parent / "out", dtype="float16")
    with pytest.raises(
        ValueError, match=f"converting it needs {4 * numbers / 10**6:.0f} MB .*use --dtype float16"
    ):
        convert(folder, folder.parent / "out", dtype="float32")


# Sources of `convert`


@pytest.mark.parametrize(
    "data, kind",
    [
        (b"GIF89a" + bytes(30), "a GIF"),
        (b'{"model_cfg": {"embed_dim": 2}}', "JSON"),
        (b"\xef\xbb\xbf[1]", "JSON"),
        (b"<!doctype html><html>", "a web page"),
        (b"\x89PNG\r\n\x1a\n", "a PNG"),
        (b"\xff\xd8\xff\xe0", "a JPEG"),
        (b"\0\0\0\x20ftypisom" + bytes(20), "a video"),
        (b"0", "neither a zip archive nor a pickle"),
    ],
)
def test_format_of_other_files_is_named(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "source").write_bytes(data)
    with pytest.raises(ValueError) as error:
        convert(tmp_path / "source", tmp_path / "out", config=GOLDEN / "coca.json")
    assert str(error.value).startswith(f"{tmp_path / 'source'}: not a readable PyTorch file: it is {kind}")


def test_damaged_pickle(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\x80\x02K\x01K\x02R.")  # calls the number 1
    with pytest.raises(ValueError, match=r"w.bin: not a readable PyTorch file: it is damaged \("):
        convert(tmp_path / "w.bin", tmp_path / "out", config=GOLDEN / "coca.json")


@posix
@pytest.mark.parametrize("source", ["fifo", "/dev/zero"])
def test_fifos_and_devices_are_refused(source: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for arguments in (
        (tmp_path / source, GOLDEN / "coca.json"),
        (GOLDEN / "coca.safetensors", tmp_path / source),
    ):
        with pytest.raises(ValueError, match="not a regular file"):
            convert(arguments[0], tmp_path / "out", config=arguments[1])


@pytest.mark.parametrize("suffix", ["bin", "safetensors", "weights"])
@pytest.mark.parametrize("file", ["coca.safetensors", "coca_legacy.bin"])
def test_format_is_detected_from_the_first_bytes(tmp_path: Path, file: str, suffix: str) -> None:
    shutil.copy(GOLDEN / file, tmp_path / f"w.{suffix}")
    convert(tmp_path / f"w.{suffix}", tmp_path / "out", config=GOLDEN / "coca.json")


@pytest.mark.parametrize("dtype", [np.array([]), np.array(["float32", "float64"]), 5, "int8"], ids=str)
def test_unsupported_dtypes(dtype: object, tmp_path: Path) -> None:
    for action in (lambda: load(dtype=dtype), lambda: convert(GOLDEN, tmp_path / "out", dtype=dtype)):
        with pytest.raises(ValueError, match="^dtype is .*: give float"):
            action()
