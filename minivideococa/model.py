"""VideoCoCa as one object: weights, configuration and tokenizer, and the stages in order. No maths of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import decoder, generation, pooling, text, vision
from .ops import Params
from .trace import record, record_texts
from .transformer import no_past, reorder

if TYPE_CHECKING:
    from .checkpoint.config import Config
    from .tokenizer import Tokenizer

ADAPTERS = ("attentional", "mean", "joint")          # the ways to make a video of frames, see `encode_video`

Source = str | os.PathLike | np.ndarray              # the path of a video, or its frames uint8 [T, H, W, 3]


@dataclass(frozen=True)
class Video:
    """An encoded video: `latent` [E] of unit length, to compare with texts; `tokens` [Q', E], to caption from."""

    latent: np.ndarray
    tokens: np.ndarray


class VideoCoCa:
    """A CoCa that takes videos. Made by `minivideococa.load`; it computes in the dtype of its weights.

    `config` holds the configuration, `params` the weights as a tree under open_clip's names, `tokenizer` is None
    where the checkpoint has none. Every method raises ValueError, one line, for an array of another shape than it
    says, and where it needs words and there is no tokenizer.
    """

    origin: dict[str, str] | None = None     # where the weights came from, see `checkpoint.folder.read_record`
    caveat: str | None = None                # what to know of the weights before latents are compared

    def __init__(self, config: Config, params: Params, tokenizer: Tokenizer | None = None) -> None:
        self.config, self.params, self.tokenizer = config, params, tokenizer

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before a softmax over them."""
        return float(np.exp(self.params["logit_scale"]))

    def preprocess(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [T, H, W, 3] -> pixels float32 [T, 3, S, S]. Raises ValueError for anything else."""
        from .preprocess import preprocess
        return preprocess(record("frames", np.asarray(frames)), self.config.preprocess)

    def encode_frames(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [T, 3, S, S] -> frame tokens [T, N, W], each frame by itself."""
        return vision.encode_frames(self._pixels(pixels), self.params["visual"], self.config.vision)

    def pool(self, tokens: np.ndarray) -> Video:
        """Frame tokens [T, N, W] -> the video: all frames' tokens in one row, through CoCa's own poolers.

        VideoCoCa (arXiv 2212.04979), section 3.
        """
        tokens = self._floats("frame tokens", tokens, ("T", self.config.vision.tokens, self.config.vision.width))
        return Video(*pooling.pool(tokens, self.params["visual"], self.config.vision))

    def encode_video(self, pixels: np.ndarray, adapter: str = "attentional") -> Video:
        """Pixels [T, 3, S, S] -> the video, by one of the ways that VideoCoCa compares (arXiv 2212.04979, section 3).

        "attentional": each frame's tokens, all of them pooled at once; the paper's choice. "mean": each frame pooled by
        itself, then averaged. "joint": all frames through the encoder as one sequence, then pooled.
        Raises ValueError for another adapter.
        """
        if adapter == "attentional":
            return self.pool(self.encode_frames(pixels))
        visual, config = self.params["visual"], self.config.vision
        if adapter == "mean":
            return Video(*pooling.mean_pool(self.encode_frames(pixels), visual, config))
        if adapter == "joint":
            return self.pool(vision.encode_jointly(self._pixels(pixels), visual, config))
        raise ValueError(f"adapter is {adapter!r}: give {', '.join(ADAPTERS)}")

    def encode(self, video: Video | Source, num_frames: int = 8, adapter: str = "attentional") -> Video:
        """A path, frames uint8 [T, H, W, 3], or a video that is encoded already -> the video, as `encode_video` does it.

        A path is read as `num_frames` frames, spread evenly.
        """
        if isinstance(video, Video):
            return video
        if not isinstance(video, np.ndarray):
            from .video import read_video
            video = read_video(video, num_frames)
        return self.encode_video(self.preprocess(video), adapter)

    def tokenize(self, texts: str | Sequence[str]) -> np.ndarray:
        """Texts -> ids int64 [B, context_length]: start, tokens, end, then `pad_id`; long texts are cut."""
        return self._need_tokenizer().encode(texts)

    def encode_text(self, texts: str | Sequence[str] | np.ndarray) -> np.ndarray:
        """Texts, or ids [B, L] -> latents [B, E] of unit length."""
        return self._encode_ids(texts if isinstance(texts, np.ndarray) else self.tokenize(texts))[0]

    def decode(self, tokens: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Caption tokens [Q', E] or [B, Q', E] and ids [B, L] -> logits [B, L, V] of the token after each id."""
        batch = () if np.ndim(tokens) == 2 else (len(ids),)
        tokens = self._floats("caption tokens", tokens, (*batch, "Q'", self.config.embed_dim))
        features = self._encode_ids(ids)[1]
        seen = decoder.watch(tokens if batch else tokens[None], self.params["text_decoder"], self.config.decoder)
        return decoder.decode(features, seen, self.params["text_decoder"], self.config.decoder)

    def generate(
        self, tokens: np.ndarray, *, beams: int = 6, beam_groups: int | None = None, min_length: int = 5, max_length: int = 30,
        top_k: int | None = None, top_p: float | None = None, temperature: float | None = None, seed: int = 0,
        repetition_penalty: float = 1.0, diversity_penalty: float = 0.0, length_penalty: float = 1.0,
        textbook: bool = False, prompt: str = "", start_id: int | None = None, end_id: int | None = None,
        cache: bool = True,
    ) -> np.ndarray | list[np.ndarray]:
        """Caption tokens [Q', E] -> ids int64 [L]; [B, Q', E] -> a list of B.

        The ids begin with the start token and the prompt's tokens and end with the end token if one was produced.
        `max_length` counts both and is cut to the context length; `min_length` counts all ids before the end.
        Without a tokenizer the start and end ids are V - 2 and V - 1, CLIP's.

        With `top_k`, `top_p` or `temperature` the tokens are drawn at random, by `seed`; without, the best of `beams`
        texts is searched for, in `beam_groups` if a `diversity_penalty` shall make them differ; one beam is greedy.
        `beam_groups` are open_clip's 3 for its 6 beams, and 1 for any other number, unless given.
        `minivideococa.generation` says what each of them does, and what `textbook` changes: as it stands, the ids
        are those of open_clip's `generate`. `cache=False` computes everything anew for each token.

        Raises ValueError for lengths that leave no room and for values that make no sense.
        """
        if beam_groups is None:
            beam_groups = 3 if beams == 6 else 1
        batch = ("B",) if np.ndim(tokens) == 3 else ()
        tokens = self._floats("caption tokens", tokens, (*batch, "Q'", self.config.embed_dim))
        tokens = tokens if batch else tokens[None]
        start_id, end_id = self._start_and_end(start_id, end_id)
        begin, longest = np.array([start_id]), self.config.text.context_length
        if prompt:                           # `longest` ids survive the cut: a longer prompt fails the check below
            row = self._need_tokenizer().encode([prompt], context_length=longest + 2)[0]
            begin = np.append(begin, row[1:np.argmax(row == self.tokenizer.end_id)])     # without start, end, padding
        max_length = min(max_length, longest)
        if not max(min_length, len(begin)) < max_length:
            raise ValueError(f"max_length {max_length} must be more than min_length {min_length} and the prompt's "
                             f"{len(begin)} ids; this model's texts have at most {longest}")
        texts = generation.generate(
            self._next_logits(tokens, cache), np.tile(begin, (len(tokens), 1)), max_length=max_length,
            min_length=min_length, end_id=end_id, pad_id=self.config.pad_id, beams=beams, beam_groups=beam_groups,
            top_k=top_k, top_p=top_p, temperature=temperature, seed=seed, repetition_penalty=repetition_penalty,
            diversity_penalty=diversity_penalty, length_penalty=length_penalty, textbook=textbook)
        return texts if batch else texts[0]

    def caption(self, video: Video | Source, num_frames: int = 8, **how) -> str:
        """A sentence about the video. `how`: the keywords of `generate`."""
        return self._need_tokenizer().decode(self.generate(self.encode(video, num_frames).tokens, **how))

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
            return decoder.decode(features, seen, layers, self.config.decoder, decoder_past)[:, -1]

        def anew(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return decoder.decode(self._encode_ids(ids)[1], seen, layers, self.config.decoder)[:, -1]

        return cached if cache else anew

    def _encode_ids(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids [B, L] -> latents [B, E] and token features [B, L, E]."""
        ids, longest, vocabulary = np.asarray(ids), self.config.text.context_length, self.config.text.vocab_size
        if ids.ndim != 2 or len(ids) == 0 or not 0 < ids.shape[1] <= longest:
            raise ValueError(f"ids have shape {list(ids.shape)}, not [B, L] with L from 1 to {longest}")
        if ids.dtype.kind not in "iu":
            raise ValueError(f"ids are {ids.dtype}, not whole numbers: use model.tokenize(texts)")
        if ids.min() < 0 or ids.max() >= vocabulary:
            raise ValueError(f"ids reach from {ids.min()} to {ids.max()}: the vocabulary has 0 to {vocabulary - 1}")
        return text.encode_text(record_texts("ids", ids), self.params["text"], self.config.text)

    def _start_and_end(self, start_id: int | None, end_id: int | None) -> tuple[int, int]:
        """The ids that a text begins and ends with: as given, or the tokenizer's, or CLIP's."""
        vocabulary = self.config.text.vocab_size
        known = (self.tokenizer.start_id, self.tokenizer.end_id) if self.tokenizer else (vocabulary - 2, vocabulary - 1)
        start_id = known[0] if start_id is None else start_id
        end_id = known[1] if end_id is None else end_id
        if not (0 <= start_id < vocabulary and 0 <= end_id < vocabulary):
            raise ValueError(f"start_id {start_id} or end_id {end_id} is not in the vocabulary, "
                             f"0 to {vocabulary - 1}")
        return start_id, end_id

    def _pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [T, 3, S, S], recorded and in the weights' dtype."""
        size = self.config.vision.image_size
        return self._floats("pixels", record("pixels", np.asarray(pixels)), ("T", 3, size, size))

    def _floats(self, name: str, x: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
        """The array in the weights' dtype. Raises ValueError unless it has the shape; letters may be any number."""
        x = np.asarray(x)
        fits = x.ndim == len(shape) and all(n == m if isinstance(m, int) else n > 0
                                            for n, m in zip(x.shape, shape, strict=True))
        if not fits:
            raise ValueError(f"{name} have shape {list(x.shape)}, not [{', '.join(map(str, shape))}]")
        return x.astype(self.params["logit_scale"].dtype, copy=False)

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("this checkpoint has no tokenizer.json, so it knows no words: put one into its folder, "
                             "or pass ids")
        return self.tokenizer
