"""The state of a run on disk: all that a run needs to go on as if it had never been interrupted.

A run's folder holds

    run.json            what was asked for: the options, and fingerprints of the model and the manifests
    log.jsonl           one JSON object for each step and each validation, see `log`
    state-N.safetensors the state after N steps: the tuned tensors and AdamW's moments, as flat vectors, and
                        the `Position` as metadata. The newest ones, and the one of the best validation
    tuned.safetensors   at the end: the tuned part
    checkpoint/         at the end, if asked for: a whole checkpoint
    summary.json        at the end: what came out

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
from typing import Any, NoReturn

from ..checkpoint.folder import open_safetensors, read_metadata, save_tensors
from ..inputs import parse_json, read_json
from ..model.config import Array
from ..output import UNFINISHED, atomic_write, json_text, locked, make_folder, require_writable

RUN, LOG, SUMMARY, CHECKPOINT = "run.json", "log.jsonl", "summary.json", "checkpoint"
STATE = re.compile(r"state-(\d+)\.safetensors")
POSITION = "minivideococa.position"  # key of the metadata of a state
FREE = ("keep", "save_every", "allow_bad")  # options that may change when a run is resumed: no result does


@dataclass
class Position:
    """Where a run is."""

    step: int = 0  # optimizer steps taken
    phase: int = 0  # index of the phase of tuning
    phase_step: int = 0  # steps taken in this phase: the optimizer's own
    best: float | None = None  # the lowest validation loss
    best_step: int | None = None  # the step it was measured after
    stale: int = 0  # validations since then, of this phase


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Make or reopen the folder of a run, for this process alone while the `with` block lasts.

    Raises ValueError if another process works there, or if it holds other files than a run's; OSError if it
    cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: exists and is a file: give another name, or remove it first")
    make_folder(folder)
    require_writable(folder, folder)  # before hours of encoding
    with locked(folder):
        others = sorted(path.name for path in folder.iterdir() if not UNFINISHED.fullmatch(path.name))
        if others and not (folder / RUN).is_file():
            raise ValueError(
                f"{folder}: exists and holds no run of finetune ({others[0]}): give another folder"
            )
        yield


def require_same_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the difference, if a folder has saved states of another run."""
    if not saved_steps(folder):
        return
    hint = "remove the folder, and start again"
    recorded = read_json(folder / RUN, hint)
    if not isinstance(recorded, dict) or not isinstance(recorded.get("options"), dict):
        raise ValueError(f"{folder / RUN}: does not say what the run was asked for; {hint}")
    for name, value in json.loads(json_text(facts)).items():
        before = recorded.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            for key in value.keys() - {*FREE}:
                if value[key] != before.get(key):
                    _refuse(folder, f"{key} was {before.get(key)!r} and is {value[key]!r}")
        elif value != before:
            _refuse(folder, "other clips, texts or validation" if name == "data" else f"another {name}")


def record_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what a run was asked for, a JSON object, to its run.json. Raises OSError if that fails."""
    with atomic_write(folder / RUN) as partial:
        partial.write_text(json_text(facts) + "\n", encoding="utf-8")


def _refuse(folder: Path, difference: str) -> NoReturn:
    raise ValueError(
        f"{folder}: holds a run of something else ({difference}): repeat its command to resume it, or give "
        "another folder"
    )


def state_path(folder: Path, step: int) -> Path:
    """Return the path of the state after this many steps."""
    return folder / f"state-{step}.safetensors"


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the saved states, in order."""
    return sorted(int(match[1]) for path in folder.iterdir() if (match := STATE.fullmatch(path.name)))


def write_state(folder: Path, position: Position, vectors: Mapping[str, Array], keep: int) -> None:
    """Write a state, then remove all but the `keep` newest ones and the best. Raises OSError.

    vectors: "values", the tuned tensors as in `Parameters`, and those of `AdamW.state`.
    """
    try:
        with atomic_write(state_path(folder, position.step)) as partial:
            save_tensors(partial, vectors, {POSITION: json_text(asdict(position))})
    except OSError as error:
        raise OSError(f"{error}; make room, and repeat the command to go on") from None
    for step in saved_steps(folder)[:-keep]:
        if step != position.best_step:
            state_path(folder, step).unlink()


def read_state(folder: Path, step: int) -> tuple[Position, dict[str, Array]]:
    """Return a saved position and its vectors, memory-mapped. Raises ValueError for a damaged file."""
    path = state_path(folder, step)
    try:
        vectors = {name: tensor.read() for name, tensor in open_safetensors(path).items()}
        return Position(**parse_json(read_metadata(path)[POSITION], str(path), "")), vectors
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: is damaged, or no state of finetune: remove it, to go on from an older one"
        ) from None
