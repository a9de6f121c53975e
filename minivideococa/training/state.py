"""The state of a run on disk: all that a run needs to go on as if it had never been interrupted.

A run's folder holds

    run.json            what was asked for: the options, and fingerprints of the model and the manifests
    log.jsonl           one JSON object for each step and each validation, see `log`
    state-N.safetensors the state after N steps: the tuned tensors and AdamW's moments, as flat vectors, and
                        the `Position` as metadata. The newest ones, and the one of the best validation
    tuned.safetensors   at the end: the tuned part
    checkpoint/         at the end, if asked for: a whole checkpoint

The order of the clips and the caption that is drawn for each follow from the seed and the step, so that no
random state needs saving. Files are written beside their places and moved there when they are complete: a
run that is killed at any moment leaves whole files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.folder import open_safetensors, read_metadata, save_tensors
from ..inputs import read_json
from ..model.config import Array
from ..output import UNFINISHED, atomic_write, json_text, locked

RUN, LOG, TUNED, CHECKPOINT = "run.json", "log.jsonl", "tuned.safetensors", "checkpoint"
STATE = re.compile(r"state-(\d+)\.safetensors")
POSITION = "minivideococa.position"  # key of the metadata of a state
FREE = ("keep", "save_every")  # options that may change when a run is resumed: they change no result


@dataclass
class Position:
    """Where a run is."""

    step: int = 0  # optimizer steps taken
    phase: int = 0  # index of the phase of tuning
    phase_step: int = 0  # steps taken in this phase: the optimizer's own
    best: float | None = None  # the lowest validation loss
    best_step: int | None = None  # the step it was measured after
    stale: int = 0  # validations since then, of this phase


@dataclass(frozen=True)
class State:
    """A saved state: the position and three vectors [n], in the order of `Parameters.values`."""

    position: Position
    values: Array  # the tuned tensors
    first: Array  # AdamW's moments
    second: Array


@contextmanager
def run_folder(folder: Path, run: Mapping[str, Any]) -> Iterator[None]:
    """Make or reopen the folder of a run, for this process alone while the `with` block lasts.

    `run` is what was asked for, a JSON object. Raises ValueError if another process writes there, if a run
    that was asked for something else is there, which the message names, and if `folder` holds other files;
    OSError if it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: exists and is a file: give another name, or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if (folder / RUN).is_file():
            _require_same_run(folder, run)
        elif others := sorted(path.name for path in folder.iterdir() if not UNFINISHED.fullmatch(path.name)):
            raise ValueError(
                f"{folder}: exists and holds no run of finetune ({others[0]}): give another folder"
            )
        with atomic_write(folder / RUN) as partial:
            partial.write_text(json_text(run) + "\n", encoding="utf-8")
        yield


def _require_same_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Raise ValueError if the run in a folder was asked for something else."""
    old, new = read_json(folder / RUN, "remove the folder, and start again"), json.loads(json_text(run))
    for name, value in {**new, **new["options"]}.items():
        before = {**old, **old["options"]}.get(name)
        if name not in ("options", *FREE) and before != value:
            said = f"{name} was {before!r} and is {value!r}" if name in new["options"] else f"another {name}"
            raise ValueError(
                f"{folder}: holds a run with other options ({said}): repeat its command to resume it, or "
                "give another folder"
            )


def state_path(folder: Path, step: int) -> Path:
    """Return the path of the state after this many steps."""
    return folder / f"state-{step}.safetensors"


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the saved states, in order."""
    return sorted(int(match[1]) for path in folder.iterdir() if (match := STATE.fullmatch(path.name)))


def write_state(folder: Path, state: State, keep: int) -> None:
    """Write a state, then remove all but the `keep` newest ones and the best. Raises OSError."""
    position = state.position
    vectors = {"values": state.values, "first": state.first, "second": state.second}
    with atomic_write(state_path(folder, position.step)) as partial:
        save_tensors(partial, vectors, {POSITION: json_text(asdict(position))})
    for step in saved_steps(folder)[:-keep]:
        if step != position.best_step:
            state_path(folder, step).unlink()


def read_state(folder: Path, step: int) -> State:
    """Return a saved state, memory-mapped. Raises ValueError for a damaged file."""
    path = state_path(folder, step)
    vectors = {name: tensor.read() for name, tensor in open_safetensors(path).items()}
    try:
        position = Position(**json.loads(read_metadata(path)[POSITION]))
        return State(position, vectors["values"], vectors["first"], vectors["second"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: is not a state of finetune: remove it, to go on from an older one"
        ) from None
