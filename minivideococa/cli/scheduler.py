"""`--scheduler ADDRESS`: the commands whose work a Dask cluster can do."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING

from . import arguments

if TYPE_CHECKING:
    from ..cluster import Cluster


def add_scheduler(parser: arguments.Parser, what: str) -> None:
    """Add --scheduler. `what` is what the workers do."""
    parser.add_argument(
        "--scheduler",
        type=arguments.text,
        metavar="ADDRESS",
        help=f"{what} on the workers of the Dask cluster whose scheduler has this address, such as "
        "tcp://host:8786; they need the same files and weights at the same paths",
    )


def cluster_of(args: argparse.Namespace) -> Cluster | None:
    """Return the cluster of --scheduler, whose workers load --weights and --tuned; None without it.

    Raises ValueError if dask.distributed is not installed.
    """
    if not args.scheduler:
        return None
    from ..checkpoint import load
    from ..cluster import Cluster, require_distributed

    def place(path: str | None) -> str | None:
        return os.path.abspath(path) if path and os.path.exists(path) else path

    require_distributed()
    return Cluster(args.scheduler, partial(load, place(args.weights), tuned=place(args.tuned)))
