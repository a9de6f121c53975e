"""The child process of `race.Racer`: prepares a function, then times one call per line of input.

    child.py MODULE.FUNCTION ARGUMENTS

FUNCTION(*ARGUMENTS) returns the function that is called with a turn's arguments and timed. It returns None,
or further figures for the answer. ARGUMENTS, and the arguments of a turn on each line of standard input, are
JSON lists. Answers are JSON objects, one per line; the first one says that the process is ready.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


def main(function: str, arguments: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be mixed with the answers

    def answer(figures: dict) -> None:
        print(json.dumps(figures), file=answers, flush=True)

    module, _, name = function.rpartition(".")
    run = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    answer({})
    for line in sys.stdin:
        turn = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        figures = run(*turn) or {}
        answer({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu} | figures)


main(*sys.argv[1:])
