"""What the commands keep in the cache: encoded videos and labels, which later commands find there."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from . import arguments

if TYPE_CHECKING:
    from ..model.config import Array, Video
    from ..model.videococa import VideoCoCa
    from ..progress import Update

# of models: their hashes by what is hashed, computed once a process
_keys: WeakKeyDictionary[VideoCoCa, dict[str, str]] = WeakKeyDictionary()


def add_cache(parser: arguments.Parser) -> None:
    """Add --cache and --no-cache."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--cache",
        type=arguments.path,
        metavar="DIR",
        help="where to keep what is computed from videos and texts, for later runs (default: beside "
        "downloaded checkpoints; the command cache shows and clears it)",
    )
    group.add_argument("--no-cache", action="store_true", help="keep nothing, and use nothing that was kept")
    parser.checks.append(wrong_cache)


def wrong_cache(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the folder of the cache or its limit."""
    try:
        folder_of(args)
    except ValueError as error:
        return str(error)
    return None


def folder_of(args: argparse.Namespace) -> Path | None:
    """Return the folder of the cache; None with --no-cache, and for a command without these options.

    Raises ValueError for a file, and for an impossible limit of the cache.
    """
    from ..cache import default_folder, folder_for

    return None if getattr(args, "no_cache", True) else folder_for(args.cache or default_folder())


def model_key(args: argparse.Namespace, model: VideoCoCa) -> str:
    """Return the hash of a model, which is remembered as long as its files do not change."""
    from ..cache import model_hash

    return _remembered(args, model, "model", model_hash)


def visual_key(args: argparse.Namespace, model: VideoCoCa) -> str:
    """Return the hash of what the latents of videos depend on, which is remembered as that of the model."""
    from ..cache import visual_hash

    return _remembered(args, model, "image side", visual_hash)


def _remembered(
    args: argparse.Namespace, model: VideoCoCa, what: str, hash_of: Callable[[VideoCoCa], str]
) -> str:
    from ..cache import remembered

    keys = _keys.setdefault(model, {})
    if what not in keys:
        states = arguments.FILE_STATES.get(model)
        name, compute = f"{what} in {model.dtype}", partial(hash_of, model)
        keys[what] = remembered(folder_of(args), name, states, compute) if states else compute()
    return keys[what]


def encode(args: argparse.Namespace, model: VideoCoCa, path: str, update: Update) -> Video:
    """Return a video, or the part from --start to --end, encoded now or found. `update` counts frames."""
    from ..cache import cached_video

    options = {name: getattr(args, name, None) for name in ("adapter", "start", "end")}
    folder = folder_of(args)
    key = model_key(args, model) if folder else None
    return cached_video(model, path, args.frames, **options, folder=folder, model_key=key, progress=update)


def label_latents(
    args: argparse.Namespace,
    model: VideoCoCa,
    labels: Sequence[str],
    templates: Sequence[str] | None,
    update: Update,
) -> Array:
    """Return the latents of labels, encoded now or found: [labels, E]. `update` counts sentences.

    Their order does not matter, nor whether `evaluate` has encoded them.
    """
    from ..cache import cached
    from ..tasks import label_sentences, latents_in_parts

    folder = folder_of(args)
    key = model_key(args, model) if folder else None
    rows = {label: row for row, label in enumerate(sorted(set(labels)))}

    def find(sentences: list[Sequence[str]], compute: Callable[[], Array]) -> Array:
        latents: Array = cached(folder, ["labels", key, sentences], compute)
        return latents

    latents = latents_in_parts(model, label_sentences([*rows], templates), find, update)
    return latents[[rows[label] for label in labels]]
