"""The configuration of a CoCa in open_clip's layout, and its conversion to a `Config`.

A `config.json` is `{"model_cfg": {...}, "preprocess_cfg": {...}}`, and for a finetuned model also
"video_cfg", which is not open_clip's: its adapter, the factorized adapter's layers and the question head's
answers. A bare model_cfg (open_clip's own model_configs/*.json, with `embed_dim` at the top level) is
accepted too. The tables below list every field with its default and its valid values. Defaults are those of
open_clip 3.3.0 (CLIPVisionCfg, CLIPTextCfg, MultimodalCfg and PreprocessCfg). Fields that open_clip's CoCa
accepts and never uses are accepted; unknown fields, and values that ask for something this package does not
implement, are errors that name the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..inputs import join_names
from ..model.config import (
    ADAPTERS,
    Config,
    DecoderConfig,
    FactorizedConfig,
    PreprocessConfig,
    TextConfig,
    VisionConfig,
)

Section = dict[str, Any]


# Fields -----------------------------------------------------------------------------------------------------


class Field(NamedTuple):
    """A field of the configuration: its default, its valid values, and the message for others."""

    default: Any
    is_valid: Callable[[Any], bool]
    problem: str
    malformed: bool = True  # False where an invalid value is well-formed, but not supported


# Far above any real model. Sizes computed from them stay small enough to compare with those of the weights.
MAX_SIZE, MAX_LAYERS, MAX_RATIO, MAX_PIXEL = 2**24, 2**10, 2**10, 1e6

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def integer(default: int | None = None, minimum: int = 1, maximum: int = MAX_SIZE) -> Field:
    """Return a field for an integer within bounds. Without a default it is required."""
    return Field(
        default,
        lambda value: type(value) is int and minimum <= value <= maximum,
        f"expected an integer from {minimum} to {maximum}",
    )


def ratio(default: float) -> Field:
    """Return a field for a positive number."""
    return Field(
        default,
        lambda value: _is_number(value) and 0 < value <= MAX_RATIO,
        f"expected a number above 0, at most {MAX_RATIO}",
    )


def pixels(default: int) -> Field:
    """Return a field for the side of a square in pixels: n or [n, n]."""
    return Field(
        default,
        lambda value: type(_side(value)) is int and 0 < _side(value) <= MAX_SIZE,
        f"expected a number of pixels from 1 to {MAX_SIZE}, or two equal ones: only squares are supported",
    )


def channels(default: tuple[float, ...], minimum: float) -> Field:
    """Return a field for one number, or one per colour channel."""
    return Field(
        default,
        lambda value: (
            len(_channels(value, default)) == 3
            and all(_is_number(c) and minimum <= c <= MAX_PIXEL for c in _channels(value, default))
        ),
        f"expected a number from {minimum:g} to {MAX_PIXEL:g} for each of three channels",
    )


def boolean(default: bool = False) -> Field:
    """Return a field for a boolean."""
    return Field(default, lambda value: isinstance(value, bool), "expected true or false")


def string(default: str | None = None) -> Field:
    """Return a field for a string or null."""
    return Field(default, lambda value: value is None or isinstance(value, str), "expected a string")


def section(default: Section | None = None) -> Field:
    """Return a field for a section {...}. Without a default it is required."""
    return Field(default, lambda value: isinstance(value, dict), "expected a section {...}")


def optional_section() -> Field:
    """Return a field for a section {...} or null."""
    return Field(None, lambda value: value is None or isinstance(value, dict), "expected a section {...}")


def optional_integer(maximum: int = MAX_SIZE) -> Field:
    """Return a field for an integer from 1 to a maximum, or null."""
    return Field(
        None,
        lambda value: value is None or (type(value) is int and 1 <= value <= maximum),
        f"expected null or an integer from 1 to {maximum}",
    )


def distinct_strings() -> Field:
    """Return a field for a list of distinct strings that are not blank, by default empty."""
    return Field(
        [],
        lambda value: (
            isinstance(value, list)
            and all(isinstance(text, str) and text.strip() for text in value)
            and len(set(value)) == len(value)
        ),
        "expected a list of distinct strings that are not blank",
    )


def supported(*values: Any, unsupported: str, default: Any = ...) -> Field:
    """Return a field for one of the supported values, by default the first. 1 is not the same as true.

    `unsupported` describes other values in the message. With an unsupported `default` the field is required.
    """
    return Field(
        values[0] if default is ... else default,
        lambda value: any(type(value) is type(v) and value == v for v in values),
        f"{unsupported} is not supported",
        malformed=False,
    )


def ignored() -> Field:
    """Return a field without effect on inference, for any value."""
    return Field(None, lambda value: True, "")


# The tables -------------------------------------------------------------------------------------------------

FILE = {
    "model_cfg": section(),
    "preprocess_cfg": section({}),
    "video_cfg": optional_section(),
}
MODEL = {
    "embed_dim": integer(),
    "quick_gelu": boolean(),
    "pad_id": integer(0, minimum=0),
    "vision_cfg": section(),
    "text_cfg": section(),
    "multimodal_cfg": section(),
    "init_logit_bias": supported(None, unsupported="a logit bias"),
    "custom_text": ignored(),
    "init_logit_scale": ignored(),
    "nonscalar_logit_scale": ignored(),
    "cast_dtype": ignored(),
}
BLOCK = {  # fields of both towers
    "ls_init_value": supported(None, unsupported="layer scale"),
    "act_kwargs": supported(None, {}, unsupported="an activation with arguments"),
    "norm_kwargs": supported(None, {}, unsupported="a norm with arguments"),
    "block_type": supported(None, "default", unsupported="a custom block"),
    "qk_norm": supported(False, unsupported="a norm of queries and keys"),
    "scaled_cosine_attn": supported(False, unsupported="cosine attention"),
    "scale_heads": supported(False, unsupported="a scale for each head"),
    "scale_attn_inner": supported(False, unsupported="a norm inside attention"),
    "scale_attn": supported(False, unsupported="a norm after attention"),
    "scale_fc": supported(False, unsupported="a norm inside the MLP"),
}
VISION = {
    "image_size": pixels(224),
    "patch_size": pixels(16),
    "width": integer(768),
    "layers": integer(12, maximum=MAX_LAYERS),
    "head_width": integer(64),
    "mlp_ratio": ratio(4.0),
    "no_ln_pre": boolean(),
    "attentional_pool": supported(
        True, "parallel", "cascade", unsupported="a vision tower without an attentional pooler", default=False
    ),
    "attn_pooler_queries": integer(256),
    "attn_pooler_heads": integer(8),
    "pool_type": supported("tok", unsupported="any pooling but tok"),
    "pos_embed_type": supported("learnable", "sin_cos_2d", unsupported="this positional embedding"),
    "timm_model_name": supported(None, "", unsupported="a timm tower"),
    **BLOCK,
    "patch_dropout": ignored(),  # training only
    "final_ln_after_pool": ignored(),  # overridden by the attentional pooler
    "output_tokens": ignored(),
    "timm_model_pretrained": ignored(),
    "timm_pool": ignored(),
    "timm_proj": ignored(),
    "timm_proj_bias": ignored(),
    "timm_drop": ignored(),
    "timm_drop_path": ignored(),
}
TEXT = {
    "context_length": integer(77),
    "vocab_size": integer(49408),
    "width": integer(512),
    "layers": integer(12, maximum=MAX_LAYERS),
    "heads": integer(8),
    "mlp_ratio": ratio(4.0),
    "pad_id": integer(0, minimum=0),
    "correct_cls_mask": boolean(),
    "embed_cls": supported(True, unsupported="a text tower without a class token", default=False),
    "no_causal_mask": supported(False, unsupported="a text tower without a causal mask"),
    "proj_type": supported("linear", unsupported="any projection but linear"),
    "proj_bias": supported(False, unsupported="a projection with a bias"),
    "hf_model_name": supported(None, "", unsupported="a Hugging Face tower"),
    "hf_tokenizer_name": string(),
    "tokenizer_mode": supported(None, "", unsupported="a special mode of the tokenizer"),
    "tokenizer_kwargs": optional_section(),
    **BLOCK,
    "pool_type": ignored(),  # overridden by embed_cls
    "eos_id": ignored(),
    "final_ln_after_pool": ignored(),
    "output_tokens": ignored(),
    "hf_model_pretrained": ignored(),
    "hf_proj_type": ignored(),
    "hf_pooler_type": ignored(),
}
TOKENIZER = {
    "clean": supported(None, "lower", "whitespace", unsupported="this text cleaning"),
}
DECODER = {
    # open_clip reads every field of a text configuration here, and builds the decoder from the five below
    **dict.fromkeys(TEXT, ignored()),
    "dim_head": ignored(),
    "n_queries": ignored(),
    "attn_pooler_heads": ignored(),
    "context_length": integer(77),
    "width": integer(512),
    "layers": integer(12, maximum=MAX_LAYERS),
    "heads": integer(8),
    "ls_init_value": BLOCK["ls_init_value"],
}
PREPROCESS = {
    "size": pixels(224),
    "mode": supported("RGB", unsupported="any mode but RGB"),
    "mean": channels(MEAN, minimum=-MAX_PIXEL),
    "std": channels(STD, minimum=1 / MAX_PIXEL),
    "interpolation": supported("bicubic", "bilinear", "random", unsupported="this interpolation"),
    "resize_mode": supported("shortest", "longest", "squash", unsupported="this resize mode"),
    "fill_color": integer(0, minimum=0, maximum=255),
}
VIDEO = {
    "adapter": supported(*ADAPTERS, unsupported="this adapter"),
    "factorized": optional_section(),
    "answers": distinct_strings(),
}
FACTORIZED = {
    "layers": integer(4, maximum=MAX_LAYERS),  # the paper's number; its heads are not known
    "heads": integer(8),
    "positions": optional_integer(),
}


# Reading ----------------------------------------------------------------------------------------------------


class _Sections(NamedTuple):
    """The sections of a configuration, each with all of its fields."""

    model: Section
    vision: Section
    text: Section
    tokenizer: Section
    decoder: Section
    preprocess: Section
    video: Section
    factorized: Section | None


def parse_config(source: Section, name: str = "config") -> Config:
    """Return the configuration in `source`, a parsed config.json or model_cfg. Messages call it `name`.

    Raises ValueError: one line with every field that is missing, invalid, unknown or unsupported.
    """
    if not isinstance(source, dict) or not {"model_cfg", "embed_dim"} & source.keys():
        raise ValueError(f"{name}: not a configuration of open_clip: it has no model_cfg and no embed_dim")
    if "model_cfg" not in source:
        source = {"model_cfg": source}
    source = source | {"preprocess_cfg": source.get("preprocess_cfg", {})}
    reader = _Reader()
    sections = _read_sections(source, reader)
    if not reader.malformed:
        reader.problems += _contradictions(sections)
    if reader.problems:
        raise ValueError(f"{name}: " + "; ".join(reader.problems))
    model, text = sections.model, sections.text
    clean = "whitespace" if text["hf_tokenizer_name"] else "lower"
    return Config(
        embed_dim=model["embed_dim"],
        vision=_vision_config(sections),
        text=_text_config(sections),
        decoder=_decoder_config(sections),
        preprocess=_preprocess_config(sections),
        pad_id=model["pad_id"],
        source=source,
        tokenizer_clean=sections.tokenizer["clean"] or clean,
        adapter=sections.video["adapter"],
        factorized=_factorized_config(sections),
        answers=tuple(sections.video["answers"]),
    )


class _Reader:
    """Reads sections by their tables and collects all problems, so that one message can list them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.malformed = False  # whether a value cannot be compared with others

    def read(self, prefix: str, values: Section | None, fields: dict[str, Field]) -> Section:
        """Return every field of a section. `values` is None for a missing one, which is reported already."""
        if values is None:
            return {name: field.default for name, field in fields.items()}
        if unknown := [prefix + name for name in values if name not in fields]:
            self.problems.append(f"{join_names(unknown)} {'is' if len(unknown) == 1 else 'are'} unknown")
        return {
            name: self.read_value(prefix + name, values.get(name, field.default), field)
            for name, field in fields.items()
        }

    def read_value(self, name: str, value: Any, field: Field) -> Any:
        """Return a field's value, or its default if the value is invalid."""
        if field.is_valid(value):
            return value
        shown = json.dumps(value, default=repr)
        shown = shown if len(shown) < 60 else shown[:56] + " ..."
        self.problems.append(f"{name} is missing" if value is None else f"{name} is {shown}: {field.problem}")
        self.malformed |= field.malformed
        return field.default


