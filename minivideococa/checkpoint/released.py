"""The configurations of open_clip's CoCa models, and known limits of the released weights.

The repositories of the released weights hold no configuration. The two configurations in data/open_clip are those of
open_clip 3.3.0, `model_configs/coca_ViT-B-32.json` and `coca_ViT-L-14.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..model.config import Config
from .folder import read_config
from .table import describe, misfits

FOLDER = Path(__file__).resolve().parents[1] / "data" / "open_clip"
UNSUPPORTED = {
    "coca_base": "it has no attentional pooler",
    "coca_roberta-ViT-B-32": "its text tower is RoBERTa",
}
CAPTION_ONLY = "mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k"  # the repository, whoever mirrors it


def names() -> list[str]:
    """Return the names of the configurations that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def named_config(name: str) -> Config | None:
    """Return the configuration of this name, or None if there is none.

    Raises ValueError for one of open_clip's that is not supported.
    """
    if name in UNSUPPORTED:
        raise ValueError(
            f"open_clip's {name} is not supported: {UNSUPPORTED[name]}; supported: {', '.join(names())}"
        )
    return read_config(FOLDER / f"{name}.json") if name in names() else None


def fitting_config(tensors: Mapping[str, Any]) -> tuple[str, Config]:
    """Return (name, configuration) of the shipped configuration that matches all tensor names and shapes.

    Raises ValueError if there is none, with what is wrong for the nearest one.
    """
    problems = {}
    for name in names():
        config = read_config(FOLDER / f"{name}.json")
        problems[name] = misfits(tensors, config)
        if not any(problems[name].values()):
            return name, config
    nearest = min(problems, key=lambda name: sum(map(len, problems[name].values())))
    raise ValueError(
        f"the weights fit none of open_clip's {', '.join(problems)} ({nearest} is the nearest: "
        f"{describe(problems[nearest])}), and {' and '.join(UNSUPPORTED)} are not supported: "
        "give --config FILE"
    )


def weights_caveat(record: Mapping[str, str]) -> str | None:
    """Return what to know before latents of these weights are compared, None where there is nothing.

    `record` says where they came from, as `folder.read_record` returns it. The figures are those of open_clip's
    docs/openclip_classification_results.csv and docs/openclip_retrieval_results.csv.
    """
    if str(record.get("repository", "")).rpartition("/")[2] != CAPTION_ONLY:
        return None
    return (
        f"the weights of {record['repository']} are for captions only: finetuning degraded their latents "
        "(below 1% on ImageNet, 0.3% recall at 1 from text to image on COCO); to classify and retrieve, use "
        "hf-hub:laion/CoCa-ViT-L-14-laion2B-s13B-b90k"
    )
