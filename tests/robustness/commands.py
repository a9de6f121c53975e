"""The commands that write, and those that read videos, with the arguments of a small run of each.

In the arguments, {inputs} is the folder that `make_inputs` fills, and {out} what is written.
"""

import os
from pathlib import Path

import numpy as np
from clips import H264, make
from PIL import Image

from minivideococa import cli
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, write_manifest

PICTURES = 16
QUICK = "--frames 1 --beams 1"
TUNE = "--cache {inputs}/cache --frames 1 --batch 2 --steps 1"

# The name of what is written -> the arguments. The first word of a case is the command.
WRITING = {
    "caption": ("out.srt", f"{{inputs}}/film.mp4 --every 1s --no-cache {QUICK} -o {{out}}"),
    "check": ("out.py", "--new {out}"),
    "convert": ("out", "{weights} {out}"),
    "convert to open_clip": ("out", "{weights} {out} --to open_clip"),
    "demo": ("out.html", "--html {out}"),
    "evaluate": ("out.jsonl", "{inputs}/manifest.jsonl --no-cache --frames 1 --tasks classify -o {out}"),
    "explain as html": ("out.html", f"{{inputs}}/pair.gif {QUICK} -o {{out}}"),
    "explain as gif": ("out.gif", f"{{inputs}}/pair.gif {QUICK} -o {{out}}"),
    "explain as png": ("out.png", f"{{inputs}}/pair.gif {QUICK} -o {{out}}"),
    "finetune": ("out", f"{{inputs}}/manifest.jsonl -o {{out}} {TUNE} --whole"),
    "finetune with a plot": ("out.png", f"{{inputs}}/manifest.jsonl -o {{inputs}}/run {TUNE} --plot {{out}}"),
    "index": ("out", "{inputs}/pictures -o {out} --frames 1"),
    "index from npy": ("out", "{inputs}/vectors.npy -o {out} --frames 1"),
    "index to npy": ("out.npy", "{inputs}/library -o {out}"),
    "index to faiss": ("out.faiss", "{inputs}/library -o {out}"),
    "index to parquet": ("out.parquet", "{inputs}/library -o {out}"),
    "shapes": ("out", "{out} --count 2"),
    "shapes with questions": ("out", "{out} --count 2 --questions train"),
    "trace": ("out.safetensors", "{inputs}/pair.gif --frames 1 --text ring -o {out}"),
    "verify": ("out.html", "{inputs}/trace.safetensors --html {out}"),
}
NOTHING_WRITTEN = {"answer", "cache", "classify", "retrieve"}  # but for the cache
ONE_FILE = {name for name, (out, _) in WRITING.items() if "." in out}

READING = {
    "answer": "{film} there --no-cache --frames 1",
    "caption": f"{{film}} --no-cache {QUICK}",
    "caption stretches": f"{{film}} --every 1s --no-cache {QUICK} -o {{out}}.srt",
    "classify": "{film} --labels ring,star --no-cache --frames 1",
    "evaluate": "{inputs}/film.jsonl --no-cache --frames 1 --tasks classify -o {out}.jsonl",
    "explain": f"{{film}} {QUICK} -o {{out}}.png",
    "finetune": f"{{inputs}}/film.jsonl -o {{out}} {TUNE}",
    "index": "{inputs}/film.jsonl -o {out} --frames 1",
    "retrieve": "ring {film} --no-cache --frames 1",
    "retrieve by video": "{film} --index {inputs}/library --no-cache",
    "trace": "{film} --frames 1 --text ring -o {out}.safetensors",
}
NOTHING_READ = {"cache", "check", "convert", "demo", "shapes", "verify"}


def arguments_of(name: str, template: str, inputs: Path, out: Path) -> list[str]:
    """Return the arguments of a command, without progress bars and messages."""
    places = {"inputs": inputs, "out": out, "film": inputs / "film.mp4", "weights": embedded_checkpoint()}
    words = [word.format(**places) for word in template.split()]
    return [name.split()[0], *words, "--quiet"]


def writing(name: str, inputs: Path, folder: Path) -> tuple[list[str], Path]:
    """Return the arguments of a command that writes, and what it writes in the folder."""
    out, template = WRITING[name]
    return arguments_of(name, template, inputs, folder / out), folder / out


def make_inputs(folder: Path) -> Path:
    """Make what the commands read, and return the folder."""
    os.symlink(CLIPS / "pair.gif", folder / "pair.gif")
    make(folder / "film.mp4", *H264, source="testsrc2=s=64x48:r=25:d=2")
    for i in range(PICTURES):
        (folder / "pictures" / str(i)).mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / str(i) / "1.png")
    clips = [(CLIPS / "single.gif", "a green crescent"), (CLIPS / "pair.gif", "a red ring")]
    write_manifest(folder / "manifest.jsonl", [Entry(clip, (text,), (text,)) for clip, text in clips])
    film = Entry(folder / "film.mp4", ("a red ring",), ("a red ring",))
    write_manifest(folder / "film.jsonl", [film])
    for name, out in {
        "trace": "trace.safetensors",
        "index": "library",
        "index to npy": "vectors.npy",
        "finetune": "run",
    }.items():
        template = WRITING[name][1].removesuffix(" --whole")
        assert cli.main(arguments_of(name, template, folder, folder / out)) == 0
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder and below it, hidden ones included, by their paths."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
