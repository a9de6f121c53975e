"""Evaluate a model on a data set: encode each video once, let each task predict, and compute the metrics.

VideoCoCa (arXiv 2212.04979), section 4, evaluates zero-shot classification, retrieval, captioning and
question answering.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from ..cache import folder_for, get_video, put_video, video_key
from ..cluster import Cluster
from ..inputs import why_unreadable
from ..media.sampling import frame_count
from ..media.video import read_video
from ..model.config import Video
from ..model.generation import DecodingOptions
from ..model.videococa import VideoCoCa
from ..output import atomic_write, json_text
from ..progress import Progress, no_progress
from ..resources import require_memory_for
from ..tasks import warn_if_cut
from .manifest import Entry, part_key
from .published import NOT_KNOWN, PAPER, figures_for, split_name
from .setting import setting_lines, setting_of
from .tasks import TASKS, Clip, Settings, Task
from .tasks.task import finite_latents
from .workers import encode_each


def evaluate(
    model: VideoCoCa,
    entries: Iterable[Entry],
    tasks: Sequence[str] | None = None,
    *,
    num_frames: int = 8,
    adapter: str | None = None,
    templates: Sequence[str] | None = None,
    answers: Sequence[str] | None = None,
    tokenizer: str = "words",
    split: str | None = None,
    train: Iterable[Entry] | None = None,
    cache: str | os.PathLike[str] | None = None,
    model_key: str | None = None,
    cluster: Cluster | None = None,
    options: DecodingOptions | None = None,
    progress: Progress = no_progress,
    **keywords: Any,
) -> dict[str, Any]:
    """Evaluate a model on the entries of a manifest.

    Entries with the same path (symbolic links resolved), start and end are about one video. A video that
    cannot be read, for whatever reason, is left out of the metrics with a warning.

    Parameters
    ----------
    tasks : names out of `TASKS`. Default: every task that an entry has the ground truth for; without the
        package of the caption metrics, "caption" is left out with a warning.

        - "classify": top-1 and top-5 accuracy, or mean average precision if a video has several labels. The
          labels of all entries are the classes.
        - "retrieve": recall at 1, 5 and 10 and the median rank, of videos for captions and of captions for
          videos.
        - "caption": BLEU-4, ROUGE-L and CIDEr against all captions of a video.
        - "qa": accuracy of the answers, each the most probable of the question's choices, of `answers` or of
          the model's classifier, or a generated one. Beside it, always, that of the question-only baseline,
          which has the mean of all videos in place of the video.
    num_frames, adapter : as in `VideoCoCa.encode`.
    templates : as in `tasks.classify`.
    answers : the answers to choose from, for questions without choices of their own. Default: those of the
        model's classifier; without one, answers are generated.
    tokenizer : "words" or "ptb", how the metrics of captions split texts; see `metrics`.
    split : the data set and its split, to be named in the result. Default: what `split_name` makes of the
        entries alone.
    train : the entries of the training set, whose videos' mean the question-only baseline has. Default: the
        videos with questions that are evaluated.
    cache : a folder for encoded videos and generated texts, which the next run uses; a warning if it cannot
        be written. None: no cache.
    model_key : what `cache.model_hash` returns for the model, if it is known. Default: it is computed.
    cluster : where to encode the videos and to generate captions and answers, with the same result. Default:
        in this process.
    options, keywords : how to generate, as in `VideoCoCa.generate`. `prompt` and `min_length` apply to
        captions only; the `max_length` of an answer does not count the question.
    progress : called once for each stage: labels, captions, training videos, videos, questions.

    Returns
    -------
    dict
        "videos", the number of videos that could be read; "unreadable", a list of {"video", "why"};
        "metrics", {task: {metric: {"value", "items"}}}; "details", {"qa": {"by_type", "note"}}, the
        metrics by question type, {type: {metric: ...}}, and a line about the baseline; "predictions", a list
        of {"video", ...}, one for each entry. The part of a video has "start" and "end" beside "video".
        "setting", what the metrics depend on, see `setting.setting_of`, equal for equal runs; "published",
        VideoCoCa's own figures on the split, see `published.Figures`.

    Raises ValueError, before a video is read, for an invalid argument, a task without ground truth, a
    question that leaves no room for its answer, "caption" named without the package of its metrics, and a
    request that does not fit into memory; and for latents that are not finite, and if no video can be read.
    Raises OSError if the cluster does not answer.
    """
    entries = _check_entries(entries)
    training = [] if train is None else _check_entries(train)
    settings = Settings(
        model,
        _check_options(options, keywords),
        _check_texts("templates", templates),
        _check_texts("answers", answers),
        tokenizer,
        folder_for(cache) if cache is not None else None,
    )
    if model_key is not None:
        settings.model_key = model_key
    chosen = choose_tasks(tasks, entries)
    if not tasks:
        chosen = _installed(chosen)
    clips = collect_clips(entries, chosen)
    running = [task(settings, clips.values()) for task in chosen]
    num_frames, adapter = frame_count(num_frames), model.config.check_adapter(adapter)
    _require_memory(model, num_frames, adapter)
    encode = partial(_encode, num_frames=num_frames, adapter=adapter)
    for task in running:
        task.check()
    texts = list(dict.fromkeys(text for task in running for text in task.texts))
    warn_if_cut(model, texts)
    if model.caveat and any(task.compares_latents for task in running):
        warnings.warn(model.caveat, stacklevel=2)
    for task in running:
        task.prepare(progress)
    encode_all = partial(encode_each, settings=settings, encode=encode, cluster=cluster)
    _show_training_videos(training, running, encode_all, progress)
    with progress(len(clips), "videos") as update:
        for clip, video in encode_all(clips.values(), running):
            if video is None:
                warnings.warn(f"left out: {clip.unreadable}", stacklevel=2)
            for task in running:
                if video is not None and clip in task.targets:
                    task.predict(clip, video)
            update(1)
    for task in running:
        task.conclude(progress)
    split = split or split_name(entries)
    facts = {"split": split, "frames": num_frames, "adapter": adapter}
    return _result(entries, clips, running) | {
        "setting": facts | setting_of(entries, clips.values(), training, running, settings),
        "published": figures_for(split, chosen),
    }


# Before the videos


def _check_entries(entries: Any) -> list[Entry]:
    """Return the entries as a list. Raises ValueError if they are something else."""
    if isinstance(entries, str | os.PathLike):
        raise ValueError(f"entries is the path {os.fspath(entries)!r}: give the result of read_manifest")
    checked: list[Entry] = list(entries) if isinstance(entries, Iterable) else [entries]
    for entry in checked:
        if not isinstance(entry, Entry):
            raise ValueError(f"entries has a {type(entry).__name__} in it: give a list of Entry")
    return checked


def _check_options(options: DecodingOptions | None, keywords: dict[str, Any]) -> DecodingOptions:
    """Return the decoding options. Raises ValueError, or TypeError for an unknown keyword."""
    if "start" in keywords or "end" in keywords:
        raise ValueError("start and end differ from video to video: give them in the entries")
    options = DecodingOptions.create(options, **keywords)
    if options.candidates > 1:
        raise ValueError(f"candidates is {options.candidates}: evaluate takes one text per video")
    return options


def _require_memory(model: VideoCoCa, num_frames: int, adapter: str) -> None:
    """Raise ValueError if the frames of one video do not fit into memory, or the adapter's positions."""
    model.config.check_frames(num_frames, adapter)
    need = model.config.bytes_to_encode(adapter, model.dtype)
    require_memory_for(num_frames, need, f"encoding {num_frames} frames", "frames")


