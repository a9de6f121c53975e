"""The loop of finetuning: a step, a validation, a saved state; and going on after an interruption.

Everything that a step depends on is in the saved state or follows from the step's number. So a run that was
killed goes on to the same bits as one that was not, on the same machine with the same number of threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path

import numpy as np

from ..checkpoint.table import unnest
from ..model.config import Params
from ..model.videococa import VideoCoCa
from ..progress import Progress
from ..resources import require_memory
from . import state
from .data import Batch, Dataset
from .log import Log
from .optimizer import AdamW, clamp_logit_scale, clip, learning_rate
from .options import TuningOptions
from .parameters import Parameters, is_reached, is_tuned
from .state import Position
from .step import Losses, Objective, accumulate, mean_losses


@dataclass(frozen=True)
class Phase:
    """A phase of tuning: which tensors are tuned, how long, and on what."""

    name: str  # "lit", "frozen" or "full"
    steps: int
    training: Dataset
    validation: Dataset | None


@dataclass(frozen=True)
class Run:
    """A run of finetuning: all that does not change from step to step."""

    model: VideoCoCa  # with its new layers and words, before the first step
    options: TuningOptions
    objective: Objective
    folder: Path
    phases: list[Phase]

    @property
    def steps(self) -> int:
        """The number of steps, unless a phase ends early."""
        return sum(phase.steps for phase in self.phases)

    def parameters(self, phase: Phase, params: Params) -> Parameters:
        """Return the parameters of a phase, from these values.

        Raises ValueError if they, their gradients and the optimizer's moments do not fit into memory.
        """
        reached = partial(
            is_reached, config=self.model.config, task=self.options.task, adapter=self.objective.adapter
        )
        tensors, also = unnest(params).items(), self.options.also
        tuned = sum(x.nbytes for name, x in tensors if is_tuned(name, phase.name, also) and reached(name))
        hint = "tune less (--tune lit or frozen), or a smaller model"
        require_memory(4 * tuned, f"tuning ({phase.name})", hint)
        return Parameters.of(params, phase.name, reached, also)

    def clips(self, step: int) -> int:
        """Return the number of clips in the first `step` steps."""
        data = self.phases[0].training
        epochs, index = divmod(step, len(data))
        return epochs * len(data.examples) + min(index * self.options.batch, len(data.examples))


class NotFiniteError(ValueError):
    """A loss, a gradient or a tuned value is NaN or infinite. The run cannot go on."""


@dataclass
class Tuner:
    """A phase under way: all that changes from step to step."""

    phase: Phase
    position: Position
    parameters: Parameters
    optimizer: AdamW

    @classmethod
    def begin(cls, run: Run, position: Position, params: Params) -> Tuner:
        """Begin the position's phase with a new optimizer, from these parameters."""
        phase, options = run.phases[position.phase], run.options
        parameters = run.parameters(phase, params)
        optimizer = AdamW.of(
            parameters, options.weight_decay, (options.beta1, options.beta2), options.epsilon
        )
        return cls(phase, position, parameters, optimizer)

    @classmethod
    def restore(cls, run: Run, step: int) -> Tuner:
        """Go on from the state that was saved after `step`."""
        position, vectors = state.read_state(run.folder, step)
        tuner = cls.begin(run, position, run.model.params)
        tuner.parameters.values[:] = vectors["values"]
        tuner.optimizer.restore(vectors)
        return tuner

    def is_done(self, patience: int | None) -> bool:
        """Return whether the phase has taken all its steps, or the validation loss has stopped falling."""
        stopped = patience is not None and self.position.stale >= patience
        return stopped or self.position.phase_step >= self.phase.steps

    def save(self, run: Run) -> None:
        """Save the state. Raises NotFiniteError rather than saving values that are not finite."""
        values = self.parameters.values
        if not np.isfinite(values).all():
            raise NotFiniteError(f"step {self.position.step}: the tuned weights are not finite")
        vectors = {"values": values, **self.optimizer.state()}
        state.write_state(run.folder, self.position, vectors, run.options.keep)


