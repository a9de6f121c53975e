"""walkthrough.md and README.md: examples run, excerpts and tables are current, links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import costs
import include
import numpy as np
import pytest
from test_package import REFERENCE, code_lines

import minivideococa as mvc
from minivideococa.model.hooks import replace_operations, trace

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", [pytest.param("walkthrough.md", marks=pytest.mark.slow), "README.md"])
def test_examples(page):
    """Under plain pytest, as a reader would run them: so a fence needs an empty line after an output."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--doctest-glob={page}", page],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0 and "1 passed" in run.stdout, run.stdout


# The parts of the walkthrough that are generated


@pytest.mark.slow
def test_excerpts_and_tables_are_current():
    text = (ROOT / "walkthrough.md").read_text(encoding="utf-8")
    assert include.include(text) == text, "run: python docs/include.py"


def test_an_excerpt_is_the_source():
    text = (ROOT / "minivideococa" / "model" / "vision.py").read_text(encoding="utf-8")
    excerpt = include.source(text, "patchify", "model/vision.py")
    assert excerpt.startswith("@replaceable\ndef patchify(") and excerpt in text
    method = include.source("class A:\n    def f(self):\n        return 1\n", "A.f", "a.py")
    assert method == "def f(self):\n    return 1"
    with pytest.raises(ValueError, match=r"model/vision.py has no patches: change the marker"):
        include.source(text, "patches", "model/vision.py")


def test_every_stage_has_its_parts():
    """Code, an example that runs and a folded question; the stages with weights also their cost."""
    text = (ROOT / "walkthrough.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    stages = [section for section in sections if re.match(r"[1-8]\. ", section)]
    assert len(stages) == 8
    for stage in stages:
        assert "<!-- code: " in stage and ">>> " in stage and "<details><summary>Question: " in stage
    for stage, name in zip(stages[2:6], costs.STAGES, strict=True):
        assert f"<!-- costs: {name} -->" in stage and "$$" in stage


# The counts of docs/costs.py


class Counter:
    """Counts the multiply-adds of `linear` and of attention's two products while a model runs."""

    def __init__(self):
        self.multiply_adds = 0

    def __enter__(self):
        self.replaced = replace_operations({"ops.linear": self.linear, "ops.attention": self.attention})
        self.replaced.__enter__()
        return self

    def __exit__(self, *error):
        self.replaced.__exit__(*error)

    def linear(self, linear):
        def counted(x, weight, bias=None):
            self.multiply_adds += x.size // x.shape[-1] * weight.size
            return linear(x, weight, bias)

        return counted

    def attention(self, attention):
        def counted(x, keys, *args, **keywords):
            rows = x.size // x.shape[-1]
            self.multiply_adds += 2 * rows * keys.shape[-2] * keys.shape[-1] * keys.shape[-3]
            return attention(x, keys, *args, **keywords)

        return counted


@pytest.fixture(scope="module")
def model():
    return mvc.load()


@pytest.fixture(scope="module")
def pixels(model):
    return model.preprocess(mvc.read_video(mvc.__path__[0] + "/data/demo/pair.gif", num_frames=8))


@pytest.mark.parametrize("adapter", ["attentional", "joint"])
def test_multiply_adds_are_those_of_a_run(model, pixels, adapter):
    E, counts = model.config.embed_dim, {}
    with Counter() as counter:
        tokens = model.encode_frames(pixels) if adapter == "attentional" else None
        video = model.pool(tokens) if adapter == "attentional" else model.encode_video(pixels, adapter)
    counts["video"] = counter.multiply_adds + E**2  # of `proj`, a plain product
    with Counter() as counter, trace():  # all positions: otherwise padding is left out
        model.encode_text(["a red ring"])
    counts["text"] = counter.multiply_adds + E**2  # of `text_projection`
    with Counter() as both:
        model.decode(video.tokens, model.tokenize(["a red ring"]))
    counts["decoder"] = both.multiply_adds - counter.multiply_adds
    stated = costs.multiply_adds(model.config, adapter)
    assert counts["video"] == stated["vision"] + stated["pooling"]
    assert (counts["text"], counts["decoder"]) == (stated["text"], stated["decoder"])


@pytest.mark.parametrize("cache", [True, False])
def test_multiply_adds_of_a_caption(model, pixels, cache):
    video = model.encode_video(pixels)
    with Counter() as counter:
        ids = model.generate(video.tokens, beams=1, cache=cache)
    missing = 0 if cache else (len(ids) - 1) * model.config.embed_dim**2  # `text_projection`
    assert counter.multiply_adds + missing == costs.generation(model.config, len(ids), cache)


def test_parameters_are_counted(model):
    stated = costs.parameters(model.config)
    assert sum(stated.values()) + 1 == sum(  # and `logit_scale`
        array.size for array in unnested(model.params)
    )
    assert sum(costs.parameters(costs.models()["L/14"]).values()) + 1 == 638_450_177


def unnested(node):
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from unnested(child)
    else:
        yield node


# What the page says about open_clip


@pytest.mark.slow
def test_dimensions_that_no_tensor_shows():
    tiny, base, large = map(costs.dimensions, costs.models().values())
    assert large["image encoder: heads"] == "16 of width 64" and base["pooler: heads"] == "8 of width 64"
    assert large["pooler: heads"] == "8 of width 96" and large["unimodal decoder: heads"] == "12 of width 64"
    assert base["ids of start, end, padding"] == "49406, 49407, 0"  # CLIP's
    assert tiny["ids of start, end, padding"] == "1, 2, 0" and tiny["epsilon of every LayerNorm"] == "1e-05"


def test_the_padding_mask_of_open_clip_2(model, pixels):
    """Only the class row has it: a text with a padding id inside notices, and no other text."""

    def in_class_row(attention_mask):
        def mask(ids, *args):
            causal = np.tri(ids.shape[1] + 1, dtype=bool)
            is_class = np.arange(len(causal))[:, None] == ids.shape[1]
            return np.where(is_class, attention_mask(ids, *args), causal)

        return mask

    def run(ids):
        return model.encode_text(ids), model.decode(video.tokens, ids)[0]

    video, ids = model.encode_video(pixels), model.tokenize(["a red ring and a green diamond"])
    for inside in (False, True):
        if inside:
            ids[0, 3] = model.config.text.pad_id
        latent, logits = run(ids)
        with replace_operations({"text.attention_mask": in_class_row}):
            old_latent, old_logits = run(ids)
        assert (latent == old_latent).all() != inside
        last = 3 if inside else 8  # the padding id; the end token
        assert (logits[: last + 1] == old_logits[: last + 1]).all()
        assert (abs(logits[4] - old_logits[4]).max() > 0.1) == inside


# Both pages


def test_links_of_the_pages():
    pages = [path for path in ROOT.rglob("*.md") if not {".git", ".venv", "build"} & set(path.parts)]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8"))]
    local = [(page, link.partition("#")[0]) for page, link in links if "://" not in link]
    assert len(local) > 15
    missing = [
        f"{page.relative_to(ROOT)}: {link}" for page, link in local if not (page.parent / link).exists()
    ]
    assert not missing


def test_anchors_of_the_walkthrough():
    text = (ROOT / "walkthrough.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    used = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert len(used) > 10 and used <= anchors, used - anchors


def test_the_readme_is_short_and_counts_the_lines_of_code():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 9000
    stated = int(re.search(r"about (\d+)\s+lines\s+of\s+code", text)[1])
    counted = sum(len(code_lines(path)) for path in REFERENCE)
    assert stated == pytest.approx(counted, rel=0.02)
