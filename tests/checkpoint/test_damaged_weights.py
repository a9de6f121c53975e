"""Malicious and damaged weights: an error that names the file, at once, and nothing written."""

import contextlib
import hashlib
import json
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from platforms import posix
from safetensors.numpy import load_file, save_file
from test_unpickler import dump, program, tensor, write_zip

from minivideococa.checkpoint import load
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.checkpoint.unpickler import read_pickle

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"
CONFIG = GOLDEN / "coca.json"


def refusal(*arguments: Any, **keywords: Any) -> str:
    """Return the error message of `convert`, one line."""
    with pytest.raises((ValueError, OSError)) as error:
        convert(*arguments, **keywords)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


# Pickles

ONE, TUPLE = b"K\x01", pickle.TUPLE1
KEYS = {
    "doubled": ONE + (pickle.DUP + pickle.TUPLE2) * 40,
    "deep": ONE + TUPLE * 3000,
    "very deep": ONE + TUPLE * 400_000,  # hashing 200,000 overflows a stack of 8 MB
    "list": b"]",
    "bytes": b"C\x01a",
}
HASHED = {
    "SETITEM": lambda key: b"}" + key + ONE + b"s",
    "SETITEMS": lambda key: b"}(" + key + ONE + b"u",
    "DICT": lambda key: b"(" + key + ONE + b"d",
    "ADDITEMS": lambda key: b"\x8f(" + key + b"\x90",
    "FROZENSET": lambda key: b"(" + key + b"\x91",
    "OrderedDict": lambda key: b"ccollections\nOrderedDict\n)R" + key + ONE + b"s",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """Return the messages of `convert`, run in another process: unchecked, some never end, and some crash.

    It writes each answer at once, so that those before a crash or a timeout are there.
    """
    folder = tmp_path_factory.mktemp("pickles")
    cases = [(opcode, key) for opcode in HASHED for key in KEYS]
    for i, (opcode, key) in enumerate(cases):
        write_zip(folder / f"{i}.bin", b"\x80\x02" + HASHED[opcode](KEYS[key]) + b".", {})
    code = """if True:
        import sys
        from minivideococa.checkpoint.convert import convert
        for i in range(int(sys.argv[1])):
            try:
                convert(f"{sys.argv[2]}/{i}.bin", f"{sys.argv[2]}/out", config=sys.argv[3])
            except ValueError as error:
                print(error, flush=True)
    """
    with open(folder / "answers", "w") as output, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-c", code, str(len(cases)), folder, CONFIG],
            stdout=output,
            timeout=60,
            check=False,
        )
    return dict(zip(cases, (folder / "answers").read_text().splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("opcode", HASHED)
def test_only_strings_and_numbers_are_hashed(
    opcode: str, key: str, answers: dict[tuple[str, str], str]
) -> None:
    answer = answers[opcode, key]
    assert ".bin: not a readable PyTorch file" in answer and "refused" in answer


def test_ordered_dict_of_pairs_is_not_hashed(tmp_path: Path) -> None:
    pairs = b"ccollections\nOrderedDict\n](" + KEYS["doubled"] + ONE + b"\x86e\x85R"
    path = write_zip(tmp_path / "w.bin", b"\x80\x02" + pairs + b".", {})
    assert read_pickle(path) == {}


def test_name_is_a_long_number(tmp_path: Path) -> None:
    key = b"\x8b" + struct.pack("<I", 4000) + b"\x01" * 4000
    path = write_zip(tmp_path / "w.bin", b"\x80\x02}" + key + ONE + b"s.", {})
    assert "w.bin: not a state dict" in refusal(path, tmp_path / "out", config=CONFIG)


def test_control_characters_in_a_name_are_escaped(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "w.bin", b"\x80\x02cos\nsys\x1b[31m\n.", {})
    message = refusal(path, tmp_path / "out", config=CONFIG)
    assert r"it asks for 'os.sys\x1b[31m', which no state dict needs: refused; save" in message


def torch_file(path: Path, name: str, change: Callable) -> Path:
    """coca.safetensors as torch.save writes it; `change(size, stride, offset)` describes `name` otherwise."""
    described, storages = {}, {}
    for key, (each, array) in enumerate(load_file(GOLDEN / "coca.safetensors").items()):
        size, stride, offset = array.shape, tuple(step // array.itemsize for step in array.strides), 0
        if each == name:
            size, stride, offset = change(size, stride, offset)
        storages[str(key)] = array.tobytes()
        kind = {"float32": "FloatStorage", "float16": "HalfStorage"}[str(array.dtype)]
        described[each] = tensor(str(key), kind, array.size, offset, size, stride)
    return write_zip(path, program(described), storages)


@pytest.mark.parametrize(
    "change",
    [
        lambda size, stride, offset: (tuple(map(float, size)), stride, offset),
        lambda size, stride, offset: (size, tuple(map(float, stride)), offset),
        lambda size, stride, offset: (size, stride, 0.0),
        lambda size, stride, offset: (size, stride, None),
    ],
)
def test_offset_shape_and_stride_must_be_integers(
    change: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dump_floats(value: object) -> bytes:
        return b"G" + struct.pack(">d", value) if isinstance(value, float) else dump(value)

    monkeypatch.setattr("test_unpickler.dump", dump_floats)
    path = torch_file(tmp_path / "w.bin", "visual.proj", change)
    message = refusal(path, tmp_path / "out", config=CONFIG)
    assert (
        "w.bin: not a readable PyTorch file: a tensor's offset, shape or stride is not an integer" in message
    )


def test_the_stride_of_a_single_row_does_not_matter(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "w.bin", "logit_scale", lambda size, stride, offset: ((1,), (2**62,), 0))
    convert(path, tmp_path / "out", config=CONFIG)


# Numbers


@pytest.mark.parametrize(
    "name, factor",
    [
        ("text.token_embedding.weight", 1e38),
        ("visual.conv1.weight", 1e37),
        ("text.ln_final.weight", -1e30),
        ("text_decoder.text_projection", 1e8),
    ],
)
def test_absurdly_large_weights(name: str, factor: float, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(embedded_checkpoint(), tmp_path / "checkpoint"))
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: weights[name].astype("f4") * np.float32(factor)}, folder / "model.safetensors")
    message = refusal(folder, tmp_path / "out")
    assert str(folder / "model.safetensors") in message and f"{name} has values up to " in message
    with pytest.raises(ValueError, match="no weight exceeds 1e\\+06"):
        load(folder)


def test_underflow_to_zero_in_float16(tmp_path: Path) -> None:
    weights = load_file(GOLDEN / "coca.safetensors")
    save_file(
        weights | {"visual.proj": weights["visual.proj"] * np.float32(1e-9)}, tmp_path / "w.safetensors"
    )
    message = refusal(tmp_path / "w.safetensors", tmp_path / "out", dtype="float16", config=CONFIG)
    assert "w.safetensors: visual.proj would underflow to zero in float16" in message
    assert not (tmp_path / "out").exists()
    load(convert(tmp_path / "w.safetensors", tmp_path / "out", config=CONFIG))


# Transfers


@posix
@pytest.mark.parametrize("sharded", [False, True])
def test_damage_in_transfer(sharded: bool, tmp_path: Path) -> None:
    """A repository as huggingface_hub keeps it: links to files that are named by the SHA-256 announced."""
    snapshot, blobs = (tmp_path / "models--owner--name" / part for part in ("snapshots/abc", "blobs"))
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (snapshot / "config.json").write_bytes(CONFIG.read_bytes())
    weights = load_file(GOLDEN / "coca.safetensors")
    names = list(weights)
    parts = {"model.safetensors": names}
    if sharded:
        parts = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        weight_map = {name: file for file, part in parts.items() for name in part}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, tmp_path / "whole")
        blob = blobs / hashlib.sha256((tmp_path / "whole").read_bytes()).hexdigest()
        (tmp_path / "whole").rename(blob)
        (snapshot / file).symlink_to(blob)
    load(convert(snapshot, tmp_path / "whole"))
    with open(blob, "r+b") as damaged:
        damaged.seek(-2, 2)
        damaged.write(b"\x21")
    message = refusal(snapshot, tmp_path / "out")
    problem = f"its SHA-256 is not what the hub announced: remove {blob} and download it again"
    assert message == f"{snapshot / file}: {problem}"
    assert not (tmp_path / "out").exists()


def test_origin_is_nested_too_deeply(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(embedded_checkpoint(), tmp_path / "checkpoint"))
    save_file(
        load_file(folder / "model.safetensors"),
        folder / "model.safetensors",
        {"minivideococa.source": "[" * 100_000},
    )
    assert load(folder).origin == {}
