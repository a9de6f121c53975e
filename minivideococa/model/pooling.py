"""VideoCoCa's step: flatten the tokens of all frames, and apply CoCa's own attentional poolers to them.

The poolers were trained on the N tokens of one image. Attention takes any number of keys, so they take the T
N tokens of a video as they are (arXiv 2212.04979, section 3): no new weights, and no order of frames. Only
the factorized adapter has layers of its own, which with positions know the order of frames.
"""

from .config import Array, Config, Params, VisionConfig
from .hooks import block, record, replaceable
from .ops import attention, keys_and_values, layer_norm, normalize
from .transformer import residual_block


def flatten(tokens: Array) -> Array:
    """Join the tokens of all frames to one sequence: [..., T, N, W] -> [..., T N, W]."""
    return tokens.reshape(*tokens.shape[:-3], -1, tokens.shape[-1])


@replaceable
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
    """Pool tokens [..., M, W] to an embedding [..., E] and caption tokens [..., Q', E].

    The embedding times `proj`, scaled to unit length, is the latent.

    `config.attentional_pool` selects one of three forms:

    - True, in the released weights: one pooler, then `ln_post`; query 0 is the embedding, so Q' = Q - 1.
    - "parallel", in the paper: `ln_post` first, and Q' = Q; a second pooler with a single query gives the
      embedding from the frame tokens.
    - "cascade", in the paper: the same, but from the caption tokens.
    """
    heads, ln_post = config.pooler_heads, visual["ln_post"]
    if config.attentional_pool is not True:
        tokens = layer_norm(tokens, **ln_post)
    with block("pool"):
        pooled = attentional_pooler(tokens, visual["attn_pool"], heads)  # [..., Q, E]
        pooled = record("pool.attended", pooled)
    if config.attentional_pool is True:
        return split_queries(layer_norm(pooled, **ln_post))
    context = tokens if config.attentional_pool == "parallel" else pooled
    with block("pool.contrastive"):
        embedding = attentional_pooler(context, visual["attn_pool_contrastive"], heads)[..., 0, :]
    return embedding, pooled


def pool_video(tokens: Array, params: Params, config: Config, adapter: str) -> tuple[Array, Array]:
    """Pool frame tokens [..., T, N, W] by one of the `config.ADAPTERS`, as one of the functions below."""
    if adapter == "factorized":
        return factorized_pool(tokens, params["visual"], params["factorized"], config)
    return (mean_pool if adapter == "mean" else pool)(tokens, params["visual"], config.vision)


def pool(tokens: Array, visual: Params, config: VisionConfig) -> tuple[Array, Array]:
    """Pool frame tokens [..., T, N, W] to a latent [..., E], of unit length, and caption tokens [..., Q', E].

    The leading axes, here and below, are those of a batch of videos.
    """
    embedding, caption_tokens = pool_tokens(record("pool.flat", flatten(tokens)), visual, config)
    caption_tokens = record("pool.tokens", caption_tokens)
    return record("pool.latent", normalize(embedding @ visual["proj"])), caption_tokens


def mean_pool(tokens: Array, visual: Params, config: VisionConfig) -> tuple[Array, Array]:
    """Pool each frame separately, then average over the frames: the results are those of `pool`.

    The mean pooling that VideoCoCa compares with (arXiv 2212.04979, section 3). Latents are averaged before
    they are normalized.
    """
    embeddings, caption_tokens = pool_tokens(tokens, visual, config)  # [..., T, E] and [..., T, Q', E]
    caption_tokens = record("pool.tokens", caption_tokens.mean(axis=-3))
    return record("pool.latent", normalize((embeddings @ visual["proj"]).mean(axis=-2))), caption_tokens


@replaceable
def embed_frames(tokens: Array, visual: Params, factorized: Params, config: VisionConfig) -> Array:
    """Pool each frame [..., T, N, W] to one embedding [..., T, E], and add the frames' positions, if any."""
    embeddings, _ = pool_tokens(tokens, visual, config)
    if "positional_embedding" in factorized:
        embeddings = embeddings + factorized["positional_embedding"][: embeddings.shape[-2]]
    return record("factorized.embed", embeddings)


def factorized_pool(tokens: Array, visual: Params, factorized: Params, config: Config) -> tuple[Array, Array]:
    """Pool each frame to one embedding, then apply new transformer layers across the frames.

    The factorized encoder that VideoCoCa compares with (arXiv 2212.04979, section 3): the layers' outputs are
    the caption tokens [..., T, E], and their mean gives the latent [..., E]. Whether the paper's layers have
    positions is not known. Here they are an option: without them the order of frames is lost.
    """
    assert config.factorized is not None
    x = embed_frames(tokens, visual, factorized, config.vision)  # [..., T, E]
    for i, p in enumerate(factorized["resblocks"]):
        with block(f"factorized.block.{i}"):
            x = residual_block(x, p, config.factorized)
        x = record(f"factorized.block.{i}", x)
    x = record("pool.tokens", x)
    return record("pool.latent", normalize(x.mean(axis=-2) @ visual["proj"])), x
