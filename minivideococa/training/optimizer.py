"""The optimizer: AdamW, its learning rate, and the clipping of gradients.

Everything works in place on the flat vectors of `Parameters`. VideoCoCa publishes no settings. Ours are those
of open_clip's training of CoCa with a vision transformer (open_clip_train/params.py, 3.3.0), and the weight
decay of its finetuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, log, pi, sqrt

import numpy as np

from ..model.config import Array
from .kernels import each_block
from .parameters import Parameters

MAX_LOGIT_SCALE = log(100)  # cosine similarities are multiplied by at most 100


@dataclass
class AdamW:
    """AdamW (arXiv 1711.05101, algorithm 2) and its state. Made by `AdamW.of`.

    The weight decay is scaled by the learning rate, as PyTorch's is.
    """

    first: Array  # m [n], the running mean of gradients
    second: Array  # v [n], the running mean of their squares
    decayed: int  # the first so many of n have weight decay
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    step: int = 0  # t, the number of updates so far

    @classmethod
    def of(
        cls,
        parameters: Parameters,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
    ) -> AdamW:
        """Return the optimizer of these parameters, before its first step."""
        first, second = np.zeros_like(parameters.values), np.zeros_like(parameters.values)
        return cls(first, second, parameters.decayed, weight_decay, betas, eps)

    def update(self, values: Array, gradients: Array, rate: float) -> None:
        """Take one step: change the values [n] in place, and the moments. The gradients [n] are kept."""
        self.step += 1

        def update_block(block: slice, scratch: Array) -> None:
            decay = self.weight_decay if block.start < self.decayed else 0.0
            moments = self.first[block], self.second[block]
            self._update(values[block], gradients[block], *moments, rate, decay, scratch)

        each_block(update_block, [0, self.decayed, len(values)], values.dtype)

    def _update(
        self, theta: Array, g: Array, m: Array, v: Array, rate: float, decay: float, x: Array
    ) -> None:
        """Evaluate algorithm 2 for a block. x: scratch, so that no line makes a new array."""
        (beta1, beta2), t = self.betas, self.step
        # m = beta1 m + (1 - beta1) g
        m *= beta1
        m += np.multiply(g, 1 - beta1, out=x)
        # v = beta2 v + (1 - beta2) g^2
        v *= beta2
        v += np.multiply(np.square(g, out=x), 1 - beta2, out=x)
        # x = sqrt(v_hat) + eps, where v_hat = v / (1 - beta2^t)
        np.sqrt(np.divide(v, 1 - beta2**t, out=x), out=x)
        x += self.eps
        # x = rate m_hat / x, where m_hat = m / (1 - beta1^t)
        np.divide(m, x, out=x)
        x *= rate / (1 - beta1**t)
        # theta = theta - rate decay theta - x
        theta *= 1 - rate * decay
        theta -= x

    def state(self) -> dict[str, Array]:
        """Return the state as arrays, to be stored: the moments themselves, not copies, and the step."""
        return {"first": self.first, "second": self.second, "step": np.array(self.step, np.int64)}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Continue from a stored `state`, to the same bits. Raises ValueError if it is of other tensors."""
        for name in ("first", "second"):
            mine, stored = getattr(self, name), state[name]
            if (stored.shape, stored.dtype) != (mine.shape, mine.dtype):
                raise ValueError(
                    f"the optimizer's state {name} is {stored.dtype} {list(stored.shape)}, "
                    f"not {mine.dtype} {list(mine.shape)}: it is of other tuned tensors"
                )
            mine[:] = stored
        self.step = int(state["step"])


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Return the learning rate of a step, counted from 0: a linear warm-up, then half a cosine down to 0.

    open_clip's schedule (open_clip_train/scheduler.py, 3.3.0), after arXiv 1608.03983, equation 5. The factor
    of the peak is (step + 1) / warmup, then (1 + cos(pi x)) / 2, where x rises from 0 at the first step after
    the warm-up to 1 at `steps`, one step after the last.
    """
    if step < warmup:
        return peak * ((step + 1) / warmup)
    x = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + cos(pi * min(1.0, x))) / 2


def clip(gradients: Array, max_norm: float) -> float:
    """Scale gradients [n] in place to the Euclidean norm `max_norm` if theirs is larger; return theirs.

    Clipping by the global norm (arXiv 1211.5063, algorithm 1); the divisor is PyTorch's norm + 1e-6. The norm
    is computed in float64. Gradients whose norm is not finite must not be used.
    """

    def squares(block: slice, scratch: Array) -> float:
        scratch[:] = gradients[block]
        return float(np.square(scratch, out=scratch).sum())

    def scale(block: slice, _: Array) -> None:
        gradients[block] *= factor

    bounds = [0, len(gradients)]
    norm = sqrt(sum(each_block(squares, bounds, np.float64)))
    factor = max_norm / (norm + 1e-6)
    if 0 < factor < 1:  # 0 and NaN: the norm is not finite
        each_block(scale, bounds, gradients.dtype)
    return norm


def clamp_logit_scale(parameters: Parameters) -> None:
    """Keep `logit_scale` from 0 to ln 100, in place, if it is tuned (open_clip_train/train.py, 3.3.0)."""
    scale = parameters.tensors().get("logit_scale")
    if scale is not None:
        np.clip(scale, 0, MAX_LOGIT_SCALE, out=scale)
