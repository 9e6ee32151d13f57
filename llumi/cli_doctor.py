"""`llumi doctor`: one verdict a line, and a table of the pairs of nodes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from llumi.config import load_config
from llumi.doctor.check import Check
from llumi.job import ConfigOption, JsonOption, SetOption
from llumi.terminal import console, escape, progress_shown, show_figures, show_wide


def doctor(
    timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="What a node has for an answer, and a pair of nodes for each step.")
    ] = 20,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check nodes, GPUs, all-reduce between nodes, store, versions, clocks, disks and switches: one verdict each.

    Exit code 1 where one fails. A node that is dead or hangs costs its time-out and is named.
    Example: llumi doctor --set ray.address=auto --timeout 10
    """
    from llumi.doctor.run import Patience, diagnose
    from llumi.ray_session import ray_session

    tree = load_config(config, overrides or ())
    with progress_shown(quiet=as_json) as progress:
        progress("starting Ray", 0)
        with ray_session(tree.ray):
            checks = diagnose(tree, Patience(timeout), progress)
    show_checks(checks, as_json)
    raise typer.Exit(0 if all(check.passed for check in checks) else 1)


def show_checks(checks: Sequence[Check], as_json: bool = False) -> None:
    """Print the checks as one table, and that of the pairs of nodes; or all as JSON, with the rows behind each verdict."""
    if as_json:
        show_figures("doctor", {"checks": [asdict(check) for check in checks]}, as_json=True)
        return
    table = Table("", "check", "found", box=None, padding=(0, 2, 0, 0))
    for check in checks:
        table.add_row("[green]pass[/]" if check.passed else "[red]FAIL[/]", check.name, escape(check.detail))
    console.print(table)
    pairs = next((check.rows for check in checks if check.name == "all-reduce"), ())
    if len(pairs) > 1:
        show_wide(_table_of_pairs(pairs))


def _table_of_pairs(rows: Sequence[Any]) -> Table:
    table = Table("pair", "over", box=None, padding=(0, 2, 0, 0))
    for column in ("MB/s", "latency, µs"):
        table.add_column(column, justify="right")
    for row in rows:
        figures = [row["megabytes_per_second"], row["latency_microseconds"]]
        shown = ["[red]none[/]" if figure is None else f"{figure:,.0f}" for figure in figures]
        table.add_row(f"{escape(row['first'])} - {escape(row['second'])}", row["backend"], *shown)
    return table
