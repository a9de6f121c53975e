"""PARAMETERS.md: every tensor of the released weights, and the lines that use it, as they are now."""

import re

import costs
import parameter_page
import pytest

from minivideococa.checkpoint.table import parameter_shapes


def test_the_page_is_current():
    assert parameter_page.PAGE.read_text(encoding="utf-8") == parameter_page.page(), (
        "run: python docs/parameter_page.py"
    )


@pytest.mark.parametrize("name", ["B/32", "L/14"])
def test_every_tensor_of_the_released_weights_is_on_it(name):
    text = parameter_page.PAGE.read_text(encoding="utf-8")
    column = {"B/32": 1, "L/14": 2}[name]
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+ \| [^|]+ \| [^|]+) \|", text, flags=re.MULTILINE))
    for tensor, shape in parameter_shapes(costs.models()[name]).items():
        stated = rows[re.sub(r"\.\d+\.", ".i.", tensor)].split(" | ")[column]
        assert stated.rpartition("x ")[2].strip() == str(list(shape)), tensor


@pytest.mark.slow
def test_the_lines_take_the_tensors():
    """A line names the end of the tensor's name, or the branch that it unpacks; or it projects q, k or v."""
    for tensor, uses in parameter_page.uses_of_a_run().items():
        parts = tensor.split(".")
        for line, _ in uses:
            assert line.file not in parameter_page.MACHINERY
            named = any(f'"{part}"' in line.code() for part in parts[-2:])
            assert named or "in_projection(" in line.code() or "**ln_post" in line.code(), (tensor, line)
