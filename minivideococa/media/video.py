"""The video stage: a file or a folder of images in, T sampled frames `uint8 [T, H, W, 3]` out.

The frames are those on screen at the middle of T equal parts of the clip's duration, see `sampling.py`. Images are
read by Pillow, see `images.py`; ffmpeg decodes everything else. Only the T frames are kept, so memory does not grow
with the length of the clip.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import IO, Any

import numpy as np

from ..inputs import path_name, regular_file
from ..resources import require_memory_for
from .images import is_image, is_jpeg_xl, list_images, read_images, refuse_times
from .preprocess import as_frames
from .sampling import frame_count, sample_indices, sample_times, seconds, warn_of_repeats

OLDEST_FFMPEG = 7
HANG_SECONDS = 30.0  # an ffmpeg that reports neither a packet nor a frame for so long is ended

# Without -map, ffmpeg chooses one of several video streams itself, and cover art only if there is nothing else.
VIDEO_ONLY = ["-an", "-sn", "-dn"]
EVERY_FRAME = [
    *VIDEO_ONLY,
    "-fps_mode",
    "passthrough",
    "-enc_time_base",
    "demux",
]  # as decoded, in the file's ticks


def read_video(
    path: str | os.PathLike[str],
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
) -> np.ndarray:
    """Sample T = `num_frames` frames of a clip uniformly: uint8 `[T, H, W, 3]`, RGB.

    Frame t is the one on screen at (t + 1/2) * D / T of the clip's duration D. At a constant frame rate that is number
    floor((t + 1/2) * n / T) of the clip's n frames. If they are fewer than T, frames repeat, with a UserWarning.
    `path` is a file that ffmpeg reads, an image, or a folder of images (sampled by index, in natural order of their
    names). `start` and `end` choose a part of the clip: seconds from its first frame, or texts such as "00:01:12.5".
    An `end` after the clip's end is the clip's end.

    Rotation metadata is honoured. Of several video streams the one is read that ffmpeg chooses by itself, and never
    cover art. Time stamps are those of ffmpeg: edit lists apply, and where they jump in a transport stream, by more
    than 10 seconds or back, the gap is closed. The frames are bit for bit those of
    `ffmpeg -i FILE -fps_mode passthrough -pix_fmt rgb24`. Of a clip that breaks midway, what decodes is used.

    Raises FileNotFoundError or another OSError if `path` cannot be opened, ValueError if it holds no readable clip,
    the frames do not fit into memory, `num_frames` is not an integer of at least 1, or [`start`, `end`) holds nothing
    of the clip.
    """
    path = path_name(path, "give a video, an image or a folder of images")
    num_frames = frame_count(num_frames)
    start = None if start is None else seconds(start, "start")
    end = None if end is None else seconds(end, "end")
    files_of(path)
    try:
        if os.path.isdir(path) or is_image(path):
            return read_images(path, num_frames, start, end, decode=_decode_still)
        return _read_with_ffmpeg(path, num_frames, start, end)
    except MemoryError:
        raise ValueError(f"{path}: out of memory; scale it down or ask for fewer frames") from None


def to_frames(
    source: Any,
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
    *,
    name: str = "video",
) -> np.ndarray:
    """Return the frames of a video given as a path, an array, or a list of arrays or PIL images: uint8 `[T, H, W, 3]`.

    A path is read by `read_video`, with `num_frames`, `start` and `end`. Frames are returned as they are, whatever
    `num_frames`; PIL images are converted to upright RGB. `name` names the argument in error messages.

    Raises ValueError for anything else, for frames of different sizes, and for `start` or `end` without a path; and
    the errors of `read_video`. `preprocess` checks the dtype and the shape of an array.
    """
    num_frames = frame_count(num_frames)
    if isinstance(source, str | os.PathLike):
        return read_video(source, num_frames, start, end)
    times = [key for key, value in (("start", start), ("end", end)) if value is not None]
    if times:
        raise ValueError(f"{' and '.join(times)} can only be given with a path; slice the frames instead")
    return as_frames(name, source)


def files_of(path: str | os.PathLike[str]) -> list[str]:
    """Return the files that a video is read from: itself, or the images of a folder in natural order of their names.

    Raises FileNotFoundError or another OSError if `path` cannot be opened, ValueError for a folder without images, a
    FIFO or a device.
    """
    hint = "check the path, and give a video, an image or a folder of images"
    path = path_name(path, hint)
    return list_images(path) if os.path.isdir(path) else [os.fspath(regular_file(path, hint))]


def _read_with_ffmpeg(path: str, num_frames: int, start: float | None, end: float | None) -> np.ndarray:
    """`read_video` for one file that is not an image."""
    # Packets are quick to read, and most clips have one for each frame. The time stamps of decoded frames decide.
    stamps, durations, packet_tick, size = read_packets(path)
    _require_memory(path, num_frames, *size)

    def sample(stamps: list[int], tick: Fraction) -> np.ndarray:
        own = durations.get(stamps[-1], durations[max(durations)]) * (packet_tick / tick)
        try:
            return sample_times(stamps, int(own), num_frames, start, end, tick)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    try:
        indices = sample(stamps, packet_tick)
    except ValueError:  # start is after the last packet
        indices = sample_indices(len(stamps), num_frames)
    select = True
    for _ in range(3):
        clip, stamps, tick = _decode(path, indices, select)
        still = len(stamps) == 1 and is_jpeg_xl(path)
        if still:
            refuse_times(path, "a still image", start, end)
        guess, indices = indices, sample(stamps, tick)
        if np.array_equal(guess, indices):
            if clip is not None:
                if not still:
                    warn_of_repeats(path, indices)
                return clip
            select = False
    raise ValueError(f"{path}: each decode gives other frames, the file is damaged; re-encode it")


def read_packets(path: str) -> tuple[list[int], dict[int, int], Fraction, tuple[int, int]]:
    """Read a video's packets without decoding them.

    Returns the sorted time stamps of those that will be shown; the duration that the file itself states for each (0 if
    it states none) by time stamp; the seconds of a tick; and (width, height) of the pictures, 0 if not known.
    """
    # nofillin: libavformat does not make up durations; with 1 added to each, the muxer does not either.
    # The second output fails if there is cover art only. (framecrc takes pictures of unknown size, null does not.)
    _, log = _run_ffmpeg(
        path,
        ["-fflags", "nofillin"],
        [
            *VIDEO_ONLY,
            "-c",
            "copy",
            "-copyinkf",
            "-bsf:v",
            "setts=pts=PTS:dts=DTS:duration=DURATION+1",
            "-f",
            "framecrc",
            "pipe:2",
            "-map",
            "0:V:0",
            "-c",
            "copy",
            "-f",
            "framecrc",
            "-",
        ],
    )
    tick = re.search(r"#tb 0: (\d+)/(\d+)", log)
    size = re.search(r"#dimensions 0: (\d+)x(\d+)", log)
    packets = re.findall(r"0, +(-?\d+), +(-?\d+), +(\d+), +\d+, 0x[0-9a-f]{8}(?:, F=0x([0-9A-F]+))?", log)
    stamp = 0 if any(int(packet[1]) == -(2**63) for packet in packets) else 1  # dts, if some have no pts
    durations = {int(packet[stamp]): int(packet[2]) - 1 for packet in packets}
    # AV_PKT_FLAG_DISCARD: decoded, but not shown, as an edit list says
    stamps = sorted(int(packet[stamp]) for packet in packets if not int(packet[3] or "0", 16) & 4)
    if not tick or not durations:
        raise _no_video(path, log)
    return (
        stamps or list(durations),
        durations,
        Fraction(int(tick[1]), int(tick[2])),
        (int(size[1]), int(size[2])) if size else (0, 0),
    )


def _decode_still(path: str) -> np.ndarray:
    """Decode a file that must hold one frame: uint8 `[1, H, W, 3]`. Raises ValueError for more frames or none."""
    clip, stamps, _ = _decode(path, np.zeros(1, np.int64), select=True)
    if len(stamps) > 1:
        raise ValueError(f"{path}: holds {len(stamps)} frames; give it by itself, not in a folder of images")
    if clip is None:
        raise ValueError(f"{path}: not a readable image; repair or remove it")
    return clip


def _decode(path: str, indices: np.ndarray, select: bool) -> tuple[np.ndarray | None, list[int], Fraction]:
    """Decode a video and gather the frames with these `indices`, int64 `[T]`.

    With `select` ffmpeg drops unwanted frames before it converts them to RGB. Its filter counts from 0 again where the
    picture format changes in mid-stream, so ffmpeg also reports the true number of each frame that it sends. Without
    `select` it sends every frame.

    Returns the frames uint8 `[T, H, W, 3]`, or None if the filter was wrong or `indices` are beyond the last frame;
    the time stamps of all decoded frames; and the seconds of a tick.
    """
    wanted = np.unique(indices).tolist()
    select = select and len(wanted) <= 64  # ffmpeg's expressions may nest 100 deep
    received = 0

    def gather(stream: IO[bytes]) -> np.ndarray | None:
        nonlocal received
        clip = None
        arriving = itertools.chain(wanted, itertools.repeat(-1)) if select else itertools.count()
        for index, frame in zip(arriving, _read_pictures(path, stream, len(indices))):
            received += 1
            if clip is None:
                clip = np.empty((len(indices), *frame.shape), np.uint8)
            clip[indices == index] = frame
        return clip

    counting = [*EVERY_FRAME, *_report("pipe:2", "seen={pts} {tb}"), "-f", "null", "-"]
    sending = [
        *EVERY_FRAME,
        *_report("pipe:02", "sent={ni}"),
        "-f",
        "image2pipe",
        "-c:v",
        "ppm",
        "-pix_fmt",
        "rgb24",
    ]
    if select:
        sending += ["-vf", "select='" + "+".join(f"eq(n,{index})" for index in wanted) + "'"]
    clip, log = _run_ffmpeg(path, [], [*counting, *sending, "-"], gather)
    seen = re.findall(r"seen=(-?\d+) (\d+)/(\d+)", log)
    sent = [int(number) for number in re.findall(r"sent=(\d+)", log)]
    if not seen:
        raise _no_video(path, log)
    if received != len(sent):
        raise ValueError(
            f"{path}: ffmpeg sent {received} pictures of {len(sent)}; try again, or another ffmpeg"
        )
    complete = sent == wanted if select else len(sent) > wanted[-1]
    return (
        clip if complete else None,
        [int(pts) for pts, *_ in seen],
        Fraction(int(seen[0][1]), int(seen[0][2])),
    )


def _report(file: str, line: str) -> list[str]:
    """Options of an output: report each frame by a line to `file`. Two outputs must not share a name, or lines mix."""
    return ["-stats_enc_pre", file, "-stats_enc_pre_fmt", line]


def _read_pictures(path: str, stream: IO[bytes], num_frames: int) -> Iterator[np.ndarray]:
    """PPM pictures of one size (lines `P6`, `W H`, `255`, then the pixels) to the stream's end, uint8 `[H, W, 3]`."""
    first, width, height = b"", 0, 0
    while header := stream.readline(80):
        header += stream.readline(80) + stream.readline(80)
        if not first and (match := re.fullmatch(rb"P6\n([1-9]\d{0,8}) ([1-9]\d{0,8})\n255\n", header)):
            first, width, height = header, int(match[1]), int(match[2])
            _require_memory(path, num_frames, width, height)
        if header != first:
            raise ValueError(
                f"{path}: ffmpeg sends something other than pictures of one size; try another ffmpeg"
            )
        pixels = stream.read(height * width * 3)
        if len(pixels) < height * width * 3:  # ffmpeg was ended
            return
        yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _require_memory(path: str, num_frames: int, width: int, height: int) -> None:
    """Raise ValueError if T frames, and what ffmpeg holds while it decodes, do not fit into memory."""
    frame = 3 * width * height + 1000  # with its index and time
    what = f"{path}: reading {num_frames} frames of {width} x {height} pixels"
    require_memory_for(num_frames, lambda T: (T + 8) * frame, what, "frames")


