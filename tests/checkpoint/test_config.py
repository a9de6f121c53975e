"""The configuration: open_clip's layout and defaults, and errors that name what is not supported."""

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples

from minivideococa.checkpoint.config import DECODER, MODEL, PREPROCESS, TEXT, VISION, parse_config
from minivideococa.model.config import (
    ADAPTERS,
    Config,
    DecoderConfig,
    FactorizedConfig,
    PreprocessConfig,
    TextConfig,
    VisionConfig,
)

# the released coca_ViT-L-14, whose every number is written out below
L14 = {
    "model_cfg": {
        "embed_dim": 768,
        "vision_cfg": {
            "image_size": 224,
            "layers": 24,
            "width": 1024,
            "patch_size": 14,
            "attentional_pool": True,
            "attn_pooler_heads": 8,
            "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 76,
            "vocab_size": 49408,
            "width": 768,
            "heads": 12,
            "layers": 12,
            "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {
            "context_length": 76,
            "vocab_size": 49408,
            "width": 768,
            "heads": 12,
            "layers": 12,
            "attn_pooler_heads": 12,
        },
        "custom_text": True,
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.26, 0.27]},
}

MODEL_CFG = L14["model_cfg"]


def changed(path: str, value: object) -> dict:
    """L14 with the field at the dotted path set to value, or removed if value is `...`."""
    source = copy.deepcopy(L14)
    *sections, name = path.split(".")
    node = source if sections[:1] in (["preprocess_cfg"], ["video_cfg"]) else source["model_cfg"]
    for section in sections:
        node = node.setdefault(section, {})
    node[name] = value
    if value is ...:
        del node[name]
    return source


def refusal(source: object) -> str:
    with pytest.raises(ValueError) as error:
        parse_config(source, "some/config.json")
    message = str(error.value)
    assert message.startswith("some/config.json: ") and "\n" not in message
    return message


def same_model(a: Config, b: Config) -> bool:
    return replace(a, source={}) == replace(b, source={})


def test_released_configuration() -> None:
    config = parse_config(L14)
    assert config.embed_dim == 768 and config.pad_id == 0 and config.tokenizer_clean == "lower"
    assert config.vision == VisionConfig(
        image_size=224,
        patch_size=14,
        width=1024,
        layers=24,
        heads=16,
        mlp_width=4096,
        ln_pre=True,
        attentional_pool=True,
        queries=256,
        pooler_heads=8,
        quick_gelu=False,
    )
    assert config.vision.tokens_per_frame == 257
    assert config.text == TextConfig(
        context_length=76,
        vocab_size=49408,
        width=768,
        layers=12,
        heads=12,
        mlp_width=3072,
        pad_id=0,
        correct_cls_mask=False,
        quick_gelu=False,
    )
    assert config.decoder == DecoderConfig(
        context_length=76, width=768, layers=12, heads=12, mlp_width=3072, quick_gelu=False
    )
    assert config.preprocess == PreprocessConfig(
        size=224,
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.26, 0.27),
        interpolation="bicubic",
        resize_mode="shortest",
        fill_color=0,
    )
    assert config.source == L14


def test_bare_model_cfg() -> None:
    config = parse_config(MODEL_CFG)
    assert config.source == {"model_cfg": MODEL_CFG, "preprocess_cfg": {}}
    assert config.preprocess.mean == (0.48145466, 0.4578275, 0.40821073)
    assert config.preprocess.std == (0.26862954, 0.26130258, 0.27577711)
    assert same_model(config, parse_config({"model_cfg": MODEL_CFG}))


def test_defaults() -> None:
    least = {
        "embed_dim": 512,
        "vision_cfg": {"attentional_pool": True},
        "text_cfg": {"embed_cls": True},
        "multimodal_cfg": {},
    }
    config = parse_config(least)
    assert config.vision == VisionConfig(224, 16, 768, 12, 12, 3072, True, True, 256, 8, False)
    assert config.text == TextConfig(77, 49408, 512, 12, 8, 2048, 0, False, False)
    assert config.decoder == DecoderConfig(77, 512, 12, 8, 2048, False)


def test_without_a_video_cfg() -> None:
    for source in (L14, L14 | {"video_cfg": None}, L14 | {"video_cfg": {}}):
        config = parse_config(source)
        assert (config.adapter, config.factorized, config.answers) == ("attentional", None, ())
    assert "video_cfg" not in parse_config(MODEL_CFG).source


def test_of_a_finetuned_model() -> None:
    video = {"adapter": "factorized", "factorized": {"layers": 4, "heads": 8, "positions": 8}}
    model = MODEL_CFG | {"quick_gelu": True}
    config = parse_config({"model_cfg": model, "video_cfg": video})
    assert config.adapter == "factorized" and config.source["video_cfg"] == video
    assert config.factorized == FactorizedConfig(
        width=768, layers=4, heads=8, mlp_width=3072, quick_gelu=True, frames=8
    )
    assert parse_config(json.loads(json.dumps(config.source))) == config


