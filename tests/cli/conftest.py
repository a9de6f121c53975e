"""One BLAS thread: for small products the others only wait, and the processes that tests start take turns."""

import os
from unittest import mock

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    with threadpool_limits(1), mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1"):
        yield
