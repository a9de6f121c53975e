"""Render the clips that `minivideococa demo` shows, one of each set in SETS: GIFs of 16 frames and a manifest.

python weights/render_demo.py
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from minivideococa.demo import CLIPS
from minivideococa.world import caption_of, draw_clip, sample_clip

SETS = ("single", "brief", "pair", "split", "mixed")
SEED, FRAMES, MILLISECONDS = 9, 16, 150  # training draws from other seeds


def main(folder: Path = CLIPS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    manifest = []
    for i, kind in enumerate(SETS):
        clip = sample_clip(kind, np.random.default_rng([SEED, i]), FRAMES)
        frames = [Image.fromarray(frame) for frame in draw_clip(clip)]
        frames[0].save(
            folder / f"{kind}.gif", save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0
        )
        manifest.append({"clip": f"{kind}.gif", "set": kind, "text": caption_of(clip.first)})
    (folder / "clips.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in manifest))


if __name__ == "__main__":
    main()
