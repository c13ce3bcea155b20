"""Progress bars with the time left, shared by the commands and the demo."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

show = Console(stderr=True)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, float, float | None], None]]:
    """A bar that is told (stage, done, total); a new stage starts a new line. total None: not known."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn())
    tasks: dict[str, int] = {}
    with Progress(*columns, console=show, transient=True) as bar:

        def report(stage: str, done: float, total: float | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]  # TaskID is an int

        yield report