def _check_texts(name: str, values: Any) -> list[str] | None:
    """Return an argument as a list of texts, or None if it is None. Raises ValueError for anything else."""
    if values is None:
        return None
    texts = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} is {shortened(values)}: give a list of at least one text")
    return texts


def choose_tasks(names: Sequence[str] | None, entries: Sequence[Entry]) -> list[type[Task]]:
    """Return the named tasks, or all that an entry has the ground truth for, in the order of `TASKS`.

    Raises ValueError for a name that is not in `TASKS` and for a task that no entry has the ground truth for.
    """
    known = ", ".join(task.name for task in TASKS)
    if names is not None and not isinstance(names, list | tuple):
        raise ValueError(f"tasks is {names!r}: give a list of some of {known}")
    fitting = [task for task in TASKS if any(map(task.targets_of, entries))]
    by_name = {task.name: task for task in TASKS}
    for name in names or ():
        if not isinstance(name, str) or name not in by_name:
            raise ValueError(f"task {name!r}: give some of {known}")
        if by_name[name] not in fitting:
            raise ValueError(f"task {name}: no entry of the manifest has {by_name[name].needs}")
    if not fitting:
        needs = dict.fromkeys(task.needs for task in TASKS)
        raise ValueError(f"no entry of the manifest has {', '.join(needs)}")
    return [task for task in fitting if not names or task.name in names]


