"""Verify another implementation: which of its tensors are wrong, and which known mistakes explain them.

    from minivideococa.verify import text, verify
    print(text(verify(model, {"pixels": ..., "vision.embed": ..., "vision.block.0": ...})))

`minivideococa verify FILE` does the same for a safetensors file, written by any program. See README.md in
this folder. The reference is the package's own forward pass, run with some of its operations replaced; the
model imports nothing from here.
"""

from .compare import verify
from .files import verify_file, write_trace
from .formatting import as_json, text
from .mistakes import MISTAKES
from .page import page
from .report import Fault, Report

__all__ = ["MISTAKES", "Fault", "Report", "as_json", "page", "text", "verify", "verify_file", "write_trace"]