def _read_sections(source: Section, reader: _Reader) -> _Sections:
    top = reader.read("", source, FILE)
    model = reader.read("", top["model_cfg"], MODEL)
    text = reader.read("text_cfg.", model["text_cfg"], TEXT)
    # in open_clip a null in preprocess_cfg stands for the default
    preprocess = {name: value for name, value in top["preprocess_cfg"].items() if value is not None}
    video = reader.read("video_cfg.", top["video_cfg"] or {}, VIDEO)
    layers = video["factorized"]
    return _Sections(
        model=model,
        vision=reader.read("vision_cfg.", model["vision_cfg"], VISION),
        text=text,
        tokenizer=reader.read("text_cfg.tokenizer_kwargs.", text["tokenizer_kwargs"] or {}, TOKENIZER),
        decoder=reader.read("multimodal_cfg.", model["multimodal_cfg"], DECODER),
        preprocess=reader.read("preprocess_cfg.", preprocess, PREPROCESS),
        video=video,
        factorized=None if layers is None else reader.read("video_cfg.factorized.", layers, FACTORIZED),
    )


def _vision_config(sections: _Sections) -> VisionConfig:
    vision = sections.vision
    return VisionConfig(
        image_size=_side(vision["image_size"]),
        patch_size=_side(vision["patch_size"]),
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision["head_width"],
        mlp_width=int(vision["width"] * vision["mlp_ratio"]),
        ln_pre=not vision["no_ln_pre"],
        attentional_pool=vision["attentional_pool"],
        queries=vision["attn_pooler_queries"],
        pooler_heads=vision["attn_pooler_heads"],
        quick_gelu=sections.model["quick_gelu"],
    )


