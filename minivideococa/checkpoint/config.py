"""The configuration of a CoCa, in open_clip's layout, read field by field.

A `config.json` is `{"model_cfg": {...}, "preprocess_cfg": {...}}`; a bare model_cfg (open_clip's own
model_configs/*.json, `embed_dim` at the top) is taken too. Absent fields have the defaults of open_clip 3.3.0
(its CLIPVisionCfg, CLIPTextCfg, MultimodalCfg and PreprocessCfg). A field that open_clip's CoCa reads but
never uses is accepted; one that asks for what is not built here is refused by its name, and so is an unknown
one.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..model.config import Config, DecoderConfig, PreprocessConfig, TextConfig, VisionConfig


def parse_config(source: dict[str, Any], where: str = "config") -> Config:
    """The configuration in `source`, a parsed config.json or model_cfg; `where` is its name in messages.

    Raises ValueError: one line with every field that is missing, wrong, unknown or not built here.
    """
    if not isinstance(source, dict) or not {"model_cfg", "embed_dim"} & source.keys():
        raise ValueError(f"{where}: not a configuration of open_clip: no model_cfg or embed_dim in it")
    if "model_cfg" not in source:
        source = {"model_cfg": source}
    source = source | {"preprocess_cfg": source.get("preprocess_cfg", {})}
    reader = _Reader()
    top = reader.read("", source, FILE)
    model = reader.read("", top["model_cfg"], MODEL)
    vision = reader.read("vision_cfg.", model["vision_cfg"], VISION)
    text = reader.read("text_cfg.", model["text_cfg"], TEXT)
    tokenizer = reader.read("text_cfg.tokenizer_kwargs.", text["tokenizer_kwargs"] or {}, TOKENIZER)
    decoder = reader.read("multimodal_cfg.", model["multimodal_cfg"], DECODER)
    # open_clip takes a null in preprocess_cfg for an absent field
    given = {name: value for name, value in top["preprocess_cfg"].items() if value is not None}
    preprocess = reader.read("preprocess_cfg.", given, PREPROCESS)
    if not reader.malformed:
        reader.problems += _contradictions(model, vision, text, decoder)
    if reader.problems:
        raise ValueError(f"{where}: " + "; ".join(reader.problems))

    size, gelu = _side(vision["image_size"]), model["quick_gelu"]
    return Config(
        embed_dim=model["embed_dim"],
        vision=VisionConfig(
            image_size=size,
            patch_size=_side(vision["patch_size"]),
            width=vision["width"],
            layers=vision["layers"],
            heads=vision["width"] // vision["head_width"],
            mlp_width=int(vision["width"] * vision["mlp_ratio"]),
            ln_pre=not vision["no_ln_pre"],
            attentional_pool=vision["attentional_pool"],
            queries=vision["attn_pooler_queries"],
            pooler_heads=vision["attn_pooler_heads"],
            quick_gelu=gelu,
        ),
        text=TextConfig(
            context_length=text["context_length"],
            vocab_size=text["vocab_size"],
            width=text["width"],
            layers=text["layers"],
            heads=text["heads"],
            mlp_width=int(text["width"] * text["mlp_ratio"]),
            pad_id=text["pad_id"],
            correct_cls_mask=text["correct_cls_mask"],
            quick_gelu=gelu,
        ),
        decoder=DecoderConfig(
            context_length=decoder["context_length"],
            width=decoder["width"],
            layers=decoder["layers"],
            heads=decoder["heads"],
            mlp_width=4 * decoder["width"],
            quick_gelu=gelu,
        ),
        preprocess=PreprocessConfig(
            size=size,
            mean=_channels(preprocess["mean"], MEAN),
            std=_channels(preprocess["std"], STD),
            # open_clip's "random" is for training and means bicubic at inference
            interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
            resize_mode=preprocess["resize_mode"],
            fill_color=preprocess["fill_color"],
        ),
        pad_id=model["pad_id"],
        source=source,
        tokenizer_clean=tokenizer["clean"] or ("whitespace" if text["hf_tokenizer_name"] else "lower"),
    )


# What each section may hold: name -> the rule by which its value is read -----------------------------------


class Rule(NamedTuple):
    """How a field is read: its default, which values fit, and what is said of the others."""

    default: Any
    fits: Callable[[Any], bool]
    otherwise: str  # what is said of a value that does not fit
    of_form: bool = True  # whether such a value is malformed, and cannot be compared with others


# Far beyond any model, so that what is multiplied out below stays small before it is compared with the weights.
MOST, MOST_LAYERS, MOST_RATIO, MOST_PIXEL = 2**24, 2**10, 2**10, 1e6


def whole(default: int | None, least: int = 1, most: int = MOST) -> Rule:
    """A whole number within bounds."""
    return Rule(
        default,
        lambda value: type(value) is int and least <= value <= most,
        f"not a whole number from {least} to {most}",
    )


def square(default: int) -> Rule:
    """A side in pixels: n, or [n, n]."""
    return Rule(
        default,
        lambda value: type(_side(value)) is int and 0 < _side(value) <= MOST,
        f"not a whole number of pixels from 1 to {MOST} (or twice the same: other than squares is not "
        "built here)",
    )


def channels(default: tuple[float, ...], fits: Callable[[float], bool], otherwise: str) -> Rule:
    """A number for each colour channel, or one for all."""
    return Rule(
        default,
        lambda value: (
            all(_is_number(c) and fits(c) for c in _channels(value, default))
            and len(_channels(value, default)) == 3
        ),
        otherwise,
    )


def only(default: Any, values: tuple[Any, ...], otherwise: str) -> Rule:
    """`values` are built here, `otherwise` is what any other asks for. Types must be equal: 1 is not true."""
    return Rule(
        default,
        lambda value: any(type(value) is type(v) and value == v for v in values),
        f"{otherwise} is not built here",
        of_form=False,
    )


def unused(*names: str) -> dict[str, Rule]:
    """Fields that have no effect on inference: any value will do."""
    return dict.fromkeys(names, Rule(None, lambda value: True, ""))


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
SWITCH = Rule(False, lambda value: isinstance(value, bool), "neither true nor false")
RATIO = Rule(
    4.0,
    lambda value: _is_number(value) and 0 < value <= MOST_RATIO,
    f"not a number above 0, up to {MOST_RATIO}",
)
SECTION = Rule({}, lambda value: isinstance(value, dict), "not a section {...}")
REQUIRED_SECTION = SECTION._replace(default=None)

FILE = {"model_cfg": REQUIRED_SECTION, "preprocess_cfg": SECTION}
MODEL = {
    "embed_dim": whole(None),
    "quick_gelu": SWITCH,
    "pad_id": whole(0, least=0),
    "vision_cfg": REQUIRED_SECTION,
    "text_cfg": REQUIRED_SECTION,
    "multimodal_cfg": REQUIRED_SECTION,
    "init_logit_bias": only(None, (None,), "a logit bias"),
    **unused("custom_text", "init_logit_scale", "nonscalar_logit_scale", "cast_dtype"),
}
PLAIN_BLOCKS = {
    "ls_init_value": only(None, (None,), "layer scale"),
    "act_kwargs": only(None, (None, {}), "an activation with arguments"),
    "norm_kwargs": only(None, (None, {}), "a norm with arguments"),
    "block_type": only(None, (None, "default"), "a custom block"),
    "qk_norm": only(False, (False,), "a norm of queries and keys"),
    "scaled_cosine_attn": only(False, (False,), "cosine attention"),
    "scale_heads": only(False, (False,), "a scale for each head"),
    "scale_attn_inner": only(False, (False,), "a norm inside attention"),
    "scale_attn": only(False, (False,), "a norm after attention"),
    "scale_fc": only(False, (False,), "a norm inside the MLP"),
}
VISION = {
    "image_size": square(224),
    "patch_size": square(16),
    "width": whole(768),
    "layers": whole(12, most=MOST_LAYERS),
    "head_width": whole(64),
    "mlp_ratio": RATIO,
    "no_ln_pre": SWITCH,
    "attentional_pool": only(False, (True, "parallel", "cascade"), "a vision tower without this pooling"),
    "attn_pooler_queries": whole(256),
    "attn_pooler_heads": whole(8),
    "pool_type": only("tok", ("tok",), "any pooling but tok"),
    "pos_embed_type": only("learnable", ("learnable", "sin_cos_2d"), "this positional embedding"),
    "timm_model_name": only(None, (None, ""), "a timm tower"),
    **PLAIN_BLOCKS,
    # patch dropout is for training; the pooler overrides final_ln_after_pool; the rest is timm's
    **unused(
        "patch_dropout",
        "final_ln_after_pool",
        "output_tokens",
        "timm_model_pretrained",
        "timm_pool",
        "timm_proj",
        "timm_proj_bias",
        "timm_drop",
        "timm_drop_path",
    ),
}
TEXT = {
    "context_length": whole(77),
    "vocab_size": whole(49408),
    "width": whole(512),
    "layers": whole(12, most=MOST_LAYERS),
    "heads": whole(8),
    "mlp_ratio": RATIO,
    "pad_id": whole(0, least=0),
    "correct_cls_mask": SWITCH,
    "embed_cls": only(False, (True,), "a text tower without a class token"),
    "no_causal_mask": only(False, (False,), "a text tower without a causal mask"),
    "proj_type": only("linear", ("linear",), "any projection but linear"),
    "proj_bias": only(False, (False,), "a projection with a bias"),
    "hf_model_name": only(None, (None, ""), "a Hugging Face tower"),
    "hf_tokenizer_name": Rule(None, lambda value: value is None or isinstance(value, str), "not a name"),
    "tokenizer_mode": only(None, (None, ""), "a special mode of the tokenizer"),
    "tokenizer_kwargs": Rule(None, lambda value: value is None or isinstance(value, dict), SECTION.otherwise),
    **PLAIN_BLOCKS,
    # embed_cls overrides the pooling; the rest is Hugging Face's
    **unused(
        "pool_type",
        "eos_id",
        "final_ln_after_pool",
        "output_tokens",
        "hf_model_pretrained",
        "hf_proj_type",
        "hf_pooler_type",
    ),
}
TOKENIZER = {"clean": only(None, (None, "lower", "whitespace"), "this cleaning of texts")}
DECODER = {
    # open_clip reads a whole text configuration here, and builds the decoder from the five fields below
    **unused(*TEXT, "dim_head", "n_queries", "attn_pooler_heads"),
    "context_length": whole(77),
    "width": whole(512),
    "layers": whole(12, most=MOST_LAYERS),
    "heads": whole(8),
    "ls_init_value": PLAIN_BLOCKS["ls_init_value"],
}
PREPROCESS = {
    "size": square(224),
    "mode": only("RGB", ("RGB",), "any mode but RGB"),
    "mean": channels(
        MEAN,
        lambda c: abs(c) <= MOST_PIXEL,
        f"not a number from {-MOST_PIXEL:g} to {MOST_PIXEL:g} for each of three channels",
    ),
    "std": channels(
        STD,
        lambda c: 1 / MOST_PIXEL <= c <= MOST_PIXEL,
        f"not a number from {1 / MOST_PIXEL:g} to {MOST_PIXEL:g} for each of three channels",
    ),
    "interpolation": only("bicubic", ("bicubic", "bilinear", "random"), "this interpolation"),
    "resize_mode": only("shortest", ("shortest", "longest", "squash"), "this way to resize"),
    "fill_color": whole(0, least=0, most=255),
}


class _Reader:
    """Reads sections by the rules above and keeps every problem, so that all are told at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.malformed = False

    def read(self, prefix: str, section: dict[str, Any] | None, rules: dict[str, Rule]) -> dict[str, Any]:
        if section is None:  # missing, and told
            return {name: rule.default for name, rule in rules.items()}
        if unknown := [prefix + name for name in section if name not in rules]:
            self.problems.append(f"{some(unknown)} {'is' if len(unknown) == 1 else 'are'} unknown")
        return {
            name: self.value(prefix + name, section.get(name, rule.default), rule)
            for name, rule in rules.items()
        }

    def value(self, name: str, value: Any, rule: Rule) -> Any:
        if rule.fits(value):
            return value
        text = json.dumps(value, default=repr)
        text = text if len(text) < 60 else text[:56] + " ..."
        told = "missing" if value is None else f"{text}: {rule.otherwise}"
        self.problems.append(f"{name} is {told}")
        self.malformed |= rule.of_form
        return rule.default


