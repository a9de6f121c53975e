"""Fixtures of the tests of robustness: inputs of all commands, and a command that must fail in one line."""

import commands
import pytest
from children import page

from minivideococa import cli, demo


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """The folder of what the commands read."""
    return commands.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def quick_demo(monkeypatch):
    """Take another text for the page of `demo`, which takes seconds to compute."""
    monkeypatch.setattr(demo, "page", page)


@pytest.fixture
def run(capsys):
    """Run a command and return its exit status and standard error."""

    def run(arguments):
        try:
            status = cli.main(arguments)
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def refused(run):
    """Run a command that must end with status 2 and one line, and return the line."""

    def refused(arguments):
        status, err = run(arguments)
        assert status == 2 and err.startswith("minivideococa: ") and err.count("\n") == 1, (status, err)
        assert ".partial" not in err, err
        return err

    return refused