def train(run: Run, log: Log, progress: Progress) -> Tuner:
    """Take the steps of all phases, from the newest saved state on. Return the last phase as it ended.

    The optimizer, its learning rate and the patience start anew in each phase; the order of the clips goes
    on. `progress` is called once, with "clips" or "questions".

    Raises NotFiniteError for a loss that is not finite, and OSError for a state that cannot be saved.
    """
    steps = state.saved_steps(run.folder)
    tuner = Tuner.restore(run, steps[-1]) if steps else Tuner.begin(run, Position(), run.model.params)
    with progress(run.clips(run.steps), "questions" if run.options.task == "qa" else "clips") as update:
        update(run.clips(tuner.position.step))
        while True:
            while not tuner.is_done(run.options.patience):
                losses = take_step(run, tuner, log)
                step = tuner.position.step
                update(run.clips(step) - run.clips(step - 1), _note(losses, tuner.position.best))
            if tuner.position.phase + 1 == len(run.phases):
                return tuner
            position = replace(tuner.position, phase=tuner.position.phase + 1, phase_step=0, stale=0)
            tuner = Tuner.begin(run, position, tuner.parameters.params)


def _note(losses: Losses, best: float | None) -> str:
    """Return what stands beside the progress bar."""
    return f"loss {losses['loss']:.3f}" + ("" if best is None else f", best validation {best:.3f}")


def take_step(run: Run, tuner: Tuner, log: Log) -> Losses:
    """Take one step, and validate and save after it if it is time to. Return its losses."""
    position, phase, options = tuner.position, tuner.phase, run.options
    start = time.perf_counter()
    epoch, index = divmod(position.step, len(phase.training))
    batch = phase.training.batch(epoch, index)
    losses, norm, rate = _update(run, tuner, batch)
    position.step, position.phase_step = position.step + 1, position.phase_step + 1
    seconds = time.perf_counter() - start
    place = {"step": position.step, "epoch": epoch + 1, "phase": phase.name}
    log.write(
        {
            **place,
            **losses,
            "learning_rate": rate,
            "gradient_norm": norm,
            "seconds": round(seconds, 4),
            "clips_per_second": round(len(batch.examples) / seconds, 2),
        }
    )
    last, improved = position.phase_step == phase.steps, False
    if phase.validation and (last or position.step % options.interval("validate_every", run.steps) == 0):
        validation = validate(run, phase.validation, tuner.parameters.params)
        log.write({**place, "validation": validation})
        improved = _is_improved(position, validation["loss"])
    due = improved or position.step % options.interval("save_every", run.steps) == 0
    if due or tuner.is_done(options.patience):
        tuner.save(run)
    return losses


def _update(run: Run, tuner: Tuner, batch: Batch) -> tuple[Losses, float, float]:
    """Change the parameters by a step on a batch. Return the losses, the gradients' norm and the rate."""
    options, parameters, position = run.options, tuner.parameters, tuner.position
    parameters.gradients[:] = 0
    with np.errstate(all="ignore"):  # what is not finite is an error below
        losses = accumulate(batch, parameters, run.objective, options.micro_batch, options.recompute)
        norm = clip(parameters.gradients, options.max_norm)
    for name, value in {**losses, "gradient's norm": norm}.items():
        if not isfinite(value):
            clips = ", ".join(str(example.video) for example in batch.examples)
            raise NotFiniteError(f"step {position.step + 1}: the {name} is not finite; its clips: {clips}")
    steps = tuner.phase.steps
    warmup = steps // 10 if options.warmup is None else options.warmup
    rate = learning_rate(position.phase_step, steps, warmup, options.learning_rate)
    tuner.optimizer.update(parameters.values, parameters.gradients, rate)
    clamp_logit_scale(parameters)
    return losses, norm, rate


def validate(run: Run, data: Dataset, params: Params) -> Losses:
    """Return the losses of a validation set, see `step.mean_losses`. Raises NotFiniteError."""
    with np.errstate(all="ignore"):  # what is not finite is an error below
        losses = mean_losses(data.batches(0), params, run.objective, run.options.micro_batch)
    for name, value in losses.items():
        if not isfinite(value):
            raise NotFiniteError(f"validation: the {name} is not finite")
    return losses


def _is_improved(position: Position, loss: float) -> bool:
    """Note a validation loss. Return whether it is the lowest so far."""
    if position.best is not None and loss >= position.best:
        position.stale += 1
        return False
    position.best, position.best_step, position.stale = loss, position.step, 0
    return True
