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
from packaging.requirements import Requirement

import minivideococa as mvc
from minivideococa.checkpoint.folder import embedded_checkpoint

PACKAGE = Path(mvc.__file__).parent
TESTS = Path(__file__).parent
TEMPLATE = PACKAGE / "exercises" / "template.py"  # data: a learner's file, as it is before it is filled in
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {TEMPLATE})

APART = {
    "kernels",
    "hooks",
    "generation",
    "config",
    "arguments",
}  # of model/: they may be longer than the rest
MODEL = sorted((PACKAGE / "model").glob("*.py"))
REFERENCE = [path for path in MODEL if path.stem not in APART]

# The rooms of the package, from the bottom to the top: a room imports only rooms below it. The modules of the
# ground floor know nothing of the package; `data` holds no code.
GROUND = {"answers", "eviction", "resources", "inputs", "output", "progress", "style", "terminal"}
FLOORS = [
    {"model"},
    {"media"},
    {"checkpoint"},
    {"cache", "cluster", "question_head"},
    {"tasks"},
    {"library"},
    {"evaluation", "verify"},
    {"training"},
    {"explanation"},
    {"world"},
    {"demo"},
    {"exercises"},
    {"cli"},
]


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
    assert own == {"minivideococa"}


def room(path):
    """The room of a module: its folder's name, or for a module of the package's root its own."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms_imported(path):
    """(room, where) of every import of this package's own modules from another room."""
    folder = path.relative_to(PACKAGE).parent.parts
    for name, where in imports(path):
        assert not name.startswith("minivideococa"), f"{path} imports {name}: use a relative import"
        dots = len(name) - len(name.lstrip("."))
        if dots:
            target = (*folder[: len(folder) - dots + 1], *name.lstrip(".").split("."))
            if target[0] != room(path):
                yield target[0], where


@pytest.mark.slow
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    own = room(path)
    if own in ("__init__", "__main__"):
        return
    below = set()
    for floor in FLOORS:
        if own in floor:
            break
        below |= floor
    if own in GROUND | {"model"}:
        below = GROUND - {own} if own in GROUND else set()
    else:
        below |= GROUND | {"__version__"}
    assert {name for name, where in rooms_imported(path) if where != "types"} <= below


@pytest.mark.parametrize("path", MODEL, ids=lambda path: path.name)
def test_the_model_imports_numpy_alone(path):
    """No other package, not even for types; `kernels.py` also threadpoolctl; and no other room."""
    packages = {third_party(name) for name, _ in imports(path)} - {None}
    assert packages <= {"numpy"} | ({"threadpoolctl"} if path.stem == "kernels" else set())
    assert not list(rooms_imported(path))


