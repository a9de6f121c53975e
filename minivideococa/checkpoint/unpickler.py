"""PyTorch's weight files without PyTorch, and without running what is in them.

`torch.save` writes a pickle that builds its objects by calling functions named in it, which may be any
function at all. Here only the names in an allow-list below are known, each is answered by something of our
own, and any other is refused. A tensor is not read until it is asked for, so optimizer state costs nothing.

The two formats (as `torch.load` reads them):
zip, since PyTorch 1.6
    Members, not compressed, under one top folder: `data.pkl`, the pickle; `data/KEY`, the raw numbers of
    storage KEY; `byteorder`, "little" or "big" (absent in old files: little); and some that are not needed
    here.
legacy
    Pickles one after another: the magic number, the protocol version 1001, facts on the system, the object,
    and the list of the storages' keys; then in that order each storage, a 64-bit count before its raw
    numbers. Always little-endian, whatever the facts say of the system.
In both, a storage stands in the pickle as a persistent id `("storage", type, key, location, count, ...)`, and
a tensor as the call `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`: a strided view of
the storage.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from .config import some
from .folder import StoredTensor, widen_bfloat16

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C

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
# What a training checkpoint holds beside its tensors: sizes, devices, dtypes, and the NumPy scalar that a
# schedule leaves as an optimizer's learning rate. No weight is made of these.
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
    """A run of numbers in the file that tensors are views of."""

    key: str
    dtype: str
    count: int


class Unused:
    """Stands for an object that no weight is made of: takes whatever it is given and keeps nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle._Unpickler):
    """Knows the names of the allow-list and no other.

    It is Python's own unpickler: the one in C allocates as much memory as a forged memo index tells it to.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.byteorder = "<"
        self.storages: dict[str, Storage] = {}
        self.positions: dict[str, int] = {}  # where in the file a storage begins: known at the end

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return lambda *_: OrderedDict()  # filled afterwards, by SETITEMS
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, size, stride, *_: self.tensor(storage, offset, size, stride)
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "torch", storage if storage in STORAGES:
                return STORAGES[storage]
        if f"{module}.{name}" in UNUSED:
            return Unused
        asked = some([f"{module}.{name}"])
        raise pickle.UnpicklingError(f"it asks for {asked}, which no state dict needs: refused")

    # The keys of a dict are text or numbers. To hash a tuple of tuples may never end, or overflow the stack.

    def load_setitem(self) -> None:
        _refuse_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _refuse_keys(self.stack[::2])  # all since the last mark
        super().load_setitems()

    def refuse_container(self) -> NoReturn:
        raise pickle.UnpicklingError(
            "it holds a set, or a dict of protocol 0, which no state dict needs: refused"
        )

    dispatch = pickle._Unpickler.dispatch | {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: refuse_container,
        pickle.EMPTY_SET[0]: refuse_container,
        pickle.FROZENSET[0]: refuse_container,
    }

    def persistent_load(self, pid: Any) -> Storage:
        match pid:  # the legacy format adds a view of the storage, always None since PyTorch 0.4
            case "storage", str(dtype), str(key), _, int(count), *view if count >= 0 and view in ([], [None]):
                return self.storages.setdefault(key, Storage(key, dtype, count))
        raise pickle.UnpicklingError("it refers to something other than a plain storage: refused")

    def tensor(
        self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> StoredTensor:
        if not all(type(n) is int for n in (offset, *size, *stride)):
            raise pickle.UnpicklingError("a tensor's offset, size or stride is not a whole number")
        empty = 0 in size
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min(offset, *size, *stride, 0) < 0 or (last >= storage.count and not empty):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")

        def read() -> np.ndarray:
            is_bfloat16 = storage.dtype == "bfloat16"
            dtype = np.dtype("u2" if is_bfloat16 else storage.dtype).newbyteorder(self.byteorder)
            with open(self.path, "rb") as file:
                file.seek(self.positions[storage.key] + offset * dtype.itemsize)
                span = 0 if empty else last + 1 - offset
                raw = np.frombuffer(file.read(span * dtype.itemsize), dtype)
            if raw.size != span:
                raise ValueError(f"{self.path}: the file ends before its last tensor: fetch it anew")
            strides = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride)]
            view = np.lib.stride_tricks.as_strided(raw, size, strides, writeable=False)
            return widen_bfloat16(view) if is_bfloat16 else view.astype(storage.dtype, order="C")

        return StoredTensor(tuple(size), storage.dtype, read)


def _refuse_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if not isinstance(key, str | int | float):
            kind = type(key).__name__
            raise pickle.UnpicklingError(
                f"a dict has a key of type {kind}, which no state dict needs: refused"
            )


def read_pickle(path: Path) -> Any:
    """The object in a file of `torch.save`, its tensors as StoredTensor. The file must outlive these.

    Raises ValueError: not such a file, damaged, or naming anything that a state dict does not need.
    """
    with open(path, "rb") as file:
        head = file.read(512)
        file.seek(0)
        try:
            if head.startswith(b"PK\x03\x04"):
                return _read_zip(file, path)
            if head[257:262] == b"ustar":
                raise pickle.UnpicklingError("it is in the old tar format: save it anew with PyTorch 1.6")
            if head and not head.startswith(b"\x80"):  # as every pickle begins since protocol 2
                raise pickle.UnpicklingError(f"it is {_kind(head)}: give the file of the weights")
            return _read_legacy(file, path)
        except Exception as error:  # a damaged pickle can raise nearly anything
            if isinstance(error, EOFError):
                reason = "it ends too early"
            elif isinstance(error, pickle.UnpicklingError | zipfile.BadZipFile):
                reason = " ".join(str(error).split())
            else:
                reason = f"it is damaged ({type(error).__name__}: {' '.join(str(error).split())})"
            raise ValueError(f"{path}: not a readable PyTorch file: {reason}") from None


def _kind(head: bytes) -> str:
    """What a file that is no pickle seems to be, by its first bytes."""
    if head[4:8] == b"ftyp":
        return "a video or an image"
    for begin, kind in {
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
    }.items():
        if head.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(begin):
            return kind
    return "neither a zip archive nor a pickle"


def _read_zip(file: IO[bytes], path: Path) -> Any:
    members = {member.filename.partition("/")[2]: member for member in zipfile.ZipFile(file).infolist()}

    def find(name: str) -> int:
        """Where in the file the data of a member begin: after its header, its name and an extra field."""
        if name not in members or members[name].compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"its member {name} is missing or compressed")
        file.seek(members[name].header_offset + 26)
        return members[name].header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))

    file.seek(find("data.pkl"))
    unpickler = _Unpickler(file, path)
    result = unpickler.load()
    if "byteorder" in members:
        file.seek(find("byteorder"))
        unpickler.byteorder = ">" if file.read(3) == b"big" else "<"
    for storage in unpickler.storages.values():
        member = f"data/{storage.key}"
        unpickler.positions[storage.key] = find(member)
        if members[member].file_size < storage.count * _itemsize(storage.dtype):
            raise pickle.UnpicklingError(f"its member {member} is cut short")
    return result


def _read_legacy(file: IO[bytes], path: Path) -> Any:
    if _Unpickler(file, path).load() != MAGIC_NUMBER:
        raise pickle.UnpicklingError("the magic number is not there")
    _Unpickler(file, path).load()  # the protocol version
    _Unpickler(file, path).load()  # the facts on the system
    unpickler = _Unpickler(file, path)
    result = unpickler.load()
    keys = _Unpickler(file, path).load()
    if sorted(keys) != sorted(unpickler.storages):
        raise pickle.UnpicklingError("its list of storages does not fit its tensors")
    position = file.tell()
    for key in keys:
        storage = unpickler.storages[key]
        unpickler.positions[key] = position + 8
        position += 8 + storage.count * _itemsize(storage.dtype)
    if position > file.seek(0, 2):
        raise pickle.UnpicklingError("it is cut short")
    return result


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
