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
    assert difference == (len(words) - 1) * drawing.row_height(side)
    assert image.mode == "RGB" and image.width == drawing.LABEL + 3 * (side + drawing.GAP)


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


def test_many_frames_are_drawn_smaller(explanation):
    many = replace(
        explanation,
        frames=np.repeat(explanation.frames, 5, axis=0),
        maps=np.repeat(explanation.maps, 5, axis=1),
        frame_weights=np.repeat(explanation.frame_weights, 5, axis=1) / 5,
    )
    assert drawing.frame_side(many) < drawing.frame_side(explanation)
    assert many.figure().width <= drawing.WIDTH + drawing.LABEL


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
