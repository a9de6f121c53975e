"""Exercises: nine functions of the model for a learner to write, checked in the running model.

    minivideococa check --new exercises.py
    minivideococa check exercises.py

See README.md in this folder. From Python, in a notebook: `print(text(check({"patchify": patchify})))`.
"""

from .catalogue import EXERCISES, TEMPLATE, check, check_file, write_template
from .result import Result, as_json, text

__all__ = ["EXERCISES", "TEMPLATE", "Result", "as_json", "check", "check_file", "text", "write_template"]
