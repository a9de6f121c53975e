"""PyTorch's files without PyTorch: written by torch.save, made by hand, and refused."""

import contextlib
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples
from safetensors.numpy import load_file

from minivideococa.checkpoint.folder import StoredTensor, open_safetensors
from minivideococa.checkpoint.unpickler import STORAGES, read_pickle

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"


# A writer of both formats, from their description: pickle opcodes one by one -------------------------------


def dump(value: object) -> bytes:
    """The opcodes that build a value out of what a state dict holds."""
    match value:
        case bool() | None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        case int():
            return pickle.LONG1 + b"\x08" + value.to_bytes(8, "little", signed=True)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(dump, value)) + b"t"
        case dict():
            return b"}(" + b"".join(dump(key) + dump(item) for key, item in value.items()) + b"u"
        case Global():
            return b"c" + "\n".join(value.name.rsplit(".", 1)).encode() + b"\n"
        case Call():
            return dump(Global(value.name)) + dump(value.arguments) + b"R"
        case Persistent():
            return dump(value.id) + b"Q"
    raise TypeError(value)


class Global:
    def __init__(self, name: str) -> None:
        self.name = name


class Call:
    def __init__(self, name: str, *arguments: object) -> None:
        self.name, self.arguments = name, arguments


class Persistent:
    def __init__(self, *id: object) -> None:
        self.id = id


def tensor(key: str, storage: str, count: int, offset: int, size: tuple, stride: tuple, *legacy) -> Call:
    place = Persistent("storage", Global(f"torch.{storage}"), key, "cpu", count, *legacy)
    hooks = Call("collections.OrderedDict")
    return Call("torch._utils._rebuild_tensor_v2", place, offset, size, stride, False, hooks)


def program(value: object) -> bytes:
    return b"\x80\x02" + dump(value) + b"."


def write_zip(
    path: Path,
    data: bytes,
    storages: dict[str, bytes],
    byteorder: str | None = "little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("any name/data.pkl", data)
        archive.writestr("any name/version", "3\n")
        if byteorder:
            archive.writestr("any name/byteorder", byteorder)
        for key, raw in storages.items():
            archive.writestr(f"any name/data/{key}", raw)
    return path


def write_legacy(path: Path, data: bytes, storages: dict[str, tuple[int, bytes]]) -> Path:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system))
    body = b"".join(count.to_bytes(8, "little") + raw for count, raw in storages.values())
    path.write_bytes(head + data + pickle.dumps(list(storages), 2) + body)
    return path


# Files of torch.save ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["assorted_zip.pt", "assorted_legacy.pt"])
def test_every_kind_of_tensor(file: str) -> None:
    read = read_pickle(GOLDEN / file)
    expected = open_safetensors(GOLDEN / "assorted.safetensors")
    assert type(read) is OrderedDict and read.keys() == expected.keys()
    for name, stored in read.items():
        array, right = stored.read(), expected[name].read()
        assert array.shape == stored.shape == right.shape and array.dtype == right.dtype, name
        assert stored.dtype == ("bfloat16" if name == "bfloat16" else right.dtype), name
        assert np.array_equal(array, right), name
        assert array.flags.c_contiguous and array.flags.writeable, name


def test_a_state_dict_without_its_metadata() -> None:
    read = read_pickle(GOLDEN / "coca_legacy.bin")
    expected = load_file(GOLDEN / "coca.safetensors")
    assert read.keys() == expected.keys()
    assert all(np.array_equal(read[name].read(), expected[name]) for name in expected)
    assert not vars(read)  # torch.save writes `_metadata`, an attribute


def test_a_training_checkpoint() -> None:
    read = read_pickle(GOLDEN / "epoch_3.pt")
    assert read["epoch"] == 3 and read["name"] == "run"
    assert read["state_dict"].keys() == {f"module.{name}" for name in load_file(GOLDEN / "coca.safetensors")}
    assert isinstance(read["optimizer"]["state"][0]["exp_avg"], StoredTensor)


# Files made by hand -----------------------------------------------------------------------------------------


