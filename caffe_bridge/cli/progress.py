"""A progress bar for verbs that train several nets one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


@contextmanager
def training_bar(
    console: Console,
) -> Iterator[tuple[Progress, Callable[[str, int, int, float], None]]]:
    """A bar, and a function that shows title, finished and all iterations, and loss in it.

    Nothing is drawn where the console is no terminal; a finished training leaves the bar.
    """
    with Progress(
        TextColumn("    {task.description}"), BarColumn(),
        TextColumn("{task.completed}/{task.total} loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def progress(title: str, done: int, total: int, loss: float) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=total, loss=loss)
            bar.update(tasks[title], completed=done, loss=loss, visible=done < total)

        yield bar, progress
