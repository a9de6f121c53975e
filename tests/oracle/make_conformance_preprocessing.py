"""Write tests/conformance/preprocessing: small random frames and the pixels that open_clip computes.

python tests/oracle/make_conformance_preprocessing.py
"""

import json
from dataclasses import asdict

import numpy as np
from make_conformance import KIT, dumps, metadata
from open_clip.transform import PreprocessCfg, image_transform
from PIL import Image

FOLDER = KIT / "preprocessing"
CASES = {  # name -> (T, H, W), size, resize_mode, interpolation, fill_color
    "landscape": ((2, 24, 40), 16, "shortest", "bicubic", 0),
    "portrait": ((1, 41, 23), 16, "shortest", "bilinear", 0),
    "enlarged": ((1, 9, 10), 15, "shortest", "bicubic", 0),
    "cropped_wide": ((1, 16, 19), 16, "shortest", "bicubic", 0),  # by half pixels, which round to even
    "cropped_tall": ((1, 17, 16), 16, "shortest", "bicubic", 0),
    "strip": ((1, 3, 61), 7, "shortest", "bicubic", 0),
    "one_pixel": ((1, 1, 1), 8, "shortest", "bicubic", 0),
    "letterbox": ((1, 24, 41), 16, "longest", "bicubic", 0),
    "letterbox_tall": ((1, 37, 20), 15, "longest", "bilinear", 127),
    "letterbox_enlarged": ((1, 5, 4), 16, "longest", "bicubic", 255),
    "squash": ((1, 20, 33), 16, "squash", "bicubic", 0),
    "squash_enlarged": ((1, 12, 16), 16, "squash", "bilinear", 0),
    "no_frames": ((0, 8, 9), 4, "shortest", "bicubic", 0),
}


def open_clip_pixels(frames, size, mean, std, mode, interpolation, fill):
    """Preprocess frames with open_clip: uint8 [T, H, W, 3] -> float32 [T, 3, S, S]."""
    transform = image_transform(size, False, mean, std, mode, interpolation, fill)
    pixels = [transform(Image.fromarray(frame)).numpy() for frame in frames]
    return np.array(pixels, np.float32).reshape(-1, 3, size, size)


def make() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Return the preprocess_cfg of each case, and its tensors "NAME.frames" and "NAME.pixels"."""
    rng = np.random.default_rng(2)
    configs, tensors = {}, {}
    for name, (shape, size, mode, interpolation, fill) in CASES.items():
        fields = dict(size=size, resize_mode=mode, interpolation=interpolation, fill_color=fill)
        configs[name] = asdict(cfg := PreprocessCfg(**fields))
        frames = rng.integers(0, 256, (*shape, 3), np.uint8)
        pixels = open_clip_pixels(frames, size, cfg.mean, cfg.std, mode, interpolation, fill)
        tensors |= {f"{name}.frames": frames, f"{name}.pixels": pixels}
    return configs, tensors


def main() -> None:
    configs, tensors = make()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "cases.json").write_text(json.dumps(configs, indent=2) + "\n")
    (FOLDER / "cases.safetensors").write_bytes(dumps(tensors, metadata(configs)))


if __name__ == "__main__":
    main()
