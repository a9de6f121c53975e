"""The process behind a `race.Racer`: prepares what is to be timed, then runs it once for every line it reads.

    child.py MODULE.FUNCTION ARGUMENTS

FUNCTION(*ARGUMENTS) prepares, and returns a function that is called with a turn's arguments and timed. It
returns None, or further figures for the answer. ARGUMENTS, and the arguments of a turn on every line of
standard input, are JSON lists. Answers are JSON objects, a line each; the first says that all is ready.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time


def main(function: str, arguments: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints shall not pass for an answer

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
