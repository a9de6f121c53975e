"""The names of a trace as a graph: what each tensor is computed from, and what its axes are."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

from ..model.config import Array, Config

Arrays = dict[str, Array]

FLATTENING = ("attentional", "joint")  # adapters that pool the tokens of all frames at once

# Name or prefix of a name -> its axes, as letters and in words
AXES = {
    "frames": ("T H W 3", "frame, row, column, channel"),
    "pixels": ("T 3 S S", "frame, channel, row, column"),
    "vision.": ("T N W", "frame, token, channel"),
    "pool.flat": ("TN W", "token, channel"),
    "pool.attended": ("Q E", "query, channel"),
    "pool.tokens": ("Q' E", "caption token, channel"),
    "pool.latent": ("E", "channel"),
    "factorized.": ("T E", "frame, channel"),
    "ids": ("L", "position"),
    "text.embed": ("L+1 E", "position, channel"),
    "text.block": ("L+1 E", "position, channel"),
    "text.tokens": ("L E", "position, channel"),
    "text.latent": ("E", "channel"),
    "decoder.": ("L E", "position, channel"),
    "logits": ("L V", "position, token id"),
}

# What `trace(weights=True)` records besides: attention weights, and what is inside a block
DETAIL = re.compile(
    r"((vision|factorized|text)\.block\.\d+|decoder\.block\.\d+\.(self|cross)|pool(\.contrastive)?)"
    r"\.(weights|q|k|v|attention|mlp(\.hidden)?)"
)


def activation_names(config: Config) -> list[str]:
    """Return the names in a trace of a model that runs its own adapter, in path order."""
    flat = ["pool.flat"] if config.adapter in FLATTENING else []
    return [
        "frames",
        "pixels",
        "vision.embed",
        *(f"vision.block.{i}" for i in range(config.vision.layers)),
        *flat,
        "pool.attended",
        *_factorized_names(config),
        "pool.tokens",
        "pool.latent",
        "ids",
        "text.embed",
        *(f"text.block.{i}" for i in range(config.text.layers)),
        "text.tokens",
        "text.latent",
        *(f"decoder.block.{i}.{block}" for i in range(config.decoder.layers) for block in ("self", "cross")),
        "logits",
    ]


def _factorized_names(config: Config) -> list[str]:
    """Return the names of the layers across the frames; none unless the model runs them."""
    if config.adapter != "factorized" or config.factorized is None:
        return []
    return ["factorized.embed", *(f"factorized.block.{i}" for i in range(config.factorized.layers))]


def computed_names(names: list[str], inputs: Container[str]) -> list[str]:
    """Return those names, without the inputs, that the model computes from these inputs."""
    video = "frames" in inputs or "pixels" in inputs

    def is_computed(name: str) -> bool:
        if name == "pixels":
            return "frames" in inputs
        if name.startswith(("vision.", "pool.", "factorized.")):
            return video
        return name not in ("frames", "ids") and "ids" in inputs and (video or name.startswith("text."))

    return [name for name in names if is_computed(name)]


def sources_of(name: str, names: list[str], config: Config) -> list[str]:
    """Return the names that a tensor is computed from, the residual stream first.

    This is the name before it in path order, except where the path forks.
    """
    parallel, before_pooler = config.vision.attentional_pool == "parallel", names.index("pool.attended") - 1
    embedding_source = names[before_pooler] if parallel else "pool.attended"
    forks: dict[str, list[str]] = {
        "frames": [],
        "ids": [],
        "factorized.embed": [embedding_source],
        "pool.latent": ["pool.tokens" if config.adapter == "factorized" else embedding_source],
        "text.embed": ["ids"],
        "text.latent": [f"text.block.{config.text.layers - 1}"],
        "decoder.block.0.self": ["text.tokens"],
    }
    if name in forks:
        return forks[name]
    before = names[names.index(name) - 1]
    return [before, "pool.tokens"] if name.endswith(".cross") else [before]


def upstream(name: str, sources: Mapping[str, list[str]], known: Container[str]) -> set[str]:
    """Return every tensor that this one depends on. Known tensors, and those before them, are left out."""
    found: set[str] = set()
    for source in sources[name]:
        if source not in known:
            found |= {source} | upstream(source, sources, known)
    return found


def nearest_known(name: str, sources: Mapping[str, list[str]], known: Container[str]) -> str:
    """Return the last known tensor before this one on the residual stream."""
    source = sources[name][0]
    return source if source in known else nearest_known(source, sources, known)


def axis_letters(name: str, ndim: int) -> list[str]:
    """Return the axes of a tensor as letters, e.g. ["T", "N", "W"].

    "B" is first for a batch of texts, and "T" where each frame is pooled separately.
    """
    letters = next(axes for prefix, (axes, _) in AXES.items() if name.startswith(prefix)).split()
    return ["T" if name.startswith("pool.") else "B"] * (ndim - len(letters)) + letters


def axis_words(name: str, ndim: int) -> list[str]:
    """Return the axes of a tensor in words, e.g. ["frame", "token", "channel"]."""
    axes = next(words for prefix, (_, words) in AXES.items() if name.startswith(prefix)).split(", ")
    return ["frame" if name.startswith("pool.") else "text"] * (ndim - len(axes)) + axes


def describe_index(name: str, index: tuple[int, ...], config: Config) -> dict[str, int]:
    """Return an index into a tensor by axis names, e.g. {"frame": 2, "token": 5, "channel": 7}."""
    position = dict(zip(axis_words(name, len(index)), map(int, index), strict=True))
    if name == "pool.flat" or (name.startswith("vision.block") and config.adapter == "joint"):
        frame, token = divmod(position["token"], config.vision.tokens_per_frame)
        position = {"frame": frame} | position | {"frame": frame, "token": token}
    return position


def parameters_of(name: str) -> tuple[str, ...]:
    """Return prefixes of the parameters that a tensor may be computed with, given the tensors before it."""
    kind, _, rest = name.partition(".block.")
    if rest:
        i, _, part = rest.partition(".")
        stack = {
            "vision": "visual.transformer.resblocks",
            "factorized": "factorized.resblocks",
            "text": "text.transformer.resblocks",
            "decoder": "text_decoder.cross_attn" if part == "cross" else "text_decoder.resblocks",
        }[kind]
        return (f"{stack}.{i}.",)
    return {
        "vision.embed": ("visual.conv1.", "visual.class_", "visual.positional_", "visual.ln_pre."),
        "pool.attended": ("visual.attn_pool.", "visual.ln_post."),
        "pool.tokens": ("visual.ln_post.",),
        "pool.latent": ("visual.ln_post.", "visual.attn_pool_contrastive.", "visual.proj"),
        "factorized.embed": (
            "visual.ln_post.",
            "visual.attn_pool_contrastive.",
            "factorized.positional_",
        ),
        "text.embed": ("text.token_", "text.positional_", "text.cls_"),
        "text.tokens": ("text.ln_final.",),
        "text.latent": ("text.ln_final.", "text.text_projection"),
        "logits": ("text_decoder.ln_final.", "text_decoder.text_projection"),
    }.get(name, ())
