"""Recording real ports: open_clip's CoCa in both layouts of its blocks, lucidrains' naming, and Flax."""

import json

import numpy as np
import pytest
import reference
import torch
from make_conformance import KIT, NAMES
from safetensors.torch import load_file

import minivideococa as mvc
from minivideococa.verify import (
    flax_intermediates,
    lucidrains_names,
    open_clip_names,
    torch_hooks,
    verify,
    verify_file,
)

OPEN_CLIP = [name for name in NAMES if name != "factorized"]  # which open_clip does not have
IN_OTHER_DTYPES = [("as_released", dtype) for dtype in ("float32", "float16", "bfloat16")]


def port(name, dtype="float64"):
    """open_clip's model of a folder of the kit, its pixels and ids."""
    folder = KIT / name
    config = json.loads((folder / "config.json").read_text())
    model = reference.video_coca(config["model_cfg"])
    model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    truth = load_file(folder / "truth.safetensors")
    model.to(getattr(torch, dtype))
    return model, truth["pixels"].to(model.logit_scale.dtype), truth["ids"][None]


def recorded(model, pixels, ids, inside=(), **options):
    """What the table records while the model is called; with gradients, as in training."""
    with torch_hooks(model, open_clip_names(model, inside), **options) as tensors:
        model(pixels, ids, output_labels=False)
    return tensors


def sequence_first(model):
    """The model with its blocks as before open_clip 2.24, [L, B, C]."""
    for stack in model.visual.transformer, model.text.transformer, model.text_decoder:
        stack.batch_first = False
        for module in stack.modules():
            if isinstance(module, torch.nn.MultiheadAttention):
                module.batch_first = False
    return model


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float64") for name in OPEN_CLIP), *IN_OTHER_DTYPES])
def test_open_clip_is_right(name, dtype):
    tensors = recorded(*port(name, dtype))
    report = verify(mvc.load(KIT / name), tensors)
    assert report.ok, str(report)
    assert report.missing == [] and report.dtype == dtype
    assert {x.shape[0] for name, x in tensors.items() if name.startswith("vision")} == {
        len(tensors["pixels"])
    }


@pytest.mark.parametrize("name", ["as_released", "parallel"])
def test_blocks_before_2_24(name):
    model, *inputs = port(name)
    report = verify(mvc.load(KIT / name), recorded(sequence_first(model), *inputs))
    assert report.ok and report.missing == [], str(report)


