"""What the numbers of an evaluation depend on: its setting, printed, and compared with that of others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .. import __version__
from ..media.ffmpeg import ffmpeg_version
from ..media.sampling import RULE
from ..model.generation import DecodingOptions
from ..output import json_text
from .manifest import Entry
from .tasks import Clip, Settings, Task

SHOWN = 12  # digits of a hash in the report


def setting_of(
    entries: Sequence[Entry],
    clips: Collection[Clip],
    training: Sequence[Entry],
    tasks: Sequence[Task],
    settings: Settings,
) -> dict[str, Any]:
    """Return what the result of these tasks depends on, JSON values, once all videos are read.

    It has no times, no folders and nothing else of the machine. The contents of the videos are not in it.
    """
    read = [clip for clip in clips if not clip.unreadable]
    captions = [number for clip in clips if (number := len({x for e in clip.entries for x in e.captions}))]
    model = settings.model
    return {
        "sampling": RULE,
        "annotations": _annotations(entries),
        "videos": {
            "listed": len(clips),
            "read": len(read),
            "missing": sum(not os.path.exists(clip.path) for clip in clips),
        },
        "captions_per_video": [min(captions), max(captions)] if captions else None,
        "training": _annotations(training) if training else None,
        "tasks": {task.name: task.depends_on() for task in tasks},
        "model": {
            "sha256": settings.model_key,
            "dtype": str(model.dtype),
            "origin": model.origin or {},
        },
        "versions": {
            "minivideococa": __version__,
            "numpy": np.__version__,
            "ffmpeg": ffmpeg_version(),
        },
    }


def _annotations(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the number of entries and a hash of their contents. Of a video's path only its stem counts."""
    lines = (json_text(asdict(entry) | {"video": entry.video.stem}) for entry in entries)
    return {"entries": len(entries), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def setting_lines(setting: dict[str, Any]) -> list[str]:
    """Return a setting in a few lines for people."""
    videos, model = setting["videos"], setting["model"]
    missing = f", {videos['missing']} missing" if videos["missing"] else ""
    rows = {
        "split": setting["split"],
        "videos": f"{videos['read']} of {videos['listed']} read{missing}",
        "captions": _captions(setting["captions_per_video"]),
        "frames": f"{setting['frames']}, adapter {setting['adapter']}",
        **{name: _facts(facts) for name, facts in setting["tasks"].items()},
        "model": f"{_origin(model['origin'])}sha256 {model['sha256'][:SHOWN]}, {model['dtype']}",
        "versions": ", ".join(f"{name} {version or 'none'}" for name, version in setting["versions"].items()),
    }
    width = max(map(len, rows))
    return [f"{name:{width}}  {text}" for name, text in rows.items() if text]


def _captions(numbers: list[int] | None) -> str:
    """Return the number of captions a video: "20 per video" or "1 to 5 per video"."""
    return f"{' to '.join(map(str, dict.fromkeys(numbers)))} per video" if numbers else ""


def _origin(origin: dict[str, str]) -> str:
    """Return the repository of the weights, if it is known."""
    return f"{origin['repository']}, " if "repository" in origin else ""


def _facts(facts: dict[str, Any]) -> str:
    """Return what a task depends on; of the decoding options, the beams and what is not the default."""
    given = [
        f"{name} {value}"
        for name, value in facts.get("decoding", {}).items()
        if name == "beams" or value != getattr(DecodingOptions, name)
    ]
    others = [f"{name} {_short(value)}" for name, value in facts.items() if name != "decoding"]
    return ", ".join([*others, *given])


def _short(value: Any) -> str:
    """Return a list as its first text and the number of the others, and anything else as text."""
    if not isinstance(value, list):
        return str(value)
    more = f" and {len(value) - 1} more" if len(value) > 1 else ""
    return f'"{value[0]}"{more}'
