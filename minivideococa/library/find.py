"""From a text or a video to the clips of a library that fit it best: an exact search."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from ..cache import visual_hash
from ..model.config import Array, Source, Time, Video, check_int, check_text, describe
from ..model.videococa import VideoCoCa
from ..tasks import best_first, warn_if_cut
from .store import Library, clips_of, read_library

ROWS = 256  # at a time: in float32 they fit into a core's cache


class Hit(NamedTuple):
    """A clip that was found.

    `time` is when its frame that is most similar to the query was sampled, in seconds from the first frame of
    the video; None if it has no time (a still) or is not known (an imported clip).
    """

    video: str
    cosine: float
    time: float | None = None
    start: float | None = None
    end: float | None = None


def search(
    model: VideoCoCa,
    query: str | Video | Source,
    library: str | os.PathLike[str],
    top: int = 10,
    *,
    start: Time = None,
    end: Time = None,
    model_key: str | None = None,
) -> list[Hit]:
    """Return the clips of a library that fit a text or a video best, the best first.

    A `str` as the query is a text, anything else a video: give a file as a `pathlib.Path`. `start` and `end`
    select a part of it. The clips' own files are not opened.

    The weights are hashed in every call, to compare them with the library's, unless `model_key` is given:
    what `cache.visual_hash` returns for this model. `search_latents` takes a latent.

    Raises ValueError for a library of other weights, a blank text, and as `VideoCoCa.encode` and
    `search_latents`.
    """
    opened = read_library(library)
    opened.check({"model": model_key or visual_hash(model)})
    if model.caveat:
        warnings.warn(model.caveat, stacklevel=2)
    if isinstance(query, str):
        query = check_text("query", query, blank=False)
        warn_if_cut(model, [query])
        latent = model.encode_text(query)[0]
    else:
        facts = opened.facts
        latent = model.encode(query, facts["frames"], facts["adapter"], start, end).latent
    return search_latents(library, latent, top)


def search_latents(library: str | os.PathLike[str], latent: Array, top: int = 10) -> list[Hit]:
    """Return the clips of a library whose latents have the largest cosines with a unit-length latent `[E]`.

    Every clip is compared, in float32. Clips with equal cosines are in the order of the library. The latents
    are memory-mapped, a shard at a time on each core.

    Raises ValueError for a latent of another width, a damaged library, and one without clips; OSError if it
    cannot be read.
    """
    top = check_int("top", top, 1)
    while True:
        opened = read_library(library)
        try:
            return _search(opened, _check_latent(latent, opened), top)
        except FileNotFoundError:  # unless a run of `index` has replaced a shard in the meantime
            if read_library(library).shards == opened.shards:
                raise


def _search(library: Library, query: Array, top: int) -> list[Hit]:
    """Return the best clips of all shards."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(partial(_best_of_shard, library, query, top), library.shards))
    shards = np.repeat(list(library.shards), [len(places) for places, _ in found])
    places, cosines = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = best_first(cosines)[:top]
    hits: dict[int, Hit] = {}
    for shard in dict.fromkeys(shards[best]):
        ranks = [rank for rank, i in enumerate(best) if shards[i] == shard]
        chosen = best[ranks]
        hits |= zip(ranks, _hits(library, shard, places[chosen], cosines[chosen], query), strict=True)
    return [hits[rank] for rank in range(len(best))]


def _best_of_shard(library: Library, query: Array, top: int, shard: str) -> tuple[Array, Array]:
    """Return the places of the best rows of a shard, and their cosines."""
    latents = library.tensors(shard)["latent"]
    cosines = np.empty(len(latents), np.float32)
    for i in range(0, len(latents), ROWS):
        cosines[i : i + ROWS] = np.vecdot(widen(latents[i : i + ROWS]), query)
    best = best_first(cosines)[:top]
    return best, cosines[best]


def _hits(
    library: Library, shard: str, places: Sequence[int] | Array, cosines: Array, query: Array
) -> Iterator[Hit]:
    """Yield the hits in a shard, each with the time of the frame that is most similar to the query."""
    rows = library.rows(shard)
    clips = clips_of({name: rows[name][places] for name in ("path", "part")})
    for clip, place, cosine in zip(clips, places, cosines, strict=True):
        time = None
        if "frames" in rows:
            frame = np.vecdot(widen(rows["frames"][place]), query).argmax()
            time = float(rows["times"][place, frame])
        yield Hit(clip.path, float(cosine), None if time != time else time, clip.start, clip.end)


def widen(x: Array) -> Array:
    """Return float16 numbers in float32, exactly and twice as fast as NumPy; float32 ones as they are.

    The bits are moved to where float32 has its sign, exponent and mantissa; a factor corrects the exponent.
    Infinities and NaN, which no latent has, become other numbers.
    """
    if x.dtype != np.float16:
        return x
    bits = x.view(np.int16).astype(np.int32) << 13  # the sign is extended to the left
    bits &= np.uint32(0x8FFFE000).view(np.int32)
    return np.multiply(bits.view(np.float32), np.float32(2.0**112))


def _check_latent(latent: Array, library: Library) -> Array:
    """Return a latent in float32. Raises ValueError if it does not fit, or there is nothing to search."""
    width = library.facts["width"]
    if not isinstance(latent, np.ndarray) or latent.shape != (width,) or latent.dtype.kind != "f":
        raise ValueError(f"latent must be a float array [{width}], not {describe(latent)}")
    if not len(library):
        raise ValueError(f"{library.folder}: no clip is in this library yet: run minivideococa index")
    return latent.astype(np.float32)
