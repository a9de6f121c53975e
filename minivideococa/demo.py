"""The demo: caption, classify and retrieve on the bundled clips, and say whether each answer is right."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from .checkpoint import load
from .tasks import classify, retrieve
from .world import CLIP_SETS, LABELS, objects_named

CLIPS = Path(__file__).parent / "data" / "demo"


def run() -> dict[str, Any]:
    """{"clips": [{"clip", "set", "text", "caption", ...}], "retrieval": [{"text", "found", "cosine", "right"}]}.

    Every answer has a bool beside it, its name ending in `right`. Right is a caption that names exactly the coloured
    shapes that a clip shows, a first label that is the one shape of a clip with one, and a text's first clip that is
    the one it describes.
    """
    model = load()
    manifest = [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text().splitlines()]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*frames repeat", UserWarning
        )  # brief.gif stores equal frames once
        videos = [model.encode(CLIPS / entry["clip"]) for entry in manifest]
    clips, retrieval = [], []
    for entry, video in zip(manifest, videos, strict=True):
        truth = objects_named(entry["text"])
        caption = model.caption(video)
        clip = {**entry, "caption": caption, "caption_right": objects_named(caption) == truth}
        if len(truth) == 1:
            label, probability = classify(model, video, LABELS)[0]
            clip |= {"label": label, "probability": probability, "label_right": objects_named(label) == truth}
        clips.append(clip)
        index, cosine = retrieve(model, entry["text"], videos)[0]
        found = manifest[index]["clip"]
        retrieval.append(
            {"text": entry["text"], "found": found, "cosine": cosine, "right": found == entry["clip"]}
        )
    return {"clips": clips, "retrieval": retrieval}


def report(result: dict[str, Any]) -> str:
    """What `run` found, for people."""

    def tell(right: bool) -> str:
        return "right" if right else "WRONG"

    clips, retrieval = result["clips"], result["retrieval"]
    lines = [
        "A tiny VideoCoCa, trained on single pictures of coloured shapes, watches short videos for the first time.",
        f"Of each it sees 8 frames. Nothing in the world below is known to it but {len(LABELS)} coloured shapes.",
        "",
        "1. What does the video show? It writes a sentence, word by word; right if it names exactly what is there.",
        "",
    ]
    for clip in clips:
        lines += [
            f"   {clip['clip']}: {clip['text']} ({CLIP_SETS[clip['set']]})",
            f"      caption  {clip['caption']!r}  {tell(clip['caption_right'])}",
        ]
    lines += ["", f"2. Which of {len(LABELS)} labels fits best? For the clips with a single shape.", ""]
    lines += [
        f"   {clip['clip']}: {clip['label']!r} ({clip['probability']:.0%})  {tell(clip['label_right'])}"
        for clip in clips
        if "label" in clip
    ]
    lines += ["", f"3. Which of the {len(clips)} videos does a sentence describe?", ""]
    lines += [
        f"   {found['text']!r} -> {found['found']} (cosine {found['cosine']:.2f})  {tell(found['right'])}"
        for found in retrieval
    ]
    answers = [clip[key] for clip in clips for key in ("caption_right", "label_right") if key in clip]
    answers += [found["right"] for found in retrieval]
    lines += ["", f"{sum(answers)} of {len(answers)} answers are right."]
    return "\n".join(lines)
