"""VideoCoCa as one object: weights, configuration and tokenizer, and the stages in order. No maths of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import resources
from ..media.sampling import frame_count
from . import arguments, decoder, generation, pooling, text, vision
from .hooks import given, record, record_texts
from .kernels import threads_for
from .ops import Params
from .transformer import no_past, reorder

if TYPE_CHECKING:
    from ..media.tokenizer import Tokenizer
    from ..model.config import Config

ADAPTERS = ("attentional", "mean", "joint")  # the ways to make a video of frames, see `encode_video`

# The path of a video; its frames uint8 [T, H, W, 3]; or a list of frames [H, W, 3] or of PIL images of one size
Source = str | os.PathLike | np.ndarray | list | tuple

NOT_FINITE = "not finite: check the weights and the input for NaN and infinity"


@dataclass(frozen=True)
class Video:
    """An encoded video: `latent` [E] of unit length, to compare with texts; `tokens` [Q', E], to caption from."""

    latent: np.ndarray
    tokens: np.ndarray


class VideoCoCa:
    """A CoCa that takes videos. Made by `minivideococa.load`; it computes in the dtype of its weights.

    `config` holds the configuration, `params` the weights as a tree under open_clip's names, `tokenizer` is None
    where the checkpoint has none. Every method raises ValueError, one line that names the argument, for an array of
    another shape or kind than it says, for numbers that are not finite, for a request that does not fit into memory,
    and where it needs words and there is no tokenizer.
    """

    origin: dict[str, str] | None = (
        None  # where the weights came from, as `checkpoint.folder.read_record` says; {} if unknown
    )
    caveat: str | None = None  # what to know of the weights before latents are compared

    def __init__(self, config: Config, params: Params, tokenizer: Tokenizer | None = None) -> None:
        self.config, self.params, self.tokenizer = config, params, tokenizer

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before a softmax over them."""
        return float(np.exp(self.params["logit_scale"]))

    def preprocess(self, frames: np.ndarray | Sequence) -> np.ndarray:
        """Frames uint8 [T, H, W, 3], or a list of frames or PIL images -> pixels float32 [T, 3, S, S]."""
        from ..media.preprocess import as_frames, preprocess

        return preprocess(record("frames", as_frames("frames", frames)), self.config.preprocess)

    def encode_frames(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [T, 3, S, S] -> frame tokens [T, N, W], each frame by itself."""
        pixels = self._pixels(pixels)
        self.require_memory_for_frames(len(pixels))
        tokens = vision.encode_frames(pixels, self.params["visual"], self.config.vision)
        return self._finite(f"the frame tokens are {NOT_FINITE}", tokens)

    def pool(self, tokens: np.ndarray) -> Video:
        """Frame tokens [T, N, W] -> the video: all frames' tokens in one row, through CoCa's own poolers.

        VideoCoCa (arXiv 2212.04979), section 3.
        """
        tokens = self._floats(
            "frame tokens", tokens, ("T", self.config.vision.tokens, self.config.vision.width)
        )
        self.require_memory_for_frames(len(tokens))
        return self._pool(pooling.pool, tokens)

    def encode_video(self, pixels: np.ndarray, adapter: str = "attentional") -> Video:
        """Pixels [T, 3, S, S] -> the video, by one of the ways that VideoCoCa compares (arXiv 2212.04979, section 3).

        "attentional": each frame's tokens, all of them pooled at once; the paper's choice. "mean": each frame pooled by
        itself, then averaged. "joint": all frames through the encoder as one sequence, then pooled.
        Raises ValueError for another adapter.
        """
        check_adapter(adapter)
        pixels = self._pixels(pixels)
        self.require_memory_for_frames(len(pixels), adapter)
        encode = vision.encode_jointly if adapter == "joint" else vision.encode_frames
        tokens = encode(pixels, self.params["visual"], self.config.vision)
        return self._pool(pooling.mean_pool if adapter == "mean" else pooling.pool, tokens)

    def encode(
        self,
        video: Video | Source,
        num_frames: int = 8,
        adapter: str = "attentional",
        start: float | str | None = None,
        end: float | str | None = None,
    ) -> Video:
        """A path, frames uint8 [T, H, W, 3], a list of frames or PIL images, or an encoded video -> the video.

        The frames are encoded as `encode_video` does it. A path is read as `num_frames` frames between `start` and
        `end`, see `read_video`. `num_frames` is ignored for frames, and `adapter` too for an encoded video.
        Raises ValueError, also for `start` or `end` without a path, and OSError as `read_video`.
        """
        check_adapter(adapter)
        num_frames = frame_count(num_frames)
        part = {name: time for name, time in {"start": start, "end": end}.items() if time is not None}
        if isinstance(video, str | os.PathLike):
            from ..media.video import read_video

            self.require_memory_for_frames(num_frames, adapter)
            video = read_video(video, num_frames, **part)
        elif part:
            raise ValueError(f"{' and '.join(part)} can only be given with a path; slice the frames instead")
        elif isinstance(video, Video):
            self._floats("the latent", video.latent, (self.config.embed_dim,))
            return video
        from ..media.preprocess import as_frames

        return self.encode_video(self.preprocess(as_frames("video", video)), adapter)

    def tokenize(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts -> ids int64 [B, context_length]: start, tokens, end, then `pad_id`; long texts are cut."""
        return self._need_tokenizer().encode(texts)

    def encode_text(self, texts: str | Sequence[str] | np.ndarray) -> np.ndarray:
        """Texts, or integer ids [B, L] with L from 1 to context_length -> latents [B, E] of unit length."""
        if not isinstance(texts, np.ndarray) or texts.dtype.kind in "UO":  # no ids
            texts = self.tokenize(texts if isinstance(texts, str) else arguments.texts("texts", texts))
        latents = self._encode_ids(texts)[0]
        return self._finite(f"the latent is {NOT_FINITE}", latents)

    def decode(self, tokens: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Caption tokens [Q', E] or [B, Q', E] and ids [B, L] -> logits [B, L, V] of the token after each id."""
        tokens, ids = arguments.array("caption tokens", tokens), self._ids(ids)
        batch = () if tokens.ndim == 2 else (len(ids),)
        tokens = self._floats("caption tokens", tokens, (*batch, "Q'", self.config.embed_dim))
        features = self._encode_ids(ids)[1]
        seen = decoder.watch(
            tokens if batch else tokens[None], self.params["text_decoder"], self.config.decoder
        )
        logits = decoder.decode(features, seen, self.params["text_decoder"], self.config.decoder)
        return self._finite(f"the logits are {NOT_FINITE}", logits)

    def generate(
        self,
        tokens: np.ndarray,
        *,
        beams: int = 6,
        beam_groups: int | None = None,
        min_length: int = 5,
        max_length: int = 30,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        seed: int = 0,
        repetition_penalty: float = 1.0,
        diversity_penalty: float = 0.0,
        length_penalty: float = 1.0,
        textbook: bool = False,
        prompt: str = "",
        start_id: int | None = None,
        end_id: int | None = None,
        cache: bool = True,
    ) -> np.ndarray | list[np.ndarray]:
        """Caption tokens [Q', E] -> ids int64 [L]; [B, Q', E] -> a list of B.

        The ids begin with the start token and the prompt's tokens and end with the end token if one was produced.
        `max_length` counts both and is cut to the context length; `min_length` counts all ids before the end.
        Without a tokenizer the start and end ids are V - 2 and V - 1, CLIP's.

        With `top_k`, `top_p` or `temperature` the tokens are drawn at random, by `seed`; without, the best of `beams`
        texts is searched for, in `beam_groups` if a `diversity_penalty` shall make them differ; one beam is greedy.
        `beam_groups` are open_clip's 3 for its 6 beams, and 1 for any other number, unless given.
        `minivideococa.model.generation` says what each of them does, and what `textbook` changes: as it stands, the ids
        are those of open_clip's `generate`. `cache=False` computes everything anew for each token.

        Raises ValueError for lengths that leave no room, for values that make no sense, for more than 1000 beams, and
        for more than there is memory for.
        """
        if beam_groups is None:
            beam_groups = 3 if isinstance(beams, int | np.integer) and beams == 6 else 1
        how = generation.check(
            beams=beams,
            beam_groups=beam_groups,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            seed=seed,
            repetition_penalty=repetition_penalty,
            diversity_penalty=diversity_penalty,
            length_penalty=length_penalty,
            textbook=textbook,
        )
        cache, prompt = arguments.flag("cache", cache), arguments.text("prompt", prompt)
        min_length, max_length = (
            arguments.whole("min_length", min_length, 0),
            arguments.whole("max_length", max_length),
        )
        tokens = arguments.array("caption tokens", tokens)
        batch = ("B",) if tokens.ndim == 3 else ()
        tokens = self._floats("caption tokens", tokens, (*batch, "Q'", self.config.embed_dim))
        tokens = tokens if batch else tokens[None]
        start_id, end_id = self._start_and_end(start_id, end_id)
        begin, longest = np.array([start_id]), self.config.text.context_length
        if prompt:  # `longest` ids survive the cut: a longer prompt fails the check below
            row = self._need_tokenizer().encode([prompt], context_length=longest + 2)[0]
            begin = np.append(
                begin, row[1 : np.argmax(row == self.tokenizer.end_id)]
            )  # without start, end, padding
        max_length = min(max_length, longest)
        if not max(min_length, len(begin)) < max_length:
            raise ValueError(
                f"max_length {max_length} must be more than min_length {min_length} and the prompt's "
                f"{len(begin)} ids; this model's texts have at most {longest}"
            )
        self._require_memory_for_texts(len(tokens), len(begin), max_length, cache, how)
        texts = generation.generate(
            self._next_logits(tokens, cache),
            np.tile(begin, (len(tokens), 1)),
            max_length=max_length,
            min_length=min_length,
            end_id=end_id,
            pad_id=self.config.pad_id,
            **how,
        )
        return texts if batch else texts[0]

    def caption(
        self,
        video: Video | Source,
        num_frames: int = 8,
        adapter: str = "attentional",
        start: float | str | None = None,
        end: float | str | None = None,
        **how,
    ) -> str:
        """A sentence about the video. The first keywords are those of `encode`; `how`: the keywords of `generate`."""
        tokenizer = self._need_tokenizer()
        return tokenizer.decode(
            self.generate(self.encode(video, num_frames, adapter, start, end).tokens, **how)
        )

    def _next_logits(self, tokens: np.ndarray, cache: bool) -> generation.NextLogits:
        """Caption tokens [B, Q', E] -> what `generation` asks for each token's logits, R / B rows of ids a video."""
        words, layers = self.params["text"], self.params["text_decoder"]
        seen = decoder.watch(tokens, layers, self.config.decoder)
        text_past, decoder_past = no_past(words["transformer"]["resblocks"]), no_past(layers["resblocks"])

        def cached(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
            reorder(text_past, rows)
            reorder(decoder_past, rows)
            record_texts("ids", ids)
            features = text.next_features(ids, words, self.config.text, text_past)
            logits = decoder.decode(features, seen, layers, self.config.decoder, decoder_past)[:, -1]
            return self._finite(f"the logits are {NOT_FINITE}", logits)

        def anew(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
            logits = decoder.decode(self._encode_ids(ids)[1], seen, layers, self.config.decoder)[:, -1]
            return self._finite(f"the logits are {NOT_FINITE}", logits)

        return cached if cache else anew

    def _pool(self, pooler: Callable, tokens: np.ndarray) -> Video:
        """Frame tokens [T, N, W] -> the video, under the rule of threads that the frames were encoded by."""
        with threads_for(len(tokens)):
            video = Video(*pooler(tokens, self.params["visual"], self.config.vision))
        self._finite(f"the latent is {NOT_FINITE}", video.latent)
        self._finite(f"the caption tokens are {NOT_FINITE}", video.tokens)
        return video

    def _ids(self, ids: np.ndarray) -> np.ndarray:
        """Ids [B, L] of the vocabulary."""
        ids = arguments.array("ids", ids)
        longest, vocabulary = self.config.text.context_length, self.config.text.vocab_size
        if ids.ndim != 2 or len(ids) == 0 or not 0 < ids.shape[1] <= longest:
            raise ValueError(f"ids have shape {list(ids.shape)}, not [B, L] with L from 1 to {longest}")
        if ids.dtype.kind not in "iu":
            raise ValueError(f"ids are {ids.dtype}, not whole numbers: use model.tokenize(texts)")
        if ids.min() < 0 or ids.max() >= vocabulary:
            raise ValueError(
                f"ids reach from {ids.min()} to {ids.max()}: the vocabulary has 0 to {vocabulary - 1}"
            )
        return ids

    def _encode_ids(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids [B, L] -> latents [B, E] and token features [B, L, E]."""
        return text.encode_text(record_texts("ids", self._ids(ids)), self.params["text"], self.config.text)

    def _start_and_end(self, start_id: int | None, end_id: int | None) -> tuple[int, int]:
        """The ids that a text begins and ends with: as given, or the tokenizer's, or CLIP's."""
        vocabulary = self.config.text.vocab_size
        known = (
            (self.tokenizer.start_id, self.tokenizer.end_id)
            if self.tokenizer
            else (vocabulary - 2, vocabulary - 1)
        )
        start_id = known[0] if start_id is None else start_id
        end_id = known[1] if end_id is None else end_id
        return (
            arguments.whole("start_id", start_id, 0, vocabulary - 1),
            arguments.whole("end_id", end_id, 0, vocabulary - 1),
        )

    def _pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [T, 3, S, S], recorded and in the weights' dtype."""
        size = self.config.vision.image_size
        return self._floats(
            "pixels", record("pixels", arguments.array("pixels", pixels)), ("T", 3, size, size)
        )

    def _floats(self, name: str, x: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
        """The array in the weights' dtype. Raises ValueError unless it is of floats, finite and of this shape."""
        x = arguments.floats(name, x, shape, self.params["logit_scale"].dtype)
        return self._finite(f"{name} hold numbers that are not finite in {x.dtype}", x)

    def _finite(self, message: str, x: np.ndarray) -> np.ndarray:
        """The array, checked; not while a trace gives tensors to go on from: they are another implementation's."""
        return x if given() else arguments.finite(message, x)

    def require_memory_for_frames(self, T: int, adapter: str = "attentional") -> None:
        """Raise ValueError if encoding T frames does not fit into memory."""
        c, size = self.config.vision, self.params["logit_scale"].dtype.itemsize

        def need(T: int) -> int:
            M = T * c.tokens
            encoding = 2 * M * c.width + 3 * T * c.image_size**2  # tokens, once in pieces; pixels
            # norm, keys, values, scores; and jointly every token attends to all others
            pooling = M * (3 * c.width + 3 * self.config.embed_dim + c.pooler_heads * c.queries)
            joint = M * (4 * c.width + c.mlp_width + c.heads * M) if adapter == "joint" else 0
            return size * (encoding + max(pooling, joint))

        resources.require_memory_for(T, need, f"encoding {T} frames", "frames")

    def _require_memory_for_texts(
        self, videos: int, begun: int, max_length: int, cache: bool, how: dict
    ) -> None:
        """Raise ValueError if generating so many texts does not fit into memory."""
        c, size = self.config, self.params["logit_scale"].dtype.itemsize
        layers = c.text.layers + c.decoder.layers
        positions = begun if cache else max_length  # at most, in one step
        one = 3 * layers * max_length * c.embed_dim * cache  # keys and values, and copies of some
        keys = max(c.vision.queries, max_length)  # that a position attends to
        one += positions * (c.text.vocab_size + 16 * c.embed_dim + 2 * c.decoder.heads * keys)
        one += 8 * c.text.vocab_size  # logits, as the rules change them
        rows = generation.rows_per_text(**how)
        what = f"generating {videos} texts" if rows == 1 else f"beam search with {videos} x {rows} beams"
        unit = "texts" if rows == 1 else "beams in all"
        resources.require_memory_for(videos * rows, lambda rows: size * rows * one, what, unit)

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(
                "this checkpoint has no tokenizer.json, so it knows no words: put one into its folder, "
                "or pass ids"
            )
        return self.tokenizer


def check_adapter(adapter: str) -> None:
    """Raise ValueError unless it is one of `ADAPTERS`."""
    if not isinstance(adapter, str) or adapter not in ADAPTERS:
        raise ValueError(f"adapter is {arguments.shown(adapter)}: give {', '.join(ADAPTERS)}")
