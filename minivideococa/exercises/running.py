"""The running model: the embedded checkpoint on a bundled clip, with a learner's function in one place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ..checkpoint import load
from ..demo import CLIPS
from ..media.video import read_video
from ..model.config import Array
from ..model.hooks import Activations, Patch, replace_operations, trace
from ..model.videococa import VideoCoCa
from ..verify import Report, verify
from .learner import Written
from .result import Verdict, Wrong

CLIP = "brief.gif"  # its object is in two of eight frames: mean pooling loses it


class RunningModel:
    """The embedded checkpoint, and what it computes from a clip by itself."""

    @cached_property
    def model(self) -> VideoCoCa:
        """The model in float32."""
        return load()

    @cached_property
    def exact(self) -> VideoCoCa:
        """The model in float64, the reference of `verify`."""
        return load(dtype="float64")

    @cached_property
    def pixels(self) -> Array:
        """The clip, float32 [T, 3, S, S]."""
        with warnings.catch_warnings():  # a GIF stores equal frames once
            warnings.filterwarnings("ignore", ".*different frames? at the", UserWarning)
            frames = read_video(CLIPS / CLIP, num_frames=8)
        return self.model.preprocess(frames)

    @cached_property
    def frame_tokens(self) -> Array:
        """The clip's tokens, float32 [T, N, W]."""
        return self.model.encode_frames(self.pixels)

    @cached_property
    def caption_tokens(self) -> Array:
        """The clip's caption tokens, float32 [Q', E]."""
        return self.model.pool(self.frame_tokens).tokens

    @cached_property
    def caption(self) -> str:
        """The clip's caption, by greedy decoding."""
        return self._caption()

    @cached_property
    def ids(self) -> Array:
        """The caption's ids and that of a longer text, int64 [2, L], padded differently."""
        return self.model.tokenize([self.caption, "a large red ring is above a small green diamond"])

    def _caption(self) -> str:
        video = self.model.encode_video(self.pixels)
        return str(self.model.caption(video, beams=1))

    def judge(
        self,
        mistake: Verdict | None,
        operations: Mapping[str, Callable[[Any], Any]] | None = None,
        patch: Mapping[str, Patch] | None = None,
    ) -> Verdict:
        """Run the model with a learner's function in place of an operation, or of an activation's own.

        mistake: what is known to be wrong with it; the model then shows what becomes of that. Return whether
        the caption survives, and the first tensor that `verify` finds wrong.
        """
        kept: dict[str, Array] = {}
        patches = {name: _kept(kept, name, function) for name, function in (patch or {}).items()}
        inputs = self.pixels, self.ids  # before: the caption among them is the model's own
        try:
            with replace_operations(operations or {}):
                activations, caption = self._run(inputs, patches)
        except Wrong:
            if mistake:
                return mistake
            raise
        return self._verdict(mistake, caption, verify(self.exact, activations | kept, "float32"))

    def _run(
        self, inputs: tuple[Array, Array], patches: Mapping[str, Patch]
    ) -> tuple[Activations, str | None]:
        """Return the activations of pixels and ids, and the clip's caption if the logits are finite.

        With a patch, even {}, all frames are computed in this thread: Ctrl-C ends a learner's endless loop.
        """
        with np.errstate(all="ignore"):
            with trace(patches) as activations:
                self.model(*inputs)
            if not np.isfinite(activations["logits"]).all():
                return activations, None
            with trace(patches):
                return activations, self._caption()

    def _verdict(self, mistake: Verdict | None, caption: str | None, report: Report) -> Verdict:
        tensor = report.first_divergence.name if report.first_divergence else None
        if report.ok and not mistake and caption == self.caption:
            says = f"The caption is still {caption!r}, and all {len(report.compared)} tensors agree."
            return Verdict(True, (says,), caption=caption)
        lines = mistake.lines if mistake else ()
        hint = (mistake.hint if mistake else "") or (report.mistake.description if report.mistake else "")
        return Verdict(False, (*lines, self.says(caption), *_divergence(report)), hint, caption, tensor)

    def says(self, caption: str | None, expected: str = "") -> str:
        """Say whether the caption has survived. expected: the right one, if it is another than `caption`."""
        expected = expected or self.caption
        if caption == expected:
            return f"The caption survives, {caption!r}: this mistake does not show in it."
        if caption is None:
            return "The model writes no caption: its logits are not finite."
        return f"The caption becomes {caption!r}, instead of {expected!r}."


def _kept(kept: dict[str, Array], name: str, function: Patch) -> Patch:
    """Return a patch that keeps what it returns: a trace records the model's own."""

    def patch(x: Array) -> Array:
        kept[name] = function(x)
        return kept[name]

    return patch


def _divergence(report: Report) -> list[str]:
    """Say which tensor is wrong first, as `verify` does."""
    row = report.first_divergence
    if row is None:
        return ["No tensor of the model is wrong."]
    off = f"it is off by {row.local_error:.1e}" if np.isfinite(row.local_error) else "it is not finite"
    explained = f"float32 rounding explains {row.local_allowed:.1e}"
    return [f"First wrong tensor: {row.name}. Computed from {report.computed_from}, {off}; {explained}."]


def in_place_of(ours: Array, written: Written, *args: Any) -> Array:
    """Return a learner's result in place of the array `ours`. Raises Wrong if its shape is another."""
    x = np.asarray(written(*args))
    if x.shape != ours.shape or x.dtype.kind not in "biuf":
        raise Wrong(
            f"In the model, called with {written.arguments(args)}, the result has the wrong shape.",
            f"Expected:  {list(ours.shape)}",
            f"Came:      {list(x.shape)}",
            hint="it is right for the small example, so a number of it must stand in your code as a constant",
        )
    return x.astype(ours.dtype)