def test_factorized_needs_its_section() -> None:
    message = refusal(changed("video_cfg.adapter", "factorized"))
    assert "video_cfg.factorized is missing, as video_cfg.adapter factorized requires" in message


def test_source_is_not_modified() -> None:
    source = copy.deepcopy(L14)
    parse_config(source)
    assert source == L14


@pytest.mark.parametrize(
    "path, value, read",
    [
        ("quick_gelu", True, lambda c: c.vision.quick_gelu and c.text.quick_gelu and c.decoder.quick_gelu),
        ("pad_id", 3, lambda c: c.pad_id == 3 and c.text.pad_id == 0),
        ("vision_cfg.image_size", [336, 336], lambda c: c.vision.image_size == c.preprocess.size == 336),
        (
            "vision_cfg.patch_size",
            [15, 15],
            lambda c: c.vision.patch_size == 15 and c.vision.tokens_per_frame == 197,
        ),
        ("vision_cfg.head_width", 128, lambda c: c.vision.heads == 8),
        ("vision_cfg.head_width", 500, lambda c: c.vision.heads == 2),  # 1024 // 500, as open_clip counts
        ("vision_cfg.mlp_ratio", 2.6667, lambda c: c.vision.mlp_width == 2730),  # cut, not rounded
        ("vision_cfg.no_ln_pre", True, lambda c: not c.vision.ln_pre),
        ("vision_cfg.attn_pooler_queries", 8, lambda c: c.vision.queries == 8),
        ("vision_cfg.pos_embed_type", "sin_cos_2d", lambda c: c.vision.tokens_per_frame == 257),
        ("text_cfg.mlp_ratio", 2.2, lambda c: c.text.mlp_width == 1689 and c.decoder.mlp_width == 3072),
        ("text_cfg.pad_id", 1, lambda c: c.text.pad_id == 1 and c.pad_id == 0),
        ("text_cfg.correct_cls_mask", True, lambda c: c.text.correct_cls_mask),
        ("multimodal_cfg.context_length", 77, lambda c: c.decoder.context_length == 77),
        ("text_cfg.hf_tokenizer_name", "some/name", lambda c: c.tokenizer_clean == "whitespace"),
        ("text_cfg.hf_tokenizer_name", "", lambda c: c.tokenizer_clean == "lower"),
        ("text_cfg.tokenizer_kwargs", {"clean": "whitespace"}, lambda c: c.tokenizer_clean == "whitespace"),
        ("text_cfg.tokenizer_kwargs", {}, lambda c: c.tokenizer_clean == "lower"),
        ("preprocess_cfg.mean", 0.5, lambda c: c.preprocess.mean == (0.5, 0.5, 0.5)),
        ("preprocess_cfg.mean", 0, lambda c: c.preprocess.mean == (0.48145466, 0.4578275, 0.40821073)),
        ("preprocess_cfg.mean", [0, 0, 0], lambda c: c.preprocess.mean == (0, 0, 0)),
        ("preprocess_cfg.std", None, lambda c: c.preprocess.std == (0.26862954, 0.26130258, 0.27577711)),
        (
            "preprocess_cfg.size",
            256,
            lambda c: c.preprocess.size == 224,
        ),  # open_clip takes the vision tower's
        ("preprocess_cfg.size", [224, 224], lambda c: c.preprocess.size == 224),
        ("preprocess_cfg.interpolation", "bilinear", lambda c: c.preprocess.interpolation == "bilinear"),
        ("preprocess_cfg.interpolation", "random", lambda c: c.preprocess.interpolation == "bicubic"),
        ("preprocess_cfg.resize_mode", "longest", lambda c: c.preprocess.resize_mode == "longest"),
        ("preprocess_cfg.fill_color", 255, lambda c: c.preprocess.fill_color == 255),
        *(
            ("video_cfg.adapter", name, lambda c, name=name: c.adapter == name)
            for name in ADAPTERS
            if name != "factorized"
        ),
        ("video_cfg.factorized", None, lambda c: c.factorized is None),
        (
            "video_cfg.factorized",
            {},
            lambda c: c.factorized == FactorizedConfig(768, 4, 8, 3072, False, None),
        ),
        ("video_cfg.factorized.layers", 2, lambda c: c.factorized.layers == 2),
        ("video_cfg.factorized.heads", 12, lambda c: c.factorized.heads == 12),
        ("video_cfg.factorized.positions", 16, lambda c: c.factorized.frames == 16),
        ("video_cfg.factorized.positions", None, lambda c: c.factorized.frames is None),
        ("video_cfg.answers", ["red", "two"], lambda c: c.answers == ("red", "two")),
        ("video_cfg.answers", [], lambda c: c.answers == ()),
    ],
)
def test_fields(path: str, value: object, read) -> None:
    assert read(parse_config(changed(path, value)))


