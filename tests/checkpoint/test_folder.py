"""Writing and reading a checkpoint folder, and the errors for other folders."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from platforms import posix

from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.folder import (
    embedded_checkpoint,
    open_safetensors,
    read_checkpoint,
    widen_bfloat16,
    write_checkpoint,
)
from minivideococa.checkpoint.table import parameter_shapes
from minivideococa.model.config import Config

SOURCE = json.loads((Path(__file__).parents[1] / "golden" / "torch" / "coca.json").read_text())
CONFIG = parse_config(SOURCE)


def random_tensors(config: Config = CONFIG, dtype: str = "float32") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: np.asarray(generator.standard_normal(shape), dtype)
        for name, shape in parameter_shapes(config).items()
    }


def safetensors_bytes(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """The format written by hand: (dtype, shape, little-endian data) by name."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_written_and_read(tmp_path: Path, stored: str, dtype: str) -> None:
    tensors = random_tensors(dtype=stored)
    folder = write_checkpoint(tmp_path / "deep" / "new", CONFIG, tensors, '{"a": "é"}')
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "tokenizer.json").read_text(encoding="utf-8") == '{"a": "é"}'
    assert json.loads((folder / "config.json").read_text()) == {"model_cfg": SOURCE, "preprocess_cfg": {}}
    config, read = read_checkpoint(folder, dtype)
    assert config == CONFIG and read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == dtype and np.array_equal(read[name], tensor.astype(dtype))


FINETUNED = parse_config(
    {
        "model_cfg": SOURCE,
        "video_cfg": {
            "adapter": "factorized",
            "factorized": {"layers": 2, "heads": 1, "positions": 8},
            "answers": ["red", "zwölf"],
        },
    }
)


def test_a_finetuned_model_is_written_and_read(tmp_path: Path) -> None:
    tensors = random_tensors(FINETUNED)
    config, read = read_checkpoint(write_checkpoint(tmp_path / "new", FINETUNED, tensors))
    assert config == FINETUNED and config.source == FINETUNED.source
    assert read.keys() == tensors.keys() > random_tensors().keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


def test_new_layers_may_be_at_zero(tmp_path: Path) -> None:
    """As before training; a weight of CoCa may not."""
    tensors = random_tensors(FINETUNED)
    new = {name: 0 * x for name, x in tensors.items() if name.startswith(("factorized.", "question_head."))}
    assert read_checkpoint(write_checkpoint(tmp_path / "new", FINETUNED, tensors | new))[0] == FINETUNED
    coca = {"visual.proj": 0 * tensors["visual.proj"]}
    with pytest.raises(ValueError, match="visual.proj is zero everywhere"):
        read_checkpoint(write_checkpoint(tmp_path / "zero", FINETUNED, tensors | coca))


def test_tensors_must_fit_the_video_cfg(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing: factorized\.positional_embedding, factorized\.resblocks"):
        read_checkpoint(write_checkpoint(tmp_path / "less", FINETUNED, random_tensors()))
    with pytest.raises(ValueError, match=r"unexpected: .*factorized\.resblocks"):
        read_checkpoint(write_checkpoint(tmp_path / "more", CONFIG, random_tensors(FINETUNED)))


def test_weights_are_a_safetensors_file(tmp_path: Path) -> None:
    tensors = random_tensors() | {"visual.proj": np.arange(4, dtype="f4").reshape(2, 2).T}
    folder = write_checkpoint(tmp_path / "new", CONFIG, tensors)
    assert not (folder / "tokenizer.json").exists()
    read = safetensors.numpy.load_file(folder / "model.safetensors")
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


@posix
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "new", CONFIG, random_tensors(), "{}")
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    before = os.umask(0)
    os.umask(before)
    assert modes == {0o666 & ~before} or os.name == "nt"


def test_bfloat16(tmp_path: Path) -> None:
    floats = np.array([1, -2.5, 3.3895e38, 1e-40, np.inf, 0], np.float32)
    bits = (floats.view(np.uint32) >> 16).astype("<u2")  # cut, not rounded
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        safetensors_bytes(
            {
                "first": ("F32", (1,), b"\0" * 4),
                "b": ("BF16", (2, 3), bits.tobytes()),
                "s": ("BF16", (), bits[:1].tobytes()),
                "last": ("F16", (1,), b"\0\x3c"),
            }
        )
    )
    stored = open_safetensors(path)
    assert {name: (t.shape, t.dtype) for name, t in stored.items()} == {
        "first": ((1,), "float32"),
        "b": ((2, 3), "bfloat16"),
        "s": ((), "bfloat16"),
        "last": ((1,), "float16"),
    }
    read = stored["b"].read()
    assert read.dtype == np.float32
    assert np.array_equal(read.view(np.uint32).ravel(), floats.view(np.uint32) & 0xFFFF0000)
    assert stored["s"].read() == 1 and stored["s"].read().shape == () and stored["last"].read() == 1


