"""Bring the parts of walkthrough.md that come from the source up to date: excerpts of code, and tables.

python docs/include.py                   # rewrites walkthrough.md; tests/test_walkthrough.py checks it

An excerpt stands between two markers, and is replaced as a whole:

<!-- code: model/pooling.py flatten attentional_pooler -->  functions or Class.methods of a module
<!-- costs: pooling -->                                     a table of docs/costs.py
<!-- end -->
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import costs

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minivideococa"
MARKED = re.compile(r"<!-- (code|costs): (.+?) -->\n(.*?)<!-- end -->", re.DOTALL)


def include(page: str) -> str:
    """Return a page with the content between all markers replaced."""

    def replace(match: re.Match[str]) -> str:
        kind, what = match[1], match[2]
        content = excerpt(*what.split()) if kind == "code" else costs.table(what)
        return f"<!-- {kind}: {what} -->\n\n{content}\n\n<!-- end -->"

    return MARKED.sub(replace, page)


def excerpt(module: str, *names: str) -> str:
    """Return a link to a module of the package, and its functions as they stand there, in a fence.

    Raises ValueError for a name that the module does not have.
    """
    text = (PACKAGE / module).read_text(encoding="utf-8")
    functions = "\n\n\n".join(source(text, name, module) for name in names)
    return f"[`{module}`](minivideococa/{module})\n\n```python\n{functions}\n```"


def source(text: str, name: str, module: str) -> str:
    """Return the lines of a function, or of a method "Class.method", with its decorators."""
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        found = [child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part]
        if not found:
            raise ValueError(f"walkthrough.md: {module} has no {name}: change the marker")
        node = found[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


def main() -> None:
    page = ROOT / "walkthrough.md"
    page.write_text(include(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
