"""Laws that hold whatever the weights: properties over small configurations of all three pooler forms."""

from unittest import mock

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from properties import examples

from minivideococa.model import kernels
from minivideococa.model.hooks import replace_operations, trace

seeds = st.integers(0, 2**32 - 1)


@st.composite
def configurations(draw):
    """Overrides for `tiny_model`: widths, heads, sizes and switches as they come."""
    E = draw(st.sampled_from([4, 6, 12]))
    heads = st.sampled_from([h for h in (1, 2, 3, 4, 6) if E % h == 0])
    form = draw(st.sampled_from([True, "parallel", "cascade"]))
    head_width = draw(heads) if form is not True else draw(st.integers(1, 5))
    patch = draw(st.integers(1, 4))
    L, quick = draw(st.integers(4, 8)), draw(st.booleans())
    V = draw(st.integers(5, 9))
    return {
        "embed_dim": E,
        "quick_gelu": quick,
        "vision": {
            "patch_size": patch,
            "image_size": patch * draw(st.integers(1, 3)) + draw(st.integers(0, patch - 1)),
            "width": E if form is not True else head_width * draw(st.integers(1, 3)),
            "head_width": head_width,
            "layers": draw(st.integers(1, 2)),
            "mlp_ratio": draw(st.sampled_from([1, 2.5, 4])),
            "no_ln_pre": draw(st.booleans()),
            "attentional_pool": form,
            "attn_pooler_heads": draw(heads),
            "attn_pooler_queries": draw(st.integers(2, 4)),
        },
        "text": {
            "context_length": L,
            "vocab_size": V,
            "width": E,
            "heads": draw(heads),
            "layers": draw(st.integers(1, 2)),
            "pad_id": draw(st.integers(0, V - 1)),
            "correct_cls_mask": draw(st.booleans()),
        },
        "decoder": {
            "context_length": L,
            "vocab_size": V,
            "width": E,
            "heads": draw(heads),
            "layers": draw(st.integers(1, 2)),
        },
    }


def law(number=40):
    return lambda test: settings(max_examples=examples(number))(
        given(configurations(), seeds, st.data())(test)
    )


def make(tiny_model, overrides, seed, dtype="float64"):
    return tiny_model(seed, dtype, **overrides), np.random.default_rng(seed)


def random_pixels(model, rng, frames):
    size = model.config.vision.image_size
    return rng.standard_normal((frames, 3, size, size)).astype(np.float32)


def random_ids(model, rng, shape):
    """About half of them padding, never the first: `correct_cls_mask` leaves such a start nothing to see."""
    c = model.config.text
    ids = rng.integers(0, c.vocab_size, shape)
    ids[rng.random(shape) < 0.4] = c.pad_id
    ids[..., 0] = (c.pad_id + 1) % c.vocab_size
    return ids


def close(got, want, eps=2.0**-52):
    """Equal but for the order in which sums were taken, or for the dtype's rounding.

    Each of some 50 operations on the way is off by about one eps, and a norm enlarges what it is given where
    its input hardly varies. The largest difference in thousands of examples was 13 eps between two orders and
    31 between two dtypes. The limit is 500 eps of the largest number, 1e-13 or 6e-5; a wrong formula is
    off by more than 1e-3.
    """
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= 500 * eps * np.abs(want).max(initial=0)


def features(model, ids):
    """Token features and latents [B, L + 1, E]: what the unimodal decoder gives, the class's place last."""
    with trace() as t:
        latents = model.encode_text(ids)
    tokens = t["text.tokens"] if len(ids) > 1 else t["text.tokens"][None]
    return np.concatenate([tokens, latents[:, None]], axis=1)


# Frames


@law()
def test_the_order_of_frames_does_not_matter(tiny_model, overrides, seed, data):
    model, rng = make(tiny_model, overrides, seed)
    T = data.draw(st.integers(2, 5))
    pixels, order = random_pixels(model, rng, T), np.array(data.draw(st.permutations(range(T))))
    video, permuted = model.encode_video(pixels), model.encode_video(pixels[order])
    close(permuted.latent, video.latent)
    close(permuted.tokens, video.tokens)


@law()
def test_copies_of_a_frame_are_that_frame(tiny_model, overrides, seed, data):
    model, rng = make(tiny_model, overrides, seed)
    one = random_pixels(model, rng, 1)
    video = model.encode_video(np.repeat(one, data.draw(st.integers(2, 5)), axis=0))
    still = model.encode_video(one)
    close(video.latent, still.latent)
    close(video.tokens, still.tokens)


