"""What a clip costs on one core of this machine, and what a million and a billion of them would.

    python tests/benchmarks/reckon.py VIDEO --weights FOLDER [--frames 8] [--rounds 3]

Prints a Markdown table. The times are of the processor, ffmpeg's included, so other processes disturb them
less than they disturb a clock. BLAS has one thread, as in a worker of a Dask cluster. Needs the extra
`cluster`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout, installed or not

from distributed import LocalCluster
from threadpoolctl import threadpool_limits

import minivideococa as mvc
from minivideococa import cache
from minivideococa.cluster import Cluster, map_in_order

CAPTION = {"min_length": 19, "max_length": 20}  # 20 ids, whatever the weights, by six beams
TASKS = 500  # that do nothing, for the time of the scheduler


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def cost(work: Callable[[], object], rounds: int) -> float:
    """Return the least processor time of several rounds."""
    times = []
    for _ in range(rounds):
        before = cpu_seconds()
        work()
        times.append(cpu_seconds() - before)
    return min(times)


def scheduler_seconds() -> float:
    """Return the processor time that a task takes of the scheduler, its client and a worker together."""
    with LocalCluster(processes=False, n_workers=1, dashboard_address=None) as local:
        before = cpu_seconds()
        for _ in map_in_order(Cluster(local.scheduler_address, dict), lambda _, item: item, range(TASKS)):
            pass
        return (cpu_seconds() - before) / TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("video")
    parser.add_argument("--weights", help="a checkpoint folder (default: the embedded checkpoint)")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model = mvc.load(args.weights)
    with threadpool_limits(1, "blas"), tempfile.TemporaryDirectory() as folder:
        frames = mvc.read_video(args.video, args.frames)
        video = model.encode(frames)
        costs = {
            "reading": cost(lambda: mvc.read_video(args.video, args.frames), args.rounds),
            "encoding": cost(lambda: model.encode(frames), args.rounds),
            "a caption": cost(lambda: model.generate(video.tokens, **CAPTION), args.rounds),
        }
        cache.put(Path(folder), "video", vars(video))
        [file] = Path(folder).iterdir()
        stored = {
            "the file": Path(args.video).stat().st_size,
            "in the cache": file.stat().st_size,
            "its latent in float16": 2 * video.latent.size,
        }
    print("| | a clip | 10^6 clips | 10^9 clips |\n|---|---|---|---|")
    for name, seconds in costs.items():
        hours = [f"{seconds * count / 3600:,.0f} core hours" for count in (10**6, 10**9)]
        print(f"| {name} | {seconds:.2f} core seconds | {' | '.join(hours)} |")
    waiting = scheduler_seconds()
    hours = [f"{waiting * count / 3600:,.1f} core hours" for count in (10**6, 10**9)]
    print(f"| Dask | {1000 * waiting:.1f} core milliseconds | {' | '.join(hours)} |")
    for name, size in stored.items():
        sizes = [f"{size * count / 10**9:,.0f} GB" for count in (10**6, 10**9)]
        print(f"| {name} | {size:,} bytes | {' | '.join(sizes)} |")


if __name__ == "__main__":
    main()
