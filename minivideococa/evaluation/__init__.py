"""How good a model is on a data set: a manifest of videos and what is true of them, tasks, and their metrics.

    from minivideococa.evaluation import evaluate, read_manifest, report
    print(report(evaluate(model, read_manifest("manifest.jsonl"))))

manifest      the file that says what there is to evaluate
annotations   what data sets publish -> the entries of a manifest
run           evaluate: the tasks on the videos of a manifest
metrics       what predictions are worth
cache         encoded videos and written texts, kept on disk
"""

from .annotations import FORMATS, read_annotations
from .manifest import Entry, read_manifest, write_manifest
from .run import evaluate, report, write_predictions

__all__ = [
    "FORMATS",
    "Entry",
    "evaluate",
    "read_annotations",
    "read_manifest",
    "report",
    "write_manifest",
    "write_predictions",
]
