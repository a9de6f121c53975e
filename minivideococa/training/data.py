"""Examples and batches: from the entries of a manifest to arrays for a training step.

The order of the examples and the captions that are drawn depend on the seed and the epoch alone, so a run can
resume at any batch of any epoch. Only one batch is in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..answers import normalize_answer
from ..evaluation.manifest import Entry, part_key
from ..model.config import Array, check_int
from ..model.videococa import VideoCoCa
from ..tasks import prompt_length, text_lengths, warn_if_cut
from .tokens import ClipStore

# Examples


def examples_of(entries: Sequence[Entry], task: str, name: str = "the manifest") -> list[Entry]:
    """Return the examples that a task learns from, each an entry of its own, in the order of the manifest.

    Of "qa", an example is a question about a clip with its answer. Of the other tasks it is a clip with all
    captions of its entries: no clip is twice in a batch, where the contrastive loss would take it for its own
    negative. Entries without what the task needs are passed over. Raises ValueError if that leaves none;
    `name` is what the message calls the entries.
    """
    if task == "qa":
        questions: dict[Any, Entry] = {}
        for entry in entries:
            if entry.question and entry.answer:
                questions.setdefault((part_key(entry), entry.question, entry.answer), entry)
        examples = [replace(entry, captions=(), labels=()) for entry in questions.values()]
        needs = '"question" with "answer"'
    else:
        clips: dict[Any, list[Entry]] = {}
        for entry in entries:
            if entry.captions:
                clips.setdefault(part_key(entry), []).append(entry)
        examples, needs = [_with_captions(clip) for clip in clips.values()], '"captions"'
    if not examples:
        raise ValueError(
            f"{name}: no entry has {needs}, which task {task} learns from: add them, or give another task"
        )
    return examples


def _with_captions(entries: list[Entry]) -> Entry:
    """Return one entry with the captions of several about the same clip, each once."""
    first, captions = entries[0], dict.fromkeys(text for entry in entries for text in entry.captions)
    return Entry(first.video, tuple(captions), start=first.start, end=first.end)


def texts_of(examples: Sequence[Entry]) -> list[str]:
    """Return the captions, questions and answers of examples, each once."""
    texts = (text for e in examples for text in (*e.captions, e.question or "", e.answer or ""))
    return [text for text in dict.fromkeys(texts) if text]


# Answers as classes, as in CoCa's question answering (arXiv 2205.01917, appendix B)


def frequent_answers(examples: Sequence[Entry], count: int) -> tuple[str, ...]:
    """Return the `count` most frequent answers, the first to appear first among equals.

    Answers that are the same after `normalize_answer` are one, in the spelling that appears first.
    """
    check_int("count", count, 1)
    spelling: dict[str, str] = {}
    frequency = Counter(normalize_answer(e.answer) for e in examples if e.answer)
    for example in examples:
        if example.answer:
            spelling.setdefault(normalize_answer(example.answer), example.answer)
    ranked = sorted(frequency, key=lambda answer: -frequency[answer])
    return tuple(spelling[answer] for answer in ranked[:count])


def with_answer_among(examples: Sequence[Entry], answers: Sequence[str]) -> list[Entry]:
    """Return the examples whose answer is one of the classes: a classifier can learn from no others."""
    classes = {normalize_answer(answer) for answer in answers}
    return [example for example in examples if example.answer and normalize_answer(example.answer) in classes]


# Batches


@dataclass(frozen=True)
class Batch:
    """Examples as arrays.

    inputs : frame tokens [B, T, N, W], or pixels [B, T, 3, S, S], in the model's dtype.
    ids : int64 [B, L], the texts with start and end token, padded at the end.
    targets : bool [B, L], the ids that the decoder learns to predict from those before them: of a caption all
        but the start token, of an answer those after the question; the end token is one, padding never. With
        `labels` the text is a question, and they mark all of it but the start token.
    labels : int64 [B], the class of each answer, -1 for an answer that is none; None without a classifier.
    examples : where the arrays come from.
    """

    inputs: Array
    ids: NDArray[np.int64]
    targets: NDArray[np.bool_]
    labels: NDArray[np.int64] | None = None
    examples: tuple[Entry, ...] = ()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of ids of each text, start and end included: [B]."""
        length = self.targets.shape[1]
        return length - self.targets[:, ::-1].argmax(axis=1)

    def part(self, rows: slice) -> Batch:
        """Return some of the examples, as views."""
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.inputs[rows], self.ids[rows], self.targets[rows], labels, self.examples[rows])

    def parts(self, size: int) -> list[Batch]:
        """Return all examples in parts of `size`, the last one with what is left."""
        return [self.part(slice(i, i + size)) for i in range(0, len(self.ids), size)]


