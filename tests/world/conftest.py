"""What the tests of the synthetic world share: clips written once."""

import pytest

from minivideococa.world.shapes import write_shapes


@pytest.fixture(scope="package")
def written(tmp_path_factory):
    """The folder of 12 clips, two of each set, from seed 7."""
    folder = tmp_path_factory.mktemp("written") / "made" / "shapes"
    assert write_shapes(folder, 12, 7) == folder / "manifest.jsonl"
    return folder
