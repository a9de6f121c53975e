"""Readers of the annotation files of data sets of questions; `annotations.FORMATS` lists them.

Each takes the text of a CSV file, or the value of a JSON file, and yields one item per question.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from .fields import Item, field, rows, seconds_of, short
from .manifest import Entry, is_blank

ACTIVITYNET_QA_TYPES = (  # by their numbers
    "motion",
    "spatial relationship",
    "temporal relationship",
    "free/yes or no",
    "free/color",
    "free/object",
    "free/location",
    "free/number",
    "free/other",
)
NEXT_QA_TYPES = {
    "CW": "causal/why",
    "CH": "causal/how",
    "TN": "temporal/next",
    "TP": "temporal/previous",
    "TC": "temporal/current",
    "DC": "descriptive/count",
    "DL": "descriptive/location",
    "DO": "descriptive/other",
}
NEXT_QA_CHOICES = [f"a{i}" for i in range(5)]
IVQA_ANSWERS = [f"answer{i}" for i in range(1, 6)]  # of five annotators


def msrvtt_qa(data: Any) -> Iterator[Item]:
    """Read MSRVTT-QA (Xu et al., ACM Multimedia 2017): train_qa.json, val_qa.json or test_qa.json.

    As in github.com/xudejing/video-question-answering. The clip of `video_id` 7 is MSR-VTT's video7.mp4.
    """
    return _questions_of_clips(data, "video{}.mp4")


def msvd_qa(data: Any) -> Iterator[Item]:
    """Read MSVD-QA, of the same authors and in the same form as MSRVTT-QA.

    The clip of `video_id` 7 is vid7.avi, its name in the data set's youtube_mapping.txt and in
    github.com/xudejing/video-question-answering, preprocess_msvdqa.py.
    """
    return _questions_of_clips(data, "vid{}.avi")


def _questions_of_clips(data: Any, clip: str) -> Iterator[Item]:
    """Read MSRVTT-QA or MSVD-QA. `clip` is the name of a clip, with {} in place of its number."""
    if not isinstance(data, list):
        raise ValueError("it is not a list")
    for number, item in enumerate(data, 1):
        where = f"item {number}: "
        path = Path(clip.format(field(item, "video_id", int, where)))
        question, answer = (field(item, name, str, where, blank=True) for name in ("question", "answer"))
        yield _item(path, question, answer, f"item {number}, about {shortened(path.stem)}")


def activitynet_qa(questions: Any, answers: Any) -> Iterator[Item]:
    """Read ActivityNet-QA (Yu et al., arXiv 1906.02467): train_q.json, val_q.json or test_q.json.

    The answers and the types of the questions are in train_a.json and so on, as in
    github.com/MILVLG/activitynet-qa. A clip is v_YOUTUBEID.mp4 or YOUTUBEID.mp4, as in ActivityNet.
    """
    if not isinstance(questions, list):
        raise ValueError("it is not a list")
    answer_of = _activitynet_answers(answers)
    for number, item in enumerate(questions, 1):
        where = f"question {number}: "
        video, question_id = (field(item, name, str, where) for name in ("video_name", "question_id"))
        question = field(item, "question", str, where, blank=True)
        if question_id not in answer_of:
            raise ValueError(f"{where}there is no answer to {shortened(question_id)}")
        answer, kind = answer_of[question_id]
        about = f"question {number}, about {shortened(video)}"
        yield _item(Path(f"v_{video}.mp4"), question, answer, about, kind)


def _activitynet_answers(answers: Any) -> dict[str, tuple[str, str]]:
    """Return the answer and the type of each question of ActivityNet-QA, by the id of the question."""
    if not isinstance(answers, list):
        raise ValueError("the file with the answers is not a list")
    answer_of = {}
    for number, item in enumerate(answers, 1):
        where = f"answer {number}: "
        kind = field(item, "type", int, where)
        if not 0 <= kind < len(ACTIVITYNET_QA_TYPES):
            raise ValueError(f'{where}"type" is {shortened(kind)}, not 0 to {len(ACTIVITYNET_QA_TYPES) - 1}')
        answer = field(item, "answer", str, where, blank=True)
        answer_of[field(item, "question_id", str, where)] = answer, ACTIVITYNET_QA_TYPES[kind]
    return answer_of


def next_qa(text: str) -> Iterator[Item]:
    """Read NExT-QA with choices (Xiao et al., arXiv 2105.08276): train.csv, val.csv or test.csv.

    `answer` is the number of the right one of the choices a0 to a4, as in github.com/doc-doc/NExT-QA. A clip
    is VIDEO.mp4, in one of the folders of VidOR.
    """
    for line, cells in rows(text, ["video", "answer", "type"], ["question", *NEXT_QA_CHOICES]):
        video, right, kind, question, *choices = cells
        if right not in ("0", "1", "2", "3", "4"):
            raise ValueError(f"line {line}: answer is {short(right)}, not the number of a choice, 0 to 4")
        if kind not in NEXT_QA_TYPES:
            raise ValueError(f"line {line}: type is {short(kind)}, not one of {', '.join(NEXT_QA_TYPES)}")
        about, answer = f"line {line}, about {shortened(video)}", choices[int(right)]
        yield _item(Path(f"{video}.mp4"), question, answer, about, NEXT_QA_TYPES[kind], choices)


def _item(
    video: Path, question: str, answer: str, about: str, kind: str | None = None, choices: Sequence[str] = ()
) -> Item:
    """Return the item of a question, `about` whose place the warnings of blank texts say.

    With a blank question or answer, the entry has no question. Blank choices are left out.
    """
    blanks: list[str] = []
    for name, text in (("question", question), ("answer", answer)):
        is_blank(text, f"the {name} of {about}", blanks)
    if blanks:
        return None, Entry(video), blanks
    kept = [text for i, text in enumerate(choices) if not is_blank(text, f"choice {i} of {about}", blanks)]
    entry = Entry(video, question=question, answer=answer, question_type=kind, choices=tuple(kept))
    return None, entry, blanks


def ivqa(text: str) -> Iterator[Item]:
    """Read iVQA (Yang et al., Just Ask, arXiv 2012.00451): train.csv, val.csv or test.csv.

    The columns are those that github.com/antoyang/just-ask, data/videoqa_loader.py, reads. Where a file also
    has the columns `start` and `end`, in seconds, they select the part of the video. A clip is YOUTUBEID.mp4.
    """
    header = next(csv.reader(io.StringIO(text, newline="")), [])
    times = [name for name in ("start", "end") if name in header]
    for line, cells in rows(text, ["video_id", *times], ["question", *IVQA_ANSWERS]):
        video_id, *cells = cells
        part = {name: seconds_of(cells.pop(0), line, video_id) for name in times}
        question, *answers = cells
        about, blanks = f"line {line}, about {shortened(video_id)}", list[str]()
        is_blank(question, f"the question of {about}", blanks)
        kept = [a for i, a in enumerate(answers, 1) if not is_blank(a, f"answer {i} of {about}", blanks)]
        entry = Entry(Path(f"{video_id}.mp4"), start=part.get("start"), end=part.get("end"))
        if question and kept:
            entry = replace(entry, question=question, answers=tuple(kept))
        yield None, entry, blanks
