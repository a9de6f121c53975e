"""The videos of a command: folders of them, files that cannot be read, and encoding."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..inputs import natural_key
from . import arguments, messages, stored

if TYPE_CHECKING:
    from ..model.config import Video
    from ..model.videococa import VideoCoCa
    from ..progress import Update

T = TypeVar("T")

VIDEO = "a video, a GIF, an image, or a folder of images"
VIDEOS = f"{VIDEO} or of videos"
# fmt: off
VIDEO_ENDINGS = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)
# fmt: on
READ_ERRORS = (OSError, ValueError, MemoryError)


def add_video(parser: arguments.Parser) -> None:
    """Add VIDEO, one video."""
    parser.add_argument("video", type=arguments.path, metavar="VIDEO", help=VIDEO)


def add_videos(parser: arguments.Parser, nargs: str = "+") -> None:
    """Add VIDEO ..., several videos or folders of them."""
    parser.add_argument("videos", type=arguments.path, metavar="VIDEO", nargs=nargs, help=VIDEOS)


def expand(paths: Iterable[str]) -> list[str]:
    """Return the paths, with the videos of each folder of videos in its place.

    A folder that cannot be used stays in the list; `check_all` finds out why.
    """
    expanded = []
    for path in paths:
        try:
            expanded += videos_in(path) or [path]
        except READ_ERRORS:
            expanded.append(path)
    return expanded


def walk(folder: str) -> tuple[list[str], dict[str, str]]:
    """Return the videos of a folder and of its subfolders, and why a subfolder cannot be used, by its path.

    A folder of images is one video. Hidden folders are skipped, and links to folders. Raises ValueError if
    there is no video.
    """
    from ..media.images import SUFFIXES

    found: list[str] = []
    failed: dict[str, str] = {}

    def note(error: OSError) -> None:
        failed[os.fsdecode(error.filename)] = messages.reason(error)

    for place, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        images = [name for name in files if name.lower().endswith(tuple(SUFFIXES)) and name[0] != "."]
        try:
            found += videos_in(place) or ([place] if images else [])
        except READ_ERRORS as error:
            failed[place] = reason_for(place, error)
    if not found:
        raise none_readable(failed or {folder: f"{folder}: no videos in this folder or below it"})
    return found, failed


def videos_in(path: str) -> list[str]:
    """Return the videos of a folder in natural order; [] for a file or a folder of images, which is one clip.

    Hidden files, subfolders and other kinds of files are skipped; an animated GIF is a video. Raises
    ValueError if the folder holds images as well.
    """
    if not os.path.isdir(path):
        return []
    from ..media.images import list_images

    try:
        images = list_images(path)
    except ValueError:  # none
        images = []
    videos = [
        os.path.join(path, name)
        for name in os.listdir(path)
        if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith(".")
    ]
    videos = [video for video in videos if os.path.isfile(video)]
    videos += [image for image in images if _is_animated(image)]
    if videos and len(stills := set(images) - set(videos)):
        raise ValueError(
            f"{path}: a folder of both videos and images, such as {os.path.basename(min(videos))} and "
            f"{os.path.basename(min(stills))}: give a folder of one kind, or the files"
        )
    return sorted(videos, key=natural_key)


def _is_animated(image: str) -> bool:
    """Return whether a file is a GIF of several frames."""
    if not image.lower().endswith(".gif"):
        return False
    from PIL import Image

    try:
        with Image.open(image) as opened:
            return bool(getattr(opened, "is_animated", False))
    except READ_ERRORS:  # reported when it is read
        return False


def check_one(path: str) -> None:
    """Raise an error, before the weights are loaded, if a path cannot be one video."""
    if videos := videos_in(path):
        raise ValueError(f"{path}: a folder of videos: give one of them, such as {videos[0]}")
    require_video(path)


def check_all(paths: Iterable[str]) -> dict[str, str]:
    """Return why videos cannot be opened, by path. Raises ValueError if none can."""
    return try_each(paths, require_video)[1]


def require_video(path: str) -> None:
    """Raise an error if a path is neither a file nor a folder of images or of videos."""
    from ..media.images import SUFFIXES
    from ..media.video import files_of

    if videos_in(path):
        return
    if os.path.isdir(path) and not any(
        os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
        for name in os.listdir(path)
    ):
        raise ValueError(
            f"{path}: no videos and no images directly in this folder (subfolders are not searched); "
            "give the folder that holds them"
        )
    files_of(path)


def try_each(paths: Iterable[str], read: Callable[[str], T]) -> tuple[dict[str, T], dict[str, str]]:
    """Return the results of `read` by path, and why others failed. Raises ValueError if all failed."""
    results, failed = {}, {}
    for path in dict.fromkeys(paths):
        try:
            results[path] = read(path)
        except READ_ERRORS as error:
            failed[path] = reason_for(path, error)
    if not results:
        raise none_readable(failed)
    return results, failed


def reason_for(path: str, error: BaseException) -> str:
    """Return why a video cannot be read, with its path."""
    message = messages.reason(error)
    return f"{path}: {message}" if isinstance(error, MemoryError) and path not in message else message


def none_readable(failed: Mapping[str, str]) -> ValueError:
    """Return the error for videos of which none can be read."""
    first = next(iter(failed.values()))
    return ValueError(first if len(failed) == 1 else f"none of the {len(failed)} videos can be read: {first}")


def report_left_out(args: argparse.Namespace, failed: Mapping[str, str], paths: Sequence[str]) -> int:
    """Print which videos were left out and why, in the order of `paths`, and return the exit status."""
    for path in paths:
        if path in failed:
            messages.say(args, f"left out: {failed[path]}")
    return 3 if failed else 0


def encode(args: argparse.Namespace, model: VideoCoCa, path: str, update: Update) -> Video:
    """Return a video, or the part from --start to --end, encoded now or found. `update` counts frames."""
    return stored.encode(args, model, path, update)


def encode_with_bar(args: argparse.Namespace, model: VideoCoCa, path: str) -> Video:
    """Encode a video with a progress bar of its own."""
    with arguments.progress(args)(args.frames, "frames") as update:
        return encode(args, model, path, update)
