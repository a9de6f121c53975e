"""Running ffmpeg on a file: its command line, its supervision, and what its failures mean."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import IO, TypeVar

OLDEST_FFMPEG = 7
HANG_SECONDS = 30.0  # ffmpeg is killed if it reports neither a packet nor a frame for this long
LONGEST_LINE = 10_000  # bytes of its log that are read at a time
MOST_MESSAGES = 100

Report = Callable[[str], bool]
T = TypeVar("T")


class Running:
    """An ffmpeg that runs: its standard output, and what it has written to standard error.

    `report` is called with each line of standard error, from a thread, and returns whether the line is a
    report of a packet or a frame. (A report may follow the beginning of a message on the same line.) The
    other lines are messages, of which the first are kept. Set `paused` while nothing is read from `output`:
    ffmpeg then waits too.
    """

    process: subprocess.Popen[bytes] | None = None

    def __init__(self, report: Report, limit: int) -> None:
        self._report, self._limit = report, limit
        self.paused, self.reported, self.finished, self.fault = False, False, False, ""
        self._messages: list[str] = []
        self._size, self._ended, self._starting = 0, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._read_log, self._watch)]

    @property
    def output(self) -> IO[bytes]:
        """Standard output."""
        assert self.process and self.process.stdout
        return self.process.stdout

    @property
    def messages(self) -> str:
        """The first messages, one a line."""
        return "\n".join(self._messages)

    def start(self, command: list[str], file: IO[bytes], output: int) -> None:
        """Run ffmpeg, read standard error from now on, and kill ffmpeg if it is stuck. Raises OSError."""

        def run() -> None:
            with self._starting:
                if not self._ended.is_set():
                    self.process = subprocess.Popen(
                        command, stdin=file, stdout=output, stderr=subprocess.PIPE, start_new_session=True
                    )
                    for thread in self._threads:
                        thread.start()

        # In the main thread a Ctrl-C could come when ffmpeg runs and `process` is not set: nothing would end
        # it. `kill` waits for the thread that starts it.
        with ThreadPoolExecutor(1) as executor:
            executor.submit(run).result()

    def wait(self) -> int:
        """Wait until ffmpeg and its reports have ended. Return the exit status."""
        assert self.process
        status = self.process.wait()
        self._threads[0].join()
        return status

    def kill(self) -> None:
        """Kill ffmpeg and its process group: if it is a wrapper script, its child holds the pipe open."""
        self._ended.set()
        with self._starting, suppress(ProcessLookupError, PermissionError):  # it has ended
            if self.process and os.name == "posix":
                os.killpg(self.process.pid, signal.SIGKILL)
            elif self.process:
                self.process.kill()

    def stop(self) -> None:
        """Wait until the threads and ffmpeg have ended, and close the pipes."""
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive():  # it may never have been started
                thread.join()
        if self.process:
            with self.process:
                pass

    def _read_log(self) -> None:
        assert self.process and self.process.stderr
        while line := self.process.stderr.readline(LONGEST_LINE):
            self._size += len(line)
            text = line.decode(errors="replace").rstrip("\n")
            if self._is_report(text):
                self.reported = True
            elif text.endswith("progress=end"):
                self.finished = True
            elif len(self._messages) < MOST_MESSAGES:
                self._messages.append(text)

    def _is_report(self, text: str) -> bool:
        try:
            return self._report(text)
        except (ValueError, ArithmeticError):  # no number of ffmpeg's: another program
            return False

    def _watch(self) -> None:
        """Kill ffmpeg, and note the fault, if its log does not grow for HANG_SECONDS or exceeds the limit."""
        interval, quiet, before = 0.1, 0.0, 0
        while not self._ended.wait(interval):
            quiet = quiet + interval if self._size == before and not self.paused else 0.0
            before = self._size
            if quiet >= HANG_SECONDS or before > self._limit:
                endless = before > self._limit
                self.fault = "writes without end" if endless else f"makes no progress for {HANG_SECONDS:g} s"
                self.kill()
                return


@contextmanager
def open_ffmpeg(
    path: str, input_options: list[str], output_options: list[str], report: Report, piped: bool = True
) -> Iterator[Running]:
    """Run ffmpeg on a file while the `with` block reads its output to the end.

    It is killed if the block raises. Without `piped` the output is discarded.

    Raises ValueError if ffmpeg hangs, writes without end, is killed by a signal or fails midway, OSError if
    it cannot be run.
    """
    executable = ffmpeg_path()
    command = [executable, *_GLOBAL_OPTIONS, *input_options, "-i", "fd:", *output_options]
    # A packet has a few bytes, and a report of it at most 200.
    running = Running(report, min(10**9, 10**7 + 200 * os.path.getsize(path)))
    with open(path, "rb") as file:
        try:
            try:
                running.start(command, file, subprocess.PIPE if piped else subprocess.DEVNULL)
            except OSError as error:
                raise no_ffmpeg(executable, error.strerror) from None
            yield running
            status = running.wait()
        except BaseException:  # including KeyboardInterrupt
            running.kill()
            raise
        finally:
            running.stop()
    _require_success(path, executable, status, running)


def run_ffmpeg(
    path: str,
    input_options: list[str],
    output_options: list[str],
    report: Report,
    consume: Callable[[IO[bytes]], T] | None = None,
) -> tuple[T | None, str]:
    """Run ffmpeg on a file; return the result of `consume(standard output)` and the messages.

    Without `consume` the standard output is discarded, and its result is None. `report` and the errors are
    those of `open_ffmpeg`.
    """
    with open_ffmpeg(path, input_options, output_options, report, consume is not None) as running:
        result = consume(running.output) if consume else None
    return result, running.messages


def _require_success(path: str, executable: str, status: int, running: Running) -> None:
    """Raise an error unless ffmpeg has ended well."""
    if running.fault:
        raise ValueError(f"{path}: ffmpeg {running.fault} on this file, and was ended; re-encode it")
    if status < 0:
        subject = f"{path}: signal {-status} ended ffmpeg on this file"
        raise ValueError(f"{subject}; re-encode it, or replace {executable}")
    if status == 0 and running.finished:
        return
    if not running.reported:
        raise no_video(path, running.messages)
    reason = f"exit status {status} ({_first_error(running.messages) or 'no message'})"
    raise ValueError(f"{path}: ffmpeg ended midway with {reason}; try again, or re-encode it")


# The file is passed as a descriptor, so that no path is taken for an option, a protocol or a pattern of file
# names. A single progress report, at the end, confirms that ffmpeg has finished. Damaged packets are not an
# error.
_GLOBAL_OPTIONS = [
    "-nostdin",
    "-nostats",
    "-loglevel",
    "error",
    "-max_error_rate",
    "1",
    "-progress",
    "pipe:2",
    "-stats_period",
    "1000000",
]

# Messages of an ffmpeg that lacks an option, a protocol or a decoder
_UNSUPPORTED = (
    r"Unrecognized option|Option .*not found|Protocol not found|no decoder found for: (?!none)|"
    r"Decoder .*not found"
)
# Messages about a video whose end is missing: of MP4 and MOV the index, or the data of a frame
_INCOMPLETE = r"moov atom not found|Invalid NAL unit size|[Tt]runcated|[Pp]artial file"


def ffmpeg_path() -> str:
    """Return the path of ffmpeg. Raises OSError if there is none."""
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        return str(get_ffmpeg_exe())
    except RuntimeError as error:
        raise OSError(f"no ffmpeg: {error}; reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE") from None


def ffmpeg_version() -> str | None:
    """Return ffmpeg's version, such as "7.1" or "n9.0.2-17-g2a571b6068"; None if it is no ffmpeg."""
    try:
        command = [ffmpeg_path(), "-version"]
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.match(rb"ffmpeg version (\S+)", answer)
    return version[1].decode(errors="replace") if version else None


