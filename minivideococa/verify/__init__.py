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
from .inside import blocks_of
from .mistakes import MISTAKES
from .page import page
from .recording import Input, Output, Recording, flax_intermediates, recording, torch_hooks
from .report import Fault, Report
from .tables import lucidrains_names, open_clip_names

__all__ = [
    "MISTAKES",
    "Fault",
    "Input",
    "Output",
    "Recording",
    "Report",
    "as_json",
    "blocks_of",
    "flax_intermediates",
    "lucidrains_names",
    "open_clip_names",
    "page",
    "recording",
    "text",
    "torch_hooks",
    "verify",
    "verify_file",
    "write_trace",
]