def test_the_model_runs_on_numpy_alone():
    """Run, not only imported: pixels and ids to logits, and a generated text."""
    loaded = run("""
import sys
before = set(sys.modules)
import numpy as np
from minivideococa.model.config import Config, DecoderConfig, TextConfig, VisionConfig
from minivideococa.model.videococa import VideoCoCa
E, one = 8, {"layers": 1, "heads": 1, "mlp_width": 32, "width": 8, "quick_gelu": False}
config = Config(
    embed_dim=E, pad_id=0, tokenizer_clean="lower", source={}, preprocess=None,
    vision=VisionConfig(image_size=4, patch_size=2, ln_pre=True, attentional_pool=True, queries=4,
                        pooler_heads=1, **one),
    text=TextConfig(context_length=5, vocab_size=9, pad_id=0, correct_cls_mask=False, **one),
    decoder=DecoderConfig(context_length=5, **one))
def w(*shape): return np.full(shape, 0.1)
norm = {"weight": w(E), "bias": w(E)}
out = {"weight": w(E, E), "bias": w(E)}
attn = {"in_proj_weight": w(3 * E, E), "in_proj_bias": w(3 * E), "out_proj": out}
mlp = {"c_fc": {"weight": w(32, E), "bias": w(32)}, "c_proj": {"weight": w(E, 32), "bias": w(E)}}
block = {"ln_1": norm, "ln_2": norm, "attn": attn, "mlp": mlp, "ln_1_kv": norm}
params = {
    "logit_scale": np.array(0.1),
    "visual": {"conv1": {"weight": w(E, 3, 2, 2)}, "class_embedding": w(E), "positional_embedding": w(5, E),
               "ln_pre": norm, "transformer": {"resblocks": [block]}, "proj": w(E, E), "ln_post": norm,
               "attn_pool": {"query": w(4, E), "ln_q": norm, "ln_k": norm, "attn": attn}},
    "text": {"token_embedding": {"weight": w(9, E)}, "cls_emb": w(E), "positional_embedding": w(6, E),
             "transformer": {"resblocks": [block]}, "ln_final": norm, "text_projection": w(E, E)},
    "text_decoder": {"resblocks": [block], "cross_attn": [block], "ln_final": norm,
                     "text_projection": w(E, 9)}}
net = VideoCoCa(config, params)
video, latents, logits = net(np.ones((2, 3, 4, 4)), np.array([[1, 2, 3]]))
assert latents.shape == (1, E) and logits.shape == (1, 3, 9)
net.generate(video.tokens, min_length=2)
print(*(set(sys.modules) - before))
""")
    assert {third_party(name) for name in loaded} - {None} == {"numpy", "threadpoolctl"}
    own = {name for name in loaded if name.startswith("minivideococa.")}
    assert own <= {f"minivideococa.model.{path.stem}" for path in MODEL} | {"minivideococa.model"}


@pytest.mark.slow
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
    optional = [line for name in ("eval", "cluster", "heic", "parquet", "docs") for line in extras[name]]
    declared = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in project["dependencies"] + optional}
    imported = {third_party(name) for path in MODULES for name, where in imports(path) if where != "types"}
    assert {{"PIL": "pillow"}.get(name, name) for name in imported - {None}} <= declared


# Names


def test_all_names_resolve():
    assert {"Video", "VideoCoCa", "classify", "load", "read_video", "retrieve", "trace"} <= set(mvc.__all__)
    for name in mvc.__all__:
        assert callable(getattr(mvc, name)) and name in dir(mvc)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mvc.no_such_name


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        "import minivideococa.model.hooks, minivideococa as mvc",
        "from minivideococa.model.hooks import record; import minivideococa as mvc",
        "import minivideococa as mvc; mvc.load; mvc.classify; import minivideococa.model.hooks",
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


def test_the_reference_is_short():
    """The model without its kernels, hooks, decoding and configuration: what a learner reads."""
    assert sum(len(code_lines(path)) for path in REFERENCE) <= 390


@pytest.mark.parametrize("path", MODEL, ids=lambda path: path.name)
def test_functions_of_the_model_are_short(path):
    lines, most = code_lines(path), 20 if path in REFERENCE else 30
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert len(lines & set(range(node.lineno, node.end_lineno + 1))) <= most, node.name


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
    words = ["TO" + "DO", "FIX" + "ME", "raise Not" + "ImplementedError"]
    assert not [word for word in words if word in path.read_text()]


# Files


def test_type_hints_are_announced():
    assert (PACKAGE / "py.typed").is_file()


def test_the_embedded_checkpoint_is_found():
    files = {path.name for path in embedded_checkpoint().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files


@pytest.mark.parametrize("extra", ["", "eval", "test"])
def test_the_lock_file_has_a_version_of_every_dependency(extra):
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"][extra] if extra else project["dependencies"]
    text = (TESTS.parent / "requirements" / "test.txt").read_text()
    locked = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    for requirement in map(Requirement, declared):
        name = requirement.name.lower().replace("_", "-")
        versions = [version for other, version in locked if other == name]
        assert name == "minivideococa" or versions, f"{name}: see Dependencies in CONTRIBUTING.md"
        assert all(version in requirement.specifier for version in versions), requirement
