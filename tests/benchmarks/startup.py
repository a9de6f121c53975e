"""Whole processes: a caption with the embedded checkpoint, and imports."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from race import median, race, whole_process
from report import Section, ratio, seconds

IMPORTS = 4  # factor of rounds for imports, which are short


def measure(rounds: int, threads: int) -> Section:
    import minivideococa

    clip = next((Path(minivideococa.__file__).parent / "data" / "demo").glob("*.gif"))

    def python(*arguments: str) -> partial:
        return partial(whole_process, *arguments, threads=threads)

    turns = race(
        {
            "minivideococa caption": python("-m", "minivideococa", "caption", str(clip)),
            "import torch, open_clip": python("-c", "import torch, open_clip"),
        },
        rounds,
    )
    turns |= race(
        {
            "import numpy": python("-c", "import numpy"),
            "import numpy, minivideococa": python("-c", "import numpy, minivideococa"),
            "import numpy, minivideococa.model.videococa": python(
                "-c", "import numpy, minivideococa.model.videococa"
            ),
        },
        IMPORTS * rounds,
    )
    caption, torch, numpy, package, model = turns.values()

    def more(mine: list) -> str:
        return f"{1000 * (median(mine) - median(numpy)):.0f} ms"

    return Section(
        "Starting up: whole processes",
        ["", "seconds", "min - max"],
        [[name, *seconds(mine)] for name, mine in turns.items()],
        [
            f"Importing torch and open_clip takes {ratio(torch, caption)} times as long as a caption.",
            f"`import minivideococa` adds {more(package)} to `import numpy`, the whole model {more(model)}.",
        ],
        turns,
    )
