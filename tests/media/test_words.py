"""The stand-in for `tokenizers`, which a browser does not have: the same ids, and nothing else is read."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from minivideococa.checkpoint.folder import TOKENIZER, embedded_checkpoint
from minivideococa.media.words import NEEDED, WordLevel
from minivideococa.world import VOCABULARY

TEXT = (embedded_checkpoint() / TOKENIZER).read_text()
PLAIN, REAL = WordLevel.from_str(TEXT), Tokenizer.from_str(TEXT)
PIECES = [
    *VOCABULARY,
    "zebra",
    "Red",
    " ",
    "  ",
    ".",
    "?!",
    "\t",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x1c",
    "é",
    "𝒳",
    "<",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text())
def test_the_ids_are_those_of_the_library(text):
    plain, real = PLAIN.encode(text), REAL.encode(text, add_special_tokens=False)
    assert (plain.ids, plain.tokens, plain.offsets) == (real.ids, real.tokens, real.offsets)


@given(st.lists(st.sampled_from(range(len(VOCABULARY)))))
def test_the_texts_of_ids_are_those_of_the_library(ids):
    assert PLAIN.decode(ids) == REAL.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("added", [True, False])
def test_the_vocabulary_is_that_of_the_library(added):
    assert PLAIN.get_vocab(with_added_tokens=added) == REAL.get_vocab(with_added_tokens=added)
    assert PLAIN.get_vocab_size(with_added_tokens=added) == REAL.get_vocab_size(with_added_tokens=added)
    for token in ("red", "<pad>", "zebra"):
        assert PLAIN.token_to_id(token) == REAL.token_to_id(token)
    for id in (0, 24, 10**6):
        assert PLAIN.id_to_token(id) == REAL.id_to_token(id)


def test_it_is_written_as_it_was_read():
    again = WordLevel.from_str(PLAIN.to_str(pretty=True))
    assert again.get_vocab() == PLAIN.get_vocab()
    assert Tokenizer.from_str(PLAIN.to_str()).get_vocab() == REAL.get_vocab()


CHANGES = {
    "another model": lambda content: content["model"].update(type="BPE", merges=[]),
    "another splitter": lambda content: content.update(pre_tokenizer={"type": "Whitespace"}),
    "a decoder": lambda content: content.update(decoder={"type": "Fuse"}),
    "another normalizer": lambda content: content.update(normalizer={"type": "Lowercase"}),
    "a class of letters": lambda content: content["normalizer"].update(pattern={"Regex": r"[\p{L}]"}),
    "a range": lambda content: content["normalizer"].update(pattern={"Regex": "[a-z]"}),
    "another replacement": lambda content: content["normalizer"].update(content=""),
    "a stripped token": lambda content: content["added_tokens"][0].update(lstrip=True),
    "no token for unknown words": lambda content: content["model"].update(unk_token="<no>"),
    "no object": None,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_other_vocabularies_are_refused(change):
    content = copy.deepcopy(json.loads(TEXT))
    if change:
        change(content)
    with pytest.raises(ValueError) as error:
        WordLevel.from_str(json.dumps(content if change else []))
    assert str(error.value) == NEEDED
