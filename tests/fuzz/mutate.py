"""Changes of a valid file that keep most of its form, so that they get past its header.

Each function takes the bytes of a file and a random generator, and returns other bytes. A file that does not
have its form any more is changed byte by byte.
"""

import contextlib
import io
import json
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from random import Random

Mutate = Callable[[bytes, Random], bytes]
LONGEST = 2**17  # bytes of an input

TEXTS = [
    "",
    " ",
    "\0",
    "a\nb",
    "\x1b[31m",
    "\ud800",
    "\U0001f408",
    "../../etc/passwd",
    "/etc/passwd",
    "http://localhost:9/a",
    "~",
    "{}",
    "%s",
    "-1",
    "1e999",
    "9" * 30,
    "NaN",
    "x" * 5000,
    "a" * 300 + "/" + "b" * 300,
    "<start_of_text>",
    "(a+)+$",
    "(?R)",
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    255,
    2**31,
    2**32,
    2**53 + 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
    10**400,
    1e308,
    -1e308,
    0.5,
    1e-320,
]
VALUES = [None, True, False, float("nan"), float("inf"), [], {}, [[]], [None], {"": None}, *NUMBERS, *TEXTS]


def several(change: Mutate, data: bytes, random: Random) -> bytes:
    """Change a file one to four times."""
    for _ in range(random.choice([1, 1, 2, 4])):
        data = change(data, random)[:LONGEST]
    return data


def any_bytes(data: bytes, random: Random) -> bytes:
    """Flip, insert, remove, repeat or cut bytes."""
    place, length = random.randrange(len(data) + 1), random.choice([1, 1, 2, 4, 8, 30])
    match random.randrange(6):
        case 0:
            return data[:place] + random.randbytes(length) + data[place + length :]
        case 1:
            return data[:place] + random.randbytes(length) + data[place:]
        case 2:
            return data[:place] + data[place + length :]
        case 3:
            return (
                data[:place]
                + data[place : place + length] * random.choice([2, 3, 50])
                + data[place + length :]
            )
        case 4:
            return data[:place]
        case _:
            return data[:place] + random.choice([b"\0", b"\xff"]) * length + data[place + length :]


# JSON


def json_file(data: bytes, random: Random) -> bytes:
    """Change the tree of a JSON file."""
    if random.random() < 0.05:
        return any_bytes(data, random)
    try:
        return dumped(changed(json.loads(data), random))
    except (ValueError, RecursionError):
        return any_bytes(data, random)


def dumped(tree: object) -> bytes:
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return b"null"


def json_lines(data: bytes, random: Random) -> bytes:
    """Change one line of a file with a JSON value per line."""
    lines = data.split(b"\n")
    i = random.randrange(len(lines))
    return b"\n".join([*lines[:i], json_file(lines[i], random), *lines[i + random.choice([0, 1, 1, 1]) :]])


def changed(tree: object, random: Random) -> object:
    """Replace, remove, repeat or wrap one node of a tree."""
    if not isinstance(tree, dict | list) or not tree or random.random() < 0.1:
        return replaced(tree, random)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = random.choice(keys)
    new = tree.copy()
    choice = random.random()
    if choice < 0.7:
        new[key] = changed(tree[key], random)
    elif choice < 0.8:
        del new[key]
    elif isinstance(new, dict):  # another key for the value, or another value for the key
        new[random.choice([*map(str, keys), *TEXTS])] = tree[random.choice(keys)]
    else:
        new[key:key] = [tree[key]] * random.choice([1, 2, 20])
    return new


def replaced(node: object, random: Random) -> object:
    """Return another value in place of one node."""
    choice = random.random()
    if isinstance(node, str) and choice < 0.4:
        place = random.randrange(len(node) + 1)
        return node[:place] + random.choice(TEXTS) + node[place:]
    if isinstance(node, int | float) and choice < 0.6:
        return random.choice([node + 1, node - 1, -node, node * 2, *NUMBERS])
    if choice < 0.65:
        for _ in range(random.choice([1, 3, 90, 110, 500, 900])):
            node = [node]
        return node
    return random.choice(VALUES)


# Tables and lists


def text_file(data: bytes, random: Random) -> bytes:
    """Change a cell or a line of a text file."""
    lines = data.split(b"\n")
    i = random.randrange(len(lines))
    cells = re.split(rb"([,/ \t])", lines[i])
    match random.randrange(6):
        case 0:
            return any_bytes(data, random)
        case 1:
            lines[i : i + 1] = []
        case 2:
            lines[i:i] = [random.choice(lines)] * random.choice([1, 2, 50])
        case 3:
            j = random.randrange(len(cells))
            cells[j : j + 1] = []
            lines[i] = b"".join(cells)
        case _:
            cells[random.randrange(len(cells))] = random.choice(TEXTS).encode("utf-8", "surrogatepass")
            lines[i] = b"".join(cells)
    return b"\n".join(lines)


# safetensors


