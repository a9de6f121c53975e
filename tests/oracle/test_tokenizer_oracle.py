"""The tokenizer against open_clip's: the golden file, every Unicode character, and difficult texts."""

import functools
import gzip
import json
import runpy
import tempfile
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import ftfy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import tokenizer as open_clip

from minivideococa.media import tokenizer
from minivideococa.media.tokenizer import clean_text, clip_tokenizer_json, load_tokenizer

oracle = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("make_tokenizer_golden.py"))))

# Without the characters that are new to this Python: their class depends on each library's Unicode version.
CHARACTERS = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) != "Cn"]
PIECES = (
    """
<start_of_text> <end_of_text> <START_OF_TEXT> <ſtart_of_text> < > _ ' '' 's 'ſ 'LL 're 'd a dog É e İ Σ ς ΑΣ ß
ẞ 1 ½ Ⅷ ! . & amp; &amp; &amp;amp;amp; &lt; &#39; &#59; &#1; &#128; &#xD800; &#x1F600; &rsquo &rsquo; &EACUTE;
&notit; &semi; &GTCC; ＆ａｍｐ； “ ” ‘ ’ ‛ ʼ ŉ ﬃ ﬅ ﬆ Ǆ ĳ Ａ ７ ｶ ﾞ ﾡ ￣ 👩 👧 🏽 🇩 🇪 ❤ 日 한 ᄒ ᅡ م क ् Ã©
""".split()
    + (
        "\x1b|\x1b[31m|\x1b［3ｍ|[3|m|\x00|\x0b|\x1c|\x7f|\x80|\x85|\x93|\u200b|\u200d|\u2060|\ufeff|\u206a"
        "|\ufffc|\ufffd|\ud83d|\ude00|\n|\r|\r\n| |  |\t|\xa0|\u2028|\u3000|\u0301|\u0345|\u0327|\ufe0f"
    ).split("|")
)
CHARACTER = st.sampled_from(CHARACTERS)
TEXT = st.one_of(
    st.text(CHARACTER, max_size=30),
    st.lists(st.one_of(st.sampled_from(PIECES), CHARACTER), max_size=16).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
)


# Not fixtures: Hypothesis would print the vocabularies with every failure.
@functools.cache
def ours(clean="lower"):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(clip_tokenizer_json(), encoding="utf-8")
        return load_tokenizer(path, 76, 0, clean)


@functools.cache
def theirs(clean="lower"):
    return open_clip.SimpleTokenizer(context_length=76, clean=clean)


@pytest.fixture
def no_mojibake_repair(monkeypatch):
    """Switch off the one part of ftfy in open_clip that the package leaves out."""
    fix_text = ftfy.fix_text
    monkeypatch.setattr(ftfy, "fix_text", lambda text: fix_text(text, fix_encoding=False))


def test_the_golden_file_is_reproducible():
    assert json.loads(oracle.GOLDEN.read_text()) == oracle.make()


def test_the_merges_are_clips():
    shipped = Path(tokenizer.__file__).parents[1] / "data" / "clip" / "merges.txt.gz"
    lines = gzip.decompress(Path(open_clip.default_bpe()).read_bytes()).decode().split("\n")
    assert gzip.decompress(shipped.read_bytes()).decode() == "\n".join(lines[1:48895]) + "\n"


@pytest.mark.parametrize("clean", ["lower", "whitespace"])
def test_ids_are_open_clips(no_mojibake_repair, clean):
    @settings(max_examples=3000)
    @given(TEXT)
    def check(text):
        assert clean_text(text, clean) == theirs(clean).clean_fn(text)
        np.testing.assert_array_equal(ours(clean).encode(text), theirs(clean)(text).numpy())

    check()


@settings(max_examples=1000)
@given(TEXT)
def test_only_mojibake_repair_differs(text):
    if ftfy.fix_text(text) == ftfy.fix_text(text, fix_encoding=False):
        np.testing.assert_array_equal(ours().encode(text), theirs()(text).numpy())


def test_every_character_is_cleaned_as_by_open_clip(no_mojibake_repair):
    for character in CHARACTERS:
        text = f"a{character}b"
        assert clean_text(text, "lower") == open_clip._clean_lower(text), ascii(text)


def test_every_character_splits_words_as_in_open_clip():
    pattern, byte_characters = theirs().pat, theirs().byte_encoder
    split = ours().vocabulary.pre_tokenizer.pre_tokenize_str
    for character in CHARACTERS:
        if unicodedata.category(character) != "Cs":
            text = f"a{character}!{character}{character}1{character}'{character}'l{character}"
            words = ["".join(byte_characters[b] for b in word.encode()) for word in pattern.findall(text)]
            assert [word for word, _ in split(text)] == words, ascii(text)


@settings(max_examples=1000)
@given(ids=st.lists(st.one_of(st.integers(1, 49407), st.sampled_from([0, 49406, 49407])), max_size=20))
def test_decoded_ids_are_open_clips(ids):
    assert ours().decode(ids) == oracle.open_clip_text(ids)


@settings(max_examples=200)
@given(texts=st.lists(TEXT, max_size=3), length=st.integers(1, 100))
def test_any_context_length(texts, length):
    texts = [text for text in texts if ftfy.fix_text(text) == ftfy.fix_text(text, fix_encoding=False)]
    np.testing.assert_array_equal(ours().encode(texts, length), oracle.open_clip_ids(texts, length))
