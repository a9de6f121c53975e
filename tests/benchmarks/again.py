"""A command that is run again: what is left of `retrieve` when its clips are in the cache."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from models import CHECKPOINT
from race import race, whole_process
from report import Section, ratio, seconds


def measure(folder: Path, model: str, rounds: int, threads: int) -> Section:
    import minivideococa

    clips = map(str, sorted((Path(minivideococa.__file__).parent / "data" / "demo").glob("*.gif")))
    weights = str(folder / CHECKPOINT)
    run = partial(whole_process, threads=threads)
    retrieve = partial(run, "-m", "minivideococa", "retrieve", "a red ring", *clips, "--weights", weights)
    with tempfile.TemporaryDirectory() as cache:
        turns = race(  # the warm-up fills the cache
            {
                "without a cache": partial(retrieve, "--no-cache"),
                "again": partial(retrieve, "--cache", cache),
                "loading alone": partial(run, "-c", f"import minivideococa as m; m.load({weights!r})"),
            },
            rounds,
        )
    first, again, _ = turns.values()
    return Section(
        f"Again: `retrieve` over the demo's clips with CoCa ViT-{model}, whole processes",
        ["", "seconds", "min - max", "processor seconds"],
        [[name, *seconds(mine), seconds(mine, "cpu")[0]] for name, mine in turns.items()],
        [f"Without a cache it takes {ratio(first, again)} times as long."],
        turns,
    )
