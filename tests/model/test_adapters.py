"""The ways to make a video of frames: laws that hold for each, whatever the weights."""

import numpy as np
import pytest

from minivideococa.model.config import ADAPTERS

FORMS = {
    "released": {},
    "parallel": {"width": 8, "head_width": 4, "attentional_pool": "parallel"},
    "cascade": {"width": 8, "head_width": 4, "attentional_pool": "cascade"},
}


@pytest.fixture(params=FORMS)
def model(request, tiny_model):
    return tiny_model(3, vision=FORMS[request.param])


def random_pixels(frames, seed=0):
    return np.random.default_rng(seed).standard_normal((frames, 3, 14, 14))


def same(a, b):
    return np.allclose(a.latent, b.latent, rtol=0, atol=1e-12) and np.allclose(
        a.tokens, b.tokens, rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_of_one_frame_all_make_the_same(model, adapter):
    assert same(model.encode_video(random_pixels(1), adapter), model.encode_video(random_pixels(1)))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_still_video_is_its_frame(model, adapter):
    """Copies of a frame change nothing: no average, and no softmax over copies of the same keys."""
    pixels = random_pixels(1)
    assert same(model.encode_video(np.repeat(pixels, 5, axis=0), adapter), model.encode_video(pixels))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_order_of_frames_is_lost(model, adapter):
    pixels = random_pixels(4)
    assert same(model.encode_video(pixels[[2, 0, 3, 1]], adapter), model.encode_video(pixels, adapter))


def test_of_several_frames_they_make_different_videos(model):
    videos = [model.encode_video(random_pixels(4), adapter) for adapter in ADAPTERS]
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
    with pytest.raises(ValueError, match="'max': give attentional, mean, joint"):
        model.encode_video(random_pixels(2), "max")
