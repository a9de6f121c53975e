"""What a reader of hostile input must not do: run code, open other files, use the network or much memory.

`guarded` watches one call by an audit hook, which sees every call of Python's own functions, and a limit of
the address space, which also holds for the libraries that a reader uses.
"""

import contextlib
import encodings.cp437
import encodings.raw_unicode_escape  # noqa: F401 (texts in pickles of protocol 0)
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import tokenizers  # noqa: F401 (imported where a file holds a tokenizer)

import minivideococa

PACKAGE = str(Path(minivideococa.__file__).resolve().parent)
MEMORY = 2**30  # bytes that a reader may take for a file of less than a megabyte
SYSTEM = ("/proc/", "/sys/fs/cgroup", os.devnull)  # how much memory there is

# Audit events that a reader may raise. All others are forbidden, among them subprocess.Popen, os.system,
# exec, compile, socket.connect, pickle.find_class, ctypes.dlopen, and import: the modules are loaded before.
HARMLESS = {
    "builtins.id",
    "mmap.__new__",
    "array.__new__",
    "sys._getframe",
    "object.__getattr__",
    "os.stat",
    "time.sleep",
    "_thread.start_new_thread",
    "_thread.start_joinable_thread",
}
ON_FILES = {  # events whose first argument is a path
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.rename",
    "os.chmod",
    "os.utime",
    "os.truncate",
    "glob.glob",
    "glob.glob/2",
    "pathlib.Path.glob",
    "shutil.rmtree",
    "tempfile.mkstemp",
    "tempfile.mkdtemp",
    "fcntl.flock",
}


class Forbidden(AssertionError):
    """A reader has done what no input may make it do."""


class _Watch:
    """The folder of the call that is watched; None if none is."""

    folder: str | None = None
    readable: tuple[str, ...] = ()
    thread = 0
    forbidden: str | None = None
    installed = False


def _hook(event: str, arguments: tuple) -> None:
    if _Watch.folder is None or threading.get_ident() != _Watch.thread or event in HARMLESS:
        return
    if event == "compile" and arguments[1] == "<unknown>":  # ast.literal_eval, which runs nothing
        return
    if event == "import" and sys.modules.get(arguments[0], 0) is None:  # hidden: it fails
        return
    if event in ON_FILES and _may_touch(event, arguments):
        return
    _Watch.forbidden = f"{event} {arguments!r:.300}"
    raise Forbidden(_Watch.forbidden)  # so that it does not happen


def _may_touch(event: str, arguments: tuple) -> bool:
    """A reader may write in its folder, and read named files, the package, and how much memory there is."""
    path = arguments[0]
    if isinstance(path, int):  # a descriptor, which was opened before
        return True
    name = os.path.abspath(os.fsdecode(path))
    if name == _Watch.folder or name.startswith(_Watch.folder + os.sep):
        return True
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    reads = event in ("open", "os.listdir", "os.scandir", "glob.glob", "glob.glob/2", "pathlib.Path.glob")
    return reads and not writes and name.startswith((*_Watch.readable, *SYSTEM, PACKAGE))


@contextlib.contextmanager
def guarded(folder: Path, readable: tuple[Path, ...] = ()) -> Iterator[None]:
    """Raise Forbidden if the block does what no input may make it do.

    It may write in `folder`, and read the files in it and those in `readable`.
    """
    if not _Watch.installed:
        sys.addaudithook(_hook)  # for the rest of the process
        _Watch.installed = True
    _Watch.thread, _Watch.forbidden = threading.get_ident(), None
    _Watch.readable = tuple(os.path.abspath(path) for path in readable)
    with memory_limit(MEMORY):
        _Watch.folder = os.path.abspath(folder)
        try:
            yield
        finally:
            _Watch.folder = None
            if _Watch.forbidden:  # also where the reader has caught the error
                raise Forbidden(_Watch.forbidden) from None


@contextlib.contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Limit the address space to `more` bytes than now, where the system can (Linux)."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
