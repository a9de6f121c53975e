"""The log of a run: JSON lines, one for each step and each validation; and its plot.

    {"step": 1, "epoch": 1, "phase": "lit", "loss": 5.31, "caption": 1.9, "contrastive": 1.51,
     "learning_rate": 1e-06, "gradient_norm": 3.2, "clips_per_second": 40.1, "seconds": 0.8}
    {"step": 10, "epoch": 2, "phase": "lit", "validation": {"loss": 5.1, ...}}

`loss` is the weighted sum that is minimized, the others are its parts. `seconds` is the time of the step,
without validation and saving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..inputs import parse_json
from ..output import atomic_write, json_text

LOSSES = ("loss", "caption", "contrastive", "answer")  # the sum, and its parts


class Log:
    """A log that is open for appending. A line that was written survives a kill of the process."""

    def __init__(self, path: Path, step: int) -> None:
        """Open a log to go on after `step`. Lines of later steps, of a run that was killed, are removed."""
        self.lines = [line for line in read_log(path) if line["step"] <= step]
        with atomic_write(path) as partial:
            partial.write_text("".join(json_text(line) + "\n" for line in self.lines), encoding="utf-8")
        self.path, self.file = path, path.open("ab", buffering=0)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line. Raises OSError, which names the file, if that fails."""
        self.lines.append(dict(line))
        data = (json_text(line) + "\n").encode()
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError as error:
            raise OSError(
                f"{self.path}: cannot be written: {error.strerror}; make room, and repeat the command to go "
                "on"
            ) from None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, without one that was cut short; [] if there is no such file.

    Raises ValueError for a file that is not a log: JSON lines, each with its step.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a whole line ends with a line break
    hint = "remove it, and its run goes on without"
    parsed = [parse_json(line, str(path), hint) for line in lines]
    if not all(isinstance(line, dict) and isinstance(line.get("step"), int) for line in parsed):
        raise ValueError(f"{path}: is not the log of a run; {hint}")
    return parsed


def require_matplotlib() -> None:
    """Raise ValueError if the package that plots is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            'a plot needs matplotlib, which is not installed: pip install "minivideococa[docs]", or plot the '
            "log with another program"
        ) from None


def plot_losses(path: Path, lines: Sequence[Mapping[str, Any]], best_step: int | None = None) -> None:
    """Draw the losses of training and validation over the steps, as PNG, PDF or SVG by the suffix.

    Raises ValueError without matplotlib and for an unknown suffix, OSError if the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # no pyplot: no window, and no state in the process

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes, found = figure.add_subplot(), curves(lines)
    for name, points in found.items():
        style: dict[str, Any] = {"linewidth": 1, "alpha": 0.6}
        if name.startswith("validation "):
            style = {"linewidth": 2, "marker": "o", "markersize": 4}
        colour = f"C{LOSSES.index(name.removeprefix('validation '))}"
        axes.plot(*zip(*points, strict=True), label=name, color=colour, **style)
    if best_step is not None:
        axes.axvline(best_step, color="grey", linestyle=":", label=f"best validation: step {best_step}")
    axes.set(xlabel="step", ylabel="loss")
    axes.locator_params(axis="x", integer=True)
    figure.legend(loc="outside right upper")
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix(".") or "png", dpi=150)


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points (step, loss) of each loss in a log, by the name of the curve."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        losses, prefix = line.get("validation", line), "validation " * ("validation" in line)
        parts = [name for name in LOSSES if name in losses]
        for name in parts if len(parts) > 2 else parts[-1:]:  # a loss alone is the sum
            found.setdefault(f"{prefix}{name}", []).append((line["step"], losses[name]))
    return found
