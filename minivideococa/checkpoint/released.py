"""The configurations that come with the package, and known defects of the released weights.

The repositories of open_clip's released CoCa weights hold no configuration. data/open_clip has the two that
are needed, from open_clip 3.3.0: `model_configs/coca_ViT-B-32.json` and `coca_ViT-L-14.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..model.config import Config
from .folder import read_config
from .table import find_mismatches, format_mismatches

FOLDER = Path(__file__).resolve().parents[1] / "data" / "open_clip"
UNSUPPORTED = {
    "coca_base": "it has no attentional pooler",
    "coca_roberta-ViT-B-32": "its text tower is RoBERTa",
}
# the repository's name, whoever owns the copy
CAPTIONS_ONLY = "mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k"


def config_names() -> list[str]:
    """Return the names of the configurations that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def named_config(name: str) -> Config | None:
    """Return the configuration of this name, or None if there is none.

    Raises ValueError for a configuration of open_clip that is not supported.
    """
    names = config_names()
    if name in UNSUPPORTED:
        raise ValueError(
            f"open_clip's {name} is not supported: {UNSUPPORTED[name]}; supported: {', '.join(names)}"
        )
    return read_config(FOLDER / f"{name}.json") if name in names else None


def fitting_config(tensors: Mapping[str, Any]) -> tuple[str, Config]:
    """Return the name and content of the configuration whose tensors have these names and shapes.

    Raises ValueError if there is none, with the mismatches of the closest one.
    """
    mismatches = {}
    for name in config_names():
        config = read_config(FOLDER / f"{name}.json")
        mismatches[name] = find_mismatches(tensors, config)
        if not any(mismatches[name].values()):
            return name, config
    closest = min(mismatches, key=lambda name: sum(map(len, mismatches[name].values())))
    raise ValueError(
        f"give --config FILE: the weights do not fit open_clip's {' or '.join(mismatches)} "
        f"(closest: {closest}; {format_mismatches(mismatches[closest], limit=1)}); "
        f"{' and '.join(UNSUPPORTED)} are not supported"
    )


def weights_caveat(origin: Mapping[str, str]) -> str | None:
    """Return a warning for users of these weights' latents, or None. `origin`: see `folder.read_origin`.

    The figures are those of open_clip's docs/openclip_classification_results.csv and
    docs/openclip_retrieval_results.csv.
    """
    if str(origin.get("repository", "")).rpartition("/")[2] != CAPTIONS_ONLY:
        return None
    return (
        f"the weights of {origin['repository']} are for captions only: finetuning degraded their latents "
        "(below 1% on ImageNet, 0.3% recall at 1 from text to image on COCO); to classify and retrieve, use "
        "hf-hub:laion/CoCa-ViT-L-14-laion2B-s13B-b90k"
    )
