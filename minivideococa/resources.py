"""Available memory, and checks that a request fits into it before the work starts."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

# Control groups, versions 2 and 1: the folder, and the names of the limit, the usage, and the page cache in
# this usage, which is reclaimed on demand.
CONTROL_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory() -> int | None:
    """Return the memory in bytes that this process can still allocate; None if the system does not report it.

    The smallest of three: the memory available on the machine, what the limit of the control group (a
    container) leaves, and what the limit of the address space (`ulimit -v`) leaves.
    """
    machine = _machine_memory()
    return None if machine is None else min([machine, *_control_group_memory(), *_address_space()])


def _machine_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _control_group_memory() -> Iterator[int]:
    for group, limit, usage, cache in CONTROL_GROUPS:
        try:
            statistics = dict(line.split() for line in Path(group, "memory.stat").read_text().splitlines())
            used = int(Path(group, usage).read_text()) - int(statistics[cache])
            yield max(0, int(Path(group, limit).read_text()) - used)
        except (KeyError, OSError, ValueError):  # no such control group, or no limit ("max")
            continue


def _address_space() -> Iterator[int]:
    try:
        import resource  # POSIX only

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            yield max(0, limit - mapped)
    except (ImportError, OSError, ValueError):
        pass


def require_memory(required: int, task: str, hint: str) -> None:
    """Raise ValueError, one line, unless `required` bytes are available.

    `task` is the subject of the message; `hint` says what to do instead.
    """
    available = available_memory()
    if available is not None and required > available:
        raise ValueError(
            f"{task} needs {format_bytes(required)} of memory, and {format_bytes(available)} are available; "
            f"{hint}"
        )


def require_memory_for(count: int, required: Callable[[int], int], task: str, unit: str) -> None:
    """Raise ValueError, one line, unless `required(count)` bytes are available. It says how many would fit.

    `required` is an increasing function from a number of items to bytes; `unit` is the name of the items, in
    the plural.
    """
    available = available_memory()
    if available is not None and required(count) > available:
        fitting = bisect_right(range(1, count), available, key=required)
        require_memory(required(count), task, f"{fitting} {unit} would fit")


def format_bytes(count: int) -> str:
    """Return a number of bytes in the largest fitting unit: "1.5 GB", "20 MB", "900 bytes"."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count // size} {unit}" if count >= 10 * size else f"{count / size:.1f} {unit}"
    return f"{count // 1000} kB" if count >= 1000 else f"{count} bytes"