def _installed(tasks: list[type[Task]]) -> list[type[Task]]:
    """Return the tasks whose packages are installed, and warn of the others; all of them if none is left."""
    missing = {task: command for task in tasks if (command := task.missing_package())}
    if len(missing) == len(tasks):
        return tasks
    for task, command in missing.items():
        warnings.warn(f"{task.name} left out: {command}", stacklevel=3)
    return [task for task in tasks if task not in missing]


def collect_clips(entries: Sequence[Entry], tasks: Sequence[type[Task]]) -> dict[Any, Clip]:
    """Return the videos that the tasks have ground truth for, each with all entries about it."""
    clips: dict[Any, Clip] = {}
    for entry in entries:
        if any(task.targets_of(entry) for task in tasks):
            clip = clips.setdefault(part_key(entry), Clip(entry.video, entry.start, entry.end))
            clip.entries.append(entry)
    return clips


# Each video


def _encode(clip: Clip, settings: Settings, num_frames: int, adapter: str) -> Video | None:
    """Return the encoded video, from the cache if it is there; None if it cannot be read.

    Sets the clip's `key` and `latent`, or else `unreadable`. Raises ValueError if the latent is not finite.
    """
    model, cache, part = settings.model, settings.cache, (clip.start, clip.end)
    try:
        if cache:
            clip.key = video_key(cache, settings.model_key, clip.path, num_frames, adapter, *part)
        video = get_video(cache, clip.key)
        if video is None:
            pixels = model.preprocess(read_video(clip.path, num_frames, *part))
    except Exception as error:  # decoders raise many kinds; the other videos keep their results
        clip.unreadable = why_unreadable(clip.path, error)
        return None
    if video is None:
        video = model.encode_video(pixels, adapter)
        finite_latents(video.latent[None], [clip.path])
        put_video(cache, clip.key, clip.path, video)
    clip.latent = video.latent
    return video


def _show_training_videos(
    training: Sequence[Entry],
    tasks: Sequence[Task],
    encode_all: Callable[[Collection[Clip], Sequence[Task]], Iterator[tuple[Clip, Video | None]]],
    progress: Progress,
) -> None:
    """Encode the videos of the training set for the tasks that use them.

    Raises ValueError if none can be read.
    """
    tasks = [task for task in tasks if task.uses_training_videos]
    if not tasks or not training:
        return
    clips = {part_key(entry): Clip(entry.video, entry.start, entry.end) for entry in training}
    with progress(len(clips), "training videos") as update:
        for clip, video in encode_all(clips.values(), []):
            if video is None:
                warnings.warn(f"left out of the training set's mean: {clip.unreadable}", stacklevel=3)
            else:
                for task in tasks:
                    task.see_training_video(video)
            update(1)
    if all(clip.unreadable for clip in clips.values()):
        raise ValueError(f"none of the {len(clips)} training videos can be read: {clip.unreadable}")


# After the videos


