"""Run commands twice at the same time, in forked processes; see test_two_runs.py.

    python tests/robustness/together.py FOLDER < jobs.json

A job is {"name", "arguments"}. Prints {name: [[status, standard error], ...]} with the two runs of each.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # threads should not be forked

import children

from minivideococa import demo


def main() -> None:
    """Run the jobs, each in two processes."""
    folder = Path(sys.argv[1])
    demo.page, results = children.page, {}
    for job in json.load(sys.stdin):
        errors = [folder / "first", folder / "second"]
        both = [children.start(job["arguments"], path) for path in errors]
        statuses = [children.wait(child) for child in both]
        messages = [path.read_text() for path in errors]
        results[job["name"]] = list(zip(statuses, messages, strict=True))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
