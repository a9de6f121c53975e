"""The stand-in for safetensors' checks, and the embedded checkpoint without what a browser lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import minivideococa
from minivideococa.checkpoint.folder import EMBEDDED_PART, WEIGHTS, embedded_checkpoint
from minivideococa.checkpoint.header import header_fault
from minivideococa.demo import CLIPS

ROOT = Path(minivideococa.__file__).parents[1]


def library_accepts(path):
    try:
        with safe_open(path, framework="numpy"):
            return True
    except SafetensorError:
        return False


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FILES = {
    "a tensor": with_header({"a": tensor([2], [0, 8])}, bytes(8)),
    "two, in another order": with_header({"b": tensor([1], [8, 12]), "a": tensor([2], [0, 8])}, bytes(12)),
    "a scalar and an empty one": with_header(
        {"a": tensor([], [0, 4]), "b": tensor([0, 3], [4, 4])}, bytes(4)
    ),
    "bfloat16": with_header({"a": tensor([3], [0, 6], "BF16")}, bytes(6)),
    "metadata": with_header({"__metadata__": {"x": "y"}, "a": tensor([1], [0, 4])}, bytes(4)),
    "nothing": b"",
    "a header cut off": with_header({"a": tensor([2], [0, 8])})[:20],
    "no JSON": with_header(b"{]"),
    "no object": with_header([1]),
    "not UTF-8": with_header(b'{"\xff": 1}'),
    "cut off": with_header({"a": tensor([2], [0, 8])}, bytes(7)),
    "more behind": with_header({"a": tensor([2], [0, 8])}, bytes(9)),
    "another shape": with_header({"a": tensor([3], [0, 8])}, bytes(8)),
    "a gap": with_header({"a": tensor([1], [0, 4]), "b": tensor([1], [8, 12])}, bytes(12)),
    "an overlap": with_header({"a": tensor([2], [0, 8]), "b": tensor([2], [4, 12])}, bytes(12)),
    "an unknown dtype": with_header({"a": tensor([1], [0, 4], "F33")}, bytes(4)),
    "no offsets": with_header({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "metadata that is no text": with_header({"__metadata__": {"x": 1}, "a": tensor([1], [0, 4])}, bytes(4)),
    "a negative shape": with_header({"a": tensor([-1, -1], [0, 4])}, bytes(4)),
    "a shape that is no number": with_header({"a": tensor(["1"], [0, 4])}, bytes(4)),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_the_same_files_are_accepted(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert (header_fault(path) is None) == library_accepts(path)


def test_files_of_the_library_are_accepted(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(
        {kind: np.zeros((2, 3), kind) for kind in ("float16", "float32", "float64", "int8", "bool")}, path
    )
    for file in (path, embedded_checkpoint() / WEIGHTS, embedded_checkpoint() / EMBEDDED_PART):
        assert header_fault(file) is None


def run(code, *missing):
    """What `code` prints where some packages are missing."""
    hide = "".join(f"sys.modules[{name!r}] = None; " for name in missing)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {hide}\n{code}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_embedded_checkpoint_needs_numpy_and_pillow_and_threadpoolctl_alone():
    code = f"""
import minivideococa as mvc
from pathlib import Path
clip = Path({str(CLIPS)!r}) / "mixed.gif"
model = mvc.load()
video = model.encode(clip)
print(video.latent.tobytes().hex(), model.caption(video), mvc.classify(model, video, ["a ring", "a star"]))
print(mvc.answer(mvc.load(tuned="questions"), clip, "which is largest?"))
print(mvc.load().tokenize(["a red ring, a <pad> zebra"]).tolist())
"""
    missing = ("safetensors", "tokenizers", "imageio", "imageio_ffmpeg", "huggingface_hub", "tqdm")
    assert run(code, *missing) == run(code)


@pytest.mark.slow
def test_another_vocabulary_needs_the_library():
    code = """
from minivideococa.media.tokenizer import clip_tokenizer_json, parse_tokenizer
try:
    parse_tokenizer(clip_tokenizer_json(), "tokenizer.json", 77, 0, "lower")
except ValueError as error:
    print(error)
"""
    assert (
        "pip install tokenizers" in run(code, "tokenizers") and len(run(code, "tokenizers").splitlines()) == 1
    )
