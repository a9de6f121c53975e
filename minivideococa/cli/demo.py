"""`demo`: caption, classify and retrieve the clips that come with the package."""

from __future__ import annotations

import argparse

from . import arguments, messages


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "demo",
        run,
        "Caption, classify and retrieve the clips that come with the package.",
        add_arguments,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    arguments.add_json(parser)
    parser.add_argument(
        "--html",
        type=arguments.path,
        metavar="FILE",
        help="also write a page that shows from which frames and patches each word of the captions came",
    )
    parser.checks.append(wrong_ending)


def wrong_ending(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the page's name: a browser goes by its ending."""
    if args.html is None or args.html.lower().endswith((".html", ".htm")):
        return None
    return f"--html {args.html}: end the name with .html"


def run(args: argparse.Namespace) -> int:
    """Print the model's answers and whether each is right; with --html, write a page, too."""
    from .. import demo
    from ..output import atomic_write, resolve_output

    destination = None if args.html is None else resolve_output(args.html)
    result = demo.run(progress=arguments.progress(args))
    steps = ["", "Next:", *(f"   {step}" for step in demo.NEXT[1 if destination else 0 :])]
    messages.print_result(args, [*demo.report(result).split("\n"), *steps], result)
    if destination:
        page = demo.page(progress=arguments.progress(args))
        with atomic_write(destination) as partial:
            partial.write_text(page, encoding="utf-8")
        messages.say(args, f"wrote {args.html}: open it in a browser")
    return 0
