"""One BLAS thread for these tests."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="package", autouse=True)
def one_blas_thread():
    """The matrices of the embedded checkpoint are small: on a busy machine two threads wait for each other most of the time.

    Joint encoding of a clip takes 0.04 s with one thread, and 0.2 to 0.5 s with two on two busy cores.
    """
    with threadpool_limits(1, "blas"):
        yield
