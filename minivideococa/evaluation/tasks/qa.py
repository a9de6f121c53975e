"""Video question answering, with the question-only baseline beside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

from ...answers import normalize_answer
from ...model.config import Video
from ...model.generation import DecodingOptions, prepare
from ...progress import Progress
from ...tasks import answer, check_question, prompt_length
from ..manifest import Entry
from ..metrics import Equal, equal_texts, same_answer, soft_score
from .mean import MeanVideo, tokens_hash
from .task import Clip, Metrics, Task, metrics_of

MAX_ANSWER = 30  # ids, unless `max_length` is given
FIRST_WORDS = ("what", "who", "how", "when", "where")  # the types of MSRVTT-QA and MSVD-QA


class Asked(NamedTuple):
    """What a model is asked: a question and, if it has some of its own, the answers to choose from."""

    question: str
    choices: tuple[str, ...] = ()


class Target(NamedTuple):
    """A question with its correct answer, or with those of several annotators, one each, and its type."""

    asked: Asked
    answers: tuple[str, ...]
    type: str

    def score(self, predicted: str, equal: Equal) -> float:
        """Return 1 for the correct answer and 0 for others; with several annotators, iVQA's soft score."""
        if len(self.answers) > 1:
            return soft_score(predicted, self.answers, equal)
        if self.asked.choices:  # their words may differ in an article alone
            return float(predicted == self.answers[0])
        return float(equal(predicted, self.answers[0]))

    @property
    def types(self) -> Iterator[str]:
        """The type and the types that it is within: "free/color" is within "free"."""
        parts = self.type.split("/")
        return ("/".join(parts[: i + 1]) for i in range(len(parts)))