def test_one_video_of_a_batch():
    """Two videos, whose frames go through the encoder together; open_clip's text comes in a batch of two."""
    model, pixels, ids = port("as_released")
    batch, texts = torch.cat([pixels.flip(0), pixels]), torch.cat([ids.roll(1), ids])
    frames = len(pixels)
    model.visual.transformer.register_forward_hook(
        lambda module, args, x: x.reshape(len(x[0]) // (x.shape[1] // len(texts)), -1, x.shape[-1])
    )
    with torch_hooks(model, open_clip_names(model), videos=2, video=1) as tensors:
        model(batch, texts, output_labels=False)
    report = verify(mvc.load(KIT / "as_released"), tensors)
    assert report.ok and report.missing == [] and len(tensors["pixels"]) == frames, str(report)


def test_through_a_file(tmp_path):
    recorded(*port("as_released", "bfloat16"), output=tmp_path / "t.safetensors")
    report = verify_file(tmp_path / "t.safetensors", KIT / "as_released")
    assert report.ok and report.dtype == "bfloat16", str(report)


def test_steps_of_generation(recwarn):
    """Each step encodes a longer text, and the video once more: the last call of each module counts."""
    model, pixels, _ = port("as_released")
    with torch_hooks(model, open_clip_names(model)) as tensors, torch.no_grad():
        latent, tokens = model._encode_image(pixels)
        for length in 3, 4, 5:
            model(None, torch.arange(1, length + 1)[None], latent, tokens, output_labels=False)
    report = verify(mvc.load(KIT / "as_released"), tensors)
    assert report.ok and report.missing == [] and tensors["ids"].shape == (1, 5), str(report)
    assert not recwarn.list


def with_tanh(model):
    model.visual.transformer.resblocks[1].mlp.gelu.approximate = "tanh"


def without_ln_k(model):
    model.visual.attn_pool.ln_k = torch.nn.Identity()


def without_ln_final(model):
    model.text_decoder.ln_final = torch.nn.Identity()


def with_doubled_mlp(model):
    """No known mistake."""
    with torch.no_grad():
        model.text_decoder.resblocks[0].mlp.c_proj.weight *= 2


@pytest.mark.parametrize("layout", [lambda model: model, sequence_first])
@pytest.mark.parametrize(
    ("plant", "name", "mistake"),
    [
        (with_tanh, "vision.block.1", "tanh_gelu"),
        (without_ln_k, "pool.attended", "no_ln_k"),
        (without_ln_final, "logits", "no_decoder_ln_final"),
        (with_doubled_mlp, "decoder.block.0.self", None),
    ],
)
def test_the_first_divergence_is_named(layout, plant, name, mistake):
    model, *inputs = port("as_released")
    plant(model)
    report = verify(mvc.load(KIT / "as_released"), recorded(layout(model), *inputs))
    assert not report.ok and report.first_divergence.name == name
    assert (report.mistake and report.mistake.name) == mistake


@pytest.mark.parametrize("layout", [lambda model: model, sequence_first])
def test_a_fault_inside_a_block(layout):
    """First the report asks for the finer names; those that are modules of open_clip narrow the fault."""
    model, *inputs = port("as_released")
    with_doubled_mlp(layout(model))
    reference = mvc.load(KIT / "as_released")
    (fault,) = verify(reference, recorded(model, *inputs)).faults
    assert "decoder.block.0.self.mlp" in fault.wanted
    tensors = recorded(model, *inputs, inside="decoder.block.0.self")
    assert tensors.keys() & set(fault.wanted) == set(fault.wanted[4:])
    (fault,) = verify(reference, tensors).faults
    assert fault.narrowed == "decoder.block.0.self.mlp", str(verify(reference, tensors))


def test_blocks_that_open_clip_does_not_have_are_refused():
    with pytest.raises(ValueError, match="no block vision.block.9: there are vision.block.0, "):
        open_clip_names(port("as_released")[0], ["vision.block.9"])


def test_no_hook_is_left():
    model, *inputs = port("as_released")
    before = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    recorded(model, *inputs)
    assert before == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


# lucidrains/CoCa-pytorch


@pytest.fixture
def coca():
    """CoCa-pytorch's model on vit-pytorch's encoder, as its README builds it, but tiny."""
    coca_pytorch = pytest.importorskip("coca_pytorch.coca_pytorch")
    from vit_pytorch.extractor import Extractor
    from vit_pytorch.simple_vit import SimpleViT

    torch.manual_seed(0)
    vit = SimpleViT(
        image_size=8, patch_size=4, num_classes=2, dim=16, depth=2, heads=2, mlp_dim=32, dim_head=8
    )
    encoder = Extractor(vit, return_embeddings_only=True, detach=False)
    return coca_pytorch.CoCa(
        dim=12,
        img_encoder=encoder,
        image_dim=16,
        num_tokens=20,
        unimodal_depth=2,
        multimodal_depth=2,
        num_img_queries=3,
        dim_head=4,
        heads=2,
    )


def test_the_names_of_lucidrains(coca):
    """The tensors are those that the package's own methods return, one stage after the other."""
    images, ids = torch.randn(2, 3, 8, 8), torch.randint(1, 20, (2, 6))
    with torch_hooks(coca, lucidrains_names(coca)) as tensors:
        coca(ids, images, return_loss=True)
    stages = [f"decoder.block.{i}.{part}" for i in range(2) for part in ("self", "cross")]
    assert sorted(tensors) == sorted(
        ["pixels", "vision.embed", "vision.block.0", "vision.block.1", "pool.flat", "pool.attended"]
        + ["pool.tokens", "pool.latent", "ids", "text.embed", "text.block.0", "text.block.1", "text.tokens"]
        + ["text.latent", *stages, "logits"]
    )
    with torch.no_grad():
        text, text_tokens = coca.embed_text(ids[:, :-1])
        image, tokens = coca.embed_image(images)
        attend, feed = coca.img_encoder.vit.transformer.layers[0]
        embedded = torch.from_numpy(tensors["vision.embed"])
        after = attend(embedded) + embedded
        expected = {
            "pixels": images,
            "vision.block.0": feed(after) + after,
            "pool.flat": coca.img_encoder(images),
            "pool.tokens": tokens,
            "pool.latent": coca.img_to_latents(image),
            "ids": ids[:, :-1],
            "text.tokens": text_tokens,
            "text.latent": coca.text_to_latents(text),
            "decoder.block.0.self": coca.multimodal_layers[0][0](text_tokens),
            "logits": coca(ids[:, :-1], images),
        }
        last = coca.img_encoder.vit.transformer.norm(torch.from_numpy(tensors["vision.block.1"]))
    np.testing.assert_allclose(last, expected["pool.flat"], atol=1e-6)
    for name, x in expected.items():
        np.testing.assert_allclose(tensors[name], x, atol=1e-6, err_msg=name)
    assert tensors["pool.attended"].shape == (2, 4, 12)


def test_lucidrains_with_another_encoder(coca):
    """The tensors of its blocks are left out; without an encoder, the pixels too."""
    whole = lucidrains_names(coca)
    coca.img_encoder = torch.nn.Conv2d(3, 16, 4)
    assert whole.keys() - lucidrains_names(coca) == {"vision.embed", "vision.block.0", "vision.block.1"}
    coca.img_encoder = None
    assert "pixels" not in lucidrains_names(coca)


# Flax


def flax_text(truth, with_positions):
    """The text's embedding as a port in Flax, its variables and the ids."""
    nn = pytest.importorskip("flax.linen")
    weights = load_file(KIT / "as_released" / "model.safetensors")
    tokens, positions, cls = (
        weights[f"text.{name}"].numpy()
        for name in ("token_embedding.weight", "positional_embedding", "cls_emb")
    )

    class Embedding(nn.Module):
        @nn.compact
        def __call__(self, ids):
            x = nn.Embed(*tokens.shape, name="tokens")(ids)
            x = np.concatenate([x, cls[None]])
            self.sow("intermediates", "whole", x + with_positions * positions[: len(x)])
            return x

    class Text(nn.Module):
        @nn.compact
        def __call__(self, ids):
            return Embedding(name="embed")(ids)

    variables = {"params": {"embed": {"tokens": {"embedding": tokens}}}}
    return Text(), variables, truth["ids"].numpy()


@pytest.mark.parametrize("right", [True, False])
def test_flax(right):
    truth = load_file(KIT / "as_released" / "truth.safetensors")
    text, variables, ids = flax_text(truth, right)
    _, state = text.apply(variables, ids, capture_intermediates=True)
    table = {"text.embed": "embed.whole"}
    recorded = flax_intermediates(state["intermediates"], table)
    recorded["ids"] = ids
    report = verify(mvc.load(KIT / "as_released"), recorded)
    assert report.ok == right and (right or report.first_divergence.name == "text.embed"), str(report)
    whole = flax_intermediates(state["intermediates"], {"text.embed": "embed", "text.tokens": "embed.tokens"})
    np.testing.assert_array_equal(whole["text.embed"][:-1], whole["text.tokens"])
