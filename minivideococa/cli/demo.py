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


def run(args: argparse.Namespace) -> int:
    """Print the model's answers and whether each is right."""
    from .. import demo

    result = demo.run(progress=arguments.progress(args))
    messages.print_result(args, demo.report(result).split("\n"), result)
    return 0
