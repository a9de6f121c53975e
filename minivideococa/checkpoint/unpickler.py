"""Reading of PyTorch's weight files without PyTorch, and without running code from them.

`torch.save` writes a pickle. A pickle builds objects by calling functions that it names, which may be any
functions. This module supports an allow-list of names, maps each of them to a harmless substitute, and
refuses all others. Tensors are read from the file on request only, so that optimizer state costs nothing.

There are two formats, described here as `torch.load` reads them.

zip, since PyTorch 1.6
    Uncompressed members in one top folder: `data.pkl`, the pickle; `data/KEY`, the raw data of storage KEY;
    `byteorder`, "little" or "big" (absent in old files: little); and others that are not needed.
legacy
    A sequence of pickles: the magic number, the protocol version 1001, system information, the object, and
    the list of the storages' keys. Then each storage in this order: its size as a 64-bit integer, and its raw
    data. Always little-endian, whatever the system information says.

In both, a storage is a persistent id `("storage", type, key, location, size, ...)` in the pickle, and a
tensor is the call `torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, ...)`: a strided view of
the storage.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from ..inputs import join_names, one_line
from ..model.config import Array
from .folder import StoredTensor, widen_bfloat16

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LONGEST = 2**23  # bytes of a pickle, without the tensors' data; L/14 and its optimizer take less than 2**19
MOST_AXES, LARGEST_SIDE = 64, 2**63 - 1  # of an array of NumPy

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
# What training checkpoints hold besides tensors: sizes, devices, dtypes, and the NumPy scalar that a schedule
# of the learning rate leaves in the optimizer's state. No weight is built from these.
UNUSED = {
    "torch.Size",
    "torch.device",
    "torch.float64",
    "torch.float32",
    "torch.float16",
    "torch.bfloat16",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",
}


class Storage(NamedTuple):
    """A flat array in the file, of which tensors are views."""

    key: str
    dtype: str
    length: int


class Unused:
    """Substitute for objects that no weight is built from. It accepts any arguments and stores nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass


