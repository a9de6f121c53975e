"""The tokenizer: from texts to token ids and back.

A text is cleaned, split into tokens by the vocabulary of a `tokenizer.json` (CLIP's byte-level BPE is
included in the package), enclosed by the start and the end token, and padded. With CLIP's vocabulary the ids
equal those of open_clip's `SimpleTokenizer`, except for the two limitations stated in `clean_text` and
`clip_tokenizer_json`.
"""

from __future__ import annotations

import functools
import gzip
import html
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.entities import html5
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..model.config import check_array, check_int, check_text, check_texts

if TYPE_CHECKING:
    import tokenizers

START, END = "<start_of_text>", "<end_of_text>"


# Cleaning ---------------------------------------------------------------------------------------------------


def clean_text(text: str, mode: str) -> str:
    """Clean a text as open_clip does before tokenization.

    Mode "lower" applies ftfy's repairs (curly quotes, ligatures, full-width forms, control characters,
    terminal escapes, surrogates, HTML entities; NFC), unescapes HTML twice, collapses whitespace and converts
    to lower case. Mode "whitespace" does the same without lower case. One of ftfy's repairs is not
    implemented: mojibake ("cafÃ©" for "café") is not repaired. Raises ValueError for another mode.
    """
    if mode not in ("lower", "whitespace"):
        raise ValueError(f'tokenizer: clean must be "lower" or "whitespace", not {mode!r}')
    lines, entities = [], True
    for line in text.split("\n"):
        entities = entities and "<" not in line  # ftfy keeps entities after a "<": it may be HTML
        lines.append(_repair(line, entities))
    text = html.unescape(html.unescape("\n".join(lines)))
    text = " ".join(text.split())
    return text.lower() if mode == "lower" else text


