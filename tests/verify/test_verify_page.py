"""The report as a page: one file, everything in it, the accused tensor's errors where they are."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from verify_helpers import FOLDER, NAMES, TRUTH

from minivideococa.verify import page, verify


def wrong(right):
    """A trace with one wrong number, at frame 1, token 4, channel 7 of a block."""
    model, tape = right()
    x = tape["vision.block.0"].copy()
    x[1, 4, 7] += 3
    return verify(model, tape | {"vision.block.0": x}, tolerance=30)


def heat_maps(html):
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return [np.asarray(Image.open(BytesIO(base64.b64decode(data))))[..., 3] for data in pictures]


def test_every_tensor_is_in_the_chart_and_in_the_table(right):
    html = page(verify(*right()), "trace.safetensors")
    assert html.count("<circle") == len(NAMES) and heat_maps(html) == []
    for name in NAMES:
        assert f"<td>{name}</td>" in html and f"<title>{name}: ok</title>" in html
    assert f"All {len(NAMES)} tensors agree" in html


def test_the_maps_show_where_the_error_is(right):
    report = wrong(right)
    by_token, by_channel = heat_maps(page(report, "port"))
    assert by_token.shape == report.evidence.found.shape[:2]
    assert np.argwhere(by_token).tolist() == [[1, 4]]
    assert np.argwhere(by_channel).tolist() == [[4, 7]]
    html = page(report, "port")
    assert "First tensor below 30 dB: vision.block.0" in html and "at frame 1" in html
    assert html.count('class="accused"') == 1 and 'class="found"' in html and 'class="expected"' in html


def test_a_mistake_is_shown_with_its_diagnosis(right):
    model, tape = right()
    x = np.roll(tape["pool.latent"], 1)
    report = verify(model, tape | {"pool.latent": x}, "float64")
    assert report.evidence.name == "pool.latent" and np.array_equal(report.evidence.found, x)
    html = page(report, "port")
    assert "First divergence: pool.latent" in html and len(heat_maps(html)) == 1


def test_names_are_escaped_and_nothing_is_loaded(right):
    html = page(verify(*right()), "<script>alert(1)</script>")
    assert "<script>alert" not in html and "default-src 'none'" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html) and "http://" not in html and "https://" not in html


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(right, value):
    model, tape = right()
    x = tape["logits"].copy()
    x[2, 3] = value
    html = page(verify(model, tape | {"logits": x}, tolerance=30), "port")
    assert (
        np.argwhere(heat_maps(html)[0] == 255).tolist() == [[2, 3]] and "nan" not in html.split("<table>")[0]
    )


def test_the_command_writes_it(call, refused, tmp_path):
    path = tmp_path / "report.html"
    status, out, _ = call("verify", TRUTH, "--weights", FOLDER, "--tolerance", "400dB", "--html", path)
    assert status == 1 and "below 400 dB" in path.read_text(encoding="utf-8") and "below 400 dB" in out
    missing = tmp_path / "no" / "report.html"
    assert str(missing) in refused("verify", TRUTH, "--weights", FOLDER, "--html", missing)
    assert "overwrite" in refused("verify", TRUTH, "--weights", FOLDER, "--html", TRUTH)
