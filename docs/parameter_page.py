"""Write minivideococa/checkpoint/PARAMETERS.md: the formulas, the constants, the lines that use each tensor.

python docs/parameter_page.py            # tests/checkpoint/test_parameter_page.py checks it

The formulas are those of docs/parameters.md.in. The constants come from the configurations, the lines from a
run: a tree of parameters that notes which line of `model/` takes which tensor.
"""

from __future__ import annotations

import inspect
import json
import linecache
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import costs
import numpy as np

import minivideococa as mvc
from minivideococa.checkpoint.config import DECODER, FACTORIZED, PREPROCESS, TEXT, VIDEO, VISION, parse_config
from minivideococa.checkpoint.config import MODEL as MODEL_FIELDS
from minivideococa.checkpoint.table import parameter_shapes
from minivideococa.model.ops import layer_norm
from minivideococa.model.videococa import VideoCoCa

MODEL = Path(mvc.__file__).parent / "model"
TEMPLATE = Path(__file__).parent / "parameters.md.in"
PAGE = MODEL.parent / "checkpoint" / "PARAMETERS.md"
SHARED = ("ops.py", "transformer.py")  # what all stages use
MACHINERY = ("hooks.py", "kernels.py")  # only passes arguments on
# `in_projection` takes the rows of q, k or v, and its caller projects; the constructor looks at a dtype
PLUMBING = ("in_projection", "VideoCoCa.__init__")
TITLES = {
    "vision": "The image encoder",
    "pooling": "The attentional pooler",
    "text": "The unimodal decoder",
    "decoder": "The multimodal decoder",
}
# A configuration in which every size is another number, and the letters that these numbers stand for
LETTERS_CONFIG = {
    "embed_dim": 52,
    "vision_cfg": {
        "image_size": 35,
        "patch_size": 5,
        "width": 44,
        "head_width": 4,
        "layers": 1,
        "attentional_pool": True,
        "attn_pooler_queries": 11,
        "attn_pooler_heads": 4,
    },
    "text_cfg": {
        "context_length": 19,
        "vocab_size": 97,
        "width": 52,
        "heads": 4,
        "layers": 1,
        "embed_cls": True,
    },
    "multimodal_cfg": {"context_length": 19, "width": 52, "heads": 4, "layers": 1},
}
LETTERS = {3: "3", 5: "P", 50: "N", 44: "W", 11: "Q", 52: "E", 20: "L + 1", 97: "V"}
KEYS = {  # of config.json: what they mean
    "embed_dim": "E",
    "quick_gelu": "QuickGELU in all MLPs",
    "pad_id": "an id that ends a text that is generated greedily",
    "vision_cfg.image_size": "S",
    "vision_cfg.patch_size": "P",
    "vision_cfg.width": "W",
    "vision_cfg.layers": "blocks of the image encoder",
    "vision_cfg.head_width": "D of the image encoder: H = W / D",
    "vision_cfg.mlp_ratio": "F / W of the image encoder",
    "vision_cfg.no_ln_pre": "there is no `ln_pre`",
    "vision_cfg.attentional_pool": 'the form of the pooler: true, "parallel" or "cascade"',
    "vision_cfg.attn_pooler_queries": "Q",
    "vision_cfg.attn_pooler_heads": "H of the pooler, and of the second one",
    "text_cfg.context_length": "L; 76 in the released files",
    "text_cfg.vocab_size": "V",
    "text_cfg.layers": "blocks of the unimodal decoder",
    "text_cfg.heads": "H of the unimodal decoder",
    "text_cfg.mlp_ratio": "F / E of the unimodal decoder",
    "text_cfg.pad_id": "the padding id of the mask",
    "text_cfg.embed_cls": "there is a class token; always true",
    "text_cfg.correct_cls_mask": "the mask is not shifted",
    "multimodal_cfg.layers": "self blocks, and cross blocks, of the multimodal decoder",
    "multimodal_cfg.heads": "H of the multimodal decoder; F is 4 E",
    "preprocess_cfg.resize_mode": '"shortest", "longest" or "squash"',
    "preprocess_cfg.interpolation": '"bicubic" or "bilinear"',
    "preprocess_cfg.fill_color": 'of the borders of "longest"',
    "preprocess_cfg.mean": "mean of the pixels, by channel",
    "preprocess_cfg.std": "their standard deviation",
    "video_cfg.adapter": '"attentional" or "factorized"; the walkthrough has "mean" and "joint"',
    "video_cfg.factorized.layers": "blocks of the factorized adapter",
    "video_cfg.factorized.positions": "the most frames, where frames have positions",
    "video_cfg.factorized.heads": "H of the factorized adapter's blocks; F is 4 E",
}
REQUIRED = ("embed_dim", "attentional_pool", "embed_cls")
LETTERS |= {n * size: f"{n} {LETTERS[size]}" for n in (3, 4) for size in (44, 52)}


class Line(NamedTuple):
    """A line of code that uses a tensor."""

    file: str
    number: int
    function: str

    def link(self) -> str:
        return f"[{self.file}:{self.number}](../model/{self.file}#L{self.number}) `{self.function}`"

    def code(self) -> str:
        return linecache.getline(str(MODEL / self.file), self.number).strip()


Use = tuple[Line, Line]  # the line, and the line of the stage


