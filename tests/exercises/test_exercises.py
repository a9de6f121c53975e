"""The exercises: solutions are right, each common mistake is found and gets its hint."""

import numpy as np
import pytest
import solutions
from wrong_solutions import WRONG

from minivideococa.exercises import EXERCISES
from minivideococa.exercises.catalogue import checked
from minivideococa.exercises.hints import HINTS
from minivideococa.exercises.running import RunningModel

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


@pytest.mark.parametrize(("exercise", "name", "function"), CASES)
def test_a_common_mistake_is_named(exercise, name, function, running):
    result = checked(exercise, {exercise: function}, running)
    assert (result.status, result.hint) == ("wrong", HINTS[name]), result
    assert len(result.lines) >= 2


def test_every_hint_is_tried():
    tried = {name for mistakes in WRONG.values() for name in mistakes}
    assert tried == set(HINTS)
