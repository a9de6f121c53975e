"""A folder in which nothing can be written: every command that writes says so in one line."""

import os
import shutil
import subprocess

import pytest
from commands import ONE_FILE, WRITING, files, writing
from platforms import posix

pytestmark = [posix, pytest.mark.slow]


@pytest.fixture
def read_only(tmp_path):
    """Return a function that makes a folder read-only until the end of the test."""
    folder = tmp_path / "read-only"

    def make():
        if os.geteuid():
            folder.chmod(0o555)
            return
        mounts = [["mount", "--bind", folder, folder], ["mount", "-o", "remount,bind,ro", folder]]
        if not shutil.which("mount") or any(
            subprocess.run(x, capture_output=True).returncode for x in mounts
        ):
            pytest.skip("permissions do not bind root, and this container mounts nothing")

    folder.mkdir()
    yield folder, make
    if os.geteuid():
        folder.chmod(0o755)
    else:
        subprocess.run(["umount", "-l", folder], capture_output=True)


def check_refused(name, inputs, read_only, refused, before):
    """Run a command in a read-only folder with these files, and check that they stay as they are."""
    folder, make = read_only
    arguments, _ = writing(name, inputs, folder)
    for path in before:
        (folder / path).write_bytes(before[path])
    make()
    err = refused(arguments)
    assert str(folder) in err and "give another" in err
    assert files(folder) == before


@pytest.mark.parametrize("name", WRITING)
def test_a_read_only_folder(name, inputs, read_only, refused):
    check_refused(name, inputs, read_only, refused, {})


@pytest.mark.parametrize("name", sorted(ONE_FILE - {"check"}))
def test_a_read_only_folder_keeps_what_it_holds(name, inputs, read_only, refused):
    check_refused(name, inputs, read_only, refused, {WRITING[name][0]: b"old"})
