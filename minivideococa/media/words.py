"""A vocabulary of whole words without the `tokenizers` library, which a browser does not have.

`WordLevel` reads one simple kind of `tokenizer.json`, that of the embedded checkpoint: words split at white
space, special tokens, and characters that count as a space. It has the part of the interface of
`tokenizers.Tokenizer` that `tokenizer.py` uses, and gives the same ids. With the library installed nothing
imports this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

# Unicode's White_Space, as in the library. Python's \s also matches the separators U+001C to U+001F.
_WORD = re.compile("[^\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_PLAIN_TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
NEEDED = "without this package only a plain vocabulary of whole words is read: pip install tokenizers"


@dataclass(frozen=True)
class Encoding:
    """The tokens of a text, their ids, and where they stand in the text: (start, stop) of each."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


class WordLevel:
    """A vocabulary of whole words. Made by `from_str`."""

    def __init__(self, content: dict[str, Any]) -> None:
        model, special = (
            content["model"],
            {entry["content"]: entry["id"] for entry in content["added_tokens"]},
        )
        self.model = SimpleNamespace(unk_token=model["unk_token"])
        self._content, self._words = content, dict(model["vocab"])
        self._ids = self._words | special
        self._tokens = {id: token for token, id in self._ids.items()}
        spaces = content["normalizer"]
        self._spaces = re.compile(spaces["pattern"]["Regex"]) if spaces else None
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) if special else "(?!)")

    @classmethod
    def from_str(cls, text: str) -> WordLevel:
        """Return the vocabulary in the text of a `tokenizer.json`. Raises ValueError for any other kind."""
        content = json.loads(text)
        if not _is_plain(content):
            raise ValueError(NEEDED)
        return cls(content)

    def to_str(self, pretty: bool = False) -> str:
        """Return the text of a `tokenizer.json` from which an equal vocabulary is read."""
        return json.dumps(self._content, indent=2 if pretty else None, ensure_ascii=False)

    def encode(self, text: str, add_special_tokens: bool = False) -> Encoding:
        """Split a text into tokens: special tokens wherever they stand, and words; others are unknown."""
        spans, end = [], 0
        for found in self._special.finditer(text):
            spans += [*self._words_in(text, end, found.start()), found.span()]
            end = found.end()
        spans += self._words_in(text, end, len(text))
        words = [text[start:stop] for start, stop in spans]
        tokens = [word if word in self._ids else self.model.unk_token for word in words]
        return Encoding([self._ids[token] for token in tokens], tokens, spans)

    def _words_in(self, text: str, start: int, stop: int) -> list[tuple[int, int]]:
        """Return where the words of text[start:stop] stand. A replaced character keeps its length."""
        part = text[start:stop]
        part = self._spaces.sub(" ", part) if self._spaces else part
        return [(start + found.start(), start + found.end()) for found in _WORD.finditer(part)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the tokens of ids, joined by spaces."""
        return " ".join(self._tokens[id] for id in ids)

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token, None if there is none."""
        return self._ids.get(token)

    def id_to_token(self, id: int) -> str | None:
        """Return the token of an id, None if there is none."""
        return self._tokens.get(id)

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Return the id of each token."""
        return dict(self._ids if with_added_tokens else self._words)

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Return the number of tokens."""
        return len(self.get_vocab(with_added_tokens))

    def no_padding(self) -> None:
        """Do nothing: this vocabulary never pads."""

    def no_truncation(self) -> None:
        """Do nothing: this vocabulary never cuts."""


def _is_plain(content: Any) -> bool:
    """Return whether a `tokenizer.json` is of the kind that `WordLevel` reads."""
    if not isinstance(content, dict) or content.get("model", {}).get("type") != "WordLevel":
        return False
    unused = ("truncation", "padding", "post_processor", "decoder")
    spaces = content.get("normalizer")
    return (
        not any(content.get(key) for key in unused)
        and content.get("pre_tokenizer") == {"type": "WhitespaceSplit"}
        and (spaces is None or _is_one_character(spaces))
        and all(_PLAIN_TOKEN.items() <= entry.items() for entry in content["added_tokens"])
        and content["model"]["unk_token"] in content["model"]["vocab"]
    )


def _is_one_character(normalizer: dict[str, Any]) -> bool:
    """Return whether a normalizer replaces one of a set of characters by a space, so that offsets stay."""
    pattern = normalizer.get("pattern", {}).get("Regex", "")
    simple = re.fullmatch(r"\[[^\^\[\]\\&-]+\]", pattern)
    return bool(simple) and normalizer.get("type") == "Replace" and normalizer.get("content") == " "
