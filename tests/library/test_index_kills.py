"""A run of `index` that is killed at a random moment: a few of the moments of kill9_index.py."""

import os

import pytest
from kill9_index import kill_and_resume
from platforms import posix


@pytest.mark.slow
@posix
def test_a_killed_run_leaves_a_sound_library(tmp_path, monkeypatch):
    """MINIVIDEOCOCA_KILLS: how many moments."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # for products as small as these, others only wait
    moments = int(os.environ.get("MINIVIDEOCOCA_KILLS", "3"))
    assert len(kill_and_resume(moments, seed=1, work=tmp_path)) == moments
