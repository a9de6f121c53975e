"""assets/draw_figures.py: the figures of the walkthrough are still made, from real runs."""

import re
from pathlib import Path

import draw_figures
import numpy as np
import pytest
from PIL import Image

from minivideococa.cli import main
from minivideococa.demo import CLIPS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    draw_figures.main(folder)
    return folder


def small(path):
    """A picture, 1/10 as wide and as high: where letters lie to the pixel does not matter."""
    picture = Image.open(path).convert("L")
    size = picture.size
    return np.asarray(picture.resize((size[0] // 10, size[1] // 10)), float), size


@pytest.mark.slow
@pytest.mark.parametrize("name", draw_figures.FIGURES)
def test_figures_are_current(drawn, name):
    (new, new_size), (old, old_size) = (
        small(drawn / f"{name}.png"),
        small(draw_figures.FOLDER / f"{name}.png"),
    )
    assert new_size == old_size and abs(new - old).mean() < 4, "run: python assets/draw_figures.py"


@pytest.mark.parametrize("name", draw_figures.FIGURES)
def test_figures_have_a_white_ground_and_are_small(name):
    path = draw_figures.FOLDER / f"{name}.png"
    picture = np.asarray(Image.open(path).convert("RGBA"))
    edges = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (edges == 255).all() and path.stat().st_size < 150_000


def test_the_walkthrough_shows_every_figure():
    text = (ROOT / "walkthrough.md").read_text(encoding="utf-8")
    shown = re.findall(r"^!\[(.+)\]\(assets/figures/(\w+)\.png\)$", text, flags=re.MULTILINE)
    assert {name for _, name in shown} == set(draw_figures.FIGURES)
    assert all(len(description) > 30 for description, _ in shown)
    assert {path.stem for path in draw_figures.FOLDER.iterdir()} == set(draw_figures.FIGURES)


def test_the_claim_is_in_the_figure():
    """Attentional pooling takes more from the two frames with the crescent; mean pooling an eighth."""
    share = draw_figures.pooled("brief")[1][:, 1:].mean(axis=(0, 1)).sum(axis=-1)
    mean = draw_figures.pooled("brief", "mean")[1][:, 1:].mean(axis=(0, 1)).sum(axis=-1)
    assert (share[3:5] > 1.5 * np.delete(share, [3, 4]).max()).all()
    np.testing.assert_allclose(mean, 1 / 8, rtol=1e-5)


@pytest.mark.slow
def test_the_picture_of_the_readme_is_what_explain_writes(tmp_path):
    """The command stands in the README. Letters may lie elsewhere by a pixel."""
    path = tmp_path / "demo.gif"
    clip = str(CLIPS / "brief.gif")
    assert main(["explain", clip, "--compare", "adapter=mean", "-o", str(path), "--quiet"]) == 0
    new, old = Image.open(path), Image.open(ROOT / "assets" / "demo.gif")
    assert (new.n_frames, new.size) == (old.n_frames, old.size)
    for i in range(0, old.n_frames, 3):
        pair = []
        for picture in (new, old):
            picture.seek(i)
            pair.append(np.asarray(picture.convert("L").resize((108, 42)), float))
        assert abs(pair[0] - pair[1]).mean() < 4, "run the command in the README"
