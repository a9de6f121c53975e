"""The classifier of answers: CoCa's head for visual question answering (arXiv 2205.01917, appendix B).

The question passes through the text decoder, a new attentional pooler with a single query turns the decoder's
outputs into one vector, and a linear classifier gives the logits of the most frequent answers. The paper
leaves the pooler's other details open: here it has the norms of CoCa's poolers, and padding is masked.
"""

from __future__ import annotations

import numpy as np

from .model import decoder, text
from .model.config import Array, Config, Params
from .model.ops import attention, keys_and_values, layer_norm, linear


def answer_logits(hidden: Array, mask: Array, head: Params, heads: int) -> Array:
    """Return the logits of answers [B, answers].

    hidden: the decoder's outputs [B, L, E] at the question's ids, from `decoder.hidden_states`. mask: bool
    [B, L], False at padding.
    """
    pooler = head["pooler"]
    query = layer_norm(pooler["query"], **pooler["ln_q"])  # [1, E]
    keys, values = keys_and_values(layer_norm(hidden, **pooler["ln_k"]), pooler["attn"], heads)
    pooled = attention(query, keys, values, pooler["attn"], heads, mask[:, None, None, :])  # [B, 1, E]
    return linear(pooled[:, 0], **head["classifier"])


def classify_questions(ids: Array, tokens: Array, params: Params, config: Config) -> Array:
    """Return the logits of the answers [B, answers] to questions of one length about videos.

    ids: [B, L], start and end included, without padding. tokens: the caption tokens [B, Q', E].
    """
    _, features = text.encode_text(ids, params["text"], config.text)  # [B, L, E]
    kv = decoder.cross_attention_kv(tokens, params["text_decoder"], config.decoder)
    hidden = decoder.hidden_states(features, kv, params["text_decoder"], config.decoder)  # [B, L, E]
    mask = np.ones(ids.shape, bool)
    return answer_logits(hidden, mask, params["question_head"], config.vision.pooler_heads)
