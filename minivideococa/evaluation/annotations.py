"""Read the published annotation files of data sets as the entries of a manifest.

To add a format, write a reader and add it to `FORMATS`.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple

from ..inputs import join_names, read_json, read_text
from ..resources import require_memory
from . import questions
from .fields import Item, field, rows, seconds_of, short
from .manifest import Entry, is_blank, warn_of_blanks

ENTRY_BYTES = 1500  # of memory for an entry, at most, besides its texts
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")  # the first is preferred if two files have the same stem


class Format(NamedTuple):
    """A reader of annotation files.

    `read` takes the text of a file, or its value if `json`, and yields items. Their videos are relative to
    the folder with the clips. `example` shows the format in error messages. `endings` are those of the names
    of two files that belong together: `read` then takes the contents of both.
    """

    read: Callable[..., Iterable[Item]]
    json: bool
    example: str
    endings: tuple[str, str] | None = None


def read_annotations(
    format: str, path: str | os.PathLike[str], videos: str | os.PathLike[str], split: str | None = None
) -> list[Entry]:
    """Return the entries of a published annotation file, in order. `format` is a name out of `FORMATS`.

    `videos` is the folder that holds the clips, or folders of them. A clip is found by its stem, whatever its
    suffix; one that is missing keeps the path of the data set. `split` ("train", "val", "test") selects a
    split, if the file has several. Of ActivityNet-QA's two files `path` is the one with the questions; that
    with the answers is found beside it. Blank captions, labels, questions, answers and choices are left out
    with a warning; their entries stay.

    Raises OSError if the file cannot be read or the folder does not exist; ValueError for an unknown format,
    for a file that does not have this format or does not fit into memory, and if it, or the split, has no
    entries.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown annotation format {format!r}: give one of {', '.join(FORMATS)}")
    videos = Path(videos)
    items = _read_items(FORMATS[format], path, videos)
    if split is not None:
        items = _select_split(items, split, path)
    warn_of_blanks(path, [where for *_, blanks in items for where in blanks])
    clips = _find_clips(videos)

    def find(video: Path) -> Path:
        return clips.get(video.stem) or clips.get(video.stem.removeprefix("v_")) or videos / video

    return [replace(entry, video=find(entry.video)) for _, entry, _ in items]


def _read_items(format: Format, path: str | os.PathLike[str], videos: Path) -> list[Item]:
    """Return the items of an annotation file. Raises as `read_annotations`."""
    hint = f"it should look like {format.example}"
    load = read_json if format.json else read_text
    contents = [load(path, hint)]
    if not format.json:  # a line of UCF101 may have six bytes
        require_memory(ENTRY_BYTES * contents[0].count("\n"), f"{path}: reading its entries", hint)
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: there is no such folder; give the one that holds the clips")
    try:
        if format.endings:
            contents.append(load(_beside(path, *format.endings), f"it belongs to {path}"))
        items = list(format.read(*contents))
        if not items:
            raise ValueError("it has no entries")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}; {hint}") from None
    return items


def _beside(path: str | os.PathLike[str], ending: str, other: str) -> Path:
    """Return the path with another ending. Raises ValueError if it does not have this `ending`."""
    name = os.path.basename(path)
    if not name.endswith(ending):
        raise ValueError(f"the name of this file should end in {ending}, of that with its answers in {other}")
    return Path(path).with_name(name.removesuffix(ending) + other)


def _select_split(items: list[Item], split: str, path: str | os.PathLike[str]) -> list[Item]:
    """Return the items of a split. Raises ValueError if there are none."""
    selected = [item for item in items if item[0] and canonical_split(item[0]) == canonical_split(split)]
    if not selected:
        splits = sorted({name for name, *_ in items if name})
        known = f"but {join_names(splits)}" if splits else "it does not distinguish splits: give none"
        raise ValueError(f"{path}: has no split {split!r}, {known}")
    return selected


def canonical_split(split: str) -> str:
    """Return "val" for "validate", the name in MSR-VTT and Kinetics, and for "validation"."""
    return "val" if split in ("validate", "validation") else split


def _find_clips(folder: Path) -> dict[str, Path]:
    """Return the videos in a folder and its subfolders by their stems."""
    paths = [
        path
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.suffix.lower() in VIDEO_SUFFIXES
    ]
    paths.sort(key=lambda path: (VIDEO_SUFFIXES.index(path.suffix.lower()), path), reverse=True)
    return {path.stem: path for path in paths}


def _msrvtt(data: Any) -> Iterator[Item]:
    """Read MSR-VTT (Xu et al., CVPR 2016): train_val_videodatainfo.json or test_videodatainfo.json.

    The captions of all videos, about twenty each, are in one list, `sentences`. A clip is VIDEO_ID.mp4.
    """
    captions: dict[str, list[str]] = {}
    blanks: dict[str, list[str]] = {}
    for number, video in enumerate(field(data, "videos", list), 1):
        video_id = field(video, "video_id", str, f"video {number}: ")
        captions[video_id], blanks[video_id] = [], []
    for number, sentence in enumerate(field(data, "sentences", list), 1):
        video_id = field(sentence, "video_id", str, f"sentence {number}: ")
        if video_id not in captions:
            raise ValueError(
                f"sentence {number} is about {shortened(video_id)}, which is not among the videos"
            )
        caption = field(sentence, "caption", str, f"sentence {number}: ", blank=True)
        if not is_blank(caption, f"sentence {number}, about {shortened(video_id)}", blanks[video_id]):
            captions[video_id].append(caption)
    for number, video in enumerate(data["videos"], 1):
        split = field(video, "split", str, f"video {number}: ") if "split" in video else None
        video_id = video["video_id"]
        yield split, Entry(Path(f"{video_id}.mp4"), tuple(captions[video_id])), blanks.pop(video_id, [])


