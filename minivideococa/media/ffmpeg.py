"""Running ffmpeg on a file: its command line, its supervision, and what its failures mean."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TypeVar

OLDEST_FFMPEG = 7
HANG_SECONDS = 30.0  # ffmpeg is killed if it reports neither a packet nor a frame for this long

T = TypeVar("T")


def run_ffmpeg(
    path: str,
    input_options: list[str],
    output_options: list[str],
    consume: Callable[[IO[bytes]], T] | None = None,
) -> tuple[T | None, str]:
    """Run ffmpeg on a file; return the result of `consume(standard output)` and the text of standard error.

    Without `consume` the standard output is discarded, and its result is None.

    Raises ValueError if ffmpeg hangs, writes without end, is killed by a signal or fails midway, OSError if
    it cannot be run or the folder of temporary files is full.
    """
    executable = ffmpeg_path()
    command = [executable, *_GLOBAL_OPTIONS, *input_options, "-i", "fd:", *output_options]
    with open(path, "rb") as file, tempfile.TemporaryFile() as log:
        # A packet has a few bytes, and a report of it at most 200.
        limit = min(10**9, 10**7 + 200 * os.path.getsize(path))
        output = subprocess.PIPE if consume else subprocess.DEVNULL
        try:
            process = subprocess.Popen(command, stdin=file, stdout=output, stderr=log, start_new_session=True)
        except OSError as error:
            raise no_ffmpeg(executable, error.strerror) from None
        result, fault = _supervise(process, log, limit, consume)
        if fault:
            raise ValueError(f"{path}: ffmpeg {fault} on this file, and was ended; re-encode it")
        log.seek(0)
        text = log.read().decode(errors="replace")
        failed = process.returncode > 0 or "progress=end" not in text
        if failed and _is_full(log):
            raise OSError(f"{tempfile.gettempdir()}: no space for temporary files; free some, or set TMPDIR")
    if process.returncode < 0:
        subject = f"{path}: signal {-process.returncode} ended ffmpeg on this file"
        raise ValueError(f"{subject}; re-encode it, or replace {executable}")
    if failed and not ("decoded=" in text or "#tb 0" in text):
        raise no_video(path, text)
    if failed:
        reason = f"exit status {process.returncode} ({_first_error(text) or 'no message'})"
        raise ValueError(f"{path}: ffmpeg ended midway with {reason}; try again, or re-encode it")
    return result, text


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


def _supervise(
    process: subprocess.Popen[bytes],
    log: IO[bytes],
    limit: int,
    consume: Callable[[IO[bytes]], T] | None,
) -> tuple[T | None, str]:
    """Run `consume` on the output, wait for ffmpeg to end, and return the result and a fault ("" if none)."""
    faults: list[str] = []
    ended = threading.Event()
    watchdog = threading.Thread(target=_kill_if_stuck, args=(process, log, limit, ended, faults), daemon=True)
    with process:
        try:
            watchdog.start()
            result = consume(process.stdout) if consume and process.stdout else None
            process.wait()
        except BaseException:  # including KeyboardInterrupt
            _kill(process)
            raise
        finally:
            ended.set()
            if watchdog.is_alive():  # a Ctrl-C may come while it starts
                watchdog.join()
    return result, "".join(faults)


def _kill_if_stuck(
    process: subprocess.Popen[bytes], log: IO[bytes], limit: int, ended: threading.Event, faults: list[str]
) -> None:
    """Kill ffmpeg, and append the fault, if its log does not grow for HANG_SECONDS or exceeds the limit."""
    interval, quiet, before = 0.1, 0.0, 0
    while not ended.wait(interval):
        size = os.fstat(log.fileno()).st_size
        quiet = quiet + interval if size == before else 0.0
        before = size
        if quiet >= HANG_SECONDS or size > limit:
            faults.append(
                "writes without end" if size > limit else f"makes no progress for {HANG_SECONDS:g} s"
            )
            _kill(process)
            return


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill ffmpeg and its process group: if it is a wrapper script, its child holds the pipe open."""
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _is_full(file: IO[bytes]) -> bool:
    """Return whether a file's disk is full, by writing to the file."""
    try:
        return os.write(file.fileno(), bytes(8192)) < 8192
    except OSError:
        return True


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
