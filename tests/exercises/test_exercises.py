"""The exercises: solutions are right, each common mistake is found and gets its hint."""

import ast
import inspect
import re
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import solutions
from wrong_solutions import WRONG, gradient, heads_of, joined

from minivideococa.exercises import EXERCISES, TEMPLATE, check, text
from minivideococa.exercises.catalogue import OF_ATTENTION, checked, exercise_names
from minivideococa.exercises.decoding import BEAM_SEEDS, BEAMS, search_ids, toy_language
from minivideococa.exercises.hints import HINTS
from minivideococa.exercises.result import Verdict
from minivideococa.exercises.running import RunningModel
from minivideococa.model import ops

SLOW = pytest.mark.slow
SOLVED = {name: getattr(solutions, name) for name in EXERCISES}
CASES = [
    pytest.param(exercise, name, function, id=f"{exercise}-{name}")
    for exercise, mistakes in WRONG.items()
    for name, functions in mistakes.items()
    for function in functions
]


@pytest.fixture(scope="module")
def running():
    return RunningModel()


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_solution_is_right(exercise, running):
    result = checked(exercise, SOLVED, running)
    assert (result.status, result.hint, result.tensor) == ("right", "", None), result
    assert exercise in ("pooler_gradient", "sample_frames") or result.caption == running.caption


@pytest.mark.slow
@pytest.mark.parametrize(("exercise", "name", "function"), CASES)
def test_a_common_mistake_is_named(exercise, name, function, running, monkeypatch):
    """By its result alone; what the model makes of some of them, see below."""
    monkeypatch.setattr(running, "judge", lambda mistake, *_, **__: mistake or Verdict(True, ()))
    result = checked(exercise, {exercise: function}, running)
    assert (result.status, result.hint) == ("wrong", HINTS[name]), result
    assert result.lines


@pytest.mark.slow
@pytest.mark.parametrize("exercise", ["pooler", pytest.param("cached_attention", marks=SLOW)])
def test_a_function_that_calls_a_wrong_attention_is_not_to_blame(exercise, running):
    """The learner's attention, in the same file, is wrong; then it is right, and the function is wrong."""
    source = inspect.getsource(solutions)
    scaled = "/ np.sqrt(q.shape[-1])"
    assert source.count(scaled) == 1
    names = {}
    exec(source.replace(scaled, ""), names)
    result = checked(exercise, names, running)
    assert (result.status, result.hint) == ("wrong", OF_ATTENTION.format(name=exercise))
    exec(source.replace("queries, keys, values, heads, mask)", "keys, keys, values, heads, mask)"), names)
    exec("def pooler(tokens, p, heads): return attention(p['query'], p['query'], p['query'], heads)", names)
    result = checked(exercise, names, running)
    assert result.status == "wrong" and "attention, exercise 2" not in result.hint


def test_progress_names_the_exercise(running):
    notes = []

    @contextmanager
    def progress(total, unit):
        yield lambda count, note="": notes.append((count, note))

    check({}, ["greedy", "patchify"], progress=progress)
    assert notes == [(0, "patchify"), (1, ""), (0, "greedy"), (1, "")]


def test_every_hint_is_tried():
    tried = {name for mistakes in WRONG.values() for name in mistakes}
    assert tried == set(HINTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exercise", "name", "tensor", "caption"),
    [
        ("attention", "mask_ignored", "text.block.0", "the same"),
        ("pooler", "mean_pooling", "pool.attended", "a picture of nothing"),
        pytest.param("patchify", "by_column", "vision.embed", "the same", marks=SLOW),
        pytest.param("patchify", "reshaped_alone", "vision.embed", "another", marks=SLOW),
        pytest.param("attention", "interleaved", "vision.block.0", "another", marks=SLOW),
        pytest.param("pooler", "kv_swapped", "pool.attended", "another", marks=SLOW),
        pytest.param("shifted_mask", "not_shifted", "text.block.0", "the same", marks=SLOW),
    ],
)
def test_the_model_shows_what_a_mistake_does(exercise, name, tensor, caption, running):
    """Which tensor is wrong first, and whether the caption survives; mean pooling loses the brief event."""
    (function,) = WRONG[exercise][name]
    result = checked(exercise, {exercise: function}, running)
    assert (result.status, result.tensor, result.hint) == ("wrong", tensor, HINTS[name])
    assert any(line.startswith(f"First wrong tensor: {tensor}.") for line in result.lines)
    survives = any(line.startswith("The caption survives") for line in result.lines)
    assert survives == (caption == "the same") == (result.caption == running.caption)
    assert caption in ("another", "the same", result.caption)