def _contradictions(model: dict, vision: dict, text: dict, decoder: dict) -> list[str]:
    """What is wrong between fields that are each well formed."""
    E, size, patch = model["embed_dim"], _side(vision["image_size"]), _side(vision["patch_size"])
    heads = vision["width"] // vision["head_width"]
    paper_pooler = isinstance(vision["attentional_pool"], str)

    def divides(name: str, heads: int, of: str, width: int) -> tuple[bool, str]:
        return not heads or width % heads > 0, f"{name}: {heads} heads do not divide {of} {width}"

    return [
        problem
        for wrong, problem in (
            (text["width"] != E, f"text_cfg.width {text['width']} is not embed_dim {E}"),
            (decoder["width"] != E, f"multimodal_cfg.width {decoder['width']} is not embed_dim {E}"),
            (
                paper_pooler and vision["width"] != E,  # for ln_post stands before the poolers
                f"vision_cfg.width {vision['width']} is not embed_dim {E}, as attentional_pool "
                f"{vision['attentional_pool']} needs",
            ),
            divides("vision_cfg.head_width", heads, "vision_cfg.width", vision["width"]),
            divides("vision_cfg.attn_pooler_heads", vision["attn_pooler_heads"], "embed_dim", E),
            divides("text_cfg.heads", text["heads"], "text_cfg.width", text["width"]),
            divides("multimodal_cfg.heads", decoder["heads"], "multimodal_cfg.width", decoder["width"]),
            (patch > size, f"vision_cfg.patch_size {patch} is larger than vision_cfg.image_size {size}"),
            (
                not paper_pooler and vision["attn_pooler_queries"] < 2,
                "vision_cfg.attn_pooler_queries 1 leaves no caption tokens: query 0 is the latent",
            ),
            (int(vision["width"] * vision["mlp_ratio"]) < 1, "vision_cfg.mlp_ratio leaves no MLP"),
            (int(text["width"] * text["mlp_ratio"]) < 1, "text_cfg.mlp_ratio leaves no MLP"),
            (
                decoder["context_length"] < text["context_length"],
                f"multimodal_cfg.context_length "
                f"{decoder['context_length']} is less than text_cfg.context_length {text['context_length']}",
            ),
            (
                max(model["pad_id"], text["pad_id"]) >= text["vocab_size"],
                f"pad_id {model['pad_id']} or text_cfg.pad_id {text['pad_id']} is not in the vocabulary",
            ),
        )
        if wrong
    ]


def some(names: Sequence[str], limit: int = 8) -> str:
    """Return the first names, and how many more there are, on one line."""
    more = f", ... and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:limit]) + more


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def _side(value: Any) -> Any:
    """n of n or [n, n]; anything else is left as it is."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1] else value


def _channels(value: Any, default: tuple[float, ...]) -> tuple[Any, ...]:
    """One number for each channel, or one for all three: there 0 stands for the default, as in open_clip."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return default if _is_number(value) and value == 0 else (value,) * 3
