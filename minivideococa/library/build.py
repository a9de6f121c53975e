"""From videos to a library: encode what is not in it yet."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..cache import are_settled, content_hashes, file_states, visual_hash
from ..cluster import Cluster, map_in_order
from ..inputs import path_name, why_unreadable
from ..media.sampling import RULE, frame_count, seconds
from ..media.video import files_of, read_timed
from ..model.config import Array, check_choice
from ..model.kernels import threads_of_frames
from ..model.ops import normalize
from ..model.pooling import pool_tokens
from ..model.videococa import VideoCoCa, frame_tokens
from ..progress import Progress, no_progress
from ..resources import require_memory_for
from .store import DTYPES, Clip, Rows, Writer, clips_of, identity, is_library, keys_of, read_library, writing

SAVE_AFTER = 60  # seconds
IMPORTED = (-1, -1)  # the stamp of a row whose video was not read
COUNTS = ("added", "known", "copies", "moved", "replaced", "missing", "pruned")


class UnreadableError(ValueError):
    """A clip cannot be read. The message says why, in one line that names it."""


class Found(NamedTuple):
    """A clip whose content has been read: its key, and the `_stamp` of its files before."""

    clip: Clip
    key: bytes
    stamp: tuple[int, int]


def index(
    model: VideoCoCa,
    videos: Iterable[str | os.PathLike[str] | Clip],
    library: str | os.PathLike[str],
    *,
    num_frames: int | None = None,
    adapter: str | None = None,
    dtype: str | None = None,
    prune: bool = False,
    cluster: Cluster | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Add the latents of videos to a library, a folder that is made if it does not exist.

    What is in the library already, by content and part, is not encoded again. A file with the size, the inode
    and the times that it had when it was read is taken as unchanged; of any other file the content decides. A
    file that has moved gets its new path; new content replaces what the same path held before; of several
    copies the first one counts. Work is saved every minute, so that a run that was killed goes on where it
    was.

    Parameters
    ----------
    videos : paths of videos; a `Clip` for a part of one.
    num_frames, adapter : as in `VideoCoCa.encode`. Default: those of the library.
    dtype : "float16" or "float32", in which latents are stored. Default: that of the library; float16.
    prune : remove the clips whose files are gone.
    cluster : where to encode the videos, with the same result. Default: in this process.
    progress : called with the number of videos.

    Returns
    -------
    dict
        "clips", the number in the library now; "added", "known" and "copies", how many of the videos were
        encoded, were there already, and have the content of another file; "moved", "replaced", "missing" and
        "pruned", how many of the library's clips have a new path, have new content, have lost their file, and
        were removed because of that; "unreadable", a list of {"video", "why"}.

    Raises ValueError for an invalid argument, a library of other weights or of another adapter, number of
    frames or dtype, one that another process is writing to, a latent that is not finite, and if there is no
    clip in the library at the end. Raises OSError if it cannot be written, or the cluster does not answer.
    """
    clips = _check_clips(videos)
    facts = facts_for(model, library, num_frames, adapter, dtype)
    counts, failed = Counter(dict.fromkeys(COUNTS, 0)), dict[Clip, UnreadableError]()
    with writing(library, facts) as writer, progress(len(clips), "videos") as update:
        places, saved = Places(writer, counts), time.monotonic()
        for found, row in _encode_new(model, clips, places, failed, update, cluster):
            if isinstance(row, UnreadableError):
                failed[found.clip] = row
            else:
                writer.add(row)
                places.add(found)
            places.pending.discard(found.key)
            update(1)
            if time.monotonic() - saved > SAVE_AFTER:
                writer.commit()
                saved = time.monotonic()
        places.count_missing(prune)
    unreadable = [{"video": x.path, **_part(x), "why": str(failed[x])} for x in clips if x in failed]
    if not len(writer.library):
        first = unreadable[0]["why"] if unreadable else f"{os.fspath(library)}: no clip is left in it"
        several = len(unreadable) > 1
        raise ValueError(f"none of the {len(unreadable)} videos can be read: {first}" if several else first)
    return {"clips": len(writer.library), **counts, "unreadable": unreadable}


