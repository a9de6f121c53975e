"""The tokenizer: texts -> token ids, and token ids -> text.

A text is cleaned, cut into tokens by the vocabulary of a `tokenizer.json` (CLIP's byte-level BPE comes with
the package), put between the start and the end token, and padded. With CLIP's vocabulary the ids are those
of open_clip's `SimpleTokenizer`, up to the two limits that `clean_text` and `clip_tokenizer_json` name.
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
from typing import TYPE_CHECKING

import numpy as np

from ..model import arguments

if TYPE_CHECKING:
    import tokenizers

START, END = "<start_of_text>", "<end_of_text>"


# Cleaning ---------------------------------------------------------------------------------------------------


def clean_text(text: str, mode: str) -> str:
    """Clean a text as open_clip does before it tokenizes.

    mode "lower": repair what ftfy repairs (curly quotes, ligatures, full-width forms, control characters,
    terminal escapes, surrogates, HTML entities; NFC), unescape HTML twice, fold white space, lower the case.
    mode "whitespace": the same in the text's own case.
    One of ftfy's repairs is left out: mojibake ("cafÃ©" for "café") stays as it is.
    Raises ValueError for another mode.
    """
    if mode not in ("lower", "whitespace"):
        raise ValueError(f'tokenizer: clean must be "lower" or "whitespace", not {mode!r}')
    lines, entities = [], True
    for line in text.split("\n"):
        entities = entities and "<" not in line  # from a "<" on, ftfy takes the text for HTML and leaves it
        lines.append(_repair(line, entities))
    text = html.unescape(html.unescape("\n".join(lines)))
    text = " ".join(text.split())
    return text.lower() if mode == "lower" else text


# C1 controls are read as Windows-1252, as browsers do. Line breaks and U+3000 are left to the white space.
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
    """One line as ftfy's `fix_text` leaves it, mojibake apart: the repairs repeat until nothing changes."""
    before = None
    while line != before:
        before = line
        if entities:
            line = _ENTITY.sub(_character, line)
        line = line.translate(_PLAIN)
        # Two halves of a surrogate pair make one character, a half alone becomes U+FFFD.
        line = line.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        line = _TERMINAL_ESCAPE.sub("", line).translate(_CONTROLS)
        line = unicodedata.normalize("NFC", line)
    return line


def _character(entity: re.Match[str]) -> str:
    """The character of an HTML entity; the entity itself where it means none."""
    if not entity[0].startswith("&#"):
        return _named_entities().get(entity[0], entity[0])
    char = html.unescape(entity[0])
    return entity[0] if ";" in char else char


@functools.cache
def _named_entities() -> dict[str, str]:
    """HTML's entities, and those in capitals ("&EACUTE;") that HTML gives no other meaning."""
    named = {f"&{name}": char for name, char in html5.items() if name.endswith(";")}
    capitals = {name.upper(): char.upper() for name, char in named.items() if name.islower()}
    return named | {name: char for name, char in capitals.items() if html.unescape(name) == name}


# CLIP's vocabulary ------------------------------------------------------------------------------------------

# What open_clip's pattern matches. Case is ignored, also in "ſ" for "s"; the brackets of "[s]" keep the
# ligature "ﬆ" from matching "st". U+0345, a mark whose capital is a letter, is in no class and dropped.
_WORD = r"(?i:<[s]tart_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"


@functools.cache
def clip_tokenizer_json() -> str:
    """CLIP's byte-level BPE, 49408 ids, as the text of a `tokenizer.json`. It expects cleaned text.

    Vocabulary: the 256 bytes, the same ending a word (`</w>`), one token a merge, start 49406, end 49407.
    Letters newer than the Unicode of the `tokenizers` library (16) may part otherwise than in open_clip.
    Source: Radford et al., arXiv 2103.00020; its file of merges is in data/clip.
    """
    compressed = (Path(__file__).parents[1] / "data" / "clip" / "merges.txt.gz").read_bytes()
    merges = gzip.decompress(compressed).decode().splitlines()
    # Bytes that print stand for themselves, the others for the characters from U+0100 on: they come last.
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


# Texts <-> ids ----------------------------------------------------------------------------------------------


# open_clip reads a special token only where a word may begin: after a letter, a number, a space or another
# special token. In "!<end_of_text>" the "<" is part of the punctuation. A space behind it, where words part
# anyway, keeps the `tokenizers` library from seeing the special token.
_SPECIALS = re.compile(f"(?:{START}|{END})+", re.IGNORECASE)


