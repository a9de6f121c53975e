"""Arguments that several commands share, and the types of argument values."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from .. import terminal
from ..inputs import read_text
from ..progress import Progress, no_progress, progress_bar

if TYPE_CHECKING:
    from ..model.config import Options
    from ..model.generation import DecodingOptions
    from ..model.videococa import VideoCoCa

    Commands = argparse._SubParsersAction["Parser"]

Run = Callable[[argparse.Namespace], int]

EXIT_STATUS = "Exit status: 0, success; 2, an error, which one line describes."
EXIT_STATUS_OF_SEVERAL = (
    "Exit status: 0, success; 2, an error, which one line describes; 3, there is a result, but some videos "
    "could not be read and were left out."
)


class Parser(argparse.ArgumentParser):
    """A parser that reports a usage error in one line, and prints help as results are printed.

    With `add_arguments` it is the parser of a command. It adds the arguments when it is first used, so that a
    command imports the source of its own choices and nothing for the other commands. Options may stand
    between the other arguments. Each of `checks` returns what is wrong with the parsed arguments, or None.
    """

    def __init__(
        self, *args: Any, add_arguments: Callable[[Parser], None] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.add_arguments = add_arguments
        self.checks: list[Callable[[argparse.Namespace], str | None]] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as `ArgumentParser` does; the parser of a command reports unknown arguments itself."""
        if self.add_arguments is None:  # the parser of all commands, or a call of argparse's own from below
            return super().parse_known_args(args, namespace)
        add_arguments, self.add_arguments = self.add_arguments, None
        add_arguments(self)
        self._require_known_options(args)
        # argparse drops "--" from intermixed arguments and then reads the names after it as options
        parse = self.parse_known_args if "--" in args else self.parse_known_intermixed_args
        parsed, rest = parse(args, namespace)
        if rest:
            self.error(self._unexpected(rest))
        for check in self.checks:
            if problem := check(parsed):
                self.error(problem)
        return parsed, []

    def _require_known_options(self, args: Sequence[str]) -> None:
        """Exit if an argument is a misspelled option; argparse would report what is missing instead."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for argument in before_hyphens(args):
            name = argument.partition("=")[0]
            if re.fullmatch(r"--[\w-]+", name) and not any(option.startswith(name) for option in known):
                nearest = get_close_matches(name, known, n=1, cutoff=0.7)
                self.error(
                    f"there is no option {name}" + (f": did you mean {nearest[0]}?" if nearest else "")
                )

    def _unexpected(self, rest: Sequence[str]) -> str:
        """Return the message for arguments that are left over."""
        for argument in before_hyphens(rest):
            if argument.startswith("-"):
                return f"there is no option {argument}"
        positionals = self._get_positional_actions()
        if any(action.nargs for action in positionals):  # several; see "--" above
            return "with -- among the arguments, all options stand before the other arguments"
        names = [f"one {action.metavar}" for action in positionals]
        command = self.prog.split()[-1]
        return f"{command} takes {' and '.join(names) or 'no arguments'}: {rest[0]!r} is one too many"

    def error(self, message: str) -> NoReturn:
        """Print one line that points to --help, and exit with status 2."""
        # "argument NAME: is empty" -> "NAME is empty", for messages that begin with a verb
        message = re.sub(r"^argument (?:-\w/)?(\S+): (?=is |must |\S+ leaves )", r"\1 ", message)
        separator = "" if message.endswith("?") else ";"
        terminal.tell(f"minivideococa: {message}{separator} see {self.prog} --help")
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        terminal.write(message.rstrip("\n"))


def before_hyphens(args: Sequence[str]) -> Sequence[str]:
    """Return the arguments before "--", after which none is an option."""
    return args[: args.index("--")] if "--" in args else args


def add_command(
    commands: Commands,
    name: str,
    run: Run,
    description: str,
    add_arguments: Callable[[Parser], None],
    prints_result: Callable[[argparse.Namespace], bool] = lambda args: True,
    exit_status: str = EXIT_STATUS,
) -> None:
    """Add a command.

    `prints_result` is whether it writes to standard output with these arguments; `exit_status` ends its help.
    """
    parser = commands.add_parser(
        name, help=description, description=description, epilog=exit_status, add_arguments=add_arguments
    )
    parser.set_defaults(run=run, prints_result=prints_result)
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print the result only, no progress and no messages"
    )


def progress(args: argparse.Namespace) -> Progress:
    """Return what draws the progress of a command: bars, or nothing with --quiet."""
    return no_progress if args.quiet else progress_bar


# The `cache.file_states` of a loaded model's files, of before it was loaded: if they are those of an earlier
# run, so is the model.
FILE_STATES: WeakKeyDictionary[VideoCoCa, list[list[Any]]] = WeakKeyDictionary()


def load_model(
    args: argparse.Namespace, dtype: str = "float32", adds_layers: bool = False, part: str | None = None
) -> VideoCoCa:
    """Return the model of --weights and --tuned; without both, the embedded checkpoint with this tuned part.

    Raises FileNotFoundError for a missing folder, and as `checkpoint.load`; unless the command adds layers,
    also ValueError for an --adapter that the checkpoint does not have or more --frames than it has positions.
    """
    from ..cache import file_states
    from ..checkpoint import files_of, load

    require_weights(args)
    tuned = args.tuned if args.tuned or args.weights else part
    states = file_states(files_of(args.weights, tuned, progress(args)))
    model = load(args.weights, dtype, tuned=tuned, progress=progress(args))
    FILE_STATES[model] = states
    if not adds_layers:
        adapter = model.config.check_adapter(getattr(args, "adapter", None))
        model.config.check_frames(getattr(args, "frames", None) or 1, adapter)
    return model


def require_weights(args: argparse.Namespace) -> None:
    """Raise FileNotFoundError if --weights is neither a path nor a repository on the Hugging Face hub."""
    if args.weights and not args.weights.startswith("hf-hub:") and not os.path.lexists(args.weights):
        raise FileNotFoundError(
            f"--weights {args.weights}: no such folder; give a checkpoint folder, or hf-hub:OWNER/NAME for a "
            "repository on the Hugging Face hub"
        )


# Shared arguments

IN_WORLD = "with the embedded checkpoint, in_world is whether a video looks like its coloured shapes"


def add_json(parser: Parser, more: str = "") -> None:
    """Add --json. `more` ends its help."""
    parser.add_argument("--json", action="store_true", help=f"print JSON, for programs{more}")


def add_output(parser: Parser, metavar: str, help: str, required: bool = True) -> None:
    """Add -o, the file or the folder to write."""
    parser.add_argument("-o", "--output", type=path, metavar=metavar, required=required, help=help)


def add_weights(parser: Parser) -> None:
    """Add --weights and --tuned."""
    parser.add_argument(
        "--weights",
        type=weights,
        metavar="W",
        help="a checkpoint folder, or hf-hub:OWNER/NAME (default: the embedded tiny checkpoint, trained "
        "on coloured shapes only)",
    )
    add_tuned(parser)


def add_tuned(parser: Parser) -> None:
    """Add --tuned."""
    parser.add_argument(
        "--tuned",
        type=path,
        metavar="PATH",
        help="a tuned part to lay over the weights: a tuned.safetensors or its folder; or the word "
        "questions, for the embedded part that answers questions about coloured shapes (answer uses it by "
        "default with the embedded checkpoint)",
    )


def add_model(parser: Parser, json_help: str = "", frames_help: str = "") -> None:
    """Add --json, --weights, --tuned, --frames and --force. The texts end the help of --json and --frames."""
    add_json(parser, json_help)
    add_weights(parser)
    add_frames(parser, more=frames_help)
    parser.add_argument(
        "--force", action="store_true", help="accept words that are missing from the checkpoint's vocabulary"
    )


def add_frames(parser: Parser, default: int | None = 8, more: str = "") -> None:
    """Add --frames. `more` ends its help."""
    parser.add_argument(
        "--frames",
        type=positive,
        default=default,
        metavar="T",
        help=f"number of frames to sample (default: 8{more})",
    )


def add_adapter(parser: Parser) -> None:
    """Add --adapter, with the choices of `ADAPTERS`."""
    from ..model.config import ADAPTERS

    described = "; ".join(f"{name}: {text}" for name, text in ADAPTERS.items())
    parser.add_argument(
        "--adapter",
        choices=list(ADAPTERS),
        help="how frames are combined into a video (default: the one that the checkpoint was tuned with, "
        f"attentional if it was not). {described}".replace("%", "%%"),
    )


def add_part(parser: Parser) -> None:
    """Add --start and --end."""
    for name, place in ("start", "start at"), ("end", "stop at"):
        parser.add_argument(
            f"--{name}", type=time, metavar="TIME", help=f"{place} this time: seconds, mm:ss or hh:mm:ss"
        )
    parser.checks.append(wrong_part)


def wrong_part(args: argparse.Namespace) -> str | None:
    """Return what is wrong if --end is not after --start."""
    if args.end is None or args.end > (args.start or 0):
        return None
    start = "the start" if args.start is None else f"--start {args.start.text}"
    return f"--end {args.end.text} is not after {start}"


def add_templates(parser: Parser) -> None:
    """Add --templates-file and --ensemble."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--templates-file",
        type=path,
        metavar="F",
        help='a file with one template per line, {} standing for the label (default: "a video of {}.")',
    )
    group.add_argument(
        "--ensemble", action="store_true", help="average over several templates that come with the package"
    )


