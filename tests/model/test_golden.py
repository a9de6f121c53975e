"""The forward pass against open_clip's, by the files that tests/oracle/make_golden.py made with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from oracle.common import cast, checksum, errors, random_weights

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest, parameter_shapes

FILES = sorted((Path(__file__).parents[1] / "golden").glob("trace_*.npz"))


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem.removeprefix("trace_"))
def golden(request) -> dict[str, np.ndarray]:
    return dict(np.load(request.param))


def run(golden: dict[str, np.ndarray], dtype: str) -> tuple[mvc.VideoCoCa, mvc.Video, dict[str, np.ndarray]]:
    """The model of a golden file, its video, and the trace of reading its text with it."""
    source = json.loads(str(golden["config"]))
    config = parse_config(source)
    shapes = parameter_shapes(config)
    if source.get("nonscalar_logit_scale"):
        shapes["logit_scale"] = (1,)
    weights = random_weights(shapes, int(golden["seed"]))
    assert checksum(weights) == golden["weights_crc32"], "other weights than open_clip had"
    model = mvc.VideoCoCa(config, nest(cast(weights, dtype)))
    with mvc.trace() as trace:
        video = model.encode_video(golden["pixels"])
        model.decode(video.tokens, golden["trace/ids"][None])
    assert all(x.dtype == dtype for name, x in trace.items() if name not in ("pixels", "ids"))
    return model, video, trace


def intermediates(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    traced = {name.removeprefix("trace/"): x for name, x in golden.items() if name.startswith("trace/")}
    return {"pixels": golden["pixels"]} | traced


def test_the_files_are_there():
    assert len(FILES) >= 12
    assert sum(path.stat().st_size for path in FILES) < 1.5e6


def test_float64(golden):
    found = errors(run(golden, "float64")[2], intermediates(golden))
    assert max(found.values()) < 1e-12, found


def test_float32(golden):
    """open_clip's own float32 is up to 1.4e-6 away from these; four times that allows for another BLAS."""
    found = errors(run(golden, "float32")[2], intermediates(golden))
    assert max(found.values()) < 6e-6, found


def test_greedy_caption(golden):
    model, video, _ = run(golden, "float64")
    how = json.loads(str(golden["generate"]))
    assert np.array_equal(model.generate(video.tokens, beams=1, **how), golden["greedy"])


def test_logit_scale(golden):
    assert run(golden, "float64")[0].logit_scale == pytest.approx(golden["logit_scale"].item(), rel=1e-14)
