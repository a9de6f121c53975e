"""Files that a user names: read whole, or refused with one line that says which file, what is wrong, and what to do.

Only regular files are opened. A FIFO or a device may never end.
"""

from __future__ import annotations

import json
import os
import reprlib
from pathlib import Path
from typing import Any, NoReturn

from .resources import require_memory


def path_name(path: Any, hint: str, name: str = "path") -> str:
    """Return a path as a str. `name` names the argument. Raises ValueError if no file can have it: another type, empty, NUL, not encodable."""
    try:
        path = os.fspath(path)
        possible = isinstance(path, str) and bool(path) and "\0" not in path and bool(os.fsencode(path))
    except (TypeError, UnicodeEncodeError):
        possible = False
    if not possible:
        raise ValueError(f"{name} is {reprlib.repr(path)}, not the name of a file or folder; {hint}")
    return path


def regular_file(path: str | os.PathLike[str], hint: str) -> Path:
    """Return `path` if it is a regular file that can be read. `hint` tells the user what to give instead.

    Raises FileNotFoundError, PermissionError, IsADirectoryError, or ValueError for a FIFO, a device or an impossible name.
    """
    name = path_name(path, hint)
    try:
        Path(name).stat()
    except PermissionError:
        raise PermissionError(f"{name}: permission denied; check the permissions of its folder") from None
    except OSError as error:  # also a name that is too long, or a link to itself
        reason = (
            "no such file" if isinstance(error, FileNotFoundError | NotADirectoryError) else error.strerror
        )
        raise FileNotFoundError(f"{name}: {reason}; {hint}") from None
    if os.path.isdir(name):
        raise IsADirectoryError(f"{name}: is a folder; {hint}")
    if not os.path.isfile(name):
        raise ValueError(f"{name}: not a regular file (a FIFO or a device); {hint}")
    if not os.access(name, os.R_OK):
        raise PermissionError(f"{name}: permission denied; check the permissions of the file")
    return Path(name)


def read_text(path: str | os.PathLike[str], hint: str) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises as `regular_file`, and ValueError if it is not UTF-8 or does not fit into memory.
    """
    file = regular_file(path, hint)
    require_memory(4 * file.stat().st_size, f"{path}: reading this file", hint)
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; {hint}") from None


def read_json(path: str | os.PathLike[str], hint: str) -> Any:
    """Return the value in a JSON file. NaN and Infinity, which JSON does not have, are refused.

    Raises as `read_text`, and ValueError if it is not JSON.
    """
    return parse_json(read_text(path, hint), str(path), hint)


def parse_json(text: str, where: str, hint: str) -> Any:
    """Return the value of a JSON text; `where` names it in the message. Raises ValueError."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"{where}: not JSON: nested too deeply; {hint}") from None
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}; {hint}") from None
