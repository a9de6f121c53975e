"""Two runs of a command at the same time that write to one place: whole results, or one clear line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import WRITING, files, writing
from platforms import linux
from safetensors.numpy import load

import minivideococa
from minivideococa import cli

pytestmark = [linux, pytest.mark.slow]


@pytest.fixture(scope="module")
def both(inputs, tmp_path_factory):
    """For each command the statuses and messages of its two runs, and the folder of the output."""
    work = tmp_path_factory.mktemp("both")
    jobs, places = [], {}
    for name in WRITING:
        places[name] = work / name.replace(" ", "-")
        places[name].mkdir()
        jobs.append({"name": name, "arguments": writing(name, inputs, places[name])[0]})
    script = Path(__file__).parent / "together.py"
    result = subprocess.run(
        [sys.executable, str(script), str(work)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(minivideococa.__file__).parents[1])},
    )
    assert result.returncode == 0, result.stderr
    runs = json.loads(result.stdout)
    return {name: (runs[name], places[name]) for name in WRITING}


@pytest.mark.parametrize("name", WRITING)
def test_two_runs_write_one_whole_result(name, both, inputs, tmp_path):
    runs, folder = both[name]
    assert 0 in [status for status, _ in runs], runs
    for status, err in runs:
        assert (status, err) == (0, "") or (status == 2 and err.count("\n") == 1), runs
        assert not err or ("another process" in err or "exists" in err), err
    assert cli.main(writing(name, inputs, tmp_path)[0]) == 0
    assert comparable(name, files(folder)) == comparable(name, files(tmp_path))


def comparable(name, found):
    """Return what every run writes alike: of finetuning the results, of a trace the tensors."""
    if name == "finetune":
        timed = {"out/log.jsonl", "out/summary.json"}
        assert timed <= found.keys()
        return {path: content for path, content in found.items() if path not in timed}
    if name == "trace":  # the metadata are in any order
        return {path: {x: y.tobytes() for x, y in load(content).items()} for path, content in found.items()}
    return found
