"""VideoCoCa's step: flatten the tokens of all frames, and apply CoCa's own attentional poolers to them.

The poolers were trained on the N tokens of one image. Attention takes any number of keys, so they take the T
N tokens of a video as they are (arXiv 2212.04979, section 3): no new weights, and no order of frames.
"""

from .config import Array, Params, VisionConfig
from .hooks import block, record, replaceable
from .kernels import threads_of_frames
from .ops import attention, keys_and_values, layer_norm, normalize


def flatten(tokens: Array) -> Array:
    """Join the tokens of all frames to one sequence: [T, N, W] -> [T N, W]."""
    return tokens.reshape(-1, tokens.shape[-1])


def attentional_pooler(context: Array, pooler: Params, heads: int) -> Array:
    """Cross-attend from learned queries to a context: [..., M, W] -> [..., Q, E] (CoCa, section 3.2)."""
    queries = layer_norm(pooler["query"], **pooler["ln_q"])  # [Q, E]
    context = layer_norm(context, **pooler["ln_k"])
    return attention(queries, *keys_and_values(context, pooler["attn"], heads), pooler["attn"], heads)


@replaceable
def split_queries(pooled: Array) -> tuple[Array, Array]:
    """Split pooled queries [..., Q, E]: query 0 is contrastive [..., E], the rest generative."""
    return pooled[..., 0, :], pooled[..., 1:, :]


def pool_tokens(tokens: Array, visual: Params, config: VisionConfig) -> tuple[Array, Array]:
    """Pool tokens [..., M, W] to a latent [..., E], not yet of unit length, and caption tokens [..., Q', E].

    `config.attentional_pool` selects one of three forms:

    - True, in the released weights: one pooler, then `ln_post`; query 0 gives the latent, so Q' = Q - 1.
    - "parallel", in the paper: `ln_post` first, and Q' = Q; a second pooler with a single query gives the
      latent from the frame tokens.
    - "cascade", in the paper: the same, but from the caption tokens.
    """
    heads, ln_post = config.pooler_heads, visual["ln_post"]
    if config.attentional_pool is not True:
        tokens = layer_norm(tokens, **ln_post)
    with block("pool"):
        pooled = attentional_pooler(tokens, visual["attn_pool"], heads)  # [..., Q, E]
        pooled = record("pool.attended", pooled)
    if config.attentional_pool is True:
        latent, caption_tokens = split_queries(layer_norm(pooled, **ln_post))
        return latent @ visual["proj"], caption_tokens
    context = tokens if config.attentional_pool == "parallel" else pooled
    with block("pool.contrastive"):
        latent = attentional_pooler(context, visual["attn_pool_contrastive"], heads)[..., 0, :]
    return latent @ visual["proj"], pooled


@threads_of_frames
def pool(tokens: Array, visual: Params, config: VisionConfig) -> tuple[Array, Array]:
    """Pool frame tokens [T, N, W] to the video's latent [E], of unit length, and caption tokens [Q', E]."""
    latent, caption_tokens = pool_tokens(record("pool.flat", flatten(tokens)), visual, config)
    caption_tokens = record("pool.tokens", caption_tokens)
    return record("pool.latent", normalize(latent)), caption_tokens


@threads_of_frames
def mean_pool(tokens: Array, visual: Params, config: VisionConfig) -> tuple[Array, Array]:
    """Pool each frame separately, then average over the frames: the results are those of `pool`.

    The mean pooling that VideoCoCa compares with (arXiv 2212.04979, section 3). Latents are averaged before
    they are normalized.
    """
    latents, caption_tokens = pool_tokens(tokens, visual, config)  # [T, E] and [T, Q', E]
    caption_tokens = record("pool.tokens", caption_tokens.mean(axis=0))
    return record("pool.latent", normalize(latents.mean(axis=0))), caption_tokens