def templates(args: argparse.Namespace) -> Sequence[str] | None:
    """Return the chosen templates; None for the default."""
    from ..tasks import ENSEMBLE

    return lines(args.templates_file) if args.templates_file else ENSEMBLE if args.ensemble else None


# Decoding: one flag for each field of DecodingOptions, with its default and help

NO_FLAGS = ("start_id", "end_id", "cache")  # fields for Python callers
MORE_HELP = {  # after the default
    "candidates": ". With more than 1, the search has a single group of max(6, N) beams, so the first "
    "text may differ from the default caption; each is printed with its log-probability",
}


def add_decoding(parser: Parser, leave_out: Sequence[str] = ()) -> None:
    """Add a flag for each field of `DecodingOptions`, and --textbook."""
    from ..model.generation import DecodingOptions

    group = add_options(parser, DecodingOptions, "decoding", (*NO_FLAGS, *leave_out))
    group.add_argument(
        "--textbook",
        dest="convention",
        action="store_const",
        const="textbook",
        help="the same as --convention textbook",
    )


def add_options(
    parser: Parser, options: type[Options], title: str, leave_out: Sequence[str]
) -> argparse._ArgumentGroup:
    """Add a group of flags, one for each field of a class of options, with its default and help."""
    hints = get_type_hints(options)
    group = parser.add_argument_group(title, argument_default=argparse.SUPPRESS)
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        if field.name not in leave_out:
            default = f"{field.default:g}" if isinstance(field.default, float) else field.default
            shown = f" (default: {default})" if default or type(default) in (int, float) else ""
            group.add_argument(
                flag(field.name),
                help=field.metadata["help"].replace("%", "%%") + shown + MORE_HELP.get(field.name, ""),
                **_value(field, hints[field.name]),
            )
    return group


