"""What the commands and the demo show: progress bars with the time left, and commands to go on with."""

import contextlib
import shlex
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

show = Console(stderr=True)

Report = Callable[[str, float, float | None], None]  # stage, done, total; total None: not known


def command(*arguments: object) -> str:
    """A command of tfseq2seq as one types it, quoted for the shell, for `Console.print`."""
    return escape(shlex.join(["tfseq2seq", *map(str, arguments)]))


@contextlib.contextmanager
def progress_bar(console: Console = show) -> Iterator[Report]:
    """A bar that is told (stage, done, total); a new stage ends the one before."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as bar:

        def report(stage: str, done: float, total: float | None) -> None:
            if stage not in tasks:
                for earlier in tasks.values():
                    bar.update(earlier, visible=False)
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report
