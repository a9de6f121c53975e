"""Standard output and standard error, whatever they are connected to.

A result that cannot be written is an error; a message that cannot be written is dropped. Characters that a
stream cannot encode are escaped, and so are control characters in names.
"""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from typing import TextIO

CLOSED = "standard output is closed: redirect it to a file, or to /dev/null"


def open_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise the next file to be opened would become standard output or standard error. `sys.stdout` stays
    None, so that `write` can detect it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest free descriptor, so this is the one that is opened
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (it stays open)


def write(text: str) -> None:
    """Write a result and a line break to standard output, and flush it.

    A closed pipe, as of `head`, is no error. Raises OSError if standard output is closed or cannot
    be written to.
    """
    if sys.stdout is None:
        raise OSError(CLOSED)
    try:
        _write_line(sys.stdout, text)
    except OSError as error:
        _discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise OSError(f"standard output: {error.strerror}: the result could not be written") from None


def tell(message: str) -> None:
    """Write a message to standard error, as one line; drop it if that is not possible."""
    if sys.stderr is not None:
        try:
            _write_line(sys.stderr, printable(message))
        except OSError:
            _discard(sys.stderr)


def printable(text: str) -> str:
    """Return text as one line: line breaks, control characters and undecodable bytes are escaped."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(c: str) -> str:
    """Return a character, escaped unless it is printable, a space, or a joiner of letters."""
    keep = c.isprintable() or unicodedata.category(c) == "Zs" or c in "\u200c\u200d"
    return c if keep else c.encode("unicode_escape").decode()


def encodable(text: str, stream: TextIO | None) -> str:
    """Return text in which the characters that the encoding of `stream` lacks are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _write_line(stream: TextIO, text: str) -> None:
    stream.write(encodable(text, stream) + "\n")
    stream.flush()


def _discard(stream: TextIO) -> None:
    """Redirect a stream to the null device; otherwise flushing its buffer at exit fails."""
    with contextlib.suppress(OSError):  # a stream in memory has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