def safetensors(data: bytes, random: Random) -> bytes:
    """Change the header of a safetensors file, or its data."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    match random.randrange(8):
        case 0:
            return any_bytes(data, random)
        case 1:
            return data[:8] + header + any_bytes(body, random)
        case 2:
            wrong = random.choice([0, 1, abs(length - 1), length + 1, 2**32, 2**63, 2**64 - 1])
            return (wrong % 2**64).to_bytes(8, "little") + data[8:]
        case 3 | 4:  # whole tensors of other values
            value = random.choice(
                [b"\0\0\0\0", struct.pack("<f", float("nan")), struct.pack("<f", 1e30), b"\xff\x7f"]
            )
            start = random.randrange(0, len(body) + 1, 4)
            return (
                data[:8] + header + body[:start] + value * random.choice([1, 20]) + body[start + len(value) :]
            )
    header = metadata(header, random) if random.random() < 0.3 else json_file(header, random)
    return len(header).to_bytes(8, "little") + header + body


def metadata(header: bytes, random: Random) -> bytes:
    """Change a text in the metadata of a header: JSON within JSON, if it is that."""
    try:
        tree = json.loads(header)
        texts = tree.setdefault("__metadata__", {})
        key = random.choice([*texts, "config", "bfloat16", "minivideococa.source", "minivideococa.tuned"])
        texts[key] = json_file(str(texts.get(key, "{}")).encode(), random).decode("utf-8", "replace")
    except (ValueError, AttributeError, TypeError, RecursionError, UnicodeEncodeError):
        return any_bytes(header, random)
    return dumped(tree)


# Pickles

OPCODES = [  # what may be put between the opcodes of a pickle
    b"]",
    b"}",
    b")",
    b"(",
    b"0",
    b"1",
    b"2",
    b"N",
    b"\x88",
    b"K\x01",
    b"J\xff\xff\xff\xff",
    b"\x8a\x09" + b"\xff" * 8 + b"\0",
    b"\x8b\xd0\x07\0\0" + b"\x7f" * 2000,  # a number of 4,800 digits
    b"\x8b\xff\xff\xff\x7f",
    b"I0x" + b"f" * 5000 + b"\n",
    b"G" + struct.pack(">d", float("nan")),
    b"X\x05\0\0\0items",
    b"X\x04\0\0\0keys",
    b"X\xff\xff\xff\xff",
    b"C\x01a",
    b"\x8e" + (2**40).to_bytes(8, "little"),
    b"\x96" + (2**34).to_bytes(8, "little"),
    b"\x95" + (2**40).to_bytes(8, "little"),
    b"\x95\0\0\0\0\0\0\0\0",
    b"\x85",
    b"\x86",
    b"\x87",
    b"t",
    b"l",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"b",
    b"R",
    b"o",
    b"\x81",
    b"\x92",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"\x93",
    b"\x94",
    b"Q",
    b"P0\n",
    b"\x82\x01",
    b"\x97",
    b"\x98",
    b"r\xff\xff\xff\x7f",
    b"j\xff\xff\xff\x7f",
    b"h\0",
    b"q\0",
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nSize\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"c_codecs\nencode\n",
    b"(iposix\nsystem\n",
    b".",
]


def torch_file(data: bytes, random: Random) -> bytes:
    """Change the opcodes of the pickles in a file of torch.save, or an entry of its zip archive."""
    if random.random() < 0.15:
        return any_bytes(data, random)
    if not data.startswith(b"PK"):
        return pickles(data, random)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # no archive any more
        return any_bytes(data, random)
    names = list(members)
    pickled = [name for name in names if name.endswith("data.pkl")] or names
    chosen = random.choice(pickled if random.random() < 0.8 else names) if names else ""
    change = pickles if chosen.endswith("data.pkl") else any_bytes
    result = io.BytesIO()
    with zipfile.ZipFile(
        result, "w", random.choice([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED])
    ) as archive:
        for name, content in members.items():
            if random.random() > 0.02:
                archive.writestr(name, change(content, random) if name == chosen else content)
    return result.getvalue()


def pickles(data: bytes, random: Random) -> bytes:
    """Insert, remove, repeat, swap or replace opcodes of pickles that stand one after the other."""
    places, end = [], 0
    with contextlib.suppress(Exception):
        while end < len(data):
            found = [end + at for _, _, at in pickletools.genops(data[end:])]
            places += found
            end = found[-1] + 1
    if not places:
        return any_bytes(data, random)
    ends = [*places[1:], end]
    ops = [data[start:stop] for start, stop in zip(places, ends)]
    for _ in range(random.choice([1, 1, 2, 5])):
        i, j = random.randrange(len(ops) + 1), random.randrange(len(ops) + 1)
        match random.randrange(5):
            case 0 | 1:
                ops[i:i] = random.choices(OPCODES, k=random.choice([1, 2, 3]))
            case 2:
                ops[i : i + 1] = [random.choice(OPCODES)]
            case 3:
                ops[i : i + 1] = ops[i : i + 1] * random.choice([0, 2, 50])
            case _:
                ops[i : i + 1], ops[j : j + 1] = ops[j : j + 1], ops[i : i + 1]
    return b"".join(ops) + data[end:]


# What ffmpeg prints


def ffmpeg_output(data: bytes, random: Random) -> bytes:
    """Change a line, or a number in it; pictures among them byte by byte."""
    lines = data.split(b"\n")
    i = random.randrange(len(lines))
    match random.randrange(7):
        case 0:
            return any_bytes(data, random)
        case 1:
            lines[i : i + 1] = []
        case 2:
            lines[i:i] = [random.choice(lines)] * random.choice([1, 2, 20])
        case 3:
            lines[i], lines[0] = lines[0], lines[i]
        case _:
            numbers = list(re.finditer(rb"-?\d+", lines[i]))
            if numbers:
                start, stop = random.choice(numbers).span()
                number = random.choice(
                    [0, 1, -1, 2, 255, 10**9, 2**31, 2**32, 10**18, 2**63, -(2**63), 10**25, 10**4400]
                )
                text = b"9" * 4400 if number == 10**4400 else b"%d" % number
                lines[i] = lines[i][:start] + text + lines[i][stop:]
    return b"\n".join(lines)
