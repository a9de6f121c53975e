"""VideoCoCa on open_clip, traced by torch hooks: an example of tracing an existing implementation.

    python tests/conformance/open_clip_coca.py CHECKPOINT INPUTS.safetensors OUT.safetensors [--dtype float32]

The hooks are those of tests/oracle/reference.py. Needs the extra `oracle`: pip install -e ".[oracle]".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

import reference

DTYPES = ("float64", "float32", "float16", "bfloat16")


def trace(
    folder: str | os.PathLike[str], inputs: Mapping[str, np.ndarray | torch.Tensor], dtype: str = "float32"
) -> dict[str, torch.Tensor]:
    """Return every intermediate by name, with the weights of a checkpoint folder, in one of DTYPES.

    inputs: `frames` uint8 [T, H, W, 3], or else `pixels` [T, 3, S, S]; `ids` [L] or [B, L]; other names are
    ignored. Without a video or a text, only the intermediates that do not depend on it are returned. The
    inputs are part of the result, the pixels in the dtype.

    Raises FileNotFoundError if a file does not exist, ValueError if there are no inputs.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = reference.video_coca(config["model_cfg"], config.get("video_cfg"))
    model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    model.to(getattr(torch, dtype))

    given = {name: torch.as_tensor(inputs[name]) for name in ("frames", "pixels", "ids") if name in inputs}
    if not given:
        raise ValueError("no inputs: it needs frames, pixels or ids")
    ids = torch.atleast_2d(given.pop("ids")).long() if "ids" in given else None
    if "frames" in given:
        given["pixels"] = torch.from_numpy(reference.preprocess(given["frames"].numpy(), config))
    if "pixels" in given:
        given["pixels"] = given["pixels"].to(model.logit_scale.dtype)
    return given | reference.intermediates(model, given.get("pixels"), ids)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the trace of a VideoCoCa on open_clip.")
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("inputs", type=Path, help="safetensors file with frames or pixels, ids, or both")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    args = parser.parse_args()
    try:
        tensors = trace(args.checkpoint, load_file(args.inputs), args.dtype)
    except (ValueError, FileNotFoundError, SafetensorError) as error:
        parser.exit(2, f"{args.inputs} on {args.checkpoint}: {error}\n")
    part = args.out.with_name(args.out.name + ".part")
    try:
        save_file(tensors, part)
        os.replace(part, args.out)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
