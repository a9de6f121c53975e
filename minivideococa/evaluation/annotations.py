"""Read the published annotation files of the data sets that VideoCoCa is evaluated on, as the entries of a manifest."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple

from ..inputs import read_json, read_text
from .manifest import Entry, is_blank, report_blanks

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")  # of two files with one stem the first of these


Item = tuple[str | None, Entry, list[str]]  # its split, what it says, and where it has blank texts


class Format(NamedTuple):
    """How an annotation file is read: its text, or the value in it if it is JSON -> items, each video named as if the
    clips' folder were the working directory; and what such a file looks like, for the messages."""

    read: Callable[[Any], Iterable[Item]]
    json: bool
    looks: str


def read_annotations(
    format: str, path: str | os.PathLike[str], videos: str | os.PathLike[str], split: str | None = None
) -> list[Entry]:
    """Return the entries of a published annotation file, in its order. `format` is one of FORMATS.

    `videos` is the folder with the clips, or with folders of them; a clip is found by its name, whatever its suffix. One that
    is not there keeps the path that the data set gives it. `split` ("train", "val", "test") takes only these, where the file
    tells them apart. Blank captions, labels, questions and answers are reported on standard error and left out; their entries
    stay.

    Raises OSError if the file cannot be read or the folder is not there, ValueError for another format, if the file is not
    what the format asks for or does not fit into memory, and if nothing is in it or in the split.
    """
    if format not in FORMATS:
        raise ValueError(f"{format!r} is no format of annotations: give one of {', '.join(FORMATS)}")
    read, is_json, looks = FORMATS[format]
    hint = f"it should look like {looks}"
    content = read_json(path, hint) if is_json else read_text(path, hint)
    videos = Path(videos)
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: there is no such folder; give the one that the clips are in")
    try:
        items = list(read(content))
        if not items:
            raise ValueError("nothing is in it")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}; {hint}") from None
    if split is not None:
        splits = {name for name, *_ in items if name}
        items = [item for item in items if item[0] and _plain(item[0]) == _plain(split)]
        if not items:
            known = (
                f"but {', '.join(sorted(splits))}" if splits else "it does not tell splits apart: give none"
            )
            raise ValueError(f"{path}: has no split {split!r}, {known}")
    report_blanks(path, [where for *_, blanks in items for where in blanks])
    there = _clips(videos)
    return [
        replace(
            entry,
            video=there.get(entry.video.stem)
            or there.get(entry.video.stem.removeprefix("v_"))
            or videos / entry.video,
        )
        for _, entry, _ in items
    ]


def _plain(split: str) -> str:
    """MSR-VTT and Kinetics write "validate"; people also write "validation" or "val"."""
    return "val" if split in ("validate", "validation") else split


def _clips(folder: Path) -> dict[str, Path]:
    """stem -> path, of the videos in a folder and in the folders in it."""
    found = [
        path
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.suffix.lower() in VIDEO_SUFFIXES
    ]
    found.sort(key=lambda path: (VIDEO_SUFFIXES.index(path.suffix.lower()), path), reverse=True)
    return {path.stem: path for path in found}


def _msrvtt(data: Any) -> Iterator[Item]:
    """MSR-VTT (Xu et al., CVPR 2016), as its readme describes train_val_videodatainfo.json and test_videodatainfo.json: a
    video's captions, about twenty, stand among all `sentences`. Its clip is VIDEO_ID.mp4."""
    captions: dict[str, list[str]] = {}
    blanks: dict[str, list[str]] = {}
    for number, video in enumerate(_field(data, "videos", list), 1):
        video_id = _field(video, "video_id", str, f"video {number}: ")
        captions[video_id], blanks[video_id] = [], []
    for number, sentence in enumerate(_field(data, "sentences", list), 1):
        video_id = _field(sentence, "video_id", str, f"sentence {number}: ")
        if video_id not in captions:
            raise ValueError(
                f"sentence {number} is about {shortened(video_id)}, which is not among the videos"
            )
        caption = _field(sentence, "caption", str, f"sentence {number}: ", blank=True)
        if not is_blank(caption, f"sentence {number}, about {shortened(video_id)}", blanks[video_id]):
            captions[video_id].append(caption)
    for number, video in enumerate(data["videos"], 1):
        split = _field(video, "split", str, f"video {number}: ") if "split" in video else None
        video_id = video["video_id"]
        yield split, Entry(Path(f"{video_id}.mp4"), tuple(captions[video_id])), blanks.pop(video_id, [])


def _msrvtt_1ka(text: str) -> Iterator[Item]:
    """The 1k-A test split of MSR-VTT for retrieval (Yu et al., JSFusion, arXiv 1808.02559), MSRVTT_JSFUSION_test.csv, one
    sentence a clip; read as github.com/ArrowLuo/CLIP4Clip, dataloader_msrvtt_retrieval.py, does."""
    for line, (video_id, sentence) in _rows(text, ["video_id"], "sentence"):
        blanks: list[str] = []
        is_blank(sentence, f"the sentence of line {line}, about {shortened(video_id)}", blanks)
        yield None, Entry(Path(f"{video_id}.mp4"), () if blanks else (sentence,)), blanks


