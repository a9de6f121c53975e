"""VideoCoCa as one object: every stage against a plain walk through the design; the interface, its errors."""

import math

import numpy as np
import pytest

from minivideococa.model.config import Video
from minivideococa.model.hooks import trace
from minivideococa.model.videococa import VideoCoCa

START, END = 1, 2  # of the fixture `tokenizer`


def random_pixels(model, frames=2, seed=0):
    size = model.config.vision.image_size
    return np.random.default_rng(seed).standard_normal((frames, 3, size, size)).astype(np.float32)


def random_ids(model, shape, seed=0):
    return np.random.default_rng(seed).integers(0, model.config.text.vocab_size, shape)


def refused(call, *facts):
    """`call` raises a ValueError whose message is one line, and tells the facts that the user needs."""
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(str(fact) in message for fact in facts), (message, facts)


# The forward pass once more, one text, one head and one patch at a time, from the design's facts


def norm(x, p):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * p["weight"] + p["bias"]


def activate(x, quick):
    return x / (1 + np.exp(-1.702 * x)) if quick else x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def attend(x, context, p, heads, visible=None):
    """x [L, E] and context [M, C] -> [L, E]; visible [L, M]."""
    width = x.shape[1]
    separate = [p.get(f"{name}_proj_weight") for name in "qkv"]
    weights = separate if separate[0] is not None else np.split(p["in_proj_weight"], 3)
    q, k, v = (
        y @ weight.T + bias
        for y, weight, bias in zip((x, context, context), weights, p["in_proj_bias"].reshape(3, width))
    )
    heard = np.empty_like(x)
    for head in np.split(np.arange(width), heads):
        powers = np.exp(q[:, head] @ k[:, head].T / math.sqrt(len(head)))
        if visible is not None:
            powers = np.where(visible, powers, 0)
        heard[:, head] = powers / powers.sum(1, keepdims=True) @ v[:, head]
    return heard @ p["out_proj"]["weight"].T + p["out_proj"]["bias"]


def block(x, p, heads, quick, context=None, visible=None):
    asking = norm(x, p["ln_1"])
    answering = asking if context is None else norm(context, p["ln_1_kv"])
    x = x + attend(asking, answering, p["attn"], heads, visible)
    fc, proj = p["mlp"]["c_fc"], p["mlp"]["c_proj"]
    hidden = activate(norm(x, p["ln_2"]) @ fc["weight"].T + fc["bias"], quick)
    return x + hidden @ proj["weight"].T + proj["bias"]


def walk_video(model, pixels):
    c, p, found = model.config.vision, model.params["visual"], {}
    P, across = c.patch_size, c.image_size // c.patch_size
    frames = []
    for frame in pixels.astype(np.float64):
        patches = [
            frame[:, y * P : (y + 1) * P, x * P : (x + 1) * P] for y in range(across) for x in range(across)
        ]
        rows = [p["class_embedding"]] + [
            [(kernel * patch).sum() for kernel in p["conv1"]["weight"]] for patch in patches
        ]
        rows = np.array(rows) + p["positional_embedding"]
        frames.append(norm(rows, p["ln_pre"]) if c.ln_pre else rows)
    found["vision.embed"] = np.array(frames)
    for i, weights in enumerate(p["transformer"]["resblocks"]):
        frames = [block(x, weights, c.heads, c.quick_gelu) for x in frames]
        found[f"vision.block.{i}"] = np.array(frames)

    def pooled(context, pooler):
        return attend(
            norm(pooler["query"], pooler["ln_q"]),
            norm(context, pooler["ln_k"]),
            pooler["attn"],
            c.pooler_heads,
        )

    flat = found["pool.flat"] = np.concatenate(frames)
    if c.attentional_pool is True:
        found["pool.attended"] = pooled(flat, p["attn_pool"])
        normed = norm(found["pool.attended"], p["ln_post"])
        tokens, latent = normed[1:], normed[0]
    else:
        flat = norm(flat, p["ln_post"])
        tokens = found["pool.attended"] = pooled(flat, p["attn_pool"])
        context = flat if c.attentional_pool == "parallel" else tokens
        latent = pooled(context, p["attn_pool_contrastive"])[0]
    latent = latent @ p["proj"]
    return found | {"pool.tokens": tokens, "pool.latent": latent / np.linalg.norm(latent)}


