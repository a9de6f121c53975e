"""The published annotation files of the data sets that VideoCoCa is evaluated on -> the entries of a manifest."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from .manifest import Entry

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")         # of two files with one stem the first of these


class Format(NamedTuple):
    """How an annotation file is read: its text -> (split or None, entry), each video named as if the clips' folder were
    the working directory; and what such a file looks like, for those who give another."""

    read: Callable[[str], Iterable[tuple[str | None, Entry]]]
    looks: str


def read_annotations(format: str, path: str | os.PathLike[str], videos: str | os.PathLike[str],
                     split: str | None = None) -> list[Entry]:
    """The entries of a published annotation file, in its order. `format` is one of FORMATS.

    `videos` is the folder with the clips, or with folders of them; a clip is found by its name, whatever its suffix. One that
    is not there keeps the path that the data set gives it. `split` ("train", "val", "test") takes only these, where the file
    tells them apart.

    Raises FileNotFoundError if the file or the folder is not there, ValueError for another format, if the file is not what
    the format asks for, and if nothing is in it or in the split.
    """
    path, videos = Path(path), Path(videos)
    if format not in FORMATS:
        raise ValueError(f"{format!r} is no format of annotations: give one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; it should look like {FORMATS[format].looks}")
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: there is no such folder; give the one that the clips are in")
    try:
        entries = list(FORMATS[format].read(path.read_text(encoding="utf-8-sig")))
        if not entries:
            raise ValueError("nothing is in it")
    except (ValueError, csv.Error) as error:               # no UTF-8 and no JSON, too
        raise ValueError(f"{path}: {error}; it should look like {FORMATS[format].looks}") from None
    if split is not None:
        splits = {name for name, _ in entries if name}
        entries = [(name, entry) for name, entry in entries if name and _plain(name) == _plain(split)]
        if not entries:
            known = f"but {', '.join(sorted(splits))}" if splits else "it does not tell splits apart: give none"
            raise ValueError(f"{path}: has no split {split!r}, {known}")
    there = _clips(videos)
    return [replace(entry, video=there.get(entry.video.stem) or there.get(entry.video.stem.removeprefix("v_"))
                    or videos / entry.video) for _, entry in entries]


def _plain(split: str) -> str:
    """MSR-VTT and Kinetics write "validate"; people also write "validation" or "val"."""
    return "val" if split in ("validate", "validation") else split


def _clips(folder: Path) -> dict[str, Path]:
    """stem -> path, of the videos in a folder and in the folders in it."""
    found = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix.lower() in VIDEO_SUFFIXES]
    found.sort(key=lambda path: (VIDEO_SUFFIXES.index(path.suffix.lower()), path), reverse=True)
    return {path.stem: path for path in found}


def _msrvtt(text: str) -> Iterator[tuple[str | None, Entry]]:
    """MSR-VTT (Xu et al., CVPR 2016), as its readme describes train_val_videodatainfo.json and test_videodatainfo.json: a
    video's captions, about twenty, stand among all `sentences`. Its clip is VIDEO_ID.mp4."""
    data = json.loads(text)
    captions: dict[str, list[str]] = {}
    for video in _field(data, "videos", list):
        captions[_field(video, "video_id", str)] = []
    for sentence in _field(data, "sentences", list):
        video_id = _field(sentence, "video_id", str)
        if video_id not in captions:
            raise ValueError(f"a sentence is about {video_id!r}, which is not among the videos")
        captions[video_id].append(_field(sentence, "caption", str))
    for video in data["videos"]:
        split = _field(video, "split", str) if "split" in video else None
        yield split, Entry(Path(f"{video['video_id']}.mp4"), tuple(captions[video["video_id"]]))


def _msrvtt_1ka(text: str) -> Iterator[tuple[str | None, Entry]]:
    """The 1k-A test split of MSR-VTT for retrieval (Yu et al., JSFusion, arXiv 1808.02559), MSRVTT_JSFUSION_test.csv, one
    sentence a clip; read as github.com/ArrowLuo/CLIP4Clip, dataloader_msrvtt_retrieval.py, does."""
    for video_id, sentence in _rows(text, "video_id", "sentence"):
        yield None, Entry(Path(f"{video_id}.mp4"), (sentence,))


