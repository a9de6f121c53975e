"""`caption VIDEO ...`: describe what videos show."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import arguments, messages, stored, stretches, videos

if TYPE_CHECKING:
    from ..model.config import Video
    from ..model.generation import DecodingOptions
    from ..model.videococa import VideoCoCa


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "caption",
        run,
        "Describe what videos show.",
        add_arguments,
        exit_status=arguments.EXIT_STATUS_OF_SEVERAL,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    videos.add_videos(parser)
    arguments.add_model(
        parser,
        f", one object per line and video; left_out is why a video could not be read; {arguments.IN_WORLD}",
    )
    arguments.add_adapter(parser)
    arguments.add_part(parser)
    stretches.add_arguments(parser)
    stored.add_cache(parser)
    arguments.add_decoding(parser)


def run(args: argparse.Namespace) -> int:
    """Print the caption of each video, or of each stretch of it."""
    from ..tasks import require_captions

    options = arguments.decoding_options(args)
    paths = videos.expand(args.videos)
    failed = videos.check_all(paths)  # before the weights
    place = stretches.destination(args, paths)
    model = arguments.load_model(args)
    require_captions(model, options.prompt)
    messages.refuse_unknown_words(args, model, [options.prompt])
    arguments.check_decoding(args, model, options)
    if args.every is None:
        in_world = print_all(args, model, paths, failed, options)
    else:
        in_world = stretches.print_all(args, model, paths, failed, options, place)
    if place:
        messages.say(args, f"wrote {args.output}")
    messages.warn_of_limits(args, model, [options.prompt], in_world)
    return videos.report_left_out(args, failed, paths)


def print_all(
    args: argparse.Namespace,
    model: VideoCoCa,
    paths: list[str],
    failed: dict[str, str],
    options: DecodingOptions,
) -> list[bool]:
    """Print the caption of each video. Those of a few videos are written together.

    Add to `failed` why a video cannot be read. Return whether each video looks like the embedded checkpoint's
    shapes; empty for other checkpoints.
    """
    from ..tasks import CAPTIONS, batches

    several, in_world = paths != args.videos or len(paths) > 1, list[bool]()
    left_out: list[str] = []  # printed when there is a result
    for rows in batches(len(paths), CAPTIONS):
        encoded: dict[int, Video] = {}
        for i, path in enumerate(paths[rows]):
            try:
                if path not in failed:
                    encoded[i] = videos.encode_with_bar(args, model, path)
            except videos.READ_ERRORS as error:
                failed[path] = videos.reason_for(path, error)
        written = dict(zip(encoded, write_captions(args, model, [*encoded.values()], options), strict=True))
        for i, path in enumerate(paths[rows]):
            if i not in encoded:
                left_out.append(path)
                continue
            messages.print_left_out(args, left_out, failed)
            left_out.clear()
            known = messages.videos_in_world(
                args, [encoded[i]], judged_caption(args, written[i][0]["caption"])
            )
            in_world += known or []
            print_captions(args, path, written[i], known, f"{path}: " if several else "")
    if len(left_out) == len(paths):
        raise videos.none_readable(failed)
    messages.print_left_out(args, left_out, failed)
    return in_world


def judged_caption(args: argparse.Namespace, caption: str) -> str | None:
    """Return a caption if `in_world` may judge the video by it; None if an option may have distorted it.

    Mean pooling, few frames and a part of a video miss short events.
    """
    whole = args.adapter != "mean" and args.frames >= 8 and args.start is None and args.end is None
    default = not arguments.given_decoding(args).keys() - {"candidates", "beams", "convention"}
    return caption if whole and default else None


def write_captions(
    args: argparse.Namespace, model: VideoCoCa, encoded: list[Video], options: DecodingOptions
) -> list[list[dict[str, Any]]]:
    """Return [{"caption"}] for each video; with --candidates [{"caption", "score"}], the best first."""
    from ..tasks import best_first, caption_batch, score

    if not encoded:
        return []
    total = min(options.max_length or 30, model.config.text.context_length)
    with arguments.progress(args)(total, "tokens") as update:
        texts = caption_batch(model, encoded, options, update)
    if options.candidates == 1:
        return [[{"caption": caption}] for caption in texts]
    results = []
    for video, captions in zip(encoded, texts, strict=True):
        captions = list(dict.fromkeys(captions))  # different ids may spell the same text
        scores = score(model, video, captions)
        results.append([{"caption": captions[i], "score": float(scores[i])} for i in best_first(scores)])
    return results


def print_captions(
    args: argparse.Namespace, path: str, captions: list[dict[str, Any]], known: list[bool] | None, prefix: str
) -> None:
    """Print the captions of one video, each on a line that begins with `prefix`."""
    lines = [
        f"{row['score']:8.3f}  {row['caption']}" if "score" in row else row["caption"] for row in captions
    ]
    if known == [False] and not args.quiet:
        lines.append(messages.NO_DESCRIPTION)
    candidates = {"candidates": captions} if "score" in captions[0] else {}
    messages.print_result(
        args,
        [prefix + line for line in lines],
        {"video": path, "caption": captions[0]["caption"], **candidates, **messages.world_field(known)},
    )
