"""The files of the cache: memory-mapped reading and checksums. `evaluation/test_cache.py` tests its use."""

import os

import numpy as np
import pytest

from minivideococa.cache import file_of, get, is_intact, open_arrays, put

KEY = ["clip", 8, None]
ARRAYS = {"tokens": np.arange(24, dtype=np.float16).reshape(2, 3, 4), "squares": np.arange(5, dtype=np.uint8)}


@pytest.fixture
def stored(tmp_path):
    """The path of a file of the cache that holds `ARRAYS`."""
    put(tmp_path, KEY, ARRAYS)
    return file_of(tmp_path, KEY)


def test_stored_arrays_are_read_as_they_were(tmp_path, stored):
    assert is_intact(stored) and list(tmp_path.iterdir()) == [stored]
    for arrays in get(tmp_path, KEY), open_arrays(stored):
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_opened_arrays_are_mapped_and_those_of_get_are_copies(tmp_path, stored):
    def owner(array):
        while isinstance(array.base, np.ndarray):
            array = array.base
        return type(array.base).__name__

    assert owner(open_arrays(stored)["tokens"]) == "mmap"
    assert owner(get(tmp_path, KEY)["tokens"]) == "NoneType"


@pytest.mark.parametrize("name", ARRAYS)
def test_one_bit_of_any_array_is_noticed(stored, name):
    content = stored.read_bytes()
    at = content.index(ARRAYS[name].tobytes())
    stored.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert open_arrays(stored) is not None and not is_intact(stored)


def test_what_is_no_file_of_the_cache_is_not_intact(tmp_path, stored):
    stored.write_bytes(stored.read_bytes()[:-1])
    assert open_arrays(stored) is None and not is_intact(stored)
    assert open_arrays(tmp_path) is None and not is_intact(tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
def test_a_fifo_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert open_arrays(tmp_path / "fifo") is None and not is_intact(tmp_path / "fifo")
