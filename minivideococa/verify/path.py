"""The names of a trace as a graph: which there are, what each is computed from, and what its axes are."""

from __future__ import annotations

from collections.abc import Container, Mapping

from ..model.config import Config

# Name or beginning of a name -> its axes, as letters and in words
AXES = {
    "frames": ("T H W 3", "frame, row, column, channel"),
    "pixels": ("T 3 S S", "frame, channel, row, column"),
    "vision.": ("T N W", "frame, token, channel"),
    "pool.flat": ("TN W", "token, channel"),
    "pool.attended": ("Q E", "query, channel"),
    "pool.tokens": ("Q' E", "caption token, channel"),
    "pool.latent": ("E", "channel"),
    "ids": ("L", "position"),
    "text.embed": ("L+1 E", "position, channel"),
    "text.block": ("L+1 E", "position, channel"),
    "text.tokens": ("L E", "position, channel"),
    "text.latent": ("E", "channel"),
    "decoder.": ("L E", "position, channel"),
    "logits": ("L V", "position, token id"),
}


def names_of(config: Config) -> list[str]:
    """The names that a trace of a model has, in path order."""
    return [
        "frames",
        "pixels",
        "vision.embed",
        *(f"vision.block.{i}" for i in range(config.vision.layers)),
        "pool.flat",
        "pool.attended",
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


def computed_from_inputs(names: list[str], inputs: Container[str]) -> list[str]:
    """Those names that our own trace has if it is given these inputs, without the inputs themselves."""
    video = "frames" in inputs or "pixels" in inputs

    def computed(name: str) -> bool:
        if name == "pixels":
            return "frames" in inputs
        if name.startswith(("vision.", "pool.")):
            return video
        return name not in ("frames", "ids") and "ids" in inputs and (video or name.startswith("text."))

    return [name for name in names if computed(name)]


def sources_of(name: str, names: list[str], config: Config) -> list[str]:
    """What a tensor is computed from, by name: the one before it in path order, but for these. The first is the main one."""
    latent_from = "pool.flat" if config.vision.attentional_pool == "parallel" else "pool.attended"
    special = {
        "frames": [],
        "ids": [],
        "pool.latent": [latent_from],
        "text.embed": ["ids"],
        "text.latent": [f"text.block.{config.text.layers - 1}"],
        "decoder.block.0.self": ["text.tokens"],
    }
    if name in special:
        return special[name]
    before = names[names.index(name) - 1]
    return [before, "pool.tokens"] if name.endswith(".cross") else [before]


def behind(name: str, sources: Mapping[str, list[str]], known: Container[str]) -> set[str]:
    """All that a tensor depends on; what stands behind a known one does not count, nor does that one."""
    found: set[str] = set()
    for source in sources[name]:
        if source not in known:
            found |= {source} | behind(source, sources, known)
    return found


def nearest_known(name: str, sources: Mapping[str, list[str]], known: Container[str]) -> str:
    """The last known name that this one is computed from, along the main sources."""
    source = sources[name][0]
    return source if source in known else nearest_known(source, sources, known)


def letters(name: str, ndim: int) -> list[str]:
    """The axes of a tensor as letters: ["T", "N", "W"]; with a "B" in front where there are several texts."""
    found = next(axes for begin, (axes, _) in AXES.items() if name.startswith(begin)).split()
    return ["B"] * (ndim - len(found)) + found


def place(name: str, index: tuple[int, ...], config: Config) -> dict[str, int]:
    """An index into a tensor in words: {"frame": 2, "token": 5, "channel": 7}."""
    words = next(words for begin, (_, words) in AXES.items() if name.startswith(begin)).split(", ")
    found = dict(zip(["text"] * (len(index) - len(words)) + words, map(int, index), strict=True))
    if name == "pool.flat":
        frame, token = divmod(found["token"], config.vision.tokens)
        found = {"frame": frame, **found, "token": token}
    return found
