"""Write tests/golden/generate.json: the ids that open_clip's `generate` returns for generate_cases.py.

    python tests/oracle/make_generate_golden.py

The network runs in float64. Its logits are rounded to float32, the only dtype of open_clip's beam search.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import reference
import torch
from common import Arrays, cast, checksum, random_pixels, random_weights
from generate_cases import MODELS, VIDEOS, Model, Run, models, runs, shift_logits, video
from open_clip import coca_model
from open_clip.coca_model import CoCa
from transformers import BeamSearchScorer, HammingDiversityLogitsProcessor, LogitsProcessorList

GOLDEN = Path(__file__).parents[1] / "golden" / "generate.json"
Encoded = tuple[torch.Tensor, torch.Tensor]  # latents [B, E], caption tokens [B, Q', E]


def weights_of(model: Model) -> Arrays:
    weights = random_weights(reference.shapes(model.model_cfg), model.seed)
    shift_logits(weights, model)
    return weights


def captioner(model_cfg: dict[str, Any], weights: Arrays) -> CoCa:
    """Return open_clip's CoCa for videos, with logits in float32 whatever the dtype of the weights."""
    model = reference.load(reference.video_coca(model_cfg), weights)
    model.text_decoder.register_forward_hook(lambda module, args, logits: logits.float())
    return model


@torch.no_grad()
def encode(model: CoCa, pixels: np.ndarray) -> Encoded:
    """Encode pixels [T, 3, S, S] as one video: its latent [1, E] and caption tokens [1, Q', E]."""
    return model._encode_image(torch.from_numpy(pixels).to(model.logit_scale.dtype))


