"""The port in JAX that `verify` is tried on, with mistakes planted in it."""

import json
from pathlib import Path

import numpy as np
from conformance import jax_coca
from safetensors.numpy import load_file

import minivideococa as mvc
from minivideococa.verify import Report, verify

KIT = Path(__file__).parents[1] / "conformance"
FOLDERS = sorted(path.parent.relative_to(KIT).as_posix() for path in KIT.rglob("truth.safetensors"))

# Where a mistake first shows in a CoCa of the released form; the blocks' mistakes show in vision.block.0
FIRST = {
    "pixels": [
        "bgr",
        "pixels_not_normalized",
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
        "no_class_embedding",
        "no_positions",
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
        "relu",
        "silu",
        "no_ln_1",
        "no_ln_2",
        "post_norm",
        "no_mlp_residual",
        "no_attention_residual",
        "attention_unscaled",
        "attention_scaled_twice",
        "attention_scaled_by_width",
        "vision_heads",
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
    "pool.attended": ["no_ln_q", "no_ln_k", "pooler_heads", "mean_pooling"],
    "pool.tokens": ["no_ln_post", "query_0_kept", "last_query_dropped"],
    "pool.latent": ["pool_proj_transposed", "latent_last_query", "not_unit"],
    "factorized.embed": ["no_frame_positions", "frame_positions_shifted"],
    "factorized.block.0": ["factorized_heads", "frames_causal", "frames_apart"],
    "text.embed": [
        "text_class_first",
        "text_positions_shifted",
        "no_text_positions",
        "no_text_class_embedding",
    ],
    "text.block.0": [
        "mask_not_shifted",
        "mask_shifted_back",
        "mask_in_class_row",
        "no_padding_mask",
        "text_not_causal",
        "text_heads",
    ],
    "text.tokens": ["ln_final_on_features"],
    "text.latent": ["text_projection_transposed", "no_text_ln_final", "latent_of_end_token"],
    "decoder.block.0.self": ["decoder_not_causal", "padding_mask_in_decoder", "decoder_heads"],
    "decoder.block.0.cross": ["no_ln_1_kv"],
    "logits": ["no_decoder_ln_final", "log_probabilities", "logits_shifted"],
}
FIRST_OF = {mistake: name for name, mistakes in FIRST.items() for mistake in mistakes}


class Port:
    """A folder of the kit: the model, and its trace computed by the port."""

    def __init__(self, folder: str) -> None:
        self.model = mvc.load(KIT / folder, dtype="float64")
        self.config = json.loads((KIT / folder / "config.json").read_text())
        self.weights = load_file(KIT / folder / "model.safetensors")
        self.inputs = load_file(KIT / folder / "truth.safetensors")
        self._traces: dict[tuple[str, tuple[str, ...]], dict[str, np.ndarray]] = {}
        self._reports: dict[tuple[str, tuple[str, ...]], Report] = {}

    def trace(self, dtype: str, *mistakes: str) -> dict[str, np.ndarray]:
        """Return the port's trace with these mistakes planted. Each is computed once for all tests."""
        if (dtype, mistakes) not in self._traces:
            self._traces[dtype, mistakes] = jax_coca.trace(
                self.config,
                self.weights,
                ids=self.inputs["ids"],
                frames=self.inputs["frames"],
                dtype=dtype,
                mistake=list(mistakes),
            )
        return dict(self._traces[dtype, mistakes])

    def report(self, dtype: str, *mistakes: str) -> Report:
        """Return the report on this trace, computed once for all tests."""
        if (dtype, mistakes) not in self._reports:
            self._reports[dtype, mistakes] = verify(self.model, self.trace(dtype, *mistakes))
        return self._reports[dtype, mistakes]

    def above_rounding(self, mistake: str) -> dict[str, bool]:
        """Return dtype -> whether the error where the mistake first shows exceeds rounding."""
        name = FIRST_OF[mistake]
        effect = row(self.report("float64", mistake), name).local_error
        return {dtype: effect > row(self.report(dtype), name).local_allowed for dtype in jax_coca.DTYPES}


def row(report: Report, name: str):
    return next(row for row in report.rows if row.name == name)