class QuestionAnswering(Task):
    """Question answering: accuracy of classified answers, of generated ones, or of the best of given ones.

    The question-only baseline has the same answers without a video: its caption tokens are replaced by the
    mean over the training set. What it scores, a model can know from the question and from which answers are
    frequent.
    """

    name = "qa"
    needs = '"question" with "answer"'
    uses_training_videos = True

    @staticmethod
    def targets_of(entry: Entry) -> Sequence[Target]:
        """Return the question with its answers."""
        if not entry.question or not entry.answer:
            return []
        asked = Asked(entry.question, tuple(entry.choices))
        return [Target(asked, tuple(entry.answers) or (entry.answer,), question_type(entry))]

    def check(self) -> None:
        """Raise ValueError for a blank question, one that leaves no room, and unsuitable options."""
        self.answers: dict[Clip, dict[Asked, str]] = {}
        self.without_video: dict[Asked, str] = {}
        self.training, self.evaluated = MeanVideo(), MeanVideo()
        several = any(len(target.answers) > 1 for targets in self.targets.values() for target in targets)
        self.metric = "soft score" if several else "accuracy"
        self._warn_of_unknown_classes()
        longest = self.model.config.text.context_length
        for asked in self._all_asked():
            question = check_question(asked.question)
            if self._classifies(asked):
                continue
            if prompt_length(self.model, question) > longest - 2:
                raise ValueError(
                    f"the question {question!r} leaves no room for an answer: this model's texts have at "
                    f"most {longest} tokens"
                )
            if not self._choices(asked):
                prepare(self.model, replace(self._options(question), prompt=question))

    def _warn_of_unknown_classes(self) -> None:
        """Warn of answers to choose from that the model's classifier does not know."""
        classes = {normalize_answer(text) for text in self.model.config.answers}
        choices = {text for asked in self._all_asked() for text in self._choices(asked) or ()}
        unknown = [text for text in choices if normalize_answer(text) not in classes]
        if classes and unknown:
            warnings.warn(
                f"qa: {len(unknown)} of {len(choices)} answers to choose from are not classes of the model's "
                "classifier, which leaves them out; where it knows none, the decoder chooses",
                stacklevel=3,
            )

    @property
    def texts(self) -> list[str]:
        """The questions, each followed by each of the answers to choose from."""
        return [
            f"{asked.question} {choice}".strip()
            for asked in self._all_asked()
            for choice in (self._choices(asked) or ([""] if self._classifies(asked) else []))
        ]

    def _all_asked(self) -> Iterable[Asked]:
        """Return what is asked about any video, each once."""
        return dict.fromkeys(target.asked for targets in self.targets.values() for target in targets)

    def _choices(self, asked: Asked) -> list[str] | None:
        """Return the answers to choose from: those of the question, or else those for all questions."""
        return list(asked.choices) or self.settings.answers

    def _classifies(self, asked: Asked) -> bool:
        """Tell whether the answer is any class of the model's classifier."""
        return bool(self.model.config.answers) and not self._choices(asked)

    # Answers

    def see_training_video(self, video: Video) -> None:
        """Count a video of the training set in its mean."""
        self.training.add(video)

    def predict(self, clip: Clip, video: Video) -> None:
        """Answer each question."""
        self.evaluated.add(video)
        found = self.answers.setdefault(clip, {})
        for target in self.targets[clip]:
            if target.asked not in found:
                found[target.asked] = self._cached_answer(clip.key, video, target.asked)

    def generate(self, clip: Clip, video: Video) -> None:
        """Answer each question."""
        for target in self.targets[clip]:
            self._cached_answer(clip.key, video, target.asked)

    def conclude(self, progress: Progress) -> None:
        """Answer each question without a video, once."""
        all_asked = dict.fromkeys(asked for found in self.answers.values() for asked in found)
        if not all_asked:  # no video could be read
            return
        mean = (self.training if self.training.count else self.evaluated).video(self.model.dtype)
        key = ["mean", self.settings.model_key, tokens_hash(mean)]
        with progress(len(all_asked), "questions without a video") as update:
            for asked in all_asked:
                self.without_video[asked] = self._cached_answer(key, mean, asked)
                update(1)

    def _cached_answer(self, key: list[Any], video: Video, asked: Asked) -> str:
        """Return the answer about a video, from the cache if it is there; `key` is the video's."""
        choices, options = self._choices(asked), asdict(self.settings.options)
        key = ["answer", key, asked.question, choices, options]
        answered: str = self.settings.cached(key, partial(self._answer, video, asked.question, choices))
        return answered

    def _answer(self, video: Video, question: str, choices: list[str] | None) -> str:
        """Return the most probable of the given answers or of the classifier's, or a generated one."""
        options = None if choices or self.model.config.answers else self._options(question)
        with warnings.catch_warnings():  # `evaluate` and `check` warn once for all questions
            warnings.filterwarnings("ignore", ".* ids.* are used|.* this model's classifier", UserWarning)
            return str(answer(self.model, video, question, choices, options=options))

    def _options(self, question: str) -> DecodingOptions:
        """Return the options for an answer: `prompt` and `min_length` are those of captions."""
        max_length = self.settings.options.max_length
        length = prompt_length(self.model, question) + (MAX_ANSWER if max_length is None else max_length)
        length = min(length, self.model.config.text.context_length)
        return replace(self.settings.options, prompt="", min_length=1, max_length=length)

    # Results

    def depends_on(self) -> dict[str, Any]:
        """Return where answers come from and, if some are generated, the decoding options."""
        if all(self._choices(asked) for asked in self._all_asked()):
            return {"answers": self.settings.answers or "choices"}
        if self.model.config.answers:
            return {"answers": "classifier"}
        return {"answers": "generated", "decoding": asdict(self.settings.options)}

    def metrics(self, clips: Sequence[Clip]) -> Metrics:
        """Return accuracy, or the soft score if a question has several annotators, and the baseline's."""
        pairs = self._pairs(clips)
        self._warn_of_unreachable([target for target, _ in pairs])
        found = self._scores(pairs)
        if not all(target.asked.choices for target, _ in pairs):
            found["exact match"] = _mean_score(pairs, equal_texts)
        return metrics_of(len(pairs), found)

    def details(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Return the metrics by question type, if there are several types, and what the baseline saw."""
        pairs = self._pairs(clips)
        types = sorted({type for target, _ in pairs for type in target.types})
        by_type = {}
        for type in types if len(types) > 1 else ():
            some = [pair for pair in pairs if type in pair[0].types]
            by_type[type] = metrics_of(len(some), self._scores(some))
        return {"by_type": by_type, "note": self._note()}

    def _note(self) -> str:
        """Return a line about what the baseline has in place of a video."""
        if count := self.training.count:
            return f"question only: in place of the video, the mean of the {count} training videos"
        return (
            f"question only: in place of the video, the mean of the {self.evaluated.count} evaluated videos; "
            "--train/train= gives that of the training set"
        )

    def _pairs(self, clips: Sequence[Clip]) -> list[tuple[Target, str]]:
        """Return each question of these videos with its predicted answer."""
        return [(target, self.answers[clip][target.asked]) for clip in clips for target in self.targets[clip]]

    def _scores(self, pairs: list[tuple[Target, str]]) -> dict[str, float]:
        """Return the mean score of the predicted answers and of those without a video."""
        blind = [(target, self.without_video[target.asked]) for target, _ in pairs]
        return {
            self.metric: _mean_score(pairs, same_answer),
            "question only": _mean_score(blind, same_answer),
        }

    def _warn_of_unreachable(self, targets: Sequence[Target]) -> None:
        """Warn of correct answers that are not among those to choose from."""
        everywhere = {normalize_answer(text) for text in self.settings.answers or self.model.config.answers}
        missing = sum(
            everywhere.isdisjoint(map(normalize_answer, target.answers))
            for target in targets
            if not target.asked.choices
        )
        if everywhere and missing:
            warnings.warn(f"qa: {missing} right answers are not among those to choose from", stacklevel=4)

    def prediction(self, entry: Entry, clip: Clip) -> dict[str, Any]:
        """Return the question and the answer."""
        for target in self.targets_of(entry):
            return {"question": entry.question, "answer": self.answers[clip][target.asked]}
        return {}


def question_type(entry: Entry) -> str:
    """Return the type of a question: the entry's, or the first word if it is one of `FIRST_WORDS`."""
    word = (entry.question or "").split()[0].lower()
    return entry.question_type or (word if word in FIRST_WORDS else "other")


def _mean_score(pairs: list[tuple[Target, str]], equal: Equal) -> float:
    """Return the mean score of answers."""
    return sum(target.score(predicted, equal) for target, predicted in pairs) / len(pairs)