def _msrvtt_1ka(text: str) -> Iterator[Item]:
    """Read the 1k-A test split of MSR-VTT for retrieval (Yu et al., JSFusion, arXiv 1808.02559).

    The file is MSRVTT_JSFUSION_test.csv. One sentence per clip, as in github.com/ArrowLuo/CLIP4Clip,
    dataloader_msrvtt_retrieval.py.
    """
    for line, (video_id, sentence) in rows(text, ["video_id"], ["sentence"]):
        blanks: list[str] = []
        is_blank(sentence, f"the sentence of line {line}, about {shortened(video_id)}", blanks)
        yield None, Entry(Path(f"{video_id}.mp4"), () if blanks else (sentence,)), blanks


def _activitynet(data: Any) -> Iterator[Item]:
    """Read ActivityNet Captions (Krishna et al., arXiv 1705.00754): train.json or val_1.json.

    The sentences of a video are joined to one paragraph, the query of paragraph-to-video retrieval, as in
    github.com/ArrowLuo/CLIP4Clip, dataloader_activitynet_retrieval.py. A clip is v_YOUTUBEID.mp4 or
    YOUTUBEID.mp4.
    """
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    for video_id, video in data.items():
        sentences = field(video, "sentences", list, f"{shortened(video_id)}: ")
        if not sentences or not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError(f"the sentences of {shortened(video_id)} are {short(sentences)}")
        blanks: list[str] = []
        kept = [
            sentence
            for number, sentence in enumerate(sentences, 1)
            if not is_blank(sentence, f"sentence {number} of {shortened(video_id)}", blanks)
        ]
        paragraph = " ".join(" ".join(kept).split())
        yield None, Entry(Path(f"{video_id}.mp4"), (paragraph,) if kept else ()), blanks


def _kinetics(text: str) -> Iterator[Item]:
    """Read Kinetics-400, -600 or -700 (Kay et al., arXiv 1705.06950): train.csv, validate.csv or test.csv.

    A clip is LABEL/YOUTUBEID_000010_000020.mp4, as in github.com/activitynet/ActivityNet,
    Crawler/Kinetics/download.py.
    """
    columns = ["youtube_id", "time_start", "time_end", "split"]
    for line, (youtube_id, start, end, split, label) in rows(text, columns, ["label"]):
        begin, stop = (int(seconds_of(time, line, youtube_id)) for time in (start, end))
        clip = f"{youtube_id}_{begin:06d}_{stop:06d}.mp4"
        blanks: list[str] = []
        is_blank(label, f"the label of line {line}, of {shortened(youtube_id)}", blanks)
        yield split, Entry(Path(label, clip), labels=() if blanks else (label,)), blanks


def _ucf101(text: str) -> Iterator[Item]:
    """Read UCF101 (Soomro et al., arXiv 1212.0402): trainlist01.txt, testlist01.txt and so on.

    One clip per line, in training lists with the number of its class. The class ApplyEyeMakeup is the label
    "apply eye makeup".
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            match = re.fullmatch(r"(\w+)/(\w+\.\w+)( \d+)?", line.strip())
            if not match:
                raise ValueError(f"line {number}: {short(line.strip())} is not a clip")
            label = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", match[1]).lower()
            yield None, Entry(Path(match[1], match[2]), labels=(label,)), []


FORMATS: dict[str, Format] = {
    "msrvtt": Format(
        _msrvtt,
        json=True,
        example='{"videos": [{"video_id": "video0", "split": "train"}], '
        '"sentences": [{"video_id": "video0", "caption": "a man sings"}]}',
    ),
    "msrvtt-1ka": Format(
        _msrvtt_1ka,
        json=False,
        example="lines of key,vid_key,video_id,sentence, after a header with these names",
    ),
    "msrvtt-qa": Format(
        questions.msrvtt_qa,
        json=True,
        example='[{"video_id": 0, "question": "what does a man do?", "answer": "sing"}]',
    ),
    "msvd-qa": Format(
        questions.msvd_qa,
        json=True,
        example='[{"video_id": 1, "question": "what does a man do?", "answer": "sing"}]',
    ),
    "activitynet-qa": Format(
        questions.activitynet_qa,
        json=True,
        example='[{"video_name": "ID", "question": "is it a cat", "question_id": "v_ID_1"}], with '
        '[{"question_id": "v_ID_1", "answer": "yes", "type": 3}] in a second file',
        endings=("_q.json", "_a.json"),
    ),
    "next-qa": Format(
        questions.next_qa,
        json=False,
        example="lines of video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4, after a "
        "header with these names",
    ),
    "ivqa": Format(
        questions.ivqa,
        json=False,
        example="lines of video_id,question,answer1,answer2,answer3,answer4,answer5, after a header "
        "with these names",
    ),
    "activitynet": Format(
        _activitynet,
        json=True,
        example='{"v_0": {"duration": 9.5, "timestamps": [[0, 9.5]], "sentences": ["A man sings."]}}',
    ),
    "kinetics": Format(
        _kinetics,
        json=False,
        example="lines of label,youtube_id,time_start,time_end,split, after a header with these names",
    ),
    "ucf101": Format(
        _ucf101,
        json=False,
        example="lines of Class/v_Class_g01_c01.avi, with or without a number after it",
    ),
}
