"""Make walkthrough.ipynb from walkthrough.md, and run it.

python docs/notebook.py                  # writes it with its outputs; needs the extra `docs`
python docs/notebook.py --check          # runs it, and fails if an output is not the stored one

jupytext turns the Markdown into cells. Before that, `>>>` examples become plain code, and each example
with an output ends a cell, since a notebook shows the last value of a cell alone. Excerpts of the source
are text.
"""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
PAGE, NOTEBOOK = ROOT / "walkthrough.md", ROOT / "walkthrough.ipynb"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def make(page: str) -> Any:
    """Return a page as a notebook without outputs."""
    page = re.sub(r"^<!-- .* -->\n+", "", page, flags=re.MULTILINE)  # the markers of docs/include.py
    page = re.sub(r"\[([^]]+)\]\(#[^)]+\)", r"\1", page)  # a notebook has no such anchors
    page = page.replace(" The page is a notebook too: [walkthrough.ipynb](walkthrough.ipynb).", "")
    notebook = jupytext.reads(FENCE.sub(fences, page), "md")
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", {}
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def fences(match: re.Match[str]) -> str:
    """Return the fences of the cells that a fence becomes; an excerpt becomes one that is not run."""
    if not match[1].startswith(">>> "):
        return f"```python .noeval\n{match[1]}```"
    return "\n\n".join(f"```python\n{code}\n```" for code, _ in examples(match[1]))


def examples(fence: str) -> list[tuple[str, str]]:
    """Return the code of each cell of a fence, and the output that the page states for it."""
    cells, code = [], ""
    for example in doctest.DocTestParser().get_examples(fence):
        code += example.source
        if example.want:
            cells.append((code.rstrip(), example.want))
            code = ""
    return cells + ([(code.rstrip(), "")] if code else [])


def stated_outputs(page: str) -> list[str]:
    """Return what the page states as the output of each cell of code."""
    fences = [match[1] for match in FENCE.finditer(page) if match[1].startswith(">>> ")]
    return [want for fence in fences for _, want in examples(fence)]


def outputs(notebook: Any) -> list[str]:
    """Return the text that each cell of code has put out."""
    return [
        "".join(output.get("text") or output["data"]["text/plain"] for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def run(notebook: Any) -> Any:
    """Run a notebook in the checkout, and return it with its outputs."""
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    notebook.metadata.pop("language_info", None)  # the version of Python
    for cell in notebook.cells:
        cell.metadata = {}  # times
    return notebook


def main(check: bool) -> None:
    notebook = run(make(PAGE.read_text(encoding="utf-8")))
    if not check:
        nbformat.write(notebook, NOTEBOOK)
        return
    stored = nbformat.read(NOTEBOOK, as_version=4)
    for i, (new, old) in enumerate(zip(outputs(notebook), outputs(stored), strict=True)):
        if new != old:
            sys.exit(
                f"walkthrough.ipynb: cell {i} of code puts out {new!r}, not {old!r}: run docs/notebook.py"
            )


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