# C1 controls are decoded as Windows-1252, as in browsers. Line breaks and U+3000 are collapsed as whitespace.
_C1 = {c: bytes([c]).decode("cp1252", "ignore") or chr(c) for c in range(0x80, 0xA0)}
_QUOTES = dict.fromkeys([0x2BC, *range(0x2018, 0x201C)], "'") | dict.fromkeys(range(0x201C, 0x2020), '"')
_LIGATURES = [0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB07)]
_WIDTHS = range(0xFF01, 0xFFF0)  # the full-width and half-width forms
_PLAIN = {c: unicodedata.normalize("NFKC", chr(c)) for c in (*_LIGATURES, *_WIDTHS)}
_PLAIN |= {0xFB05: "ſt"} | _C1 | _QUOTES  # NFKC would turn the long s of U+FB05 into a round one
_CONTROLS = dict.fromkeys(
    [*range(9), 0xB, *range(0xE, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
)
_TERMINAL_ESCAPE = re.compile("\x1b\\[[\\d;]*[a-zA-Z]")
_ENTITY = re.compile("&#?[0-9A-Za-z]{1,24};")


def _repair(line: str, entities: bool) -> str:
    """Apply ftfy's `fix_text` to one line, except for mojibake: repeat the repairs until nothing changes."""
    before = None
    while line != before:
        before = line
        if entities:
            line = _ENTITY.sub(_character, line)
        line = line.translate(_PLAIN)
        # A surrogate pair becomes one character, a lone surrogate U+FFFD.
        line = line.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        line = _TERMINAL_ESCAPE.sub("", line).translate(_CONTROLS)
        line = unicodedata.normalize("NFC", line)
    return line


def _character(entity: re.Match[str]) -> str:
    """Return the character of an HTML entity, or the entity itself if it has none."""
    if not entity[0].startswith("&#"):
        return _named_entities().get(entity[0], entity[0])
    char = html.unescape(entity[0])
    return entity[0] if ";" in char else char


@functools.cache
def _named_entities() -> dict[str, str]:
    """Return HTML's entities by name, and upper-case variants ("&EACUTE;") that are no entities of HTML."""
    named = {f"&{name}": char for name, char in html5.items() if name.endswith(";")}
    capitals = {name.upper(): char.upper() for name, char in named.items() if name.islower()}
    return named | {name: char for name, char in capitals.items() if html.unescape(name) == name}


# CLIP's vocabulary ------------------------------------------------------------------------------------------

# open_clip's pattern. Case is ignored, so that "ſ" matches "s"; the brackets of "[s]" prevent the ligature
# "ﬆ" from matching "st". U+0345, a mark whose upper case is a letter, is in no class and is dropped.
_WORD = r"(?i:<[s]tart_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"


@functools.cache
def clip_tokenizer_json() -> str:
    """Return CLIP's byte-level BPE, 49408 ids, as the text of a `tokenizer.json` for cleaned text.

    The vocabulary has the 256 bytes, the 256 bytes at the end of a word (`</w>`), one token per merge, the
    start token 49406 and the end token 49407. Letters added after Unicode 16, the version in the `tokenizers`
    library, may be split differently than in open_clip. Source: Radford et al., arXiv 2103.00020; the merges
    are in data/clip.
    """
    compressed = (Path(__file__).parents[1] / "data" / "clip" / "merges.txt.gz").read_bytes()
    merges = gzip.decompress(compressed).decode().splitlines()
    # Printable bytes are represented by themselves, the others by the characters from U+0100 on, which come
    # last.
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(c) for c in (*printing, *range(0x100, 0x200 - len(printing)))]
    words = [c + "</w>" for c in alphabet] + [merge.replace(" ", "") for merge in merges]
    vocab = {token: id for id, token in enumerate([*alphabet, *words, START, END])}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=False)
    split = dict(type="Split", pattern={"Regex": _WORD}, behavior="Removed", invert=True)
    spaces = dict(type="Replace", pattern={"String": "</w>"}, content=" ")
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [dict(id=vocab[token], content=token, **flags) for token in (START, END)],
            "pre_tokenizer": dict(type="Sequence", pretokenizers=[split, byte_level]),
            "decoder": dict(type="Sequence", decoders=[byte_level, spaces]),
            "model": dict(type="BPE", end_of_word_suffix="</w>", vocab=vocab, merges=merges),
        },
        ensure_ascii=False,
    )


# Texts to ids and back --------------------------------------------------------------------------------------


# open_clip recognizes a special token only where a word may begin: after a letter, a number, a space or
# another special token. In "!<end_of_text>" the "<" is part of the punctuation. A space after it, where words
# are split anyway, prevents the `tokenizers` library from recognizing the special token.
_SPECIALS = re.compile(f"(?:{START}|{END})+", re.IGNORECASE)