def generate(
    model: CoCa,
    encoded: Encoded,
    start_id: int,
    end_id: int,
    max_length: int,
    min_length: int = 5,
    beams: int = 6,
    beam_groups: int = 3,
    diversity_penalty: float = 0.0,
    top_k: int | None = None,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
    prompt: list[int] | None = None,
) -> list[np.ndarray]:
    """Call open_clip's `generate` with our keywords. Returns ids [L] of each of B encoded videos, unpadded.

    open_clip has no keyword for two of them. The diversity penalty's logits processor is appended to its own;
    the length penalty becomes the default of the class that scores its beams.
    """

    def precomputed(images: torch.Tensor, normalize: bool = True) -> list[torch.Tensor]:
        return [x.repeat_interleave(len(images) // len(x), dim=0) for x in encoded]

    def with_diversity(processors: list) -> LogitsProcessorList:
        return LogitsProcessorList(
            [*processors, HammingDiversityLogitsProcessor(diversity_penalty, beams, beam_groups)]
        )

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(model, "_encode_image", precomputed))
        patches.enter_context(
            mock.patch.object(
                coca_model, "BeamSearchScorer", partial(BeamSearchScorer, length_penalty=length_penalty)
            )
        )
        if diversity_penalty:
            patches.enter_context(mock.patch.object(coca_model, "LogitsProcessorList", with_diversity))
        batch = len(encoded[1])
        padded = model.generate(
            torch.empty(batch, 0),
            text=None if prompt is None else torch.tensor([prompt] * batch),
            generation_type="beam_search" if top_k is None else "top_k",
            top_k=top_k,
            num_beams=beams,
            num_beam_groups=beam_groups,
            seq_len=max_length,
            min_seq_len=min_length,
            sot_token_id=start_id,
            eos_token_id=end_id,
            repetition_penalty=repetition_penalty,
        )
    ends = {end_id} if top_k is None else {end_id, model.pad_id}
    return [until(row, ends, len(prompt or [start_id])) for row in padded.numpy()]


def until(ids: np.ndarray, ends: set[int], begin: int) -> np.ndarray:
    """Return the ids up to the first generated one of `ends`; the rest is padding."""
    stops = [i for i, token in enumerate(ids) if i >= begin and token in ends]
    return ids[: stops[0] + 1] if stops else ids


def margin(model: CoCa, encoded: Encoded, start_id: int, end_id: int, **options) -> float:
    """Return the smallest margin of a run: the least gap between neighbours among the k + 1 best of a top-k.

    Greedy decoding takes the best of V logits, beam search the best 2 g of g V sums.
    """
    gaps, topk = [], torch.topk

    def recording(scores: torch.Tensor, k: int, **keywords) -> Any:
        gaps.append(-topk(scores, k + 1)[0].diff().max().item())
        return topk(scores, k, **keywords)

    with mock.patch.object(torch, "topk", recording):
        generate(model, encoded, start_id, end_id, **options)
    return min(gaps)


class Answer(NamedTuple):
    """A call, its pixels, and the ids that open_clip returned."""

    run: Run
    pixels: np.ndarray  # [T, 3, S, S]
    ids: np.ndarray  # [L]


def answers(dtype: str, calls: list[Run]) -> Iterator[Answer]:
    """Yield open_clip's answer to each call, model by model, computed in this dtype."""
    for i, model in enumerate(models()):
        theirs, encoded_videos = None, {}
        for run in calls:
            if run.model == i:
                theirs = theirs or captioner(model.model_cfg, cast(weights_of(model), dtype))
                if run.video not in encoded_videos:
                    pixels = pixels_of(run)
                    encoded_videos[run.video] = pixels, encode(theirs, pixels)
                pixels, encoded = encoded_videos[run.video]
                (ids,) = generate(theirs, encoded, model.start_id, model.end_id, **run.how)
                yield Answer(run, pixels, ids)


def pixels_of(run: Run) -> np.ndarray:
    frames, seed = video(run.model, run.video)
    return random_pixels(frames, models()[run.model].model_cfg["vision_cfg"]["image_size"], seed)


def content(results: list[Answer]) -> dict[str, Any]:
    """Return the content of the golden file."""
    return {
        "weights_crc32": [checksum(weights_of(model)) for model in models()],
        "runs": [run._asdict() | {"ids": ids.tolist()} for run, _, ids in results],
    }


def check_variety(results: list[Answer]) -> None:
    """Raise AssertionError if the answers are too similar to prove anything."""
    by_keywords: dict[str, dict[tuple[int, int], Answer]] = defaultdict(dict)
    for answer in results:
        keywords = {name: value for name, value in answer.run.how.items() if name != "max_length"}
        by_keywords[json.dumps(keywords)][answer.run.model, answer.run.video] = answer
    greedy, beam = by_keywords.pop('{"top_k": 1}'), by_keywords.pop("{}")

    for usual, endings in (
        (greedy, {"soon", "within", "padding", "limit"}),
        (beam, {"soon", "within", "never", "limit"}),
    ):
        count = Counter(ending(answer) for answer in usual.values())
        assert endings == {name for name in count if count[name] >= 5}, count
        assert sum(0 in answer.ids[1:-1] for answer in usual.values()) >= 5
    # without the last id, which is forced at the limit of greedy decoding
    assert sum(greedy[pair].ids[:-1].tolist() != beam[pair].ids[:-1].tolist() for pair in beam) >= 150
    starts = [{tuple(greedy[i, j].ids[:8]) for j in range(VIDEOS)} for i in range(MODELS)]
    assert sum(len(different) > 1 for different in starts) >= 40  # the video matters

    for keywords, answers in by_keywords.items():
        usual = greedy if "top_k" in keywords else beam
        different = sum(usual[pair].ids.tolist() != answer.ids.tolist() for pair, answer in answers.items())
        # two beams per group, as by default: without a penalty the number of groups makes no difference
        alike = keywords in ('{"beams": 2, "beam_groups": 1}', '{"beams": 4, "beam_groups": 2}')
        assert (different == 0) == alike, f"{keywords}: {different} of {len(answers)} differ from the usual"


def ending(answer: Answer) -> str:
    """Return where the text ends: "soon", "within", at the "limit", by "padding", or "never"."""
    longest = answer.run.how["max_length"]
    if answer.ids[-1] != models()[answer.run.model].end_id:
        return "padding" if len(answer.ids) < longest else "never"
    return "limit" if len(answer.ids) == longest else "soon" if len(answer.ids) <= 6 else "within"


def main() -> None:
    results = list(answers("float64", runs()))
    check_variety(results)
    made = content(results)
    rows = ",\n".join(json.dumps(run) for run in made["runs"])
    GOLDEN.write_text(f'{{"weights_crc32": {made["weights_crc32"]},\n"runs": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