def _msrvtt_qa(text: str) -> Iterator[tuple[str | None, Entry]]:
    """MSRVTT-QA (Xu et al., ACM Multimedia 2017), train_qa.json and so on, an entry a question; as in
    github.com/xudejing/video-question-answering. The clip of `video_id` 7 is MSR-VTT's video7.mp4."""
    questions = json.loads(text)
    if not isinstance(questions, list):
        raise ValueError("it is no list")
    for question in questions:
        video = Path(f"video{_field(question, 'video_id', int)}.mp4")
        yield None, Entry(video, question=_field(question, "question", str), answer=_field(question, "answer", str))


def _activitynet(text: str) -> Iterator[tuple[str | None, Entry]]:
    """ActivityNet Captions (Krishna et al., arXiv 1705.00754), train.json and val_1.json. The sentences of a video are joined
    to the one paragraph that it is to be found by: github.com/ArrowLuo/CLIP4Clip, dataloader_activitynet_retrieval.py.
    A clip is v_YOUTUBEID.mp4, or has no `v_`."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    for video_id, video in data.items():
        sentences = _field(video, "sentences", list)
        if not all(isinstance(sentence, str) for sentence in sentences) or not "".join(sentences).strip():
            raise ValueError(f"the sentences of {video_id} are {_short(sentences)}")
        yield None, Entry(Path(f"{video_id}.mp4"), (" ".join(" ".join(sentences).split()),))


def _kinetics(text: str) -> Iterator[tuple[str | None, Entry]]:
    """Kinetics-400, -600 and -700 (Kay et al., arXiv 1705.06950), train.csv and so on. Clips are named as by
    github.com/activitynet/ActivityNet, Crawler/Kinetics/download.py: YOUTUBEID_000010_000020.mp4, in a folder a label."""
    for label, youtube_id, start, end, split in _rows(text, "label", "youtube_id", "time_start", "time_end", "split"):
        for time in (start, end):
            if not re.fullmatch(r"[0-9]+(\.[0-9]*)?", time):
                raise ValueError(f"a time of {youtube_id} is {_short(time)}, not in seconds")
        clip = f"{youtube_id}_{int(float(start)):06d}_{int(float(end)):06d}.mp4"
        yield split, Entry(Path(label, clip), labels=(label,))


def _ucf101(text: str) -> Iterator[tuple[str | None, Entry]]:
    """UCF101 (Soomro et al., arXiv 1212.0402), ucfTrainTestlist/trainlist01.txt, testlist01.txt and so on: a clip a line, in
    training lists with its class's number. The class ApplyEyeMakeup is the label "apply eye makeup"."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            match = re.fullmatch(r"(\w+)/(\w+\.\w+)( \d+)?", line.strip())
            if not match:
                raise ValueError(f"line {number}: {_short(line.strip())} is no clip")
            label = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", match[1]).lower()
            yield None, Entry(Path(match[1], match[2]), labels=(label,))


FORMATS = {
    "msrvtt": Format(_msrvtt, '{"videos": [{"video_id": "video0", "split": "train"}], '
                     '"sentences": [{"video_id": "video0", "caption": "a man sings"}]}'),
    "msrvtt-1ka": Format(_msrvtt_1ka, "lines of key,vid_key,video_id,sentence, these names first"),
    "msrvtt-qa": Format(_msrvtt_qa, '[{"video_id": 0, "question": "what does a man do?", "answer": "sing"}]'),
    "activitynet": Format(_activitynet, '{"v_0": {"duration": 9.5, "timestamps": [[0, 9.5]], "sentences": ["A man sings."]}}'),
    "kinetics": Format(_kinetics, "lines of label,youtube_id,time_start,time_end,split, these names first"),
    "ucf101": Format(_ucf101, "lines of Class/v_Class_g01_c01.avi, a number after it or not"),
}


def _field(record: Any, name: str, kind: type) -> Any:
    """A JSON object's field that has to be there. Raises ValueError."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or value == "":
        said = {str: "text", int: "number", list: "list"}[kind]
        raise ValueError(f'"{name}" is missing or no {said} in {_short(record)}')
    return value


def _rows(text: str, *columns: str) -> Iterator[list[str]]:
    """These columns of a CSV file with a line of names. Raises ValueError with the number of a line that lacks one."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    for row in reader:
        cells = [(row[name] or "").strip() for name in columns]
        if not all(cells):
            raise ValueError(f"line {reader.line_num}: {columns[cells.index('')]} is missing")
        yield cells


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
