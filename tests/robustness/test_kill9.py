"""A few of the moments of kill9.py for each command."""

import subprocess
import sys
from pathlib import Path

import pytest
from platforms import linux

import minivideococa

SCRIPT = Path(__file__).parent / "kill9.py"
COMMANDS = ("convert", "index", "evaluate", "finetune", "trace")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_run_leaves_nothing_or_what_is_whole(command, monkeypatch):
    """In a process of its own: that of the tests has threads, and should not be forked.

    Of `finetune` it takes ten seconds, which is six runs.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(minivideococa.__file__).parents[1]))
    arguments = [sys.executable, str(SCRIPT), command, "--moments", "3", "--seed", "1"]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.stdout.startswith(f"{command}: 3 of 3 killed runs"), result.stderr
    assert result.stderr == ""