def _text_config(sections: _Sections) -> TextConfig:
    text = sections.text
    return TextConfig(
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        width=text["width"],
        layers=text["layers"],
        heads=text["heads"],
        mlp_width=int(text["width"] * text["mlp_ratio"]),
        pad_id=text["pad_id"],
        correct_cls_mask=text["correct_cls_mask"],
        quick_gelu=sections.model["quick_gelu"],
    )


def _decoder_config(sections: _Sections) -> DecoderConfig:
    decoder = sections.decoder
    return DecoderConfig(
        context_length=decoder["context_length"],
        width=decoder["width"],
        layers=decoder["layers"],
        heads=decoder["heads"],
        mlp_width=4 * decoder["width"],
        quick_gelu=sections.model["quick_gelu"],
    )


def _factorized_config(sections: _Sections) -> FactorizedConfig | None:
    layers, width = sections.factorized, sections.model["embed_dim"]
    if layers is None:
        return None
    return FactorizedConfig(
        width=width,
        layers=layers["layers"],
        heads=layers["heads"],
        mlp_width=4 * width,
        quick_gelu=sections.model["quick_gelu"],
        frames=layers["positions"],
    )


def _preprocess_config(sections: _Sections) -> PreprocessConfig:
    preprocess = sections.preprocess
    return PreprocessConfig(
        size=_side(sections.vision["image_size"]),
        mean=_channels(preprocess["mean"], MEAN),
        std=_channels(preprocess["std"], STD),
        # "random" chooses between the two in training; open_clip's inference then uses bicubic
        interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
        resize_mode=preprocess["resize_mode"],
        fill_color=preprocess["fill_color"],
    )


