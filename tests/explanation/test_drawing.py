"""The pictures of an explanation."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import minivideococa as mvc
from minivideococa.demo import CLIPS
from minivideococa.explanation import drawing


@pytest.fixture(scope="module")
def explanation():
    return mvc.explain(mvc.load(), mvc.read_video(CLIPS / "pair.gif", 3))


def test_a_figure_has_a_row_for_each_word(explanation):
    image, side = explanation.figure(), drawing.frame_side(explanation)
    words = [word for word in explanation.words if word]
    shorter = replace(explanation, words=explanation.words[:1] + ("",) * (len(explanation.words) - 1))
    difference = image.height - shorter.figure().height
    assert difference == (len(words) - 1) * drawing.row_height(explanation)
    assert image.mode == "RGB" and image.width == drawing.LABEL + 3 * (side + drawing.GAP)


@pytest.mark.slow
def test_an_animation_has_some_pictures_for_each_word(explanation, tmp_path):
    pictures = explanation.animation()
    words = [word for word in explanation.words if word]
    assert len(pictures) == len(words) * drawing.STEPS + 1
    assert len({picture.size for picture in pictures}) == 1
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    drawing.write_gif(tmp_path / "a.gif", pictures)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == len(pictures) and gif.size == pictures[0].size


def test_heat_is_where_the_map_is():
    frame, relevance = np.full((16, 16, 3), 100, np.uint8), np.zeros((3, 3))
    relevance[0, 2] = 1
    drawn = drawing.heat(frame, relevance, patch_size=5).astype(int)  # one column and row are not seen
    dull = drawing.heat(frame, np.zeros((3, 3)), patch_size=5).astype(int)
    changed = (drawn != dull).any(axis=-1)
    assert changed[2, 12] and not changed[8:, :7].any() and not changed[15].any() and not changed[:, 15].any()
    assert len(np.unique(dull)) == 1


def repeated(explanation, n):
    """Every frame n times."""
    return replace(
        explanation,
        frames=np.repeat(explanation.frames, n, axis=0),
        maps=np.repeat(explanation.maps, n, axis=1),
        frame_weights=np.repeat(explanation.frame_weights, n, axis=1) / n,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rows"), [(5, 1), (8, 1), (9, 2), (22, 3)])
def test_many_frames_are_drawn_smaller_and_in_rows(explanation, n, rows):
    many = repeated(explanation, n)
    side = drawing.frame_side(many)
    assert 48 <= side < drawing.frame_side(explanation) and drawing.columns(many) == -(-3 * n // rows)
    for picture in (many.figure(), many.animation()[-1]):
        assert picture.width <= drawing.WIDTH + drawing.LABEL
    with_a_mark = many.frames.copy()
    with_a_mark[-1] = 0
    changed = np.asarray(many.figure()) != np.asarray(replace(many, frames=with_a_mark).figure())
    first = np.flatnonzero(changed.any(axis=(1, 2)))[0]
    assert rows - 1 <= first // side <= rows


@pytest.mark.slow
def test_a_bar_is_as_long_as_the_frames_share(explanation):
    """On one scale in all pictures: a whole frame is a share of 1."""
    half = replace(
        explanation, frame_weights=np.tile(np.float32([0.5, 0.25, 0.25]), (len(explanation.words), 1))
    )
    side, bar = drawing.frame_side(half), np.array(drawing.BAR)
    picture = np.asarray(half.animation()[-2])[: -drawing.LINE]
    rows = (picture == bar).all(axis=-1)
    longest = rows[:, drawing.GAP : drawing.GAP + side].sum(axis=1).max()
    assert longest == side // 2


@pytest.mark.slow
def test_a_picture_has_a_legend_and_numbers(explanation):
    """The last line shows the colours; the numbers differ from frame to frame."""
    for picture in (explanation.figure(), explanation.animation()[0]):
        last = np.asarray(picture)[-drawing.LINE :].astype(int)
        warm = (last[..., 0] - last[..., 2]).max(axis=0)
        assert (warm > 100).sum() > 30
    names = [drawing.frame_name(replace(explanation, times=(0.5, 1.25, 9.0)), t, 128) for t in range(3)]
    assert names == ["1, 0.50 s", "2, 1.25 s", "3, 9.00 s"]
    assert drawing.frame_name(explanation, 2, 128) == "3"
    assert drawing.frame_name(replace(explanation, times=(0.5, 1.25, 9.0)), 2, 10) == "3"


def test_a_flat_map_is_drawn_in_the_middle_of_the_scale(explanation):
    flat, spot = np.full((3, 8, 8), 0.6), np.full((3, 8, 8), 0.4)
    flat[0, 0, 0] = spot[0, 0, 0] = 1
    assert drawing.is_flat(flat) and drawing.is_flat(np.zeros((3, 8, 8))) and not drawing.is_flat(spot)
    grey = replace(explanation, frames=np.full_like(explanation.frames, 100))
    drawn = drawing.heated(grey, flat)[1][32, 32]
    expected = drawing.heat(grey.frames[0], np.full((8, 8), 0.5), 8)[32, 32]
    np.testing.assert_array_equal(drawn, expected)


def test_a_question_and_times_are_drawn(explanation):
    plain = explanation.figure()
    asked = replace(explanation, question="what shape is red?").figure()
    assert asked.height == plain.height + drawing.LINE
    timed = replace(explanation, times=(0.5, 1.5, 2.5)).figure()
    assert timed.size == plain.size and timed.tobytes() != plain.tobytes()


def test_stacked_animations_last_as_long_as_the_longest():
    a, b = ([Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(n)] for n in (1, 3))
    stacked = drawing.stack_animations([a, b])
    assert [picture.size for picture in stacked] == [(4, 8)] * 3
    assert stacked[2].getpixel((0, 0)) == (0, 0, 0) and stacked[2].getpixel((0, 4)) == (2, 0, 0)
    assert drawing.stack([a[0]], ["label"]).height == 4 + drawing.LINE


def test_in_a_notebook_the_page_is_a_frame(explanation, monkeypatch):
    monkeypatch.setattr(mvc.Explanation, "page", lambda self: '<p class="x">&</p>')
    assert 'srcdoc="&lt;p class=&quot;x&quot;&gt;&amp;&lt;/p&gt;"' in explanation._repr_html_()