@st.composite
def views(draw):
    """A storage of any dtype, and a strided view of it: (storage type, numbers, offset, size, stride)."""
    storage = draw(st.sampled_from(sorted(STORAGES)))
    dtype = {"bfloat16": "u2", "bool": "u1"}.get(STORAGES[storage], STORAGES[storage])
    size = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    stride = tuple(draw(st.integers(0, 4)) for _ in size)
    offset = draw(st.integers(0, 3))
    needed = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride)) if 0 not in size else 0
    count = needed + draw(st.integers(0, 2))
    length = count * np.dtype(dtype).itemsize
    raw = np.frombuffer(draw(st.binary(min_size=length, max_size=length)), "u1")
    numbers = raw.view(dtype) & 1 if storage == "BoolStorage" else raw.view(dtype)
    return storage, numbers, offset, size, stride


@settings(max_examples=examples(150), deadline=None)
@given(views(), st.sampled_from(["little", "big", None, "legacy"]))
def test_any_view_of_any_storage(tmp_path_factory, view, form: str | None) -> None:
    storage, numbers, offset, size, stride = view
    raw = numbers.astype(numbers.dtype.newbyteorder(">" if form == "big" else "<")).tobytes()
    legacy = [None] if form == "legacy" else []
    described = tensor("7", storage, len(numbers), offset, size, stride, *legacy)
    path = tmp_path_factory.getbasetemp() / "view.pt"
    if form == "legacy":
        write_legacy(path, program({"a": described}), {"7": (len(numbers), raw)})
    else:
        write_zip(path, program({"a": described}), {"7": raw}, byteorder=form)
    stored = read_pickle(path)["a"]
    assert stored.shape == size and stored.dtype == STORAGES[storage]
    # element by element: index i is at offset + i . stride
    expected = np.zeros(size, numbers.dtype)
    for index in np.ndindex(*size):
        expected[index] = numbers[offset + sum(i * step for i, step in zip(index, stride))]
    if storage == "BFloat16Storage":
        expected = expected.astype(np.uint32) << 16
    read = stored.read()
    assert read.shape == size and read.tobytes() == expected.tobytes()


def test_tensors_are_read_on_request(tmp_path: Path) -> None:
    """The optimizer's storage has 32 GB, all of it a hole in the file."""
    count = 2**33
    path = write_legacy(
        tmp_path / "big.pt",
        program(
            {
                "optimizer": tensor("a", "FloatStorage", count, 0, (count,), (1,)),
                "state_dict": tensor("b", "FloatStorage", 1, 0, (1,), (1,)),
            }
        ),
        {},
    )
    head = path.read_bytes().removesuffix(pickle.dumps([], 2)) + pickle.dumps(["a", "b"], 2)
    with open(path, "wb") as file:
        file.write(head + count.to_bytes(8, "little"))
        file.seek(4 * count, 1)
        file.write((1).to_bytes(8, "little") + np.float32(5).tobytes())
    read = read_pickle(path)
    assert read["state_dict"].read() == [5] and read["optimizer"].shape == (count,)


# Malicious files --------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as error:
        read_pickle(path)
    message = str(error.value)
    assert message.startswith(f"{path}: not a readable PyTorch file: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.getattr",
        "__builtin__.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_qtensor",
        "torch.nn.Linear",
        "numpy.load",
        "numpy.core.multiarray._reconstruct",
        "collections.defaultdict",
        "torch._utils._rebuild_tensor",
    ],
)
@pytest.mark.parametrize("form", ["zip", "legacy", "legacy, first pickle"])
def test_names_off_the_allow_list_are_refused(tmp_path: Path, name: str, form: str) -> None:
    evil = program({"state_dict": Call(name, f"touch {tmp_path / 'called'}")})
    path = tmp_path / "evil.pt"
    if form == "zip":
        write_zip(path, evil, {})
    elif form == "legacy":
        write_legacy(path, evil, {})
    else:
        path.write_bytes(evil)
    assert f"it asks for {name}, which no state dict needs: refused" in refusal(path)
    assert not (tmp_path / "called").exists()


def test_attributes_of_allowed_names_are_refused(tmp_path: Path) -> None:
    """Protocol 4 may name "OrderedDict.fromkeys" or reach further through an allowed class."""
    name = pickle.SHORT_BINUNICODE + bytes([20]) + b"OrderedDict.fromkeys"
    module = pickle.SHORT_BINUNICODE + bytes([11]) + b"collections"
    path = write_zip(tmp_path / "evil.pt", b"\x80\x04" + module + name + b"\x93.", {})
    assert "it asks for collections.OrderedDict.fromkeys" in refusal(path)


