"""What the tests of the synthetic world share: one BLAS thread, and clips written once."""

import pytest
from threadpoolctl import threadpool_limits

from minivideococa.world.shapes import write_shapes


@pytest.fixture(scope="package", autouse=True)
def one_blas_thread():
    """Limit BLAS to one thread.

    The matrices are small: on a busy machine two threads wait for each other most of the time. Encoding a
    clip jointly takes 0.04 s with one thread, and 0.2 to 0.5 s with two on two busy cores.
    """
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="package")
def written(tmp_path_factory):
    """The folder of 12 clips, two of each set, from seed 7."""
    folder = tmp_path_factory.mktemp("written") / "made" / "shapes"
    assert write_shapes(folder, 12, 7) == folder / "manifest.jsonl"
    return folder
