"""Gradients against torch's autograd on open_clip: every configuration, adapter, phase of tuning and task."""

import numpy as np
import pytest
import torch
import training_reference
from common import cast, errors, random_pixels, random_weights
from make_golden import CASES, END, START
from open_clip.loss import CoCaLoss
from training_reference import Batch

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest, unnest
from minivideococa.model.config import ADAPTERS
from minivideococa.training import data
from minivideococa.training.optimizer import AdamW, clamp_logit_scale, clip
from minivideococa.training.parameters import Parameters, is_reached
from minivideococa.training.step import Objective, accumulate

B, T = 4, 3
CONFIGURATIONS = [
    "as_released",
    "same_width",
    "parallel",
    "cascade",
    "quick_gelu",
    "odd_sizes",
    "pad_ids",
    "correct_cls_mask",
    "no_ln_pre",
    "mlp_ratio",
    "heads",
    "logit_scale_1",
]
TASKS = {  # the losses with their weights
    "caption": {"caption": 2.0},
    "continuation": {"caption": 2.0},
    "contrastive": {"contrastive": 1.0},
    "both": {"caption": 2.0, "contrastive": 1.0},
    "answer": {"answer": 1.0},
}
NAMES_OF_TASKS = {"continuation": "caption", "both": "caption+contrastive", "answer": "qa"}  # finetune's
HOW = [{"micro_batch": n} for n in (1, 2, 3)] + [{"recompute": True}, {"micro_batch": 2, "recompute": True}]


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


def batch_of(config, task, seed):
    """Return B clips as pixels, with texts of different lengths; labels are classes, one of them unknown.

    The contrastive loss gets texts that are padded to the context, the others shorter ones. The targets of
    "continuation" begin in the middle of a text, as an answer after its question.
    """
    model_cfg, rng = config["model_cfg"], np.random.default_rng(seed)
    length = model_cfg["text_cfg"]["context_length"] - (0 if "contrastive" in TASKS[task] else 3)
    lengths = np.array([length - 1, length, length - 3, 5])[:, None]
    ids = rng.integers(0, 38, (B, length))
    ids[:, 0] = START
    positions = np.arange(length)
    ids[positions == lengths - 1] = END
    ids[positions >= lengths] = model_cfg.get("pad_id", 0)
    first = np.array([[3], [1], [4], [2]]) if task == "continuation" else 1
    targets = (first <= positions) & (positions < lengths)
    return Batch(pixels_of(config, seed), ids, targets, np.array([2, -1, 0, 4]))


def tokens_of(config, weights, batch, adapter):
    """Return the same batch with frame tokens in place of pixels."""
    model = training_reference.load(config, weights)
    with torch.no_grad():
        tokens = training_reference.encode_frames(model, torch.from_numpy(batch.inputs), adapter == "joint")
    return batch._replace(inputs=tokens.numpy())


def ours(config, weights, batch, adapter, task, phase="full", **how):
    """Return our losses, and our gradients by name."""
    parameters = Parameters.of(nest(weights), phase)
    objective = Objective(parse_config(config), adapter, TASKS[task])
    losses = accumulate(data.Batch(*batch), parameters, objective, **how)
    tensors = parameters.tensors().items()
    grads = {name: parameters.gradients[parameters.segment(name)].reshape(x.shape) for name, x in tensors}
    frozen = {name for name, x in unnest(parameters.grads).items() if x is None}
    assert frozen == weights.keys() - grads.keys()
    return losses, grads


def theirs(config, weights, batch, adapter, task):
    """Return the losses and gradients by autograd; of the tensors that the losses do not depend on, zeros."""
    losses, grads = training_reference.gradients(config, weights, batch, adapter, TASKS[task])
    grads = {name: grads.get(name, np.zeros_like(x)) for name, x in weights.items()}
    return losses, grads | {"logit_scale": grads["logit_scale"].reshape(())}  # ours is a scalar


