"""The table of tensor names and shapes, the check against it, and the parameter tree."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples
from safetensors.numpy import load_file

from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import check_tensors, nest, parameter_shapes, unnest
from minivideococa.model.config import Config

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"


def config(vision: dict | None = None, **model: object) -> Config:
    """The tiny configuration of the golden files, with changes."""
    source = json.loads((GOLDEN / "coca.json").read_text())
    source["vision_cfg"] |= vision or {}
    return parse_config(source | model)


def arrays(config: Config, dtype: str = "float32") -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, dtype) for name, shape in parameter_shapes(config).items()}


def test_names_and_shapes_are_those_of_open_clip() -> None:
    written_by_open_clip = load_file(GOLDEN / "coca.safetensors")
    assert parameter_shapes(config()) == {name: tensor.shape for name, tensor in written_by_open_clip.items()}


def test_path_order() -> None:
    names = list(parameter_shapes(config()))
    path = [
        "visual.conv1.weight",
        "visual.ln_pre.bias",
        "visual.transformer.resblocks.0.ln_1.weight",
        "visual.attn_pool.query",
        "visual.ln_post.weight",
        "visual.proj",
        "text.token_embedding.weight",
        "text.transformer.resblocks.0.mlp.c_proj.bias",
        "text.text_projection",
        "text_decoder.resblocks.0.ln_1.weight",
        "text_decoder.cross_attn.0.ln_1_kv.weight",
        "text_decoder.text_projection",
        "logit_scale",
    ]
    assert sorted(path, key=names.index) == path
    assert names[0] == path[0] and names[-1] == path[-1]


def test_equal_widths_have_one_in_projection() -> None:
    shapes = parameter_shapes(config({"width": 2, "head_width": 2}))
    assert shapes["visual.attn_pool.attn.in_proj_weight"] == (6, 2)
    assert not [name for name in shapes if "_proj_weight" in name and "in_proj_weight" not in name]


@pytest.mark.parametrize("form", ["parallel", "cascade"])
def test_poolers_of_the_paper_are_two(form: str) -> None:
    shapes = parameter_shapes(config({"width": 2, "head_width": 2, "attentional_pool": form}))
    first = {name.replace("attn_pool.", ""): shape for name, shape in shapes.items() if ".attn_pool." in name}
    second = {
        name.replace("attn_pool_contrastive.", ""): shape
        for name, shape in shapes.items()
        if ".attn_pool_contrastive." in name
    }
    assert second == first | {"visual.query": (1, 2)}


def test_without_ln_pre() -> None:
    less = parameter_shapes(config()).keys() - parameter_shapes(config({"no_ln_pre": True})).keys()
    assert less == {"visual.ln_pre.weight", "visual.ln_pre.bias"}


def test_new_layers_are_there_if_the_configuration_has_them() -> None:
    model = json.loads((GOLDEN / "coca.json").read_text())
    E = model["embed_dim"]

    def new(**video: object) -> dict[str, tuple[int, ...]]:
        shapes = parameter_shapes(parse_config({"model_cfg": model, "video_cfg": video}))
        assert parameter_shapes(config()).items() <= shapes.items()
        return {name: shape for name, shape in shapes.items() if name not in parameter_shapes(config())}

    assert new() == new(adapter="mean") == new(answers=[]) == {}
    block = {
        name.replace("text_decoder.", "factorized."): shape
        for name, shape in parameter_shapes(config()).items()
        if name.startswith("text_decoder.resblocks.0.")
    }
    assert new(factorized={"layers": 1, "heads": 1}) == block
    positions = {"factorized.positional_embedding": (6, E)}
    assert new(factorized={"layers": 1, "heads": 1, "positions": 6}) == block | positions
    assert len(new(factorized={"heads": 1})) == 4 * len(block)
    head = new(answers=["red", "blue", "two"])
    assert head["question_head.classifier.weight"] == (3, E)
    assert head["question_head.classifier.bias"] == (3,)
    assert head["question_head.pooler.query"] == (1, E)
    assert head["question_head.pooler.attn.in_proj_weight"] == (3 * E, E)
    assert {name.split(".")[2] for name in head if ".pooler." in name} == {"query", "ln_q", "ln_k", "attn"}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_fitting_tensors_are_accepted(dtype: str) -> None:
    tensors = arrays(config(), dtype)
    check_tensors(tensors, config(), "file")
    check_tensors(tensors | {"logit_scale": np.zeros(1, dtype)}, config(), "file")


def test_all_mismatches_are_in_one_message() -> None:
    tensors = arrays(config())
    del tensors["visual.proj"], tensors["text.cls_emb"]
    tensors["logit_bias"] = np.zeros(())
    tensors["visual.conv1.weight"] = np.zeros((3, 3, 2, 3), "f4")
    tensors["logit_scale"] = np.zeros(2, "f4")
    tensors["text.token_embedding.weight"] = np.zeros((5, 2), "i8")
    with pytest.raises(ValueError) as error:
        check_tensors(tensors, config(), "some/file")
    assert str(error.value) == (
        "some/file: the tensors do not fit the configuration: missing: visual.proj, text.cls_emb; "
        "unexpected: logit_bias; misshapen: visual.conv1.weight [3, 3, 2, 3], not [3, 3, 2, 2], "
        "logit_scale [2], not []; not floating point: text.token_embedding.weight int64"
    )


def test_long_lists_are_cut() -> None:
    with pytest.raises(ValueError, match=r"missing: (\S+, ){8}\.\.\. and \d+ more$"):
        check_tensors({}, config(), "file")


def test_nest() -> None:
    flat = {name: np.full(shape, i) for i, (name, shape) in enumerate(parameter_shapes(config()).items())}
    tree = nest(flat)
    assert list(tree) == ["visual", "text", "text_decoder", "logit_scale"]
    assert (
        tree["visual"]["transformer"]["resblocks"][0]["attn"]["in_proj_bias"]
        is flat["visual.transformer.resblocks.0.attn.in_proj_bias"]
    )
    assert (
        tree["text_decoder"]["cross_attn"][0]["ln_1_kv"]["weight"]
        is flat["text_decoder.cross_attn.0.ln_1_kv.weight"]
    )
    assert nest({"logit_scale": np.ones(1)})["logit_scale"].shape == ()


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.randoms())
def test_nest_keeps_all_tensors_in_any_order(vision: int, text: int, decoder: int, random) -> None:
    layers = config({"layers": vision})
    source = layers.source["model_cfg"]
    source["text_cfg"]["layers"], source["multimodal_cfg"]["layers"] = text, decoder
    flat = list(arrays(parse_config(source)).items())
    random.shuffle(flat)
    tree = nest(dict(flat))
    assert len(tree["visual"]["transformer"]["resblocks"]) == vision
    assert len(tree["text"]["transformer"]["resblocks"]) == text
    assert len(tree["text_decoder"]["resblocks"]) == len(tree["text_decoder"]["cross_attn"]) == decoder
    found = unnest(tree)
    assert found.keys() == dict(flat).keys()
    assert all(found[name] is array for name, array in flat if name != "logit_scale")


def test_unnest_of_tensors_by_name_changes_nothing() -> None:
    flat = arrays(config())
    assert list(unnest(flat).items()) == list(flat.items())
    assert list(unnest(nest(flat))) == list(flat)


def test_a_tree_may_have_empty_leaves() -> None:
    tree = nest(dict.fromkeys(arrays(config())))
    assert tree["logit_scale"] is None and tree["text"]["transformer"]["resblocks"][0]["ln_1"]["bias"] is None
    assert unnest(tree) == dict.fromkeys(arrays(config()))
