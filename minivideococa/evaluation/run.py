"""A model on a data set: each video is encoded once, each task looks at what it needs, and metrics come out.

VideoCoCa (arXiv 2212.04979), section 4, evaluates zero-shot classification, retrieval, captioning and question answering.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np

from ..media.sampling import RULE, frame_count
from ..media.video import read_video
from ..model.config import Video, check_adapter
from ..model.ops import softmax
from ..model.videococa import VideoCoCa
from ..output import atomic_write, json_text
from ..progress import advance, progress, say, uncounted
from ..resources import require_memory
from ..tasks import TEXTS_AT_ONCE, answer, best_first, cosine, label_latents, text_lengths
from .cache import content, folder_for, get, identity, kept, put
from .manifest import Entry
from .metrics import (
    Tokenizer,
    caption_scores,
    mean_average_precision,
    ranks,
    recall,
    same_answer,
    tokenizer_for,
)

NEEDS: dict[
    str, tuple[Callable[[Entry], Any], str]
] = {  # whether an entry has what a task needs, and what that is
    "classify": (lambda entry: entry.labels, '"label" or "labels"'),
    "retrieve": (lambda entry: entry.captions, '"captions"'),
    "caption": (lambda entry: entry.captions, '"captions"'),
    "qa": (lambda entry: entry.question and entry.answer, '"question" with "answer"'),
}


@dataclass
class Clip:
    """A video: what its entries say of it, as far as a task asks for that, and what the model makes of it."""

    path: Path  # as an entry has it
    start: float | None = None  # of the part to look at, in seconds
    end: float | None = None
    labels: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)  # with their answers
    unreadable: str | None = None  # why
    latent: np.ndarray | None = None  # [E]
    caption: str | None = None
    answers: dict[str, str] = field(default_factory=dict)  # by question
    ranking: list[tuple[str, float]] = field(default_factory=list)  # the five likeliest labels, best first
    text_ranks: dict[str, int] = field(default_factory=dict)  # of the video, for each of its captions
    video_rank: int | None = None  # of the best-ranked of its captions, for the video


def evaluate(
    model: VideoCoCa,
    entries: Sequence[Entry],
    tasks: Sequence[str] | None = None,
    *,
    num_frames: int = 8,
    adapter: str = "attentional",
    templates: Sequence[str] | None = None,
    answers: Sequence[str] | None = None,
    tokenizer: str = "words",
    cache: str | os.PathLike[str] | None = None,
    **how,
) -> dict[str, Any]:
    """Evaluate a model on the entries of a manifest.

    tasks : some of "classify", "retrieve", "caption" and "qa". Default: all that an entry has the truth for.

        - "classify": the labels of all entries are the classes. Top-1 and top-5 accuracy, or mean average precision if a
          video has several labels. `templates` as in `tasks.classify`.
        - "retrieve": videos by captions, and captions by videos. Recall at 1, 5 and 10, and the median rank.
        - "caption": BLEU-4, ROUGE-L and CIDEr against all captions of a video. `tokenizer` is "words" or "ptb", see `metrics`.
        - "qa": accuracy of the generated answers or, with `answers`, of the likeliest of those.

    num_frames, adapter : as in `VideoCoCa.encode`.
    cache : a folder in which encoded videos and generated texts are kept for another run. None: nothing is kept.
    how : the keywords of `generate`. `prompt` and `min_length` apply to captions only; of the ids of an answer `max_length`
        counts those after the question.

    Entries with the same path, links followed, and the same start and end are about one video. A video that cannot be read,
    for whatever reason, is reported on standard error and left out of the metrics.

    Returns {"videos": number of videos that were read, "unreadable": [{"video", "why"}], "metrics": {task: {metric: {"value",
    "items"}}}, "predictions": [{"video", ...} for each entry]}. Parts of videos have their "start" and "end" beside "video".

    Raises ValueError for an argument that makes no sense, a task that no entry fits, a question that leaves no room for its
    answer, missing packages of caption metrics, a request that does not fit into memory, latents that are not finite, and if
    no video can be read; OSError if the cache cannot be written.
    """
    entries, templates, answers = (
        _entries(entries),
        _texts("templates", templates),
        _texts("answers", answers),
    )
    tasks = _fitting(tasks, entries)
    num_frames = frame_count(num_frames)
    if "start" in how or "end" in how:
        raise ValueError("start and end differ from video to video: give them in the entries")
    check_adapter(adapter)
    tokenize = tokenizer_for(tokenizer) if "caption" in tasks else None
    clips = _clips(entries, tasks)
    _leave_room(model, [question for clip in clips.values() for question, _ in clip.questions])
    model.require_memory_for_frames(num_frames, adapter)
    _require_memory(clips.values() if "retrieve" in tasks else ())
    cache = folder_for(cache) if cache is not None else None
    known = identity(model) if cache else None
    labels = sorted({label for clip in clips.values() for label in clip.labels})
    texts = (
        list(dict.fromkeys(text for clip in clips.values() for text in clip.captions))
        if "retrieve" in tasks
        else []
    )
    if model.caveat and {"classify", "retrieve"} & set(tasks):
        say(f"{model.caveat}")
    with progress(len(labels) + len(texts), "labels and captions"):
        label_rows, text_rows = {}, {}
        for label in labels:
            with uncounted():
                label_rows[label] = kept(
                    cache,
                    [known, "label", label, templates],
                    lambda: _finite(label_latents(model, [label], templates)[0], label),
                )
            advance()
        for i in range(0, len(texts), TEXTS_AT_ONCE):  # kept by parts, so that a run that was ended goes on
            some = texts[i : i + TEXTS_AT_ONCE]
            rows = kept(cache, [known, "texts", some], lambda: _finite(model.encode_text(some), some[0]))
            text_rows |= zip(some, rows, strict=True)
            advance(len(some))

    def watch(clip: Clip) -> None:
        """Fill in what the model makes of a video, or why it cannot be read."""
        try:
            facts = [
                known,
                content(clip.path) if cache else None,
                num_frames,
                adapter,
                RULE,
                clip.start,
                clip.end,
            ]
            arrays = get(cache, facts)
            pixels = (
                None if arrays else model.preprocess(read_video(clip.path, num_frames, clip.start, clip.end))
            )
        except (
            Exception
        ) as error:  # libraries raise many kinds, and no clip may cost the others their results
            clip.unreadable = _why(clip.path, error)
            return
        video = Video(**arrays) if arrays else model.encode_video(pixels, adapter)
        if not arrays:
            _finite(video.latent, clip.path)
            put(cache, facts, vars(video))
        clip.latent = video.latent
        if "caption" in tasks and clip.captions:
            clip.caption = kept(cache, [facts, "caption", how], lambda: model.caption(video, **how))
        for question, _ in clip.questions:
            clip.answers[question] = kept(
                cache,
                [facts, "answer", question, answers, how],
                lambda: _answer(model, video, question, answers, how),
            )

    with progress(len(clips), "videos"):
        for clip in clips.values():
            with uncounted():
                watch(clip)
            if clip.unreadable:
                say(f"left out: {clip.unreadable}")
            advance()
    seen = [clip for clip in clips.values() if not clip.unreadable]
    unreadable = [
        {"video": str(clip.path), **_part(clip), "why": clip.unreadable}
        for clip in clips.values()
        if clip.unreadable
    ]
    if not seen:
        raise ValueError(f"none of the {len(clips)} videos can be read: {unreadable[0]['why']}")
    if answers and "qa" in tasks:
        missing = sum(
            not any(same_answer(answer, truth) for answer in answers)
            for clip in seen
            for _, truth in clip.questions
        )
        if missing:
            say(f"qa: {missing} right answers are not among those to choose from")
    several = any(len(clip.labels) > 1 for clip in clips.values())
    labelled, captioned = [clip for clip in seen if clip.labels], [clip for clip in seen if clip.captions]
    judge = {
        "classify": (labelled, lambda: _classify(labelled, label_rows, model.logit_scale, several)),
        "retrieve": (captioned, lambda: _retrieve(captioned, text_rows)),
        "caption": (captioned, lambda: _caption(captioned, tokenize)),
        "qa": ([clip for clip in seen if clip.questions], lambda: _qa(seen)),
    }
    metrics = {}
    for task in tasks:
        some, metrics_of_it = judge[task]
        metrics[task] = metrics_of_it() if some else {}
        if not some:
            say(f"{task}: none of its videos can be read")
    return {
        "videos": len(seen),
        "unreadable": unreadable,
        "metrics": metrics,
        "predictions": [_prediction(entry, clips.get(_key(entry))) for entry in entries],
    }


# Before the videos


def _entries(entries: Any) -> list[Entry]:
    """Return the entries as a list. Raises ValueError if they are something else."""
    if isinstance(entries, str | os.PathLike):
        raise ValueError(f"entries is the path {os.fspath(entries)!r}: give what read_manifest makes of it")
    entries = list(entries) if isinstance(entries, Iterable) else [entries]
    for entry in entries:
        if not isinstance(entry, Entry):
            raise ValueError(f"entries has a {type(entry).__name__} in it: give a list of Entry")
    return entries


def _texts(name: str, texts: Any) -> list[str] | None:
    """Return an argument as a list of texts, or None if it is None. Raises ValueError for anything else."""
    if texts is None:
        return None
    if (
        isinstance(texts, str)
        or not isinstance(texts, Iterable)
        or not (found := list(texts))
        or not all(isinstance(text, str) for text in found)
    ):
        raise ValueError(f"{name} is {shortened(texts)}: give a list of at least one text")
    return found


def _fitting(tasks: Sequence[str] | None, entries: Sequence[Entry]) -> list[str]:
    """The tasks that are asked for, or else all that an entry fits. Raises ValueError where there is none."""
    if tasks is not None and not isinstance(tasks, list | tuple):
        raise ValueError(f"tasks is {tasks!r}: give a list of some of {', '.join(NEEDS)}")
    fits = {task: any(map(has, entries)) for task, (has, _) in NEEDS.items()}
    for task in tasks or ():
        if not isinstance(task, str) or task not in NEEDS:
            raise ValueError(f"task {task!r}: give some of {', '.join(NEEDS)}")
        if not fits[task]:
            raise ValueError(f"task {task}: no entry of the manifest has {NEEDS[task][1]}")
    if not any(fits.values()):
        raise ValueError(
            f"no entry of the manifest has {', '.join(dict.fromkeys(what for _, what in NEEDS.values()))}"
        )
    return [task for task in NEEDS if (task in tasks if tasks else fits[task])]


def _key(entry: Entry) -> tuple[str, float, float | None]:
    """Return what tells videos apart: the path, links followed, and the part of it."""
    return os.path.realpath(entry.video), entry.start or 0.0, entry.end


def _clips(entries: Sequence[Entry], tasks: Sequence[str]) -> dict[Any, Clip]:
    """The videos that the tasks are about, each with what they need of all entries that name it."""
    clips: dict[Any, Clip] = {}
    for entry in entries:
        if any(NEEDS[task][0](entry) for task in tasks):
            clip = clips.setdefault(_key(entry), Clip(entry.video, entry.start, entry.end))
            if "classify" in tasks:
                clip.labels += entry.labels
            if "retrieve" in tasks or "caption" in tasks:
                clip.captions += entry.captions
            if "qa" in tasks and entry.question and entry.answer:
                clip.questions.append((entry.question, entry.answer))
    for clip in clips.values():  # what two lines say counts once
        clip.labels, clip.captions, clip.questions = (
            list(dict.fromkeys(some)) for some in (clip.labels, clip.captions, clip.questions)
        )
    return clips


def _leave_room(model: VideoCoCa, questions: Sequence[str]) -> None:
    """Raises ValueError for a question that is blank, or after which no answer fits into the context."""
    for question in dict.fromkeys(questions):
        asked, longest = _asked(model, question), model.config.text.context_length
        if not question.strip():
            raise ValueError(f"the question {question!r} is blank: give a text")
        if asked > longest - 2:
            raise ValueError(
                f"the question {question!r} leaves no room for an answer: this model's texts have at most "
                f"{longest} tokens"
            )


def _require_memory(clips: Collection[Clip]) -> None:
    """Raise ValueError if the cosines and ranks of these videos and their captions do not fit into memory."""
    texts, videos = sum(len(clip.captions) for clip in clips), sum(bool(clip.captions) for clip in clips)
    require_memory(
        texts * videos * 24,
        f"retrieval among {texts} captions and {videos} videos",
        "give fewer entries, or leave it out with tasks (--tasks)",
    )


# Of each video


def _why(path: Path, error: Exception) -> str:
    """Return one line that says why a video cannot be read. It names the video."""
    name, text = " ".join(str(path).split()), " ".join(str(error).split())
    if isinstance(error, MemoryError):
        text = "there is not enough memory to read it"
    elif not isinstance(error, OSError | ValueError):  # what a library says to itself
        text = f"it cannot be read ({type(error).__name__}: {text})"
    return text if name in text else f"{name}: {text}"


def _finite(latents: np.ndarray, what: Any) -> np.ndarray:
    """Return the latents. Raises ValueError if one is not finite, since no metric could follow from it."""
    if not np.isfinite(latents).all():
        raise ValueError(f"the model's latent of {str(what)!r} is not finite: its weights are damaged")
    return latents


def _asked(model: VideoCoCa, question: str) -> int:
    """How many ids a question has, the start token included."""
    return int(text_lengths(model, model.tokenize(question))[0]) - 1


def _answer(
    model: VideoCoCa, video: Video, question: str, answers: Sequence[str] | None, how: dict[str, Any]
) -> str:
    """What the model answers; `how` may say how captions are written."""
    if answers:
        return answer(model, video, question, answers)
    how = {name: value for name, value in how.items() if name not in ("prompt", "min_length")}
    return answer(
        model, video, question, **how | {"max_length": _asked(model, question) + how.get("max_length", 30)}
    )


# After the videos: each task gives its metrics, and notes at its clips what it predicts

Metrics = dict[
    str, dict[str, float]
]  # metric -> {"value": ..., "items": of how many videos, captions or questions}


def _metrics(items: int, values: dict[str, float]) -> Metrics:
    return {name: {"value": value, "items": items} for name, value in values.items()}


def _classify(clips: Sequence[Clip], latents: dict[str, np.ndarray], scale: float, several: bool) -> Metrics:
    """Each video against the labels' latents [E]; `several`: a video of the data set has more than one.

    Cosines rank: a softmax would change the order of videos for a label, and make equals of what it rounds to 0.
    """
    labels, rows = list(latents), np.stack(list(latents.values()))
    cosines = np.array([cosine(rows, clip.latent) for clip in clips])
    right = _right([clip.labels for clip in clips], labels)
    for clip, probabilities in zip(clips, softmax(scale * cosines), strict=True):
        clip.ranking = [(labels[i], float(probabilities[i])) for i in best_first(probabilities)[:5]]
    if several:
        return _metrics(len(clips), {"mAP": mean_average_precision(cosines, right)})
    place = ranks(cosines, right)
    return _metrics(len(clips), {f"top-{k}": recall(place, k) for k in (1, 5)})


def _right(texts: Sequence[Sequence[str]], candidates: Sequence[str]) -> np.ndarray:
    """Return which candidates are among the texts of each video: bool [videos, candidates]."""
    places: dict[str, list[int]] = {}
    for column, candidate in enumerate(candidates):
        places.setdefault(candidate, []).append(column)
    right = np.zeros((len(texts), len(candidates)), bool)
    for row, some in zip(right, texts, strict=True):
        for text in some:
            row[places[text]] = True
    return right


def _retrieve(clips: Sequence[Clip], rows: dict[str, np.ndarray]) -> Metrics:
    """Text-to-video asks with each caption [E] for its own video; video-to-text counts the best-ranked of a video's captions,
    each of which is right, too, where another video has the same."""
    latents, texts = (
        np.stack([clip.latent for clip in clips]),
        [text for clip in clips for text in clip.captions],
    )
    cosines = np.stack([cosine(latents, rows[text]) for text in texts])
    own = np.repeat(np.eye(len(clips), dtype=bool), [len(clip.captions) for clip in clips], axis=0)
    said = _right([clip.captions for clip in clips], texts)
    of_videos, of_texts = ranks(cosines, own), ranks(cosines.T, said)
    each = iter(of_videos.tolist())
    for clip, rank in zip(clips, of_texts.tolist(), strict=True):
        clip.text_ranks, clip.video_rank = {text: next(each) for text in clip.captions}, rank
    found = {}
    for way, places in ("text-to-video", of_videos), ("video-to-text", of_texts):
        values = {f"{way} R@{k}": recall(places, k) for k in (1, 5, 10)}
        found |= _metrics(len(places), values | {f"{way} median rank": float(np.median(places))})
    return found


def _caption(clips: Sequence[Clip], tokenize: Tokenizer) -> Metrics:
    return _metrics(
        len(clips),
        caption_scores([clip.caption for clip in clips], [clip.captions for clip in clips], tokenize),
    )


def _qa(clips: Sequence[Clip]) -> Metrics:
    right = [
        same_answer(clip.answers[question], truth) for clip in clips for question, truth in clip.questions
    ]
    return _metrics(len(right), {"accuracy": float(np.mean(right))})


# What comes out


def _part(part: Entry | Clip) -> dict[str, float]:
    """Return the start and end, those that are given."""
    return {name: value for name, value in (("start", part.start), ("end", part.end)) if value is not None}


def _prediction(entry: Entry, clip: Clip | None) -> dict[str, Any]:
    """What was predicted for an entry, as far as it says what would have been right."""
    found: dict[str, Any] = {"video": str(entry.video), **_part(entry)}
    if clip is None:  # no task needed it
        return found
    if clip.unreadable:
        return found | {"unreadable": clip.unreadable}
    if entry.labels and clip.ranking:
        found["labels"] = [
            {"label": label, "probability": probability} for label, probability in clip.ranking
        ]
    if entry.captions and clip.video_rank:
        found["text_to_video_ranks"] = [clip.text_ranks[text] for text in entry.captions]
        found["video_to_text_rank"] = clip.video_rank
    if entry.captions and clip.caption is not None:
        found["caption"] = clip.caption
    if entry.question in clip.answers:
        found |= {"question": entry.question, "answer": clip.answers[entry.question]}
    return found


def write_predictions(place: Path, predictions: Iterable[dict[str, Any]]) -> None:
    """Write a JSON object for each entry, a line each, whole or not at all. Raises OSError if it cannot be written."""
    with atomic_write(place) as partial:
        partial.write_text("".join(json_text(line) + "\n" for line in predictions), encoding="utf-8")


def report(result: dict[str, Any]) -> str:
    """The metrics that `evaluate` found, a line each, for people."""
    rows = [("task", "metric", "value", "items")]
    rows += [
        (task, metric, f"{found['value']:.3f}", str(found["items"]))
        for task, metrics in result["metrics"].items()
        for metric, found in metrics.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{task:<{widths[0]}}  {metric:<{widths[1]}}  {value:>{widths[2]}}  {items:>{widths[3]}}"
        for task, metric, value, items in rows
    ]
    if left_out := len(result["unreadable"]):
        lines += ["", f"{left_out} of {result['videos'] + left_out} videos cannot be read and are left out."]
    return "\n".join(lines)