def flag(name: str) -> str:
    """Return the flag of a field: max_length -> --max-length."""
    return f"--{name.replace('_', '-')}"


def _value(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    """Return how argparse reads the value of a field, given its type hint."""
    metavar = field.metadata["metavar"]
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is tuple:  # one by one
        return {"action": "append", "metavar": metavar}
    if choices := get_args(hint) if get_origin(hint) is Literal else field.metadata.get("choices"):
        return {"choices": choices, "metavar": metavar}
    if field.name == "temperature":
        return {"type": temperature, "metavar": metavar}
    kinds = get_args(hint) or (hint,)  # int | None -> (int, NoneType)
    return {"type": whole if int in kinds else number if float in kinds else str, "metavar": metavar}


def decoding_options(args: argparse.Namespace) -> DecodingOptions:
    """Return the given options. Several candidates come from one search with at least as many beams.

    Warns of options without effect. Raises ValueError, which names the flag, for impossible values.
    """
    from ..model.generation import MAX_BEAMS, DecodingOptions

    given = given_decoding(args)
    values = dict(given)
    if (candidates := given.get("candidates", 1)) > 1:
        _refuse_sampling(given)
        values = {"beams": min(max(DecodingOptions.beams, candidates), MAX_BEAMS)} | values
    try:
        options = DecodingOptions(**values)
    except ValueError as error:
        raise ValueError(with_flags(str(error), given, DecodingOptions)) from None
    if messages := list(without_effect(given, options)):
        warnings.warn("; ".join(messages), stacklevel=2)
    return options


def given_decoding(args: argparse.Namespace) -> dict[str, Any]:
    """Return the decoding options that are given, by the names of their fields."""
    from ..model.generation import DecodingOptions

    given = given_options(args, DecodingOptions)
    return {name: value for name, value in given.items() if name not in NO_FLAGS}


def given_options(args: argparse.Namespace, options: type[Options]) -> dict[str, Any]:
    """Return the given ones of a class of options, by the names of their fields."""
    names = {field.name for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    return {name: value for name, value in vars(args).items() if name in names}


SAMPLING = ("top_k", "top_p", "temperature")


def _refuse_sampling(given: Mapping[str, Any]) -> None:
    """Raise ValueError for an option of sampling, which does not go together with several candidates."""
    for name in SAMPLING:
        if name in given:
            raise ValueError(
                f"--candidates {given['candidates']} and {flag(name)} exclude each other: candidates come "
                "from a beam search, not from sampling"
            )


def without_effect(given: Mapping[str, Any], options: DecodingOptions) -> Iterator[str]:
    """Yield a message for each kind of given option that has no effect."""
    of_search = ("beams", "beam_groups", "diversity_penalty", "length_penalty")
    if options.is_sampling:
        yield from _no_effect(given, of_search, f"with {', '.join(flag(x) for x in SAMPLING if x in given)}")
        return
    yield from _no_effect(given, ["seed"], f"without sampling ({', '.join(map(flag, SAMPLING))})")
    if options.beams == 1:
        yield from _no_effect(given, of_search[1:], "with --beams 1")
    elif options.groups == 1:
        yield from _no_effect(given, ["diversity_penalty"], "with one group of beams: give --beam-groups")


def _no_effect(given: Mapping[str, Any], names: Sequence[str], reason: str) -> Iterator[str]:
    """Yield a message if some of the names are given."""
    if flags := [flag(name) for name in names if name in given]:
        yield f"{' and '.join(flags)} {'has' if len(flags) == 1 else 'have'} no effect {reason}"


def check_decoding(args: argparse.Namespace, model: VideoCoCa, options: DecodingOptions) -> None:
    """Raise ValueError, which names the flag, for options that do not suit the model."""
    from ..model.generation import DecodingOptions, prepare

    model.require_tokenizer()
    try:
        prepare(model, options)
    except ValueError as error:
        raise ValueError(with_flags(str(error), given_decoding(args), DecodingOptions)) from None


def with_flags(message: str, given: Mapping[str, Any], options: type[Options]) -> str:
    """Return a message about fields of `options` with their flags, and numbers as they were typed.

    "top_p is 2.0: ..." becomes "--top-p is 2: ...".
    """
    for name, value in given.items():
        if isinstance(value, TypedFloat):
            message = message.replace(f"{name} is {value!r}:", f"{name} is {value.text}:")
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        place = r"\b" if "_" in field.name else "^"  # "beams" inside a sentence is a word
        message = re.sub(rf"\b{field.name}=", f"{flag(field.name)} ", message)
        message = re.sub(rf"{place}{field.name}\b", flag(field.name), message)
    return message


# Types of values. argparse puts the name of the argument before the message of an error.


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


class TypedFloat(float):
    """A number with the `text` that it was read from, for messages."""

    text: str

    def __new__(cls, value: float, text: str) -> TypedFloat:
        """Return `value`, with `text`."""
        number = super().__new__(cls, value)
        number.text = text
        return number


def number(text: str) -> TypedFloat:
    """Read a finite number."""
    try:
        if math.isfinite(value := float(text)):
            return TypedFloat(value, text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a finite number")


def temperature(text: str) -> TypedFloat:
    """Read a temperature, which is not 0."""
    value = number(text)
    if not value:
        raise argparse.ArgumentTypeError(
            f"{text} leaves nothing to chance: give --beams 1 for greedy decoding, or a number above 0"
        )
    return value


def time(text: str) -> TypedFloat:
    """Read a time: seconds, mm:ss or hh:mm:ss."""
    from ..media.sampling import seconds

    try:
        return TypedFloat(seconds(text), text)
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
    """Read the path of a checkpoint folder, or hf-hub:OWNER/NAME. OWNER/NAME alone is refused."""
    name = re.sub(r"^https?://(www\.)?huggingface\.co/|/$", "", text)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and name[0] != "." and not os.path.exists(text):
        raise argparse.ArgumentTypeError(
            f"there is no folder {text}; for a repository on the Hugging Face hub give hf-hub:{name}"
        )
    return path(text)


def text(value: str) -> str:
    """Read text that is not blank."""
    if not value.strip():
        raise argparse.ArgumentTypeError("is empty: give some text")
    return value


def items(name: str, value: str) -> list[str]:
    """Split at the commas outside double quotes, as in CSV. Raises ValueError if there is no text."""
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
    """Return the lines of a text file that are not blank. Raises ValueError if there are none."""
    hint = "give a file with one entry per line"
    if not (found := [line.strip() for line in read_text(path, hint).split("\n") if line.strip()]):
        raise ValueError(f"{path} is empty: {hint}")
    return found
