"""The ways to make a video of frames: laws that hold for each, whatever the weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivideococa as mvc
from minivideococa.checkpoint.table import parameter_shapes
from minivideococa.model import pooling
from minivideococa.model.config import ADAPTERS

COCAS = [name for name in ADAPTERS if name != "factorized"]  # without new layers
FORMS = {
    "released": {},
    "parallel": {"width": 8, "head_width": 4, "attentional_pool": "parallel"},
    "cascade": {"width": 8, "head_width": 4, "attentional_pool": "cascade"},
}


@pytest.fixture(params=FORMS)
def model(request, tiny_model):
    return tiny_model(3, vision=FORMS[request.param], video={"factorized": {"layers": 2, "heads": 2}})


def factorized(make, seed=0, untrained=False, **layers):
    """A model that was tuned with the factorized adapter; untrained, the new layers add nothing."""
    model = make(seed, video={"adapter": "factorized", "factorized": {"layers": 2, "heads": 2} | layers})
    if untrained:
        for block in model.params["factorized"]["resblocks"]:
            for part in (block["attn"]["out_proj"], block["mlp"]["c_proj"]):
                part["weight"][:], part["bias"][:] = 0, 0
    return model


def random_pixels(frames, seed=0):
    return np.random.default_rng(seed).standard_normal((frames, 3, 14, 14))


def same(a, b):
    return np.allclose(a.latent, b.latent, rtol=0, atol=1e-12) and np.allclose(
        a.tokens, b.tokens, rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("adapter", COCAS)
def test_of_one_frame_all_make_the_same(model, adapter):
    assert same(model.encode_video(random_pixels(1), adapter), model.encode_video(random_pixels(1)))


@pytest.mark.parametrize("adapter", COCAS)
def test_a_still_video_is_its_frame(model, adapter):
    """Copies of a frame change nothing: no average, and no softmax over copies of the same keys."""
    pixels = random_pixels(1)
    assert same(model.encode_video(np.repeat(pixels, 5, axis=0), adapter), model.encode_video(pixels))


@pytest.mark.parametrize("adapter", COCAS)
def test_the_order_of_frames_is_lost(model, adapter):
    pixels = random_pixels(4)
    assert same(model.encode_video(pixels[[2, 0, 3, 1]], adapter), model.encode_video(pixels, adapter))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_batch_of_videos_is_pooled_as_each_alone(model, adapter):
    """Leading axes are those of a batch: of `pool`, `mean_pool` and `factorized_pool`."""
    visual, layers, config = model.params["visual"], model.params["factorized"], model.config
    pool = {
        "mean": lambda x: pooling.mean_pool(x, visual, config.vision),
        "factorized": lambda x: pooling.factorized_pool(x, visual, layers, config),
    }.get(adapter, lambda x: pooling.pool(x, visual, config.vision))
    tokens = np.random.default_rng(0).standard_normal((2, 3, 4, 10, config.vision.width))
    latents, caption_tokens = pool(tokens)
    assert latents.shape == (2, 3, 8)
    for i in np.ndindex(2, 3):
        alone = mvc.Video(*pool(tokens[i]))
        assert same(mvc.Video(latents[i], caption_tokens[i]), alone)


def test_of_several_frames_they_make_different_videos(model):
    videos = [model.encode_video(random_pixels(4), adapter) for adapter in COCAS]
    for i, a in enumerate(videos):
        assert a.latent.shape == videos[0].latent.shape and a.tokens.shape == videos[0].tokens.shape
        assert np.isclose(np.linalg.norm(a.latent), 1)
        assert all(
            abs(a.tokens - b.tokens).max() > 1e-3 and abs(a.latent - b.latent).max() > 1e-3
            for b in videos[:i]
        )


def test_mean_pooling_averages(model):
    pixels = random_pixels(3)
    each = [model.encode_video(pixels[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(
        model.encode_video(pixels, "mean").tokens,
        np.mean([video.tokens for video in each], axis=0),
        atol=1e-12,
    )


def test_jointly_a_token_sees_the_other_frames(model):
    """Frame 0 alone changes; jointly, the tokens of frame 2 change with it, and by themselves they do not."""
    from minivideococa.model.hooks import trace

    pixels, other = random_pixels(3), random_pixels(3)
    other[0] = random_pixels(1, seed=1)[0]

    def last_block(pixels, adapter):
        with trace() as t:
            model.encode_video(pixels, adapter)
        return t["vision.block.1"].reshape(3, -1, model.config.vision.width)

    assert abs(last_block(pixels, "joint")[2] - last_block(other, "joint")[2]).max() > 1e-3
    for adapter in ("attentional", "mean"):
        np.testing.assert_array_equal(last_block(pixels, adapter)[2], last_block(other, adapter)[2])


def test_encode_takes_it_too(model):
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 16, 3), np.uint8)
    for adapter in ADAPTERS:
        assert same(
            model.encode(frames, adapter=adapter), model.encode_video(model.preprocess(frames), adapter)
        )


def test_another_adapter_is_refused(model):
    with pytest.raises(ValueError, match="'max': give attentional, mean, joint, factorized"):
        model.encode_video(random_pixels(2), "max")


# Factorized


def test_factorized_is_as_the_paper_says(model):
    """One embedding a frame, layers across the frames: their outputs are the caption tokens."""
    pixels, visual = random_pixels(3), model.params["visual"]
    with mvc.trace(weights=True) as t:
        video = model.encode_video(pixels, "factorized")
    assert t["factorized.embed"].shape == t["factorized.block.1"].shape == video.tokens.shape == (3, 8)
    assert t["factorized.block.0.weights"].shape == (2, 3, 3)  # every frame attends to all
    for i in range(3):  # the embedding is what the frame's latent is computed from
        latent = t["factorized.embed"][i] @ visual["proj"]
        alone = model.encode_video(pixels[i : i + 1]).latent
        np.testing.assert_allclose(latent / np.linalg.norm(latent), alone, atol=1e-12)
    np.testing.assert_array_equal(t["factorized.block.1"], video.tokens)
    mean = video.tokens.mean(axis=0) @ visual["proj"]
    np.testing.assert_allclose(video.latent, mean / np.linalg.norm(mean), atol=1e-12)


@pytest.mark.slow
@given(st.integers(0, 99), st.permutations(range(4)))
def test_without_positions_the_order_of_frames_is_lost(tiny_model, seed, order):
    """The latent stays, and the caption tokens move with their frames."""
    model, pixels = factorized(tiny_model, seed), random_pixels(4, seed)
    video, permuted = model.encode_video(pixels), model.encode_video(pixels[order])
    assert same(permuted, mvc.Video(video.latent, video.tokens[order]))


@given(st.integers(0, 99), st.permutations(range(4)).filter(lambda order: order != sorted(order)))
def test_with_positions_the_order_of_frames_is_known(tiny_model, seed, order):
    model, pixels = factorized(tiny_model, seed, positions=6), random_pixels(4, seed)
    video, permuted = model.encode_video(pixels), model.encode_video(pixels[order])
    assert abs(video.latent - permuted.latent).max() > 1e-6
    assert abs(video.tokens[order] - permuted.tokens).max() > 1e-3


@given(st.integers(0, 99), st.integers(1, 5))
def test_before_training_the_latent_is_that_of_mean_pooling(tiny_model, seed, frames):
    model, pixels = factorized(tiny_model, seed, untrained=True), random_pixels(frames, seed)
    mean, new = model.encode_video(pixels, "mean"), model.encode_video(pixels)
    np.testing.assert_allclose(new.latent, mean.latent, rtol=0, atol=1e-12)


def test_the_checkpoints_own_adapter_is_the_default(tiny_model):
    pixels, ids = random_pixels(3), np.array([[1, 4, 5, 2]])
    for adapter in ADAPTERS:
        model = tiny_model(3, video={"adapter": adapter, "factorized": {"layers": 1, "heads": 1}})
        expected = model.encode_video(pixels, adapter)
        frames = np.random.default_rng(0).integers(0, 256, (3, 20, 16, 3), np.uint8)
        assert same(model.encode_video(pixels), expected)
        video, _, logits = model(pixels, ids)
        assert same(video, expected)
        np.testing.assert_array_equal(logits, model.decode(expected.tokens, ids))
        assert same(model.encode(frames), model.encode(frames, adapter=adapter))
        if adapter != "joint":
            tokens = model.encode_frames(pixels)
            assert same(model.pool(tokens), expected)
            assert same(model.pool(tokens, "mean"), model.encode_video(pixels, "mean"))


def test_factorized_needs_its_layers(tiny_model):
    model = tiny_model()
    tokens = model.encode_frames(random_pixels(2))
    for call in (
        lambda: model.encode_video(random_pixels(2), "factorized"),
        lambda: model.pool(tokens, "factorized"),
        lambda: model.encode("no such file", adapter="factorized"),
    ):
        with pytest.raises(ValueError, match="no layers across the frames: .*finetune --adapter factorized$"):
            call()


def test_more_frames_than_positions_are_refused(tiny_model):
    model = factorized(tiny_model, positions=3)
    model.encode_video(random_pixels(3))
    model.encode_video(random_pixels(4), "mean")
    tokens = model.encode_frames(random_pixels(4))
    for call in (
        lambda: model.encode_video(random_pixels(4)),
        lambda: model.pool(tokens),
        lambda: model.pool(tokens, "factorized"),
        lambda: model(random_pixels(4), np.array([[1]])),
    ):
        with pytest.raises(ValueError, match="4 frames: the factorized layers have positions for 3"):
            call()


def test_frames_that_attend_to_each_other_take_the_square(tiny_model):
    """At least H T^2 numbers, of 2 heads and 8 bytes."""
    need = factorized(tiny_model).config.bytes_to_encode("factorized", np.dtype("float64"))
    assert need(10**5) > 2 * 10**10 * 8
    assert need(8) == factorized(tiny_model).config.bytes_to_encode("mean", np.dtype("float64"))(8)


def test_what_the_layers_weigh(tiny_model):
    """Four layers of 12 E^2 and a few vectors."""
    model = factorized(tiny_model, layers=4, positions=6)
    new = [s for name, s in parameter_shapes(model.config).items() if name.startswith("factorized.")]
    assert sum(int(np.prod(shape)) for shape in new) == 4 * (12 * 8**2 + 13 * 8) + 6 * 8
