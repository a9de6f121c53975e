"""walkthrough.md and README.md: their `>>>` examples run, and the README's links and numbers are right."""

import doctest
import re
from pathlib import Path

import pytest
from test_package import REFERENCE, code_lines

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["walkthrough.md", "README.md"])
def test_examples(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)  # a fence ends an example
    test = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    assert test.examples
    messages = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=messages.append)
    assert runner.failures == 0, "".join(messages)


def test_links_of_the_pages():
    pages = [path for path in ROOT.rglob("*.md") if not {".git", ".venv", "build"} & set(path.parts)]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8"))]
    local = [(page, link.partition("#")[0]) for page, link in links if "://" not in link]
    assert len(local) > 15
    missing = [
        f"{page.relative_to(ROOT)}: {link}" for page, link in local if not (page.parent / link).exists()
    ]
    assert not missing


def test_the_readme_is_short_and_counts_the_lines_of_code():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 9000
    stated = int(re.search(r"about (\d+)\s+lines\s+of\s+code", text)[1])
    counted = sum(len(code_lines(path)) for path in REFERENCE)
    assert stated == pytest.approx(counted, rel=0.02)
