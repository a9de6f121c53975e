"""Reading of files that a user names, and the errors for what is refused."""

import os

import pytest
from platforms import posix

from minivideococa import resources
from minivideococa.inputs import parse_json, read_json, read_text, regular_file, why_unreadable
from minivideococa.resources import available_memory, format_bytes, require_memory


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", 5, None, b"a"])
def test_invalid_names(name):
    with pytest.raises(ValueError, match="^path is .*, not the name of a file or folder; give one"):
        regular_file(name, "give one")


@pytest.mark.parametrize("name", ["missing", "there/file", "x" * 5000])
def test_missing_files(tmp_path, name):
    (tmp_path / "there").write_text("a file, not a folder")
    with pytest.raises(FileNotFoundError, match="; give one"):
        regular_file(tmp_path / name, "give one")


@posix
def test_folders_fifos_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(IsADirectoryError, match="is a folder; give one"):
        regular_file(tmp_path, "give one")
    for path in tmp_path / "fifo", "/dev/zero":
        with pytest.raises(ValueError, match="not a regular file"):
            regular_file(path, "give one")


def test_permission_denied(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(PermissionError, match="secret: permission denied"):
        regular_file(tmp_path / "secret", "give one")


def test_text_and_json(tmp_path):
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "bom.json", "give one") == {"a": 1}
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="latin.txt: not UTF-8 text; give one"):
        read_text(tmp_path / "latin.txt", "give one")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": NaN}', "[Infinity]"])
def test_malformed_json(text):
    with pytest.raises(ValueError, match="^f: not JSON: .*; give one$") as error:
        parse_json(text, "f", "give one")
    assert "\n" not in str(error.value)


def test_require_memory(monkeypatch):
    assert available_memory() > 10**7
    monkeypatch.setattr(resources, "available_memory", lambda: 10**9)
    require_memory(10**9, "this", "less")
    with pytest.raises(ValueError, match="this needs 4.5 GB of memory, and 1.0 GB are available; less"):
        require_memory(4_500_000_000, "this", "less")
    monkeypatch.setattr(resources, "available_memory", lambda: None)  # the system does not say
    require_memory(10**18, "this", "less")
    assert format_bytes(20 * 10**6) == "20 MB" and format_bytes(900) == "900 bytes"


def test_memory_limit_of_a_container(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("300000000\n")
    (tmp_path / "memory.current").write_text("250000000\n")
    (tmp_path / "memory.stat").write_text("anon 50000000\ninactive_file 200000000\n")
    monkeypatch.setattr(
        resources, "CONTROL_GROUPS", [(tmp_path, "memory.max", "memory.current", "inactive_file")]
    )
    assert available_memory() == 250_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 250_000_000


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_error_of_cleaning_up_after_an_interrupt_does_not_hide_it(interrupt):
    with pytest.raises(interrupt):
        try:
            try:
                raise interrupt
            finally:
                raise RuntimeError("cannot join thread before it is started")
        except Exception as error:
            why_unreadable("clip.mp4", error)