def _result(entries: Sequence[Entry], clips: dict[Any, Clip], tasks: Sequence[Task]) -> dict[str, Any]:
    """Return the result of `evaluate`. Raises ValueError if no video could be read."""
    readable = [clip for clip in clips.values() if not clip.unreadable]
    unreadable = [
        {"video": str(clip.path), **_part(clip), "why": clip.unreadable}
        for clip in clips.values()
        if clip.unreadable
    ]
    if not readable:
        raise ValueError(f"none of the {len(clips)} videos can be read: {unreadable[0]['why']}")
    metrics, details = {}, {}
    for task in tasks:
        evaluated = [clip for clip in readable if clip in task.targets]
        metrics[task.name] = task.metrics(evaluated) if evaluated else {}
        if evaluated and (more := task.details(evaluated)):
            details[task.name] = more
        if not evaluated:
            warnings.warn(f"{task.name}: none of its videos can be read", stacklevel=3)
    return {
        "videos": len(readable),
        "unreadable": unreadable,
        "metrics": metrics,
        "details": details,
        "predictions": [_prediction(entry, clips.get(part_key(entry)), tasks) for entry in entries],
    }


def _part(part: Entry | Clip) -> dict[str, float]:
    """Return those of the start and the end that are given."""
    return {name: value for name, value in (("start", part.start), ("end", part.end)) if value is not None}


def _prediction(entry: Entry, clip: Clip | None, tasks: Sequence[Task]) -> dict[str, Any]:
    """Return the predictions of all tasks for an entry. `clip` is None if no task used its video."""
    prediction: dict[str, Any] = {"video": str(entry.video), **_part(entry)}
    if clip and clip.unreadable:
        return prediction | {"unreadable": clip.unreadable}
    for task in tasks if clip else ():
        if clip in task.targets:
            prediction |= task.prediction(entry, clip)
    return prediction


def write_predictions(place: Path, predictions: Iterable[dict[str, Any]]) -> None:
    """Write predictions as JSON lines, as a whole or not at all.

    Raises OSError if the file cannot be written.
    """
    with atomic_write(place) as partial:
        partial.write_text("".join(json_text(line) + "\n" for line in predictions), encoding="utf-8")


def report(result: dict[str, Any]) -> str:
    """Return the metrics of a result of `evaluate` as a table, the details of each task, and the setting."""
    lines = _table(_rows(result["metrics"], result["published"]), text_columns=2)
    for task, details in result["details"].items():
        if by_type := details.get("by_type"):
            lines += ["", *_table(_rows_by_type(task, by_type), text_columns=1)]
        if note := details.get("note"):
            lines += ["", note]
    if left_out := len(result["unreadable"]):
        lines += ["", f"{left_out} of {result['videos'] + left_out} videos cannot be read and are left out."]
    lines += ["", *setting_lines(result["setting"])]
    if published := result["published"]:
        sources = dict.fromkeys(figures["source"] for figures in published)
        lines += ["", f"{PAPER}: {NOT_KNOWN}. Quoted from {'; '.join(sources)}."]
    return "\n".join(lines)


def _rows(metrics: dict[str, Any], published: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a table of metrics after a row of names. VideoCoCa's figures have a column for each training."""
    trainings = dict.fromkeys(figures["training"] for figures in published)
    known = {
        (figures["task"], metric, figures["training"]): value
        for figures in published
        for metric, value in figures["metrics"].items()
    }
    rows = [("task", "metric", "value", "items", *(f"VideoCoCa {training}" for training in trainings))]
    for task, found in metrics.items():
        for metric, row in found.items():
            theirs = [known.get((task, metric, training)) for training in trainings]
            shown = ["" if value is None else f"{value:.3f}" for value in theirs]
            rows.append((task, metric, f"{row['value']:.3f}", str(row["items"]), *shown))
    return rows


def _rows_by_type(task: str, by_type: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a table of metrics with a row for each type, after one of names."""
    [names, *_] = by_type.values()
    rows = [(f"{task}, by type", *names, "items")]
    for kind, metrics in by_type.items():
        values = [f"{row['value']:.3f}" for row in metrics.values()]
        rows.append((kind, *values, str(next(iter(metrics.values()))["items"])))
    return rows


def _table(rows: Sequence[tuple[str, ...]], text_columns: int) -> list[str]:
    """Return the lines of a table. The first columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
