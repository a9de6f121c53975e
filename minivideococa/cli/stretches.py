"""`caption VIDEO --every TIME`: a caption for each stretch of a video, with its time stamps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from . import arguments, messages, stored, videos

if TYPE_CHECKING:
    from ..model.config import Video
    from ..model.generation import DecodingOptions
    from ..model.videococa import VideoCoCa


def add_arguments(parser: arguments.Parser) -> None:
    """Add --every and -o."""
    parser.add_argument(
        "--every",
        type=arguments.time,
        metavar="TIME",
        help="print a caption for each stretch of this length, as 10s, 2min or 00:01:00, with its time "
        "stamps, as soon as it is written. The last stretch is what is left; if that is at most a tenth of "
        "TIME, it belongs to the stretch before",
    )
    arguments.add_output(
        parser,
        "FILE",
        "with --every, also write the captions to this file, in place of one that is there: subtitles (.srt, "
        ".vtt), .json or .txt",
        required=False,
    )
    parser.checks.append(_problem)


def _problem(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the options of stretches."""
    if args.every is None:
        return "-o needs --every TIME: it is for captions with time stamps" if args.output else None
    from ..media.stretches import LEAST
    from ..media.subtitles import ENDINGS

    if args.every < LEAST:
        return f"--every {args.every.text} is too short: give at least {LEAST:g} s"
    if getattr(args, "candidates", 1) > 1:
        return "--candidates and --every exclude each other: each stretch has one caption"
    if args.output and not args.output.lower().endswith(ENDINGS):
        return f"-o {args.output}: end the name with {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
    return None


def destination(args: argparse.Namespace, paths: list[str]) -> Path | None:
    """Return where to write the captions. Raises ValueError for several videos, and as `resolve_output`."""
    from ..output import resolve_output

    if args.output and len(paths) > 1:
        raise ValueError(
            f"-o {args.output}: {len(paths)} videos for one file; give one VIDEO, or leave out -o"
        )
    return resolve_output(args.output, paths) if args.output else None


def print_all(
    args: argparse.Namespace,
    model: VideoCoCa,
    paths: list[str],
    failed: dict[str, str],
    options: DecodingOptions,
    place: Path | None,
) -> list[bool]:
    """Print the captions of each video. Add to `failed` why one cannot be read, or not to its end.

    Return whether each stretch looks like the embedded checkpoint's shapes; empty for other checkpoints.
    """
    from ..media.subtitles import caption_file

    in_world: list[bool] = []
    left_out: list[str] = []  # printed when there is a result
    several, count = paths != args.videos or len(paths) > 1, 0
    with caption_file(place) if place else nullcontext(lambda *_: None) as write:
        for path in paths:
            for start, end, video, caption in _captioned(args, model, path, failed, options):
                messages.print_left_out(args, left_out, failed)
                left_out.clear()
                known = messages.videos_in_world(args, [video])
                _print(args, path, (start, end, caption), known, f"{path}: " if several else "")
                write(start, end, caption)
                in_world += known or []
                count += 1
            left_out += [path] if path in failed else []
        if not count:
            raise videos.none_readable(failed)
    messages.print_left_out(args, left_out, failed)
    return in_world


def _captioned(
    args: argparse.Namespace,
    model: VideoCoCa,
    path: str,
    failed: dict[str, str],
    options: DecodingOptions,
) -> Iterator[tuple[float, float, Video, str]]:
    """Yield (start, end, video, caption) of each stretch until the video ends or cannot be read."""
    from ..tasks import caption_encoded, encode_stretches

    if path in failed:
        return
    folder = stored.folder_of(args)
    stretches = caption_encoded(
        model,
        encode_stretches(
            model,
            path,
            args.every,
            num_frames=args.frames,
            start=args.start,
            end=args.end,
            adapter=args.adapter,
            progress=arguments.progress(args),
            folder=folder,
            model_key=stored.model_key(args, model) if folder else None,
        ),
        options,
    )
    shown = None
    while True:
        try:
            stretch = next(stretches, None)
        except videos.READ_ERRORS as error:
            reason = videos.reason_for(path, error)
            failed[path] = reason if shown is None else f"{reason} (captioned to {shown:.3f} s)"
            return
        if stretch is None:
            return
        yield stretch
        shown = stretch[1]


def _print(
    args: argparse.Namespace,
    path: str,
    stretch: tuple[float, float, str],
    known: list[bool] | None,
    prefix: str,
) -> None:
    """Print the caption of a stretch, above the bar."""
    from tqdm import tqdm

    from ..media.subtitles import line

    fields = dict(zip(("start", "end", "caption"), stretch, strict=True))
    with tqdm.external_write_mode(file=sys.stdout):
        messages.print_result(
            args, [prefix + line(*stretch)], {"video": path, **fields, **messages.world_field(known)}
        )
