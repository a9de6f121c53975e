"""Evaluate a model on a data set: a manifest of videos with their ground truth, tasks and metrics.

    from minivideococa.evaluation import evaluate, read_manifest, report
    print(report(evaluate(model, read_manifest("manifest.jsonl"))))

manifest      the list of videos and their ground truth: read and write it
annotations   the annotation files that data sets publish, read as the entries of a manifest
questions     those of data sets of questions; fields: what all readers share
tasks         classify, retrieve, caption, qa: one module each
published     the published splits by name, and VideoCoCa's figures on them
setting       what the numbers of a run depend on
run           evaluate: the loop over videos and tasks
metrics       recall, average precision, caption metrics, accuracy of answers
"""

from .annotations import FORMATS, read_annotations
from .manifest import Entry, read_manifest, write_manifest
from .published import split_name
from .run import evaluate, report, write_predictions
from .tasks import TASKS

__all__ = [
    "FORMATS",
    "TASKS",
    "Entry",
    "evaluate",
    "read_annotations",
    "read_manifest",
    "report",
    "split_name",
    "write_manifest",
    "write_predictions",
]