def facts_for(
    model: VideoCoCa,
    library: str | os.PathLike[str],
    num_frames: int | None = None,
    adapter: str | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Return how a model's latents are made for a library; what is not given is that of the library.

    Raises ValueError for an invalid argument, and if the frames of a video do not fit into memory.
    """
    before = read_library(library).facts if is_library(library) else {}
    adapter = model.config.check_adapter(before.get("adapter") if adapter is None else adapter)
    num_frames = frame_count(before.get("frames", 8) if num_frames is None else num_frames)
    dtype = check_choice("dtype", before.get("dtype", DTYPES[0]) if dtype is None else dtype, DTYPES)
    model.config.check_frames(num_frames, adapter)
    need = model.config.bytes_to_encode(adapter, model.dtype)
    require_memory_for(num_frames, need, f"encoding {num_frames} frames", "frames")
    return {
        "model": visual_hash(model),
        "weights": model.base,
        "adapter": adapter,
        "frames": num_frames,
        "dtype": dtype,
        "width": model.config.embed_dim,
        "sampling": RULE,
    }


def _check_clips(videos: Any) -> list[Clip]:
    """Return the videos as clips with absolute paths, each once. Raises ValueError for anything else."""
    if isinstance(videos, str | os.PathLike | Clip):
        raise ValueError(f"videos is {videos!r}: give a list of paths")
    clips: dict[Clip, None] = {}
    for video in videos:
        path, start, end = video if isinstance(video, Clip) else Clip(video)
        times = (None if x is None else seconds(x, name) for x, name in ((start, "start"), (end, "end")))
        clips[Clip(os.path.abspath(path_name(path, "give paths of videos", "a video")), *times)] = None
    if not clips:
        raise ValueError("videos is empty: give paths of videos")
    return list(clips)


# One clip


def encode_clip(model: VideoCoCa, found: Found, num_frames: int, adapter: str) -> Rows:
    """Encode one clip: its row of a library.

    Raises UnreadableError if the clip cannot be read, and ValueError if a latent is not finite.
    """
    clip = found.clip
    try:
        frames, times = read_timed(clip.path, num_frames, clip.start, clip.end)
        pixels = model.preprocess(frames)
        changed = not _is_there(found)
    except Exception as error:  # decoders raise many kinds
        raise UnreadableError(why_unreadable(clip.path, error)) from None
    if changed:
        raise UnreadableError(f"{clip.path}: has changed while it was read: index it again")
    tokens = frame_tokens(pixels, model.params, model.config, adapter)  # [T, N, W]
    return identity(found.key, clip, found.stamp) | {
        "latent": model.pool(tokens, adapter).latent[None],
        "frames": latents_of_frames(tokens, model)[None],
        "times": np.array([times or [np.nan] * num_frames], np.float64),
    }


@threads_of_frames
def latents_of_frames(tokens: Array, model: VideoCoCa) -> Array:
    """Return the latent of each frame alone, of unit length, from frame tokens [T, N, W]: [T, E].

    It is what CoCa's own poolers make of the tokens of one frame, as in mean pooling.
    """
    visual = model.params["visual"]
    embeddings, _ = pool_tokens(tokens, visual, model.config.vision)
    return normalize(embeddings @ visual["proj"])


def find_clip(clip: Clip, stamp: tuple[int, int]) -> Found:
    """Read a clip's content and return its key. Raises UnreadableError."""
    try:
        facts = [content_hashes(clip.path), clip.start or 0.0, clip.end]
    except Exception as error:
        raise UnreadableError(why_unreadable(clip.path, error)) from None
    return Found(clip, hashlib.sha256(json.dumps(facts).encode()).digest(), stamp)


def _stamp(path: str) -> tuple[int, int]:
    """Return the size of a video's files, and a hash of their `file_states`. Raises as `files_of`.

    If one has just changed, another change may not show: then it is the time, which no later stamp equals.
    """
    states = file_states(sorted({path, *files_of(path)}))  # a folder's own shows what was renamed in it
    digest = hashlib.sha256(json.dumps(states).encode()).digest()
    state = int.from_bytes(digest[:8], "big", signed=True) if are_settled(states) else time.time_ns()
    return sum(size or 0 for _, size, *_ in states), state


# The library


def _encode_new(
    model: VideoCoCa,
    clips: list[Clip],
    places: Places,
    failed: dict[Clip, UnreadableError],
    update: Callable[[int], object],
    cluster: Cluster | None,
) -> Iterator[tuple[Found, Rows | UnreadableError]]:
    """Yield the clips whose content is not in the library, in order, each with its row or why it has none.

    A clip with the content of one that a cluster is still encoding waits until that one is done.
    """
    facts = places.writer.library.facts
    encode = partial(_encode, num_frames=facts["frames"], adapter=facts["adapter"])
    while clips:
        waiting: list[Clip] = []
        new = _new_clips(clips, places, failed, update, waiting)
        if cluster is None:
            yield from (encode(model, found) for found in new)
        else:
            yield from map_in_order(cluster.with_check(visual_hash, facts["model"]), encode, new)
        clips = waiting


def _encode(
    model: VideoCoCa, found: Found, num_frames: int, adapter: str
) -> tuple[Found, Rows | UnreadableError]:
    try:
        return found, encode_clip(model, found, num_frames, adapter)
    except UnreadableError as error:
        return found, error


def _new_clips(
    clips: Iterable[Clip],
    places: Places,
    failed: dict[Clip, UnreadableError],
    update: Callable[[int], object],
    waiting: list[Clip],
) -> Iterator[Found]:
    """Yield the clips that are to be encoded. `update` counts the others, except those that are `waiting`."""
    for clip in clips:
        found = None
        try:
            found = places.look_up(clip)
        except UnreadableError as error:
            failed[clip] = error
        if not found:
            update(1)
        elif found.key in places.pending:
            waiting.append(clip)
        else:
            places.pending.add(found.key)
            yield found


class Places:
    """Where the clips of a library are: by their keys, and by path and part."""

    def __init__(self, writer: Writer, counts: Counter[str]) -> None:
        self.writer, self.counts = writer, counts
        self.by_key: dict[bytes, Found] = {}
        self.by_clip: dict[Clip, Found] = {}
        self.pending: set[bytes] = set()  # the keys of clips that are being encoded
        for shard in writer.library.shards:
            rows = writer.library.rows(shard)
            for clip, key, stamp in zip(clips_of(rows), keys_of(rows), rows["stamp"].tolist(), strict=True):
                self._put(Found(clip, key, (stamp[0], stamp[1])))

    def look_up(self, clip: Clip) -> Found | None:
        """Return a clip if its content is not in the library, else None. Raises UnreadableError.

        Its files are read only if their stamp is not the one in the library.
        """
        before, stamp = self.by_clip.get(clip), _readable_stamp(clip.path)
        if before and before.stamp in (stamp, IMPORTED):
            self.counts["known"] += 1
            return None
        found = find_clip(clip, stamp)
        held = self.by_key.get(found.key)
        if held is None:
            return found
        if held.clip != clip and _is_there(held):
            self.counts["copies"] += 1
            self._replace(before)
        else:
            self.counts["known" if held.clip == clip else "moved"] += 1
            self._replace(before if before != held else None)
            self.by_clip.pop(held.clip)
            self._put(found)
            self.writer.change(found.key, identity(found.key, clip, stamp))
        return None

    def add(self, found: Found) -> None:
        """Note a clip whose row is added, in place of another one with its path and part."""
        self._replace(self.by_clip.get(found.clip))
        self._put(found)
        self.counts["added"] += 1

    def add_new(self, found: Found) -> bool:
        """Note a clip, unless there is one with its path and part. Tell whether there was none."""
        if found.clip in self.by_clip:
            self.counts["known"] += 1
            return False
        self.add(found)
        return True

    def count_missing(self, prune: bool) -> None:
        """Count the clips whose files are gone; with `prune` remove them. Imported clips are left alone."""
        gone = [x for x in self.by_key.values() if x.stamp != IMPORTED and not os.path.exists(x.clip.path)]
        self.counts["pruned" if prune else "missing"] += len(gone)
        for found in gone if prune else ():
            self.writer.change(found.key, None)

    def _put(self, found: Found) -> None:
        self.by_key[found.key] = self.by_clip[found.clip] = found

    def _replace(self, before: Found | None) -> None:
        """Remove a clip whose file has other content now."""
        if before:
            self.counts["replaced"] += 1
            self.writer.change(before.key, None)
            del self.by_key[before.key], self.by_clip[before.clip]


def _readable_stamp(path: str) -> tuple[int, int]:
    """Return the stamp of a video. Raises UnreadableError."""
    try:
        return _stamp(path)
    except Exception as error:
        raise UnreadableError(why_unreadable(path, error)) from None


def _is_there(found: Found) -> bool:
    """Tell whether a file still has the content that was read."""
    try:
        stamp = _stamp(found.clip.path)
        return stamp == found.stamp or find_clip(found.clip, stamp).key == found.key
    except (OSError, ValueError):
        return False


def _part(clip: Clip) -> dict[str, float]:
    """Return those of the start and the end that are given."""
    return {name: x for name, x in (("start", clip.start), ("end", clip.end)) if x is not None}
