"""The options of finetuning: the keywords of `finetune` and the flags of its command.

VideoCoCa (arXiv 2212.04979) publishes neither learning rates nor batch sizes nor optimizer settings. Each
default says where it is from; "ours" has no precedent to follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..model.config import ADAPTERS, Options, check_bool, check_texts, choice, integer, number, option
from .losses import WEIGHTS
from .parameters import TUNINGS

TASKS = {
    "caption": "the captions",
    "contrastive": "latents of videos and captions that match",
    "caption+contrastive": "both",
    "qa": "the answers to questions",
}
HEADS = {
    "generate": "as a text that continues the question",
    "classifier": "as one of the most frequent answers",
}

MOST = 10**9  # of what is counted


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Return texts as a tuple, which may be empty."""
    return tuple(check_texts(name, value, blank=False)) if value != () else ()


def _described(choices: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in choices.items())


@dataclass(frozen=True)
class TuningOptions(Options):
    """How a model is finetuned.

    The defaults are those of open_clip's finetuning of CoCa (its README: learning rate 1e-5, weight decay
    0.1, one epoch; its defaults for ViT models: betas 0.9 and 0.98, epsilon 1e-6), except where noted. CoCa's
    own finetuning for captions (arXiv 2205.01917, table 10) has the same learning rate, weight decay and
    cosine, with the optimizer Adafactor.

    - The task, LiT and one epoch are VideoCoCa's (section 3).
    - The weights of the two losses are CoCa's (section 4.1), and so are clipping to norm 1 (table 10) and the
      classifier with its 3129 answers, those of VQA v2 (appendix B). CoCa trains the decoder to continue
      questions with their answers at the same time, and the new pooler at 25 times the learning rate of the
      rest; here a `head` is trained alone, at one learning rate.
    - The batch of 32, a tenth of the steps for warm-up, and a validation ten times a run are ours: small data
      sets on a CPU have tens to thousands of steps, and CoCa and open_clip warm up for 1000.

    Raises ValueError, one line that names the field, for a value that makes no sense.
    """

    task: str = option(
        "caption+contrastive", choice(TASKS), f"what is learned. {_described(TASKS)}", choices=list(TASKS)
    )
    tune: str = option(
        "lit",
        choice(TUNINGS),
        f"what is tuned. {_described(TUNINGS)}. Of frozen-then-full, each part takes half of the steps",
        choices=list(TUNINGS),
    )
    also: tuple[str, ...] = option(
        (),
        texts,
        "tune this tensor too, or all whose names begin so, such as visual.positional_embedding; repeat it "
        "for others. Frames are then encoded in every step",
        "NAME",
    )
    adapter: str | None = option(None, choice(ADAPTERS), "default: the checkpoint's", "NAME")
    num_frames: int = option(8, integer(1, MOST), "frames of a clip", "T")
    positions: bool = option(
        False, check_bool, "with a new factorized adapter: give its frames learned positions"
    )
    head: str = option(
        "generate", choice(HEADS), f"how a question is answered. {_described(HEADS)}", choices=list(HEADS)
    )
    max_answers: int = option(
        3129, integer(1, MOST), "classifier: the N most frequent answers of MANIFEST are its classes", "N"
    )
    add_words: bool = option(
        False, check_bool, "add the words of MANIFEST that a vocabulary of whole words lacks"
    )
    epochs: int | None = option(
        None, integer(1, MOST), "passes over the clips (default: 1, unless --steps)", "N"
    )
    steps: int | None = option(None, integer(1, MOST), "optimizer steps, in place of --epochs", "N")
    batch: int = option(32, integer(1, MOST), "clips of a step", "N")
    micro_batch: int | None = option(
        None,
        integer(1, MOST),
        "clips that are in memory at a time; the gradients are those of the whole batch (default: all)",
        "N",
    )
    learning_rate: float = option(
        1e-5, number(0, 1e3), "the highest learning rate, after warm-up and before cosine decay", "X"
    )
    warmup: int | None = option(
        None, integer(0, MOST), "steps of linear warm-up (default: a tenth of the steps)", "N"
    )
    weight_decay: float = option(
        0.1, number(0, 1e3), "AdamW's; biases, norms and the temperature have none", "X"
    )
    beta1: float = option(0.9, number(0, 0.999999), "AdamW's decay rate of the first moments", "X")
    beta2: float = option(0.98, number(0, 0.999999), "AdamW's decay rate of the second moments", "X")
    epsilon: float = option(1e-6, number(1e-30, 1), "AdamW's term against a division by zero", "X")
    max_norm: float = option(1.0, number(1e-9, 1e30), "gradients with a larger norm are scaled to it", "X")
    caption_weight: float = option(
        WEIGHTS["caption"], number(0, 1e6), "caption+contrastive: weight of the captioning loss", "X"
    )
    contrastive_weight: float = option(
        WEIGHTS["contrastive"], number(0, 1e6), "caption+contrastive: weight of the contrastive loss", "X"
    )
    validate_every: int | None = option(
        None, integer(1, MOST), "steps between validations (default: a tenth of the steps)", "N"
    )
    patience: int | None = option(
        None,
        integer(1, MOST),
        "end after N validations without a lower loss; of frozen-then-full, end the part (default: never)",
        "N",
    )
    save_every: int | None = option(
        None, integer(1, MOST), "steps between saved states (default: a tenth of the steps, at most 100)", "N"
    )
    keep: int = option(3, integer(1, MOST), "saved states to keep, and the one of the best validation", "N")
    seed: int = option(
        0, integer(0, 2**63 - 1), "seed of the clips' order, of captions and of new layers", "N"
    )
    recompute: bool = option(
        False, check_bool, "keep fewer activations and compute them again: less memory, more time"
    )
    half: bool = option(
        False, check_bool, "cache the frozen encoder's tokens as float16: half the disk space"
    )
    allow_bad: int = option(10, integer(0, MOST), "clips that may be unreadable; they are left out", "N")

    kind = "tuning"

    def check_together(self) -> None:
        """Raise ValueError for values that are invalid in combination."""
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"epochs={self.epochs} and steps={self.steps} exclude each other: give one of them"
            )
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError(f"micro_batch is {self.micro_batch}: give at most the batch, {self.batch}")
        if self.head == "classifier" and self.task != "qa":
            raise ValueError(f"head=classifier needs task=qa, not {self.task}")
        for name, other in ("caption_weight", "contrastive"), ("contrastive_weight", "caption"):
            if self.task == "caption+contrastive" and getattr(self, name) == 0:  # weight decay would remain
                raise ValueError(f"{name} is 0: give task={other}, which leaves that loss out")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The losses of the task with their factors. A loss alone has the factor 1."""
        if self.task == "caption+contrastive":
            return {"caption": self.caption_weight, "contrastive": self.contrastive_weight}
        if self.task == "contrastive":
            return {"contrastive": 1.0}
        # an answer is generated as a caption is, after the question, unless it is a class
        return {"answer" if self.head == "classifier" else "caption": 1.0}

    def steps_of(self, phases: int, batches: int) -> list[int]:
        """Return the steps of each phase, for `batches` batches an epoch.

        They are split evenly, later phases having one more.

        Raises ValueError if there are fewer steps than phases.
        """
        steps = self.steps or (self.epochs or 1) * batches
        if steps < phases:
            number = f"{steps} step" + "s" * (steps != 1)
            raise ValueError(f"{number}, and tuning has {phases} phases: give more steps or epochs")
        return [(steps + i) // phases for i in range(phases)]

    def interval(self, name: Literal["validate_every", "save_every"], steps: int) -> int:
        """Return an interval, given or by default, of a run with this many steps."""
        tenth = max(1, steps // 10)
        default = min(tenth, 100) if name == "save_every" else tenth
        value: int | None = getattr(self, name)
        return value or default
