"""Marks of tests that need what only some systems have. Everything else has to pass everywhere."""

import os
import sys

import pytest

posix = pytest.mark.skipif(
    os.name != "posix",
    reason="needs POSIX: named pipes, symbolic links, permissions, signals or shell scripts",
)
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux: /dev/full, file names that are no UTF-8, limits of memory"
)
