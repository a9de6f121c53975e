"""The released shapes coca_ViT-B-32 and coca_ViT-L-14 with random weights on 8 frames, against open_clip."""

import numpy as np
import open_clip
import pytest
import reference
from common import random_pixels, random_weights
from compare import measure

IDS = np.array([[49406, *range(320, 340), 49407] + [0] * 54])  # [1, 76], padded


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "coca_ViT-L-14"])
def test_released_shapes(name, capsys):
    model_cfg = open_clip.get_model_config(name)
    weights = random_weights(reference.shapes(model_cfg), seed=0)
    differences, ratios = measure(model_cfg, weights, random_pixels(8, 224, seed=0), IDS)
    median = np.median(list(ratios.values()))
    with capsys.disabled():
        print(
            f"\n{name}: float64 differs by {max(differences.values()):.1e} at most; in float32 our error "
            f"is {median:.2f} times torch's in the median of {len(ratios)} tensors"
        )
    assert max(differences.values()) < 1e-12, differences
    assert median <= 1.25, ratios
