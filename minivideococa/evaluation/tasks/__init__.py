"""The tasks of `evaluate`, one module each.

To add a task, write a subclass of `Task` in a module of this folder and add it to `TASKS`.
"""

from __future__ import annotations

from .caption import Caption
from .classify import Classify
from .qa import QuestionAnswering
from .retrieve import Retrieve
from .task import Clip, Metrics, Settings, Task

TASKS: list[type[Task]] = [Classify, Retrieve, Caption, QuestionAnswering]  # in the order of the results

__all__ = ["TASKS", "Clip", "Metrics", "Settings", "Task"]
