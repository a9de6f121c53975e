"""Fixtures of the tests of `verify`."""

import os
from importlib.metadata import version

# The JAX port compiles a small function per shape and dtype: three times as fast without optimizations
# and fusion emitters. XLA ends the process at a flag that it does not know.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

from functools import cache

import pytest
from safetensors.numpy import load_file
from verify_helpers import FORMS, KIT_FOLDERS, TRUTH, run
from verify_port import FOLDERS, Port

from minivideococa import cli


@pytest.fixture(scope="session")
def right(tiny_model):
    """form -> (model in float64, its trace), made once."""

    @cache
    def make(form):
        model = tiny_model(vision=FORMS[form])
        tape = run(model)
        for x in tape.values():
            x.setflags(write=False)  # all tests share them
        return model, tape

    return lambda form="released": (make(form)[0], dict(make(form)[1]))


@pytest.fixture(scope="session")
def kit():
    """A folder of the kit and its truth."""
    folder = next(folder for folder in KIT_FOLDERS if folder.name == "as_released")
    return folder, load_file(folder / "truth.safetensors")


@pytest.fixture
def call(capsys):
    """A command, run here: (status, standard output, standard error). Argparse ends by itself."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(x) for x in arguments])
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(call):
    """Runs a command that must fail: status 2, nothing on standard output, one line. Returns that line."""

    def run(*arguments):
        status, out, err = call(*arguments)
        assert (status, out) == (2, "") and err.startswith("minivideococa: ") and err.count("\n") == 1, err
        assert "Traceback" not in err and "{" not in err
        return err

    return run


@pytest.fixture(scope="session")
def truth():
    return load_file(TRUTH)


@pytest.fixture(scope="session")
def ports() -> dict[str, Port]:
    return {folder: Port(folder) for folder in FOLDERS}


@pytest.fixture(scope="session")
def port(ports) -> Port:
    return ports["as_released"]
