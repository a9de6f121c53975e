"""The demo's page in a browser, and pictures of it for people to look at in build/pages."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minivideococa.demo

PICTURES = Path(__file__).parents[2] / "build" / "pages"
SCREENS = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def html():
    return minivideococa.demo.page()


@pytest.fixture
def demo(open_page, html):
    """A function that opens the demo's page."""

    def demo(**options):
        page = open_page(html, **options)
        page.wait_for_selector("html[data-ready]")
        return page

    return demo


def test_the_claim_comes_first(demo):
    """Its two frames hold most of the weight under attentional pooling, less than half under mean pooling."""
    section = demo().locator("section.clip").first
    assert section.locator("h2").inner_text().startswith("brief.gif")
    right, missed = section.locator(".label").all_inner_texts()
    assert "right" in right and "misses the yellow crescent" in missed
    weights = np.array(
        [float(text.strip("<%")) for text in section.locator(".share").all_inner_texts() if text]
    )
    attentional, mean = weights[:8], weights[8:16]
    assert attentional[3:5].sum() > 80 and mean[3:5].sum() < 50


def test_every_clip_by_keyboard(demo):
    page = demo()
    for section in page.locator("section.clip").all():
        section.locator(".word[tabindex='0']").first.focus()
        page.keyboard.press("Home")
        strip, seen = section.locator(".strip").first.locator("canvas"), set()
        for _ in range(4):
            seen.add(str(strip.evaluate_all("(all) => all.map((canvas) => canvas.toDataURL())")))
            page.keyboard.press("ArrowRight")
        assert len(seen) == 4
        summary = section.locator("summary").first
        summary.focus()
        page.keyboard.press("Enter")
        assert section.locator(".large").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_pictures(demo, screen, scheme):
    width, height = SCREENS[screen]
    page = demo(viewport={"width": width, "height": height}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"demo-{screen}-{scheme}.png"
    page.screenshot(path=path, full_page=True)
    picture = np.asarray(Image.open(path).convert("L"))
    assert picture.std() > 20 and (np.median(picture) > 128) == (scheme == "light")
