"""Exercise 9: frame sampling, judged by the captions of clips that show their object briefly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ..media.sampling import sample_indices
from ..model.config import Array, describe
from ..model.videococa import VideoCoCa
from ..world import draw_clip, objects_named, sample_clip
from .comparison import called
from .hints import HINTS
from .learner import Written
from .result import Verdict, Wrong
from .running import RunningModel

CLIPS, FRAMES, BUDGET = 40, 32, 2
SHOWN = 3  # frames that show the object, ours: fewer than uniform sampling can count on
MARGIN = (
    CLIPS // 4
)  # captions more than with uniform sampling, ours: more than chance gives a choice that is blind


@dataclass(frozen=True)
class BriefClip:
    """A clip of the world's set "brief", cut to the middle `SHOWN` of the frames that show its object."""

    frames: Array  # uint8 [FRAMES, 64, 64, 3]
    visible: Array  # bool [FRAMES]
    names: frozenset[tuple[str, str]]  # the object's colour and shape


@cache
def brief_clips() -> tuple[BriefClip, ...]:
    """Return the clips, the same ones each time."""

    def make(seed: int) -> BriefClip:
        clip = sample_clip("brief", np.random.default_rng(seed), FRAMES)
        middle = np.flatnonzero(clip.visible[0]).mean()
        visible = np.abs(np.arange(FRAMES) - np.floor(middle)) <= SHOWN // 2
        return BriefClip(draw_clip(replace(clip, visible=visible[None])), visible, frozenset(clip.names))

    return tuple(map(make, range(CLIPS)))


def sample_frames(written: Written, running: RunningModel) -> Verdict:
    """Check `sample_frames`: more captions must be right than with uniform sampling."""
    chosen = [indices_of(written, clip) for clip in brief_clips()]
    uniform = [sample_indices(FRAMES, BUDGET)] * CLIPS
    own, theirs = correct(running.model, chosen), correct(running.model, uniform)
    counts = f"{own} of {CLIPS} captions name the object, {theirs} with uniform sampling."
    if own >= theirs + MARGIN:
        return Verdict(True, (counts,))
    shown = sum(clip.visible[i].any() for clip, i in zip(brief_clips(), chosen, strict=True))
    lines = (
        f"Given {CLIPS} clips of {FRAMES} frames, {SHOWN} of which show an object, choose {BUDGET} of each:",
        counts,
        f"{theirs + MARGIN} are asked for. In {shown} clips a frame of yours shows the object.",
    )
    return Verdict(False, lines, HINTS[hint_of(chosen)])


def indices_of(written: Written, clip: BriefClip) -> Array:
    """Return the indices that a learner's function chooses, [BUDGET]. Raises Wrong for anything else."""
    result = called(written, (clip.frames, BUDGET), f"a clip of {FRAMES} frames")
    says = f"Given {FRAMES} frames, {BUDGET} of which are asked for,"
    if result is None:
        raise Wrong(f"{says} it returns None.", hint="does it end with a return?")
    indices = np.asarray(result)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise Wrong(
            f"{says} it returns {describe(result)} of {indices.dtype}: return their indices, whole numbers.",
            hint="`.astype(int)` makes whole numbers of fractions" if indices.dtype.kind == "f" else "",
        )
    if len(indices) != BUDGET:
        raise Wrong(
            f"{says} it returns {len(indices)} indices: the budget is {BUDGET}, as for uniform sampling."
        )
    if indices.min() < 0 or indices.max() >= FRAMES:
        raise Wrong(f"{says} it returns {indices.tolist()}: indices go from 0 to {FRAMES - 1}.")
    return indices


def correct(model: VideoCoCa, chosen: list[Array]) -> int:
    """Return the number of clips whose caption names exactly the object, from the chosen frames alone."""
    captions = (model.caption(clip.frames[i], beams=1) for clip, i in zip(brief_clips(), chosen, strict=True))
    return sum(objects_named(text) == clip.names for text, clip in zip(captions, brief_clips(), strict=True))


def hint_of(chosen: list[Array]) -> str:
    """Return the name of the hint for a choice that is no better than uniform sampling."""
    if all(np.array_equal(np.sort(i), sample_indices(FRAMES, BUDGET)) for i in chosen):
        return "uniform"
    if np.mean([len(np.unique(i)) for i in chosen]) < BUDGET - 0.5:
        return "same_frame"
    return "empty_after"
