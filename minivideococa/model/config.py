"""The dimensions of a model, and checks of what a caller passes against them.

`minivideococa.checkpoint.config` makes a `Config` from a `config.json`. The checks return the value, or raise
ValueError with one line that names the argument.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np

from .hooks import Array as Array  # for the other modules too
from .hooks import patched, record

Params = dict[str, Any]  # a branch of the parameter tree: names -> arrays, branches or lists of branches
Callback = Callable[[int], object] | None  # called with the number of frames, texts or tokens just finished
Time = float | str | None  # seconds, "mm:ss" or "hh:mm:ss"
# The path of a video; its frames uint8 [T, H, W, 3]; or a list of frames [H, W, 3] or PIL images, of one size
Source = str | os.PathLike[str] | Array | Sequence[Any]

ADAPTERS = {  # the ways from frames to a video that VideoCoCa compares (arXiv 2212.04979, section 3)
    "attentional": "pool the tokens of all frames at once",
    "mean": "pool each frame separately, then average",
    "joint": "encode all frames as one sequence, then pool",
    "factorized": "pool each frame to one embedding, then apply new transformer layers across the frames",
}


@dataclass(frozen=True)
class Video:
    """An encoded video: the latent [E], of unit length, and the caption tokens [Q', E]."""

    latent: Array
    tokens: Array


@dataclass(frozen=True)
class VisionConfig:
    """The frozen image encoder and its attentional pooler."""

    image_size: int  # S, pixels
    patch_size: int  # P, pixels
    width: int  # W
    layers: int
    heads: int
    mlp_width: int
    ln_pre: bool
    attentional_pool: bool | str  # True, "parallel" or "cascade"
    queries: int  # Q: with attentional_pool True, query 0 is the latent and Q' = Q - 1 are caption tokens
    pooler_heads: int
    quick_gelu: bool

    @property
    def tokens_per_frame(self) -> int:
        """N, the tokens of a frame: the class token and floor(S / P)^2 patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextConfig:
    """The unimodal text decoder."""

    context_length: int  # the longest L; the class token's position comes on top
    vocab_size: int  # V
    width: int  # = E
    layers: int
    heads: int
    mlp_width: int
    pad_id: int  # the id that the attention mask takes for padding
    correct_cls_mask: bool  # not in open_clip's config.json: an attribute of its text transformer
    quick_gelu: bool


@dataclass(frozen=True)
class DecoderConfig:
    """The multimodal text decoder."""

    context_length: int
    width: int  # = E
    layers: int
    heads: int
    mlp_width: int  # always 4 * width
    quick_gelu: bool


@dataclass(frozen=True)
class FactorizedConfig:
    """The transformer layers across the frames that the factorized adapter adds to a CoCa."""

    width: int  # = E
    layers: int
    heads: int
    mlp_width: int  # always 4 * width
    quick_gelu: bool
    frames: int | None  # the most frames, where these have learned positions; None without positions


@dataclass(frozen=True)
class PreprocessConfig:
    """From frames to pixels."""

    size: int  # S: open_clip takes the vision tower's image_size, whatever preprocess_cfg.size says
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bicubic" or "bilinear"
    resize_mode: str  # "shortest", "longest" or "squash"
    fill_color: int  # 0 to 255, the borders of "longest"


@dataclass(frozen=True)
class Config:
    """All that the weights do not say. Made by `parse_config`."""

    embed_dim: int  # E
    vision: VisionConfig
    text: TextConfig
    decoder: DecoderConfig
    preprocess: PreprocessConfig
    pad_id: int  # the padding of generation; `text.pad_id` is the mask's
    tokenizer_clean: str  # "lower" or "whitespace": what is done to a text before it is tokenized
    # the config.json, always with both "model_cfg" and "preprocess_cfg"
    source: dict[str, Any] = field(repr=False, compare=False)
    adapter: str = "attentional"  # the one that the checkpoint was tuned with: the default everywhere
    factorized: FactorizedConfig | None = None
    answers: tuple[str, ...] = ()  # the classes of the question head; () without one

    def bytes_to_encode(self, adapter: str, dtype: Any) -> Callable[[int], int]:
        """Return T -> an estimate of the bytes that encoding T frames takes, their pixels included."""
        c = self.vision

        def estimate(frames: int) -> int:
            tokens = frames * c.tokens_per_frame
            # the tokens, once in batches; pixels
            encoding = 2 * tokens * c.width + 3 * frames * c.image_size**2
            # norm, keys, values, scores; and jointly every token attends to all others
            pooling = tokens * (3 * c.width + 3 * self.embed_dim + c.pooler_heads * c.queries)
            joint = tokens * (4 * c.width + c.mlp_width + c.heads * tokens) if adapter == "joint" else 0
            new = self.factorized if adapter == "factorized" else None  # every frame attends to all others
            across = frames * (4 * new.width + new.mlp_width + new.heads * frames) if new else 0
            return int(dtype.itemsize) * (encoding + max(pooling, joint, across))

        return estimate

    def check_adapter(self, adapter: Any) -> str:
        """Return the name of one of the `ADAPTERS` that this checkpoint has; for None, its own."""
        name = self.adapter if adapter is None else check_choice("adapter", adapter, ADAPTERS)
        if name == "factorized" and self.factorized is None:
            raise ValueError(
                "adapter is factorized: this checkpoint has no layers across the frames: add and train them "
                "with minivideococa finetune --adapter factorized"
            )
        return name

    def check_frames(self, frames: int, adapter: str) -> None:
        """Raise ValueError for more frames than the factorized layers have positions."""
        most = self.factorized.frames if adapter == "factorized" and self.factorized else None
        if most is not None and frames > most:
            raise ValueError(f"{frames} frames: the factorized layers have positions for {most}: take fewer")

    def check_pixels(self, pixels: Any, dtype: Any) -> Array:
        """Return pixels [T, 3, S, S] in this dtype, after recording them as they are."""
        pixels = record("pixels", check_array("pixels", pixels))
        return check_floats("pixels", pixels, ("T", 3, self.vision.image_size, self.vision.image_size), dtype)

    def check_frame_tokens(self, tokens: Any, dtype: Any) -> Array:
        """Return frame tokens [T, N, W] in this dtype."""
        return check_floats(
            "frame tokens", tokens, ("T", self.vision.tokens_per_frame, self.vision.width), dtype
        )

    def check_caption_tokens(self, tokens: Any, dtype: Any, batch: int | str = "B") -> Array:
        """Return caption tokens [Q', E] or [B, Q', E] as [B, Q', E] in this dtype; the former as a batch."""
        tokens = check_array("caption tokens", tokens)
        shape = ("Q'", self.embed_dim) if tokens.ndim == 2 else (batch, "Q'", self.embed_dim)
        tokens = check_floats("caption tokens", tokens, shape, dtype)
        return tokens if tokens.ndim == 3 else tokens[None]

    def check_latent(self, video: Video, dtype: Any) -> Video:
        """Check the latent [E] of a caller's video and return the video."""
        check_floats("the latent", video.latent, (self.embed_dim,), dtype)
        return video

    def check_ids(self, ids: Any) -> Array:
        """Return ids [B, L] of the vocabulary, with L up to the context length."""
        ids = check_array("ids", ids)
        longest, vocabulary = self.text.context_length, self.text.vocab_size
        if ids.ndim != 2 or len(ids) == 0 or not 0 < ids.shape[1] <= longest:
            raise ValueError(f"ids have shape {list(ids.shape)}, not [B, L] with L from 1 to {longest}")
        if ids.dtype.kind not in "iu":
            raise ValueError(f"ids are {ids.dtype}, not whole numbers: use model.tokenize(texts)")
        if ids.min() < 0 or ids.max() >= vocabulary:
            raise ValueError(
                f"ids reach from {ids.min()} to {ids.max()}: the vocabulary has 0 to {vocabulary - 1}"
            )
        return ids


StackConfig = VisionConfig | TextConfig | DecoderConfig | FactorizedConfig  # of a stack of residual blocks


# Checks of arguments; not needed to understand the model


def check_choice(name: str, value: Any, choices: Mapping[str, Any] | Sequence[str]) -> str:
    """Return one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {shorten(value)}: give {', '.join(choices)}")
    return value


def check_int(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return an integer from `least` to `most` (None: no limit). Floats and bools are refused."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {shorten(value)}: give a whole number{_limits(least, most)}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name} is {shorten(number)}: give a whole number{_limits(least, most)}")
    return number


def check_number(name: str, value: Any, least: float, most: float) -> float:
    """Return a real number from `least` to `most`. NaN and bools are refused."""
    number: Any = value
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= number <= most:
        raise ValueError(f"{name} is {shorten(value)}: give a number{_limits(least, most)}")
    return float(value)


def check_bool(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {shorten(value)}: give True or False")
    return bool(value)


def check_text(name: str, value: Any, blank: bool = True) -> str:
    """Return a text. Unless `blank`, it must hold more than white space."""
    if not isinstance(value, str):
        raise ValueError(f"{name}: a text must be a str, not {describe(value)}")
    if not blank and not value.strip():
        raise ValueError(f"{name} is blank: give a text")
    return str(value)


def check_texts(name: str, values: Any, blank: bool = True) -> list[str]:
    """Return the texts of a list, a tuple or a 1-D array, at least one. Unless `blank`, none may be blank."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes) or len(values) == 0:
        raise ValueError(f"{name} must be a list of at least one text, not {describe(values)}")
    return [check_text(f"{name}[{i}]", value, blank) for i, value in enumerate(values)]


def check_array(name: str, values: Any) -> Array:
    """Return the values as an array."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError):  # lists of different lengths, or what cannot be an array
        raise ValueError(f"{name} must be an array, not {describe(values)}") from None


def check_floats(name: str, values: Any, shape: Sequence[int | str], dtype: Any) -> Array:
    """Return an array of floats of this shape, in `dtype`. A letter in the shape stands for 1 or more.

    Raises ValueError for another shape, an empty axis, a dtype that is not floating point, and for numbers
    that are not finite in `dtype`, unless a trace patches activations: those are another implementation's.
    """
    x = check_array(name, values)
    fits = x.ndim == len(shape) and all(
        n == m if isinstance(m, int) else n > 0 for n, m in zip(x.shape, shape, strict=True)
    )
    if not fits:
        empty = " with no axis empty" if x.size == 0 else ""
        raise ValueError(f"{name} have shape {list(x.shape)}, not [{', '.join(map(str, shape))}]{empty}")
    if x.dtype.kind != "f":
        raise ValueError(f"{name} are {x.dtype}: give floats")
    with np.errstate(over="ignore"):  # becomes infinite
        x = x.astype(dtype, copy=False)
    if not patched() and not np.isfinite(x).all():
        raise ValueError(f"{name} hold numbers that are not finite in {x.dtype}")
    return x


def check_finite(what: str, x: Array) -> Array:
    """Return x. Raises ValueError if a number is NaN or infinite, unless a trace patches activations."""
    if not patched() and not np.isfinite(x).all():
        raise ValueError(f"{what} not finite: check the weights and the input for NaN and infinity")
    return x


def check_video(video: Video) -> Video:
    """Return a video that has been encoded. Raises ValueError if it is not finite."""
    check_finite("the latent is", video.latent)
    check_finite("the caption tokens are", video.tokens)
    return video


def _limits(least: float | None, most: float | None) -> str:
    """Return the end of a message: " from 1 to 10", " of 1 or more" or nothing."""
    if least is None:
        return ""
    return f" of {least} or more" if most is None else f" from {least} to {most}"


def describe(value: Any) -> str:
    """Return the type of a value and the value, for a message."""
    return f"{type(value).__name__} {shorten(value)}"


def shorten(value: Any) -> str:
    """Return a value in one line of at most 40 characters, for a message."""
    if isinstance(value, np.ndarray):
        return f"of shape {list(value.shape)}"
    try:
        line = " ".join(repr(value).split())
    except ValueError:  # an int of more digits than Python prints
        line = "a number of thousands of digits"
    return line if len(line) <= 40 else line[:37] + "..."


# Options: dataclasses whose fields are the keywords of a function and the flags of a command

Check = Callable[[str, Any], Any]  # (name, value) -> the value, as the checks above


def option(default: Any, check: Check, help: str, metavar: str | None = None, **more: Any) -> Any:
    """Return a field of `Options` with its check, and its help for the command line."""
    return field(default=default, metadata={"check": check, "help": help, "metavar": metavar, **more})


def integer(least: int | None = None, most: int | None = None) -> Check:
    """Return the check of an option that is a whole number."""
    return lambda name, value: check_int(name, value, least, most)


def number(least: float, most: float) -> Check:
    """Return the check of an option that is a number."""
    return lambda name, value: check_number(name, value, least, most)


def choice(choices: Mapping[str, Any] | Sequence[str]) -> Check:
    """Return the check of an option that is one of several names."""
    return lambda name, value: check_choice(name, value, choices)


class Options:
    """What frozen dataclasses of options share. None is accepted where it is a field's default."""

    kind: ClassVar[str]  # of options, for messages

    @classmethod
    def create(cls, options: Any = None, **keywords: Any) -> Self:
        """Return the options, some replaced by keywords.

        Raises TypeError for an unknown keyword, and ValueError as the class itself.
        """
        if options is not None and not isinstance(options, cls):
            raise ValueError(
                f"options is {shorten(options)}: give a {cls.__name__}, or its fields as keywords"
            )
        names = {option.name for option in fields(cls)}  # type: ignore[arg-type]
        if unknown := keywords.keys() - names:
            raise TypeError(f"unknown {cls.kind} option {min(unknown)!r}")
        return replace(options or cls(), **keywords)  # type: ignore[type-var]

    def __post_init__(self) -> None:
        """Check each field, then all together."""
        for option in fields(self):  # type: ignore[arg-type]
            value = getattr(self, option.name)
            if not (value is None and option.default is None):
                object.__setattr__(self, option.name, option.metadata["check"](option.name, value))
        self.check_together()

    def check_together(self) -> None:
        """Raise ValueError for values that are invalid in combination."""