def no_ffmpeg(executable: str, reason: str | None) -> OSError:
    """Return the error for a program that is not ffmpeg or cannot be run."""
    return OSError(
        f"{executable}: cannot be run as ffmpeg ({reason}); reinstall imageio-ffmpeg, "
        "or correct IMAGEIO_FFMPEG_EXE"
    )


def no_video(path: str, log: str) -> ValueError | OSError:
    """Return the error for a file from which ffmpeg decodes nothing, or for an ffmpeg that is the cause."""
    complaint, executable = _first_error(log), ffmpeg_path()
    version = ffmpeg_version()
    if version is None:
        return no_ffmpeg(executable, complaint or "-version gives none")
    number = re.match(r"n?(\d{1,3})\.", version)
    if (number and int(number[1]) < OLDEST_FFMPEG) or re.search(_UNSUPPORTED, complaint):
        return ValueError(
            f"{executable}: this ffmpeg is too old for {path} ({complaint}); ffmpeg {OLDEST_FFMPEG} "
            "or newer is needed: upgrade imageio-ffmpeg, or correct IMAGEIO_FFMPEG_EXE"
        )
    if re.search(_INCOMPLETE, complaint):
        return ValueError(
            f"{path}: the file is incomplete or damaged ({complaint}); download or copy it again"
        )
    return ValueError(
        f"{path}: ffmpeg finds no video in it ({complaint or 'no frame decodes'}); "
        "give a video, an image or a folder of images"
    )


def _first_error(log: str) -> str:
    """Return ffmpeg's first error message, or ""."""
    for line in log.splitlines():
        if " " in line and not re.match(r"#|0, |\w+=", line):
            message = re.sub(r"^(\[.*?\] )+", "", line.strip())
            return "".join(c if c.isprintable() else "?" for c in message)[:200]
    return ""