def _unspecial(specials: re.Match[str]) -> str:
    before = specials.string[: specials.start()][-1:]
    if before in " \u0345" or unicodedata.category(before)[0] in "LN":
        return specials[0]
    return specials[0].replace("<", "< ")


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary with what a model needs beside it. `load_tokenizer` makes one."""

    vocabulary: tokenizers.Tokenizer = field(repr=False)
    context_length: int
    pad_id: int
    clean: str
    start_id: int
    end_id: int

    def encode(self, texts: str | Sequence[str], context_length: int | None = None) -> np.ndarray:
        """B texts (one text is a batch of one) -> ids int64 [B, context_length].

        A row is the start token, the text, the end token, padding. A text too long is cut, and still ends
        with the end token. Raises ValueError for anything but texts.
        """
        texts = _checked(texts)
        length = (
            self.context_length
            if context_length is None
            else arguments.whole("context_length", context_length, 1)
        )
        ids = np.full((len(texts), length), self.pad_id, np.int64)
        for row, text in zip(ids, texts):
            text = _SPECIALS.sub(_unspecial, clean_text(text, self.clean))
            tokens = self._encode(text).ids
            tokens = [self.start_id, *tokens, self.end_id]
            if len(tokens) > len(row):
                tokens[len(row) - 1 :] = [self.end_id]
            row[: len(tokens)] = tokens
        return ids

    def _encode(self, text: str) -> tokenizers.Encoding:
        # for example, there may be no token for unknown words
        with _library_errors(f"the tokenizer cannot read {text!r:.60}"):
            return self.vocabulary.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Ids [length] -> the text up to the first end token or the padding, without start tokens.

        Bytes that make no character become U+FFFD. Raises ValueError for a batch of ids, and for ids that the
        vocabulary does not have.
        """
        ids = arguments.array("ids", ids)
        if ids.ndim != 1:
            raise ValueError(f"decode takes one row of ids, [length], not {list(ids.shape)}")
        if ids.size and ids.dtype.kind not in "iu":
            raise ValueError(f"ids are {ids.dtype}: give whole numbers")
        ids = ids.tolist()
        for i in ids:
            if not 0 <= i < 2**32 or self.vocabulary.id_to_token(i) is None:
                raise ValueError(f"ids hold {i}, which the vocabulary does not have")
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        else:
            while ids and ids[-1] == self.pad_id:
                ids.pop()
        with _library_errors("the tokenizer cannot decode these ids"):
            text = self.vocabulary.decode(ids, skip_special_tokens=False)
        return text.replace(self.vocabulary.id_to_token(self.start_id), "").strip()

    def unknown(self, texts: str | Sequence[str]) -> list[str]:
        """The words of the texts that the vocabulary lacks, each once; [] for one that spells everything."""
        unknown = getattr(self.vocabulary.model, "unk_token", None)
        words = []
        for text in _checked(texts):
            text = clean_text(text, self.clean)
            encoding = self._encode(text)
            tokens = zip(encoding.tokens, encoding.offsets)
            words += [text[start:stop] for token, (start, stop) in tokens if token == unknown]
        return list(dict.fromkeys(words))


def load_tokenizer(
    path: str | Path,
    context_length: int,
    pad_id: int,
    clean: str,
    vocab_size: int | None = None,
) -> Tokenizer:
    """Read a `tokenizer.json` (the `tokenizers` library's format) for a model with `vocab_size` ids.

    Raises FileNotFoundError, or ValueError for a file that is not one, has no start and end token, or whose ids are
    not those of the model, 0 to `vocab_size` - 1, each with a token.
    """
    import tokenizers

    from ..inputs import parse_json, regular_file

    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no tokenizer file; put the checkpoint's tokenizer.json there")
    file = regular_file(path, "put the checkpoint's tokenizer.json there")
    with _library_errors(f"{path}: not a tokenizer.json of the tokenizers library"):
        text = file.read_text(encoding="utf-8-sig")
        vocabulary = tokenizers.Tokenizer.from_str(text)
    declared = {
        token["content"]: token["id"] for token in parse_json(text, str(path), "").get("added_tokens") or ()
    }
    _check_ids(vocabulary, declared, vocab_size, str(path))
    vocabulary.no_padding()
    vocabulary.no_truncation()
    for start, end in (START, END), ("<|startoftext|>", "<|endoftext|>"):
        start_id, end_id = vocabulary.token_to_id(start), vocabulary.token_to_id(end)
        if start_id is not None and end_id is not None:
            return Tokenizer(vocabulary, context_length, pad_id, clean, start_id, end_id)
    raise ValueError(f"{path}: the vocabulary has no start and end token; it needs {START} and {END}")


@contextmanager
def _library_errors(problem: str) -> Iterator[None]:
    """Turn what the `tokenizers` library raises into a ValueError of one line, `problem` and the library's reason."""
    try:
        yield
    except BaseException as error:  # a panic in its Rust code is no Exception; its class cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{problem} ({reason:.200})") from None


def _check_ids(
    vocabulary: tokenizers.Tokenizer,
    declared: dict[str, int],
    vocab_size: int | None,
    where: str,
) -> None:
    """Raise ValueError unless each id below `vocab_size`, and no other, has one token, as `declared`."""
    ids = vocabulary.get_vocab(with_added_tokens=True)
    if not vocabulary.get_vocab_size(with_added_tokens=False):
        raise ValueError(f"{where}: its vocabulary is empty; put the checkpoint's own tokenizer.json there")
    if len(set(ids.values())) < len(ids):
        raise ValueError(
            f"{where}: several tokens have the same id; put the checkpoint's own tokenizer.json there"
        )
    for token, id in ids.items():
        if declared.get(token, id) != id:
            raise ValueError(
                f"{where}: {token!r:.60} is declared with the id {declared[token]}, but the vocabulary "
                f"gives it {id}; put the checkpoint's own tokenizer.json there"
            )
        if vocab_size is not None and id >= vocab_size:
            raise ValueError(
                f"{where}: {token!r:.60} has the id {id}, and the model has the ids 0 to {vocab_size - 1}; "
                "put the checkpoint's own tokenizer.json there"
            )
    if vocab_size is not None and len(ids) < vocab_size:
        missing = sorted(set(range(vocab_size)).difference(ids.values()))
        raise ValueError(
            f"{where}: {len(missing)} of the model's {vocab_size} ids have no token, the first is "
            f"{missing[0]}; put the checkpoint's own tokenizer.json there"
        )


def _checked(texts: str | Sequence[str]) -> list[str]:
    """Return the texts as a list. Raises ValueError for anything but a text or a list of texts."""
    texts = texts.tolist() if isinstance(texts, np.ndarray) else texts
    if isinstance(texts, list | tuple):
        return arguments.texts("texts", texts) if texts else []
    return [arguments.text("texts", texts)]