def test_a_mistake_that_only_the_model_meets(running):
    """Right in the small cases: a constant stands for a size."""
    result = checked("patchify", {"patchify": patchify_small}, running)
    assert (
        result.status == "wrong"
        and "In the model, called with pixels float32 [8, 3, 64, 64], patch_size 8," in result.lines[0]
    )
    assert result.lines[1:] == ("Expected:  [8, 64, 192]", "Came:      [8, 4, 192]")


def patchify_small(pixels, patch_size):
    n = min(pixels.shape[-1] // patch_size, 2)
    return solutions.patchify(pixels[..., : n * patch_size, : n * patch_size], patch_size)


def test_a_cache_that_only_the_model_shows_wrong(running):
    """Right call by call, with 8 channels; in the model, with more, the captions differ."""

    def cached_attention(queries, *rest):
        right = solutions.cached_attention(queries, *rest)
        return right if queries.shape[-1] == 8 else 0 * right

    result = checked("cached_attention", {"cached_attention": cached_attention}, running)
    assert result.status == "wrong" and result.caption != running.caption
    assert result.lines[0].startswith("The caption becomes ") and result.lines[1].startswith(
        "With the prompt"
    )


@pytest.mark.slow
def test_numbers_that_are_not_finite(running):
    """NaN goes through the model, and no caption is made of it."""
    result = checked("pooler", {"pooler": lambda tokens, p, heads: np.full_like(p["query"], np.nan)}, running)
    assert (result.status, result.tensor, result.caption) == ("wrong", "pool.attended", None)
    assert "The model writes no caption: its logits are not finite." in result.lines
    assert any("it is not finite" in line for line in result.lines) and "NaN" in result.hint


def test_scores_that_overflow(running, monkeypatch):
    """A softmax without the largest score subtracted is right for small ones."""
    monkeypatch.setattr(running, "judge", lambda mistake, *_, **__: mistake or Verdict(True, ()))
    with np.errstate(all="ignore"):
        result = checked("attention", {"attention": unsafe_attention}, running)
    assert "scores in the thousands" in result.lines[0] and "subtracted first" in result.hint


def unsafe_attention(queries, keys, values, heads, mask=None):
    q, k, v = (heads_of(x, heads) for x in (queries, keys, values))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores if mask is None else np.where(mask, scores, -np.inf))
    return joined(weights / weights.sum(axis=-1, keepdims=True) @ v)


def test_an_error_in_the_model_does_not_hide_a_hint(running):
    """Wrong in the small case, and it fails in the model."""

    def patchify(pixels, patch_size):
        assert patch_size < 8
        return -solutions.patchify(pixels, patch_size)

    result = checked("patchify", {"patchify": patchify}, running)
    assert result.status == "wrong" and "the numbers differ" in result.lines[0] and result.tensor is None


@pytest.mark.slow
def test_what_is_right_does_not_depend_on_the_learner():
    """The first function that a new model runs is wrong; what it is compared with is not."""
    (function,) = WRONG["pooler"]["mean_pooling"]
    told = checked("pooler", {"pooler": function}, new := RunningModel())
    assert (
        "The caption becomes 'a picture of nothing', instead of 'a photo of a yellow crescent'." in told.lines
    )
    assert new.caption == "a photo of a yellow crescent"
    (function,) = WRONG["patchify"]["channels_last"]
    told = checked("patchify", {"patchify": function}, new := RunningModel())
    assert told.caption != new.caption == "a photo of a yellow crescent"


@pytest.mark.slow
def test_an_unknown_mistake_is_named_by_verify(running):
    """Without a hint of the exercise's own, verify's description is the hint."""
    judged = running.judge(Verdict(False, ("It is wrong.",)), {"ops.gelu": lambda gelu: ops.quick_gelu})
    assert not judged.right and judged.tensor == "vision.block.0" and "QuickGELU" in judged.hint


