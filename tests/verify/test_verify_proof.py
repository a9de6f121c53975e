"""The proof of `verify`, on a port in JAX: it names each known mistake, and raises no alarm at a right port.

The port (conformance/jax_coca.py) shares no line with the package. A mistake is planted in all of it and carried through
to the end, in four precisions.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conformance import jax_coca
from oracle.common import random_weights
from safetensors.numpy import load_file

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest, parameter_shapes
from minivideococa.verify import MISTAKES, Report, verify

KIT = Path(__file__).parents[1] / "conformance"
FOLDERS = sorted(path.parent.name for path in KIT.glob("*/config.json"))

# Where a mistake first shows in a CoCa of the released form; the blocks' mistakes show in vision.block.0
FIRST = {
    "pixels": [
        "bgr",
        "pixels_not_normalised",
        "pixels_to_255",
        "pixels_raw",
        "imagenet_mean",
        "pixels_not_moved",
        "batch_axis",
    ],
    "vision.embed": [
        "layer_norm_unbiased",
        "layer_norm_eps",
        "no_ln_pre",
        "class_token_last",
        "positions_shifted",
        "patches_by_column",
        "patch_channels_last",
        "patch_transposed",
        "bgr_kernel",
        "patches_not_moved",
        "axes_transposed",
        "other_weights",
    ],
    "vision.block.0": [
        "tanh_gelu",
        "quick_gelu",
        "no_quick_gelu",
        "no_ln_1",
        "no_ln_2",
        "post_norm",
        "attention_unscaled",
        "attention_scaled_twice",
        "heads_interleaved",
        "heads_not_moved",
        "heads_merged_unmoved",
        "heads_split_unmoved",
        "heads_split_interleaved",
        "heads_merged_interleaved",
        "attention_over_frames",
        "qk_swapped",
        "kv_swapped",
        "qv_swapped",
        "qkv_transposed",
        "out_proj_transposed",
        "no_in_proj_bias",
        "no_out_proj_bias",
        "no_c_fc_bias",
        "no_c_proj_bias",
    ],
    "pool.attended": ["no_ln_q", "no_ln_k"],
    "pool.tokens": ["no_ln_post", "query_0_kept", "latent_last_query"],
    "pool.latent": ["pool_proj_transposed", "not_unit"],
    "text.embed": ["text_class_first", "text_positions_shifted"],
    "text.block.0": ["mask_not_shifted", "no_padding_mask", "text_not_causal"],
    "text.tokens": ["ln_final_on_features"],
    "text.latent": ["text_projection_transposed", "no_text_ln_final"],
    "decoder.block.0.self": ["decoder_not_causal"],
    "decoder.block.0.cross": ["no_ln_1_kv"],
    "logits": ["no_decoder_ln_final"],
}
FIRST_OF = {mistake: name for name, mistakes in FIRST.items() for mistake in mistakes}


class Port:
    """A folder of the kit: the model by us, and its trace by the port."""

    def __init__(self, folder: str) -> None:
        self.model = mvc.load(KIT / folder, dtype="float64")
        self.config = json.loads((KIT / folder / "config.json").read_text())
        self.weights = load_file(KIT / folder / "model.safetensors")
        self.inputs = load_file(KIT / folder / "truth.safetensors")

    @cache
    def right(self, dtype: str) -> Report:
        """What is said of the port without a mistake."""
        return verify(self.model, self.trace(dtype))

    @cache
    def above_rounding(self, mistake: str) -> dict[str, bool]:
        """dtype -> whether the mistake, where it first shows, does more than rounding to that dtype explains."""
        name = FIRST_OF[mistake]
        effect = row(verify(self.model, self.trace("float64", mistake)), name).by_itself
        return {dtype: effect > row(self.right(dtype), name).allowed_by_itself for dtype in jax_coca.DTYPES}

    def trace(self, dtype: str, mistake: str | None = None) -> dict[str, np.ndarray]:
        return jax_coca.trace(
            self.config,
            self.weights,
            ids=self.inputs["ids"],
            frames=self.inputs["frames"],
            dtype=dtype,
            mistake=mistake,
        )


@pytest.fixture(scope="module")
def ports() -> dict[str, Port]:
    return {folder: Port(folder) for folder in FOLDERS}


def folder_of(mistake: str) -> str:
    return "quick_gelu" if mistake == "no_quick_gelu" else "as_released"


def row(report: Report, name: str):
    return next(row for row in report.rows if row.name == name)


def test_every_mistake_of_the_catalogue_is_planted():
    assert {mistake.name for mistake in MISTAKES} == set(jax_coca.MISTAKES) == set(FIRST_OF)


@pytest.mark.parametrize("mistake", jax_coca.MISTAKES)
def test_a_planted_mistake_is_named_where_it_is(ports, mistake):
    port, words = ports[folder_of(mistake)], {known.name: known.words for known in MISTAKES}
    for dtype, above_rounding in port.above_rounding(mistake).items():
        report = verify(port.model, port.trace(dtype, mistake))
        if above_rounding:
            assert report.diverges.name == FIRST_OF[mistake], dtype
            assert report.mistake.words == words[mistake], dtype
            assert report.diverges.allowed_by_itself < report.diverges.by_itself
            if mistake != "other_weights":  # what remains says nothing where nothing of ours is right
                assert report.remaining < report.diverges.allowed_by_itself
            further = [fault.mistake for fault in report.faults[1:]]
            overflows = dtype == "float16" and mistake in (
                "pixels_to_255",
                "pixels_raw",
            )  # squares, in the next norm
            assert further == [None] if overflows else not further, dtype
        else:  # it may show further on, but is never taken for another
            assert report.mistake is None or report.mistake.name == mistake, dtype


def test_few_mistakes_are_below_rounding(ports):
    below = {
        (mistake, dtype)
        for mistake in jax_coca.MISTAKES
        for dtype, above in ports[folder_of(mistake)].above_rounding(mistake).items()
        if not above
    }
    assert below == {
        (mistake, dtype)
        for mistake in ("tanh_gelu", "layer_norm_eps", "quick_gelu", "no_quick_gelu")
        for dtype in ("float16", "bfloat16")
    } | {("layer_norm_unbiased", "bfloat16")}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("dtype", jax_coca.DTYPES)
def test_a_right_port_passes_the_kit(ports, folder, dtype):
    report = ports[folder].right(dtype)
    assert [x.name for x in report.rows if x.status != "ok"] == []
    assert len(report.rows) >= 16 and report.unknown == []


def test_the_kits_truth_passes(ports):
    for folder, port in ports.items():
        assert verify(port.model, port.inputs).diverges is None, folder


# Random models, of a few shapes: what is new to JAX takes it a second

SMALL = {
    "released": ({}, {}, 3),
    "parallel": ({"width": 16, "attentional_pool": "parallel"}, {}, 2),
    "cascade": ({"width": 16, "attentional_pool": "cascade"}, {}, 2),
    "quick": ({"width": 16, "image_size": 17}, {"quick_gelu": True}, 1),
    "no_ln_pre": ({"no_ln_pre": True}, {}, 2),
}


@pytest.mark.parametrize("form", SMALL)
def test_no_false_alarm(form):
    """200 random models in all, float32, float16 and bfloat16 each; now and then with a third of the tensors, too."""
    vision, top, frames = SMALL[form]
    both = {"context_length": 9, "vocab_size": 30, "width": 16, "heads": 2, "layers": 2}
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 16,
            "patch_size": 5,
            "width": 20,
            "layers": 2,
            "head_width": 4,
            "attentional_pool": True,
            "attn_pooler_queries": 5,
            "attn_pooler_heads": 4,
        }
        | vision,
        "text_cfg": both | {"embed_cls": True},
        "multimodal_cfg": both,
    } | top
    config, size = parse_config(model_cfg), model_cfg["vision_cfg"]["image_size"]
    for seed in range(40):
        rng = np.random.default_rng([list(SMALL).index(form), seed])
        weights = random_weights(parameter_shapes(config), int(rng.integers(2**31)))
        model = mvc.VideoCoCa(config, nest(weights))
        ids = np.append(rng.integers(0, 30, 9 - seed % 4), np.zeros(seed % 4, int))
        seen = rng.integers(0, 256, (frames, size, size, 3), np.uint8)
        for dtype in ("float32", "float16", "bfloat16"):
            trace = jax_coca.trace(model_cfg, weights, ids=ids, frames=seen, dtype=dtype)
            report = verify(model, trace)
            assert report.diverges is None, (seed, dtype)
            kept = {name: x for name, x in trace.items() if name in ("frames", "ids") or rng.random() < 1 / 3}
            if seed % 4 == 0 and kept.keys() - {"frames", "ids"}:
                assert verify(model, kept, dtype).diverges is None, (seed, dtype, list(kept))
