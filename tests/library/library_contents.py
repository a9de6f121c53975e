"""What is in a library, and a check that it is sound."""

import os

import numpy as np

from minivideococa.library import read_library
from minivideococa.library.store import clips_of, keys_of


def contents(folder):
    """Return {clip: (latent, frames, times)}. Nothing is twice in it, and no other file in the folder."""
    library, found, keys = read_library(folder), {}, []
    for shard in library.shards:
        rows = library.rows(shard)
        keys += keys_of(rows)
        for i, clip in enumerate(clips_of(rows)):
            assert clip not in found, f"{clip} is twice in it"
            found[clip] = [np.array(rows[name][i]) for name in ("latent", "frames", "times") if name in rows]
    assert len(keys) == len(set(keys)) == len(found) == len(library)
    shards = {name for name in os.listdir(folder) if name.startswith("shard-")}
    assert shards >= set(library.shards)
    return found
