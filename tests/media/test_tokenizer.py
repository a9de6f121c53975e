"""The tokenizer: open_clip's ids from the golden file, cleaning, decoding, vocabularies of words, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivideococa.media.tokenizer import clean_text, clip_tokenizer_json, load_tokenizer

WORDS = ["a", "dog", "it's", "42", "café", "naïve", "漢字", "🐶", "don't", "...", "(x)", "Москва"]
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer.json").read_text())
START, END = 49406, 49407


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "tokenizer.json"
    path.write_text(clip_tokenizer_json(), encoding="utf-8")
    return load_tokenizer(path, context_length=76, pad_id=0, clean="lower")


def word_level(path, words):
    """A tokenizer.json of whole words; returns its path."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<start_of_text>", "<end_of_text>", "<unk>", *words]
    vocab = {word: id for id, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in words[:3]])
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tokenizer.json"
    return load_tokenizer(
        word_level(path, ["a", "red", "green", "circle", "moves", "left", ","]), 8, 0, "lower"
    )


@pytest.mark.parametrize("text, ids", GOLDEN["encode"])
def test_ids_equal_those_of_open_clip(clip, text, ids):
    row = np.zeros(76, np.int64)
    row[: len(ids)] = ids
    np.testing.assert_array_equal(clip.encode(text), row[None], strict=True)


@pytest.mark.parametrize("ids, text", GOLDEN["decode"])
def test_ids_are_decoded_as_in_open_clip(clip, ids, text):
    assert clip.decode(ids) == clip.decode(np.array(ids, np.int32)) == text


def test_start_end_and_size(clip):
    assert (clip.start_id, clip.end_id) == (START, END)
    assert clip.vocabulary.get_vocab_size() == 49408


def test_the_json_decodes_without_this_package(clip):
    ids = [START, *clip.vocabulary.encode("déjà vu, it's 9pm").ids, END]
    assert clip.vocabulary.decode(ids).strip() == "déjà vu , it 's 9 pm"


@given(texts=st.lists(st.text(max_size=40), max_size=4), length=st.integers(1, 20))
def test_texts_of_a_batch_are_padded_and_truncated(clip, texts, length):
    ids = clip.encode(texts, context_length=length)
    assert ids.dtype == np.int64 and ids.shape == (len(texts), length)
    for text, row in zip(texts, ids):
        full = clip.encode(text, context_length=400)[0]
        stop = np.flatnonzero(full == END)[-1]
        assert full[0] == START and not full[stop + 1 :].any()
        expected = full[:length].copy()
        if stop >= length:
            expected[-1] = END
        np.testing.assert_array_equal(row, expected)


@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_decoding_then_encoding_gives_the_same_ids(clip, words):
    ids = clip.encode(" ".join(words))
    np.testing.assert_array_equal(clip.encode(clip.decode(ids[0])), ids)


@given(st.text(st.characters(exclude_characters="&")))
def test_cleaning_twice_changes_nothing(text):
    once = clean_text(text, "whitespace")
    assert clean_text(once, "whitespace") == once


@pytest.mark.parametrize(
    "text, clean",
    [
        ("  A\u00a0b \r\n\u2028c\u3000", "a b c"),
        ("“It’s” ŉ ﬃ ﬅ ＡＢ ｶﾞ", "\"it's\" 'n ffi ſt ab ガ"),
        ("e\u0301 İ ΑΣ", "é i̇ ας"),
        ("\x1b[1mbold\x1b[0m\x00\ufeff\ufffc", "bold"),
        ("\x93hi\x94 \x85 \x80", '"hi" … €'),
        ("\ud83d\ude00 \ud83d", "😀 \ufffd"),
        ("&amp;amp;amp;lt; P&EACUTE;REZ &rsquo;", "< pérez '"),
        ("<&amp;amp;amp;lt; P&EACUTE;REZ &rsquo;", "<&amp;lt; p&eacute;rez ’"),
        ("&rsquo;\n<\n&rsquo;", "' < ’"),
        ("cafÃ©", "cafã©"),  # mojibake stays
    ],
)
def test_cleaning(text, clean):
    assert clean_text(text, "lower") == clean
    assert clean_text(text, "whitespace").lower() == clean


def test_white_space_cleaning_keeps_the_case():
    assert clean_text(" The  CAT’s\n", "whitespace") == "The CAT's"


def test_an_unknown_mode_of_cleaning_is_rejected():
    with pytest.raises(ValueError, match="lower.*whitespace.*canonicalize"):
        clean_text("a", "canonicalize")


def test_a_vocabulary_of_words(tiny):
    ids = tiny.encode(["A red circle", "red, blue"])
    np.testing.assert_array_equal(ids, [[1, 4, 5, 7, 2, 0, 0, 0], [1, 5, 10, 3, 2, 0, 0, 0]])
    assert tiny.decode([1, 4, 5, 7, 2, 5, 0]) == tiny.decode([1, 4, 5, 7, 0, 0]) == "a red circle"


def test_unknown_words_are_named_once(tiny, clip):
    assert tiny.unknown(["A red dog", "a Green éléphant, dog"]) == ["dog", "éléphant"]
    assert tiny.unknown("a red circle") == [] == clip.unknown("zxqv éléphant")


def test_padding_truncation_and_template_of_the_file_are_ignored(tmp_path):
    from tokenizers import Tokenizer, processors

    path = word_level(tmp_path / "tokenizer.json", ["a"])
    theirs = Tokenizer.from_file(str(path))
    theirs.enable_padding(length=9)
    theirs.enable_truncation(1)
    theirs.post_processor = processors.TemplateProcessing("<pad> $A", special_tokens=[("<pad>", 0)])
    theirs.save(str(path))
    np.testing.assert_array_equal(load_tokenizer(path, 6, 0, "lower").encode("a a"), [[1, 4, 4, 2, 0, 0]])


def test_alternative_names_of_start_and_end(tmp_path):
    path = word_level(tmp_path / "tokenizer.json", ["a"])
    text = path.read_text().replace("<start_of_text>", "<|startoftext|>")
    path.write_text(text.replace("<end_of_text>", "<|endoftext|>"))
    np.testing.assert_array_equal(load_tokenizer(path, 5, 0, "lower").encode("a"), [[1, 4, 2, 0, 0]])


def test_invalid_tokenizer_files(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError, match="tokenizer.json: no tokenizer"):
        load_tokenizer(path, 76, 0, "lower")
    path.write_bytes(b"\xff\x00")
    with pytest.raises(
        ValueError, match="tokenizer.json: not UTF-8 text; put the checkpoint's tokenizer.json"
    ):
        load_tokenizer(path, 76, 0, "lower")
    for content in (b"", b"{}", b'{"version": "1.0"}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="tokenizer.json: not a tokenizer.json") as error:
            load_tokenizer(path, 76, 0, "lower")
        assert "\n" not in str(error.value)
    word_level(path, ["a"])
    path.write_text(path.read_text().replace("<end_of_text>", "<stop>"))
    with pytest.raises(ValueError, match="no start and end token"):
        load_tokenizer(path, 76, 0, "lower")


@pytest.mark.parametrize("texts", [None, 3, b"a", ["a", None], [["a"]], {"a": 1}, np.zeros(2)])
def test_values_other_than_texts_are_rejected(clip, texts):
    for method in (clip.encode, clip.unknown):
        with pytest.raises(ValueError, match="a text must be a str, not "):
            method(texts)


def test_decoding_a_batch_is_rejected(clip):
    with pytest.raises(ValueError, match=r"one row of ids.*\[2, 3\]"):
        clip.decode(np.zeros((2, 3), np.int64))
