"""The page of `verify --html` in a browser, of a right trace and of a wrong one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import minivideococa
from minivideococa import verify

KIT = Path(__file__).parents[1] / "conformance" / "as_released"
PICTURES = Path(__file__).parents[2] / "build" / "pages"
SCREENS = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def reports():
    """The report of the truth, and of a trace with an error at frame 1, token 4, channel 7 of a block."""
    model, truth = minivideococa.load(KIT), load_file(KIT / "truth.safetensors")
    wrong = truth["vision.block.0"].copy()
    wrong[1, 4, 7] += 3
    return {
        "right": verify.verify(model, truth),
        "wrong": verify.verify(model, truth | {"vision.block.0": wrong}),
    }


def centres(page, selector):
    """The middle of each element on the screen."""
    boxes = [element.bounding_box() for element in page.locator(selector).all()]
    return np.array([(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes])


def test_a_right_trace_is_below_the_line(open_page, reports):
    page = open_page(verify.page(reports["right"], "port"), viewport={"width": 1280, "height": 900})
    assert "tensors agree" in page.locator(".verdict").inner_text()
    assert not page.locator("figure").count() and not page.locator(".dot.wrong").count()
    assert page.locator(".dot").count() == len(reports["right"].rows)


def test_a_wrong_tensor_stands_out(open_page, reports):
    """Its dot lies above the dashed line, in the shaded column, above its name."""
    page = open_page(verify.page(reports["wrong"], "port"), viewport={"width": 1280, "height": 900})
    assert "First divergence: vision.block.0" in page.locator(".verdict").inner_text()
    rows = reports["wrong"].rows
    at = [row.name for row in rows].index("vision.block.0")
    dots, band = centres(page, ".dot"), page.locator("rect.accused").bounding_box()
    assert band["x"] < dots[at, 0] < band["x"] + band["width"]
    assert abs(page.locator("text.named").bounding_box()["x"] - dots[at, 0]) < 18
    line = page.locator(".allowed").bounding_box()["y"]
    wrong = np.array(
        [row.status == "wrong" for row in rows]
    )  # the next block too: it was not given this input
    assert wrong[at] and dots[wrong, 1].max() < line < dots[~wrong, 1].min()
    for image in page.locator("figure img").all():
        assert image.evaluate("(i) => i.complete && i.naturalWidth > 0")
    found, expected = page.locator(".found"), page.locator(".expected")
    assert found.evaluate("(x) => getComputedStyle(x).stroke") != expected.evaluate(
        "(x) => getComputedStyle(x).stroke"
    )


def test_the_chart_scrolls_by_keyboard(open_page, reports):
    page = open_page(verify.page(reports["wrong"], "port"), viewport={"width": 390, "height": 844})
    chart = page.locator(".scroll").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    for _ in range(50):
        if chart.evaluate("(element) => element.scrollLeft") > 0:
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not scroll")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_pictures(open_page, reports, screen, scheme):
    width, height = SCREENS[screen]
    html = verify.page(reports["wrong"], "port.safetensors")
    page = open_page(html, viewport={"width": width, "height": height}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"verify-{screen}-{scheme}.png"
    page.screenshot(path=path, full_page=True)
    picture = np.asarray(Image.open(path).convert("L"))
    assert picture.std() > 10 and (np.median(picture) > 128) == (scheme == "light")