@pytest.mark.parametrize("form", ["parallel", "cascade"])
def test_poolers_of_the_paper(form: str) -> None:
    source = changed("vision_cfg.attentional_pool", form)
    assert "vision_cfg.width 1024 is not embed_dim 768" in refusal(source)
    source["model_cfg"]["vision_cfg"]["width"] = 768
    source["model_cfg"]["vision_cfg"]["attn_pooler_queries"] = 1  # all of them are caption tokens
    assert parse_config(source).vision.attentional_pool == form


@pytest.mark.parametrize(
    "path, value",
    [
        ("custom_text", False),
        ("init_logit_scale", 1.0),
        ("nonscalar_logit_scale", True),
        ("cast_dtype", None),
        ("vision_cfg.patch_dropout", 0.5),
        ("vision_cfg.final_ln_after_pool", True),
        ("vision_cfg.output_tokens", False),
        ("vision_cfg.timm_pool", "avg"),
        ("vision_cfg.timm_model_name", ""),
        ("vision_cfg.timm_drop_path", None),
        ("vision_cfg.norm_kwargs", {}),
        ("vision_cfg.block_type", "default"),
        ("vision_cfg.qk_norm", False),
        ("text_cfg.pool_type", "eos"),
        ("text_cfg.eos_id", 2),
        ("text_cfg.final_ln_after_pool", True),
        ("text_cfg.hf_proj_type", "linear"),
        ("text_cfg.hf_model_name", None),
        ("text_cfg.tokenizer_mode", ""),
        ("multimodal_cfg.mlp_ratio", 2),
        ("multimodal_cfg.dim_head", 32),
        ("multimodal_cfg.n_queries", 9),
        ("multimodal_cfg.attn_pooler_heads", 5),
        ("multimodal_cfg.vocab_size", 9),
        ("multimodal_cfg.embed_cls", False),
        ("multimodal_cfg.act_kwargs", {"approximate": "tanh"}),
    ],
)
def test_ignored_fields_are_accepted(path: str, value: object) -> None:
    assert same_model(parse_config(changed(path, value)), parse_config(L14))


@pytest.mark.parametrize(
    "path, value",
    [
        ("vision_cfg.timm_model_name", "vit_base"),
        ("text_cfg.hf_model_name", "roberta-base"),
        ("vision_cfg.ls_init_value", 0.0),
        ("text_cfg.ls_init_value", 1e-5),
        ("multimodal_cfg.ls_init_value", 1e-5),
        ("vision_cfg.layers", [3, 4, 6, 3]),
        ("vision_cfg.attentional_pool", False),
        ("vision_cfg.attentional_pool", ...),
        ("vision_cfg.attentional_pool", "serial"),
        ("vision_cfg.attentional_pool", 1),
        ("vision_cfg.pool_type", "avg"),
        ("text_cfg.embed_cls", False),
        ("text_cfg.embed_cls", ...),
        ("text_cfg.no_causal_mask", True),
        ("text_cfg.proj_type", "none"),
        ("text_cfg.proj_bias", True),
        ("init_logit_bias", -10.0),
        ("vision_cfg.pos_embed_type", "rope"),
        ("text_cfg.tokenizer_mode", "clips"),
        *(
            (f"{tower}.{name}", value)
            for tower in ("vision_cfg", "text_cfg")
            for name, value in [
                ("block_type", "custom"),
                ("qk_norm", True),
                ("scaled_cosine_attn", True),
                ("scale_heads", True),
                ("scale_attn_inner", True),
                ("scale_attn", True),
                ("scale_fc", True),
                ("act_kwargs", {"approximate": "tanh"}),
                ("norm_kwargs", {"eps": 1e-6}),
            ]
        ),
        ("vision_cfg.image_size", [224, 336]),
        ("vision_cfg.image_size", [224]),
        ("vision_cfg.patch_size", [14, 16]),
        ("vision_cfg.patch_size", 225),
        ("vision_cfg.image_size", 13),
        ("vision_cfg.width", 63),
        ("vision_cfg.head_width", 2048),
        ("vision_cfg.head_width", 300),
        ("vision_cfg.attn_pooler_heads", 7),
        ("text_cfg.heads", 7),
        ("multimodal_cfg.heads", 7),
        ("vision_cfg.attn_pooler_queries", 1),
        ("vision_cfg.mlp_ratio", 1e-9),
        ("text_cfg.mlp_ratio", 0),
        ("text_cfg.width", 1024),
        ("multimodal_cfg.width", 1024),
        ("multimodal_cfg.context_length", 75),
        ("pad_id", 49408),
        ("text_cfg.pad_id", 49408),
        ("pad_id", -1),
        ("embed_dim", ...),
        ("vision_cfg", ...),
        ("text_cfg", ...),
        ("multimodal_cfg", ...),
        ("text_cfg", [1]),
        ("vision_cfg.width", "1024"),
        ("vision_cfg.width", True),
        ("vision_cfg.width", -1),
        ("vision_cfg.width", 0),
        ("vision_cfg.width", 1024.0),
        ("vision_cfg.width", None),
        ("quick_gelu", 1),
        ("vision_cfg.mlp_ratio", "4"),
        ("vision_cfg.mlp_ratio", float("nan")),
        ("text_cfg.correct_cls_mask", 0),
        ("text_cfg.hf_tokenizer_name", 1),
        ("text_cfg.tokenizer_kwargs", "lower"),
        ("embed_dims", 768),
        ("vision_cfg.widht", 1024),
        ("text_cfg.head", 12),
        ("multimodal_cfg.layer", 12),
        ("preprocess_cfg.men", 0.5),
        ("preprocess_cfg.mode", "L"),
        ("preprocess_cfg.mean", [0.5, 0.5]),
        ("preprocess_cfg.mean", "0.5"),
        ("preprocess_cfg.mean", False),
        ("preprocess_cfg.std", [0.5, 0, 0.5]),
        ("preprocess_cfg.std", float("inf")),
        ("preprocess_cfg.size", [224, 225]),
        ("preprocess_cfg.interpolation", "nearest"),
        ("preprocess_cfg.resize_mode", "crop"),
        ("preprocess_cfg.fill_color", 256),
        ("preprocess_cfg.fill_color", -1),
        ("video_cfg.adapter", "median"),
        ("video_cfg.adapter", None),
        ("video_cfg.adapters", "mean"),
        ("video_cfg.factorized", 4),
        ("video_cfg.factorized.layers", 0),
        ("video_cfg.factorized.layers", 10**6),
        ("video_cfg.factorized.heads", 7),
        ("video_cfg.factorized.heads", "8"),
        ("video_cfg.factorized.positions", 0),
        ("video_cfg.factorized.positions", 8.0),
        ("video_cfg.factorized.frames", 8),
        ("video_cfg.answers", "red"),
        ("video_cfg.answers", None),
        ("video_cfg.answers", ["red", 2]),
        ("video_cfg.answers", ["red", " "]),
        ("video_cfg.answers", ["red", "red"]),
    ],
)
def test_invalid_fields_are_named(path: str, value: object) -> None:
    assert path in refusal(changed(path, value))


