"""A vocabulary that grows: new words are read and can be learned, and nothing changes for the known ones."""

import dataclasses
import json

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.table import unnest
from minivideococa.checkpoint.tuned import write_tuned, write_whole
from minivideococa.checkpoint.vocabulary import EMBEDDING, PROJECTION, add_words, new_rows
from minivideococa.media.tokenizer import clip_tokenizer_json, parse_tokenizer
from minivideococa.world import VOCABULARY

QUESTIONS = ["What colour is the star?", "is there a red star? Yes!", "how many? two"]
NEW = ["what", "colour", "the", "star?", "yes!", "how", "many?", "two"]  # the fixture's "?" is part of a word
V = len(VOCABULARY)


@pytest.fixture(params=["float32", "float64"])
def model(request, tiny_model, tokenizer):
    return tiny_model(dtype=request.param, tokenizer=tokenizer)


def videos(model, count=8):
    size = model.config.vision.image_size
    pixels = np.random.default_rng(0).standard_normal((count, 3, 3, size, size)).astype("float32")
    return [model.encode_video(x) for x in pixels]


def test_new_words_get_the_next_ids(model):
    new = [word for word in NEW if word not in VOCABULARY]
    grown = add_words(model, QUESTIONS)
    ids = grown.tokenizer.vocabulary.get_vocab()
    assert [ids[word] for word in new] == list(range(V, V + len(new)))
    assert grown.tokenizer.unknown(QUESTIONS) == [] and model.tokenizer.unknown(QUESTIONS) == new
    assert {word: ids[word] for word in VOCABULARY} == model.tokenizer.vocabulary.get_vocab()
    row = grown.tokenize(QUESTIONS[0])[0]
    assert grown.tokenizer.decode(row) == "what colour is the star?"


def test_the_token_of_unknown_words_is_no_new_word():
    model = mvc.load()
    grown = add_words(model, ["an <unk> mauve ring"])
    assert grown.config.text.vocab_size == model.config.text.vocab_size + 1
    assert grown.tokenizer.unknown(["mauve"]) == [] and add_words(model, ["<unk>"]) is model


def test_the_configuration_grows(model):
    grown = add_words(model, ["mauve"])
    source = grown.config.source["model_cfg"]
    assert grown.config.text.vocab_size == V + 1 == source["text_cfg"]["vocab_size"]
    assert source["multimodal_cfg"]["vocab_size"] == V + 1 and model.config.text.vocab_size == V
    assert model.config.source["model_cfg"]["text_cfg"]["vocab_size"] == V  # not shared


def test_known_rows_are_unchanged_and_the_rest_is_shared(model):
    old, new = unnest(model.params), unnest(add_words(model, ["mauve", "seven"]).params)
    assert np.array_equal(new[EMBEDDING][:V], old[EMBEDDING]) and new[EMBEDDING].shape == (V + 2, 8)
    assert np.array_equal(new[PROJECTION][:, :V], old[PROJECTION]) and new[PROJECTION].shape == (8, V + 2)
    assert new[EMBEDDING].dtype == new[PROJECTION].dtype == model.dtype
    assert all(np.shares_memory(new[n], old[n]) for n in old if n not in (EMBEDDING, PROJECTION))


def test_new_rows_are_the_mean_of_the_words(model):
    """Special tokens do not count. The noise has the covariance of the rows times 1e-9."""
    old, new = unnest(model.params), unnest(add_words(model, ["mauve", "seven"]).params)
    words = old[EMBEDDING][4:V]
    for row in new[EMBEDDING][V:]:
        assert 0 < abs(row - words.mean(axis=0)).max() < 1e-3 * words.std()
    assert not np.array_equal(new[EMBEDDING][V], new[EMBEDDING][V + 1])
    assert abs(new[PROJECTION][:, V] - old[PROJECTION][:, 4:V].mean(axis=1)).max() < 1e-3


@pytest.mark.slow
def test_the_noise_has_the_stated_covariance():
    rows = np.random.default_rng(1).standard_normal((40, 3)) @ np.array([[2, 1, 0], [0, 1, 0], [0, 0, 0.1]])
    drawn = new_rows(rows, 200_000, np.random.default_rng(2))
    expected = 1e-9 * np.cov(rows.T, bias=True)
    assert abs(np.cov(drawn.T) - expected).max() < 0.02 * expected.max()


@pytest.mark.slow
def test_captions_stay_the_same(model):
    grown = add_words(model, QUESTIONS)
    for video in videos(model):
        for options in ({"beams": 1}, {}):
            assert np.array_equal(
                model.generate(video.tokens, **options), grown.generate(video.tokens, **options)
            )


