"""Which tensors are tuned, how they lie in the flat vector, and the initial values of new layers."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from minivideococa.checkpoint.table import nest, parameter_shapes, unnest
from minivideococa.model import decoder, text
from minivideococa.model.config import ADAPTERS
from minivideococa.training.parameters import (
    PHASES,
    TUNINGS,
    Parameters,
    is_decayed,
    is_reached,
    is_tuned,
    new_factorized,
    new_question_head,
    phases,
)

VIDEO = {"factorized": {"layers": 2, "heads": 2, "positions": 3}, "answers": ["red", "blue", "two"]}
FORMS = {
    "released": {},
    "parallel": {"width": 8, "head_width": 4, "attentional_pool": "parallel"},
    "cascade": {"width": 8, "head_width": 4, "attentional_pool": "cascade"},
}


@pytest.fixture
def model(tiny_model):
    return tiny_model(1, video=VIDEO)


def names(tensors, *prefixes):
    return {name for name in tensors if name.startswith(prefixes)}


# What is tuned


def test_what_each_phase_tunes(tiny_model):
    tensors = unnest(tiny_model(video=VIDEO, vision=FORMS["parallel"]).params)
    new = names(tensors, "factorized.", "question_head.")
    pooling = {"visual.proj"} | names(
        tensors, "visual.attn_pool.", "visual.attn_pool_contrastive.", "visual.ln_post."
    )
    rest = names(tensors, "text.", "text_decoder.") | {"logit_scale"}
    encoder = names(
        tensors,
        "visual.conv1",
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.ln_pre",
        "visual.transformer.",
    )
    assert len(new) and len(pooling) == 21 and len(encoder) == 5 + 2 * 12
    tuned = {phase: {name for name in tensors if is_tuned(name, phase)} for phase in PHASES}
    assert tuned == {
        "frozen": new | pooling,
        "lit": new | pooling | rest,
        "full": new | pooling | rest | encoder,
    }
    assert tuned["full"] == set(tensors)


def test_phases():
    assert {tune: phases(tune) for tune in TUNINGS} == {
        "lit": ["lit"],
        "frozen": ["frozen"],
        "frozen-then-full": ["frozen", "full"],
        "full": ["full"],
    }
    with pytest.raises(ValueError, match="^tune is 'LiT': give lit, frozen, frozen-then-full, full$"):
        phases("LiT")
    with pytest.raises(ValueError, match="^phase is 'frozen-then-full': give lit, frozen, full$"):
        is_tuned("visual.proj", "frozen-then-full")


def test_what_has_weight_decay(model):
    """Matrices: open_clip's rule, here by the names of all tensors without decay."""
    for name, tensor in unnest(model.params).items():
        without = name.endswith(("bias", "class_embedding", "cls_emb", "logit_scale")) or ".ln_" in name
        assert is_decayed(name, tensor.shape) != without, name
    assert is_decayed("text.positional_embedding", (10, 8))
    assert not is_decayed("logit_scale", (1, 1)) and not is_decayed("x.ln_1.weight", (2, 2))


# The flat vector


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("phase", PHASES)
def test_tuned_tensors_are_views_and_frozen_ones_the_models_own(tiny_model, phase, dtype):
    model = tiny_model(1, dtype, video=VIDEO)
    parameters = Parameters.of(model.params, phase)
    own, trees = unnest(model.params), (unnest(parameters.params), unnest(parameters.grads))
    assert list(own) == list(trees[0]) == list(trees[1])
    assert parameters.values.dtype == parameters.gradients.dtype == dtype
    for name, tensor in own.items():
        mine, gradient = (tree[name] for tree in trees)
        np.testing.assert_array_equal(mine, tensor)
        assert mine.shape == tensor.shape
        assert np.shares_memory(mine, tensor) != is_tuned(name, phase)
        assert np.shares_memory(mine, parameters.values) == is_tuned(name, phase)
        if is_tuned(name, phase):
            assert gradient.shape == tensor.shape and np.shares_memory(gradient, parameters.gradients)
        else:
            assert gradient is None


