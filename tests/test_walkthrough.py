"""walkthrough.md and README.md say what is true: their `>>>` lines run and give what the pages say."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["walkthrough.md", "README.md"])
def test_page(page):
    text = re.sub(r"^```.*$", "", (ROOT / page).read_text(), flags=re.MULTILINE)  # a fence ends an example
    test = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    assert test.examples
    messages = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=messages.append)
    assert runner.failures == 0, "".join(messages)
