"""The demo: caption, classify and retrieve the bundled clips, answer questions, and check each answer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .checkpoint import load
from .checkpoint.tuned import QUESTIONS
from .explanation.explain import explain
from .explanation.explanation import Explanation
from .explanation.page import Section, page_of_sections
from .model.config import Video
from .model.videococa import VideoCoCa
from .progress import Progress, no_progress
from .tasks import answer, classify, retrieve
from .world import CLIP_SETS, LABELS, objects_named

CLIPS = Path(__file__).parent / "data" / "demo"
ASKED = (  # a clip, a question and the true answer
    ("single.gif", "what colour is the crescent?", "green"),
    ("pair.gif", "what shape is red?", "ring"),
    ("pair.gif", "is there a green ring?", "no"),
    ("mixed.gif", "how many shapes are there?", "three"),
    ("mixed.gif", "which is largest?", "orange star"),
)

LEAD = (
    "Five clips of eight frames, captioned by a tiny model that was trained on still pictures of coloured "
    "shapes and never on a video. Attentional pooling reads the patches of all frames at once; mean pooling "
    "reads each frame alone and averages, and loses what only a few frames show. Point at a word to see "
    "where it came from."
)
NEXT = (
    "minivideococa demo --html demo.html    where each word came from",
    "minivideococa explain VIDEO -o a.html  the same for a video of yours",
    "minivideococa check --new mine.py      exercises: write the model yourself",
)
SHOWN = CLIP_SETS | {  # what the bundled clip of a set shows
    "brief": "one object, visible in 2 of 8 frames",
    "mixed": "three objects, always visible",
}
NOTHING = (
    " Mean pooling looks at the crescent, too: a map shows where the model looked, not what it made of it. "
    "Averaged over eight frames, the two that show it do not count enough to be named."
)


def run(progress: Progress = no_progress) -> dict[str, Any]:
    """Run the demo.

    Returns {"clips": [{"clip", "set", "text", "caption", ...}],
    "retrieval": [{"text", "found", "cosine", "right"}],
    "questions": [{"clip", "question", "answer", "right"}]}.

    Beside each answer is a bool whose name ends in `right`. A caption is right if it names exactly the
    shapes of the clip. The best label, for a clip with one shape, is right if it is that shape. The best
    match of a text is right if it is the clip that the text describes.
    """
    model, manifest, videos = load(), _manifest(), []
    with _no_warning_of_equal_frames(), progress(len(manifest), "videos") as update:
        for entry in manifest:
            videos.append(model.encode(CLIPS / entry["clip"]))
            update(1)
    return {
        "clips": [_describe(model, entry, video) for entry, video in zip(manifest, videos, strict=True)],
        "retrieval": [_search(model, entry, manifest, videos) for entry in manifest],
        "questions": _ask(),
    }


def _manifest() -> list[dict[str, Any]]:
    """Return {"clip", "set", "text"} for each clip."""
    return [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text().splitlines()]


@contextmanager
def _no_warning_of_equal_frames() -> Iterator[None]:
    """Hide the warning that frames repeat: brief.gif stores equal frames once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*different frames? at the", UserWarning)
        yield


def _describe(model: VideoCoCa, entry: dict[str, Any], video: Video) -> dict[str, Any]:
    """Return an entry of the manifest with the clip's caption and, if it shows one shape, the best label."""
    truth = objects_named(entry["text"])
    caption = model.caption(video)
    clip = {**entry, "caption": caption, "caption_right": objects_named(caption) == truth}
    if len(truth) == 1:
        label, probability = classify(model, video, LABELS)[0]
        clip |= {"label": label, "probability": probability, "label_right": objects_named(label) == truth}
    return clip


def _search(
    model: VideoCoCa, entry: dict[str, Any], manifest: Sequence[dict[str, Any]], videos: Sequence[Video]
) -> dict[str, Any]:
    """Return the best match of an entry's text among all clips."""
    index, cosine = retrieve(model, entry["text"], list(videos))[0]
    found = manifest[index]["clip"]
    return {"text": entry["text"], "found": found, "cosine": cosine, "right": found == entry["clip"]}


def _ask() -> list[dict[str, Any]]:
    """Return answers of the embedded checkpoint with its part for questions, which encodes anew."""
    model, answers = load(tuned=QUESTIONS), []
    for clip, question, truth in ASKED:
        said = answer(model, CLIPS / clip, question)
        answers.append({"clip": clip, "question": question, "answer": said, "right": said == truth})
    return answers


