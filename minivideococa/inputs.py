"""Checked reading of the files that a user names.

Errors are one line: which file, what is wrong, and a hint what to give instead. Only regular files are
opened, because reading a FIFO or a device may never end.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .resources import require_memory

DEEPEST = 100  # lists and objects within each other, in JSON: deeper ones exhaust Python's stack elsewhere
JSON_GROWTH = 50  # bytes of memory for a byte of JSON: "{}," is an object of 64 bytes and two references
LONGEST_NAME = 120  # characters of a name in a message


def path_name(path: Any, hint: str, name: str = "path") -> str:
    """Return a path as a str. `name` is the argument's name in the message.

    Raises ValueError for what no file system accepts: another type, an empty string, NUL, characters that
    cannot be encoded.
    """
    try:
        path = os.fspath(path)
        valid = isinstance(path, str) and bool(path) and "\0" not in path and bool(os.fsencode(path))
    except (TypeError, UnicodeEncodeError):
        valid = False
    if not valid:
        raise ValueError(f"{name} is {reprlib.repr(path)}, not the name of a file or folder; {hint}")
    return str(path)


def require_exists(path: str, kind: str, hint: str) -> None:
    """Raise FileNotFoundError or PermissionError unless `path` exists. The message calls it `kind`."""
    try:
        os.stat(path)
    except PermissionError:
        raise PermissionError(f"{path}: permission denied; check the permissions of its folder") from None
    except OSError as error:  # including a name that is too long and a link to itself
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise FileNotFoundError(
            f"{path}: {f'no such {kind}' if missing else error.strerror}; {hint}"
        ) from None


def regular_file(path: str | os.PathLike[str], hint: str) -> Path:
    """Return `path` as a Path if it is a readable regular file. `hint` tells the user what to give instead.

    Raises FileNotFoundError, PermissionError, IsADirectoryError, or ValueError for a FIFO, a device or an
    invalid name.
    """
    name = path_name(path, hint)
    require_exists(name, "file", hint)
    if os.path.isdir(name):
        raise IsADirectoryError(f"{name}: is a folder; {hint}")
    if not os.path.isfile(name):
        raise ValueError(f"{name}: not a regular file (a FIFO or a device); {hint}")
    if not os.access(name, os.R_OK):
        raise PermissionError(f"{name}: permission denied; check the permissions of the file")
    return Path(name)


def read_text(path: str | os.PathLike[str], hint: str, growth: int = 4) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    `growth` is the number of bytes of memory that a byte of the file may take.

    Raises as `regular_file`, and ValueError if the file is not UTF-8 or does not fit into memory.
    """
    file = regular_file(path, hint)
    require_memory(growth * file.stat().st_size, f"{path}: reading this file", hint)
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; {hint}") from None


def read_json(path: str | os.PathLike[str], hint: str) -> Any:
    """Return the value in a JSON file. NaN and Infinity, which Python's parser accepts, are refused.

    Raises as `read_text`, and ValueError if the file is not JSON.
    """
    return parse_json(read_text(path, hint, JSON_GROWTH), str(path), hint)


def parse_json(text: str, source: str, hint: str) -> Any:
    """Return the value of a JSON text, which messages call `source`.

    Raises ValueError if it is not JSON, or nested more than `DEEPEST` deep.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
        if _is_deep(value):
            raise RecursionError
        return value
    except RecursionError:
        raise ValueError(f"{source}: not JSON: nested too deeply; {hint}") from None
    except ValueError as error:
        raise ValueError(f"{source}: not JSON: {error}; {hint}") from None


def _is_deep(value: Any) -> bool:
    """Return whether lists and objects are nested more than `DEEPEST` deep."""
    level: list[Any] = [[value]]
    for _ in range(DEEPEST + 1):
        inside = (x.values() if isinstance(x, dict) else x for x in level)
        level = [x for values in inside for x in values if isinstance(x, dict | list)]
        if not level:
            return False
    return True


def one_line(error: BaseException) -> str:
    """Return a library's message in one line of at most 200 characters: it may hold names out of a file."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def why_unreadable(path: str | os.PathLike[str], error: Exception) -> str:
    """Return why a file or folder cannot be read, in one line that names it.

    Raises the KeyboardInterrupt or SystemExit that `error` has hidden, if it was raised while one of them was
    handled: cleaning up after a Ctrl-C can fail, and the file is not to blame.
    """
    cause: BaseException | None = error
    while cause is not None:
        if not isinstance(cause, Exception):
            raise cause
        cause = cause.__context__
    name, text = " ".join(os.fspath(path).split()), " ".join(str(error).split())
    if isinstance(error, MemoryError):
        text = "there is not enough memory to read it"
    elif not isinstance(error, OSError | ValueError):  # a library's internal error
        text = f"it cannot be read ({type(error).__name__}: {text})"
    return text if name in text else f"{name}: {text}"


def join_names(names: Sequence[str], limit: int = 8) -> str:
    """Return the first names, and the number of the others, on one line.

    Unprintable names are escaped, and long ones cut.
    """
    rest = f", ... and {len(names) - limit} more" if len(names) > limit else ""
    short = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in names[:limit]]
    return ", ".join(name if name.isprintable() else ascii(name) for name in short) + rest


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts names in natural order, ignoring case: img2 before IMG10."""
    return [int(part) if part.isdecimal() else part.casefold() for part in re.split(r"(\d+)", name)], name
