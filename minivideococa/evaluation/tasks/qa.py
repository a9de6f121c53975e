"""Video question answering."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from ...model.config import Video
from ...model.generation import DecodingOptions, prepare
from ...tasks import answer, prompt_length
from ..manifest import Entry
from ..metrics import same_answer
from .task import Clip, Metrics, Task, metrics_of

MAX_ANSWER = 30  # ids, unless `max_length` is given


class QuestionAnswering(Task):
    """Question answering: accuracy of generated answers, or of the most probable ones out of `answers`."""

    name = "qa"
    needs = '"question" with "answer"'

    @staticmethod
    def targets_of(entry: Entry) -> Sequence[tuple[str, str]]:
        """Return the question with its answer."""
        return [(entry.question, entry.answer)] if entry.question and entry.answer else []

    def check(self) -> None:
        """Raise ValueError for a blank question, one that leaves no room, and unsuitable options."""
        self.answers: dict[Clip, dict[str, str]] = {}  # by question
        longest = self.model.config.text.context_length
        for question in dict.fromkeys(question for pairs in self.targets.values() for question, _ in pairs):
            if not question.strip():
                raise ValueError(f"the question {question!r} is blank: give a text")
            if prompt_length(self.model, question) > longest - 2:
                raise ValueError(
                    f"the question {question!r} leaves no room for an answer: this model's texts have at "
                    f"most {longest} tokens"
                )
            if not self.settings.answers:
                prepare(self.model, replace(self._options(question), prompt=question))

    @property
    def texts(self) -> list[str]:
        """The questions, each followed by each of the answers to choose from."""
        questions = dict.fromkeys(question for pairs in self.targets.values() for question, _ in pairs)
        return [f"{question} {choice}" for question in questions for choice in self.settings.answers or ()]

    def predict(self, clip: Clip, video: Video) -> None:
        """Answer each question."""
        choices, options = self.settings.answers, asdict(self.settings.options)
        for question, _ in self.targets[clip]:
            self.answers.setdefault(clip, {})[question] = self.settings.cached(
                [clip.key, "answer", question, choices, options],
                partial(self._answer, video, question),
            )

    def _answer(self, video: Video, question: str) -> str:
        """Return the most probable of the given answers, or a generated one."""
        if self.settings.answers:
            with warnings.catch_warnings():  # `evaluate` has warned of long texts, once
                warnings.filterwarnings("ignore", ".* ids.* are used", UserWarning)
                return answer(self.model, video, question, self.settings.answers)
        return answer(self.model, video, question, options=self._options(question))

    def _options(self, question: str) -> DecodingOptions:
        """Return the options for an answer: `prompt` and `min_length` are those of captions."""
        max_length = self.settings.options.max_length
        length = prompt_length(self.model, question) + (MAX_ANSWER if max_length is None else max_length)
        length = min(length, self.model.config.text.context_length)
        return replace(self.settings.options, prompt="", min_length=1, max_length=length)

    def metrics(self, clips: Sequence[Clip]) -> Metrics:
        """Compare each answer with the correct one, word for word."""
        pairs = [
            (self.answers[clip][question], truth) for clip in clips for question, truth in self.targets[clip]
        ]
        choices = self.settings.answers or []
        missing = sum(not any(same_answer(choice, truth) for choice in choices) for _, truth in pairs)
        if choices and missing:
            warnings.warn(f"qa: {missing} right answers are not among those to choose from", stacklevel=3)
        return metrics_of(len(pairs), {"accuracy": float(np.mean([same_answer(*pair) for pair in pairs]))})

    def prediction(self, entry: Entry, clip: Clip) -> dict[str, Any]:
        """Return the question and the answer."""
        answers = self.answers.get(clip, {})
        return (
            {"question": entry.question, "answer": answers[entry.question]}
            if entry.question in answers
            else {}
        )