class Dataset:
    """The batches of a list of examples, in an order of its own for every epoch.

    Each example is in one batch of an epoch. The last batch has what is left, at least one example; it counts
    as a step like the others. A validation set is a `Dataset` of which epoch 0 is used every time, so that
    its captions, and the negatives of the contrastive loss, are always the same.

    Parameters
    ----------
    examples : as `examples_of` returns them, those that `ClipStore.prepare` could read.
    task : "caption", "contrastive", "caption+contrastive" or "qa". Texts of the contrastive tasks are padded
        to the context, since latents depend on the padding; those of the others to the longest of the batch,
        which changes no prediction, since attention is causal.
    answers : the classes of a classifier of answers; then a text is the question alone. Empty: the answer
        continues the question, as in `tasks.score`.

    Captions, and the questions of a classifier, are cut to the model's context with a warning; as in CLIP
    they still end with the end token. Raises ValueError for a question that leaves no room for its answer.
    """

    def __init__(
        self,
        model: VideoCoCa,
        examples: Sequence[Entry],
        task: str,
        store: ClipStore,
        *,
        batch_size: int = 32,
        seed: int = 0,
        answers: Sequence[str] = (),
    ) -> None:
        self.model, self.examples, self.task, self.store = model, list(examples), task, store
        self.batch_size, self.seed = check_int("batch_size", batch_size, 1), check_int("seed", seed, 0)
        self.classes = {normalize_answer(answer): i for i, answer in enumerate(answers)}
        self._captions = [max(1, len(example.captions)) for example in self.examples]
        self._drawn: tuple[int, Array, Array] | None = None
        self._check_texts()

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-len(self.examples) // self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the one with the index `first`."""
        for index in range(first, len(self)):
            yield self.batch(epoch, index)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return batch `index` of an epoch; both count from 0. The same arguments give the same bits."""
        order, captions = self._draw(epoch)
        rows = order[index * self.batch_size : (index + 1) * self.batch_size]  # [B]
        examples = tuple(self.examples[row] for row in rows)
        texts = [self._text(self.examples[row], captions[row]) for row in rows]
        ids, targets = self._tokenize(texts, examples)
        labels = [self.classes.get(normalize_answer(example.answer or ""), -1) for example in examples]
        return Batch(
            np.stack([self.store.read(example) for example in examples]),
            ids,
            targets,
            np.array(labels, np.int64) if self.classes else None,
            examples,
        )

    def fingerprint(self) -> str:
        """Return a hash of everything that the batches depend on: what a run that resumes must find again."""
        facts = [
            [self.store.file(e).name, e.captions, e.question, e.answer, e.start, e.end] for e in self.examples
        ]
        how = [self.task, self.batch_size, self.seed, list(self.classes), facts]
        return hashlib.sha256(json.dumps(how).encode()).hexdigest()

    def _draw(self, epoch: int) -> tuple[Array, Array]:
        """Return the order of the examples in an epoch, and which caption each of them has: [n] and [n]."""
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._drawn = epoch, rng.permutation(len(self.examples)), rng.integers(self._captions)
        return self._drawn[1:]

    def _text(self, example: Entry, caption: int) -> str:
        if example.captions:
            return example.captions[caption]
        return example.question or "" if self.classes else _question_and_answer(example)

    def _tokenize(
        self, texts: list[str], examples: Sequence[Entry]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the ids of texts, and which of them are targets: [B, L] and [B, L]."""
        ids = self.model.tokenize(texts)  # [B, context_length]
        lengths = text_lengths(self.model, ids)  # [B]
        if "contrastive" not in self.task:
            ids = ids[:, : lengths.max()]
        begins = [1] * len(texts)
        if not self.classes:
            begins = [prompt_length(self.model, example.question or "") for example in examples]
        positions = np.arange(ids.shape[1])
        targets = (np.array(begins)[:, None] <= positions) & (positions < lengths[:, None])
        return ids, targets

    def _check_texts(self) -> None:
        """Warn of texts that are cut. Raises ValueError if an answer does not fit behind its question."""
        if self.task == "qa" and not self.classes:
            require_room(self.model, self.examples)
            return
        texts = (text for e in self.examples for text in (*e.captions, e.question or "") if text)
        warn_if_cut(self.model, list(dict.fromkeys(texts)), stacklevel=4)


def require_room(model: VideoCoCa, examples: Sequence[Entry]) -> None:
    """Raise ValueError, which names the example, if an answer does not fit behind its question."""
    longest = model.config.text.context_length
    lengths = model.require_tokenizer().lengths([_question_and_answer(example) for example in examples])
    for example, length in zip(examples, lengths, strict=True):
        if length > longest:
            raise ValueError(
                f"{example.video}: the question {example.question!r} with its answer {example.answer!r} "
                f"has {length} ids, and this model's texts have at most {longest}: shorten it, or leave "
                "it out of the manifest"
            )


def _question_and_answer(example: Entry) -> str:
    return f"{example.question} {example.answer}"