def page(progress: Progress = no_progress) -> str:
    """Return the demo's HTML page: each clip, its captions by two adapters, and what each word attended to.

    The clips of which the two captions name different things come first.
    """
    model, manifest, sections = load(), _manifest(), []
    with _no_warning_of_equal_frames(), progress(len(manifest), "videos") as update:
        for entry in manifest:
            sections.append(_compare(model, entry))
            update(1)
    sections.sort(key=lambda section: len(set(map(_named_in, section.explanations))) == 1)
    return page_of_sections(sections, "What VideoCoCa looks at", lead=LEAD, folded=True)


def _named_in(explanation: Explanation) -> frozenset[tuple[str, str]]:
    return frozenset(objects_named(explanation.text))


def _compare(model: VideoCoCa, entry: dict[str, Any]) -> Section:
    """Return a clip's section: attentional and mean pooling of the same frames."""
    adapters = ("attentional", "mean")
    explanations = [explain(model, CLIPS / entry["clip"], adapter=adapter) for adapter in adapters]
    verdicts = [_missed(entry["text"], explanation.text) for explanation in explanations]
    of_nothing = NOTHING if "nothing" in explanations[1].text.split() else ""
    return Section(
        explanations,
        heading=f"{entry['clip']}: {entry['text']}",
        note=f"{SHOWN[entry['set']].capitalize()}.{of_nothing}",
        labels=[f"{adapter} pooling: {verdict}" for adapter, verdict in zip(adapters, verdicts, strict=True)],
    )


def _missed(truth: str, caption: str) -> str:
    """Return "right", or what a caption misses or names wrongly."""
    there, named = objects_named(truth), objects_named(caption)
    missed, wrong = (
        " and ".join(f"the {colour} {shape}" for colour, shape in sorted(names))
        for names in (there - named, named - there)
    )
    return f"misses {missed}" if missed else f"names {wrong}, which is not there" if wrong else "right"


def report(result: dict[str, Any]) -> str:
    """Return the result of `run` as text."""
    clips, retrieval = result["clips"], result["retrieval"]
    answers = [clip[key] for clip in clips for key in ("caption_right", "label_right") if key in clip]
    answers += [given["right"] for given in [*retrieval, *result["questions"]]]
    lines = [
        "This tiny VideoCoCa was trained on still images of coloured shapes, never on video. It recognizes",
        f"{len(LABELS)} coloured shapes and nothing else. It samples 8 frames of each clip.",
        "",
        "1. Captioning: generate a sentence. It is right if it names exactly the shapes in the clip.",
        "",
        *(line for clip in clips for line in _caption_lines(clip)),
        "",
        f"2. Classification: choose one of {len(LABELS)} labels, for the clips with a single shape.",
        "",
        *(_label_line(clip) for clip in clips if "label" in clip),
        "",
        f"3. Retrieval: find the clip that a sentence describes among all {len(clips)}.",
        "",
        *map(_match_line, retrieval),
        "",
        "4. Questions: the checkpoint with its second part, which was tuned for questions.",
        "",
        *map(_answer_line, result["questions"]),
        "",
        f"{sum(answers)} of {len(answers)} answers are right.",
    ]
    return "\n".join(lines)


def _caption_lines(clip: dict[str, Any]) -> list[str]:
    return [
        f"   {clip['clip']}: {clip['text']} ({SHOWN[clip['set']]})",
        f"      caption  {clip['caption']!r}  {_verdict(clip['caption_right'])}",
    ]


def _label_line(clip: dict[str, Any]) -> str:
    label = f"{clip['label']!r} ({clip['probability']:.0%})"
    return f"   {clip['clip']}: {label}  {_verdict(clip['label_right'])}"


def _match_line(match: dict[str, Any]) -> str:
    found = f"{match['found']} (cosine {match['cosine']:.2f})"
    return f"   {match['text']!r} -> {found}  {_verdict(match['right'])}"


def _answer_line(given: dict[str, Any]) -> str:
    return f"   {given['clip']}: {given['question']} {given['answer']!r}  {_verdict(given['right'])}"


def _verdict(right: bool) -> str:
    return "right" if right else "WRONG"
