"""Adding words to a vocabulary of whole words: each gets an id, an embedding and an output column.

Byte-level vocabularies spell any word and need no new entries.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..model.config import Array, Config, check_int
from .config import parse_config
from .table import unnest

if TYPE_CHECKING:
    from ..media.tokenizer import Tokenizer
    from ..model.videococa import VideoCoCa

EMBEDDING, PROJECTION = "text.token_embedding.weight", "text_decoder.text_projection"  # [V, E], [E, V]
VARIANCE = 1e-9  # of the noise, relative to that of the known words


def add_words(model: VideoCoCa, words: Sequence[str], seed: int = 0) -> VideoCoCa:
    """Return the model with the words of `words` that its vocabulary lacks, in order of appearance.

    `words` may be words or whole texts. Ids, embeddings and logits of the known words stay the same. A model
    that knows all words, as one with a byte-level vocabulary does, is returned itself.

    Raises ValueError if the model has no tokenizer, or one that cannot learn whole words.
    """
    tokenizer, seed = model.require_tokenizer(), check_int("seed", seed, 0)
    new = _pieces(tokenizer, tokenizer.unknown(words))
    if not new:
        return model
    from . import with_tensors

    rng, known, tensors = np.random.default_rng(seed), _word_ids(tokenizer), unnest(model.params)
    embedding, projection = tensors[EMBEDDING], tensors[PROJECTION]
    rows = new_rows(embedding[known], len(new), rng)  # [k, E]
    columns = new_rows(projection.T[known], len(new), rng).T  # [E, k]
    config = _grown_config(model.config, len(new))
    return with_tensors(
        model,
        {EMBEDDING: np.vstack([embedding, rows]), PROJECTION: np.hstack([projection, columns])},
        config=config,
        tokenizer=_grown_tokenizer(tokenizer, new, config),
    )


def new_rows(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """Return initial rows [count, E] for new words: the mean of the known words' rows [K, E], with noise.

    A new word's logit is then the mean of the known words' logits and not the largest one, so captions stay
    as they are until the word is trained; a random row could have the largest logit anywhere. The noise tells
    new words apart. Its covariance is that of the rows times 1e-9, as in `resize_token_embeddings` of Hugging
    Face transformers. Source: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models",
    2021.
    """
    mean = rows.mean(axis=0)
    weights = rng.standard_normal((count, len(rows))) * np.sqrt(VARIANCE / len(rows))
    return (mean + weights @ (rows - mean)).astype(rows.dtype)


def _word_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of all words: of all tokens but the special ones."""
    vocabulary = tokenizer.vocabulary
    special = vocabulary.get_added_tokens_decoder().keys()
    return sorted(set(vocabulary.get_vocab().values()) - special) or sorted(vocabulary.get_vocab().values())


def _pieces(tokenizer: Tokenizer, words: Sequence[str]) -> list[str]:
    """Return words as the vocabulary would hold them: after its own normalization and splitting."""
    normalizer, splitter = tokenizer.vocabulary.normalizer, tokenizer.vocabulary.pre_tokenizer
    normal = [normalizer.normalize_str(word) if normalizer else word for word in words]
    pieces = [splitter.pre_tokenize_str(word) if splitter else [(word, ())] for word in normal]
    new = dict.fromkeys(piece for row in pieces for piece, _ in row)
    return [piece for piece in new if tokenizer.vocabulary.token_to_id(piece) is None]  # not <unk> itself


def _grown_config(config: Config, count: int) -> Config:
    """Return the configuration with `count` more ids."""
    source = copy.deepcopy(config.source)
    for section in ("text_cfg", "multimodal_cfg"):  # open_clip reads the former only
        source["model_cfg"][section]["vocab_size"] = config.text.vocab_size + count
    return parse_config(source)


def _grown_tokenizer(tokenizer: Tokenizer, words: Sequence[str], config: Config) -> Tokenizer:
    """Return the tokenizer with new words, whose ids follow the known ones."""
    from ..media.tokenizer import parse_tokenizer

    content = json.loads(tokenizer.json_text())
    if content["model"].get("type") != "WordLevel":
        raise ValueError(
            f"the vocabulary lacks {words[0]!r:.60} and is not one of whole words, so no word can be added: "
            "leave the words out"
        )
    first = config.text.vocab_size - len(words)
    content["model"]["vocab"] |= {word: first + i for i, word in enumerate(words)}
    text, clean = config.text, tokenizer.clean
    name = "the tokenizer with the new words"
    grown = parse_tokenizer(
        json.dumps(content), name, text.context_length, tokenizer.pad_id, clean, text.vocab_size
    )
    if unread := grown.unknown(words):
        raise ValueError(f"{name} does not read {unread[0]!r:.60}: leave it out")
    return grown