# Checks across fields ---------------------------------------------------------------------------------------


def _contradictions(sections: _Sections) -> Iterator[str]:
    """Yield contradictions between fields that are valid on their own."""
    model, vision, text, decoder = sections.model, sections.vision, sections.text, sections.decoder
    yield from _wrong_widths(sections)
    yield from _wrong_heads(sections)
    size, patch = _side(vision["image_size"]), _side(vision["patch_size"])
    if patch > size:
        yield f"vision_cfg.patch_size {patch} is larger than vision_cfg.image_size {size}"
    if vision["attentional_pool"] is True and vision["attn_pooler_queries"] < 2:
        yield "vision_cfg.attn_pooler_queries 1 leaves no caption tokens: query 0 is the contrastive one"
    if sections.video["adapter"] == "factorized" and sections.factorized is None:
        yield "video_cfg.factorized is missing, as video_cfg.adapter factorized requires"
    if decoder["context_length"] < text["context_length"]:
        yield (
            f"multimodal_cfg.context_length {decoder['context_length']} is less than "
            f"text_cfg.context_length {text['context_length']}"
        )
    for name, pad_id in (("pad_id", model["pad_id"]), ("text_cfg.pad_id", text["pad_id"])):
        if pad_id >= text["vocab_size"]:
            yield f"{name} {pad_id} is not in the vocabulary of {text['vocab_size']}"


