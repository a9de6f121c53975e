"""Write tests/golden/preprocess.npz: small random frames and the pixels that open_clip computes."""

import json
from pathlib import Path

import numpy as np
from open_clip.transform import image_transform
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess.npz"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CASES = [  # (T, H, W), size, resize_mode, interpolation, fill_color
    ((2, 24, 40), 16, "shortest", "bicubic", 0),
    ((1, 41, 23), 16, "shortest", "bilinear", 0),
    ((1, 9, 10), 15, "shortest", "bicubic", 0),  # enlarged
    ((1, 16, 19), 16, "shortest", "bicubic", 0),  # only cropped, by half pixels that round to even
    ((1, 17, 16), 16, "shortest", "bicubic", 0),
    ((1, 3, 61), 7, "shortest", "bicubic", 0),
    ((1, 1, 1), 8, "shortest", "bicubic", 0),
    ((1, 24, 41), 16, "longest", "bicubic", 0),
    ((1, 37, 20), 15, "longest", "bilinear", 127),
    ((1, 5, 4), 16, "longest", "bicubic", 255),
    ((1, 20, 33), 16, "squash", "bicubic", 0),
    ((1, 12, 16), 16, "squash", "bilinear", 0),
    ((0, 8, 9), 4, "shortest", "bicubic", 0),
]


def open_clip_pixels(frames, size, mean, std, mode, interpolation, fill):
    """Preprocess frames with open_clip: uint8 [T, H, W, 3] -> float32 [T, 3, S, S]."""
    transform = image_transform(size, False, mean, std, mode, interpolation, fill)
    pixels = [transform(Image.fromarray(frame)).numpy() for frame in frames]
    return np.array(pixels, np.float32).reshape(-1, 3, size, size)


def make() -> dict[str, np.ndarray]:
    """Return the golden file's arrays: `frames_0`, `pixels_0`, ..., and `cases`, the settings as JSON."""
    rng = np.random.default_rng(2)
    arrays, cases = {}, []
    for i, (shape, size, mode, interpolation, fill) in enumerate(CASES):
        frames = rng.integers(0, 256, (*shape, 3), np.uint8)
        arrays[f"frames_{i}"] = frames
        arrays[f"pixels_{i}"] = open_clip_pixels(frames, size, MEAN, STD, mode, interpolation, fill)
        cases.append(
            dict(
                size=size, mean=MEAN, std=STD, resize_mode=mode, interpolation=interpolation, fill_color=fill
            )
        )
    return arrays | {"cases": np.array(json.dumps(cases))}


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **make())
