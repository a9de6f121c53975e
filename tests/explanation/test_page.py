"""The page as a file: what is stored, how exactly, and how large it is. tests/pages opens it in a browser."""

import json
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from examples import random_explanation
from PIL import Image

from minivideococa.explanation.page import FEWER_QUERIES, POOLER_BYTES, Section, pack, page, page_of_sections


def data_of(html):
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


def unpacked(packed):
    values = np.frombuffer(b64decode(packed["bytes"]), np.uint8).reshape(len(packed["scales"]), -1)
    return (values / 255 * np.array(packed["scales"])[:, None]).reshape(packed["shape"])


def test_packed_values_are_within_half_a_step_of_their_maps_largest():
    values = np.random.default_rng(0).random((2, 3, 4, 5)) ** 6 * np.array([1, 1e-6])[:, None, None, None]
    largest = values.max(axis=(2, 3), keepdims=True)
    assert (np.abs(unpacked(pack(values, 2)) - values) <= largest * (1 / 510 + 1e-3)).all()
    assert not unpacked(pack(np.zeros((2, 3)), 1)).any()


def test_the_fields_stand_in_the_page():
    explanation = random_explanation()
    (section,) = data_of(page([explanation], "clip.gif"))["sections"]
    (panel,) = section["panels"]
    assert panel["words"] == list(explanation.words) and panel["text"] == "a red ring"
    assert panel["likeliest"][1][0] == ["red", 0.7]
    np.testing.assert_allclose(panel["frameWeights"], explanation.frame_weights, atol=5e-5)
    for name in ("maps", "pooler", "latent", "cross"):
        values = getattr(explanation, name)
        np.testing.assert_allclose(unpacked(panel[name]), values, atol=values.max() / 500)
    assert panel["shapes"][0] == ["frames", [3, 8, 8, 3]] and panel["label"] == ""


@pytest.mark.parametrize(("side", "kind", "error"), [(64, "png", 0), (224, "jpeg", 12)])
def test_small_frames_are_stored_exactly_and_equal_ones_once(side, kind, error):
    smooth = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8)[None, :, None], (side, side, 3))
    frames = np.stack([smooth, smooth[:, ::-1], smooth])
    data = data_of(page([random_explanation(frames=frames)], ""))
    assert len(data["images"]) == 2 and data["sections"][0]["panels"][0]["frames"] == [0, 1, 0]
    for uri, frame in zip(data["images"], frames):
        assert uri.startswith(f"data:image/{kind};base64,")
        stored = np.asarray(Image.open(BytesIO(b64decode(uri.split(",")[1]))))
        assert np.abs(stored.astype(int) - frame).max() <= error


def test_a_large_pooler_is_averaged_over_heads_and_then_the_queries_of_most_weight_are_kept():
    size = {"T": 8, "grid": 10, "queries": 40, "pooler_heads": 12}  # 387,840 numbers; a head has 32,320
    explanation = random_explanation(**size)
    (panel,) = data_of(page([explanation], ""))["sections"][0]["panels"]
    assert panel["averaged"] and panel["queries"] == list(range(40)) and len(panel["latent"]["scales"]) == 1
    np.testing.assert_allclose(unpacked(panel["pooler"])[0], explanation.pooler.mean(axis=0), atol=1e-3)

    explanation = random_explanation(T=8, grid=16, queries=255, pooler_heads=2, heads=1)
    explanation.cross[..., 100:116] += 1
    (panel,) = data_of(page([explanation], ""))["sections"][0]["panels"]
    assert panel["queries"] == list(range(100, 116)) and panel["allQueries"] == 255
    assert unpacked(panel["pooler"]).shape == (1, FEWER_QUERIES, 8, 257)
    kept = explanation.pooler.mean(axis=0)[100:116]
    np.testing.assert_allclose(unpacked(panel["pooler"])[0], kept, atol=kept.max() / 500)
    np.testing.assert_allclose(unpacked(panel["cross"]), explanation.cross[..., 100:116], atol=0.01)


def test_a_page_of_the_released_shape_is_small():
    """8 frames of 224 pixels of noise, which JPEG compresses least, and a caption of 30 words."""
    words = ("word",) * 29 + ("",)
    explanation = random_explanation(0, words, 8, 224, 16, layers=12, heads=12, pooler_heads=8, queries=255)
    picture = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 3), np.uint8)
    explanation.frames = picture.repeat(8, axis=1).repeat(8, axis=2)
    html = page([explanation], "video.mp4")
    assert len(html.encode()) < 1_500_000


def test_many_explanations_share_the_room():
    sections = [
        Section([random_explanation(i, T=8, grid=8, queries=31, pooler_heads=8)] * 2) for i in range(5)
    ]
    panels = [
        panel
        for section in data_of(page_of_sections(sections, ""))["sections"]
        for panel in section["panels"]
    ]
    assert sum(len(b64decode(panel["pooler"]["bytes"])) for panel in panels) <= POOLER_BYTES


def test_labels_say_what_differs():
    def labels(*explanations, **options):
        return [
            panel["label"] for panel in data_of(page(explanations, "", **options))["sections"][0]["panels"]
        ]

    mean, asked = random_explanation(adapter="mean"), random_explanation(question="what is red?")
    assert labels(random_explanation(), mean) == ["attentional", "mean"]
    assert labels(random_explanation(), asked) == ["", ""]  # a question is shown anyway
    assert labels(mean, mean, labels=["a.gif", "b.gif"]) == ["a.gif", "b.gif"]
    for wrong in (["one"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="for 2 explanations: give one for each"):
            page([mean, mean], "", labels=wrong)
    with pytest.raises(ValueError, match="for 0 explanations"):
        page([], "")


def test_text_is_never_read_as_html():
    evil = "</script><script>alert(1)</script><b>"
    html = page([random_explanation(words=(evil, ""), text=evil, question=evil)], evil, labels=[evil])
    assert "<script>alert" not in html and "<b>" not in html
    assert data_of(html)["title"] == evil and data_of(html)["sections"][0]["panels"][0]["words"][0] == evil


def test_the_page_names_no_address():
    """Nothing to load: no link, no import, no address but those of data."""
    html = page([random_explanation()], "")
    assert not re.findall(r"https?:|//[a-z]|\bimport\b|@import|url\(|<link|src=", html.replace("  // ", ""))
    assert "default-src 'none'" in html
