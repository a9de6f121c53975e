"""VideoCoCa: the stages in order, as one function and as one object. There is no maths here."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import decoder, generation, pooling, text, vision
from .config import (
    Array,
    Callback,
    Config,
    Params,
    Source,
    Time,
    Video,
    check_finite,
    check_video,
)
from .generation import DecodingOptions
from .hooks import record
from .kernels import threads_of_frames


def forward(pixels: Array, ids: Array, params: Params, config: Config) -> tuple[Video, Array, Array]:
    """Run VideoCoCa on pixels [T, 3, S, S] and ids [B, L] -> video, text latents [B, E], logits [B, L, V].

    The latents are compared with each other (contrastive), the logits predict the next token (generative).
    """
    video = encode_video(pixels, params, config, config.adapter)
    latents, features = text.encode_text(ids, params["text"], config.text)  # [B, E], [B, L, E]
    kv = decoder.cross_attention_kv(video.tokens[None], params["text_decoder"], config.decoder)
    logits = decoder.decode(features, kv, params["text_decoder"], config.decoder)  # [B, L, V]
    return video, latents, logits


def encode_video(
    pixels: Array, params: Params, config: Config, adapter: str, progress: Callback = None
) -> Video:
    """Encode pixels [T, 3, S, S]: the frozen image encoder, then the poolers over all frames' tokens."""
    return pool(frame_tokens(pixels, params, config, adapter, progress), params, config, adapter)


def frame_tokens(
    pixels: Array, params: Params, config: Config, adapter: str, progress: Callback = None
) -> Array:
    """Encode pixels [T, 3, S, S] -> frame tokens [T, N, W], each frame separately unless jointly."""
    encode = vision.encode_jointly if adapter == "joint" else vision.encode_frames
    return encode(pixels, params["visual"], config.vision, progress)


@threads_of_frames
def pool(tokens: Array, params: Params, config: Config, adapter: str) -> Video:
    """Pool frame tokens [T, N, W] to a latent [E] and caption tokens [Q', E], factorized [T, E]."""
    return Video(*pooling.pool_video(tokens, params, config, adapter))


