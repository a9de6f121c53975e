"""The project against open_clip: the golden files, random configurations, the tiny checkpoint."""

import json
from pathlib import Path

import make_golden
import numpy as np
import pytest
import reference
from common import cast, errors, random_pixels, random_weights
from compare import assert_same_from_frames, measure, traces
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.numpy import load_file

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import parameter_shapes
from minivideococa.model.kernels import ERF
from minivideococa.world import CLIP_SETS, draw_clip, sample_clip

TINY = Path(__file__).parents[2] / "weights" / "tiny"
needs_tiny = pytest.mark.skipif(
    not (TINY / "model.safetensors").is_file(), reason="weights/tiny is missing: run weights/train.py"
)


# The golden files -------------------------------------------------------------------------------------------


def test_every_case_has_a_file():
    files = {path.stem.removeprefix("trace_") for path in make_golden.GOLDEN.glob("trace_*.npz")}
    assert files == make_golden.CASES.keys()


@pytest.mark.parametrize("name", make_golden.CASES)
def test_golden_files_are_reproducible(name):
    committed, made = dict(np.load(make_golden.GOLDEN / f"trace_{name}.npz")), make_golden.make(name)
    assert committed.keys() == made.keys()
    for key in committed.keys() - {"logit_scale"}:
        if not key.startswith("trace/"):
            assert np.array_equal(committed.pop(key), made.pop(key)), key
    found = errors(made, committed)
    assert max(found.values()) < 1e-13, found


# Random configurations --------------------------------------------------------------------------------------


@st.composite
def runs(draw):
    """Draw a model_cfg, a number of frames, and ids [B, L]."""

    def integer(least, most):
        return draw(st.integers(least, most))

    def choice(*choices):
        return draw(st.sampled_from(choices))

    width, pool = 12, choice(True, True, "parallel", "cascade")  # 1, 2, 3 or 4 heads divide the width
    head_width = choice(3, 4, 6, 12)
    patch, length, vocabulary = integer(1, 5), integer(1, 9), integer(2, 30)
    text = {
        "context_length": length + integer(0, 2),
        "vocab_size": vocabulary,
        "width": width,
        "heads": integer(1, 4),
        "layers": integer(1, 2),
        "mlp_ratio": choice(0.5, 2.7, 4.0),
        "embed_cls": True,
        "pad_id": integer(0, vocabulary - 1),
        "correct_cls_mask": choice(False, True),
    }
    ids = draw(
        st.lists(
            st.lists(st.integers(0, vocabulary - 1), min_size=length, max_size=length), min_size=1, max_size=3
        )
    )
    if text["correct_cls_mask"]:  # a text that begins with padding is NaN there
        for row in ids:
            row[0] = (text["pad_id"] + 1) % vocabulary
    return (
        {
            "embed_dim": width,
            "quick_gelu": choice(False, True),
            "nonscalar_logit_scale": choice(False, True),
            "vision_cfg": {
                "image_size": patch * integer(1, 4) + integer(0, patch - 1),
                "patch_size": patch,
                "width": head_width * integer(1, 4) if pool is True else width,
                "head_width": head_width,
                "layers": integer(1, 3),
                "mlp_ratio": choice(1.0, 3.3, 4.0),
                "no_ln_pre": choice(False, True),
                "attentional_pool": pool,
                "attn_pooler_queries": integer(2, 6),
                "attn_pooler_heads": integer(1, 4),
            },
            "text_cfg": text,
            "multimodal_cfg": {
                "context_length": text["context_length"] + integer(0, 2),
                "vocab_size": vocabulary,
                "width": width,
                "heads": integer(1, 4),
                "layers": integer(1, 2),
            },
        },
        integer(1, 5),
        np.array(ids),
    )


@settings(max_examples=150)
@given(runs(), st.integers(0, 2**32 - 1))
def test_any_configuration(run, seed):
    model_cfg, frames, ids = run
    shapes = reference.shapes(model_cfg)
    assert shapes | {"logit_scale": ()} == parameter_shapes(parse_config(model_cfg))
    pixels = random_pixels(frames, model_cfg["vision_cfg"]["image_size"], seed)
    weights = cast(random_weights(shapes, seed), "float64")
    found = errors(*traces(reference.video_coca(model_cfg), model_cfg, weights, pixels, ids))
    assert max(found.values()) < 1e-12, found


# float32 ----------------------------------------------------------------------------------------------------


def medium(vision: dict, **top) -> dict:
    """Return a model_cfg of medium size."""
    text = {"context_length": 40, "vocab_size": 500, "width": 256, "heads": 4, "layers": 6, "embed_cls": True}
    vision = {
        "image_size": 112,
        "patch_size": 16,
        "width": 384,
        "layers": 6,
        "attentional_pool": True,
        "attn_pooler_queries": 64,
        "attn_pooler_heads": 4,
    } | vision
    return {"embed_dim": 256, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": text} | top


def report(capsys, differences, ratios):
    with capsys.disabled():
        print(
            f"\nfloat64 differs by {max(differences):.1e} at most; in float32 our error is "
            f"{np.median(ratios):.2f} times torch's in the median of {len(ratios)} tensors"
        )
    assert max(differences) < 1e-12
    assert np.median(ratios) <= 1.25


@pytest.mark.parametrize(
    "model_cfg",
    [medium({}), medium({"width": 256, "attentional_pool": "cascade"}), medium({}, quick_gelu=True)],
    ids=["gelu", "cascade", "quick_gelu"],
)
def test_float32_is_as_exact_as_torchs(model_cfg, capsys):
    shapes = reference.shapes(model_cfg)
    found, ratios = [], []
    for seed in range(3):
        ids = np.random.RandomState(seed).randint(1, 500, (1, 40))
        ids[:, 15:] = 0
        weights, pixels = random_weights(shapes, seed), random_pixels(4, 112, seed)
        differences, times = measure(model_cfg, weights, pixels, ids)
        found += differences.values()
        ratios += times.values()
    report(capsys, found, ratios)


def test_coefficients_of_erf_are_those_of_the_script():
    pytest.importorskip("mpmath")  # installed with torch
    from fit_erf import FITS, fit

    for dtype, (limit, degree) in FITS.items():
        p, q, error = fit(limit, degree)
        assert ERF[np.dtype(dtype)] == (limit, p, q)
        assert error < np.finfo(dtype).eps / 4


# The tiny checkpoint ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """The configuration and the weights in the files."""
    return json.loads((TINY / "config.json").read_text()), load_file(TINY / "model.safetensors")


@pytest.fixture(scope="module")
def clips():
    """Frames uint8 [8, 64, 64, 3], two clips of every set."""
    rng = np.random.default_rng(0)
    return [draw_clip(sample_clip(kind, rng)) for kind in CLIP_SETS for _ in range(2)]


@needs_tiny
def test_tiny_checkpoint(tiny, clips):
    config, weights = tiny
    theirs = reference.load(reference.video_coca(config["model_cfg"]), cast(weights, "float64"))
    ours = mvc.load(TINY, dtype="float64")
    transform = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
    ids = ours.tokenize(["a large red circle above a small blue star"])
    for frames in clips:
        assert_same_from_frames(ours, theirs, transform, frames, ids, max_length=20)


@needs_tiny
def test_tiny_checkpoint_in_float32(tiny, clips, capsys):
    config, weights = tiny
    model = mvc.load(TINY)
    ids = model.tokenize(["a green heart left of an orange arrow"])
    found, ratios = [], []
    for frames in clips:
        differences, times = measure(config["model_cfg"], weights, model.preprocess(frames), ids)
        found += differences.values()
        ratios += times.values()
    report(capsys, found, ratios)
