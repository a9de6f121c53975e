"""Arguments that several commands share, and the types of argument values."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from .. import terminal
from ..inputs import read_text
from ..progress import Progress, no_progress, progress_bar

if TYPE_CHECKING:
    from ..model.generation import DecodingOptions
    from ..model.videococa import VideoCoCa

    Commands = argparse._SubParsersAction["Parser"]

Run = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser that reports a usage error in one line, and prints help as results are printed.

    `add_arguments` is called when the parser is first used, so that a command imports what its own choices
    come from and nothing for the other commands.
    """

    def __init__(
        self, *args: Any, add_arguments: Callable[[Parser], None] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.add_arguments = add_arguments

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as `ArgumentParser` does."""
        if self.add_arguments:
            self.add_arguments(self)
            self.add_arguments = None
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one line that points to --help, and exit with status 2."""
        terminal.tell(f"minivideococa: {message}; see {self.prog} --help")
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        terminal.write(message.rstrip("\n"))


def add_command(
    commands: Commands,
    name: str,
    run: Run,
    description: str,
    add_arguments: Callable[[Parser], None],
    prints_result: Callable[[argparse.Namespace], bool] = lambda args: True,
) -> None:
    """Add a command. `prints_result` is whether it writes to standard output with these arguments."""
    parser = commands.add_parser(name, help=description, description=description, add_arguments=add_arguments)
    parser.set_defaults(run=run, prints_result=prints_result)
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print the result only, no progress and no messages"
    )


def progress(args: argparse.Namespace) -> Progress:
    """Return what draws the progress of a command: bars, or nothing with --quiet."""
    return no_progress if args.quiet else progress_bar


def load_model(args: argparse.Namespace, dtype: str = "float32") -> VideoCoCa:
    """Load the model of --weights."""
    from ..checkpoint import load

    return load(args.weights, dtype, progress=progress(args))


# Shared arguments