@pytest.mark.parametrize("phase", PHASES)
def test_the_vector_holds_every_tuned_tensor_once(model, phase):
    """Those with decay first; each group in path order."""
    parameters = Parameters.of(model.params, phase)
    tuned = {name: x for name, x in unnest(model.params).items() if is_tuned(name, phase)}
    decays = {name: is_decayed(name, x.shape) for name, x in tuned.items()}
    assert parameters.names == [n for n in tuned if decays[n]] + [n for n in tuned if not decays[n]]
    assert list(parameters.tensors()) == parameters.names
    end = 0
    for name in parameters.names:
        segment = parameters.segment(name)
        assert segment.start == end and (end < parameters.decayed) == decays[name]
        np.testing.assert_array_equal(parameters.values[segment], tuned[name].ravel())
        np.testing.assert_array_equal(parameters.tensors()[name], tuned[name])
        end = segment.stop
    assert end == len(parameters.values) == len(parameters.gradients)
    assert not parameters.gradients.any()


def test_an_update_of_the_vector_is_one_of_the_model(model):
    own = model.params["visual"]["proj"].copy()
    parameters = Parameters.of(model.params, "lit")
    tensor = parameters.params["text"]["token_embedding"]["weight"]
    parameters.values += 1
    np.testing.assert_array_equal(tensor, unnest(model.params)["text.token_embedding.weight"] + 1)
    assert parameters.params["logit_scale"].shape == ()
    assert parameters.params["logit_scale"] == model.params["logit_scale"] + 1
    parameters.grads["text"]["positional_embedding"][2] = 7
    where = parameters.segment("text.positional_embedding")
    assert parameters.gradients.sum() == parameters.gradients[where].sum() == 7 * 8
    np.testing.assert_array_equal(model.params["visual"]["proj"], own)


def test_the_model_computes_the_same_with_the_views(model):
    parameters = Parameters.of(model.params, "full")
    pixels, ids = np.random.default_rng(0).standard_normal((3, 3, 14, 14)), np.array([[1, 4, 2]])
    with_views = type(model)(model.config, parameters.params)
    for adapter in ADAPTERS:
        a, b = model.encode_video(pixels, adapter), with_views.encode_video(pixels, adapter)
        np.testing.assert_array_equal(a.latent, b.latent)
        np.testing.assert_array_equal(model.decode(a.tokens, ids), with_views.decode(b.tokens, ids))


def test_a_mapping_by_name_will_do(model):
    """As a checkpoint stores it, with `logit_scale` as [1] or as a scalar."""
    tensors = unnest(model.params) | {"logit_scale": np.array([2.5])}
    parameters = Parameters.of(tensors, "lit")
    assert parameters.params["logit_scale"].shape == () and parameters.params["logit_scale"] == 2.5
    assert Parameters.of(tensors, "frozen").params["logit_scale"].shape == ()
    assert parameters.names == Parameters.of(model.params, "lit").names


# What the losses depend on


def outcomes(model, params, adapter):
    """What the losses are computed from, by task and by whether there are answers."""
    pixels, ids = np.random.default_rng(0).standard_normal((3, 3, 14, 14)), np.array([[1, 4, 5, 2, 0, 0]])
    video = type(model)(model.config, params).encode_video(pixels, adapter)
    latents, features = text.encode_text(ids, params["text"], model.config.text)
    layers, config = params["text_decoder"], model.config.decoder
    kv = decoder.cross_attention_kv(video.tokens[None], layers, config)
    hidden = decoder.hidden_states(features, kv, layers, config)
    logits = decoder.decode(features, kv, layers, config)
    contrastive = video.latent, latents, params["logit_scale"]
    head = [x.sum() for name, x in unnest(params).items() if name.startswith("question_head.")]
    return {
        ("caption", True): [logits],
        ("caption", False): [logits],
        ("contrastive", True): contrastive,
        ("caption+contrastive", True): [*contrastive, logits],
        ("qa", True): [hidden, *head],
        ("qa", False): [logits],
    }


def moved(x):
    """Other values in another direction: latents, which are of unit length, do not depend on a factor."""
    return x + 0.1 * np.random.default_rng(1).standard_normal(x.shape)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("form", FORMS)
