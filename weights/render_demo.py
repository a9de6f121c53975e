"""Render the clips of `minivideococa demo`, one of each set in SETS: GIFs of 16 frames, and clips.jsonl.

python weights/render_demo.py
"""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from minivideococa.demo import CLIPS
from minivideococa.world import caption_of, draw_clip, sample_clip

SETS = ("single", "brief", "pair", "split", "mixed")
SEED, FRAMES, MILLISECONDS = 9, 16, 150  # training uses other seeds


def main(folder: Path = CLIPS) -> None:
    """Write the GIFs and the list of what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, kind in enumerate(SETS):
        clip = sample_clip(kind, np.random.default_rng([SEED, i]), FRAMES)
        frames = draw_clip(clip)  # [16, 64, 64, 3]
        iio.imwrite(folder / f"{kind}.gif", frames, plugin="pillow", duration=MILLISECONDS, loop=0)
        lines.append({"clip": f"{kind}.gif", "set": kind, "text": caption_of(clip.first)})
    (folder / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