@pytest.mark.parametrize("seed", BEAM_SEEDS)
def test_other_beam_searches_are_right_too(seed):
    """Those that keep the best extensions, finished ones among them, find a text of no lower score."""
    language = toy_language(seed)
    for early in (False, True):
        ids = shrinking_beams(language, early)
        assert language.is_text(ids) and language.score(ids) >= language.score(search_ids(language)) - 1e-9


def shrinking_beams(language, early):
    running, finished = [([language.start_id], 0.0)], []
    while running and not (early and len(finished) >= BEAMS):
        extended = [
            ([*ids, token], total + score)
            for ids, total in running
            for token, score in enumerate(solutions.log_softmax(language.for_learner(ids)))
        ]
        extended = sorted(extended, key=lambda text: -text[1])[:BEAMS]
        ended = [ids[-1] == language.end_id or len(ids) == language.max_length for ids, _ in extended]
        finished += [text for text, end in zip(extended, ended) if end]
        running = [text for text, end in zip(extended, ended) if not end]
    return np.array(max(finished, key=lambda text: text[1] / len(text[0]))[0])


# What a learner may return instead


@pytest.mark.parametrize(
    ("function", "line", "hint"),
    [
        (lambda pixels, size: None, "returns None", "return"),
        (lambda pixels, size: "patches", "returns str 'patches', not an array [1, 4, 12]", ""),
        (lambda pixels, size: [[1], [2, 3]], "returns list", ""),
        (lambda pixels, size: pixels, "wrong shape", ""),
        (lambda pixels, size: solutions.patchify(pixels, size)[:, None], "wrong shape", "a reshape"),
        (lambda pixels, size: solutions.patchify(pixels, size).swapaxes(1, 2), "wrong shape", "transpose"),
        (lambda pixels, size: solutions.patchify(pixels, size)[0], "wrong shape", "axis of length 1"),
        (lambda pixels, size: np.full_like(solutions.patchify(pixels, size), np.nan), "differ", "NaN"),
        (lambda pixels, size: -solutions.patchify(pixels, size), "differ", ""),
        (lambda pixels: pixels, "float32 [1, 3, 4, 4], 2, it fails", "keep the arguments"),
    ],
)
def test_a_result_of_another_kind(function, line, hint, running, monkeypatch):
    monkeypatch.setattr(running, "judge", lambda mistake, *_, **__: mistake or Verdict(True, ()))
    result = checked("patchify", {"patchify": function}, running)
    assert result.status == "wrong" and any(line in told for told in result.lines)
    assert hint in result.hint and bool(hint) == bool(result.hint)


def test_a_mask_without_the_axis_of_heads(running):
    told = checked(
        "shifted_mask", {"shifted_mask": lambda *args: solutions.shifted_mask(*args)[:, 0]}, running
    )
    assert told.lines[1:] == ("Expected:  [1, 1, 5, 5]", "Came:      [1, 5, 5]")
    assert told.hint.startswith("an axis of length 1 is missing")


