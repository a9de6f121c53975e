"""Our `generate` against open_clip's: the golden ids, float32, batches, the tiny checkpoint."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import make_conformance_generation as kit
import make_generate_golden as golden
import numpy as np
import pytest
import torch
from common import cast
from generate_cases import MODELS, VIDEOS, Run, models, runs
from safetensors.numpy import load_file

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest

ROOT = Path(__file__).parents[2]
CLIPS = sorted((ROOT / "minivideococa" / "data" / "demo").glob("*.gif"))
NEAR_TIE = 1e-4  # of logits, or of sums of up to 40 of them


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: in models this small, more would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check_near_ties(capsys, title: str, calls: int, margins: list[float]) -> None:
    """Print how many calls differ, and raise AssertionError unless each difference is a near tie.

    `margins` holds open_clip's smallest margin in float64 for each call that differs.
    """
    with capsys.disabled():
        print(f"\n{title}: {len(margins)} of {calls} calls differ", *(f"{margin:.1e}" for margin in margins))
    assert max(margins, default=0) < NEAR_TIE
    assert len(margins) <= calls / 100


# Random models ----------------------------------------------------------------------------------------------


def ours(model: int, dtype: str) -> mvc.VideoCoCa:
    case = models()[model]
    return mvc.VideoCoCa(parse_config(case.model_cfg), nest(cast(golden.weights_of(case), dtype)))


def differing(answers: list[golden.Answer], dtype: str) -> list[tuple[Run, list[int], list[int]]]:
    """Return the calls with different ids: the call, our ids, open_clip's ids."""
    different = []
    for i, case in enumerate(models()):
        model, tokens = ours(i, dtype), {}
        for run, pixels, theirs in answers:
            if run.model == i:
                if run.video not in tokens:
                    tokens[run.video] = model.encode_video(pixels).tokens
                ids = model.generate(tokens[run.video], start_id=case.start_id, end_id=case.end_id, **run.how)
                if not np.array_equal(ids, theirs):
                    different.append((run, ids.tolist(), theirs.tolist()))
    return different


def smallest_margin(run: Run) -> float:
    """Return open_clip's smallest margin in a call, in float64."""
    case = models()[run.model]
    theirs = golden.captioner(case.model_cfg, cast(golden.weights_of(case), "float64"))
    encoded = golden.encode(theirs, golden.pixels_of(run))
    return golden.margin(theirs, encoded, case.start_id, case.end_id, **run.how)


@pytest.mark.parametrize("name", kit.MODELS)
def test_the_kit_is_reproducible(name):
    folder = kit.KIT / "generation" / name
    config, weights, pixels, calls = kit.make(name)
    assert json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(config))
    for made, file in ((weights, "model.safetensors"), (pixels, "inputs.safetensors")):
        committed = load_file(folder / file)
        assert made.keys() == committed.keys() and all(np.array_equal(made[x], committed[x]) for x in made)
    committed = json.loads((folder / "calls.json").read_text())
    assert [call.pop("margin") for call in calls["calls"]] == pytest.approx(
        [call.pop("margin") for call in committed["calls"]], abs=1e-5
    )
    assert calls == committed


def test_golden_ids_are_reproducible():
    found = list(golden.answers("float64", runs()))
    assert golden.content(found) == json.loads(golden.GOLDEN.read_text())
    assert not differing(found, "float64")


def test_float32(capsys):
    found = list(golden.answers("float32", runs()))
    different = differing(found, "float32")
    check_near_ties(capsys, "float32", len(found), [smallest_margin(run) for run, *_ in different])


def test_margin():
    """The smallest margin of a greedy text, from the logits along it."""
    case, run = models()[2], Run(2, 1, {"top_k": 1, "max_length": 12})
    theirs = golden.captioner(case.model_cfg, cast(golden.weights_of(case), "float64"))
    latent, caption_tokens = encoded = golden.encode(theirs, golden.pixels_of(run))
    (ids,) = golden.generate(theirs, encoded, case.start_id, case.end_id, **run.how)
    with torch.no_grad():
        out = theirs(None, torch.tensor(ids[None, :-1]), latent, caption_tokens, output_labels=False)
    logits = out["logits"][0]
    logits[:4, case.end_id] = -np.inf  # no end before the sixth id
    first, second = logits.topk(2).values.T
    assert smallest_margin(run) == pytest.approx((first - second).min().item(), abs=1e-5)
    assert smallest_margin(run._replace(how={"max_length": 12})) > 0


