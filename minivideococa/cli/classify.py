"""`classify VIDEO --labels "A,B,C"`: rank labels by how well they fit a video."""

from __future__ import annotations

import argparse

from . import arguments, messages, stored, videos


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands, "classify", run, "Rank labels by how well they fit a video.", add_arguments
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    videos.add_video(parser)
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument(
        "--labels",
        metavar='"A,B,C"',
        help='the labels, separated by commas, in "quotes" if they hold one',
    )
    labels.add_argument(
        "--label", action="append", type=arguments.text, metavar="A", help="one label; repeat it for others"
    )
    labels.add_argument(
        "--labels-file", type=arguments.path, metavar="F", help="a file with one label per line"
    )
    arguments.add_model(parser, f"; {arguments.IN_WORLD}")
    arguments.add_adapter(parser)
    arguments.add_part(parser)
    stored.add_cache(parser)
    arguments.add_templates(parser)
    parser.add_argument(
        "--by",
        choices=["latent", "likelihood"],
        default="latent",
        help="compare latents, or the likelihood of the sentences under the decoder (default: latent)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the labels, the most probable first."""
    from ..tasks import classify

    labels = args.label or (
        arguments.lines(args.labels_file) if args.labels_file else arguments.items("--labels", args.labels)
    )
    templates = arguments.templates(args)
    videos.check_one(args.video)  # before the weights
    model = arguments.load_model(args)
    messages.refuse_unknown_words(args, model, [*labels, *(templates or [] if args.templates_file else [])])
    templates = messages.known_templates(args, model, templates)
    video = videos.encode_with_bar(args, model, args.video)
    with arguments.progress(args)(len(labels) * len(templates or [""]), "texts") as update:
        latents = None
        if args.by == "latent":
            latents = stored.label_latents(args, model, labels, templates, update)
        ranking = classify(model, video, labels, templates, args.by, latents=latents, progress=update)
    known = messages.videos_in_world(args, [video])
    messages.warn_of_limits(args, model, [*labels, *(templates or [])], known)
    messages.print_result(
        args,
        [f"{probability:.6f}  {probability:6.1%}  {label}" for label, probability in ranking],
        {
            "video": args.video,
            "labels": [{"label": label, "probability": probability} for label, probability in ranking],
            **messages.world_field(known),
        },
    )
    return 0