def _escape_special(specials: re.Match[str]) -> str:
    before = specials.string[: specials.start()][-1:]
    if before in " \u0345" or unicodedata.category(before)[0] in "LN":
        return specials[0]
    return specials[0].replace("<", "< ")


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary with a model's text settings, made by `load_tokenizer`.

    `clean` is the mode of `clean_text`; `pad_id` fills the ids up to `context_length`.
    """

    vocabulary: tokenizers.Tokenizer = field(repr=False)
    context_length: int
    pad_id: int
    clean: str
    start_id: int
    end_id: int

    def encode(self, texts: str | Sequence[str], context_length: int | None = None) -> NDArray[np.int64]:
        """Tokenize B texts (a str is a batch of one): ids int64 [B, context_length].

        A row has the start token, the text, the end token and padding. A text that is too long is truncated
        and still ends with the end token. Raises ValueError for anything but texts.
        """
        texts = _checked(texts)
        length = self.context_length
        if context_length is not None:
            length = check_int("context_length", context_length, 1)
        ids = np.full((len(texts), length), self.pad_id, np.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = self._ids(text)
            if len(tokens) > len(row):
                tokens[len(row) - 1 :] = [self.end_id]
            row[: len(tokens)] = tokens
        return ids

    def lengths(self, texts: str | Sequence[str]) -> list[int]:
        """Return the number of ids of each text, with start and end token, before it is truncated."""
        return [len(self._ids(text)) for text in _checked(texts)]

    def _ids(self, text: str) -> list[int]:
        text = _SPECIALS.sub(_escape_special, clean_text(text, self.clean))
        return [self.start_id, *self._encode(text).ids, self.end_id]

    def _encode(self, text: str) -> tokenizers.Encoding:
        # The vocabulary may lack a token for unknown words, for example.
        with _library_errors(f"the tokenizer cannot read {text!r:.60}"):
            return self.vocabulary.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """Return the text of ids [L] up to the first end token or the padding, without start tokens.

        Bytes that are not valid UTF-8 become U+FFFD. Raises ValueError for a batch of ids, and for ids that
        are not in the vocabulary.
        """
        row = check_array("ids", ids)
        if row.ndim != 1:
            raise ValueError(f"decode takes one row of ids, [length], not {list(row.shape)}")
        if row.size and row.dtype.kind not in "iu":
            raise ValueError(f"ids are {row.dtype}: give whole numbers")
        tokens: list[int] = row.tolist()
        for i in tokens:
            if not 0 <= i < 2**32 or self.vocabulary.id_to_token(i) is None:
                raise ValueError(f"ids hold {i}, which the vocabulary does not have")
        if self.end_id in tokens:
            tokens = tokens[: tokens.index(self.end_id)]
        else:
            while tokens and tokens[-1] == self.pad_id:
                tokens.pop()
        with _library_errors("the tokenizer cannot decode these ids"):
            text = self.vocabulary.decode(tokens, skip_special_tokens=False)
        return text.replace(self.vocabulary.id_to_token(self.start_id) or "", "").strip()

    def unknown(self, texts: str | Sequence[str]) -> list[str]:
        """Return the words that are not in the vocabulary, each once; [] for a byte-level vocabulary."""
        unknown = getattr(self.vocabulary.model, "unk_token", None)
        words = []
        for text in _checked(texts):
            text = clean_text(text, self.clean)
            encoding = self._encode(text)
            tokens = zip(encoding.tokens, encoding.offsets, strict=True)
            words += [text[start:stop] for token, (start, stop) in tokens if token == unknown]
        return list(dict.fromkeys(words))

    def json_text(self) -> str:
        """Return the text of the `tokenizer.json`: `load_tokenizer` reads an equal tokenizer from it."""
        return self.vocabulary.to_str(pretty=True)


def load_tokenizer(
    path: str | Path,
    context_length: int,
    pad_id: int,
    clean: str,
    vocab_size: int | None = None,
) -> Tokenizer:
    """Read a `tokenizer.json` (the `tokenizers` library's format) for a model with `vocab_size` ids.

    Raises FileNotFoundError, or ValueError for a file in another format, without a start and an end token, or
    whose ids are not 0 to `vocab_size` - 1, each with a token.
    """
    from ..inputs import JSON_GROWTH, read_text

    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no tokenizer file; put the checkpoint's tokenizer.json there")
    text = read_text(path, "put the checkpoint's tokenizer.json there", JSON_GROWTH)
    return parse_tokenizer(text, str(path), context_length, pad_id, clean, vocab_size)


NOT_A_TOKENIZER = "not a tokenizer.json of the tokenizers library"
MOST_GROWTH = 1000  # times that a normalizer or a decoder may lengthen a text
PRECOMPILED = 100  # times that a table of replacements, as SentencePiece's, is taken to lengthen it


def parse_tokenizer(
    text: str, where: str, context_length: int, pad_id: int, clean: str, vocab_size: int | None = None
) -> Tokenizer:
    """Return the tokenizer in the text of a `tokenizer.json`, which messages call `where`.

    Raises ValueError as `load_tokenizer`.
    """
    from ..inputs import parse_json

    with _library_errors(f"{where}: {NOT_A_TOKENIZER}"):
        vocabulary = _library().from_str(text)
    content = parse_json(text, where, "")
    _check_growth(content, where)
    declared = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    _check_ids(vocabulary, declared, vocab_size, where)
    vocabulary.no_padding()
    vocabulary.no_truncation()
    for start, end in (START, END), ("<|startoftext|>", "<|endoftext|>"):
        start_id, end_id = vocabulary.token_to_id(start), vocabulary.token_to_id(end)
        if start_id is not None and end_id is not None:
            return Tokenizer(vocabulary, context_length, pad_id, clean, start_id, end_id)
    raise ValueError(f"{where}: the vocabulary has no start and end token; it needs {START} and {END}")


def _library() -> type[tokenizers.Tokenizer]:
    """Return the `tokenizers` library's class; where it is not installed, as in a browser, its stand-in."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        from .words import WordLevel

        return WordLevel  # type: ignore[return-value]
    return Tokenizer


@contextmanager
def _library_errors(problem: str) -> Iterator[None]:
    """Turn errors of the `tokenizers` library into a ValueError of one line: `problem` and the reason."""
    from ..inputs import one_line

    try:
        yield
    except BaseException as error:  # a Rust panic is no Exception; its class cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{problem} ({one_line(error)})") from None


def _check_growth(content: dict[str, Any], where: str) -> None:
    """Raise ValueError if replacements, one after the other, could lengthen a text too much."""
    growth, parts = 1, [content.get("normalizer"), content.get("decoder")]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            kind, replacement = part.get("type"), part.get("content")
            growth *= 1 + len(replacement) if kind == "Replace" and isinstance(replacement, str) else 1
            growth *= PRECOMPILED if kind == "Precompiled" else 1
        if isinstance(part, dict | list):
            parts += part.values() if isinstance(part, dict) else part
    if growth > MOST_GROWTH:
        raise ValueError(
            f"{where}: its replacements could make a text more than {MOST_GROWTH} times as long; "
            "put the checkpoint's own tokenizer.json there"
        )


def _check_ids(
    vocabulary: tokenizers.Tokenizer,
    declared: dict[str, int],
    vocab_size: int | None,
    where: str,
) -> None:
    """Raise ValueError unless the ids are 0 to `vocab_size` - 1, each with one token, as `declared`."""
    hint = "put the checkpoint's own tokenizer.json there"
    ids = vocabulary.get_vocab(with_added_tokens=True)
    if not vocabulary.get_vocab_size(with_added_tokens=False):
        raise ValueError(f"{where}: its vocabulary is empty; {hint}")
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"{where}: several tokens have the same id; {hint}")
    for token, id in ids.items():
        if declared.get(token, id) != id:
            problem = f"is declared with the id {declared[token]}, but the vocabulary gives it {id}"
            raise ValueError(f"{where}: {token!r:.60} {problem}; {hint}")
        if vocab_size is not None and id >= vocab_size:
            problem = f"has the id {id}, and the model has the ids 0 to {vocab_size - 1}"
            raise ValueError(f"{where}: {token!r:.60} {problem}; {hint}")
    if vocab_size is not None and len(ids) < vocab_size:
        known = set(ids.values())
        first = next(id for id in range(vocab_size) if id not in known)
        problem = (
            f"{vocab_size - len(ids)} of the model's {vocab_size} ids have no token, the first is {first}"
        )
        raise ValueError(f"{where}: {problem}; {hint}")


def _checked(texts: str | Sequence[str]) -> list[str]:
    """Return the texts as a list. Raises ValueError for anything but a text or a list of texts."""
    texts = texts.tolist() if isinstance(texts, np.ndarray) else texts
    if isinstance(texts, list | tuple):
        return check_texts("texts", texts) if texts else []
    return [check_text("texts", texts)]
