"""walkthrough.ipynb is walkthrough.md: its cells and its stored outputs. `.ci/run notebook` runs it."""

import pytest

pytest.importorskip("jupytext", reason="jupytext, of the extra test, is not installed")
import nbformat
import notebook


@pytest.fixture(scope="module")
def page():
    return notebook.PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(notebook.NOTEBOOK, as_version=4)


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_the_notebook_is_current(page, stored):
    assert cells(notebook.make(page)) == cells(stored), "run: python docs/notebook.py"
    nbformat.validate(stored)


def test_its_outputs_are_those_that_the_page_states(page, stored):
    """Up to white space: a notebook breaks the lines of tuples and lists differently."""
    stated, found = notebook.stated_outputs(page), notebook.outputs(stored)
    assert len(stated) > 60
    assert ["".join(text.split()) for text in found] == ["".join(text.split()) for text in stated]


def test_it_is_small_and_its_excerpts_are_text(stored):
    assert notebook.NOTEBOOK.stat().st_size < 200_000
    assert not any(
        "def attentional_pooler" in cell.source for cell in stored.cells if cell.cell_type == "code"
    )
    assert any(
        "def attentional_pooler" in cell.source for cell in stored.cells if cell.cell_type == "markdown"
    )
    assert not any(">>> " in cell.source or "<!--" in cell.source for cell in stored.cells)


def test_each_output_ends_a_cell():
    fence = ">>> a = 1\n>>> a\n1\n>>> for i in range(2):\n...     print(i)\n0\n1\n>>> b = 2\n\n"
    assert notebook.examples(fence) == [
        ("a = 1\na", "1\n"),
        ("for i in range(2):\n    print(i)", "0\n1\n"),
        ("b = 2", ""),
    ]
