"""The tasks, by the name that a recipe uses. A new one is a file beside these and a line here."""

import difflib

from pipelines.tasks.base import Task
from pipelines.tasks.code import BASH, PYTHON
from pipelines.tasks.dialogue import DIALOGUE
from pipelines.tasks.inflection import INFLECTION
from pipelines.tasks.pronunciation import PRONUNCIATION
from pipelines.tasks.speech import SPEECH
from pipelines.tasks.summarization import SUMMARIZATION
from pipelines.tasks.translation import TRANSLATION
from tfseq2seq.config import ConfigError

__all__ = ["TASKS", "Task", "find_task"]

TASKS = {task.name: task for task in (
    TRANSLATION, DIALOGUE, SUMMARIZATION, BASH, PYTHON, PRONUNCIATION, INFLECTION, SPEECH)}


def find_task(name: str) -> Task:
    """The task of that name. Raises ConfigError where there is none."""
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"'task' must be one of {', '.join(TASKS)}.{hint} Received: {name!r}.")
    return TASKS[name]
