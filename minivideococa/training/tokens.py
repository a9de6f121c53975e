"""Frame tokens of clips on disk: a video is read and encoded once, and memory-mapped in every epoch.

Where the image encoder is frozen, its tokens of a clip never change. They are most of the work of a training
step, and they depend on nothing but the encoder and the clip. So they are stored in the cache under a hash of
both, and are used again by other tunings, poolers and tasks. Where the encoder is tuned, its inputs are
stored instead: the squares that the frames are resized to, as uint8.

The files of a clip of T = 8 frames: float32 tokens of ViT-B/32 take 1.2 MB, of ViT-L/14 8.4 MB, half of that
with `half`; squares of 224 x 224 pixels take 1.2 MB.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import (
    content_hashes,
    encoder_hash,
    file_of,
    folder_for,
    is_intact,
    open_arrays,
    size_limit,
    write,
)
from ..evaluation.manifest import Entry, PartKey, part_key
from ..eviction import keep_frames
from ..inputs import why_unreadable
from ..media.preprocess import square_frames
from ..media.sampling import RULE, frame_count
from ..media.video import read_video
from ..model.config import Array, check_finite, check_int
from ..model.videococa import VideoCoCa, frame_tokens
from ..progress import Progress, no_progress
from ..resources import format_bytes, require_memory_for


class ClipStore:
    """What a model tunes from, for each clip: frame tokens [T, N, W], or pixels [T, 3, S, S] with `pixels`.

    Parameters
    ----------
    cache : the folder of the files.
    num_frames, adapter : as in `VideoCoCa.encode`. With "joint" the tokens are those of all frames encoded as
        one sequence; they are the same for all other adapters.
    pixels : store what the image encoder takes, because it is tuned.
    half : store tokens as float16. Each number is off by 2^-11 of its magnitude at most (and by 2^-25, where
        it is smaller than 2^-14). No effect with `pixels`.
    allow_bad : the number of unreadable clips that are left out, with a warning each; one more is an error.

    Entries with the same `part_key` are one clip. `left_out` holds an entry of each clip that could not be
    read, with the reason. Raises ValueError for an invalid argument, and for frames of a clip that do not fit
    into memory.
    """

    def __init__(
        self,
        model: VideoCoCa,
        cache: str | os.PathLike[str],
        *,
        num_frames: int = 8,
        adapter: str = "attentional",
        pixels: bool = False,
        half: bool = False,
        allow_bad: int = 0,
    ) -> None:
        self.model, self.folder, self.num_frames = model, folder_for(cache), frame_count(num_frames)
        self.adapter, self.pixels = adapter, pixels
        self.allow_bad = check_int("allow_bad", allow_bad, 0)
        self.dtype = np.dtype(np.float16) if half else model.dtype
        self.left_out: dict[PartKey, tuple[Entry, str]] = {}
        self._files: dict[PartKey, Path] = {}
        need = model.config.bytes_to_encode(adapter, model.dtype)
        require_memory_for(self.num_frames, need, f"encoding {num_frames} frames", "frames")
        if pixels:
            self._content: list[Any] = ["squares", asdict(model.config.preprocess)]
        else:
            kind = "joint-tokens" if adapter == "joint" else "tokens"
            self._content = [kind, encoder_hash(model), str(self.dtype)]

    def prepare(self, entries: Sequence[Entry], progress: Progress = no_progress) -> list[Entry]:
        """Store the clips of the entries that are not stored yet; return the entries that can be read.

        Stored files are verified here, once, by their checksums; a damaged one is computed again. `progress`
        is called once, with "clips". Raises ValueError if more clips than `allow_bad` cannot be read or none
        can, for tokens that are not finite, or not in float16; OSError if the cache cannot be written.
        """
        clips: dict[PartKey, Entry] = {}
        for entry in entries:
            if part_key(entry) not in self._files and part_key(entry) not in self.left_out:
                clips.setdefault(part_key(entry), entry)
        with suppress(OSError):  # `write` reports it
            self.folder.mkdir(parents=True, exist_ok=True)
        keep_frames(self.folder, self)
        with progress(len(clips), "clips") as update:
            for clip in clips.values():
                self._prepare(clip)
                update(1)
        self._warn_of_limit()
        readable = [entry for entry in entries if part_key(entry) in self._files]
        if entries and not readable:
            raise ValueError(f"no clip can be read: {self.left_out[part_key(entries[0])][1]}")
        return readable

    def file(self, entry: Entry) -> Path:
        """Return the file of an entry that `prepare` returned. Its name is the hash of all it depends on."""
        return self._files[part_key(entry)]

    def read(self, entry: Entry) -> Array:
        """Return the frame tokens or pixels of an entry that `prepare` returned, in the model's dtype.

        Tokens in this dtype are memory-mapped: nothing is read before it is used. Raises OSError if the file
        has been removed or damaged since `prepare`.
        """
        path = self.file(entry)
        arrays = open_arrays(path)
        if arrays is None:
            raise OSError(f"{path}: the cached frames of {entry.video} were removed or damaged; start again")
        if self.pixels:
            return self.model.preprocess(arrays["squares"]).astype(self.model.dtype, copy=False)
        return arrays["tokens"].astype(self.model.dtype, copy=False)

    def _prepare(self, clip: Entry) -> None:
        """Store a clip, unless it is stored already; leave it out if it cannot be read."""
        try:
            part = part_key(clip)[1:]
            key = [*self._content, content_hashes(clip.video, self.folder), self.num_frames, RULE, *part]
            path = file_of(self.folder, key)
            frames = None if is_intact(path) else self._read(clip)
        except Exception as error:  # decoders raise many kinds
            self._leave_out(clip, why_unreadable(clip.video, error))
            return
        if frames is not None:
            arrays = {"squares": frames} if self.pixels else {"tokens": self._encode(frames, clip.video)}
            write(self.folder, key, arrays)
        self._files[part_key(clip)] = path

    def _warn_of_limit(self) -> None:
        """Warn if the files take more than the cache may."""
        total, limit = sum(os.path.getsize(path) for path in self._files.values()), size_limit()
        if limit is not None and total > limit:
            warnings.warn(
                f"the encoded clips take {format_bytes(total)}, and the limit of the cache is "
                f"{format_bytes(limit)} (MINIVIDEOCOCA_CACHE_LIMIT): they are kept until this run ends",
                stacklevel=3,
            )

    def _read(self, clip: Entry) -> Array:
        """Read a clip: squares uint8 [T, S, S, 3] to be stored, or pixels [T, 3, S, S] to be encoded."""
        with warnings.catch_warnings():  # fewer frames would do for this clip; others need them
            warnings.filterwarnings("ignore", ".*different frames? at the", UserWarning)
            frames = read_video(clip.video, self.num_frames, clip.start, clip.end)
        if self.pixels:
            return square_frames(frames, self.model.config.preprocess)
        return self.model.preprocess(frames)

    def _leave_out(self, clip: Entry, why: str) -> None:
        """Warn of a clip that cannot be read. Raises ValueError if there are too many."""
        self.left_out[part_key(clip)] = clip, why
        if (count := len(self.left_out)) > self.allow_bad:
            clips = "a clip" if count == 1 else f"{count} clips"
            raise ValueError(
                f"{why}; {clips} cannot be read, and allow_bad (--allow-bad) is {self.allow_bad}: correct "
                "the manifest, or allow more"
            )
        warnings.warn(f"left out: {why}", stacklevel=4)

    def _encode(self, pixels: Array, video: Path) -> Array:
        """Return the frame tokens of pixels [T, 3, S, S] as they are stored: [T, N, W]."""
        pixels = pixels.astype(self.model.dtype, copy=False)
        tokens = frame_tokens(pixels, self.model.params, self.model.config, self.adapter)
        check_finite("the frame tokens are", tokens)
        with np.errstate(over="ignore"):  # becomes infinite
            stored = tokens.astype(self.dtype, copy=False)
        if not np.isfinite(stored).all():
            raise ValueError(
                f"{video}: its frame tokens reach {np.abs(tokens).max():.3g}, too large for float16: leave "
                "out half (--half)"
            )
        return stored
