"""What the tests of `verify` share: small traces, ways to damage them, and what a report says."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from minivideococa import trace as collect
from minivideococa.checkpoint import assemble
from minivideococa.demo import CLIPS

KIT_FOLDERS = sorted(
    path.parent for path in (Path(__file__).parents[1] / "conformance").glob("*/truth.safetensors")
)
EPSILON = {"float64": 2**-52, "float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}
DTYPES = tuple(EPSILON)
SQUARE = {"width": 8, "head_width": 4}  # W = E
FORMS = {
    "released": {},
    "same width": SQUARE,
    "parallel": {**SQUARE, "attentional_pool": "parallel"},
    "cascade": {**SQUARE, "attentional_pool": "cascade"},
}
INPUTS = ("frames", "ids")
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 20, 16, 3), np.uint8)
IDS = np.array([[1, 5, 6, 2, 0, 0]])
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


PAIR = str(CLIPS / "pair.gif")
KIT = Path(__file__).parents[1] / "conformance"
FOLDER = str(KIT / "as_released")
TRUTH = str(KIT / "as_released" / "truth.safetensors")


def run(model, frames=FRAMES, ids=IDS, start=None):
    """Return the trace of the whole model. start: tensors to continue from; the trace then holds these."""
    tape = {}
    with collect(start) as seen:
        video = model.encode_video(model.preprocess(frames))
        model.encode_text(ids)
        tokens = video.tokens if len(ids) == 1 else np.repeat(video.tokens[None], len(ids), axis=0)
        model.decode(tokens, ids)
    tape.update(seen)
    return tape | (start or {})


def sources(form):
    """What each tensor of a tiny model is computed from, in path order."""
    one_pooler = form in ("released", "same width")
    latent = "pool.flat" if form == "parallel" else "pool.attended"
    return {
        "pixels": ["frames"],
        "vision.embed": ["pixels"],
        "vision.block.0": ["vision.embed"],
        "vision.block.1": ["vision.block.0"],
        "pool.flat": ["vision.block.1"],
        "pool.attended": ["pool.flat"],
        "pool.tokens": ["pool.attended"],
        "pool.latent": ["pool.attended"] if one_pooler else [latent],
        "text.embed": ["ids"],
        "text.block.0": ["text.embed"],
        "text.block.1": ["text.block.0"],
        "text.tokens": ["text.block.1"],
        "text.latent": ["text.block.1"],
        "decoder.block.0.self": ["text.tokens"],
        "decoder.block.0.cross": ["decoder.block.0.self", "pool.tokens"],
        "decoder.block.1.self": ["decoder.block.0.cross"],
        "decoder.block.1.cross": ["decoder.block.1.self", "pool.tokens"],
        "logits": ["decoder.block.1.cross"],
    }


NAMES = list(sources("released"))
FEW = ["vision.embed", "pool.attended", "pool.latent", "text.block.0", "decoder.block.0.cross", "logits"]


def follow(form, start, stop=()):
    """The names that `start` reaches; beyond a name in `stop` it is lost."""
    reached = set()
    for name, comes_from in sources(form).items():
        if any(x == start or (x in reached and x not in stop) for x in comes_from):
            reached.add(name)
    return reached


def noise(x, size, seed=0):
    """x, moved by `size` times its largest value, everywhere and at random."""
    rng = np.random.default_rng(seed)
    moves = rng.uniform(0.5, 1, x.shape) * rng.choice([-1, 1], x.shape)
    return (x + size * np.abs(x).max() * moves).astype(x.dtype)


def noise_after(tape, name, size):
    """The trace with that tensor moved and nothing else."""
    return tape | {name: noise(tape[name], size)}


def only(tape, names):
    """Those names, and the inputs."""
    return {name: x for name, x in tape.items() if name in names or name in INPUTS}


def statuses(report):
    return {row.name: row.status for row in report.rows}


def having(report, status):
    return {row.name for row in report.rows if row.status == status}


def rounded(x, dtype):
    """x rounded to the dtype; NumPy has no bfloat16, so these come as float32."""
    if x.dtype.kind != "f":
        return x
    if dtype != "bfloat16":
        return x.astype(dtype)
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def raises_one_line(function, *arguments, match, error=ValueError, **keywords):
    with pytest.raises(error, match=match) as caught:
        function(*arguments, **keywords)
    assert "\n" not in str(caught.value)


def edited(model, path, change):
    """The model with one parameter changed, the original's left alone."""
    other = assemble(model.config, copy.deepcopy(model.params), model.tokenizer)
    branch, (*parents, leaf) = other.params, path.split(".")
    for key in parents:
        branch = branch[int(key) if isinstance(branch, list) else key]
    branch[leaf] = change(branch[leaf])
    return other


def write(path, tensors, metadata=None):
    """A safetensors file of (dtype, shape, bytes), which can hold what NumPy does not know."""
    header, begin = {"__metadata__": metadata} if metadata else {}, 0
    for name, (dtype, shape, data) in tensors.items():
        end = begin + len(data)
        header[name], begin = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}, end
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(data for *_, data in tensors.values()))
    return path