def _run_ffmpeg(
    path: str, reading: list[str], writing: list[str], consume: Callable[[IO[bytes]], Any] | None = None
) -> tuple[Any, str]:
    """Run ffmpeg on a file with options for its input and its outputs.

    Returns what `consume` makes of its standard output (without it, output is discarded: None), and all that it wrote
    to standard error.

    Raises ValueError if it hangs, writes without end, is ended by a signal or ends midway, OSError if it cannot be run
    or the folder of temporary files is full.
    """
    # Given as an open file, no path is taken for an option, a protocol or a pattern of file names. The only progress
    # report is the last one: it tells that ffmpeg came to its end. Damaged packets are no failure.
    command = [
        ffmpeg_path(),
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
        *reading,
        "-i",
        "fd:",
        *writing,
    ]
    with open(path, "rb") as file, tempfile.TemporaryFile() as log:
        limit = min(
            10**9, 10**7 + 200 * os.path.getsize(path)
        )  # a packet has some bytes; a report of it, at most 200
        output = subprocess.PIPE if consume else subprocess.DEVNULL
        try:
            process = subprocess.Popen(command, stdin=file, stdout=output, stderr=log, start_new_session=True)
        except OSError as error:
            raise no_ffmpeg(command[0], error.strerror) from None
        with process:
            faults: list[str] = []
            ended = threading.Event()
            watch = threading.Thread(target=_watch, args=(process, log, limit, ended, faults), daemon=True)
            try:
                watch.start()
                result = consume(process.stdout) if consume and process.stdout else None
                process.wait()
            except BaseException:  # Ctrl-C too
                _kill(process)
                raise
            finally:
                ended.set()
                watch.join()
        if faults:
            raise ValueError(f"{path}: ffmpeg {faults[0]} on this file, and was ended; re-encode it")
        log.seek(0)
        text = log.read().decode(errors="replace")
        failed = process.returncode > 0 or "progress=end" not in text
        if failed and _is_full(log):
            raise OSError(f"{tempfile.gettempdir()}: no space for temporary files; free some, or set TMPDIR")
    if process.returncode < 0:
        raise ValueError(
            f"{path}: signal {-process.returncode} ended ffmpeg on this file; "
            f"re-encode it, or replace {command[0]}"
        )
    if failed:
        if "seen=" in text or "#tb 0" in text:
            raise ValueError(
                f"{path}: ffmpeg ended midway with exit status {process.returncode} "
                f"({_complaint(text) or 'no message'}); try again, or re-encode it"
            )
        raise _no_video(path, text)
    return result, text


