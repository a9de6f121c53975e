"""A disk that is full: every command that writes ends with one line, and leaves what was there before."""

import errno
import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest
from commands import NOTHING_WRITTEN, ONE_FILE, PICTURES, WRITING, files, writing
from library_contents import contents
from platforms import posix

from minivideococa import cli

resource = pytest.importorskip("resource", reason="needs POSIX: limits of a process")
pytestmark = [posix, pytest.mark.slow]

GOES_ON = {"out/library.json", "out/run.json", "out/log.jsonl"}  # from which a repeated command goes on


@contextmanager
def file_size_limit(size):
    """Let this process write no file of more than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone, and not in every container")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk, room):
    """Fill a disk but for `room` bytes."""
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while file.write(b"\1" * 4096):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(os.path.getsize(disk / "filler") - room)


def test_every_command_is_here():
    assert {name.split()[0] for name in WRITING} | NOTHING_WRITTEN == {
        command.__name__.rpartition(".")[2] for command in cli.COMMANDS
    }


def put_old_output(name, out):
    """Put a file where the command will write, if it replaces files."""
    if name in ONE_FILE - {"check"}:
        out.write_bytes(b"old")


def kept(folder):
    """Return the files of a folder, without those from which a repeated command goes on."""
    return {path: content for path, content in files(folder).items() if path not in (*GOES_ON, "filler")}


@pytest.fixture
def check_run(run, inputs, tmp_path):
    """Run a command that writes in a folder where there is not enough room, and check what it leaves.

    That is its whole output, or what was there before, and one line.
    """

    def check_run(name, folder, reason):
        arguments, out = writing(name, inputs, folder)
        before = kept(folder)
        status, err = run(arguments)
        if status:
            assert status == 2 and err.startswith("minivideococa: ") and err.count("\n") == 1, (status, err)
            assert "cannot be written: " in err and reason in err and ".partial" not in err, err
            assert kept(folder) == before
            return
        with file_size_limit(resource.RLIM_INFINITY):
            again = tmp_path / "again"
            again.mkdir()
            assert run(writing(name, inputs, again)[0]) == (0, err) == (0, "")
            sizes = [sorted(map(len, kept(place).values())) for place in (folder, again)]
            assert out.exists() and sizes[0] == sizes[1]

    return check_run


@pytest.mark.parametrize("size", [10, 1500])
@pytest.mark.parametrize("name", WRITING)
def test_no_room(name, size, inputs, tmp_path, check_run):
    """Room for nothing, and for the first small files. The system ends an ffmpeg that exceeds the limit."""
    folder = tmp_path / "out"
    folder.mkdir()
    put_old_output(name, writing(name, inputs, folder)[1])
    with file_size_limit(size):
        check_run(name, folder, "")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("room", [0, 8192])
@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk(name, room, inputs, disk, check_run, run):
    """When there is room again, the repeated command goes on."""
    arguments, out = writing(name, inputs, disk)
    put_old_output(name, out)
    fill(disk, room)
    check_run(name, disk, "No space left")
    if GOES_ON & files(disk).keys():
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert run(arguments) == (0, "")


def test_a_library_stays_as_it_is(inputs, disk, refused):
    """Clips are added, and there is no room for them."""
    shutil.copytree(inputs / "library", disk / "library")
    fill(disk, 0)
    before = files(disk)
    manifest = str(inputs / "manifest.jsonl")
    assert "No space left" in refused(["index", manifest, "-o", str(disk / "library"), "--quiet"])
    assert files(disk) == before and len(contents(disk / "library")) == PICTURES


def test_a_full_cache_costs_the_cache_alone(inputs, disk, run, tmp_path):
    """The result is there, and one line says that nothing is kept."""
    fill(disk, 0)
    status, err = run(["caption", str(inputs / "pair.gif"), "--frames", "1", "--cache", str(disk / "cache")])
    assert status == 0 and err.count("No space left") == 1 and "--no-cache" in err
    assert list(files(disk)) == ["filler"]