@pytest.mark.parametrize(
    "kwargs, name",
    [
        ({"clean": "canonicalize"}, "text_cfg.tokenizer_kwargs.clean"),
        ({"strip_sep_token": True}, "text_cfg.tokenizer_kwargs.strip_sep_token"),
    ],
)
def test_unsupported_tokenizer_arguments(kwargs: dict, name: str) -> None:
    assert name in refusal(changed("text_cfg.tokenizer_kwargs", kwargs))


@pytest.mark.parametrize("source", [[], None, "model_cfg", {}, {"model_type": "clip"}])
def test_not_a_configuration(source: object) -> None:
    assert "not a configuration of open_clip" in refusal(source)


def test_all_problems_are_in_one_message() -> None:
    source = {
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": {"timm_model_name": "vit", "width": 768},
            "text_cfg": {"hf_model_name": "roberta-base", "width": 768},
            "multimodal_cfg": {"ls_init_value": 0.1, "context_length": 60},
        },
        "preprocess_cfg": {"resize_mode": "crop"},
    }
    message = refusal(source)
    for name in (
        "vision_cfg.timm_model_name",
        "vision_cfg.attentional_pool",
        "text_cfg.hf_model_name",
        "text_cfg.embed_cls",
        "text_cfg.width",
        "multimodal_cfg.ls_init_value",
        "multimodal_cfg.context_length",
        "preprocess_cfg.resize_mode",
    ):
        assert name in message
    message = refusal({"model_cfg": {"text_cfg": {"heads": "8"}}})
    for name in ("embed_dim", "vision_cfg is missing", "multimodal_cfg is missing", "text_cfg.heads"):
        assert name in message


FIELDS = [
    *MODEL,
    *(
        f"{section}.{name}"
        for section, rules in (
            ("vision_cfg", VISION),
            ("text_cfg", TEXT),
            ("multimodal_cfg", DECODER),
            ("preprocess_cfg", PREPROCESS),
        )
        for name in rules
    ),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
)


@settings(max_examples=examples(150), deadline=None)
@given(st.sampled_from(FIELDS), JSON)
def test_any_value_is_read_or_named(path: str, value: object) -> None:
    try:
        config = parse_config(changed(path, value))
    except ValueError as error:
        assert path in str(error) and "\n" not in str(error)
    else:
        json.dumps(config.source)
