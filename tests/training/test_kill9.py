"""A run that is killed at a random moment resumes to the same bits: a few of the moments of kill9.py."""

import os

import pytest
from kill9 import kill_and_resume
from platforms import posix


@pytest.mark.slow
@posix
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    """MINIVIDEOCOCA_KILLS: how many moments."""
    moments = int(os.environ.get("MINIVIDEOCOCA_KILLS", "3"))
    assert len(kill_and_resume(moments, seed=1, work=tmp_path)) == moments
