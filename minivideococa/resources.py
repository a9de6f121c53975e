"""Compare the memory that a request needs with what is available, before it runs."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

# Versions 2 and 1: folder, limit, bytes in use, and the page cache among these that is given back on demand
CONTROL_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory() -> int | None:
    """Return the bytes of memory that this process can still use; None where the system does not say.

    The least of what the system has available and what is left by the limits of the process's control group (a
    container) and of its address space (`ulimit -v`).
    """
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    except (OSError, ValueError):
        try:
            found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        except (AttributeError, OSError, ValueError):
            return None
    for group, limit, used, cache in CONTROL_GROUPS:
        try:
            statistics = dict(line.split() for line in Path(group, "memory.stat").read_text().splitlines())
            in_use = int(Path(group, used).read_text()) - int(statistics[cache])
            found.append(max(0, int(Path(group, limit).read_text()) - in_use))
        except (KeyError, OSError, ValueError):  # no such control group, or no limit ("max")
            continue
    try:
        import resource  # POSIX only

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            found.append(max(0, limit - mapped))
    except (ImportError, OSError, ValueError):
        pass
    return min(found, default=None)


def require_memory(need: int, what: str, hint: str) -> None:
    """Raise ValueError, one line, if `need` bytes are more than are available. `hint` says what would fit."""
    available = available_memory()
    if available is not None and need > available:
        raise ValueError(
            f"{what} needs {bytes_text(need)} of memory, and {bytes_text(available)} are available; {hint}"
        )


def require_memory_for(count: int, need: Callable[[int], int], what: str, unit: str) -> None:
    """Raise ValueError if need(count) bytes are not available, and say how many `unit` would fit. `need` must grow."""
    available = available_memory()
    if available is not None and need(count) > available:
        fits = bisect_right(range(1, count), available, key=need)
        require_memory(need(count), what, f"{fits} {unit} would fit")


def bytes_text(count: int) -> str:
    """Return a number of bytes for people: "1.5 GB", "20 MB"."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count // size} {unit}" if count >= 10 * size else f"{count / size:.1f} {unit}"
    return f"{count // 1000} kB" if count >= 1000 else f"{count} bytes"
