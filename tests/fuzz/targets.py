"""The readers of files from elsewhere, and what is checked of each: `check(target, data, folder)`.

`TARGETS` lists them. A reader takes the path of a file and either reads it or raises an error that the
command line prints as one line. `fuzz.py` calls `check` with what atheris makes of the seeds, and
`test_fuzz.py` with what Hypothesis draws and with the cases that were once found.
"""

import contextlib
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import imageio.plugins.pillow
import imageio.v3  # noqa: F401 (loaded before `pictured`)
import mutate
import numpy as np
from guard import guarded
from PIL import Image
from test_annotations import ACTIVITYNET_A, FILES

from minivideococa import cli, verify
from minivideococa.checkpoint import load, with_tensors
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.table import unnest
from minivideococa.checkpoint.tuned import write_tuned
from minivideococa.cli.messages import reason
from minivideococa.evaluation import FORMATS, read_annotations, read_manifest
from minivideococa.evaluation.manifest import part_key
from minivideococa.library import vectors
from minivideococa.media import ffmpeg, images, stretches, video
from minivideococa.media.tokenizer import load_tokenizer
from minivideococa.progress import no_progress

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden" / "torch"
CONFIG, WEIGHTS = GOLDEN / "coca.json", GOLDEN / "coca.safetensors"
SMALLEST = TESTS / "conformance" / "smallest"
KIT = SMALLEST / "as_released"
BETWEEN = b"\n=====\n"  # the parts of an input that stands for several files


class Target(NamedTuple):
    """A reader.

    file: the name of the file that it reads. read: what is called with its path. command: the arguments of a
    command that reads it. seeds: valid files. readable: what else it may read. write: makes the files of an
    input, and returns the path.
    """

    file: str
    read: Callable[[Path], object]
    command: Callable[[Path], list[str]] | None
    seeds: Callable[[], list[bytes]]
    mutate: mutate.Mutate
    readable: tuple[Path, ...] = ()
    write: Callable[[Path, bytes], Path] | None = None


def check(target: Target, data: bytes, folder: Path) -> str | None:
    """Check what is promised of an input, in an empty folder. Return the message if it was refused.

    The reader may not raise another error, leave a file behind, or do what `guarded` forbids.
    """
    path = prepared(target, data, folder)
    before, message = sorted(os.listdir(folder)), None
    try:
        with contextlib.chdir(folder), warnings.catch_warnings(), guarded(folder, target.readable):
            warnings.simplefilter("ignore")
            target.read(path)
    except (ValueError, OSError) as error:  # and no MemoryError
        message = reason(error)
        check_message(message, (folder, *target.readable))
    assert sorted(os.listdir(folder)) == before, f"left behind: {os.listdir(folder)}"
    return message


def check_command(target: Target, data: bytes, folder: Path) -> int:
    """Check the same of a command that reads this input, and return its exit status."""
    path = prepared(target, data, folder)
    arguments = target.command(path)
    before, out, err = sorted(os.listdir(folder)), io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(arguments)
    lines = err.getvalue().splitlines()
    assert all(line.startswith("minivideococa: ") for line in lines), lines
    if status == 2:
        check_message(lines[-1], (folder, *target.readable))
        assert not out.getvalue() and sorted(os.listdir(folder)) == before, os.listdir(folder)
    return status


def check_message(message: str, paths: tuple[Path, ...]) -> None:
    """Check that an error is one line, not too long, names a file, and is none of lacking memory."""
    assert "\n" not in message and len(message) < 5000, f"{len(message)}: {message[:1000]}"
    assert any(str(path) in message for path in paths), message
    assert "MemoryError" not in message and "out of memory" not in message, message


def prepared(target: Target, data: bytes, folder: Path) -> Path:
    """Write the files of an input to a folder, which is emptied, and return the path that is read."""
    for entry in os.scandir(folder):
        shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
    if target.write:
        return target.write(folder, data)
    path = folder / target.file
    path.write_bytes(data)
    return path


