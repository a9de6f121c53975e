"""Commands in processes that are forked from this one, which has imported the modules: they begin at once."""

import os
import sys
import time
import traceback
from pathlib import Path

from minivideococa import cli


def start(arguments: list[str], errors: Path | None = None) -> int:
    """Run a command in a child process, without its standard output. Return its id.

    errors: a file for its standard error, in place of that of this process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if errors:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        status = cli.main(arguments)
        sys.stdout.flush()
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def has_ended(child: int) -> bool:
    """Tell whether a child process has ended. `wait` is still to be called."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait(child: int) -> int:
    """Wait for a child process. Return its exit status; that of a killed one is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def page(**_: object) -> str:
    """Return a text in place of the page of `demo`, which takes seconds to compute."""
    return 10_000 * "page"


def wait_until_closed(fifo: int) -> None:
    """Wait until no program holds a FIFO open for writing, then close it. It was opened non-blocking."""
    deadline = time.monotonic() + 20
    while is_open(fifo):
        assert time.monotonic() < deadline, "a program has not ended"
        time.sleep(0.02)
    os.close(fifo)


def is_open(fifo: int) -> bool:
    """Tell whether a program holds a FIFO open for writing."""
    try:
        return os.read(fifo, 1) != b""
    except BlockingIOError:
        return True
