"""The published splits of data sets, recognized from annotations, and VideoCoCa's figures on them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .annotations import canonical_split
from .manifest import Entry
from .tasks import Task

UNKNOWN = "unknown"

# MSR-VTT has two splits that are often taken for each other. That of its authors ("full") is by the clips'
# numbers, and its clips have twenty captions each. 1K-A (JSFusion, arXiv 1808.02559) tests on 1,000 of the
# test clips with one caption each, and trains on the 9,000 others.
MSRVTT_FULL = {"train": range(6513), "val": range(6513, 7010), "test": range(7010, 10_000)}
MSRVTT_1KA = "d726536b6c54784bee86c17835236984ea088cc2ff18ff122dceeeaf50cfd3c9"  # of its 1,000 test clips

# The other data sets: --format -> their name, and the number of entries of each split. iVQA is left out,
# whose val and test have 2,000 each.
SIZES = {
    "msrvtt-qa": ("MSRVTT-QA", {158_581: "train", 12_278: "val", 72_821: "test"}),
    "msvd-qa": ("MSVD-QA", {30_933: "train", 6_415: "val", 13_157: "test"}),
    "activitynet-qa": ("ActivityNet-QA", {32_000: "train", 18_000: "val", 8_000: "test"}),
    "next-qa": ("NExT-QA", {34_132: "train", 4_996: "val", 8_564: "test"}),
    "activitynet": ("ActivityNet Captions", {10_009: "train", 4_917: "val_1", 4_885: "val_2"}),
    "ucf101": (
        "UCF101",
        {9_537: "trainlist01", 9_586: "trainlist02", 9_624: "trainlist03"}
        | {3_783: "testlist01", 3_734: "testlist02", 3_696: "testlist03"},
    ),
}


def split_name(entries: Sequence[Entry], format: str | None = None, split: str | None = None) -> str:
    """Return which published split the entries are, as "MSR-VTT 1K-A, test"; "unknown" if it is not certain.

    `format` and `split` are those that `read_annotations` was given. MSR-VTT is recognized without them, by
    the numbers of its clips and of their captions, other data sets by the format and the number of entries.
    Which clips exist does not matter.
    """
    if format in (None, "msrvtt", "msrvtt-1ka"):
        return _msrvtt_split(entries)
    if format == "kinetics" and split:
        classes = len({label for entry in entries for label in entry.labels})
        return f"Kinetics-{classes}, {canonical_split(split)}" if classes in (400, 600) else UNKNOWN
    name, sizes = SIZES.get(format, ("", {}))
    return f"{name}, {sizes[len(entries)]}" if len(entries) in sizes else UNKNOWN


def _msrvtt_split(entries: Sequence[Entry]) -> str:
    """Return the split of MSR-VTT, "unknown" for other videos, parts of them and other captions."""
    names = [re.fullmatch(r"video(\d{1,4})", entry.video.stem) for entry in entries]
    numbers = {int(name[1]) for name in names if name}
    if not all(names) or any(entry.start or entry.end for entry in entries):
        return UNKNOWN
    captions = sum(len(entry.captions) for entry in entries) / len(numbers)
    if captions == 1 and _digest(numbers) == MSRVTT_1KA:
        return "MSR-VTT 1K-A, test"
    if not 19 < captions <= 20:  # blank ones are left out
        return UNKNOWN
    if _digest(set(range(10_000)) - numbers) == MSRVTT_1KA:
        return "MSR-VTT 1K-A, train"
    splits = (name for name, clips in MSRVTT_FULL.items() if numbers == set(clips))
    return f"MSR-VTT full, {found}" if (found := next(splits, None)) else UNKNOWN


def _digest(numbers: set[int]) -> str:
    return hashlib.sha256(" ".join(map(str, sorted(numbers))).encode()).hexdigest()


# VideoCoCa's figures

PAPER = "VideoCoCa, arXiv 2212.04979"
LISTED = "Papers with Code's list of the paper's results"
VIDEOPRISM = "VideoPrism (arXiv 2402.13217)"
MA_LMM = "MA-LMM (arXiv 2404.05726), table 3"
NOT_KNOWN = (
    "of the largest VideoCoCa (2.1 billion parameters), which was not released. Not known: its frames, "
    "prompts and decoding, which copies of the videos were missing, and how texts were compared"
)


class Figures(NamedTuple):
    """VideoCoCa's figures for a task, in the units of our metrics. `source` says where they are quoted.

    `training` is "zero-shot" or "finetuned", on the data set.
    """

    task: str
    training: str
    metrics: dict[str, float]
    source: str


# By split. Each figure was found in the places of its `source`, which quote the paper.
FIGURES = {
    "MSR-VTT full, test": [
        Figures(
            "retrieve",
            "zero-shot",
            {
                "text-to-video R@1": 0.343,
                "text-to-video R@5": 0.578,
                "text-to-video R@10": 0.670,
                "video-to-text R@1": 0.647,
                "video-to-text R@5": 0.852,
                "video-to-text R@10": 0.914,
            },
            f"{VIDEOPRISM}, table 18, and {LISTED}",
        ),
        Figures("caption", "zero-shot", {"CIDEr": 0.271}, f"{VIDEOPRISM}, table 5"),
        Figures("caption", "finetuned", {"BLEU-4": 0.538, "ROUGE-L": 0.680, "CIDEr": 0.732}, LISTED),
    ],
    "MSR-VTT 1K-A, test": [
        Figures(
            "retrieve",
            "zero-shot",
            {
                "text-to-video R@1": 0.439,
                "text-to-video R@5": 0.699,
                "video-to-text R@1": 0.454,
                "video-to-text R@5": 0.686,
            },
            f"{VIDEOPRISM}, table 3",
        )
    ],
    "ActivityNet Captions, val_1": [
        Figures(
            "retrieve",
            "zero-shot",
            {
                "text-to-video R@1": 0.345,
                "text-to-video R@5": 0.632,
                "video-to-text R@1": 0.330,
                "video-to-text R@5": 0.616,
            },
            f"{VIDEOPRISM}, table 3, which does not name the split",
        )
    ],
    "Kinetics-400, val": [
        Figures(
            "classify",
            "zero-shot",
            {"top-1": 0.720, "top-5": 0.905},
            f"{VIDEOPRISM}, table 4, which does not name the split",
        )
    ],
    "Kinetics-600, val": [
        Figures(
            "classify",
            "zero-shot",
            {"top-1": 0.701, "top-5": 0.889},
            f"{VIDEOPRISM}, table 19, which does not name the split",
        )
    ],
    "MSRVTT-QA, test": [Figures("qa", "finetuned", {"exact match": 0.463}, f"{MA_LMM}, and {LISTED}")],
    "MSVD-QA, test": [Figures("qa", "finetuned", {"exact match": 0.569}, f"{MA_LMM}, and {LISTED}")],
    "ActivityNet-QA, test": [Figures("qa", "finetuned", {"exact match": 0.561}, f"{MA_LMM}, and {LISTED}")],
}


def figures_for(split: str, tasks: Sequence[type[Task]]) -> list[dict[str, Any]]:
    """Return VideoCoCa's published figures for these tasks on a split, JSON values; [] if none is known."""
    return [
        {**figures._asdict(), "paper": PAPER, "note": NOT_KNOWN}
        for figures in FIGURES.get(split, [])
        if any(figures.task == task.name for task in tasks)
    ]
