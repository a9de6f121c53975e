"""DecodingOptions: validation, keywords, the conventions, and candidates."""

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from test_generation import END, START, all_texts, language, raise_logits

from minivideococa.model import generation
from minivideococa.model.generation import CONVENTIONS, DecodingOptions


def test_every_option_has_a_help_text():
    for option in fields(DecodingOptions):
        assert option.metadata["help"], option.name


def test_the_defaults_are_those_of_open_clip():
    options = DecodingOptions()
    assert (options.beams, options.groups, options.min_length, options.convention) == (6, 3, 5, "open_clip")
    assert not options.is_sampling and options.rows_per_text == 2  # three equal groups of 2: one is computed
    assert DecodingOptions(diversity_penalty=1.0).rows_per_text == 6


def test_options_are_frozen():
    with pytest.raises(FrozenInstanceError):
        DecodingOptions().beams = 3


def test_keywords_replace_fields():
    options = DecodingOptions(beams=4, min_length=2)
    assert DecodingOptions.create(options, min_length=3) == DecodingOptions(beams=4, min_length=3)
    assert DecodingOptions.create(options) == options
    assert DecodingOptions.create(textbook=True) == DecodingOptions(convention="textbook")
    assert DecodingOptions.create(options, textbook=False) == options
    with pytest.raises(TypeError, match="unknown decoding option 'beam'"):
        DecodingOptions.create(beam=3)
    with pytest.raises(ValueError, match="^options is"):
        DecodingOptions.create({"beams": 3})


def test_the_textbook_has_one_group():
    assert DecodingOptions(convention="textbook").rows_per_text == 6
    with pytest.raises(ValueError, match="^convention is 'other': give open_clip, textbook"):
        DecodingOptions(convention="other")


def test_generate_takes_options(tiny_model):
    model, tokens = tiny_model(), np.random.default_rng(0).standard_normal((3, 8))
    for keywords in ({}, {"beams": 1}, {"textbook": True}, {"temperature": 2.0, "seed": 3}):
        want = model.generate(tokens, **keywords)
        np.testing.assert_array_equal(model.generate(tokens, DecodingOptions.create(**keywords)), want)
        options = DecodingOptions.create(beams=3, min_length=6)
        np.testing.assert_array_equal(
            model.generate(tokens, options, **keywords),
            model.generate(tokens, **{"beams": 3, "min_length": 6} | keywords),
        )


def test_zero_temperature_points_to_greedy_decoding():
    with pytest.raises(ValueError, match=r"^temperature is 0\.0: .* give beams=1"):
        DecodingOptions(temperature=0)


# Candidates


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_candidates_are_the_best_texts(convention):
    """With enough beams, the candidates are the texts of the highest scores, best first."""
    logits = language(4, 7)

    def next_logits(ids, rows):
        return np.array([logits(tuple(text)) for text in ids.tolist()])

    options = DecodingOptions(
        beams=64,
        beam_groups=1,
        candidates=5,
        min_length=0,
        max_length=4,
        convention=convention,
        length_penalty=0,
    )
    [texts] = generation.generate_ids(next_logits, np.array([[START]]), END, 0, options)
    totals = all_texts(logits, (START,), 4, textbook=convention == "textbook")
    ranked = sorted(totals, key=totals.__getitem__, reverse=True)
    assert [tuple(text.tolist()) for text in texts] == ranked[:5]


def test_candidates_of_a_model(tiny_model, tokenizer):
    model = tiny_model(tokenizer=tokenizer)
    raise_logits(model, {END: 2.0})
    tokens = np.random.default_rng(0).standard_normal((2, 3, 8))
    lists = model.generate(tokens, candidates=4, min_length=1)
    for one, candidates in zip(tokens, lists, strict=True):
        assert len({tuple(text) for text in candidates}) == 4
        np.testing.assert_array_equal(
            candidates[0], model.generate(one, beams=6, beam_groups=1, min_length=1)
        )
    captions = model.caption(np.zeros((1, 14, 14, 3), np.uint8), candidates=3)
    assert (
        isinstance(captions, list) and len(captions) == 3 and all(isinstance(text, str) for text in captions)
    )


@pytest.mark.parametrize(
    "keywords",
    [{"candidates": 7}, {"candidates": 2, "temperature": 1.0}, {"candidates": 2, "beams": 1}],
    ids=str,
)
def test_candidates_need_as_many_beams(keywords):
    with pytest.raises(
        ValueError, match="^candidates (is .* give more beams, in one group|needs beam search)"
    ):
        DecodingOptions(**keywords)