def _msrvtt_qa(data: Any) -> Iterator[Item]:
    """MSRVTT-QA (Xu et al., ACM Multimedia 2017), train_qa.json and so on, an entry a question; as in
    github.com/xudejing/video-question-answering. The clip of `video_id` 7 is MSR-VTT's video7.mp4."""
    if not isinstance(data, list):
        raise ValueError("it is no list")
    for number, item in enumerate(data, 1):
        video = f"video{_field(item, 'video_id', int, f'item {number}: ')}"
        asked = {
            name: _field(item, name, str, f"item {number}: ", blank=True) for name in ("question", "answer")
        }
        blanks: list[str] = []
        for name, value in asked.items():
            is_blank(value, f"the {name} of item {number}, about {shortened(video)}", blanks)
        yield None, Entry(Path(f"{video}.mp4"), **{} if blanks else asked), blanks


def _activitynet(data: Any) -> Iterator[Item]:
    """ActivityNet Captions (Krishna et al., arXiv 1705.00754), train.json and val_1.json. The sentences of a video are joined
    to the one paragraph that it is to be found by: github.com/ArrowLuo/CLIP4Clip, dataloader_activitynet_retrieval.py.
    A clip is v_YOUTUBEID.mp4, or has no `v_`."""
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    for video_id, video in data.items():
        sentences = _field(video, "sentences", list, f"{shortened(video_id)}: ")
        if not sentences or not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError(f"the sentences of {video_id} are {_short(sentences)}")
        blanks: list[str] = []
        said = [
            sentence
            for number, sentence in enumerate(sentences, 1)
            if not is_blank(sentence, f"sentence {number} of {shortened(video_id)}", blanks)
        ]
        yield (
            None,
            Entry(Path(f"{video_id}.mp4"), (" ".join(" ".join(said).split()),) if said else ()),
            blanks,
        )


def _kinetics(text: str) -> Iterator[Item]:
    """Kinetics-400, -600 and -700 (Kay et al., arXiv 1705.06950), train.csv and so on. Clips are named as by
    github.com/activitynet/ActivityNet, Crawler/Kinetics/download.py: YOUTUBEID_000010_000020.mp4, in a folder a label."""
    columns = ["youtube_id", "time_start", "time_end", "split"]
    for line, (youtube_id, start, end, split, label) in _rows(text, columns, "label"):
        for time in (start, end):
            if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", time):
                raise ValueError(f"line {line}: a time of {youtube_id} is {_short(time)}, not in seconds")
        clip = f"{youtube_id}_{int(float(start)):06d}_{int(float(end)):06d}.mp4"
        blanks: list[str] = []
        is_blank(label, f"the label of line {line}, of {shortened(youtube_id)}", blanks)
        yield split, Entry(Path(label, clip), labels=() if blanks else (label,)), blanks


def _ucf101(text: str) -> Iterator[Item]:
    """UCF101 (Soomro et al., arXiv 1212.0402), ucfTrainTestlist/trainlist01.txt, testlist01.txt and so on: a clip a line, in
    training lists with its class's number. The class ApplyEyeMakeup is the label "apply eye makeup"."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            match = re.fullmatch(r"(\w+)/(\w+\.\w+)( \d+)?", line.strip())
            if not match:
                raise ValueError(f"line {number}: {_short(line.strip())} is no clip")
            label = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", match[1]).lower()
            yield None, Entry(Path(match[1], match[2]), labels=(label,)), []


FORMATS = {
    "msrvtt": Format(
        _msrvtt,
        True,
        '{"videos": [{"video_id": "video0", "split": "train"}], '
        '"sentences": [{"video_id": "video0", "caption": "a man sings"}]}',
    ),
    "msrvtt-1ka": Format(_msrvtt_1ka, False, "lines of key,vid_key,video_id,sentence, these names first"),
    "msrvtt-qa": Format(
        _msrvtt_qa, True, '[{"video_id": 0, "question": "what does a man do?", "answer": "sing"}]'
    ),
    "activitynet": Format(
        _activitynet,
        True,
        '{"v_0": {"duration": 9.5, "timestamps": [[0, 9.5]], "sentences": ["A man sings."]}}',
    ),
    "kinetics": Format(
        _kinetics, False, "lines of label,youtube_id,time_start,time_end,split, these names first"
    ),
    "ucf101": Format(_ucf101, False, "lines of Class/v_Class_g01_c01.avi, a number after it or not"),
}


def _field(record: Any, name: str, kind: type, where: str = "", blank: bool = False) -> Any:
    """Return a field of a JSON object, which has to be there; a text may be blank only if `blank`. Raises ValueError."""
    value = record.get(name) if isinstance(record, dict) else None
    if (
        not isinstance(value, kind)
        or isinstance(value, bool)
        or isinstance(value, str)
        and not (blank or value.strip())
    ):
        said = {str: "text", int: "number", list: "list"}[kind]
        raise ValueError(f'{where}"{name}" is missing or no {said} in {_short(record)}')
    return value


def _rows(text: str, columns: list[str], text_column: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line and its cells in these columns, of a CSV file that begins with their names.

    Only `text_column`, the last cell, may be blank. Raises ValueError with the number of a line that lacks a cell.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [*columns, text_column]
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    for row in reader:
        for name in columns:
            if row[name] is None or not row[name].strip() and name != text_column:
                raise ValueError(f"line {reader.line_num}: {name} is missing")
        yield reader.line_num, [row[name].strip() for name in columns]


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = shortened(value)
    return text if len(text) <= 80 else text[:77] + "..."
