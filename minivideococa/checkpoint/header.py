"""Check a safetensors file without the `safetensors` library, which a browser may not have."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from ..inputs import join_names

# of an element of each dtype
BYTES = dict(BOOL=1, U8=1, I8=1, U16=2, I16=2, F16=2, BF16=2, U32=4, I32=4, F32=4, U64=8, I64=8, F64=8)


def header_fault(path: Path) -> str | None:
    """Return what is wrong with a safetensors file, None if nothing is: the checks of the library's reader.

    The header must be JSON, each tensor must have as many bytes as its shape and dtype need, and the tensors
    must fill the rest of the file, one after the other.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return "the header is longer than the file"
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return "the header is not JSON"
    try:
        return _layout_fault(header, size - 8 - length)
    except (AttributeError, KeyError, TypeError, ValueError):
        return "the header does not describe tensors"


def _layout_fault(header: dict[str, Any], size: int) -> str | None:
    """Return what is wrong with the tensors that a header describes, in `size` bytes."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not all(isinstance(value, str) for value in header.get("__metadata__", {}).values()):
        return "its metadata are not texts"
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        size_needed = prod(entry["shape"]) * BYTES[entry["dtype"]]
        if start != end or stop - start != size_needed or min(entry["shape"], default=0) < 0:
            return f"the bytes of {join_names([name])} are not those of its shape"
        end = stop
    return None if end == size else "the tensors do not fill the file"
