"""A library's latents to and from the files that other programs search: NumPy, FAISS and Parquet.

    .npy       float32 [n, E]
    .faiss     an IndexFlatIP of width E; needs the extra `faiss`
    .parquet   the columns video, start, end and latent, a list of E float32; needs the extra `parquet`

Beside NAME.npy and NAME.faiss stands NAME.jsonl, a manifest with the video of each row, in order. The latents
of single frames and their times are not exported.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..inputs import JSON_GROWTH, one_line, parse_json, read_text, regular_file
from ..media.sampling import seconds
from ..model.config import Array
from ..model.videococa import VideoCoCa
from ..output import atomic_write, json_text, resolve_output
from ..progress import Progress, no_progress
from .build import IMPORTED, Found, Places, facts_for
from .find import widen
from .store import Clip, Library, clips_of, concatenate, identity, read_library, writing

SUFFIXES = (".npy", ".faiss", ".parquet")
PACKAGES = {"faiss": "faiss", "pyarrow.parquet": "parquet"}  # module -> extra
_COLUMNS = ("video", "start", "end", "latent")
ROWS = 2**15  # at a time
HINT = f"give a file of vectors: {', '.join(SUFFIXES)}"

Part = tuple[list[Clip], Array]  # some rows of a file: their clips and their vectors [n, E]


# Out


def export_vectors(
    library: str | os.PathLike[str], path: str | os.PathLike[str], *, progress: Progress = no_progress
) -> int:
    """Write the latents of a library to a file of one of the `SUFFIXES`. Return their number.

    `progress` is called with the number of clips. Raises ValueError for another suffix, a library without
    clips and if a package is missing; as `resolve_output` and `read_library`; and OSError if the file cannot
    be written.
    """
    opened, place = read_library(library), resolve_output(path, [library])
    write = _by_suffix(place, (_write_npy, _write_faiss, _write_parquet))
    names = place.with_suffix(".jsonl") if place.suffix in SUFFIXES[:2] else None
    if names:
        resolve_output(names, [library])
    if not len(opened):
        raise ValueError(f"{library}: no clip is in this library yet: run minivideococa index")
    with (
        progress(len(opened), "clips") as update,
        atomic_write(place) as partial,
        atomic_write(names) if names else nullcontext() as manifest,
        closing(_named(_parts(opened, update), manifest)) as parts,
    ):
        write(partial, opened, parts)
        if names:
            place.unlink(missing_ok=True)  # at no moment does it stand beside the names of another
    return len(opened)


def _parts(library: Library, update: Callable[[int], object]) -> Iterator[Part]:
    """Yield the clips and the latents of each shard."""
    for shard in library.shards:
        rows = library.rows(shard)
        yield clips_of(rows), widen(rows["latent"])
        update(len(rows["latent"]))


def _named(parts: Iterable[Part], manifest: Path | None) -> Generator[Part, None, None]:
    """Yield the parts, and write the name of each clip to the manifest."""
    if manifest is None:
        yield from parts
        return
    with open(manifest, "w", encoding="utf-8") as file:
        for clips, vectors in parts:
            file.writelines(json_text(_fields(clip)) + "\n" for clip in clips)
            yield clips, vectors


def _fields(clip: Clip) -> dict[str, Any]:
    """Return the fields of a clip in a manifest."""
    fields = {"video": clip.path, "start": clip.start, "end": clip.end}
    return {name: value for name, value in fields.items() if value is not None}


def _write_npy(path: Path, library: Library, parts: Iterator[Part]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(library), library.facts["width"])}
    with open(path, "wb") as file:  # not memory-mapped: on a full disk that ends the process by SIGBUS
        np.lib.format.write_array_header_1_0(file, header)
        for _, vectors in parts:
            file.write(vectors.astype("<f4", copy=False).tobytes())


def _write_faiss(path: Path, library: Library, parts: Iterator[Part]) -> None:
    faiss = _package("faiss")
    index = faiss.IndexFlatIP(library.facts["width"])
    for _, vectors in parts:
        index.add(vectors)
    with open(path, "wb") as file:  # FAISS itself raises RuntimeError on a full disk
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _write_parquet(path: Path, library: Library, parts: Iterator[Part]) -> None:
    pq = _package("pyarrow.parquet")
    import pyarrow as pa

    width = library.facts["width"]
    types = (pa.string(), pa.float64(), pa.float64(), pa.list_(pa.float32(), width))
    schema = pa.schema(list(zip(_COLUMNS, types, strict=True)))
    with pq.ParquetWriter(path, schema) as writer:
        for clips, vectors in parts:
            latents = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
            names = [
                pa.array(column, kind)
                for column, kind in zip(zip(*clips, strict=True), types[:3], strict=True)
            ]
            writer.write_table(pa.table([*names, latents], schema))


# In


def import_vectors(
    model: VideoCoCa,
    path: str | os.PathLike[str],
    library: str | os.PathLike[str],
    *,
    num_frames: int | None = None,
    adapter: str | None = None,
    dtype: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Add the vectors of a file to a library, which is made if it does not exist. No video is read.

    The file does not say how its vectors were made: they have to be latents of `model`, from `num_frames`
    frames by `adapter`. They are scaled to unit length. A clip whose path and part are in the library already
    is left out.

    Returns {"clips": the number in the library now, "added", "known"}. Raises ValueError for vectors of
    another width, or that are zero or not finite, a file that does not name a video for each of them, and as
    `build.index`; OSError if a file cannot be read or written.
    """
    place = regular_file(path, HINT)
    read = _by_suffix(place, (_read_npy, _read_faiss, _read_parquet))
    facts, counts = facts_for(model, library, num_frames, adapter, dtype), Counter(added=0, known=0)
    count, parts = read(place)
    with writing(library, facts) as writer, progress(count, "clips") as update:
        places, first = Places(writer, counts), 0
        for clips, vectors in parts:
            vectors = _unit_length(place, vectors, facts["width"], first)
            new = [i for i, clip in enumerate(clips) if places.add_new(Found(clip, _key(clip), IMPORTED))]
            if new:
                rows = [identity(_key(clips[i]), clips[i], IMPORTED) for i in new]
                writer.add(concatenate(rows) | {"latent": vectors[new]})
            writer.commit()
            first += len(clips)
            update(len(clips))
    return {"clips": len(writer.library), **counts}


