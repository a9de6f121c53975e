"""The explanation of one caption or answer: arrays with named axes, and methods that draw them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..model.config import Array, Video

if TYPE_CHECKING:
    from PIL import Image

LIKELIEST = 5  # words per step


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where each word of a caption or an answer came from. Made by `explain`.

    L words: the generated tokens, without a prompt or a question. If the text was ended by the end token,
    that is the last one, and its word is "". T frames of N tokens, the class token first, then rows x cols
    patches. H heads of the pooler, Q' caption tokens; those of the factorized adapter are one per frame.
    """

    frames: NDArray[np.uint8]  # [T, S, S, 3], as the model sees them: resized and cropped
    times: tuple[float, ...] | None  # of the frames, in seconds from the clip's first; None: not known
    text: str  # the caption, or the answer
    question: str | None
    adapter: str
    formula: str  # of the maps, see `relevance.FORMULAS`
    words: tuple[str, ...]  # [L]; a token that is a part of a word stands for itself
    probabilities: Array  # [L], of the words; by the model, before any logits processor
    likeliest: tuple[
        tuple[tuple[str, float], ...], ...
    ]  # L times the likeliest words and their probabilities
    patch_size: int  # pixels of the frames, width and height; what lies beyond rows x cols is not seen
    maps: Array  # [L, T, rows, cols], not negative; a word's sums to 1 less the share of the class tokens
    frame_weights: Array  # [L, T], how much each frame counted, class token included; a word's sum to 1
    pooler: Array  # [H, Q', T, N], attention from the caption tokens to the frame tokens
    latent: Array  # [H, T, N], attention from the latent's query to the frame tokens
    cross: Array  # [layers, H, L, Q'], the decoder's cross-attention from each word to the caption tokens
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # of the arrays, by name, from the frames to the logits
    video: Video  # the encoded video, for other tasks

    def page(self) -> str:
        """Return a page for the browser: one HTML file that needs no network."""
        from .page import page

        return page([self])

    def figure(self) -> Image.Image:
        """Draw a strip of frames for each word, with its map over the frames."""
        from .drawing import figure

        return figure(self)

    def animation(self) -> list[Image.Image]:
        """Draw the text as it is written, one word after another, while the maps move over the frames."""
        from .drawing import animation

        return animation(self)

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, for a notebook."""
        style = "width: 100%; height: 720px; border: 0"
        return f'<iframe title="Explanation" style="{style}" srcdoc="{escape(self.page())}"></iframe>'