class _Limited:
    """The part of a file that a pickle may take: an object may take 75 times the bytes of its opcodes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, LONGEST

    def read(self, count: int) -> bytes:
        if count > self.left:  # before memory is allocated for it
            raise pickle.UnpicklingError("its pickle is longer than that of any state dict: refused")
        self.left -= count
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(self.left + 1)
        self.left -= len(line)
        return line if self.left >= 0 else self.read(1)  # which raises


# The implementation in Python: the one in C allocates as much memory as a forged memo index demands.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """An unpickler that supports the names of the allow-list only."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(_Limited(file), encoding="utf-8")
        self.path = path
        self.big_endian = False
        self.storages: dict[str, Storage] = {}
        self.positions: dict[str, int] = {}  # of the storages in the file; filled after the pickle is read

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return lambda *_: OrderedDict()  # SETITEMS fills it
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, shape, stride, *_: self.tensor(storage, offset, shape, stride)
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "torch", storage if storage in STORAGES:
                return STORAGES[storage]
        if f"{module}.{name}" in UNUSED:
            return Unused
        raise pickle.UnpicklingError(
            f"it asks for {join_names([f'{module}.{name}'])}, which no state dict needs: refused; "
            "save the model's state_dict() instead"
        )

    # Keys of a dict must be strings or numbers: hashing nested tuples may never end, or overflow the stack.

    def load_setitem(self) -> None:
        _refuse_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _refuse_keys(self.stack[::2])  # the keys since the last mark
        super().load_setitems()

    def load_build(self) -> None:
        """Drop the state of an object: it could replace the methods of a dict."""
        self.stack.pop()

    def refuse_container(self) -> NoReturn:
        raise pickle.UnpicklingError(
            "it holds a set, a bytearray, or a dict of protocol 0, which no state dict needs: refused"
        )

    dispatch = _PythonUnpickler.dispatch | {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.BUILD[0]: load_build,
        pickle.DICT[0]: refuse_container,
        pickle.EMPTY_SET[0]: refuse_container,
        pickle.FROZENSET[0]: refuse_container,
        pickle.BYTEARRAY8[0]: refuse_container,  # it allocates as much memory as its length says
    }

    def persistent_load(self, pid: Any) -> Storage:
        match pid:  # the legacy format adds a view of the storage, which is None since PyTorch 0.4
            case "storage", str(dtype), str(key), _, int(length), *view if length >= 0 and view in (
                [],
                [None],
            ):
                return self.storages.setdefault(key, Storage(key, dtype, length))
        raise pickle.UnpicklingError("it refers to something other than a plain storage: refused")

    def tensor(
        self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> StoredTensor:
        """Return a view of a storage. Offset and strides count elements."""
        if not all(type(n) is int for n in (offset, *shape, *stride)):
            raise pickle.UnpicklingError(
                "a tensor's offset, shape or stride is not an integer: download it again"
            )
        if len(shape) > MOST_AXES or max((offset, *shape, *stride)) > LARGEST_SIDE:
            raise pickle.UnpicklingError("a tensor has a size that no array can have: download it again")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        span = 0 if 0 in shape else last + 1 - offset
        if min(offset, *shape, *stride, 0) < 0 or (span and last >= storage.length):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage: download it again")

        def read() -> Array:
            raw = self.read_raw(storage, offset, span)
            strides = [step * raw.itemsize if n > 1 else 0 for n, step in zip(shape, stride, strict=True)]
            view = np.lib.stride_tricks.as_strided(raw, shape, strides, writeable=False)
            if storage.dtype == "bfloat16":
                return widen_bfloat16(view)
            return view.astype(storage.dtype, order="C")

        return StoredTensor(tuple(shape), storage.dtype, read)

    def read_raw(self, storage: Storage, offset: int, length: int) -> Array:
        """Read `length` elements of a storage in the file's byte order; bfloat16 as uint16."""
        dtype = _numpy_dtype(storage.dtype)
        with open(self.path, "rb") as file:
            file.seek(self.positions[storage.key] + offset * dtype.itemsize)
            data = file.read(length * dtype.itemsize)
        if len(data) != length * dtype.itemsize:
            raise ValueError(f"{self.path}: the file ends before its last tensor: download it again")
        return np.frombuffer(data, dtype.newbyteorder(">" if self.big_endian else "<"))


def _refuse_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if not isinstance(key, str | int | float):
            raise pickle.UnpicklingError(
                f"a dict has a key of type {type(key).__name__}, which no state dict needs: refused"
            )


def read_pickle(path: Path) -> Any:
    """Return the object in a file of `torch.save`, each tensor as a StoredTensor, which reads from the file.

    Raises ValueError if the file is something else, is damaged, or names something that no state dict needs.
    """
    with open(path, "rb") as file:
        head = file.read(512)
        file.seek(0)
        try:
            if head.startswith(b"PK\x03\x04"):
                return _read_zip(file, path)
            if head[257:262] == b"ustar":
                raise pickle.UnpicklingError("it is in the old tar format: save it again with PyTorch 1.6")
            if head and not head.startswith(b"\x80"):  # the first byte of a pickle since protocol 2
                raise pickle.UnpicklingError(f"it is {_kind(head)}: give the file of the weights")
            return _read_legacy(file, path)
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise ValueError(f"{path}: not a readable PyTorch file: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return on one line why a file cannot be read."""
    if isinstance(error, EOFError):
        return "it ends too early: download it again"
    message = one_line(error)
    if isinstance(error, pickle.UnpicklingError):
        return " ".join(str(error).split())
    if isinstance(error, zipfile.BadZipFile):
        return f"it is damaged ({message}): download it again"
    return f"it is damaged ({type(error).__name__}: {message}): download it again"


SIGNATURES = {
    b"GIF8": "a GIF",
    b"\x89PNG": "a PNG",
    b"\xff\xd8": "a JPEG",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"%PDF": "a PDF",
    b"<": "a web page or XML",
    b"{": "JSON",
    b"[": "JSON",
}


def _kind(head: bytes) -> str:
    """Return what a file that is not a pickle appears to be, from its first bytes."""
    if head[4:8] == b"ftyp":
        return "a video or an image"
    head = head.lstrip(b" \t\r\n\xef\xbb\xbf")
    kinds = (kind for signature, kind in SIGNATURES.items() if head.startswith(signature))
    return next(kinds, "neither a zip archive nor a pickle")


def _read_zip(file: IO[bytes], path: Path) -> Any:
    members = {member.filename.partition("/")[2]: member for member in zipfile.ZipFile(file).infolist()}

    def position(name: str) -> int:
        """Return where the data of a member begins: after its header, its name and an extra field."""
        if name not in members or members[name].compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"its member {name} is missing or compressed: download it again")
        file.seek(members[name].header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        return members[name].header_offset + 30 + int(name_length) + int(extra_length)

    file.seek(position("data.pkl"))
    unpickler = _Unpickler(file, path)
    content = unpickler.load()
    if "byteorder" in members:
        file.seek(position("byteorder"))
        unpickler.big_endian = file.read(3) == b"big"
    for storage in unpickler.storages.values():
        member = f"data/{storage.key}"
        unpickler.positions[storage.key] = position(member)
        if members[member].file_size < storage.length * _numpy_dtype(storage.dtype).itemsize:
            raise pickle.UnpicklingError(f"its member {member} is cut short: download it again")
    return content


def _read_legacy(file: IO[bytes], path: Path) -> Any:
    if _Unpickler(file, path).load() != MAGIC_NUMBER:
        raise pickle.UnpicklingError("it is a pickle, but torch.save did not write it: give another file")
    _Unpickler(file, path).load()  # the protocol version
    _Unpickler(file, path).load()  # system information
    unpickler = _Unpickler(file, path)
    content = unpickler.load()
    keys = _Unpickler(file, path).load()
    if sorted(keys) != sorted(unpickler.storages):
        raise pickle.UnpicklingError("its list of storages does not match its tensors: download it again")
    position = file.tell()
    for key in keys:
        unpickler.positions[key] = position + 8
        storage = unpickler.storages[key]
        position += 8 + storage.length * _numpy_dtype(storage.dtype).itemsize
    if position > file.seek(0, 2):
        raise pickle.UnpicklingError("it is cut short: download it again")
    return content


def _numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return the dtype by which stored data is read: bfloat16 as uint16."""
    return np.dtype("u2" if dtype == "bfloat16" else dtype)