def walk_text(model, ids, caption_tokens):
    c, p, d, found = model.config.text, model.params["text"], model.params["text_decoder"], {"ids": ids}
    L = len(ids)
    words = [p["token_embedding"]["weight"][i] for i in ids]
    x = found["text.embed"] = np.array([*words, p["cls_emb"]]) + p["positional_embedding"][: L + 1]
    valid = [i != c.pad_id for i in ids]
    valid = valid + [True] if c.correct_cls_mask else [True] + valid
    visible = np.array([[key <= query and valid[key] for key in range(L + 1)] for query in range(L + 1)])
    for i, weights in enumerate(p["transformer"]["resblocks"]):
        x = found[f"text.block.{i}"] = block(x, weights, c.heads, c.quick_gelu, visible=visible)
    latent = norm(x[L:], p["ln_final"])[0] @ p["text_projection"]
    x = found["text.tokens"] = x[:L]
    found["text.latent"] = latent / np.linalg.norm(latent)
    for i, (own, cross) in enumerate(zip(d["resblocks"], d["cross_attn"], strict=True)):
        heads, quick = model.config.decoder.heads, model.config.decoder.quick_gelu
        x = found[f"decoder.block.{i}.self"] = block(x, own, heads, quick, visible=np.tri(L, dtype=bool))
        x = found[f"decoder.block.{i}.cross"] = block(x, cross, heads, quick, context=caption_tokens)
    return found | {"logits": norm(x, d["ln_final"]) @ d["text_projection"]}