def assert_same(found, expected):
    """Compare losses and gradients; each tensor's difference is relative to its largest magnitude."""
    losses, grads = found
    for name, loss in expected[0].items():
        assert losses[name] == pytest.approx(loss, rel=1e-12), name
    difference = errors(grads, {name: expected[1][name] for name in grads})
    assert max(difference.values()) < 1e-9, difference


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_the_reference_has_our_forward_pass(case, adapter):
    config = config_of(case)
    weights, batch = weights_of(config, case), batch_of(config, "both", 0)
    model = mvc.VideoCoCa(parse_config(config), nest(weights))
    videos = [model.encode_video(clip, adapter=adapter) for clip in batch.inputs]
    found = {
        "latents": np.stack([video.latent for video in videos]),
        "tokens": np.stack([video.tokens for video in videos]),
        "texts": model.encode_text(batch.ids),
        "logits": model.decode(np.stack([video.tokens for video in videos]), batch.ids),
    }
    coca = training_reference.load(config, weights)
    pixels, ids = torch.from_numpy(batch.inputs), torch.from_numpy(batch.ids)
    with torch.no_grad():
        latents, tokens = training_reference.encode_videos(coca, pixels, adapter)
        texts, features = coca._encode_text(ids)
        logits = coca.text_decoder(tokens, features)
    expected = {"latents": latents, "tokens": tokens, "texts": texts, "logits": logits}
    difference = errors(found, {name: x.numpy() for name, x in expected.items()})
    assert max(difference.values()) < 1e-12, difference


def test_the_reference_has_the_losses_of_open_clip():
    """Clips of one frame are images, and without "!" in a text all targets are what is no padding."""
    config = config_of("as_released")
    weights, batch = weights_of(config, "as_released"), batch_of(config, "both", 0)
    images, ids = batch.inputs[:, :1], np.where(batch.targets, batch.ids.clip(1), batch.ids)
    coca, loss_weights = training_reference.load(config, weights), {"caption": 2.0, "contrastive": 1.0}
    with torch.no_grad():
        output = coca(torch.from_numpy(images[:, 0]), torch.from_numpy(ids))
        expected = CoCaLoss(*loss_weights.values())(**output, output_dict=True)
        found = training_reference.losses(
            coca, batch._replace(inputs=images, ids=ids), "attentional", loss_weights
        )
    torch.testing.assert_close(2 * found["caption"], expected["caption_loss"], rtol=1e-12, atol=0)
    torch.testing.assert_close(found["contrastive"], expected["contrastive_loss"], rtol=1e-12, atol=0)
    torch.testing.assert_close(found["loss"], sum(expected.values()), rtol=1e-12, atol=0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_gradients(case, adapter, task):
    """Everything from pixels; what LiT and Frozen tune from frame tokens, and nothing else."""
    config = config_of(case)
    weights, batch = weights_of(config, case), batch_of(config, task, 1)
    expected = theirs(config, weights, batch, adapter, task)
    assert_same(ours(config, weights, batch, adapter, task), expected)
    batch = tokens_of(config, weights, batch, adapter)
    for phase in ("lit", "frozen"):
        found = ours(config, weights, batch, adapter, task, phase)
        assert found[1].keys() == training_reference.tuned(weights, phase)
        assert_same(found, expected)
    parsed, named = parse_config(config), NAMES_OF_TASKS.get(task, task)
    assert {name for name in weights if is_reached(name, parsed, named, adapter)} == {
        name for name, grad in expected[1].items() if grad.any()
    }


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_gradients_with_less_memory(adapter, task, how):
    """Micro-batches and recomputed activations change nothing; nor do positions of the frames."""
    config = config_of("as_released", positions=T + 1)
    weights, batch = weights_of(config, "as_released"), batch_of(config, task, 2)
    expected = theirs(config, weights, batch, adapter, task)
    assert_same(ours(config, weights, batch, adapter, task, **how), expected)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("phase", training_reference.TUNED)
def test_a_training_run(phase, adapter, task):
    """Five steps, from losses to weights: gradients, clipping, AdamW, the limits of the logit scale."""
    config = config_of("as_released", positions=T)
    weights, parsed = weights_of(config, "as_released"), parse_config(config)
    weights["logit_scale"] = np.array(0.02)  # the first steps lead below 0
    batches = [batch_of(config, task, seed) for seed in range(5)]
    how = {"weight_decay": 0.1, "betas": (0.9, 0.98), "eps": 1e-6}
    expected = training_reference.train(
        config, weights, batches, adapter, TASKS[task], phase, rate=1e-2, max_norm=1.0, **how
    )
    named = NAMES_OF_TASKS.get(task, task)
    parameters = Parameters.of(weights, phase, lambda name: is_reached(name, parsed, named, adapter))
    optimizer, objective = AdamW.of(parameters, **how), Objective(parsed, adapter, TASKS[task])
    for batch in batches:
        parameters.gradients[:] = 0
        accumulate(data.Batch(*batch), parameters, objective)
        clip(parameters.gradients, 1.0)
        optimizer.update(parameters.values, parameters.gradients, 1e-2)
        clamp_logit_scale(parameters)
    found = unnest(parameters.params)
    difference = errors({name: found[name] for name in expected}, expected)
    assert max(difference.values()) < 1e-9, difference
