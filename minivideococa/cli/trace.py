"""`trace VIDEO -o FILE`: write the activations of a video and a text to a safetensors file."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ..output import resolve_output
from . import arguments, messages, videos

if TYPE_CHECKING:
    from ..model.videococa import VideoCoCa


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "trace",
        run,
        "Write all activations of a video and a text to a safetensors file.",
        add_arguments,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    videos.add_video(parser)
    arguments.add_output(
        parser,
        "FILE",
        "the safetensors file to write",
    )
    parser.add_argument(
        "--text", metavar="TEXT", help="the text to encode and decode (default: the caption of the video)"
    )
    parser.add_argument(
        "--inside",
        metavar="BLOCK",
        help="also write what is computed inside a block, such as vision.block.3 or pool: q, k, v, the "
        "weights and output of the attention, and the hidden activations and output of the MLP",
    )
    arguments.add_model(parser)
    arguments.add_part(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="the dtype to compute in (default: float32)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the file and print the name, dtype and shape of each tensor in it."""
    from ..tasks import warn_if_cut
    from ..verify import blocks_of, write_trace

    resolve_output(args.output, [args.video])  # before the work
    videos.check_one(args.video)  # before the weights
    model = arguments.load_model(args, args.dtype)
    if args.inside is not None and args.inside not in (blocks := blocks_of(model.config)):
        near = get_close_matches(args.inside, blocks, 3) or blocks[:1]
        raise ValueError(
            f"--inside {args.inside}: no block of this model: give one such as {', '.join(near)}"
        )
    messages.refuse_unknown_words(args, model, [args.text or ""])
    activations = activations_of(args, model)
    messages.warn_of_words(args, model, [args.text or ""])
    if args.text:
        warn_if_cut(model, [args.text])
    write_trace(args.output, activations, model)
    tensors = [
        {"name": name, "shape": list(x.shape), "dtype": str(x.dtype)} for name, x in activations.items()
    ]
    width = max(24, *map(len, activations))
    messages.print_result(
        args,
        [f"{x['name']:<{width}} {x['dtype']:<8} {x['shape']}" for x in tensors],
        {"trace": args.output, "tensors": tensors},
    )
    return 0


def activations_of(args: argparse.Namespace, model: VideoCoCa) -> dict[str, Any]:
    """Return the activations of encoding the video, and of decoding the text with teacher forcing."""
    import numpy as np

    from ..model.hooks import trace

    with trace(weights=args.inside or False) as encoding:
        video = videos.encode_with_bar(args, model, args.video)
    if args.text is None:
        ids = np.full((1, model.config.text.context_length), model.config.text.pad_id)
        caption = model.generate(video.tokens)
        ids[0, : len(caption)] = caption
    else:
        ids = model.tokenize(args.text)
    with trace(
        weights=args.inside or False
    ) as decoding:  # apart from the beam search, which records the same names step by step
        model.decode(video.tokens, ids)
    return encoding | decoding
