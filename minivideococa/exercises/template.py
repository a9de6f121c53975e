"""Nine exercises: the steps of VideoCoCa, to be written by you.

Write the body of a function in place of its last line, then run

    minivideococa check exercises.py

It puts each function that you have written in place of the package's own, and runs the model. README.md in
minivideococa/exercises has the idea of each, and walkthrough.md the whole. A function may call earlier ones.

Axis letters: T frames, N tokens per frame, W vision width, Q queries, E embedding width, B texts, L text
length, V vocabulary, H heads and D = E / H; S the side of an image and P that of a patch, in pixels; M any
number of keys. `...` stands for any leading axes.

From the package, for your use: ops.linear(x, weight, bias) is x W^T + b; ops.layer_norm(x, weight, bias);
ops.softmax(x) and ops.log_softmax(x) over the last axis. Or write them yourself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minivideococa.model import ops

Array = np.ndarray


def patchify(pixels: Array, patch_size: int) -> Array:
    """1. Cut images into patches: [T, 3, S, S] -> [T, n n, 3 P P], with n = floor(S / P).

    The patches go row by row. Each is flattened as [3, P, P]. Pixels beyond the last whole patch are dropped.
    """
    raise NotImplementedError


def attention(queries: Array, keys: Array, values: Array, heads: int, mask: Array | None = None) -> Array:
    """2. Attend with several heads: softmax(Q K^T / sqrt D) V in each, [..., L, E] -> [..., L, E].

    queries: [..., L, E], keys and values: [..., M, E], all of them projected already; head h has the channels
    h D to (h + 1) D. Leading axes broadcast. mask: bool, broadcasts to [..., H, L, M], True where a query
    attends to a key; None: everywhere.
    """
    raise NotImplementedError


def pooler(tokens: Array, p: dict[str, Any], heads: int) -> Array:
    """3. Pool the tokens of all frames with learned queries: VideoCoCa's step, [T, N, W] -> [Q, E].

    p: the parameters, arrays and dicts of arrays. p["query"] is [Q, E]. p["ln_q"] and p["ln_k"] hold the
    weight and bias of the LayerNorms of the queries and of the tokens. p["attn"] holds the projections:
    ops.in_projection(p["attn"], "q"), likewise "k" and "v", returns weight and bias; p["attn"]["out_proj"]
    holds those of the output.
    """
    raise NotImplementedError


def shifted_mask(ids: Array, pad_id: int) -> Array:
    """4. Return the attention mask of the unimodal text decoder: [B, L] -> bool [B, 1, L + 1, L + 1].

    The class token follows the L ids, so there are L + 1 positions. True where a query (second last axis)
    attends to a key (last axis): causal, and key j is masked where ids[j - 1] is padding. Key 0 never is.
    """
    raise NotImplementedError


def greedy(next_logits: Callable[[Any], Array], start_id: int, end_id: int, max_length: int) -> Any:
    """5. Decode greedily: return ids [L], with the start id and, if it was produced, the end id.

    next_logits: takes ids [L], returns the logits [V] of the token after them. max_length: the most ids,
    the start id and the end id included.
    """
    raise NotImplementedError


def cached_attention(
    queries: Array, keys: Array, values: Array, cache: dict[str, Array], heads: int
) -> Array:
    """6. Causal self-attention of new positions, with a key-value cache: [..., L, E] -> [..., L, E].

    queries, keys, values: [..., L, E], of the L positions after those of earlier calls. cache: a dict of your
    own, {} at the first call for a text, and the same one at each further call.
    """
    raise NotImplementedError


def beam_search(
    next_logits: Callable[[Any], Array], start_id: int, end_id: int, beams: int, max_length: int
) -> Any:
    """7. Search for the text with the highest score: return ids [L], with the start id and the end id.

    A text's score is the sum of the log-probabilities of its tokens after the start id, divided by the number
    of its ids, start and end included. At each step extend the `beams` best unfinished texts by every token.
    A text is finished with the end id, or at max_length without one. next_logits: as in `greedy`.
    """
    raise NotImplementedError


def pooler_gradient(dpooled: Array, queries: Array, keys: Array, values: Array) -> tuple[Array, Array, Array]:
    """8. Back-propagate through pooled = softmax(queries keys^T / sqrt D) values.

    dpooled: [H, Q, D], the gradient of the loss with respect to pooled; queries: [H, Q, D], keys and values:
    [H, M, D]. Return the gradients of the loss with respect to queries, keys and values, of their shapes.
    """
    raise NotImplementedError


def sample_frames(frames: Array, num_frames: int) -> Any:
    """9. Choose the frames that the model is shown: uint8 [n, 64, 64, 3] -> num_frames indices, 0 to n - 1.

    Beat uniform sampling on clips that show their object briefly. Only the chosen frames are encoded.
    """
    raise NotImplementedError