CONFIGURATIONS = {
    "released form": {},
    "one width": {"vision": {"width": 8, "head_width": 4}},
    "parallel": {"vision": {"width": 8, "head_width": 2, "attentional_pool": "parallel"}},
    "cascade": {"vision": {"width": 8, "head_width": 8, "attentional_pool": "cascade"}},
    "quick gelu": {"quick_gelu": True},
    "no ln_pre": {"vision": {"no_ln_pre": True, "layers": 1, "mlp_ratio": 1.5}},
    "no rest": {"vision": {"image_size": 12, "patch_size": 3, "attn_pooler_heads": 4}},
    "own cls mask": {"text": {"correct_cls_mask": True, "layers": 3, "heads": 4, "mlp_ratio": 2}},
    "another padding": {"text": {"pad_id": 3}, "decoder": {"heads": 8, "layers": 1}},
}
configurations = pytest.mark.parametrize("overrides", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


@configurations
def test_every_stage_is_what_the_design_says(tiny_model, overrides):
    model = tiny_model(1, **overrides)
    pixels, ids = random_pixels(model), np.array([7, 3, 0, 8, 3, 0, 0])  # both padding ids, inside too
    with trace() as got:
        video = model.encode_video(pixels)
        model.decode(video.tokens, ids[None])
    want = {"pixels": pixels} | walk_video(model, pixels)
    want |= walk_text(model, ids, want["pool.tokens"])
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        # float64 through a handful of layers: some hundred roundings of 1e-16
        np.testing.assert_allclose(got[name], tensor, atol=1e-12 * np.abs(tensor).max(), err_msg=name)


# Shapes and dtypes


@configurations
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shapes_and_dtypes(tiny_model, overrides, dtype):
    model = tiny_model(dtype=dtype, **overrides)
    vision, E, V = model.config.vision, model.config.embed_dim, model.config.text.vocab_size
    caption_tokens = vision.queries - (vision.attentional_pool is True)
    tokens = model.encode_frames(random_pixels(model, frames=3))
    assert tokens.shape == (3, vision.tokens_per_frame, vision.width)
    video = model.pool(tokens)
    assert isinstance(video, Video)
    assert video.latent.shape == (E,) and video.tokens.shape == (caption_tokens, E)
    assert abs(np.linalg.norm(video.latent) - 1) < 4 * np.finfo(dtype).eps
    ids = random_ids(model, (2, 5))
    latents = model.encode_text(ids)
    assert latents.shape == (2, E)
    assert np.abs(np.linalg.norm(latents, axis=1) - 1).max() < 4 * np.finfo(dtype).eps
    logits = model.decode(video.tokens, ids)
    assert logits.shape == (2, 5, V)
    assert model.decode(np.stack([video.tokens] * 2), ids).shape == (2, 5, V)
    assert {x.dtype for x in (tokens, *vars(video).values(), latents, logits)} == {np.dtype(dtype)}


def test_arrays_come_back_in_the_models_dtype_whatever_goes_in(tiny_model):
    for mine, others in [("float32", "float64"), ("float64", "float32")]:
        model = tiny_model(dtype=mine)
        tokens = model.encode_frames(random_pixels(model).astype(others))
        video = model.pool(tokens.astype(others))
        logits = model.decode(video.tokens.astype(others), random_ids(model, (1, 3)).astype(np.int32))
        assert {x.dtype for x in (tokens, *vars(video).values(), logits)} == {np.dtype(mine)}


def test_the_two_steps_of_encode_video(tiny_model):
    model = tiny_model()
    pixels = random_pixels(model)
    video, steps = model.encode_video(pixels), model.pool(model.encode_frames(pixels))
    np.testing.assert_array_equal(video.latent, steps.latent)
    np.testing.assert_array_equal(video.tokens, steps.tokens)


def test_configuration_weights_and_tokenizer_are_there(tiny_model, tokenizer):
    model = tiny_model(tokenizer=tokenizer)
    assert isinstance(model, VideoCoCa) and model.tokenizer is tokenizer and tiny_model().tokenizer is None
    assert model.config.embed_dim == 8
    assert model.params["visual"]["transformer"]["resblocks"][1]["ln_1"]["bias"].shape == (12,)
    assert model.logit_scale == pytest.approx(math.exp(model.params["logit_scale"]))


def test_nothing_is_random_and_nothing_changes(tiny_model):
    model, same = tiny_model(3), tiny_model(3)
    pixels, ids = random_pixels(model), random_ids(model, (2, 4))
    before = pixels.copy(), ids.copy()
    for _ in range(2):
        video, again = model.encode_video(pixels), same.encode_video(pixels)
        np.testing.assert_array_equal(video.latent, again.latent)
        np.testing.assert_array_equal(model.encode_text(ids), same.encode_text(ids))
        np.testing.assert_array_equal(model.decode(video.tokens, ids), same.decode(again.tokens, ids))
        np.testing.assert_array_equal(model.generate(video.tokens), same.generate(again.tokens))
    np.testing.assert_array_equal(before[0], pixels)
    np.testing.assert_array_equal(before[1], ids)


# Input kinds


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_preprocess_gives_float32(tiny_model, dtype):
    model = tiny_model(dtype=dtype)
    pixels = model.preprocess(np.zeros((2, 30, 20, 3), np.uint8))
    assert pixels.shape == (2, 3, 14, 14) and pixels.dtype == np.float32


def test_encode_takes_frames_and_encoded_videos(tiny_model):
    model = tiny_model()
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 16, 3), np.uint8)
    video = model.encode(frames)
    np.testing.assert_array_equal(video.tokens, model.encode_video(model.preprocess(frames)).tokens)
    assert model.encode(video) is video


def test_encode_takes_paths(tiny_model, tmp_path):
    from PIL import Image

    model = tiny_model()
    colours = [Image.new("RGB", (16, 16), (i * 40, 90, 200 - i * 40)) for i in range(5)]
    colours[0].save(tmp_path / "clip.gif", save_all=True, append_images=colours[1:], duration=100)
    video = model.encode(tmp_path / "clip.gif", num_frames=5)
    want = model.encode(np.stack([np.asarray(c) for c in colours]))
    # a GIF's palette may move a colour by a few of its 256 steps
    np.testing.assert_allclose(video.latent, want.latent, atol=0.05)
    np.testing.assert_array_equal(model.encode(str(tmp_path / "clip.gif"), num_frames=5).latent, video.latent)
    assert model.encode(tmp_path / "clip.gif").latent.shape == (8,)


