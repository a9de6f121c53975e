"""What `check` says about each common mistake: its name -> a hint in a sentence."""

HINTS = {
    # patchify
    "reshaped_alone": (
        "a reshape alone cannot cut: it reads the pixels in the order of memory, along whole rows of "
        "the image. Split both sides into two axes first, [T, 3, n, P, n, P], then transpose"
    ),
    "channels_last": (
        "the patches are right, but flattened channels last: a patch is [3, P, P], as the kernel [W, "
        "3, P, P] is"
    ),
    "by_column": "the patches go column by column; they go row by row",
    "patch_turned": "rows and columns are exchanged inside each patch: its last axis runs along the width",
    "all_turned": "rows and columns are exchanged everywhere: the last axis of the pixels is the width",
    "wrong_axes": (
        "of the axes [T, 3, n, P, n, P] some are not where [T, n, n, 3, P, P] has them: the two n "
        "come first, then the channels, then the two P"
    ),
    "wrong_border": (
        "the pixels beyond the last whole patch, which are dropped, are at the right and at the bottom"
    ),
    "not_cropped": (
        "n is the floor of S / P: the pixels beyond the last whole patch are dropped. Crop to n P rows and "
        "columns first, pixels[..., : n * P, : n * P]"
    ),
    # attention
    "not_scaled": "the scores are not divided by sqrt D",
    "scaled_by_width": "the scores are divided by sqrt E: D is the width of one head, E / H",
    "scaled_by_square": "the scores are divided by D, not by its square root",
    "one_head": (
        "this is attention with one head: split the channels, so that each head has a softmax of its own"
    ),
    "over_queries": (
        "the softmax goes over the queries: the weights of one query, along the last axis, add up to 1"
    ),
    "interleaved": (
        "head h has the channels h D to (h + 1) D: the last axis splits into [H, D], not into [D, H]"
    ),
    "merged_unmoved": (
        "the heads are merged by a reshape alone: move their axis back beside D first, to [L, H, D]"
    ),
    "heads_unmoved": (
        "a reshape of [L, E] to [H, L, D] mixes positions with channels: reshape to [L, H, D], then transpose"
    ),
    "mask_ignored": "the mask has no effect",
    "mask_inverted": "the mask is upside down: True is where a query attends to a key",
    "masked_with_zero": "a masked score of 0 still has a weight, since exp(0) = 1: it must be -inf",
    "masked_late": (
        "the weights are masked after the softmax, so those that are left no longer add up to 1: give "
        "the scores -inf before it"
    ),
    # the pooler
    "mean_pooling": (
        "this is mean pooling: each frame is pooled alone, then the results are averaged. Flatten [T, "
        "N, W] to [T N, W] first, so that one softmax goes over the tokens of all frames"
    ),
    "tokens_averaged": (
        "the frames' tokens are averaged before they are pooled: flatten them, so that none is lost"
    ),
    "not_flattened": (
        "T and N are not joined: every frame is pooled alone. Flatten [T, N, W] to [T N, W] first"
    ),
    "first_frame": "only the first frame is pooled",
    "no_class_tokens": "the class tokens are missing: they are keys like any other token",
    "class_tokens_alone": "only the class tokens are pooled: all N tokens of a frame are keys",
    "no_ln_q": "ln_q, the LayerNorm of the queries, is missing",
    "no_ln_k": "ln_k, the LayerNorm of the tokens, is missing",
    "no_norms": "both LayerNorms are missing: ln_q for the queries, ln_k for the tokens",
    "ln_q_turned": "weight and bias of ln_q are exchanged: ops.layer_norm(x, weight, bias), in this order",
    "ln_k_turned": (
        "weight and bias of ln_k, perhaps of ln_q too, are exchanged: ops.layer_norm(x, weight, bias), in "
        "this order"
    ),
    "kv_swapped": "keys and values are exchanged: each has a projection of its own, and weights the other",
    "no_out_proj": 'the output projection, p["attn"]["out_proj"], is missing',
    "residual": (
        "the queries are added to the result: a pooler is one attention, without a residual connection"
    ),
    "pooler_one_head": "there is only one head: pass heads on to attention",
    # the shifted mask
    "not_shifted": (
        "the padding mask is not shifted: key j is masked where ids[j - 1] is padding, and key 0 "
        "never. So the first padding stays visible, and after padding the class token, the last key, "
        "is masked"
    ),
    "shifted_back": (
        "the padding mask is shifted the other way: key j depends on ids[j - 1], the id before it"
    ),
    "not_causal": "the mask is not causal: a query attends to itself and to earlier keys alone",
    "anticausal": (
        "the mask is causal the other way round: rows are queries, columns are keys: a lower triangle"
    ),
    "causal_alone": "the padding is not masked: this is the causal mask alone",
    "upside_down": "the mask is upside down: True is where a query attends to a key",
    "additive": "this mask is one to add to the scores: return bool, True where a query attends to a key",
    "class_visible": (
        "here the class token always attends to itself; in the released models its key is masked like "
        "any other, by the id before it"
    ),
    "queries_masked": "the queries at padding are masked too: the mask is of keys",
    # decoding
    "no_start": "the start id is missing: the ids begin with it",
    "no_end": "the end id is missing: it belongs to the text",
    "never_ends": "the text goes on after the end id: stop when it has been appended",
    "one_too_few": "it stops one id before max_length",
    "least_likely": "this appends the least likely token: argmax, not argmin",
    "last_id_alone": "next_logits was given the last id alone: the next token depends on all ids so far",
    "first_chosen_again": (
        "the same ids are passed to next_logits again and again: append each new id to them"
    ),
    # the cache
    "nothing_kept": (
        "a call attends to its own positions alone: the cache keeps nothing from one call to the next"
    ),
    "last_call_kept": (
        "a call attends to the positions of the call before and its own alone: add the new keys and "
        "values to those in the cache, do not replace them"
    ),
    "cache_not_causal": (
        "the new positions attend to each other in both directions: a prompt is several positions at "
        "once, and they need a causal mask"
    ),
    "mask_without_offset": (
        "the mask forgets the positions in the cache: query i of this call is position i + (the "
        "number of cached ones), and attends to all before it. See np.tri(L, M + L, M)"
    ),
    "new_first": "the new keys and values are put before the old ones; the mask expects them behind",
    "cached_heads": "there is one head only: pass heads on to attention",
    # beam search
    "greedy_text": (
        "this is the text of greedy decoding: keep several texts at each step, not the best one alone"
    ),
    "sum_alone": "the scores are not divided by the number of ids, so that short texts win",
    "raw_logits": (
        "these scores are sums of raw logits, which have no fixed zero: take log_softmax first. "
        "(open_clip sums them all the same)"
    ),
    "probabilities": (
        "these scores are sums of probabilities: the probability of a text is a product, so sum logarithms"
    ),
    "lower_score": (
        "another text has a higher score, and a search with this many beams finds it. Does a finished "
        "text stay in the competition until the end? Is every beam extended by every token, before "
        "the best are chosen?"
    ),
    # the pooler's gradient
    "gradient_not_scaled": (
        "the factor 1 / sqrt D is missing: the scores are queries keys^T / sqrt D, so it stands in "
        "the gradients of both queries and keys"
    ),
    "gradient_scaled_twice": "the factor 1 / sqrt D is there twice: the scores were divided once",
    "no_mean": (
        "the softmax's gradient lacks a term: a weight that rises lowers the others, so dscores = "
        "weights * (dweights - sum of dweights * weights over the keys)"
    ),
    "mean_over_queries": (
        "the sum in the softmax's gradient goes over the keys, the last axis: those shared one softmax"
    ),
    "other_order": "the gradients are right, in another order: return those of queries, keys, values",
    "negative": "the gradients point the other way: the sign is wrong",
    # frame sampling
    "uniform": (
        "this chooses as uniform sampling does. What differs between the frames that show the object "
        "and the others?"
    ),
    "empty_after": (
        "many of your frames show no object. A large change between two frames is where the object "
        "appears or disappears: which of the two shows it? Compare with what is usual in the clip, "
        "such as the median frame"
    ),
    "same_frame": "the same frame several times is one frame: attention to copies is attention to one",
}
