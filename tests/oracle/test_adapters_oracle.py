"""The adapters of `encode_video(adapter=...)` against the same on open_clip's modules."""

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from common import cast, errors, random_pixels, random_weights
from make_golden import CASES

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest


@torch.no_grad()
def mean(model_cfg, weights, pixels):
    """Encode each frame as an image of a batch, as open_clip does, and average the results."""
    model = reference.load(reference.coca(model_cfg), weights)
    latents, caption_tokens = model._encode_image(torch.from_numpy(pixels), normalize=False)
    return F.normalize(latents.reshape(len(pixels), -1).mean(0), dim=-1), caption_tokens.mean(0)


@torch.no_grad()
def joint(model_cfg, weights, pixels):
    """Flatten the tokens of all frames before the transformer."""
    model = reference.load(reference.coca(model_cfg), weights)
    model.visual.transformer.register_forward_pre_hook(
        lambda module, args: args[0].reshape(1, -1, args[0].shape[-1])
    )
    latent, caption_tokens = model._encode_image(torch.from_numpy(pixels))
    return latent.reshape(-1), caption_tokens[0]


@torch.no_grad()
def attentional(model_cfg, weights, pixels):
    """Flatten the tokens of all frames after the transformer."""
    model = reference.load(reference.video_coca(model_cfg), weights)
    latent, caption_tokens = model._encode_image(torch.from_numpy(pixels))
    return latent.reshape(-1), caption_tokens[0]


VIDEO = {"factorized": {"layers": 4, "heads": 2, "positions": 4}}


@torch.no_grad()
def factorized(model_cfg, weights, pixels):
    """Apply open_clip's transformer to one embedding of each frame."""
    model = reference.load(reference.video_coca(model_cfg, VIDEO), weights)
    latent, caption_tokens = reference.encode_video(model, torch.from_numpy(pixels))
    return latent.reshape(-1), caption_tokens[0]


@pytest.mark.parametrize("theirs", [attentional, mean, joint, factorized], ids=lambda way: way.__name__)
@pytest.mark.parametrize("case", CASES)
def test_adapter(case, theirs):
    model_cfg, seed = CASES[case][0], list(CASES).index(case)
    video_cfg = VIDEO if theirs is factorized else None
    weights = cast(random_weights(reference.shapes(model_cfg, video_cfg), seed), "float64")
    pixels = random_pixels(3, model_cfg["vision_cfg"]["image_size"], seed).astype("float64")
    config = parse_config({"model_cfg": model_cfg, "video_cfg": video_cfg})
    video = mvc.VideoCoCa(config, nest(weights)).encode_video(pixels, adapter=theirs.__name__)
    latent, caption_tokens = (x.numpy() for x in theirs(model_cfg, weights, pixels))
    found = errors(
        {"latent": video.latent, "tokens": video.tokens}, {"latent": latent, "tokens": caption_tokens}
    )
    assert max(found.values()) < 1e-12, found
    assert np.isclose(np.linalg.norm(video.latent), 1)