@law()
def test_every_copy_of_a_frame_counts(tiny_model, overrides, seed, data):
    """Pooling is over tokens, not over different frames: a frame that comes twice weighs more."""
    model, rng = make(tiny_model, overrides, seed)
    tokens = rng.standard_normal((2, model.config.vision.tokens_per_frame, model.config.vision.width))
    assume(model.config.vision.width > 1)  # of one number a norm leaves nothing
    once, twice = model.pool(tokens), model.pool(tokens[[0, 0, 1]])
    assert np.abs(once.tokens - twice.tokens).max() > 1e-9


@law()
def test_each_frame_is_encoded_by_itself(tiny_model, overrides, seed, data):
    model, rng = make(tiny_model, overrides, seed)
    pixels = random_pixels(model, rng, data.draw(st.integers(2, 4)))
    together = model.encode_frames(pixels)
    close(together, np.concatenate([model.encode_frames(frame[None]) for frame in pixels]))
    t = data.draw(st.integers(0, len(pixels) - 1))
    pixels[t] += 1
    changed = (model.encode_frames(pixels) != together).any(axis=(1, 2))
    assert not np.delete(changed, t).any()


@law()
def test_a_pixel_belongs_to_one_patch(tiny_model, overrides, seed, data):
    """Before the blocks a pixel reaches its patch's token, row by row behind the class; a rest, none."""
    model, rng = make(tiny_model, overrides, seed)
    assume(model.config.vision.width > 2)  # of one or two numbers a norm leaves at most a sign
    P, S = model.config.vision.patch_size, model.config.vision.image_size
    pixels = random_pixels(model, rng, 1)
    channel, y, x = data.draw(st.tuples(st.integers(0, 2), st.integers(0, S - 1), st.integers(0, S - 1)))
    with trace() as before:
        model.encode_frames(pixels)
    pixels[0, channel, y, x] += 1
    with trace() as after:
        model.encode_frames(pixels)
    changed = np.flatnonzero((before["vision.embed"] != after["vision.embed"]).any(axis=(0, 2)))
    across = S // P
    inside = y < across * P and x < across * P
    assert changed.tolist() == ([1 + y // P * across + x // P] if inside else [])


# Texts


@law()
def test_latents_need_only_the_positions_that_they_depend_on(tiny_model, overrides, seed, data):
    """A trace computes all positions; the text may have padding anywhere, and mask it in either way."""
    model, rng = make(tiny_model, overrides, seed)
    B, L = data.draw(st.integers(1, 4)), data.draw(st.integers(1, model.config.text.context_length))
    ids = random_ids(model, rng, (B, L))
    with trace():
        latents = model.encode_text(ids)
    close(model.encode_text(ids), latents)


def test_padding_is_not_computed_but_for_its_first_position(tiny_model):
    model, shapes = tiny_model(0), []
    pad, L = model.config.text.pad_id, model.config.text.context_length
    ids = np.full((3, L), pad)
    for row, length in zip(ids, (2, 4, 3), strict=True):
        row[:length] = (pad + 1) % model.config.text.vocab_size

    def counting(transformer):
        return lambda x, *args, **kwargs: shapes.append(x.shape[1]) or transformer(x, *args, **kwargs)

    with replace_operations({"text.transformer": counting}):
        model.encode_text(ids)
        with trace():
            model.encode_text(ids)
    assert shapes[:-1] and set(shapes[:-1]) <= {4, 5, 6} and shapes[-1] == L + 1  # 2 to 4 ids, 1, the class


@law()
def test_what_texts_begin_with_may_be_computed_once(tiny_model, overrides, seed, data):
    """Also where the beginning holds padding, the texts differ behind it in what they mask, or not at all."""
    model, rng = make(tiny_model, overrides, seed)
    B, L = data.draw(st.integers(2, 5)), data.draw(st.integers(1, model.config.text.context_length))
    ids = random_ids(model, rng, (B, L))
    alike = data.draw(st.integers(0, L))
    ids[:, :alike] = ids[0, :alike]
    with trace():
        latents = model.encode_text(ids)
    with mock.patch.object(kernels, "MANY", 1):
        close(model.encode_text(ids), latents)


def test_a_beginning_that_is_worth_it_is_computed_once(tiny_model, monkeypatch):
    model, shapes = tiny_model(0), []
    monkeypatch.setattr(kernels, "MANY", 6)
    ids = np.full((4, model.config.text.context_length), model.config.text.pad_id)
    ids[:, :3], ids[:, 3] = (1, 2, 3), (4, 5, 6, 7)

    def counting(transformer):
        return lambda x, *args, **kwargs: shapes.append(x.shape[:2]) or transformer(x, *args, **kwargs)

    with replace_operations({"text.transformer": counting}):
        model.encode_text(ids)
        assert shapes == [(1, 3), (4, 3)]  # the beginning; the last id, the padding that is seen, the class
        shapes.clear()
        model.encode_text(ids[:2])
    assert shapes == [(2, 6)]


def test_a_beginning_ends_where_the_texts_see_something_else(tiny_model, monkeypatch):
    """Padding at position 2 hides position 3 from one text alone; position 2 itself is hidden from both."""
    model = tiny_model(0)
    pad = model.config.text.pad_id
    ids = np.array([[1, pad, pad, 3, 4, pad], [1, pad, 2, 3, 4, 5]])
    with trace():
        latents = model.encode_text(ids)
    monkeypatch.setattr(kernels, "MANY", 1)
    close(model.encode_text(ids), latents)


def test_texts_are_taken_in_the_order_that_computes_less(monkeypatch):
    monkeypatch.setattr(kernels, "BATCH_TEXTS", 2)
    alike = np.array([[1, 2, 3, 4, 5, 6], [1, 9, 9, 9, 9, 8], [1, 2, 3, 4, 5, 7], [1, 9, 9, 9, 9, 9]])
    assert set(kernels.batch_order(alike, np.array([6, 6, 6, 6]))[:2]) in ({0, 2}, {1, 3})
    various = np.array([[1, 2, 0, 0, 0, 0], [1, 2, 3, 4, 5, 7], [1, 9, 0, 0, 0, 0], [1, 9, 9, 9, 9, 9]])
    assert set(kernels.batch_order(various, np.array([2, 6, 2, 6]))[:2]) == {0, 2}


@law()
def test_a_batch_of_texts_gives_what_its_parts_give(tiny_model, overrides, seed, data):
    model, rng = make(tiny_model, overrides, seed)
    c = model.config.text
    B, L = data.draw(st.integers(1, 4)), data.draw(st.integers(1, c.context_length))
    ids = random_ids(model, rng, (B, L))
    close(model.encode_text(ids), np.concatenate([model.encode_text(row[None]) for row in ids]))
    tokens = rng.standard_normal((B, 3, model.config.embed_dim))
    close(
        model.decode(tokens, ids),
        np.concatenate([model.decode(one, row[None]) for one, row in zip(tokens, ids)]),
    )
    close(model.decode(tokens[0], ids), model.decode(np.stack([tokens[0]] * B), ids))


@law()
def test_nothing_depends_on_later_ids(tiny_model, overrides, seed, data):
    """What comes later has weight 0: not a digit changes. Only a cut text changes the order of sums."""
    model, rng = make(tiny_model, overrides, seed)
    L = model.config.text.context_length
    ids, tokens = random_ids(model, rng, (2, L)), rng.standard_normal((3, model.config.embed_dim))
    logits, tail = model.decode(tokens, ids), data.draw(st.integers(1, L - 1))
    other = ids.copy()
    other[:, tail:] = rng.integers(0, model.config.text.vocab_size, (2, L - tail))
    np.testing.assert_array_equal(model.decode(tokens, other)[:, :tail], logits[:, :tail])
    np.testing.assert_array_equal(features(model, other)[:, :tail], features(model, ids)[:, :tail])
    close(model.decode(tokens, ids[:, :tail]), logits[:, :tail])


def seen(ids, pad_id, correct):
    """For each position of a text and its class: may it be looked at? The design's two rules, one by one."""
    L = len(ids)
    if correct:
        return [ids[j] != pad_id for j in range(L)] + [True]
    return [j == 0 or ids[j - 1] != pad_id for j in range(L + 1)]


@law(60)
def test_who_sees_whom_in_the_unimodal_decoder(tiny_model, overrides, seed, data):
    """A change at position p reaches p itself and, if p may be looked at, all that come after."""
    model, rng = make(tiny_model, overrides, seed)
    c, positions = model.config.text, model.params["text"]["positional_embedding"]
    L = data.draw(st.integers(1, c.context_length))
    ids = random_ids(model, rng, (1, L))
    before, visible = features(model, ids)[0], seen(ids[0], c.pad_id, c.correct_cls_mask)
    for p in range(L + 1):
        saved = positions[p].copy()
        positions[p] += rng.standard_normal(c.width)
        changed = (features(model, ids)[0] != before).any(axis=1)
        positions[p] = saved
        assert changed.tolist() == [q == p or (q > p and visible[p]) for q in range(L + 1)]


@law(60)
def test_an_id_behind_padding_is_seen_by_nobody(tiny_model, overrides, seed, data):
    """The shifted mask: an id whose left neighbour is padding may become any other word, unnoticed."""
    model, rng = make(tiny_model, overrides | {"text": overrides["text"] | {"correct_cls_mask": False}}, seed)
    c = model.config.text
    ids = random_ids(model, rng, (1, c.context_length))
    p = data.draw(st.integers(2, c.context_length - 1))
    words = [i for i in range(c.vocab_size) if i != c.pad_id]
    ids[0, p - 1], ids[0, p] = c.pad_id, words[0]
    before = features(model, ids)
    ids[0, p] = data.draw(st.sampled_from(words[1:]))
    changed = (features(model, ids) != before).any(axis=(0, 2))
    assert np.flatnonzero(changed).tolist() == [p]


@law(60)
def test_padding_is_seen_once_or_never(tiny_model, overrides, seed, data):
    """Padding's own embedding: the shifted mask shows the first of a run, `correct_cls_mask` none."""
    model, rng = make(tiny_model, overrides, seed)
    c = model.config.text
    length = data.draw(st.integers(1, c.context_length - 1))
    ids = np.full((1, c.context_length), c.pad_id)
    ids[0, :length] = (c.pad_id + 1 + rng.integers(0, c.vocab_size - 1, length)) % c.vocab_size
    before = features(model, ids)
    model.params["text"]["token_embedding"]["weight"][c.pad_id] += rng.standard_normal(c.width)
    changed = (features(model, ids) != before).any(axis=(0, 2)).tolist()
    assert changed[:length] == [False] * length and all(changed[length:-1])
    assert changed[-1] is not c.correct_cls_mask


@law()
def test_the_multimodal_decoder_masks_no_padding(tiny_model, overrides, seed, data):
    """Its only mask is the causal one: a changed token feature reaches every later position's logits."""
    from minivideococa.model.decoder import cross_attention_kv, decode

    model, rng = make(tiny_model, overrides, seed)
    c, E, params = model.config, model.config.embed_dim, model.params["text_decoder"]
    L = data.draw(st.integers(2, c.text.context_length))
    x = rng.standard_normal((1, L, E))
    kv = cross_attention_kv(rng.standard_normal((1, 3, E)), params, c.decoder)
    before = decode(x, kv, params, c.decoder)
    p = data.draw(st.integers(0, L - 1))
    x[0, p] += rng.standard_normal(E)
    changed = (decode(x, kv, params, c.decoder) != before).any(axis=(0, 2))
    assert changed.tolist() == [q >= p for q in range(L)]


@law()
def test_the_text_latent_depends_on_how_far_it_is_padded(tiny_model, overrides, seed, data):
    model, rng = make(tiny_model, overrides, seed)
    c = model.config.text
    L = data.draw(st.integers(1, c.context_length - 1))
    ids = random_ids(model, rng, (1, L))
    padded = np.append(ids, [[c.pad_id]], axis=1)
    assert np.abs(model.encode_text(padded) - model.encode_text(ids)).max() > 1e-9


# Numbers


@law()
def test_latents_have_unit_length(tiny_model, overrides, seed, data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    model, rng = make(tiny_model, overrides, seed, dtype)
    video = model.encode_video(random_pixels(model, rng, 2))
    texts = model.encode_text(random_ids(model, rng, (3, model.config.text.context_length)))
    for latent in (video.latent, *texts):
        # the rounding of a dozen squares, their root and a quotient
        assert abs(np.linalg.norm(latent.astype(np.float64)) - 1) <= 4 * np.finfo(dtype).eps


@law(60)
def test_float32_is_float64_rounded(tiny_model, overrides, seed, data):
    """The same weights, the same code: only the rounding differs; nothing is computed in the other dtype."""
    assume(overrides["vision"]["width"] > 2)  # a norm of one or two numbers is a sign, and may turn
    (small, rng), (large, _) = (make(tiny_model, overrides, seed, dtype) for dtype in ("float32", "float64"))
    pixels = random_pixels(small, rng, 3)
    ids = random_ids(small, rng, (2, small.config.text.context_length))
    results = []
    for model in (small, large):
        with trace() as t:
            model.decode(model.encode_video(pixels).tokens, ids)
        results.append(t)
    for name, want in results[1].items():
        got = results[0][name]
        if name not in ("ids", "pixels"):
            assert (got.dtype, want.dtype) == (np.float32, np.float64), name
        close(got.astype(np.float64), want, eps=2.0**-23)
