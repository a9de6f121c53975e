"""`verify TRACE`: find the first wrong tensor of another implementation, and the cause."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..output import atomic_write, resolve_output
from . import arguments, messages

EXIT_STATUS = (
    "Exit status: 0, all that was compared agrees within rounding error, or --tolerance; 1, something does "
    "not, no tensor of the network was compared or, with --strict, some are missing; 2, TRACE cannot be used."
)


def add_parser(commands: arguments.Commands) -> None:
    """Add the command."""
    arguments.add_command(
        commands,
        "verify",
        run,
        "Find the first wrong tensor of another implementation, and the cause.",
        add_arguments,
        exit_status=EXIT_STATUS,
    )


def add_arguments(parser: arguments.Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "trace",
        type=arguments.path,
        metavar="TRACE",
        help="a safetensors file written by any program: frames or pixels, ids, and tensors under the names "
        "that `trace` writes, in float64, float32, float16 or bfloat16",
    )
    arguments.add_json(parser)
    arguments.add_weights(parser)
    parser.add_argument(
        "--dtype",
        choices=("float64", "float32", "float16", "bfloat16"),
        help="the dtype that TRACE was computed in, if it has less precision than the stored one",
    )
    parser.add_argument(
        "--tolerance",
        type=decibels,
        metavar="DB",
        help="for a quantized port: the signal-to-quantization-noise ratio that every tensor must reach, "
        "such as 30dB, in place of what rounding explains; no mistakes are searched for",
    )
    parser.add_argument(
        "--html",
        type=arguments.path,
        metavar="FILE",
        help="also write the report as a page for the browser: charts of the errors along the path, and of "
        "the first wrong tensor",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 also if TRACE lacks a tensor that `trace` would write for its inputs",
    )


def decibels(text: str) -> float:
    """Read a number of decibels, "30dB" or "30"."""
    number = re.fullmatch(r"(-?\d+(\.\d+)?)\s*(dB)?", text, re.IGNORECASE)
    if not number:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of decibels, such as 30dB")
    return float(number[1])


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 if something is wrong."""
    from ..verify import as_json, page, text, verify_file

    destination = resolve_output(args.html, [args.trace]) if args.html else None  # before the work
    arguments.require_weights(args)
    report = verify_file(
        args.trace,
        args.weights,
        args.dtype,
        tuned=args.tuned,
        tolerance=args.tolerance,
        progress=arguments.progress(args),
    )
    if destination:
        with atomic_write(destination) as partial:
            partial.write_text(page(report, Path(args.trace).name), encoding="utf-8")
    messages.print_result(args, text(report).split("\n"), as_json(report))
    incomplete = bool(report.missing) or len(report.compared) < len(report.rows)
    return 0 if report.ok and not (args.strict and incomplete) else 1