def warm_up(target: Target, folder: Path) -> None:
    """Read the seeds and some invalid files, so that all modules are loaded that a reader needs."""
    for data in (*target.seeds(), b"", b"{", b"\x80", b"PK\x03\x04"):
        with contextlib.suppress(Exception), contextlib.chdir(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(prepared(target, data, folder))


# Readers ----------------------------------------------------------------------------------------------------


def converted(weights: Path, config: Path) -> None:
    """Convert weights, load the new checkpoint, and remove it."""
    out = Path.cwd() / "out"
    convert(weights, out, config=config)
    load(out)
    shutil.rmtree(out)


def completed(tokenizer: Path) -> Path:
    """Return the folder of a tokenizer, with the other files of a checkpoint."""
    shutil.copy(CONFIG, tokenizer.parent / "config.json")
    shutil.copy(WEIGHTS, tokenizer.parent / "model.safetensors")
    return tokenizer.parent


def tokenized(path: Path) -> None:
    """Load a tokenizer, and use it if it is accepted: an unsuitable text is an error of one line as well."""
    tokenizer = load_tokenizer(path, 16, 0, "lower")
    for text in ("", "a red ring, on the left!", "<start_of_text> a", "\u00e9\u0130\U0001f408 " * 20):
        with contextlib.suppress(ValueError):
            ids = tokenizer.encode(text)
            tokenizer.decode(ids[0])
    with contextlib.suppress(ValueError):
        tokenizer.unknown("a blue zebra")


def manifest(path: Path) -> None:
    for entry in read_manifest(path):
        part_key(entry)


def annotations(path: Path) -> None:
    for entry in read_annotations(_format_of(path), path, path.parent):
        part_key(entry)


def _format_of(path: Path) -> str:
    return path.name.split("_q.")[0].split(".")[0]


def traced(path: Path) -> None:
    verify.text(verify.verify_file(path, KIT))


def pictured(path: Path) -> None:
    try:
        with mock.patch.dict(sys.modules, pillow_heif=None):  # otherwise imageio looks for it each time
            if images.is_image(str(path)):
                images.read_images(str(path), 4)
    except MemoryError as error:  # Pillow reads as many bytes as a PNG's chunk says; none of them is there
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not frames[-1].f_code.co_filename.endswith("PngImagePlugin.py"):
            raise


def imported(path: Path) -> None:
    _, parts = vectors._read_npy(path)
    for _, rows in parts:
        vectors._unit_length(path, rows, 4, 0)


def write_vectors(folder: Path, data: bytes) -> Path:
    """An input is a .npy file and the names of its rows, which are the manifest beside it."""
    array, _, names = data.partition(BETWEEN)
    path = folder / "vectors.npy"
    path.write_bytes(array)
    path.with_suffix(".jsonl").write_bytes(names)
    return path


def mutate_vectors(data: bytes, random: Random) -> bytes:
    array, _, names = data.partition(BETWEEN)
    if random.random() < 0.5:
        names = mutate.json_lines(names, random)
    elif random.random() < 0.5:
        array = mutate.text_file(array[:100], random) + array[100:]
    else:
        array = mutate.any_bytes(array, random)
    return array + BETWEEN + names


def write_annotations(folder: Path, data: bytes) -> Path:
    """An input begins with a line that names the format; the answers of ActivityNet-QA are behind a line."""
    first, _, rest = data.partition(b"\n")
    name = first.decode("ascii", "replace")
    format = name if name in FORMATS else list(FORMATS)[len(data) % len(FORMATS)]
    content, _, answers = rest.partition(BETWEEN)
    if FORMATS[format].endings:
        (folder / f"{format}_a.json").write_bytes(answers)
    path = folder / (f"{format}_q.json" if FORMATS[format].endings else f"{format}.txt")
    path.write_bytes(content)
    return path


def mutate_annotations(data: bytes, random: Random) -> bytes:
    first, _, rest = data.partition(b"\n")
    if random.random() < 0.03:
        first = random.choice(list(FORMATS)).encode()
    parts = rest.split(BETWEEN)
    i = random.randrange(len(parts))
    change = mutate.json_file if parts[i][:1] in (b"{", b"[") else mutate.text_file
    parts[i] = change(parts[i], random)
    return first + b"\n" + BETWEEN.join(parts)


# An input of three parts stands for ffmpeg: the report of the packets, that of the frames, and the pictures.


def write_ffmpeg(folder: Path, data: bytes) -> Path:
    (folder / "ffmpeg.output").write_bytes(data)
    path = folder / "clip.mp4"
    path.write_bytes(b"a video")
    return path


def decoded(path: Path) -> None:
    """Read a video, as a whole and in stretches, by an ffmpeg that prints the parts of an input."""
    parts = (path.parent / "ffmpeg.output").read_bytes().split(BETWEEN)
    with (
        mock.patch.multiple(ffmpeg, open_ffmpeg=stand_in(parts), ffmpeg_version=lambda: "9", ffmpeg_path=str),
        mock.patch.multiple(stretches, open_ffmpeg=stand_in(parts), REPORT_SECONDS=0),
    ):
        try:
            video._read_with_ffmpeg(str(path), 3, None, None)
        finally:
            request = stretches._Request(str(path), Fraction(1, 10), 2, None, None)
            for _ in itertools.islice(stretches._read_film(request, no_progress), 100):
                pass


def stand_in(parts: list[bytes]) -> Callable:
    """Return what takes the place of `open_ffmpeg`: it gives the parts to the very code that reads a pipe."""
    packets, frames, pictures = (parts + [b"", b"", b""])[:3]

    @contextlib.contextmanager
    def open_ffmpeg(path, _, output_options, report, piped=True) -> Iterator[ffmpeg.Running]:
        log = packets if "framecrc" in output_options else frames
        running = ffmpeg.Running(report, 10**9)
        running.process = SimpleNamespace(stderr=io.BytesIO(log), stdout=io.BytesIO(pictures))
        running._read_log()
        yield running
        ffmpeg._require_success(path, "ffmpeg", int(b"failed" in log), running)

    return open_ffmpeg


def mutate_ffmpeg(data: bytes, random: Random) -> bytes:
    parts = data.split(BETWEEN)
    i = random.randrange(len(parts))
    parts[i] = mutate.ffmpeg_output(parts[i], random)
    return BETWEEN.join(parts)


# Seeds ------------------------------------------------------------------------------------------------------


def files(*patterns: str) -> Callable[[], list[bytes]]:
    """Return a function that reads files of the repository."""
    return cache(lambda: [path.read_bytes() for pattern in patterns for path in sorted(TESTS.glob(pattern))])


def tokenizers() -> list[bytes]:
    """The embedded checkpoint's, and a small one of each kind that the library has."""
    plain = json.loads((TESTS.parent / "weights" / "tiny" / "tokenizer.json").read_text())
    words = {"<pad>": 0, "<start_of_text>": 1, "<end_of_text>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6}
    kinds = [
        {"type": "BPE", "vocab": words, "merges": [["a", "b"]], "unk_token": "<unk>"},
        {
            "type": "WordPiece",
            "vocab": words,
            "unk_token": "<unk>",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        {"type": "Unigram", "vocab": [[word, -1.0 * i] for word, i in words.items()], "unk_id": 3},
    ]
    parts = [
        (
            {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
            {"type": "Whitespace"},
            {"type": "BPEDecoder", "suffix": "</w>"},
        ),
        (
            {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            {"type": "BertPreTokenizer"},
            {"type": "WordPiece", "prefix": "##", "cleanup": True},
        ),
        (
            {"type": "Prepend", "prepend": "_"},
            {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
            {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ],
            },
        ),
    ]
    made = [
        {
            **plain,
            "normalizer": normalizer,
            "pre_tokenizer": splitter,
            "decoder": decoder,
            "model": model,
            "added_tokens": plain["added_tokens"][:4],
        }
        for model, (normalizer, splitter, decoder) in zip(kinds, parts)
    ]
    return [json.dumps(each).encode() for each in (plain, *made)]


def tuned_parts() -> list[bytes]:
    """A tuned part of the kit's model that replaces two of its tensors."""
    model = load(KIT)
    names = ["visual.proj", "text_decoder.ln_final.weight"]
    tensors = {name: 2 * unnest(model.params)[name] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        path = write_tuned(Path(folder) / "part", with_tensors(model, tensors, tuned_for="caption"))
        return [path.read_bytes()]


MANIFEST = b"""\
{"video": "clips/1.mp4", "captions": ["a man sings", "somebody sings a song"], "label": "singing"}
{"video": "clips/1.mp4", "question": "what does the man do?", "answer": "sing"}
{"video": "talk.mp4", "start": 12.5, "end": "00:01:10", "captions": ["a woman draws a graph"]}
{"video": "1.mp4", "question": "why does he run?", "answer": "to win", "choices": ["to win", "for fun"]}
{"video": "1.mp4", "question": "what does he cut?", "answers": ["bread", "bun"], "labels": ["a", "b"]}
{"video": "1.mp4", "question": "is it a cat?", "answer": "yes", "question_type": "free/yes or no"}
"""


def annotation_files() -> list[bytes]:
    answers = json.dumps(ACTIVITYNET_A).encode()
    return [
        b"%s\n%s" % (name.encode(), text.encode()) + (BETWEEN + answers) * bool(FORMATS[name].endings)
        for name, (_, text, _) in FILES.items()
    ]


def pictures() -> list[bytes]:
    """Small animations and stills of each format that Pillow writes here."""
    frames = [Image.new("RGB", (6, 4), (40 * i, 90, 200 - 40 * i)) for i in range(3)]
    made = []
    for format in ("GIF", "PNG", "WEBP", "TIFF", "JPEG", "BMP", "PPM", "ICO"):
        file = io.BytesIO()
        animated = format in ("GIF", "PNG", "WEBP", "TIFF")
        several = {"save_all": True, "append_images": frames[1:]} if animated else {}
        frames[0].save(file, format, **several)
        made.append(file.getvalue())
    return made


def vector_files() -> list[bytes]:
    names = b'{"video": "a.mp4"}\n{"video": "b.mp4", "start": 1.5, "end": "0:02"}\n{"video": "/c.mp4"}\n'
    made = []
    for dtype in ("float16", "float32", ">f8"):
        file = io.BytesIO()
        np.save(file, np.arange(12, dtype=dtype).reshape(3, 4) + 1)
        made.append(file.getvalue() + BETWEEN + names)
    return made


PACKETS = (
    b"#software: Lavf62\n#tb 0: 1/25\n#media_type 0: video\n#dimensions 0: 4x2\n#sar 0: 1/1\n"
    + b"".join(
        b"0, %10d, %10d, %8d, %8d, 0x0a1b2c3d%s\n" % (i, i, 2, 20 + i, b", F=0x0" * (i > 0)) for i in range(4)
    )
)
FRAMES = b"".join(b"decoded=%d 1/25\n" % i + b"sent=%d %d\n" % (i, i) * (i != 1) for i in range(4))
PICTURES = b"".join(b"P6\n4 2\n255\n" + bytes([10 * i]) * 24 for i in (0, 2, 3))
END = b"progress=end\n"


def ffmpeg_outputs() -> list[bytes]:
    every = FRAMES.replace(b"decoded=2", b"sent=1 1\ndecoded=2")
    pictures = b"".join(b"P6\n4 2\n255\n" + bytes([10 * i]) * 24 for i in range(4))
    return [
        BETWEEN.join([PACKETS + END, FRAMES + END, PICTURES]),
        BETWEEN.join([PACKETS + END, every + END, pictures]),
        BETWEEN.join([PACKETS.replace(b"0x0a", b"0x0b") + b"failed\n", FRAMES, PICTURES]),
    ]


TARGETS = {
    "unpickler": Target(
        "weights.pt",
        lambda path: converted(path, CONFIG),
        lambda path: ["convert", str(path), "out", "--config", str(CONFIG)],
        files("golden/torch/*.pt", "golden/torch/*.bin"),
        mutate.torch_file,
        (CONFIG,),
    ),
    "safetensors": Target(
        "weights.safetensors",
        lambda path: converted(path, CONFIG),
        lambda path: ["convert", str(path), "out", "--config", str(CONFIG)],
        files("golden/torch/*.safetensors"),
        mutate.safetensors,
        (CONFIG,),
    ),
    "tuned": Target(
        "tuned.safetensors",
        lambda path: load(KIT, tuned=path),
        lambda path: ["verify", str(KIT / "truth.safetensors"), "--weights", str(KIT), "--tuned", str(path)],
        tuned_parts,
        mutate.safetensors,
        (KIT,),
    ),
    "configuration": Target(
        "config.json",
        lambda path: converted(WEIGHTS, path),
        lambda path: ["convert", str(WEIGHTS), "out", "--config", str(path)],
        files("golden/torch/coca.json", "conformance/smallest/*/config.json"),
        mutate.json_file,
        (WEIGHTS,),
    ),
    "tokenizer": Target(
        "tokenizer.json",
        tokenized,
        lambda path: ["convert", str(completed(path)), "out"],
        tokenizers,
        mutate.json_file,
    ),
    "manifest": Target(
        "manifest.jsonl",
        manifest,
        lambda path: ["evaluate", str(path), "--no-cache"],
        lambda: [MANIFEST],
        mutate.json_lines,
    ),
    "annotations": Target(
        "annotations",
        annotations,
        lambda path: [
            "evaluate",
            str(path),
            "--no-cache",
            "--format",
            _format_of(path),
            "--videos",
            str(path.parent),
        ],
        annotation_files,
        mutate_annotations,
        write=write_annotations,
    ),
    "trace": Target(
        "trace.safetensors",
        traced,
        lambda path: ["verify", str(path), "--weights", str(KIT)],
        files(
            "conformance/smallest/as_released/truth.safetensors",
            "conformance/smallest/one_frame/truth.safetensors",
        ),
        mutate.safetensors,
        (KIT,),
    ),
    "vectors": Target(
        "vectors.npy",
        imported,
        None,  # `index` keeps what it has read of a file before it is refused
        vector_files,
        mutate_vectors,
        write=write_vectors,
    ),
    "image": Target(
        "image",
        pictured,
        None,  # what is no image goes to ffmpeg
        pictures,
        mutate.any_bytes,
    ),
    "ffmpeg": Target(
        "clip.mp4",
        decoded,
        None,  # tests/media/test_ffmpeg_failures.py has programs in place of ffmpeg
        ffmpeg_outputs,
        mutate_ffmpeg,
        write=write_ffmpeg,
    ),
}