def test_a_path_is_read_as_so_many_frames(tiny_model, tokenizer, tmp_path):
    from PIL import Image

    from minivideococa.media.video import read_video

    model, path = tiny_model(5, tokenizer=tokenizer), tmp_path / "clip.gif"
    colours = [Image.new("RGB", (16, 16), (i * 40, 90, 200 - i * 40)) for i in range(6)]
    colours[0].save(path, save_all=True, append_images=colours[1:], duration=100)
    for num_frames, how in [(8, {}), (2, {"num_frames": 2}), (3, {"num_frames": 3})]:
        want = model.encode(read_video(path, num_frames))
        with trace() as t:
            got = model.encode(path, **how)
        assert len(t["frames"]) == num_frames
        np.testing.assert_array_equal(got.latent, want.latent)
        with trace() as t:
            assert model.caption(path, **how) == model.caption(want)
        assert len(t["frames"]) == num_frames


def test_texts(tiny_model, tokenizer):
    model = tiny_model(tokenizer=tokenizer)
    ids = model.tokenize(["a red circle", "nothing"])
    assert ids.shape == (2, 9) and ids.dtype == np.int64
    words = [tokenizer.vocabulary.token_to_id(word) for word in ("a", "red", "circle")]
    assert ids[0].tolist() == [START, *words, END, 0, 0, 0, 0]
    assert model.tokenize("a red circle").tolist() == [ids[0].tolist()]
    cut = model.tokenize("a red circle and a red circle and a red circle")
    assert cut.shape == (1, 9) and cut[0, 0] == START and cut[0, -1] == END
    np.testing.assert_array_equal(model.encode_text(["a red circle", "nothing"]), model.encode_text(ids))
    np.testing.assert_array_equal(model.encode_text("nothing"), model.encode_text(ids[1:]))


# Errors


@pytest.mark.parametrize(
    "shape", [(3, 14, 14), (2, 14, 14, 3), (2, 3, 13, 14), (2, 3, 28, 28), (2, 1, 14, 14), (), (0, 3, 14, 14)]
)
def test_pixels_of_a_wrong_shape(tiny_model, shape):
    model = tiny_model()
    for method in (model.encode_frames, model.encode_video):
        refused(lambda: method(np.zeros(shape, np.float32)), list(shape), 14)


@pytest.mark.parametrize("shape", [(10, 12), (2, 10, 11), (12,), (0, 10, 12), (1, 2, 10, 12), (2, 9, 12)])
def test_frame_tokens_of_a_wrong_shape(tiny_model, shape):
    model = tiny_model()  # takes [T, 10, 12]
    refused(lambda: model.pool(np.zeros(shape)), list(shape), 12)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 20, 16, 3), np.float32),
        np.zeros((20, 16, 3), np.uint8),
        np.zeros((2, 20, 16, 4), np.uint8),
        np.zeros((2, 3, 14, 14), np.float32),
    ],
    ids=["dtype", "one frame", "channels", "pixels"],
)
def test_frames_of_a_wrong_kind(tiny_model, frames):
    model = tiny_model()
    for method in (model.preprocess, model.encode):
        refused(lambda: method(frames), "uint8", "[T, H, W, 3]")


def test_a_video_without_frames(tiny_model):
    refused(lambda: tiny_model().encode(np.zeros((0, 20, 16, 3), np.uint8)))