def add_json(parser: Parser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_weights(parser: Parser) -> None:
    """Add --weights."""
    parser.add_argument(
        "--weights",
        type=weights,
        metavar="W",
        help="a checkpoint folder, or hf-hub:OWNER/NAME (default: the embedded tiny checkpoint, trained "
        "on coloured shapes only)",
    )


def add_model(parser: Parser) -> None:
    """Add --json, --weights, --frames and --force."""
    add_json(parser)
    add_weights(parser)
    parser.add_argument(
        "--frames", type=positive, default=8, metavar="T", help="number of frames to sample (default: 8)"
    )
    parser.add_argument(
        "--force", action="store_true", help="accept words that are missing from the checkpoint's vocabulary"
    )


def add_adapter(parser: Parser) -> None:
    """Add --adapter, with the choices of `ADAPTERS`."""
    from ..model.config import ADAPTERS

    described = "; ".join(f"{name}: {text}" for name, text in ADAPTERS.items())
    parser.add_argument(
        "--adapter",
        choices=list(ADAPTERS),
        default="attentional",
        help=f"how frames are combined into a video (default: attentional). {described}".replace("%", "%%"),
    )


def add_part(parser: Parser) -> None:
    """Add --start and --end."""
    for name, place in ("start", "start at"), ("end", "stop at"):
        parser.add_argument(
            f"--{name}", type=time, metavar="TIME", help=f"{place} this time: seconds, mm:ss or hh:mm:ss"
        )


def add_templates(parser: Parser) -> None:
    """Add --templates-file and --ensemble."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--templates-file",
        type=path,
        metavar="F",
        help='a file with one template a line, {} standing for the label (default: "a video of {}.")',
    )
    group.add_argument(
        "--ensemble", action="store_true", help="average over several templates that come with the package"
    )


def templates(args: argparse.Namespace) -> Sequence[str] | None:
    """Return the templates that are asked for; None for the default."""
    from ..tasks import ENSEMBLE

    return lines(args.templates_file) if args.templates_file else ENSEMBLE if args.ensemble else None


# Decoding: one flag for each field of DecodingOptions, with its default and help

NO_FLAGS = ("start_id", "end_id", "cache")  # fields for Python callers


def add_decoding(parser: Parser, leave_out: Sequence[str] = ()) -> None:
    """Add a flag for each field of `DecodingOptions`, and --textbook."""
    from ..model.generation import DecodingOptions

    hints = get_type_hints(DecodingOptions)
    group = parser.add_argument_group("decoding", argument_default=argparse.SUPPRESS)
    for field in dataclasses.fields(DecodingOptions):
        if field.name not in (*NO_FLAGS, *leave_out):
            default = f"{field.default:g}" if isinstance(field.default, float) else field.default
            shown = "" if default in (None, "") else f" (default: {default})"
            group.add_argument(
                flag(field.name),
                metavar=field.metadata.get("metavar"),
                help=field.metadata["help"].replace("%", "%%") + shown,
                **_value(field.name, hints[field.name]),
            )
    group.add_argument(
        "--textbook",
        dest="convention",
        action="store_const",
        const="textbook",
        help="the same as --convention textbook",
    )


def flag(name: str) -> str:
    """Return the flag of a field: max_length -> --max-length."""
    return f"--{name.replace('_', '-')}"


def _value(name: str, hint: Any) -> dict[str, Any]:
    """Return how argparse reads the value of a field, given its type hint."""
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if name == "temperature":
        return {"type": temperature}
    kinds = get_args(hint) or (hint,)  # int | None -> (int, NoneType)
    return {"type": whole if int in kinds else number if float in kinds else str}


def decoding_options(args: argparse.Namespace) -> DecodingOptions:
    """Return the given options. Several candidates come from one search with at least as many beams.

    Raises ValueError, which names the flag, for impossible values.
    """
    from ..model.generation import DecodingOptions

    names = {field.name for field in dataclasses.fields(DecodingOptions)} - {*NO_FLAGS}
    given = {name: value for name, value in vars(args).items() if name in names}
    if given.get("candidates", 1) > 1:
        given = {"beams": max(DecodingOptions.beams, given["candidates"])} | given
    try:
        return DecodingOptions(**given)
    except ValueError as error:
        raise ValueError(with_flags(str(error))) from None


def check_decoding(model: VideoCoCa, options: DecodingOptions) -> None:
    """Raise ValueError, which names the flag, for options that the model cannot fulfil."""
    from ..model.generation import prepare

    model.require_tokenizer()
    try:
        prepare(model, options)
    except ValueError as error:
        raise ValueError(with_flags(str(error))) from None


def with_flags(message: str) -> str:
    """Return a message about fields of `DecodingOptions` with their flags: max_length -> --max-length."""
    from ..model.generation import DecodingOptions

    for field in dataclasses.fields(DecodingOptions):
        place = r"\b" if "_" in field.name else "^"  # "beams" inside a sentence is a word
        message = re.sub(rf"\b{field.name}=", f"{flag(field.name)} ", message)
        message = re.sub(rf"{place}{field.name}\b", flag(field.name), message)
    return message


# Types of values. argparse adds the name of the argument to the message of an error.


def whole(text: str, least: int = 0, most: int = 2**64 - 1) -> int:
    """Read a whole number."""
    try:
        value = int(text[:100])  # Python refuses to read thousands of digits
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a whole number") from None
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
    return value


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    return whole(text, 1, 2**31 - 1)


def number(text: str) -> float:
    """Read a finite number."""
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a finite number")


def temperature(text: str) -> float:
    """Read a temperature, which is not 0."""
    if (value := number(text)) == 0:
        raise argparse.ArgumentTypeError(
            "is 0, which leaves nothing to chance: give --beams 1 for greedy decoding, or a number above 0"
        )
    return value


def time(text: str) -> float:
    """Read a time: seconds, mm:ss or hh:mm:ss."""
    from ..media.sampling import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> str:
    """Read the path of a file or a folder; a URL is refused."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a path")
    if re.match(r"[A-Za-z][\w+.-]+://", text) and not os.path.exists(text):
        raise argparse.ArgumentTypeError(f"{text} is a URL: download the file first, then give its path")
    return text


def weights(text: str) -> str:
    """Read the path of a checkpoint folder, or hf-hub:OWNER/NAME. A name without the prefix is refused."""
    name = re.sub(r"^https?://(www\.)?huggingface\.co/|/$", "", text)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and name[0] != "." and not os.path.exists(text):
        raise argparse.ArgumentTypeError(
            f"there is no folder {text}; for a repository on the Hugging Face hub give hf-hub:{name}"
        )
    return path(text)


def text(value: str) -> str:
    """Read a text that is not blank."""
    if not value.strip():
        raise argparse.ArgumentTypeError("is empty: give a text")
    return value


def items(name: str, value: str) -> list[str]:
    """Split texts at the commas outside double quotes, as in CSV. Raises ValueError if there is none."""
    line = re.sub(r'"\s+(?=,|$)', '"', value.replace("\n", " "))  # csv takes no space after a closing quote
    try:
        [row] = csv.reader([line], skipinitialspace=True, strict=True)
    except csv.Error:
        raise ValueError(
            f'{name}: a double quote is not closed, or text follows it; write "red, white and blue",green'
        ) from None
    if not (texts := [item.strip() for item in row if item.strip()]):
        raise ValueError(f"{name} is empty: give texts separated by commas")
    return texts


def lines(path: str) -> list[str]:
    """Read the lines of a text file that are not blank. Raises ValueError if there is none."""
    hint = "give a file with one entry a line"
    if not (found := [line.strip() for line in read_text(path, hint).split("\n") if line.strip()]):
        raise ValueError(f"{path} is empty: {hint}")
    return found