def test_arguments_are_not_to_be_changed(running):
    def attention(queries, keys, values, heads, mask=None):
        queries /= np.sqrt(queries.shape[-1] // heads)
        return solutions.attention(queries * np.sqrt(queries.shape[-1] // heads), keys, values, heads, mask)

    result = checked("attention", {"attention": attention}, running)
    assert (
        result.status == "wrong"
        and "changes one of its arguments" in result.lines[0]
        and "in place" in result.hint
    )


@pytest.mark.parametrize("exercise", ["greedy", "beam_search"])
@pytest.mark.parametrize(
    ("result", "line"),
    [
        (None, "returns None"),
        ("a ring", "returns str 'a ring'"),
        ([[1, 2]], "returns list"),
        ([1.0, 2.0], "returns list"),
        ([], "returns list"),
    ],
)
def test_ids_of_another_kind(exercise, result, line, running):
    told = checked(exercise, {exercise: lambda *_: result}, running)
    assert told.status == "wrong" and line in told.lines[0]


def test_an_endless_text_is_stopped(running):
    def greedy(next_logits, start_id, end_id, max_length):
        ids = [start_id]
        while True:
            ids.append(int(next_logits(ids).argmax()))

    told = checked("greedy", {"greedy": greedy}, running)
    assert told.status == "wrong" and "test_exercises.py, line" in told.lines[2]
    assert (
        "ids.append(int(next_logits(ids).argmax()))" in told.lines[2] and "max_length is 7" in told.lines[2]
    )


@pytest.mark.parametrize(
    ("indices", "line"),
    [
        (None, "returns None"),
        ([0], "1 indices: the budget is 2"),
        ([0, 1, 2], "3 indices"),
        ([0, 32], "indices go from 0 to 31"),
        ([-1, 2], "indices go from 0 to 31"),
        ([0.5, 1], "whole numbers"),
        (np.zeros((2, 64, 64, 3), np.uint8), "whole numbers"),
    ],
)
def test_frames_of_another_kind(indices, line, running):
    told = checked("sample_frames", {"sample_frames": lambda frames, n: indices}, running)
    assert told.status == "wrong" and line in told.lines[0]


def test_gradients_of_another_kind(running):
    for result, line in [
        (None, "returns None"),
        (np.zeros(3), "return three arrays"),
        ((1, 2), "three arrays"),
    ]:
        told = checked("pooler_gradient", {"pooler_gradient": lambda *_: result}, running)
        assert told.status == "wrong" and line in told.lines[0]


def test_a_gradient_that_fits_the_small_case_alone(running):
    function = partial(gradient, scale=0.5)  # D = 4 there, 40 in the model
    told = checked("pooler_gradient", {"pooler_gradient": function}, running)
    assert told.status == "wrong" and "the model's pooler" in told.lines[0] and len(told.lines) == 3


# How functions are called


@pytest.mark.slow
def test_functions_of_a_notebook(running):
    results = check(globals() | {"patchify": solutions.patchify}, ["patchify", 4])
    assert [(result.name, result.status) for result in results] == [
        ("patchify", "right"),
        ("shifted_mask", "not written yet"),
    ]
    assert "There is no function shifted_mask." in text(results)
    assert text(results).endswith("1 right, 1 not written yet. Next: shifted_mask.")


def test_names_are_sorted_and_known():
    assert exercise_names([3, "patchify", "3"]) == ["patchify", "pooler"]
    assert exercise_names([]) == list(EXERCISES)
    with pytest.raises(ValueError, match="there is no exercise 10: there are 1 patchify, "):
        exercise_names(["10"])


def test_what_is_no_function(running):
    told = checked("patchify", {"patchify": 3}, running)
    assert told.lines == ("patchify is not a function: it is 3.",)


def test_the_template_has_one_function_for_each_exercise():
    functions = {
        node.name: node for node in ast.parse(TEMPLATE.read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert list(functions) == list(EXERCISES)
    for number, (name, node) in enumerate(functions.items(), 1):
        assert ast.get_docstring(node).startswith(f"{number}. ")
        assert [arg.arg for arg in node.args.args] == list(inspect.signature(SOLVED[name]).parameters)
        assert ast.unparse(node.body[-1]) == "raise Not" + "ImplementedError"


README = TEMPLATE.with_name("README.md").read_text()


def test_the_readme_poses_every_exercise():
    titles = re.findall(r"^## (\d)\. .*`(\w+)`$", README, re.MULTILINE)
    assert titles == [(str(i), name) for i, name in enumerate(EXERCISES, 1)]


@pytest.mark.slow
def test_the_readme_shows_what_check_prints(running):
    (function,) = WRONG["pooler"]["mean_pooling"]
    shown = text([checked("pooler", {"pooler": function}, running)]).partition("\n\n")[0]
    (block,) = re.findall(r"```\n(3 pooler.*?)\n```", README, re.DOTALL)
    explained = r"explains [\d.e-]+"  # the rounding depends on the machine
    assert re.sub(explained, "", shown) == re.sub(explained, "", block)


@pytest.mark.slow
def test_the_readme_states_what_uniform_sampling_gets(running):
    (function,) = WRONG["sample_frames"]["uniform"]
    lines = checked("sample_frames", {"sample_frames": function}, running).lines
    stated = re.search(r"Uniform\s+sampling\s+gets\s+(\d+)\s+of\s+40", README)[1]
    assert lines[1] == f"{stated} of 40 captions name the object, {stated} with uniform sampling."
