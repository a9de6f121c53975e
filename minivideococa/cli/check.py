"""`check FILE`: check a learner's exercises in the running model."""

from __future__ import annotations

import argparse

from . import arguments, messages

EXIT_STATUS = (
    "Exit status: 0, all that is written is right; 1, something is wrong; 2, FILE cannot be read or run. An "
    "exercise that is not written yet counts as neither."
)


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "check",
        run,
        "Check your exercises: nine functions of the model, to be written by you.",
        add_arguments,
        prints_result=lambda args: not args.new,
        exit_status=EXIT_STATUS,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "file", type=arguments.path, metavar="FILE", help="a Python file with your functions; it is run"
    )
    parser.add_argument(
        "names",
        nargs="*",
        default=[],
        metavar="NAME",
        help="exercises to check, by name or number (default: all)",
    )
    parser.add_argument(
        "--new", action="store_true", help="write FILE, with the nine functions to fill in, and check nothing"
    )
    arguments.add_json(parser)
    parser.checks.append(names_of_new)


def names_of_new(args: argparse.Namespace) -> str | None:
    """Return what is wrong if --new is given with exercises to check."""
    return (
        f"--new takes FILE alone: it checks nothing, not {args.names[0]}" if args.new and args.names else None
    )


def run(args: argparse.Namespace) -> int:
    """Print what became of each exercise; return 1 if one is wrong."""
    from ..exercises import as_json, check_file, text, write_template

    if args.new:
        write_template(args.file)
        todo = f"fill in a function, then run minivideococa check {args.file}"
        messages.say(args, f"wrote {args.file}: {todo}")
        return 0
    results = check_file(args.file, args.names, progress=arguments.progress(args))
    data = as_json(results)
    messages.print_result(args, text(results).split("\n"), data)
    return 0 if data["right"] else 1