class VideoCoCa:
    """A CoCa that takes videos, in the dtype of its weights. Made by `minivideococa.load`.

    `config` holds the dimensions, `params` the weights as a tree under open_clip's names. What needs files or
    words is passed in, see `minivideococa.checkpoint.assemble`: the tokenizer (None if the checkpoint has
    none), and the callables `to_frames`, `preprocess` and `require_memory_for`.

    Every method raises ValueError, one line that names the argument, if an array does not have the documented
    shape or kind of dtype, if numbers are not finite, if a request does not fit into memory, and if a text is
    given and the checkpoint has no tokenizer.
    """

    origin: dict[str, str] | None = None  # of the weights, as `checkpoint.folder.read_origin` returns it
    caveat: str | None = None  # what to know about the weights before latents are compared
    base: str = "a model in memory"  # the checkpoint that was loaded, for messages
    changed: frozenset[str] = frozenset()  # names of the tensors that are not that checkpoint's
    tuned_for: str | None = None  # the task that the model was finetuned for: "qa", "caption", ...

    def __init__(self, config: Config, params: Params, tokenizer: Any = None, **media: Any) -> None:
        self.config, self.params, self.tokenizer = config, params, tokenizer
        self.media = {"require_memory_for": lambda *_: None, **media}
        self.dtype = params["logit_scale"].dtype  # of the weights and of all results

    def __call__(self, pixels: Array, ids: Array) -> tuple[Video, Array, Array]:
        """Run `forward` on pixels [T, 3, S, S] and ids [B, L]: video, text latents, logits [B, L, V]."""
        return forward(
            self._pixels(pixels, self.config.adapter), self.config.check_ids(ids), self.params, self.config
        )

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied by before the softmax: the inverse temperature."""
        return float(np.exp(self.params["logit_scale"]))

    def preprocess(self, frames: Source) -> Array:
        """Turn frames uint8 [T, H, W, 3], or a list of frames, into pixels float32 [T, 3, S, S]."""
        frames = record("frames", self.media["to_frames"](frames, name="frames"))
        return self.media["preprocess"](frames, self.config.preprocess)

    def encode_frames(self, pixels: Array, progress: Callback = None) -> Array:
        """Encode each frame separately: pixels [T, 3, S, S] -> frame tokens [T, N, W]."""
        pixels = self._pixels(pixels, "attentional")
        tokens = vision.encode_frames(pixels, self.params["visual"], self.config.vision, progress)
        return check_finite("the frame tokens are", tokens)

    def pool(self, tokens: Array, adapter: str | None = None) -> Video:
        """Pool frame tokens [T, N, W] by CoCa's own poolers. adapter: as in `encode_video`."""
        adapter = self.config.check_adapter(adapter)
        tokens = self.config.check_frame_tokens(tokens, self.dtype)
        self._check_frames(len(tokens), adapter)
        return check_video(pool(tokens, self.params, self.config, adapter))

    def encode_video(self, pixels: Array, adapter: str | None = None, progress: Callback = None) -> Video:
        """Encode pixels [T, 3, S, S] by one of the `config.ADAPTERS` (VideoCoCa, section 3).

        The default is the one that the checkpoint was tuned with: "attentional" if it was not. Raises
        ValueError for "factorized" if the checkpoint has no such layers, and for more frames than positions.
        """
        adapter = self.config.check_adapter(adapter)
        pixels = self._pixels(pixels, adapter)
        return check_video(encode_video(pixels, self.params, self.config, adapter, progress))

    def encode(
        self,
        video: Video | Source,
        num_frames: int = 8,
        adapter: str | None = None,
        start: Time = None,
        end: Time = None,
        *,
        progress: Callback = None,
    ) -> Video:
        """Encode a path, frames uint8 [T, H, W, 3] or a list of frames; return an encoded video as it is.

        Of a path, `num_frames` frames between `start` and `end` are read, see `read_video`; `num_frames` is
        ignored for frames, and `adapter` too for an encoded video. Raises ValueError also for `start` or
        `end` without a path, and OSError as `read_video` does.
        """
        if isinstance(video, Video) and start is None and end is None:
            return self.config.check_latent(video, self.dtype)
        adapter = self.config.check_adapter(adapter)
        frames = self.media["to_frames"](video, num_frames, start, end)
        return self.encode_video(self.preprocess(frames), adapter, progress=progress)

    def tokenize(self, texts: str | Sequence[str] | Array) -> Array:
        """Return ids int64 [B, context_length]: start, tokens, end, then `pad_id`; long texts are cut."""
        return self.require_tokenizer().encode(texts)

    def require_tokenizer(self) -> Any:
        """Return the tokenizer. Raises ValueError if the checkpoint has none."""
        if self.tokenizer is None:
            raise ValueError("this checkpoint has no tokenizer.json: put one into its folder, or pass ids")
        return self.tokenizer

    def encode_text(self, texts: str | Sequence[str] | Array, progress: Callback = None) -> Array:
        """Encode texts, or ids [B, L] with L from 1 to context_length -> latents [B, E] of unit length.

        progress: called with the number of texts just encoded.
        """
        if not isinstance(texts, np.ndarray) or texts.dtype.kind in "UO":
            texts = self.tokenize(texts)
        ids, layers = self.config.check_ids(texts), self.params["text"]
        return check_finite("the latent is", text.encode_latents(ids, layers, self.config.text, progress))

    def decode(self, tokens: Array, ids: Array) -> Array:
        """Return logits [B, L, V] of the tokens after ids [B, L], for caption tokens [Q', E] or a batch."""
        ids, layers = self.config.check_ids(ids), self.params["text_decoder"]
        tokens = self.config.check_caption_tokens(tokens, self.dtype, batch=len(ids))
        kv = decoder.cross_attention_kv(tokens, layers, self.config.decoder)
        _, features = text.encode_text(ids, self.params["text"], self.config.text)
        return check_finite("the logits are", decoder.decode(features, kv, layers, self.config.decoder))

    def generate(
        self,
        tokens: Array,
        options: DecodingOptions | None = None,
        progress: Callback = None,
        **keywords: Any,
    ) -> Any:
        """Generate ids int64 [L] from caption tokens [Q', E]; a list of B from [B, Q', E].

        The ids begin with the start token and the prompt's ids, and end with the end token if one was
        produced. keywords: fields of `DecodingOptions`, in place of those of `options`. If the options ask
        for several candidates, each text is a list of them, best first.

        Raises ValueError also for lengths that leave no room, and for an option that makes no sense.
        """
        return generation.generate(self, tokens, DecodingOptions.create(options, **keywords), progress)

    def caption(self, video: Video | Source, *args: Any, progress: Callback = None, **keywords: Any) -> Any:
        """Generate a sentence about a video; with several candidates, a list of them.

        The arguments are those of `encode`, and as keywords also those of `generate`. progress: called with
        the number of tokens just generated.
        """
        names = ("num_frames", "adapter", "start", "end")
        encoding = {name: keywords.pop(name) for name in names if name in keywords}
        decode = self.require_tokenizer().decode
        texts = self.generate(self.encode(video, *args, **encoding).tokens, progress=progress, **keywords)
        return [decode(ids) for ids in texts] if isinstance(texts, list) else decode(texts)

    def _pixels(self, pixels: Array, adapter: str) -> Array:
        pixels = self.config.check_pixels(pixels, self.dtype)
        self._check_frames(len(pixels), adapter)
        return pixels

    def _check_frames(self, T: int, adapter: str) -> None:
        self.config.check_frames(T, adapter)
        need = self.config.bytes_to_encode(adapter, self.dtype)
        self.media["require_memory_for"](T, need, f"encoding {T} frames", "frames")
