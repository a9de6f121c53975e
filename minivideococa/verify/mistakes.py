"""The catalogue of known mistakes in implementations of CoCa and VideoCoCa.

Each mistake is a change of our own forward pass; one that has variants has several changes. To add a mistake,
add a line to `MISTAKES` and plant it in `tests/conformance/jax_coca.py`. Several mistakes at once are applied
in the order of the catalogue. The last three have no change: they are recognized from the tensors themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..model import ops
from ..model.hooks import REPLACEABLE
from . import changes
from .changes import (
    Change,
    across_frames,
    constant,
    eps,
    mean_and_std,
    operation,
    other_heads,
    output,
    parameter,
    patches,
    shifted,
    without_norm,
)


@dataclass(frozen=True)
class Mistake:
    """A known mistake: its identifier, its description, and the changes that are its variants."""

    name: str
    description: str
    changes: tuple[Change, ...]


def mistake(name: str, description: str, *changes: Change) -> Mistake:
    """Return a `Mistake`."""
    return Mistake(name, description, changes)


# In path order where a mistake belongs to one place
MISTAKES = (
    mistake(
        "tanh_gelu",
        "GELU is computed with the tanh approximation; CoCa uses the exact GELU (erf)",
        operation("ops.gelu", constant(changes.tanh_gelu)),
    ),
    mistake(
        "quick_gelu",
        "QuickGELU, x * sigmoid(1.702 x), is used where the configuration has the exact GELU",
        operation("ops.gelu", constant(REPLACEABLE["ops.quick_gelu"])),
    ),
    mistake(
        "no_quick_gelu",
        "the exact GELU is used where the configuration has QuickGELU, x * sigmoid(1.702 x)",
        operation("ops.quick_gelu", constant(REPLACEABLE["ops.gelu"])),
    ),
    mistake(
        "relu",
        "ReLU is used instead of GELU",
        Change(dict.fromkeys(("ops.gelu", "ops.quick_gelu"), constant(changes.relu))),
    ),
    mistake(
        "silu",
        "SiLU (swish), x * sigmoid(x), is used instead of GELU",
        Change(dict.fromkeys(("ops.gelu", "ops.quick_gelu"), constant(changes.silu))),
    ),
    mistake(
        "layer_norm_unbiased",
        "LayerNorm uses the unbiased variance (divided by n - 1); it must be the biased one (divided by n)",
        operation("ops.layer_norm", constant(changes.unbiased_layer_norm)),
    ),
    mistake("layer_norm_eps", "LayerNorm eps is not 1e-5", eps(1e-6), eps(1e-12), eps(1e-3)),
    mistake(
        "no_ln_pre", "ln_pre, the LayerNorm before the first block, is missing", without_norm("visual.ln_pre")
    ),
    mistake("no_ln_q", "ln_q, the LayerNorm of the pooler's queries, is missing", without_norm("*.ln_q")),
    mistake("no_ln_k", "ln_k, the LayerNorm of the pooler's context, is missing", without_norm("*.ln_k")),
    mistake(
        "no_ln_post",
        "ln_post, the LayerNorm after the pooler (before it with the parallel and cascade poolers), is "
        "missing",
        without_norm("visual.ln_post"),
    ),
    mistake("no_ln_1", "ln_1, the LayerNorm before a block's attention, is missing", without_norm("*.ln_1")),
    mistake("no_ln_2", "ln_2, the LayerNorm before a block's MLP, is missing", without_norm("*.ln_2")),
    mistake(
        "no_ln_1_kv",
        "ln_1_kv, the LayerNorm of the cross-attention's keys and values, is missing",
        without_norm("*.ln_1_kv"),
    ),
    mistake(
        "post_norm",
        "the blocks are post-norm (LayerNorm after the residual sum); CoCa's are pre-norm (before attention "
        "and MLP)",
        operation("transformer.residual_block", constant(changes.post_norm_block)),
    ),
    mistake(
        "no_mlp_residual",
        "the residual connection around the MLP is missing",
        operation("transformer.residual_block", constant(changes.without_residual(mlp=False))),
    ),
    mistake(
        "no_attention_residual",
        "the residual connection around attention is missing",
        operation("transformer.residual_block", constant(changes.without_residual(attention=False))),
    ),
    mistake(
        "attention_unscaled",
        "attention scores are not divided by sqrt(head dimension)",
        operation("ops.attention", changes.scaled_keys(0.5)),
    ),
    mistake(
        "attention_scaled_twice",
        "attention scores are divided by sqrt(head dimension) twice",
        operation("ops.attention", changes.scaled_keys(-0.5)),
    ),
    mistake(
        "attention_scaled_by_width",
        "attention scores are divided by sqrt(E), the square root of the whole width; it must be sqrt(head "
        "dimension)",
        operation("ops.attention", changes.scaled_by_width),
    ),
    mistake(
        "vision_heads",
        "the number of heads in the image encoder is wrong: it is vision_cfg.width / vision_cfg.head_width",
        *other_heads("vision"),
    ),
    mistake(
        "pooler_heads",
        "the number of heads in the attentional pooler is wrong: it is vision_cfg.attn_pooler_heads",
        *other_heads("vision", "pooler_heads"),
    ),
    mistake(
        "text_heads",
        "the number of heads in the unimodal text decoder is wrong: it is text_cfg.heads",
        *other_heads("text"),
    ),
    mistake(
        "decoder_heads",
        "the number of heads in the multimodal text decoder is wrong: it is multimodal_cfg.heads",
        *other_heads("decoder"),
    ),
    mistake(
        "factorized_heads",
        "the number of heads in the layers across the frames is wrong: it is video_cfg.factorized.heads",
        *other_heads("factorized"),
    ),
    mistake(
        "heads_interleaved",
        "heads are split along the wrong axis: [L, E] is reshaped to [L, E / heads, heads]; it must be [L, "
        "heads, E / heads]",
        Change(
            {
                "ops.split_heads": constant(changes.split_interleaved),
                "ops.merge_heads": constant(changes.merge_interleaved),
            }
        ),
    ),
    mistake(
        "heads_not_moved",
        "heads are split and merged without a transpose: [L, E] is reshaped to [heads, L, E / heads]; it "
        "must be reshaped to [L, heads, E / heads], then transposed",
        Change(
            {
                "ops.split_heads": constant(changes.split_without_transpose),
                "ops.merge_heads": constant(changes.merge_without_transpose),
            }
        ),
    ),
    mistake(
        "heads_merged_unmoved",
        "heads are merged without a transpose: [heads, L, E / heads] is reshaped to [L, E]; it must be "
        "transposed first",
        operation("ops.merge_heads", constant(changes.merge_without_transpose)),
    ),
    mistake(
        "heads_split_unmoved",
        "heads are split without a transpose: [L, E] is reshaped to [heads, L, E / heads], but merged "
        "correctly",
        operation("ops.split_heads", constant(changes.split_without_transpose)),
    ),
    mistake(
        "heads_split_interleaved",
        "heads are split as [L, E / heads, heads], but merged as [L, heads, E / heads]",
        operation("ops.split_heads", constant(changes.split_interleaved)),
    ),
    mistake(
        "heads_merged_interleaved",
        "heads are merged as [L, E / heads, heads], but split as [L, heads, E / heads]",
        operation("ops.merge_heads", constant(changes.merge_interleaved)),
    ),
    mistake(
        "attention_over_frames",
        "the image encoder attends over the frames instead of over the tokens of a frame: [T, N, W] is read "
        "as [N, T, W] (batch_first)",
        operation("transformer.residual_block", changes.over_frames),
    ),
    mistake(
        "qk_swapped",
        "the query and key projections are swapped; the order in in_proj is q, k, v",
        operation("ops.in_projection", changes.swapped("q", "k")),
    ),
    mistake(
        "kv_swapped",
        "the key and value projections are swapped; the order in in_proj is q, k, v",
        operation("ops.in_projection", changes.swapped("k", "v")),
    ),
    mistake(
        "qv_swapped",
        "the query and value projections are swapped; the order in in_proj is q, k, v",
        operation("ops.in_projection", changes.swapped("q", "v")),
    ),
    mistake(
        "qkv_transposed",
        "the weight of attention's q, k and v projections is transposed; stored as [out, in], it applies as "
        "x @ weight.T",
        operation("ops.in_projection", changes.transposed_projections),
    ),
    mistake(
        "out_proj_transposed",
        "the weight of attention's out_proj is transposed; stored as [out, in], it applies as x @ weight.T",
        parameter("*.out_proj.weight", np.transpose),
    ),
    mistake(
        "pool_proj_transposed",
        "the weight visual.proj is transposed; stored as [in, out], it applies as x @ proj",
        parameter("visual.proj", np.transpose),
    ),
    mistake(
        "text_projection_transposed",
        "the weight text.text_projection is transposed; stored as [in, out], it applies as x @ "
        "text_projection",
        parameter("text.text_projection", np.transpose),
    ),
    mistake(
        "class_token_last",
        "the class token comes after the patch tokens; it must come first",
        operation("vision.embed", changes.image_class_last),
    ),
    mistake(
        "no_class_embedding",
        "the image's class embedding is missing (zeros, or no class token at all)",
        parameter("visual.class_embedding", np.zeros_like),
        operation("vision.embed", changes.without_class_token),
    ),
    mistake(
        "no_positions",
        "the image's positional embedding is missing",
        parameter("visual.positional_embedding", np.zeros_like),
    ),
    mistake(
        "positions_shifted",
        "the image's positional embedding is off by one position",
        shifted("visual.positional_embedding", 1),
        shifted("visual.positional_embedding", -1),
    ),
    mistake(
        "patches_by_column",
        "the patches are in column-major order; they must be in row-major order",
        patches(changes.column_major),
    ),
    mistake(
        "patch_transposed",
        "the rows and columns of each patch (or of the patch embedding's kernel) are swapped",
        patches(lambda x: x.swapaxes(-1, -2)),
    ),
    mistake(
        "bgr_kernel",
        "the patch embedding's input channels are BGR instead of RGB, though the pixels are right",
        patches(lambda x: x[:, :, ::-1]),
    ),
    mistake(
        "patch_channels_last",
        "the patches are flattened channels last; the patch embedding's kernel is [W, 3, P, P], channels "
        "first",
        patches(lambda x: np.moveaxis(x, 2, -1)),
    ),
    mistake(
        "patches_not_moved",
        "the patch embedding's output [T, W, patches] is reshaped to [T, patches, W]; it must be transposed",
        operation("vision.embed_patches", changes.reshaped(-1, 1)),
    ),
    mistake(
        "bgr",
        "the frames' channels are BGR instead of RGB",
        operation("preprocess.preprocess", changes.bgr_frames),
    ),
    mistake(
        "pixels_not_normalized",
        "the pixels are in 0..1, not normalized with mean and standard deviation",
        mean_and_std(lambda p: ((0.0,) * 3, (1.0,) * 3)),
    ),
    mistake(
        "pixels_to_255",
        "the pixels are not divided by 255 before they are normalized with mean and standard deviation",
        mean_and_std(lambda p: ([m / 255 for m in p.mean], [s / 255 for s in p.std])),
    ),
    mistake(
        "pixels_raw",
        "the pixels are in 0..255, neither divided by 255 nor normalized with mean and standard deviation",
        mean_and_std(lambda p: ((0.0,) * 3, (1 / 255,) * 3)),
    ),
    mistake(
        "pixels_not_moved",
        "the frames [T, S, S, 3] are reshaped to [T, 3, S, S]; they must be transposed",
        operation("preprocess.preprocess", changes.reshaped(1, -1)),
    ),
    mistake(
        "imagenet_mean",
        "the pixels are normalized with ImageNet's mean and standard deviation instead of preprocess_cfg's",
        mean_and_std(lambda p: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ),
    mistake(
        "text_positions_shifted",
        "the text's positional embedding is off by one position",
        shifted("text.positional_embedding", -1),
        shifted("text.positional_embedding", 1),
    ),
    mistake(
        "no_text_positions",
        "the text's positional embedding is missing",
        parameter("text.positional_embedding", np.zeros_like),
    ),
    mistake(
        "no_text_class_embedding",
        "the text's class embedding is missing",
        parameter("text.cls_emb", np.zeros_like),
    ),
    mistake(
        "text_class_first",
        "the text's class embedding comes before the tokens; it must come after the last position, padding "
        "included",
        operation("text.embed", changes.text_class_first),
    ),
    mistake(
        "mask_not_shifted",
        "the text's padding mask is off by one key: open_clip's is shifted by one, unless correct_cls_mask "
        "is set",
        Change(config=changes.other_cls_mask),
    ),
    mistake(
        "mask_shifted_back",
        "the text's padding mask is shifted the wrong way: ids[j] hides key j - 1; it hides key j + 1 as in "
        "open_clip, or key j if correct_cls_mask is set",
        operation("text.attention_mask", changes.mask_shifted_back),
    ),
    mistake(
        "mask_in_class_row",
        "the text's padding mask is in the class token's row alone; it is in every row, and shifted by one "
        "key unless correct_cls_mask is set",
        operation("text.attention_mask", changes.mask_in_class_row),
        Change({"text.attention_mask": changes.mask_in_class_row}, config=changes.other_cls_mask),
    ),
    mistake(
        "no_padding_mask",
        "the unimodal text decoder has no padding mask",
        operation("text.attention_mask", changes.no_padding_mask),
    ),
    mistake(
        "text_not_causal",
        "the unimodal text decoder has no causal mask",
        operation("text.attention_mask", changes.no_causal_mask),
    ),
    mistake(
        "ln_final_on_features",
        "ln_final is applied to the token features; it applies to the text's latent only",
        operation("text.transformer", changes.norm_after_transformer),
    ),
    mistake(
        "no_text_ln_final",
        "text.ln_final, the LayerNorm before the text's projection, is missing",
        without_norm("text.ln_final"),
    ),
    mistake(
        "latent_of_end_token",
        "the text's latent is computed from the end token's position, as in CLIP; CoCa computes it from the "
        "class position, the last one",
        Change(with_ids={"text.transformer": changes.latent_of_end_token}),
    ),
    mistake(
        "mean_pooling",
        "each frame is pooled separately (mean pooling); VideoCoCa pools the flattened tokens of all frames",
        Change(adapter="mean"),
        Change(adapter="mean", outputs={"pool.attended": lambda x: x.mean(axis=0)}),
    ),
    mistake(
        "query_0_kept",
        "query 0 is among the caption tokens; it is the contrastive query, the others are generative",
        operation("pooling.split_queries", lambda split: lambda x: (split(x)[0], x)),
    ),
    mistake(
        "latent_last_query",
        "the latent is computed from the last query instead of query 0",
        operation("pooling.split_queries", lambda split: lambda x: (x[..., -1, :], split(x)[1])),
    ),
    mistake(
        "last_query_dropped",
        "the caption tokens lack the last query instead of query 0",
        operation("pooling.split_queries", lambda split: lambda x: (split(x)[0], x[..., :-1, :])),
    ),
    mistake(
        "not_unit",
        "the latent is not L2-normalized",
        operation("ops.normalize", constant(lambda x: x)),
    ),
    mistake(
        "no_frame_positions",
        "the positional embedding of the frames is missing in the factorized adapter",
        parameter("factorized.positional_embedding", np.zeros_like),
    ),
    mistake(
        "frame_positions_shifted",
        "the positional embedding of the frames is off by one position",
        shifted("factorized.positional_embedding", 1),
        shifted("factorized.positional_embedding", -1),
    ),
    mistake(
        "frames_causal",
        "the layers across the frames have a causal mask; every frame must attend to all",
        across_frames(lambda T: np.tri(T, dtype=bool)),
    ),
    mistake(
        "frames_apart",
        "in the layers across the frames each frame attends to itself alone (batch_first: [T, E] is taken "
        "for a batch of T sequences)",
        across_frames(lambda T: np.eye(T, dtype=bool)),
    ),
    mistake(
        "decoder_not_causal",
        "the multimodal text decoder has no causal mask",
        operation("decoder.causal_mask", changes.all_true),
    ),
    mistake(
        "padding_mask_in_decoder",
        "the padding is masked in the multimodal text decoder; only the unimodal one has a padding mask",
        Change(with_ids={"decoder.causal_mask": changes.padding_in_decoder}),
    ),
    mistake(
        "no_decoder_ln_final",
        "text_decoder.ln_final, the LayerNorm before the vocabulary projection, is missing",
        without_norm("text_decoder.ln_final"),
    ),
    mistake(
        "log_probabilities",
        "the logits are log-probabilities (after log_softmax)",
        output("logits", ops.log_softmax),
    ),
    mistake(
        "logits_shifted",
        "the logits are shifted by one position; row i holds the prediction of the token after ids[i]",
        *(output("logits", changes.shifted_rows(by)) for by in (1, -1)),
        *(output("logits", changes.shifted_with_zeros(by)) for by in (1, -1)),
        output("logits", lambda x: x[..., 1:, :]),
    ),
    mistake(
        "no_in_proj_bias", "attention's in_proj_bias is missing", parameter("*.in_proj_bias", np.zeros_like)
    ),
    mistake(
        "no_out_proj_bias",
        "attention's out_proj.bias is missing",
        parameter("*.out_proj.bias", np.zeros_like),
    ),
    mistake(
        "no_c_fc_bias",
        "the bias of the MLP's first linear layer (c_fc) is missing",
        parameter("*.c_fc.bias", np.zeros_like),
    ),
    mistake(
        "no_c_proj_bias",
        "the bias of the MLP's second linear layer (c_proj) is missing",
        parameter("*.c_proj.bias", np.zeros_like),
    ),
    mistake(
        "axes_transposed",
        "the axes are permuted (sequence first, batch first, channels last): transpose the tensor before "
        "writing it",
    ),
    mistake(
        "batch_axis",
        "there is a batch axis larger than one: a trace holds one video, so write one item of the batch",
    ),
    mistake(
        "other_weights",
        "the weights are another model's, those of a finetuned variant, or quantized: pass the checkpoint "
        "that was run with --weights",
    ),
)

AXES_TRANSPOSED, BATCH_AXIS, OTHER_WEIGHTS = MISTAKES[-3:]