@pytest.mark.parametrize("how", [{}, {"top_k": 1}, {"diversity_penalty": 1.5, "beam_groups": 2}])
@pytest.mark.parametrize("index", range(2, MODELS, 13))
def test_batches(index, how):
    """A batch of videos gives the same ids as each video alone, in open_clip and here."""
    case, model = models()[index], ours(index, "float64")
    theirs = golden.captioner(case.model_cfg, cast(golden.weights_of(case), "float64"))
    how = how | {
        "max_length": case.model_cfg["text_cfg"]["context_length"],
        "start_id": case.start_id,
        "end_id": case.end_id,
    }
    pixels = [golden.pixels_of(Run(index, j, {})) for j in range(VIDEOS)]
    encoded = tuple(map(torch.cat, zip(*(golden.encode(theirs, video) for video in pixels), strict=True)))
    tokens = np.stack([model.encode_video(video).tokens for video in pixels])
    expected = [ids.tolist() for ids in golden.generate(theirs, encoded, **how)]
    assert [ids.tolist() for ids in model.generate(tokens, **how)] == expected
    assert [model.generate(one, **how).tolist() for one in tokens] == expected


def test_sampling_ends_at_a_start_token_that_is_the_padding_id():
    case, model = models()[0], ours(0, "float64")
    theirs = golden.captioner(case.model_cfg, cast(golden.weights_of(case), "float64"))
    pixels, pad_id = golden.pixels_of(Run(0, 0, {})), case.model_cfg["pad_id"]
    how = {"top_k": 1, "max_length": 6, "start_id": pad_id, "end_id": case.end_id}
    (expected,) = golden.generate(theirs, golden.encode(theirs, pixels), **how)
    assert model.generate(model.encode_video(pixels).tokens, **how).tolist() == expected.tolist() == [pad_id]


# The tiny checkpoint ----------------------------------------------------------------------------------------


def tiny(dtype: str) -> tuple[mvc.VideoCoCa, golden.CoCa]:
    folder = ROOT / "weights" / "tiny"
    model_cfg = json.loads((folder / "config.json").read_text())["model_cfg"]
    weights = cast(load_file(folder / "model.safetensors"), dtype)
    return mvc.load(folder, dtype=dtype), golden.captioner(model_cfg, weights)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiny_checkpoint_on_the_demo_clips(dtype, capsys):
    assert len(CLIPS) == 5
    (model, theirs), (_, exact) = tiny(dtype), tiny("float64")
    ends = {"start_id": model.tokenizer.start_id, "end_id": model.tokenizer.end_id}
    hows = [how | {"max_length": length} for how in ({"top_k": 1}, {}) for length in (6, 7, 10, 14, 20)]
    hows += [how | {"max_length": 20} for how in ({"diversity_penalty": 2.0}, {"repetition_penalty": 1.3})]
    margins = []
    for path in CLIPS:
        pixels = model.preprocess(mvc.read_video(path, num_frames=8))
        tokens, encoded = model.encode_video(pixels).tokens, golden.encode(theirs, pixels)
        for how in hows:
            (expected,) = golden.generate(theirs, encoded, **ends, **how)
            if not np.array_equal(model.generate(tokens, **how), expected):
                margins.append(golden.margin(exact, golden.encode(exact, pixels), **ends, **how))
    check_near_ties(capsys, f"tiny checkpoint in {dtype}", len(CLIPS) * len(hows), margins)


def test_tiny_checkpoint_continues_a_prompt():
    """Only in sampling: open_clip's beam search ignores the prompt."""
    model, theirs = tiny("float64")
    start, end = model.tokenizer.start_id, model.tokenizer.end_id
    for path, prompt in product(CLIPS, ["a red", "there is nothing", "a blue star left of"]):
        pixels = model.preprocess(mvc.read_video(path, num_frames=8))
        begin = model.tokenize([prompt])[0]
        begin = begin[: np.argmax(begin == end)].tolist()
        how = {"top_k": 1, "max_length": 16}
        (expected,) = golden.generate(theirs, golden.encode(theirs, pixels), start, end, prompt=begin, **how)
        ids = model.generate(model.encode_video(pixels).tokens, prompt=prompt, **how)
        assert ids.tolist() == expected.tolist()
