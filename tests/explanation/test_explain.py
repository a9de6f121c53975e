"""`mvc.explain`: what it says is what the model says, and the laws of its maps."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import minivideococa as mvc
from minivideococa.checkpoint import with_tensors
from minivideococa.demo import CLIPS
from minivideococa.explanation import explain as module
from minivideococa.explanation.relevance import FORMULAS
from minivideococa.media.preprocess import square_frames
from minivideococa.model.hooks import replace_operations
from minivideococa.training.parameters import new_question_head

PAIR = CLIPS / "pair.gif"
ADAPTERS = ("attentional", "mean", "joint")


@pytest.fixture(scope="module")
def model():
    return mvc.load()


@pytest.fixture(scope="module")
def questions():
    return mvc.load(tuned="questions")


@pytest.fixture(scope="module")
def frames():
    return mvc.read_video(PAIR, 4)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    "options", [{}, {"beams": 1}, {"top_p": 0.9, "seed": 3}, {"prompt": "we see"}], ids=str
)
def test_the_text_is_the_caption(model, frames, adapter, options):
    explanation = mvc.explain(model, frames, adapter=adapter, **options)
    prompt = options.get("prompt", "")
    assert f"{prompt} {explanation.text}".strip() == model.caption(frames, adapter=adapter, **options)
    assert " ".join(explanation.words).strip() == explanation.text and explanation.words[-1] == ""
    assert explanation.adapter == adapter and explanation.question is None


def test_the_answer_is_the_answer(questions, frames):
    question = "what shape is red?"
    explanation = mvc.explain(questions, frames, question)
    assert explanation.text == mvc.answer(questions, frames, question) == "ring"
    assert explanation.words == ("ring", "") and explanation.question == question
    assert len(explanation.maps) == explanation.cross.shape[2] == 2


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("formula", FORMULAS)
def test_shares_of_the_tokens_add_up(model, frames, adapter, formula):
    explanation = mvc.explain(model, frames, adapter=adapter, formula=formula)
    L, T = len(explanation.words), len(frames)
    assert explanation.maps.shape == (L, T, 8, 8) and explanation.frame_weights.shape == (L, T)
    assert (explanation.maps >= 0).all()
    np.testing.assert_allclose(explanation.frame_weights.sum(axis=1), 1, rtol=1e-5)
    classes = explanation.frame_weights - explanation.maps.sum(axis=(2, 3))
    assert (classes > -1e-6).all() and (classes < 0.2).all()


def test_probabilities_are_the_decoders(model, frames):
    explanation = mvc.explain(model, frames)
    scored = mvc.score(model, frames, [explanation.text])[0]
    assert np.log(explanation.probabilities).sum() == pytest.approx(scored, rel=1e-4)
    for word, p, likeliest in zip(explanation.words, explanation.probabilities, explanation.likeliest):
        assert len(likeliest) == 5 and [q for _, q in likeliest] == sorted((q for _, q in likeliest))[::-1]
        assert dict(likeliest).get(word, p) == pytest.approx(p)


@pytest.mark.parametrize("adapter", ["attentional", "mean"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_permuted_frames_have_permuted_maps(frames, adapter, formula):
    model, order = mvc.load(dtype="float64"), [2, 0, 3, 1]
    one = mvc.explain(model, frames, adapter=adapter, formula=formula)
    other = mvc.explain(model, frames[order], adapter=adapter, formula=formula)
    assert one.words == other.words
    for name, axis in ("maps", 1), ("frame_weights", 1), ("pooler", 2), ("latent", 1), ("frames", 0):
        permuted = np.take(getattr(one, name), order, axis=axis)
        np.testing.assert_allclose(getattr(other, name), permuted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_equal_frames_count_equally(model, frames, adapter):
    explanation = mvc.explain(model, frames[[0, 0, 0]], adapter=adapter)
    np.testing.assert_allclose(explanation.frame_weights, 1 / 3, rtol=1e-3)


def test_of_one_frame_all_adapters_are_the_same(model, frames):
    one, *others = (mvc.explain(model, frames[:1], adapter=adapter) for adapter in ADAPTERS)
    for other in others:
        np.testing.assert_allclose(one.maps, other.maps, rtol=1e-2, atol=1e-5)


def test_the_image_encoder_runs_once(model, frames):
    seen = []

    def counted(transformer):
        return lambda x, *args: seen.append(len(x)) or transformer(x, *args)

    with replace_operations({"vision.transformer": counted}):
        mvc.explain(model, frames)
    assert sum(seen) == len(frames)


def test_frames_are_those_that_the_model_sees(model):
    wide = np.random.default_rng(0).integers(0, 256, (2, 50, 90, 3), np.uint8)
    explanation = mvc.explain(model, wide)
    np.testing.assert_array_equal(explanation.frames, square_frames(wide, model.config.preprocess))
    np.testing.assert_array_equal(model.preprocess(explanation.frames), model.preprocess(wide))
    assert explanation.frames.shape == (2, 64, 64, 3)


def test_times_are_those_of_the_sampled_frames(model, frames, tmp_path):
    """The bundled clips last 2.4 seconds."""
    explanation = mvc.explain(model, PAIR, num_frames=4, beams=1)
    assert explanation.times == pytest.approx([0.3, 0.9, 1.5, 2.1])
    cut = mvc.explain(model, PAIR, num_frames=2, start=1, end="00:02", beams=1)
    assert cut.times == pytest.approx([1.25, 1.75])
    Image.fromarray(frames[0]).save(tmp_path / "still.png")
    for source in (frames, tmp_path / "still.png", tmp_path):  # no file, a still, a folder of images
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert mvc.explain(model, source, num_frames=2, beams=1).times is None


def test_shapes_are_those_of_a_trace(model, frames):
    explanation = mvc.explain(model, frames)
    with mvc.trace() as activations:
        video = model.encode(frames)
        model.decode(video.tokens, model.tokenize(explanation.text)[:, : len(explanation.words)])
    for name, shape in explanation.shapes:
        assert shape == activations[name].shape, name
    np.testing.assert_allclose(explanation.video.latent, video.latent, rtol=1e-5, atol=1e-6)


def test_an_outer_trace_and_the_stages_of_progress(model, frames):
    from contextlib import contextmanager

    counts = {}

    @contextmanager
    def progress(total, unit):
        counts[unit] = 0

        def update(count, note=""):
            counts[unit] += count

        yield update

    with mvc.trace() as activations:
        explanation = mvc.explain(model, frames, progress=progress)
    assert "vision.embed" in activations and "pool.weights" not in activations
    assert counts["frames"] == len(frames) and counts["tokens"] >= len(explanation.words)


@pytest.mark.parametrize("form", [True, "parallel", "cascade"])
@pytest.mark.parametrize("adapter", ["attentional", "mean", "joint", "factorized"])
def test_every_form_of_the_model(tiny_model, tokenizer, form, adapter):
    vision = {"attentional_pool": form} | ({} if form is True else {"width": 8, "head_width": 4})
    model = tiny_model(
        tokenizer=tokenizer, vision=vision, video={"factorized": {"layers": 1, "heads": 2}}, dtype="float32"
    )
    frames = np.random.default_rng(0).integers(0, 256, (3, 14, 14, 3), np.uint8)
    explanation = mvc.explain(model, frames, adapter=adapter)
    assert explanation.maps.shape[1:] == (3, 3, 3) and explanation.patch_size == 4
    np.testing.assert_allclose(explanation.frame_weights.sum(axis=1), 1, rtol=1e-5)


def test_without_any_relevance_all_tokens_have_the_same_share():
    shares = module._shares(np.array([[[0.0, 0.0]], [[1.0, 3.0]]]))
    np.testing.assert_array_equal(shares, [[[0.5, 0.5]], [[0.25, 0.75]]])


def test_a_model_that_was_tuned_for_questions_has_no_caption_to_explain(questions, frames):
    with pytest.raises(ValueError, match="writes no captions: give a question"):
        mvc.explain(questions, frames)
    continued = mvc.explain(questions, frames, prompt="what shape is red?", beams=1)
    assert continued.words[0] == "ring" and continued.question is None


def test_what_cannot_be_explained(model, questions, frames):
    for message, arguments, keywords in [
        ("an encoded video has no frames", [model.encode(frames)], {}),
        ("formula is 'x': give gradient, attention", [frames], {"formula": "x"}),
        ("candidates is 2", [frames], {"candidates": 2}),
        ("question is blank", [frames, " "], {}),
        ("adapter is factorized", [frames], {"adapter": "factorized"}),
        ("frames must be uint8", [frames.astype(float)], {}),
        ("max_length is 99", [frames], {"max_length": 99}),
    ]:
        with pytest.raises(ValueError, match=message):
            mvc.explain(model, *arguments, **keywords)
    with pytest.raises(TypeError, match="unknown decoding option"):
        mvc.explain(model, frames, colour=1)


def test_the_class_of_a_classifier_is_one_word(model, frames):
    config = replace(model.config, answers=("ring", "star", "heart"))
    head = new_question_head(config, 0, model.dtype)
    head["question_head.classifier.weight"] += np.random.default_rng(0).standard_normal((3, 128)) / 10
    classifier = with_tensors(model, head, config=config)
    question = "a red"
    explanation = mvc.explain(classifier, frames, question)
    assert explanation.words == (mvc.answer(classifier, frames, question),) == (explanation.text,)
    assert explanation.maps.shape == (1, 4, 8, 8) and explanation.cross.shape[2] == 1
    assert len(explanation.likeliest[0]) == 3 and sum(
        p for _, p in explanation.likeliest[0]
    ) == pytest.approx(1)
    np.testing.assert_allclose(explanation.cross.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(explanation.frame_weights.sum(axis=1), 1, rtol=1e-5)
    assert mvc.explain(classifier, frames).text == model.caption(frames)
    tuned = with_tensors(model, head, config=config, tuned_for="qa")
    with pytest.raises(ValueError, match="writes no captions"):
        mvc.explain(tuned, frames)


@pytest.mark.slow
def test_the_measurement_of_fairness(monkeypatch):
    """weights/measure_explanation.py on a few clips: the figures of README.md come from more."""
    from pathlib import Path

    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "weights")
    import measure_explanation as script

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = {kind: script.measure(mvc.load(), kind, 6, 1) for kind in ("single", "pair")}
    rate = {kind: np.concatenate(r.pointing["gradient"]).mean() for kind, r in results.items()}
    assert rate["single"] == 1 and rate["pair"] >= 0.8
    assert all(np.concatenate(r.areas["gradient"]).mean() > 0.2 for r in results.values())
    assert all(np.concatenate(r.chance).mean() < 0.3 for r in results.values())