@given(st.floats(width=32, allow_nan=False))
def test_bfloat16_is_the_upper_half_of_float32(value: float) -> None:
    whole = np.array([value], np.float32)
    wide = widen_bfloat16((whole.view(np.uint32) >> 16).astype(np.uint16))
    assert wide.view(np.uint32)[0] == whole.view(np.uint32)[0] & 0xFFFF0000


@pytest.mark.parametrize("stored, limit", [("float16", 2.2), ("float32", 1.2)])
def test_weights_are_in_memory_once(tmp_path: Path, stored: str, limit: float) -> None:
    large = json.loads(json.dumps(SOURCE))
    large["vision_cfg"] |= {"width": 64, "head_width": 64, "layers": 60, "mlp_ratio": 4}
    config = parse_config(large)
    tensors = random_tensors(config, stored)
    size = sum(tensor.nbytes for tensor in tensors.values())
    folder = write_checkpoint(tmp_path / "new", config, tensors)
    read_checkpoint(folder)
    tracemalloc.start()
    read_checkpoint(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 5_000_000 and peak < limit * size  # float16 is widened, so it alone makes 2.0


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_no_partial_files_remain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(error):
        write_checkpoint(tmp_path / "new", CONFIG, random_tensors())
    assert not list(tmp_path.iterdir())


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", CONFIG, random_tensors())
    (tmp_path / "b").write_text("a file")
    (tmp_path / "c").mkdir()  # an empty folder is no obstacle
    for name in "ab":
        with pytest.raises(ValueError, match="exists and is") as error:
            write_checkpoint(tmp_path / name, CONFIG, {})
        assert str(tmp_path / name) in str(error.value)
    write_checkpoint(tmp_path / "c", CONFIG, random_tensors())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    read_checkpoint(tmp_path / "a"), read_checkpoint(tmp_path / "c")


def complaint(folder: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_checkpoint(folder)
    message = str(error.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_wrong_folders(tmp_path: Path) -> None:
    assert "no such folder" in complaint(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "a file, not a checkpoint folder" in complaint(tmp_path / "file")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "config.json is missing: not a checkpoint folder; give one that minivideococa" in complaint(folder)
    (folder / "open_clip_config.json").write_text("{}")
    assert "minivideococa convert" in complaint(folder)
    for text in (b"", b"{", b"\xff\xfe", b"not json"):
        (folder / "config.json").write_bytes(text)
        (folder / "model.safetensors").write_bytes(b"")
        assert "config.json: not " + ("UTF-8" if text == b"\xff\xfe" else "JSON") in complaint(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json: not a configuration of open_clip" in complaint(folder)
    (folder / "config.json").write_text(json.dumps(SOURCE))
    cut = safetensors_bytes({"a": ("F32", (2,), b"\0" * 8)})[:-1]
    for data in (b"", b"no safetensors at all", b"\xff" * 100, cut):
        (folder / "model.safetensors").write_bytes(data)
        assert "model.safetensors: not a safetensors file" in complaint(folder)
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"a": ("F32", (1,), b"\0" * 4)}))
    assert "missing: visual.conv1.weight" in complaint(folder)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in complaint(folder)


def test_wrong_dtype(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float16"):
        read_checkpoint(tmp_path, "float16")


@pytest.mark.parametrize("place", ["wheel", "checkout", "nowhere"])
def test_embedded_checkpoint_is_found(tmp_path: Path, place: str) -> None:
    """The package is copied: with weights/tiny inside, as in a wheel, or beside it, as in a checkout."""
    package = tmp_path / "minivideococa"
    installed = Path(sys.modules["minivideococa"].__file__).parent
    for folder in ("checkpoint", "model"):
        shutil.copytree(installed / folder, package / folder)
    for module in ("inputs.py", "output.py", "progress.py", "resources.py", "terminal.py"):
        shutil.copy(installed / module, package)
    (package / "__init__.py").touch()
    above = {"wheel": package, "checkout": tmp_path, "nowhere": tmp_path / "elsewhere"}[place]
    tiny = above / "weights" / "tiny"
    tiny.mkdir(parents=True)
    (tiny / "config.json").touch()
    code = "from minivideococa.checkpoint.folder import embedded_checkpoint; print(embedded_checkpoint())"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    if place == "nowhere":
        assert "the embedded checkpoint is missing" in run.stderr
    else:
        assert Path(run.stdout.strip()) == tiny


def test_the_embedded_checkpoint_is_read() -> None:
    folder = embedded_checkpoint()
    config, tensors = read_checkpoint(folder)
    assert config.vision.width != config.embed_dim  # as in the released weights
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000_000
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}