def _key(clip: Clip) -> bytes:
    """Return the key of a clip whose content is not known."""
    return hashlib.sha256(json.dumps(["imported", *clip]).encode()).digest()


def _unit_length(path: Path, vectors: Array, width: int, first: int) -> Array:
    """Return vectors `[n, E]` of unit length, in float32; those that have it, to rounding, as they are.

    `first` is the number of the first row in the file, for messages. Raises ValueError.
    """
    if vectors.ndim != 2 or vectors.shape[1] != width or vectors.dtype.kind != "f":
        raise ValueError(
            f"{path}: holds {vectors.dtype} of shape {list(vectors.shape)}; this model's latents are "
            f"floats [n, {width}]"
        )
    vectors = vectors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    if not (valid := np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError(f"{path}: row {first + valid.argmin()} is zero or not finite; leave it out")
    lengths[np.abs(lengths - 1) < 1e-3] = 1  # float16 rounding
    return vectors / lengths[:, None]


def _read_npy(path: Path) -> tuple[int, Iterator[Part]]:
    try:
        with open(path, "rb") as file:
            head = file.read(12)
        if head[6:7] > b"\1" and int.from_bytes(head[8:], "little") > path.stat().st_size:
            raise ValueError("its header is longer than the file")  # NumPy would allocate it
        array = np.lib.format.open_memmap(path, mode="r")  # np.load also reads zip archives
    except Exception as error:  # a damaged header raises errors of many kinds
        raise ValueError(f"{path}: not a NumPy array of numbers ({one_line(error)}); {HINT}") from None
    clips = _read_names(path, len(array) if array.ndim else 0)
    return len(clips), ((clips[i : i + ROWS], array[i : i + ROWS]) for i in range(0, len(clips), ROWS))


def _read_faiss(path: Path) -> tuple[int, Iterator[Part]]:
    faiss = _package("faiss")
    try:
        index = faiss.read_index(os.fspath(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: not a FAISS index ({one_line(error)}); {HINT}") from None
    if not isinstance(index, faiss.IndexFlat):  # others end the process if they cannot give vectors back
        raise ValueError(
            f"{path}: holds an {type(index).__name__}: give an IndexFlat, with all vectors as they are"
        )
    clips = _read_names(path, index.ntotal)
    starts = range(0, len(clips), ROWS)
    return len(clips), ((part := clips[i : i + ROWS], index.reconstruct_n(i, len(part))) for i in starts)


def _read_parquet(path: Path) -> tuple[int, Iterator[Part]]:
    pq = _package("pyarrow.parquet")
    import pyarrow as pa

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file ({one_line(error)}); {HINT}") from None
    names = file.schema_arrow.names
    if not {"video", "latent"} <= set(names):
        raise ValueError(f"{path}: has the columns {', '.join(names)}: it needs video and latent")

    def parts() -> Iterator[Part]:
        row = 1
        for batch in file.iter_batches(ROWS, columns=[name for name in _COLUMNS if name in names]):
            try:
                vectors = np.stack(batch.column("latent").to_numpy(zero_copy_only=False))
            except (ValueError, TypeError):
                raise ValueError(f"{path}: the latents are not lists of one length") from None
            fields = batch.drop_columns("latent").to_pylist()
            yield [_clip(x, path, i) for i, x in enumerate(fields, row)], vectors
            row += len(fields)

    return file.metadata.num_rows, parts()


def _read_names(path: Path, count: int) -> list[Clip]:
    """Return the clips in the manifest beside a file. Raises ValueError unless there are `count`."""
    names = path.with_suffix(".jsonl")
    hint = f"it names the video of each row of {path.name}, one JSON object per line"
    lines = [line for line in read_text(names, hint, JSON_GROWTH).split("\n") if line.strip()]
    if len(lines) != count or not lines:
        raise ValueError(f"{names}: names {len(lines)} videos, and {path.name} has {count} vectors")
    return [_clip(parse_json(line, f"{names}: line {i}", hint), names, i) for i, line in enumerate(lines, 1)]


def _clip(fields: Any, path: Path, row: int) -> Clip:
    """Return the clip of a line or a row of a file. Raises ValueError."""
    video = fields.get("video") if isinstance(fields, dict) else None
    if not isinstance(video, str) or not video.strip():
        raise ValueError(f'{path}: row {row}: "video" is missing: give the path of a video')
    names = ("start", "end")
    try:
        times = [None if (x := fields.get(name)) is None else seconds(x, name) for name in names]
    except ValueError as error:
        raise ValueError(f"{path}: row {row}: {error}") from None
    return Clip(os.path.abspath(path.parent / video), *times)


# Both


def _by_suffix(path: Path, functions: tuple[Any, Any, Any]) -> Any:
    """Return the function for the suffix of a file. Raises ValueError for another suffix."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: {HINT}")
    return functions[SUFFIXES.index(path.suffix)]


def _package(name: str) -> Any:
    """Return a module of an extra. Raises ValueError if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        extra = PACKAGES[name]
        raise ValueError(f'{name} is not installed: pip install "minivideococa[{extra}]"') from None
