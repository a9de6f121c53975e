"""The command line: one module per command, which parses arguments and prints. The work is done elsewhere.

Results go to standard output, progress bars and messages to standard error. Exit status:

0    success
1    `verify` found a wrong tensor, compared none, or (with --strict) some are missing; or `check` found a
     wrong exercise
2    an error: one line on standard error says what is wrong
3    there is a result, but some inputs could not be read and were left out of it
130  interrupted by Ctrl-C; 143 and 129: ended by SIGTERM or SIGHUP. No half-written file is left behind.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from .. import __version__, terminal
from . import (
    answer,
    cache,
    caption,
    check,
    classify,
    convert,
    demo,
    evaluate,
    explain,
    finetune,
    index,
    messages,
    retrieve,
    shapes,
    trace,
    verify,
)
from .arguments import Parser

COMMANDS = (
    caption,
    classify,
    retrieve,
    index,
    answer,
    demo,
    convert,
    trace,
    verify,
    explain,
    evaluate,
    finetune,
    shapes,
    check,
    cache,
)


EXIT_STATUS = (
    "Exit status: 0, success; 1, verify or check found a fault; 2, an error, which one line describes; 3, "
    "there is a result, but some videos could not be read and were left out; 130, interrupted by Ctrl-C."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status. Without arguments, print the help.

    Raises SystemExit for a usage error (2), --help and --version (0) and SIGTERM (143).
    """
    terminal.open_streams()
    try:
        with _termination():
            top = parser()
            args = top.parse_args(arguments)
            if args.command is None:  # status 0, as pip and docker: nothing has gone wrong
                top.print_help()
                return 0
            if sys.stdout is None and args.prints_result(args):  # before the work, not after it
                raise OSError(terminal.CLOSED)
            with messages.printed_warnings(args.quiet):
                status: int = args.run(args)
            return status
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, MemoryError) as error:
        terminal.tell(f"minivideococa: {messages.reason(error)}")
        return 2
    except RuntimeError as error:  # Python 3.11 makes one of a Ctrl-C while a class is created
        if isinstance(error.__cause__, KeyboardInterrupt):
            return 130
        raise


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog="minivideococa",
        description="VideoCoCa in NumPy: caption, classify and retrieve videos.",
        epilog=EXIT_STATUS,
    )
    top.add_argument("--version", action="version", version=f"minivideococa {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return top


@contextmanager
def _termination() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP, so that half-written files are removed.

    Signals that are ignored stay ignored.
    """

    def end(number: int, _: Any) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one does not interrupt the removal
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    unhandled = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in unhandled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in unhandled:
            signal.signal(number, signal.SIG_DFL)