def _wrong_widths(sections: _Sections) -> Iterator[str]:
    model, vision, text, decoder = sections.model, sections.vision, sections.text, sections.decoder
    E = model["embed_dim"]
    if text["width"] != E:
        yield f"text_cfg.width {text['width']} is not embed_dim {E}"
    if decoder["width"] != E:
        yield f"multimodal_cfg.width {decoder['width']} is not embed_dim {E}"
    form = vision["attentional_pool"]
    if isinstance(form, str) and vision["width"] != E:  # ln_post comes before the poolers
        yield f"vision_cfg.width {vision['width']} is not embed_dim {E}, as attentional_pool {form} requires"
    for name, tower in (("vision_cfg", vision), ("text_cfg", text)):
        if int(tower["width"] * tower["mlp_ratio"]) < 1:
            yield f"{name}.mlp_ratio {tower['mlp_ratio']:g} gives an MLP of width 0"


def _wrong_heads(sections: _Sections) -> Iterator[str]:
    model, vision, text, decoder = sections.model, sections.vision, sections.text, sections.decoder
    factorized = sections.factorized or {"heads": 1}
    for name, heads, width_name, width in (
        (
            "vision_cfg.head_width",
            vision["width"] // vision["head_width"],
            "vision_cfg.width",
            vision["width"],
        ),
        ("vision_cfg.attn_pooler_heads", vision["attn_pooler_heads"], "embed_dim", model["embed_dim"]),
        ("text_cfg.heads", text["heads"], "text_cfg.width", text["width"]),
        ("multimodal_cfg.heads", decoder["heads"], "multimodal_cfg.width", decoder["width"]),
        ("video_cfg.factorized.heads", factorized["heads"], "embed_dim", model["embed_dim"]),
    ):
        if not heads or width % heads:
            yield f"{name}: {heads} heads do not divide {width_name} {width}"


# Values -----------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def _side(value: Any) -> Any:
    """Return n for n or [n, n], and any other value unchanged."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1] else value


def _channels(value: Any, default: tuple[float, ...]) -> tuple[Any, ...]:
    """Return one number per channel. As in open_clip, a number is for all three, and 0 is the default."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return default if _is_number(value) and value == 0 else (value,) * 3
