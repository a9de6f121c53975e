"""Record the tensors of a port under the names of a trace, in PyTorch, Flax or any Python function.

    with torch_hooks(port, open_clip_names(port)) as recorded:
        port(pixels, ids, output_labels=False)
    report = verify(model, recorded)
    assert report.ok, report

A table says which module gives which tensor: name of a trace -> path of a module, whose output it is; or
`Input` or `Output`. `tables` holds the tables of two known ports. PyTorch and JAX are not imported here.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter, UserDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from ..model.config import Array
from ..model.hooks import NAME
from ..output import resolve_output
from .files import write_trace

OF_FRAMES = ("frames", "pixels", "vision.", "pool.attended")  # names whose first axis may be the frames
EXAMPLES = ["vision.embed", "vision.block.0", "pool.latent", "text.block.0", "decoder.block.0.self"]


def first(x: Any) -> Any:
    """Return the first of several results, for example of attention and its weights; a tensor as it is."""
    return x[0] if isinstance(x, (tuple, list)) else x


def first_argument(*args: Any, **kwargs: Any) -> Any:
    """Return the first argument, by position or else by name."""
    return next(iter([*args, *kwargs.values()]))


@dataclass(frozen=True)
class Output:
    """A function of the output of a module. module: its path, "" for the whole port."""

    module: str
    function: Callable[[Any], Any] = first


@dataclass(frozen=True)
class Input:
    """A function of the arguments that a module is called with. module: its path, "" for the whole port."""

    module: str
    function: Callable[..., Any] = first_argument


Names = Mapping[str, str | Input | Output]


class Recording(UserDict[str, Array]):
    """Tensors by the names of a trace. Assigning a tensor of any library copies it into a NumPy array.

    dtypes: name -> the dtype that the tensor had. bfloat16, which NumPy does not have, is held as float32.
    """

    def __init__(self) -> None:
        self.dtypes: dict[str, str] = {}
        super().__init__()

    def __setitem__(self, name: str, x: Any) -> None:
        check_name(name)
        self.data[name], self.dtypes[name] = as_array(name, x)

    def append(self, name: str, x: Any) -> None:
        """Add a further batch of frames to a tensor. Without this tensor, it is the first one."""
        before = self.data.get(name)
        self[name] = x
        if before is not None:
            self.data[name] = np.concatenate([before, self.data[name]])


@contextmanager
def recording(output: str | os.PathLike[str] | None = None) -> Iterator[Recording]:
    """Record tensors by assignment, and write them to `output` when the `with` block ends.

        with recording("port.safetensors") as recorded:
            recorded["pixels"] = pixels
            recorded["vision.embed"] = x = embed(pixels)

    Raises ValueError for a name that no trace has, and for what is no tensor.
    """
    if output is not None:
        resolve_output(output)  # before the work
    recorded = Recording()
    yield recorded
    if output is not None:
        write_trace(output, recorded)


@contextmanager
def torch_hooks(
    module: Any,
    names: Names,
    *,
    join_frames: bool = False,
    videos: int = 1,
    video: int = 0,
    output: str | os.PathLike[str] | None = None,
) -> Iterator[Recording]:
    """Record the inputs and outputs of PyTorch modules inside the `with` block, then remove all hooks.

    module : the port. Nothing in it changes.
    names : name of a trace -> path of a module as in `named_modules`, an `Input` or an `Output`.
    join_frames : the port encodes the frames in several batches: join them. Otherwise the last call of a
        module counts, as when a text is generated step by step.
    videos, video : the port runs on a batch of this many videos, with one text each; which of them to record.
        The first axis is that of the batch, or of its frames: [B T, N, W].
    output : file to write the trace to, when the block ends.

    More tensors can be assigned inside the block: `recorded["pool.latent"] = port.encode_image(pixels)`.

    Raises ValueError for a name that no trace has, a module that the port does not have, and what is no
    tensor. Warns (UserWarning) of tensors that were not computed in the block, and of frames that came in
    several batches and were not joined.
    """
    calls: Counter[str] = Counter()

    def take(name: str, x: Any) -> None:
        calls[name] += 1
        if videos != 1:
            x = one_video(name, x, videos, video)
        (recorded.append if join_frames and name.startswith(OF_FRAMES) else recorded.__setitem__)(name, x)

    with recording(output) as recorded, ExitStack() as hooks:
        for name, place in names.items():
            check_name(name)
            place = Output(place) if isinstance(place, str) else place
            hooks.callback(add_hook(module, name, place, take).remove)
        yield recorded
    if absent := [name for name in names if name not in recorded]:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        warnings.warn(f"not computed inside the block: {', '.join(absent[:3])}{more}", stacklevel=3)
    again = [name for name in calls if name.startswith(OF_FRAMES) and calls[name] > 1]
    if again and not join_frames:
        name = again[0]
        warnings.warn(
            f"{name} was computed {calls[name]} times and the last time counts: for batches of frames, pass "
            "join_frames=True",
            stacklevel=3,
        )


def add_hook(port: Any, name: str, place: Input | Output, take: Callable[[str, Any], None]) -> Any:
    """Register the hook that takes one tensor, and return its handle."""
    try:
        module = port.get_submodule(place.module)
    except AttributeError:
        near = get_close_matches(place.module, [path for path, _ in port.named_modules()], 1)
        hint = f": {near[0]}?" if near else ": see its named_modules()"
        raise ValueError(f"{name}: {type(port).__name__} has no module {place.module!r}{hint}") from None
    if isinstance(place, Output):
        return module.register_forward_hook(lambda _, args, output: take(name, place.function(output)))

    def of_input(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        take(name, place.function(*args, **(kwargs or {})))

    try:
        return module.register_forward_pre_hook(of_input, with_kwargs=True)
    except TypeError:  # before PyTorch 2.0: of arguments by position alone
        return module.register_forward_pre_hook(of_input)


def flax_intermediates(
    intermediates: Mapping[str, Any], names: Mapping[str, str | Output], *, join_frames: bool = False
) -> Recording:
    """Return what a Flax module stored: by `capture_intermediates`, or by `sow`, as a nested dict.

        _, state = port.apply(variables, pixels, ids, capture_intermediates=True)
        recorded = flax_intermediates(state["intermediates"], {"vision.embed": "visual.ln_pre", ...})

    names : name of a trace -> path in the dict, with full stops, or an `Output`. "visual.ln_pre" is what the
        method `__call__` returned; "visual.attend" also what was sown under this name. The last call counts.
    join_frames : see `torch_hooks`.

    Raises ValueError for a name that no trace has, a path that leads to no tensor, and what is no tensor.
    """
    recorded = Recording()
    for name, place in names.items():
        check_name(name)
        place = Output(place) if isinstance(place, str) else place
        of_calls = stored_at(intermediates, name, place.module)
        for x in of_calls if join_frames and name.startswith(OF_FRAMES) else of_calls[-1:]:
            recorded.append(name, place.function(x))
    return recorded


def stored_at(tree: Any, name: str, path: str) -> tuple[Any, ...]:
    """Return what is stored at a path, for each call of the module."""
    for key in filter(None, path.split(".")):
        if not isinstance(tree, Mapping) or key not in tree:
            there = f": there are {', '.join(map(str, tree))}" if isinstance(tree, Mapping) else ""
            raise ValueError(f"{name}: nothing is stored at {path!r}, there is no {key!r}{there}")
        tree = tree[key]
    if isinstance(tree, Mapping):
        if "__call__" not in tree:
            raise ValueError(f"{name}: {path!r} is no tensor: go on with one of {', '.join(map(str, tree))}")
        tree = tree["__call__"]
    return tree if isinstance(tree, tuple) else (tree,)


def one_video(name: str, x: Any, videos: int, video: int) -> Any:
    """Return the part of one video: [B, ...] -> [1, ...] and [B T, ...] -> [T, ...]."""
    if not 0 <= video < videos:
        raise ValueError(f"video is {video}: give 0 to {videos - 1}, of {videos} videos")
    if len(x) % videos:
        raise ValueError(f"{name} is {list(x.shape)}: its first axis is no multiple of {videos} videos")
    items = len(x) // videos
    return x[video * items : (video + 1) * items]


def check_name(name: str) -> None:
    """Raise ValueError unless a trace may have this name."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        near = get_close_matches(str(name), EXAMPLES, 1, 0.5)
        raise ValueError(
            f"{name!r} is not the name of an activation, such as {near[0] if near else EXAMPLES[0]}"
        )


def as_array(name: str, x: Any) -> tuple[Array, str]:
    """Return a copy of a tensor of any library, and the dtype that it had. bfloat16 becomes float32."""
    try:
        if hasattr(x, "detach"):  # PyTorch
            x = x.detach().cpu()
            dtype = str(x.dtype).removeprefix("torch.")
            return np.array((x.float() if dtype == "bfloat16" else x).numpy(), order="C"), dtype
        array = np.array(x, order="C")
    except Exception as error:
        hint = "; return it from the jitted function instead" if "Tracer" in type(x).__name__ else ""
        reason = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"{name}: {type(x).__name__} cannot be copied to NumPy: {reason}{hint}") from error
    dtype = str(array.dtype)
    if dtype == "bfloat16":  # of the package that JAX uses
        return array.astype(np.float32), dtype
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: {type(x).__name__} is no tensor: give a function that returns one")
    return array, dtype