def test_logits_of_known_words_stay_the_same(model):
    grown, ids = add_words(model, QUESTIONS), model.tokenize(["a red circle", "nothing"])
    tokens = videos(model, 1)[0].tokens
    old, new = model.decode(tokens, ids), grown.decode(tokens, ids)
    assert np.allclose(new[..., :V], old, rtol=0, atol=1e-5 if model.dtype == "float32" else 1e-13)
    assert (new[..., V:] < old.max(axis=-1, keepdims=True)).all()
    assert np.array_equal(model.encode_text(ids), grown.encode_text(ids))


def test_a_seed_repeats(model):
    a, b, c = (unnest(add_words(model, QUESTIONS, seed).params) for seed in (3, 3, 4))
    for name in (EMBEDDING, PROJECTION):
        assert np.array_equal(a[name], b[name]) and not np.array_equal(a[name], c[name])


@pytest.mark.parametrize("words", [[], ["red"], ["a red circle", "RED"], "a circle"])
def test_known_words_change_nothing(model, words):
    assert add_words(model, words) is model


def test_a_byte_level_vocabulary_spells_every_word(tiny_model):
    tokenizer = parse_tokenizer(clip_tokenizer_json(), "clip", 9, 0, "lower")
    model = tiny_model(tokenizer=tokenizer, text={"vocab_size": 49408})
    assert add_words(model, ["Donaudampfschifffahrt", "зонтик"]) is model


def test_added_twice(model):
    once = add_words(model, ["mauve", "seven"])
    twice = add_words(add_words(model, ["mauve"]), ["seven", "mauve"])
    assert once.tokenizer.vocabulary.get_vocab() == twice.tokenizer.vocabulary.get_vocab()
    assert twice.config.text.vocab_size == V + 2


def test_stored_with_the_tuned_part(tmp_path, tiny_model, tokenizer):
    base = mvc.load(write_whole(tmp_path / "base", tiny_model(dtype="float32", tokenizer=tokenizer)))
    grown = add_words(base, QUESTIONS)
    path = write_tuned(tmp_path / "x", grown)
    loaded = mvc.load(tmp_path / "base", tuned=path)
    assert loaded.config == grown.config and loaded.tokenizer.unknown(QUESTIONS) == []
    a, b = unnest(grown.params), unnest(loaded.params)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    written = write_whole(tmp_path / "whole", grown)
    for folder in (written, convert(tmp_path / "base", tmp_path / "converted", tuned=path)):
        whole = mvc.load(folder)
        assert whole.config == grown.config and whole.tokenizer.unknown(QUESTIONS) == []


def test_words_are_added_as_the_vocabulary_reads_them(tiny_model, tokenizer):
    """With its own lower-casing and splitting, what is looked up is not what stands in the text."""
    content = json.loads(tokenizer.json_text())
    lower = {"type": "Lowercase"}
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], lower]}
    content["pre_tokenizer"] = {"type": "Whitespace"}  # splits off punctuation
    reader = parse_tokenizer(json.dumps(content), "words", 9, 0, "whitespace")
    grown = add_words(tiny_model(tokenizer=reader), ["Is it MAUVE?"])
    assert grown.tokenizer.unknown(["is it mauve?", "Mauve"]) == []
    assert grown.config.text.vocab_size == V + 3  # it, mauve, ?
    assert grown.tokenizer.clean == "whitespace"


def test_other_vocabularies_are_refused(tiny_model, tokenizer):
    content = json.loads(tokenizer.json_text())
    content["model"] |= {
        "type": "WordPiece",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 99,
    }
    pieces = parse_tokenizer(json.dumps(content), "pieces", 9, 0, "lower")
    with pytest.raises(ValueError, match="lacks 'mauve' and is not one of whole words, so no word can be"):
        add_words(tiny_model(tokenizer=pieces), ["mauve"])


def test_a_model_without_a_tokenizer(tiny_model):
    with pytest.raises(ValueError, match="tokenizer"):
        add_words(tiny_model(), ["mauve"])


def test_settings_of_the_tokenizer_are_kept(model):
    grown = add_words(model, ["mauve"])
    kept = ("context_length", "pad_id", "clean", "start_id", "end_id")
    old, new = (dataclasses.asdict(dataclasses.replace(x.tokenizer, vocabulary=None)) for x in (model, grown))
    assert {name: old[name] for name in kept} == {name: new[name] for name in kept}