def test_a_path_that_is_not_there(tiny_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.mp4"):
        tiny_model().encode(tmp_path / "absent.mp4")


@pytest.mark.parametrize("shape", [(1, 10), (4,), (1, 1, 4), (1, 0), (0, 4)], ids=str)
def test_ids_of_a_wrong_shape(tiny_model, shape):
    model = tiny_model()  # of at most 9 ids
    for read in (model.encode_text, lambda ids: model.decode(np.zeros((3, 8)), ids)):
        refused(lambda: read(np.ones(shape, int)), list(shape), "[B, L]")
    refused(lambda: model.encode_text(np.ones((1, 10), int)), 9)


def test_ids_out_of_the_vocabulary(tiny_model):
    model = tiny_model()
    V = model.config.text.vocab_size
    for read in (model.encode_text, lambda ids: model.decode(np.zeros((3, 8)), ids)):
        refused(lambda: read(np.array([[1, V]])), V, V - 1)
        refused(lambda: read(np.array([[-1, 1]])), -1, V - 1)
    model.encode_text(np.array([[0, V - 1] + [1] * 7]))  # the ends of the range, the whole length


@pytest.mark.parametrize("kind", [np.float64, np.float32, bool])
def test_ids_that_are_no_whole_numbers(tiny_model, kind):
    model = tiny_model()
    for read in (model.encode_text, lambda ids: model.decode(np.zeros((3, 8)), ids)):
        refused(lambda: read(np.ones((1, 4), kind)))


@pytest.mark.parametrize("shape", [(3, 7), (8,), (3, 3, 8), (2, 3, 7), (2, 1, 3, 8)])
def test_caption_tokens_of_a_wrong_shape(tiny_model, shape):
    model = tiny_model()  # takes [Q', 8], or [2, Q', 8] for two texts
    refused(lambda: model.decode(np.zeros(shape), np.ones((2, 4), int)), list(shape), 8)


def test_words_need_a_tokenizer(tiny_model):
    model = tiny_model()
    video = model.encode_video(random_pixels(model))
    for call in (
        lambda: model.tokenize(["a"]),
        lambda: model.encode_text(["a"]),
        lambda: model.encode_text("a"),
        lambda: model.caption(video),
        lambda: model.generate(video.tokens, prompt="a"),
    ):
        refused(call, "tokenizer")


def test_texts_that_are_none(tiny_model, tokenizer):
    model = tiny_model(tokenizer=tokenizer)
    for texts in ([1, 2], [None], None):
        refused(lambda: model.encode_text(texts))


# Generation


def naive_greedy(model, tokens, ids, end, min_length, max_length):
    """The likeliest next token, one at a time; the end only after `min_length` ids."""
    ids = list(ids)
    while len(ids) < max_length:
        logits = model.decode(tokens, np.array([ids]))[0, -1].copy()
        if len(ids) < min_length:
            logits[end] = -np.inf
        ids.append(int(np.argmax(logits)))
        if ids[-1] == end:
            break
    return ids


def generated(model, seed=0):
    """Some caption tokens, and what is generated from them to the limit (the end's logits barred)."""
    tokens = np.random.default_rng(seed).standard_normal((3, 8))
    return tokens, model.generate(tokens, beams=1, min_length=8, max_length=9).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_generate_takes_the_likeliest_token(tiny_model, seed):
    model = tiny_model(seed)
    V = model.config.text.vocab_size
    tokens, _ = generated(model, seed)
    for min_length, max_length in [(5, None), (1, 2), (8, 9), (0, 6), (3, 7)]:
        for start, end in [(None, None), (4, 7), (0, 0)]:
            got = model.generate(
                tokens, beams=1, min_length=min_length, max_length=max_length, start_id=start, end_id=end
            )
            start, end = (V - 2, V - 1) if start is None else (start, end)
            assert got.dtype == np.int64 and got.ndim == 1
            assert got.tolist() == naive_greedy(model, tokens, [start], end, min_length, max_length or 9)


@pytest.mark.parametrize("seed", range(4))
def test_generate_ends_with_the_end(tiny_model, seed):
    """Whichever token the model likes somewhere: declared the end, it ends the text there, or is barred."""
    model = tiny_model(seed)
    tokens, free = generated(model, seed)
    assert len(free) == 9 and free[0] == model.config.text.vocab_size - 2
    for place in range(1, 9):
        end = free[place]
        if end in free[:place]:
            continue
        for max_length in {place + 1, 9}:  # the end is one of max_length
            got = model.generate(
                tokens, beams=1, min_length=place, max_length=max_length, end_id=end
            ).tolist()
            assert got == free[: place + 1]
        if place < 8:
            later = model.generate(tokens, beams=1, min_length=place + 1, max_length=9, end_id=end).tolist()
            assert later[:place] == free[:place] and later[place] != end


def test_generate_bars_the_end_for_as_long_as_it_should(tiny_model):
    """A model that always wants to end, and likes all else equally little, ends at the first chance."""
    model = tiny_model()
    decoder, end = model.params["text_decoder"], model.config.text.vocab_size - 1
    decoder["ln_final"]["weight"][:], decoder["ln_final"]["bias"][:] = 0, 1
    decoder["text_projection"][:] = -1
    decoder["text_projection"][:, end] = 1
    for how, length in [({}, 6), ({"min_length": 0}, 2), ({"min_length": 1}, 2), ({"min_length": 7}, 8)]:
        ids = model.generate(np.zeros((3, 8)), beams=1, **how).tolist()
        assert ids == [end - 1] + [0] * (length - 2) + [end]


def test_generate_continues_a_prompt(tiny_model, tokenizer):
    model = tiny_model(tokenizer=tokenizer)
    tokens = np.random.default_rng(0).standard_normal((3, 8))
    prompt = model.tokenize("a red circle")[0][:4].tolist()
    got = model.generate(tokens, beams=1, prompt="a red circle")
    assert got[:4].tolist() == prompt
    assert got.tolist() == naive_greedy(model, tokens, prompt, END, 5, 9)
    short = model.generate(tokens, beams=1, prompt="a red circle", min_length=1, max_length=5)
    assert short.tolist() == naive_greedy(model, tokens, prompt, END, 1, 5) and len(short) == 5


def test_start_and_end_come_from_the_tokenizer(tiny_model, tokenizer):
    model = tiny_model(tokenizer=tokenizer)
    tokens = np.random.default_rng(1).standard_normal((3, 8))
    assert model.generate(tokens, beams=1).tolist() == naive_greedy(model, tokens, [START], END, 5, 9)
    got = model.generate(tokens, beams=1, start_id=6, end_id=9)
    assert got.tolist() == naive_greedy(model, tokens, [6], 9, 5, 9)


def test_generate_for_a_batch(tiny_model):
    model = tiny_model()
    tokens = np.random.default_rng(2).standard_normal((4, 3, 8))
    together = model.generate(tokens, beams=1)
    assert isinstance(together, list)
    assert [ids.tolist() for ids in together] == [model.generate(one, beams=1).tolist() for one in tokens]


def test_generate_knows_where_the_context_ends(tiny_model):
    model = tiny_model(text={"context_length": 7})
    tokens, _ = generated(tiny_model())
    assert len(model.generate(tokens, beams=1, min_length=6)) == 7
    np.testing.assert_array_equal(
        model.generate(tokens, beams=1), model.generate(tokens, beams=1, max_length=7)
    )
    refused(lambda: model.generate(tokens, beams=1, max_length=8), "max_length is 8", "at most 7")


@pytest.mark.parametrize(
    "how",
    [
        {"min_length": 5, "max_length": 5},
        {"min_length": 6, "max_length": 5},
        {"min_length": 9},
        {"max_length": 1},
        {"min_length": 0, "max_length": 0},
        {"min_length": 0, "max_length": 1},
    ],
    ids=str,
)
def test_generate_refuses_lengths_that_leave_no_room(tiny_model, how):
    refused(lambda: tiny_model().generate(np.zeros((3, 8)), **how), "max_length", "min_length")


@pytest.mark.parametrize("name", ["start_id", "end_id"])
def test_generate_refuses_ids_out_of_the_vocabulary(tiny_model, name):
    model = tiny_model()
    for wrong in (-1, model.config.text.vocab_size):
        refused(lambda: model.generate(np.zeros((3, 8)), **{name: wrong}), wrong)


def test_generate_refuses_a_prompt_that_leaves_no_room(tiny_model, tokenizer):
    model = tiny_model(tokenizer=tokenizer)
    for prompt, how in [
        ("a red circle", {"min_length": 1, "max_length": 4}),  # 4 ids with the start
        ("a red circle and a red circle and a red circle", {}),
    ]:  # 12 of 9
        refused(lambda: model.generate(np.zeros((3, 8)), prompt=prompt, **how), "prompt")


@pytest.mark.parametrize("shape", [(8,), (3, 7), (2, 3, 7), (2, 2, 3, 8)])
def test_generate_refuses_tokens_of_a_wrong_shape(tiny_model, shape):
    refused(lambda: tiny_model().generate(np.zeros(shape)), str(list(shape[-2:]))[1:], 8)


def test_caption_is_what_was_generated_in_words(tiny_model, tokenizer):
    model = tiny_model(5, tokenizer=tokenizer)
    frames = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)
    video = model.encode(frames)
    want = tokenizer.decode(model.generate(video.tokens, min_length=3, max_length=8, prompt="a red"))
    got = model.caption(frames, min_length=3, max_length=8, prompt="a red")
    assert got == want == model.caption(video, min_length=3, max_length=8, prompt="a red")
    assert isinstance(got, str) and got.startswith("a red ")
    assert not {"<start_of_text>", "<end_of_text>", "<pad>"} & set(got.split())
