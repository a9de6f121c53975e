"""The exercises in order, and how they are checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..inputs import path_name
from ..output import atomic_write, resolve_output
from ..progress import Progress, no_progress
from . import decoding, forward, gradient, sampling
from .learner import find, functions_of
from .result import NOT_WRITTEN, RIGHT, WRONG, NotWritten, Result, Verdict, Wrong
from .running import RunningModel

TEMPLATE = Path(__file__).with_name("template.py")

# The name of the learner's function -> what checks it; they are numbered from 1 on
EXERCISES: dict[str, Callable[..., Verdict]] = {
    "patchify": forward.patchify,
    "attention": forward.attention,
    "pooler": forward.pooler,
    "shifted_mask": forward.shifted_mask,
    "greedy": decoding.greedy,
    "cached_attention": decoding.cached_attention,
    "beam_search": decoding.beam_search,
    "pooler_gradient": gradient.pooler_gradient,
    "sample_frames": sampling.sample_frames,
}

OF_ATTENTION = "{name} itself is right: it calls your attention, exercise 2, which is wrong. Mend that first"


def check(
    functions: Mapping[str, Any], names: Sequence[str | int] = (), *, progress: Progress = no_progress
) -> list[Result]:
    """Check a learner's functions in the running model, the embedded checkpoint on a bundled clip.

    functions: name of an exercise -> function, for example `globals()` of a notebook. names: the exercises to
    check, by name or number; without any, all. progress: see `minivideococa.progress`.
    Raises ValueError for a name that is no exercise.
    """
    chosen, running = exercise_names(names), RunningModel()
    results = []
    with progress(len(chosen), "exercises") as update:
        for name in chosen:
            update(0, name)
            results.append(checked(name, functions, running))
            update(1)
    return results


def check_file(
    path: str | os.PathLike[str], names: Sequence[str | int] = (), *, progress: Progress = no_progress
) -> list[Result]:
    """Check the functions in a learner's file, as `check`.

    Raises OSError if it cannot be read, and ValueError if it is not Python or fails while it is run.
    """
    exercise_names(names)
    return check(functions_of(path), names, progress=progress)


def checked(name: str, functions: Mapping[str, Any], running: RunningModel) -> Result:
    """Return the result of one exercise. If it is wrong because of the learner's `attention`, say so."""
    result = checked_alone(name, functions, running)
    names = getattr(functions.get(name), "__globals__", {})  # what the function may call
    learners = names.get("attention")
    if result.status == WRONG and name != "attention" and learners and forward.attention_is_wrong(learners):
        try:
            names["attention"] = forward.attend
            with_ours = checked_alone(name, functions, running)
        finally:
            names["attention"] = learners
        if with_ours.status == RIGHT:
            return replace(result, hint=OF_ATTENTION.format(name=name))
    return result


def checked_alone(name: str, functions: Mapping[str, Any], running: RunningModel) -> Result:
    """Return the result of one exercise, whichever function it calls."""
    number = list(EXERCISES).index(name) + 1
    try:
        verdict = EXERCISES[name](find(functions, name), running)
    except NotWritten as unwritten:
        return Result(number, name, NOT_WRITTEN, tuple(filter(None, [str(unwritten)])))
    except Wrong as wrong:
        return Result(number, name, WRONG, wrong.lines, wrong.hint)
    status = RIGHT if verdict.right else WRONG
    return Result(number, name, status, verdict.lines, verdict.hint, verdict.caption, verdict.tensor)


def exercise_names(names: Sequence[str | int]) -> list[str]:
    """Return the names of exercises, given by name or number, each once and in order; without any, of all.

    Raises ValueError for one that there is not.
    """
    numbered = {str(i): name for i, name in enumerate(EXERCISES, 1)}
    known = {str(name): numbered.get(str(name), str(name)) for name in names}
    if unknown := [given for given, name in known.items() if name not in EXERCISES]:
        listed = ", ".join(f"{i} {name}" for i, name in numbered.items())
        raise ValueError(f"there is no exercise {unknown[0]}: there are {listed}")
    return [name for name in EXERCISES if name in known.values() or not known]


def write_template(path: str | os.PathLike[str]) -> Path:
    """Write the file that a learner fills in, and return its path.

    Raises FileExistsError if there is a file already, and OSError and ValueError as `output.resolve_output`.
    """
    name = path_name(path, "give the name of a file to write, such as exercises.py")
    if os.path.lexists(name):
        raise FileExistsError(f"{name}: exists: give another name, so that nothing written is lost")
    destination = resolve_output(name)
    with atomic_write(destination) as partial:
        partial.write_bytes(TEMPLATE.read_bytes())
    return destination
