"""A trace to verify, before anything is computed: what it holds, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np

from ..model.config import Array
from ..model.hooks import trace
from ..model.videococa import VideoCoCa
from ..terminal import printable
from .changes import rebuilt
from .layout import squeeze_to
from .names import DETAIL, Arrays
from .precision import EPSILON, coarsest

INPUTS = {"frames": 4, "pixels": 4, "ids": 2}  # and their number of axes


@dataclass(frozen=True)
class Trace:
    """A trace to verify: its inputs, the tensors to compare, the stored dtypes, and unknown names.

    pixels: those that the runs start from, see `with_pixels`; None without a video. stored: all of them.
    """

    inputs: Arrays
    found: Arrays
    dtypes: Mapping[str, str]
    unknown: list[str]
    stored: Mapping[str, Array]
    pixels: Array | None = None


def default_dtype(tested: Trace) -> str:
    """Return the dtype that a trace is judged by unless another is given, see `verify`."""
    at_least = "float32" if "frames" in tested.inputs and "pixels" not in tested.found else "float64"
    stored = [tested.dtypes[name] for name in tested.found if name != "pixels"]
    return coarsest([at_least, *(stored or [tested.dtypes["pixels"]])])


def with_pixels(model: VideoCoCa, tested: Trace) -> Trace:
    """Return the trace with the pixels that the runs start from: its input, or computed from the frames.

    The frames become [T, S, S, 3], resized and cropped once. Preprocessing them again gives the same pixels,
    and with another mean, standard deviation or order of channels what the original frames would.
    """
    if "frames" not in tested.inputs:
        return replace(tested, pixels=tested.inputs.get("pixels"))
    levels = replace(model.config.preprocess, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    unnormalized = rebuilt(model, model.params, replace(model.config, preprocess=levels))
    with trace():  # whose activations are discarded
        frames = unnormalized.preprocess(tested.inputs["frames"]).round().astype(np.uint8)
        frames = frames.transpose(0, 2, 3, 1)
        pixels = model.preprocess(frames)
    return replace(tested, inputs=tested.inputs | {"frames": frames}, pixels=pixels)


def similar_names(unknown: list[str], missing: list[str], names: list[str]) -> dict[str, str]:
    """Return unknown name -> the most similar name of a trace, if there is one; missing ones come first."""
    similar = {
        name: get_close_matches(name, missing, 1) or get_close_matches(name, names, 1)
        for name in unknown
        if not DETAIL.fullmatch(name)
    }
    return {name: matches[0] for name, matches in similar.items() if matches}


def sort(tensors: Mapping[str, Array], dtypes: Mapping[str, str], names: list[str]) -> Trace:
    """Sort the tensors of a trace into inputs, tensors to compare, and unknown names.

    Pixels are compared if there are frames, and else an input.

    Raises ValueError if there is nothing to compare, or if an input is missing or malformed.
    """
    unknown = [name for name in dtypes if name not in names]
    inputs = {name: squeeze_to(tensors[name], axes) for name, axes in INPUTS.items() if name in tensors}
    if "frames" in inputs:
        inputs.pop("pixels", None)
    found = {name: tensors[name] for name in tensors if name not in inputs and name not in unknown}
    if not found:
        raise ValueError(nothing_to_compare(list(dtypes), unknown, names))
    check_dtypes(inputs, found, dtypes)
    check_inputs(inputs, found)
    check_axes(inputs, found)
    return Trace(inputs, found, dtypes, unknown, tensors)


def nothing_to_compare(stored: list[str], unknown: list[str], names: list[str]) -> str:
    """Return the message for a trace without activations."""
    nearest = similar_names(unknown, [], names)
    shown = [printable(name) + (f" ({nearest[name]}?)" if name in nearest else "") for name in stored[:8]]
    where = f"among {', '.join(shown)}" if shown else "in it"
    return f"nothing to compare {where}: give the inputs, and tensors under the names of minivideococa trace"


def check_dtypes(inputs: Arrays, found: Arrays, dtypes: Mapping[str, str]) -> None:
    """Raise ValueError for a tensor, pixels included, that is not floating point."""
    for name in found.keys() | inputs.keys() & {"pixels"}:
        if dtypes[name] not in EPSILON:
            raise ValueError(
                f"{name} is {dtypes[name]}: give floating point: float64, float32, float16 or bfloat16"
            )


def check_inputs(inputs: Arrays, found: Arrays) -> None:
    """Raise ValueError if an input is missing that a tensor depends on, or if pixels are not finite."""
    if "pixels" in inputs and not np.isfinite(inputs["pixels"]).all():
        raise ValueError("pixels, the input that the other tensors depend on, are not finite")
    for name in found:
        needs_video = not name.startswith(("text.", "decoder.block.0.self"))
        if needs_video and not inputs.keys() & {"frames", "pixels"}:
            raise ValueError(
                f"{name} depends on the video: add the frames or pixels that it was computed from"
            )
        if name.startswith(("text.", "decoder.", "logits")) and "ids" not in inputs:
            raise ValueError(f"{name} depends on the text: add the ids that it was computed from")


def check_axes(inputs: Arrays, found: Arrays) -> None:
    """Raise ValueError for inputs with recognizable axes that are not those of a trace."""
    for name in inputs.keys() & {"frames", "pixels"}:
        x = inputs[name]
        if x.ndim == 5:
            raise ValueError(
                f"{name} are {list(x.shape)}: a batch axis of {len(x)}; a trace holds one video: write one "
                f"of them"
            )
        if name == "pixels" and x.ndim == 4 and x.shape[1] != 3 and 3 in x.shape:
            order = {3: "channels last", 0: "channels first"}.get(
                3 if x.shape[3] == 3 else 0 if x.shape[0] == 3 else 2, "channels in the middle"
            )
            raise ValueError(f"pixels are {list(x.shape)}: {order}; transpose them to [T, 3, S, S]")
    if "ids" not in inputs:
        return
    ids = inputs["ids"]
    if ids.dtype.kind == "f" and np.array_equal(ids, np.round(ids)):
        raise ValueError(f"ids are {ids.dtype}, though whole numbers: write them as int64")
    texts = [x for name, x in found.items() if name.startswith("text.")]
    one_column = ids.ndim == 2 and ids.shape[1] == 1 < len(ids)
    if one_column and any(x.shape[:1] != ids.shape[:1] for x in texts):
        raise ValueError(
            f"ids are {list(ids.shape)}: sequence first; write one text as [L], several as [B, L]"
        )