class Noted(Mapping[str, Any]):
    """A branch of a tree of parameters that notes the lines that take its arrays."""

    def __init__(self, branch: Mapping[str, Any], uses: dict[str, list[Use]], prefix: str = "") -> None:
        self.branch, self.uses, self.prefix = branch, uses, prefix

    def __getitem__(self, key: str) -> Any:
        node, name = self.branch[key], f"{self.prefix}{key}"
        if isinstance(node, Mapping):
            return Noted(node, self.uses, f"{name}.")
        if isinstance(node, list):
            return [Noted(child, self.uses, f"{name}.i.") for child in node]
        use = find_use(sys._getframe(1))
        if use and use not in self.uses.setdefault(name, []):
            self.uses[name].append(use)
        return node

    def __iter__(self) -> Iterator[str]:
        return iter(self.branch)

    def __len__(self) -> int:
        return len(self.branch)


def find_use(frame: FrameType | None) -> Use | None:
    """Return the line of `model/` that runs, and the first one up the stack that belongs to a stage."""
    lines = []
    while frame:
        path, function = Path(frame.f_code.co_filename), frame.f_code.co_qualname.partition(".<locals>")[0]
        if path.parent == MODEL and path.name not in MACHINERY and function not in PLUMBING:
            lines.append(Line(path.name, frame.f_lineno, function))
        frame = frame.f_back
    stages = [line for line in lines if line.file not in SHARED]
    return (lines[0], stages[0]) if stages else None


def uses_of_a_run() -> dict[str, list[Use]]:
    """Run the embedded checkpoint once, and return the uses of every tensor; layers are numbered i."""
    model, uses = mvc.load(), {}
    noted = VideoCoCa(model.config, Noted(model.params, uses))
    size = model.config.vision.image_size
    noted(np.zeros((1, 3, size, size), np.float32), np.array([[1, 2]]))
    _ = noted.logit_scale
    return uses


def released_shapes() -> dict[str, list[str]]:
    """Return the shapes of every tensor in B/32 and L/14 as text, one row for all layers."""
    rows: dict[str, list[str]] = {}
    configs = [config for name, config in costs.models().items() if name != "tiny"]
    for config in configs:
        layers: dict[str, list[tuple[int, ...]]] = {}
        for name, shape in parameter_shapes(config).items():
            layers.setdefault(re.sub(r"\.\d+\.", ".i.", name), []).append(shape)
        for name, shapes in layers.items():
            times = f"{len(shapes)} x " if ".i." in name else ""
            rows.setdefault(name, []).append(f"{times}{list(shapes[0])}")
    return rows


def shapes_in_letters() -> dict[str, str]:
    """Return the shape of every tensor in letters; layers are numbered i."""
    return {
        re.sub(r"\.\d+\.", ".i.", name): f"[{', '.join(LETTERS[size] for size in shape)}]"
        for name, shape in parameter_shapes(parse_config(LETTERS_CONFIG)).items()
    }


def constants() -> str:
    """Return the table of constants of the released models."""
    rows = [line.split(" | ") for line in costs.table("dimensions").splitlines()]
    return "\n".join(" | ".join([title, *values[1:]]) for title, *values in rows)  # without those of tiny


def keys() -> str:
    """Return the table of the keys of config.json, with their defaults."""
    sections = {"": MODEL_FIELDS, "vision_cfg": VISION, "text_cfg": TEXT}
    sections |= {"multimodal_cfg": DECODER, "preprocess_cfg": PREPROCESS}
    sections |= {"video_cfg": VIDEO, "video_cfg.factorized": FACTORIZED}
    lines = ["| key | | default |", "|---|---|---|"]
    for path, meaning in KEYS.items():
        section, _, key = path.rpartition(".")
        default = sections[section][key].default
        shown = "must be there" if key in REQUIRED else json.dumps(default)
        place = "" if section.startswith(("preprocess_cfg", "video_cfg")) else "model_cfg."
        lines.append(f"| `{place}{path}` | {meaning} | {shown} |")
    return "\n".join(lines)


def page() -> str:
    """Return the content of PARAMETERS.md."""
    eps = f"{inspect.signature(layer_norm).parameters['eps'].default:g}"
    text = TEMPLATE.read_text(encoding="utf-8").replace("<!-- eps -->", eps)
    parts = {"<!-- constants -->": constants(), "<!-- keys -->": keys(), "<!-- tensors -->\n": tables()}
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def tables() -> str:
    """Return a table of tensors for each stage."""
    uses, rows, letters = uses_of_a_run(), released_shapes(), shapes_in_letters()
    head = "| tensor | shape | B/32 | L/14 | used in | line |\n|---|---|---|---|---|---|\n"
    sections = {TITLES[stage]: beginnings for stage, beginnings in costs.STAGES.items()}
    parts = []
    for title, beginnings in {**sections, "Comparing": ("logit_scale",)}.items():
        lines = [
            row(name, [letters[name], *rows[name]], uses[name])
            for name in rows
            if name.startswith(beginnings)
        ]
        parts.append(f"### {title}\n\n{head}" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def row(name: str, shapes: list[str], uses: list[Use]) -> str:
    """Return a tensor's row of the table."""
    uses = sorted(uses)
    used = [line.link() if line == stage else f"{line.link()} for {stage.link()}" for line, stage in uses]
    code = dict.fromkeys(f"`{line.code().replace('|', '&#124;')}`" for line, _ in uses)
    cells = (f"`{name}`", *shapes, "<br>".join(used), "<br>".join(code))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