@pytest.mark.parametrize(
    "function", ["collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.Size"]
)
def test_allowed_names_cannot_be_changed(tmp_path: Path, function: str) -> None:
    """BUILD sets attributes of any object: it must not get one that outlives the file."""
    changes = ({"planted": 1}, {"__defaults__": (1,), "planted": 1})
    for state in changes:
        for slots in (state, (None, state)):
            evil = b"\x80\x02" + dump(Global(function)) + dump(slots) + b"b."
            path = write_zip(tmp_path / "evil.pt", evil, {})
            with contextlib.suppress(ValueError):
                read_pickle(path)
    good = read_pickle(GOLDEN / "assorted_zip.pt")
    assert good["plain"].read().shape == (4, 6) and not hasattr(OrderedDict, "planted")
    assert not hasattr(type(good["plain"]), "planted")


def test_other_persistent_ids_are_refused(tmp_path: Path) -> None:
    for id in (
        ("module", Global("torch.FloatStorage"), "source"),
        ("storage", Global("torch.Size"), "0", "cpu", 1),
        ("storage", Global("torch.FloatStorage"), "0", "cpu", 1, ("view", 0, 1)),
        ("storage", Global("torch.FloatStorage"), "0", "cpu", -1),
        "storage",
    ):
        persistent = Persistent()
        persistent.id = id
        path = write_zip(tmp_path / "odd.pt", program(persistent), {"0": b"\0" * 4})
        assert "something other than a plain storage" in refusal(path)


@pytest.mark.parametrize(
    "offset, size, stride",
    [
        (0, (3,), (1,)),
        (1, (2,), (1,)),
        (0, (2,), (2,)),
        (2, (), ()),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (1, (2,), (-1,)),
    ],
)
def test_tensor_beyond_its_storage_is_refused(tmp_path: Path, offset: int, size: tuple, stride: tuple):
    described = tensor("0", "FloatStorage", 2, offset, size, stride)
    assert "beyond its storage" in refusal(write_zip(tmp_path / "x.pt", program(described), {"0": b"\0" * 8}))


def test_damaged_archives(tmp_path: Path) -> None:
    described = program(tensor("0", "FloatStorage", 2, 0, (2,), (1,)))
    path = tmp_path / "x.pt"
    assert "data/0 is missing or compressed" in refusal(write_zip(path, described, {}))
    assert "data/0 is cut short" in refusal(write_zip(path, described, {"0": b"\0" * 7}))
    assert "data.pkl is missing or compressed" in refusal(
        write_zip(path, described, {"0": b"\0" * 8}, compression=zipfile.ZIP_DEFLATED)
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/other", "")
    assert "data.pkl is missing" in refusal(path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    archive = io.BytesIO(b"\0" * 257 + b"ustar" + b"\0" * 250)
    for data, expected in (
        (b"", "ends too early"),
        (b"plain text", ""),
        (pickle.dumps({"a": 1}), "torch.save did not write it: give another file"),
        (archive.getvalue(), "tar format"),
        (b"PK\x03\x04 and no more", "not a zip file"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) * 3, ""),
    ):
        path.write_bytes(data)
        assert expected in refusal(path)


@pytest.mark.parametrize("file", ["assorted_zip.pt", "assorted_legacy.pt"])
def test_every_truncation_is_refused(tmp_path: Path, file: str) -> None:
    whole = (GOLDEN / file).read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        refusal(path)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.sampled_from(["assorted_zip.pt", "assorted_legacy.pt"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 255),
)
def test_a_flipped_byte_is_read_or_refused(tmp_path_factory, file: str, place: float, flip: int) -> None:
    data = bytearray((GOLDEN / file).read_bytes())
    data[int(place * len(data))] ^= flip
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    path.write_bytes(data)
    try:  # a tensor is read when it is used, so the refusal may come then
        read = read_pickle(path)
        for stored in read.values() if isinstance(read, dict) else ():
            if isinstance(stored, StoredTensor) and np.prod(stored.shape) < 1e6:
                assert stored.read().shape == stored.shape
    except ValueError as error:
        assert "\n" not in str(error)
