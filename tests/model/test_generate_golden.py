"""Decoding against open_clip's `generate`: by the ids that tests/oracle/make_generate_golden.py had of it."""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from oracle.common import cast, checksum, random_pixels, random_weights
from oracle.generate_cases import MODELS, models, shift_logits, video

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest, parameter_shapes

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "generate.json").read_text())


@cache
def encoded(index: int) -> tuple[mvc.VideoCoCa, list[mvc.Video]]:
    """A model of the golden file in float64, and its videos."""
    case = models()[index]
    config = parse_config(case.model_cfg)
    weights = random_weights(parameter_shapes(config), case.seed)
    shift_logits(weights, case)
    assert checksum(weights) == GOLDEN["weights_crc32"][index], "other weights than open_clip had"
    model = mvc.VideoCoCa(config, nest(cast(weights, "float64")))
    clips = [video(index, j) for j in range(1 + max(run["video"] for run in asked(index)))]
    return model, [
        model.encode_video(random_pixels(frames, config.vision.image_size, seed)) for frames, seed in clips
    ]


def asked(index: int) -> list[dict]:
    return [run for run in GOLDEN["runs"] if run["model"] == index]


def assert_golden(index: int, **more) -> None:
    case, (model, videos) = models()[index], encoded(index)
    for run in asked(index):
        ids = model.generate(
            videos[run["video"]].tokens, start_id=case.start_id, end_id=case.end_id, **run["how"], **more
        )
        assert ids.tolist() == run["ids"], run


def test_there_are_enough():
    """Two hundred videos and more, each with greedy and with default beam search; short and long."""
    asked_for = Counter(
        json.dumps({k: v for k, v in run["how"].items() if k != "max_length"}) for run in GOLDEN["runs"]
    )
    pairs = {(run["model"], run["video"]) for run in GOLDEN["runs"]}
    assert asked_for["{}"] == asked_for['{"top_k": 1}'] == len(pairs) >= 200
    assert len(asked_for) >= 20
    assert {run["how"]["max_length"] for run in GOLDEN["runs"]} == set(range(6, 41))


@pytest.mark.parametrize("index", range(MODELS))
def test_ids(index):
    assert_golden(index)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(0, MODELS, 7))
def test_ids_without_a_cache(index):
    assert_golden(index, cache=False)
