"""A headless Chromium for the tests of pages. No page may print an error or make a request.

The browser is the system's (Debian's package chromium, or the path in CHROMIUM); playwright drives it.
"""

import os
import shutil

import pytest
from playwright import sync_api

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
LOCAL = ("file:", "data:", "blob:", "about:")


@pytest.fixture(scope="session")
def browser():
    """A browser with a new, empty profile."""
    assert CHROMIUM, "no chromium: apt-get install chromium, or give its path in CHROMIUM"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """A function that opens HTML text in a window of its own; options are those of a browser context.

    `complaints` of the function lists console errors and requests; the test fails if there are any at its
    end.
    """
    complaints, contexts = [], []

    def open_page(html, **options):
        path = tmp_path / f"page{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(reduced_motion="reduce", **options)  # the final state at once
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on(
            "request", lambda sent: sent.url.startswith(LOCAL) or complaints.append(f"request: {sent.url}")
        )
        page.goto(path.as_uri())
        return page

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
