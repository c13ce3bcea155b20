"""Descriptions into code: lines of Bash or of Python. What a model writes is parsed, never run."""

import functools

from pipelines.tasks.base import Task
from pipelines.tasks.neighbours import nearest_neighbour

_code = functools.partial(
    Task,
    multiple_references=False,
    max_ratio=10.0,
    measure_source=len,  # characters
    measure_target=len,
    baseline=nearest_neighbour,
    baseline_name="nearest neighbour",
)

BASH = _code(name="bash", metrics=("exact_match", "bleu", "edit_similarity", "bash_syntax"))
PYTHON = _code(name="python", metrics=("exact_match", "bleu", "edit_similarity", "python_syntax"))
