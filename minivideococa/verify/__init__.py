"""Tells an implementer which tensor is wrong first, and what the mistake looks like.

    from minivideococa.verify import verify, text
    print(text(verify(model, {"pixels": ..., "vision.embed": ..., "vision.block.0": ...})))

`minivideococa verify FILE` does the same for a safetensors file that any program wrote. The forward pass imports nothing
of this; it is run, here, with some of its own functions replaced.
"""

from .blame import Report, verify
from .files import verify_file, write_trace
from .mistakes import MISTAKES
from .report import as_json, text

__all__ = ["MISTAKES", "Report", "as_json", "text", "verify", "verify_file", "write_trace"]