def _is_full(file: IO[bytes]) -> bool:
    """Return whether no more can be written to a file, by writing to it."""
    try:
        return os.write(file.fileno(), bytes(8192)) < 8192
    except OSError:
        return True


def _watch(
    process: subprocess.Popen[bytes], log: IO[bytes], limit: int, ended: threading.Event, faults: list[str]
) -> None:
    """Kill ffmpeg, and note the fault, if its log does not grow for HANG_SECONDS or grows beyond `limit` bytes."""
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
    """Kill ffmpeg and its process group. A wrapper script has a child, which holds the pipe."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended
            pass
    else:
        process.kill()


def ffmpeg_path() -> str:
    """Return the path of ffmpeg. Raises OSError if there is none."""
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        return get_ffmpeg_exe()
    except RuntimeError as error:
        raise OSError(f"no ffmpeg: {error}; reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE") from None


def no_ffmpeg(executable: str, reason: str | None) -> OSError:
    """Return the error for a program that is no ffmpeg or does not run."""
    return OSError(
        f"{executable}: cannot be run as ffmpeg ({reason}); reinstall imageio-ffmpeg, "
        "or correct IMAGEIO_FFMPEG_EXE"
    )


def _complaint(log: str) -> str:
    """Return ffmpeg's first error message."""
    for line in log.splitlines():
        if " " in line and not re.match(r"#|0, |\w+=", line):
            return "".join(c if c.isprintable() else "?" for c in re.sub(r"^(\[.*?\] )+", "", line.strip()))[
                :200
            ]
    return ""


def _no_video(path: str, log: str) -> ValueError | OSError:
    """Return the error for a file from which ffmpeg decodes nothing. It names ffmpeg instead if that is at fault."""
    complaint = _complaint(log)
    command = [ffmpeg_path(), "-version"]
    try:
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        answer = b""
    if not answer.startswith(b"ffmpeg version "):
        return no_ffmpeg(command[0], complaint or "-version gives none")
    version = re.match(rb"ffmpeg version n?(\d{1,3})\.(\S*)", answer)
    lacks = r"Unrecognized option|Option .*not found|Protocol not found|no decoder found for: (?!none)|Decoder .*not found"
    if (version and int(version[1]) < OLDEST_FFMPEG) or re.search(lacks, complaint):
        return ValueError(
            f"{command[0]}: this ffmpeg is too old for {path} ({complaint}); ffmpeg {OLDEST_FFMPEG} "
            "or newer is needed: upgrade imageio-ffmpeg, or correct IMAGEIO_FFMPEG_EXE"
        )
    return ValueError(
        f"{path}: ffmpeg finds no video in it ({complaint or 'no frame decodes'}); "
        "give a video, an image or a folder of images"
    )
