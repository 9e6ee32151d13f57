"""What a person sees in the terminal: progress, figures, and one line where something is wrong."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from llumi.errors import LlumiError

SECONDS_BETWEEN_LINES = 10
EXIT_CODE_BAD_INPUT = 2
MAX_WIDTH = 400

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a LlumiError into its one line on stderr and exit code 2; anything else is a defect and keeps its traceback."""
    try:
        yield
    except LlumiError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(EXIT_CODE_BAD_INPUT)


@contextlib.contextmanager
def progress_shown(quiet: bool = False) -> Iterator["ProgressShown"]:
    """A Progress for the length of a job: live bars in a terminal, a line now and then in a log, nothing where `quiet`."""
    shown = ProgressShown(Console(quiet=True) if quiet else console)
    with shown.bars if shown.console.is_terminal else contextlib.nullcontext():
        yield shown
        shown.finish()


class ProgressShown:
    """The Progress of the command line; a new `what` closes the step before it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._what = ""
        self._started = self._last_line = 0.0

    def __call__(self, what: str, done: float, total: float | None = None) -> None:
        """Show that `done` of `total` units of `what` are finished."""
        if what != self._what:
            self.finish()
            self._what, self._started, self._last_line = what, time.monotonic(), 0.0
            self._task = self.bars.add_task(escape(what), total=total)
        if self.console.is_terminal and self._task is not None:
            self.bars.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.print(f"  {escape(what)}: {done:g}" + (f" of {total:g}" if total is not None else ""))

    def finish(self) -> None:
        """Close the step that is shown."""
        if not self._what or self._task is None:
            return
        task = self.bars.tasks[self._task]
        end = task.total if task.total is not None else max(task.completed, 1)
        self.bars.update(self._task, completed=end, total=end)
        if not self.console.is_terminal:
            self.console.print(f"  {escape(self._what)}: done in {time.monotonic() - self._started:.0f} s")
        self._what, self._task = "", None


def show_figures(title: str, figures: Mapping[str, Any], as_json: bool = False) -> None:
    """Print figures as JSON, or as a two-column table whose nested keys are joined by dots."""
    if as_json:
        sys.stdout.write(json.dumps(figures, indent=1, default=str) + "\n")
        return
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in flatten(figures):
        table.add_row(key, escape(figure(value)))
    console.print(table)


def show_wide(table: Table) -> None:
    """Print a table as wide as it is, also where the terminal is narrower: figures that are cut off would mislead."""
    table.width = console.measure(table, options=console.options.update(width=MAX_WIDTH)).maximum
    console.print(table, soft_wrap=True)


def figure(value: Any) -> str:
    """A number for a person to read; what is none, as it is."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping with their dotted keys; lists are given by their length."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, len(value) if isinstance(value, list | tuple) else value


def escape(text: str) -> str:
    """Text that rich prints as it is."""
    return text.replace("[", r"\[")
