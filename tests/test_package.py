"""Rules of the package: who may import whom, what an import costs, how long the code is, docstrings."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

import minivideococa as mvc
from minivideococa.checkpoint.folder import embedded_checkpoint

PACKAGE = Path(mvc.__file__).parent
TESTS = Path(__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ROW = ["ops", "transformer", "vision", "pooling", "text", "decoder", "generation", "model", "tasks"]
TO_LOGITS = ROW[:6]  # everything between pixels and logits
LAZY = {"model": {"preprocess", "video", "tokenizer"}}  # imported where they are used


def run(code):
    """What `code` prints, in a new interpreter that finds this package."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def imports(path):
    """(what, where) of every import: ".ops", "numpy", ...; at the "top", in a "function", or for "types"."""

    def visit(node, where):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            where = "types"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and where == "top":
            where = "function"
        elif isinstance(node, ast.Import):
            found.extend((name.name, where) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            whole = [dots + node.module] if node.module else [dots + name.name for name in node.names]
            found.extend((name, where) for name in whole)
        for child in ast.iter_child_nodes(node):
            visit(child, where)

    found = []
    visit(ast.parse(path.read_text()), "top")
    return found


def third_party(name):
    top = name.split(".")[0]
    return None if not top or top in sys.stdlib_module_names or top == "minivideococa" else top


# Imports


def test_a_plain_import_is_light():
    """Neither numpy nor any other package, and of this one nothing that is not needed yet."""
    loaded = run(
        "import sys; before = set(sys.modules); import minivideococa; print(*(set(sys.modules) - before))"
    )
    assert not {third_party(name) for name in loaded} - {None}
    own = {name for name in loaded if name.startswith("minivideococa")}
    assert own == {"minivideococa", "minivideococa.trace"}


def test_the_forward_pass_imports_numpy_alone():
    """Run, not only imported: pixels to logits and a generated text."""
    loaded = run(f"""
import sys
before = set(sys.modules)
import numpy as np
from minivideococa import {", ".join(ROW)}, trace
from minivideococa.checkpoint.config import Config
from minivideococa.checkpoint.table import nest, parameter_shapes
width = {{"width": 8, "layers": 1, "heads": 1, "vocab_size": 9}}
config = Config.parse({{
    "embed_dim": 8, "text_cfg": {{"embed_cls": True, **width}}, "multimodal_cfg": width,
    "vision_cfg": {{"image_size": 4, "patch_size": 2, "width": 8, "head_width": 8, "layers": 1,
                    "attentional_pool": True}}}})
net = model.VideoCoCa(config, nest({{k: np.full(s, 0.1) for k, s in parameter_shapes(config).items()}}))
video = net.encode_video(np.ones((2, 3, 4, 4)))
net.generate(video.tokens)
print(*(set(sys.modules) - before))
""")
    assert {third_party(name) for name in loaded} - {None} == {"numpy", "threadpoolctl"}


@pytest.mark.parametrize("module", ROW)
def test_each_stage_knows_only_the_stages_before_it(module):
    before = {
        f".{name}"
        for name in (
            *ROW[: ROW.index(module)],
            "trace",
            "progress",
            "threads",
            "resources",
            "arguments",
            "sampling",
        )
    }
    lazy = {f".{name}" for name in LAZY.get(module, ())}
    for name, where in imports(PACKAGE / f"{module}.py"):
        if where == "types":
            continue
        assert not name.startswith("minivideococa"), f"{module} imports {name}: say it relatively"
        if name.startswith("."):
            assert name in before | (lazy if where == "function" else set()), f"{module} imports {name}"
        else:
            assert third_party(name) in (None, "numpy"), f"{module} imports {name}"


def test_the_trace_knows_nobody():
    assert not [
        name
        for name, where in imports(PACKAGE / "trace.py")
        if where != "types" and (name.startswith(".") or third_party(name))
    ]


@pytest.mark.parametrize(
    "module, own, others",
    [
        ("threads", {".trace", ".progress"}, {"numpy", "threadpoolctl"}),
        ("progress", {".terminal"}, {"tqdm"}),
        ("terminal", set(), set()),
        ("resources", set(), set()),
        ("inputs", {".arguments", ".resources"}, set()),
        ("arguments", set(), {"numpy"}),
    ],
)
def test_what_all_stages_may_use_knows_none_of_them(module, own, others):
    found = [(name, where) for name, where in imports(PACKAGE / f"{module}.py") if where != "types"]
    assert {name for name, _ in found if name.startswith(".")} == own
    assert {third_party(name) for name, _ in found} - {None} == others


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_they_are_used(path):
    found = imports(path)
    assert {third_party(name) for name, where in found if where == "top"} <= {None, "numpy"}
    assert not {third_party(name) for name, _ in found} & {"torch", "torchvision", "open_clip", "scipy"}


def test_every_package_that_is_imported_is_declared():
    project = PACKAGE.parent / "pyproject.toml"
    if not project.is_file():
        pytest.skip("not a checkout")
    project = tomllib.loads(project.read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        re.split(r"[^\w-]", line)[0].replace("-", "_")
        for line in project["dependencies"] + extras["eval"] + extras["heic"]
    }
    imported = {third_party(name) for path in MODULES for name, where in imports(path) if where != "types"}
    assert {{"PIL": "pillow"}.get(name, name) for name in imported - {None}} <= declared


# Names


def test_all_names_resolve():
    assert {"Video", "VideoCoCa", "classify", "load", "read_video", "retrieve", "trace"} <= set(mvc.__all__)
    for name in mvc.__all__:
        assert callable(getattr(mvc, name)) and name in dir(mvc)
    with pytest.raises(AttributeError, match="no_such_name"):
        mvc.no_such_name


@pytest.mark.parametrize(
    "order",
    [
        "import minivideococa.trace, minivideococa as mvc",
        "from minivideococa.trace import record; import minivideococa as mvc",
        "import minivideococa as mvc; mvc.load; mvc.classify; import minivideococa.trace",
        "from minivideococa import *; import minivideococa as mvc; assert trace is mvc.trace",
    ],
)
def test_trace_is_the_function_not_its_module(order):
    assert run(f"{order}; print(type(mvc.trace).__name__)") == ["function"]


# Text


def code_lines(path):
    """The lines that hold code: no comment, no docstring, no blank line."""
    text = path.read_text()
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    idle = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in idle:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def test_lines_are_counted(tmp_path):
    path = tmp_path / "counted.py"
    path.write_text(
        '"""Not\n\ncounted."""\n\n# nor this\nimport io  # but this\n\n\n'
        'def f(\n    x,\n):\n    """No."""\n'
        '    return """one\n    two"""\n'
    )
    assert code_lines(path) == {6, 9, 10, 11, 13, 14}


def test_the_forward_pass_is_short():
    assert sum(len(code_lines(PACKAGE / f"{name}.py")) for name in TO_LOGITS) < 450


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_has_a_docstring(path):
    def undocumented(node, prefix):
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
                if not ast.get_docstring(child):
                    yield prefix + child.name
                if isinstance(child, ast.ClassDef):
                    yield from undocumented(child, f"{child.name}.")

    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or path.name == "__main__.py"
    assert not list(undocumented(tree, ""))


@pytest.mark.parametrize("path", MODULES + sorted(TESTS.rglob("*.py")), ids=lambda path: path.name)
def test_nothing_is_left_for_later(path):
    words = ["TO" + "DO", "FIX" + "ME", "Not" + "ImplementedError"]
    assert not [word for word in words if word in path.read_text()]


# Files


def test_type_hints_are_announced():
    assert (PACKAGE / "py.typed").is_file()


def test_the_embedded_checkpoint_is_found():
    files = {path.name for path in embedded_checkpoint().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
