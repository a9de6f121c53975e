"""Gradients against torch's autograd on open_clip: every configuration, adapter, phase of tuning and task."""

import numpy as np
import pytest
import torch
import training_reference
from common import cast, errors, random_pixels, random_weights
from make_conformance import NAMES
from make_golden import CASES
from training_reference import Batch

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest
from minivideococa.model.config import ADAPTERS

B, T = 4, 3
CONFIGURATIONS = [*NAMES, "mlp_ratio", "heads", "logit_scale_1"]


def config_of(case, positions=None):
    """Return the config.json of a case, with all the layers that training may add."""
    heads = CASES[case][0]["multimodal_cfg"]["heads"]
    video_cfg = {
        "factorized": {"layers": 4, "heads": heads, "positions": positions},
        "answers": ["red", "blue", "two", "yes", "no"],
    }
    return {"model_cfg": CASES[case][0], "video_cfg": video_cfg}


def weights_of(config, case):
    weights = random_weights(training_reference.shapes(config), list(CASES).index(case))
    return cast(weights, "float64")


def pixels_of(config, seed):
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    return random_pixels(B * T, size, seed).reshape(B, T, 3, size, size).astype("float64")


def ids_of(config, length, seed):
    """Return ids [B, L] and a mask of the same shape, True at the ids of the text and not of its padding."""
    rng, model_cfg = np.random.default_rng(seed), config["model_cfg"]
    ids = np.full((B, length), model_cfg.get("pad_id", 0))
    lengths = [length, length - 1, length - 3, 4][:B]
    for row, n in zip(ids, lengths):
        row[:n] = [38, *rng.integers(1, 38, n - 2), 39]
    return ids, np.arange(length) < np.array(lengths)[:, None]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_the_reference_has_our_forward_pass(case, adapter):
    config = config_of(case) if "factorized" in ADAPTERS else {"model_cfg": CASES[case][0]}
    weights = weights_of(config, case)
    pixels, (ids, _) = pixels_of(config, 0), ids_of(config, 9, 0)
    ours = mvc.VideoCoCa(parse_config(config), nest(weights))
    videos = [ours.encode_video(clip, adapter=adapter) for clip in pixels]
    found = {
        "latents": np.stack([video.latent for video in videos]),
        "tokens": np.stack([video.tokens for video in videos]),
        "texts": ours.encode_text(ids),
        "logits": ours.decode(np.stack([video.tokens for video in videos]), ids),
    }
    theirs = training_reference.load(config, weights)
    with torch.no_grad():
        latents, tokens = training_reference.encode_videos(theirs, torch.from_numpy(pixels), adapter)
        texts, features = theirs._encode_text(torch.from_numpy(ids))
        logits = theirs.text_decoder(tokens, features)
    expected = {"latents": latents, "tokens": tokens, "texts": texts, "logits": logits}
    difference = errors(found, {name: x.numpy() for name, x in expected.items()})
    assert max(difference.values()) < 1e-12, difference
