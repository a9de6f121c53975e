"""Inputs that once broke a promise: (target, input, words of the message that refuses it now).

Short ones are written here; `cases/TARGET/` has those that atheris has made.
"""

import io
import json
import struct
import zipfile

from targets import BETWEEN, CONFIG, END, FRAMES, PACKETS, PICTURES, tokenizers

NUMBER = b"\x8b\xd0\x07\0\0" + b"\x7f" * 2000  # LONG4: 4,800 digits
SCALE = b"}X\x0b\0\0\0logit_scale"  # the key of a dict
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0aX\x03\0\0\0cpuK\x01tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0"  # then size, stride, and two more


def archive(pickle: bytes) -> bytes:
    """A file of torch.save with one storage, "a", of one number."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("x/data.pkl", b"\x80\x02" + pickle + b".")
        members.writestr("x/data/a", struct.pack("<f", 1))
    return file.getvalue()


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def growing(factor: int, times: int) -> bytes:
    """A tokenizer that makes each "a" `factor` times as long, `times` times."""
    tokenizer = json.loads(tokenizers()[0])
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * (factor - 1)}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [replace] * times}
    return json.dumps(tokenizer).encode()


def printed(packets: bytes = PACKETS, frames: bytes = FRAMES) -> bytes:
    return BETWEEN.join([packets + END, frames + END, PICTURES])


def npy(header: bytes) -> bytes:
    """A .npy file of three rows, and their names."""
    array = b"\x93NUMPY\x02\0" + len(header).to_bytes(4, "little") + header + bytes(48)
    return array + BETWEEN + b'{"video": "a.mp4"}\n' * 3


def safetensors(header: object, data: int = 0) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def header(name: str) -> bytes:
    """A safetensors file whose only tensor has the wrong bytes."""
    return safetensors({name: {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]}}, 11)


FOUND = {
    "a bytearray of 16 GB in 11 bytes": (
        "unpickler",
        b"\x80\x02\x96" + (2**34).to_bytes(8, "little") + b".",
        "bytearray",
    ),
    "a frame of a TB": (
        "unpickler",
        b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b".",
        "longer than that of any state dict",
    ),
    "bytes of a TB": (
        "unpickler",
        archive(b"\x8e" + (2**40).to_bytes(8, "little")),
        "longer than that of any state dict",
    ),
    "a pickle of 16 MB, which could be dicts of 1.2 GB": (
        "unpickler",
        b"\x80\x02" + (b"X" + (2**22).to_bytes(4, "little") + b"a" * 2**22) * 4,
        "longer than that of any state dict",
    ),
    "a line of 16 MB": ("unpickler", b"\x80\x02c" + b"a" * 2**24, "longer than that of any state dict"),
    "a dict whose items() is a number": (
        "unpickler",
        archive(b"ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sbX\x01\0\0\0aK\x01s"),
        "its entry 'a' is not a tensor",
    ),
    "a shape that Python does not print": (
        "unpickler",
        archive(SCALE + TENSOR + b"(K\0" + NUMBER + b"t(K\x01K\x01t\x89NtRs"),
        "a size that no array can have",
    ),
    "three thousand axes": (
        "unpickler",
        archive(SCALE + TENSOR + b"(" + b"K\x01" * 3000 + b"t(" + b"K\x01" * 3000 + b"t\x89NtRs"),
        "a size that no array can have",
    ),
    "a float of 20,000 letters": (
        "unpickler",
        b"\x80\x02F" + b"a" * 20_000 + b"\n.",
        "could not convert string",
    ),
    "a name of 20,000 letters": ("unpickler", archive(b"c" + b"a" * 20000 + b"\nb\n"), "it asks for aaa"),
    "a tensor's name of 20,000 letters": (
        "unpickler",
        archive(b"}X" + struct.pack("<I", 20000) + b"a" * 20000 + TENSOR + b"(K\x01t(K\x01t\x89NtRs"),
        "unexpected: aaa",
    ),
    "a zip archive in place of an array": (
        "vectors",
        archive(b"N") + BETWEEN,
        "not a NumPy array of numbers",
    ),
    "a header of 20,000 bytes": (
        "vectors",
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)}" + b" " * 20000),
        "not a NumPy array of numbers",
    ),
    "a bracket that is not closed": ("vectors", npy(b"{'descr': ("), "not a NumPy array of numbers"),
    "a name of 9,000 letters and line breaks": (
        "safetensors",
        header("ab\n" * 3000),
        "not a safetensors file",
    ),
    "a header of 3 GB": (
        "vectors",
        b"\x93NUMPY\x03\0\0\0\0\xc0{" + BETWEEN,
        "its header is longer than the file",
    ),
    "a setting of 500 lists": (
        "configuration",
        CONFIG.read_bytes().replace(b'"embed_dim": 2', b'"embed_dim": ' + nested(500)),
        "nested too deeply",
    ),
    "replacements that multiply": (
        "tokenizer",
        growing(100, 2),
        "its replacements could make a text more than",
    ),
    "replacements that multiply to the memory": (
        "tokenizer",
        growing(1000, 10),
        "its replacements could make",
    ),
    "metadata that is null": (
        "tuned",
        safetensors({"__metadata__": None}),
        "not a tuned part",
    ),
    "a name of two lines": (
        "annotations",
        b'activitynet\n{"a\\nb": {"sentences": [1]}}',
        "the sentences of 'a.+b' are",
    ),
    "a time of a clip whose name has two lines": (
        "annotations",
        b'kinetics\nlabel,youtube_id,time_start,time_end,split\nsing,"a\nb",x,9,train',
        "a time of",
    ),
    "a tick of no length": (
        "ffmpeg",
        printed(frames=FRAMES.replace(b"1/25", b"0/25")),
        "something other than pictures|finds no video",
    ),
    "a tick of 400 digits": (
        "ffmpeg",
        printed(PACKETS.replace(b"1/25", b"1" * 400 + b"/25")),
        "finds no video",
    ),
    "time stamps of 80 bits": (
        "ffmpeg",
        printed(PACKETS.replace(b"         2,        2,       22", b"9999999999999999999, 2, 22")),
        "",
    ),
    "a last duration of more than 64 bits": (
        "ffmpeg",
        printed(
            PACKETS.replace(b"1/25", b"2000000000/1").replace(
                b"       2,       23", b" 99999999999999999, 23"
            ),
            FRAMES.replace(b"1/25", b"1/2000000000"),
        ),
        "too far apart",
    ),
}
