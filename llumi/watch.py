"""What `llumi top` shows of a running service: a table that is drawn once, or anew as long as somebody looks."""

import time
from collections import deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llumi.errors import AccessError, ServeError
from llumi.serve.sight import TIMES, Between, Reader, Reading
from llumi.terminal import figure

COLUMNS = ("role", "version", "replicas", "in flight", "requests/s", "first token", "queue", "guard", "tokens/s", "decisions")


def watch(reader: Reader, console: Console, every: float, window: float) -> None:
    """Show the service until Ctrl-C, also through times when it does not answer; raises as `Reader.read` at the start,
    and AccessError when the key ends.
    """
    readings = deque([reader.read()])
    with Live(Text(f"{reader.url}: looking ..."), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                live.update(_look(reader, readings, window), refresh=True)
        except KeyboardInterrupt:
            return


def _look(reader: Reader, readings: deque[Reading], window: float) -> Group | Text:
    try:
        readings.append(reader.read())
    except AccessError:
        raise
    except ServeError as error:
        return Text(str(error), style="bold red")
    while len(readings) > 2 and readings[-1].at - readings[1].at >= window:
        readings.popleft()
    figures = {"url": reader.url, **Between(readings[0], readings[-1]).figures()}
    return Group(roles_table(figures), *notes(figures))


def roles_table(figures: dict[str, Any]) -> Table:
    """A row for each role and version."""
    table = Table(
        *COLUMNS, title=f"{figures['url']}, {figures['seconds']:.0f} s", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for row in figures["roles"]:
        table.add_row(
            row["role"],
            row["model"],
            Text(str(row["replicas"]), style="" if row["replicas"] else "bold red"),
            str(row["in_flight"]),
            figure(row["requests_per_second"]),
            *(_times(row[f"{what}_seconds"]) for what in TIMES),
            f"{row['prompt_tokens_per_second']:.0f} in, {row['completion_tokens_per_second']:.0f} out",
            _counted(row["decisions"]),
        )
    return table


def notes(figures: dict[str, Any]) -> list[Text]:
    """What stands below the table."""
    failed: dict[str, int] = {}
    for row in figures["roles"]:
        for status, number in row["statuses"].items():
            if status == "499" or status.startswith("5"):
                failed[status] = failed.get(status, 0) + number
    lines = [Text(f"refusals: {_counted(figures['refusals'])}    failures: {_counted(failed)}")]
    if not figures["audit_writable"]:
        lines.append(Text("the audit log cannot be written: nothing is answered", style="bold red"))
    return lines


def _times(seconds: dict[str, float | None]) -> str:
    return " / ".join("-" if value is None else _duration(value) for value in seconds.values())


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{what} {number}" for what, number in sorted(counts.items())) or "none"