def test_reached_is_what_the_losses_depend_on(tiny_model, form, adapter):
    one = {"layers": 1}
    video = VIDEO | {"factorized": {"layers": 1, "heads": 2, "positions": 3}}
    model = tiny_model(2, vision=FORMS[form] | one, text=one, decoder=one, video=video)
    before, tensors = outcomes(model, model.params, adapter), unnest(model.params)
    for name, tensor in tensors.items():
        after = outcomes(model, nest(tensors | {name: moved(tensor)}), adapter)
        for (task, answers), values in before.items():
            config = model.config if answers else replace(model.config, answers=())
            same = all(np.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(values, after[task, answers]))
            assert is_reached(name, config, task, adapter) != same, (name, task)


def test_what_is_not_reached_is_frozen(model):
    reached = partial(is_reached, config=model.config, task="contrastive", adapter="attentional")
    parameters = Parameters.of(model.params, "lit", reached)
    assert not names(parameters.names, "text_decoder.", "factorized.", "question_head.")
    assert parameters.grads["text_decoder"]["text_projection"] is None
    assert (
        parameters.params["text_decoder"]["text_projection"]
        is (model.params["text_decoder"]["text_projection"])
    )
    assert names(parameters.names, "text.") == names(unnest(model.params), "text.")


# New layers


@pytest.mark.parametrize("make, prefix", [(new_factorized, "factorized."), (new_question_head, "question_")])
def test_new_layers_have_the_tables_names_and_shapes(model, tiny_model, make, prefix):
    new = make(model.config, 0, "float32")
    shapes = {name: s for name, s in parameter_shapes(model.config).items() if name.startswith(prefix)}
    assert {name: x.shape for name, x in new.items()} == shapes
    assert {x.dtype for x in new.values()} == {np.dtype("float32")}
    assert make(tiny_model().config, 0, "float32") == {}


@pytest.mark.parametrize("make", [new_factorized, new_question_head])
def test_a_seed_gives_the_same_layers_in_every_dtype(model, make):
    in32, in64, other = (make(model.config, *args) for args in ((5, "f4"), (5, "f8"), (6, "f8")))
    assert any((other[name] != x).any() for name, x in in64.items())
    for name, x in in64.items():
        np.testing.assert_array_equal(in32[name], x.astype("f4"))


def test_standard_deviations(tiny_model):
    """open_clip's, as written in its init_parameters and AttentionalPooler."""
    wide = {"width": 64, "heads": 2}
    config = tiny_model(embed_dim=64, text=wide, decoder=wide, video=VIDEO).config
    new = new_factorized(config, 0, "f8") | new_question_head(config, 0, "f8")
    expected = {
        "factorized.resblocks.1.attn.in_proj_weight": 64**-0.5,
        "factorized.resblocks.1.mlp.c_fc.weight": 128**-0.5,
        "question_head.pooler.query": 1,
        "question_head.pooler.attn.in_proj_weight": 64**-0.5,
        "question_head.pooler.attn.out_proj.weight": 64**-0.5,
    }
    for name, std in expected.items():
        assert new[name].std() == pytest.approx(std, rel=4 / np.sqrt(2 * new[name].size))
        assert abs(new[name].mean()) < 4 * std / np.sqrt(new[name].size)
    random = {name for name, x in new.items() if len(np.unique(x)) > 1}
    assert random == expected.keys() | {name.replace(".1.", ".0.") for name in expected if ".1." in name}
    for name in new.keys() - random:
        assert (new[name] == (1 if ".ln_" in name and name.endswith("weight") else 0)).all(), name


@pytest.mark.parametrize("positions", [None, 4])
def test_before_training_the_latent_is_that_of_mean_pooling(tiny_model, positions):
    model = tiny_model(video={"factorized": {"layers": 2, "heads": 2, "positions": positions}})
    params = nest(unnest(model.params) | new_factorized(model.config, 0, "f8"))
    model = type(model)(model.config, params)
    pixels = np.random.default_rng(0).standard_normal((4, 3, 14, 14))
    mean, new = model.encode_video(pixels, "mean"), model.encode_video(pixels, "factorized")
    np.testing.assert_allclose(new.latent, mean.latent, rtol=0, atol=1e-12)


def test_new_layers_differ_from_each_other(model):
    """A head does not repeat the numbers of the layers across frames, though the seed is the same."""
    new = new_factorized(model.config, 3, "f8") | new_question_head(model.config, 3, "f8")
    drawn = np.concatenate([x.ravel() for x in new.values() if len(np.unique(x)) > 1])
    assert len(np.unique(drawn)) == len(drawn)
