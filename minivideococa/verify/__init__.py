"""Tells an implementer which tensors are wrong, and what the mistakes look like.

    from minivideococa.verify import verify, text
    print(text(verify(model, {"pixels": ..., "vision.embed": ..., "vision.block.0": ...})))

`minivideococa verify FILE` does the same for a safetensors file that any program wrote. The forward pass imports nothing
of this; it is run, here, with some of its own functions replaced.
"""

from .blame import verify
from .files import verify_file, write_trace
from .mistakes import MISTAKES
from .report import as_json, text
from .rows import Fault, Report

__all__ = ["MISTAKES", "Fault", "Report", "as_json", "text", "verify", "verify_file", "write_trace"]
