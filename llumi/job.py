"""The frame around every job: config, cluster, progress; the command line and `jobs/` run in the same one."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from llumi.config import Config, load_config
from llumi.errors import ConfigError
from llumi.storage import Manifest, Storage
from llumi.terminal import ProgressShown, console, escape, figure, one_line_errors, progress_shown, show_figures, show_wide

if TYPE_CHECKING:
    from llumi.pipeline import Done, Outlook
    from llumi.train.plan import Plan
    from llumi.train.sweep import SweepReport

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A deployment's YAML; default: ./ray_config.yaml where it stands.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="a.b=c", help="Override one value; may be given several times.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="STEP", help="Begin here; what it is made of is taken as it stands.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="STEP", help="End here; what it does not need is left out. Such as gm-dpo1.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")]

_SWEEP_COLUMNS = {
    "held_out_loss": "held-out loss",
    "reward_accuracy": "accuracy",
    "reward_margin": "margin",
    "training_loss": "training loss",
    "steps": "steps",
    "wall_seconds": "seconds",
}


@dataclass(frozen=True)
class Job:
    """What a job works with."""

    config: Config
    progress: ProgressShown

    def tell(self, line: str) -> None:
        """Print a line that whoever waits should know."""
        self.progress.finish()
        console.print(escape(line), soft_wrap=True)


@contextlib.contextmanager
def job(
    config_file: Path | None,
    overrides: list[str] | None,
    quiet: bool = False,
    check: Callable[[Config], object] | None = None,
) -> Iterator[Job]:
    """Read the config, open the store and connect to the cluster.

    A wrong key, or whatever `check` raises, fails before anything starts.
    """
    config = load_config(config_file, overrides or ())
    _refuse_fleeting_storage(config.storage.uri)
    Storage.open(config.storage)
    if check:
        check(config)
    from llumi.ray_session import ray_session

    with progress_shown(quiet) as progress:
        progress("starting Ray", 0)
        with ray_session(config.ray):
            yield Job(config, progress)


def _refuse_fleeting_storage(uri: str) -> None:
    """Under `ray job submit` a relative folder lies in the job's own copy of the project, which goes with the job."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not uri.startswith("s3://") and not Path(uri).expanduser().is_absolute():
        raise ConfigError(f"storage.uri: {uri} would go with this job's working directory; give an absolute path or s3://...")


def show_artifact(manifest: Manifest, config: Config, as_json: bool = False) -> None:
    """Say what was published, where, and its figures."""
    storage = Storage.open(config.storage)
    figures = {"artifact": storage.uri + "/" + manifest.reference, "counts": manifest.counts, "metrics": manifest.metrics}
    show_figures(manifest.reference, figures, as_json)
    if not as_json:
        _show_early_months(manifest, config)
        console.print(f"[green]published[/] {figures['artifact']}", soft_wrap=True)


def show_plan(plan: "Plan", as_json: bool = False) -> None:
    """Show what a training run would take and write, what its figures do not know, and whether it fits."""
    figures = plan.figures()
    if as_json:
        show_figures("plan", figures, as_json=True)
        return
    del figures["notes"]
    figures.pop("verdict", None)
    show_figures(f"plan of {plan.role} {plan.stage}", figures)
    console.print("nothing was started or written; memory, work and hours are estimates")
    for note in plan.notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    if plan.verdict is not None:
        console.print(plan.verdict.text, style="green" if plan.verdict.fits else "red", markup=False, soft_wrap=True)


def _show_early_months(manifest: Manifest, config: Config) -> None:
    """Say which months of a corpus were captured before people had voted: their replies are left out, or should be."""
    for month, counts in manifest.counts.get("months", {}).items():
        if counts["early"]:
            verdict = "left out" if config.corpus.early_months == "drop" else "kept as configured, but doubtful"
            console.print(
                f"[yellow]{month} {verdict}:[/] {counts['score_one']} of its {counts['comments']} scores are 1, so they were "
                "taken before people had voted (corpus.early_months, corpus.early_share)",
                soft_wrap=True,
            )


def show_sweep(report: "SweepReport", config: Config, as_json: bool = False) -> None:
    """Print a row for each point, the best marked, then what failed, and what was published as the stage's own model."""
    if as_json:
        show_figures("sweep", report.figures(), as_json=True)
        return
    show_wide(_sweep_table(report))
    for outcome in report.failed:
        console.print(f"[red]failed[/] {escape(f'{outcome.point}: {outcome.failure}')}", soft_wrap=True)
    if report.best:
        unmeasured = "; not all points were measured on a held-out split" if report.measure == "training loss" else ""
        console.print(f"best by {report.measure}: {report.best.point.name}{unmeasured}", soft_wrap=True)
    if report.kept:
        console.print(f"[green]published[/] {Storage.open(config.storage).uri}/{report.kept.reference}", soft_wrap=True)


def _sweep_table(report: "SweepReport") -> Table:
    rows = [outcome.figures() for outcome in report.outcomes]
    measured = [column for column in _SWEEP_COLUMNS if any(row[column] is not None for row in rows)]
    table = Table("model", *(key.removeprefix("train.") for key in rows[0]["values"]), box=None)
    for column in measured:
        table.add_column(_SWEEP_COLUMNS[column], justify="right")
    table.add_column("")
    for row in rows:
        values = [escape(str(value)) for value in row["values"].values()]
        figures = ["" if row[column] is None else figure(row[column]) for column in measured]
        best = report.best is not None and row["model"] == report.best.point.name
        table.add_row(row["model"], *values, *figures, "[red]failed" if row["failure"] else "[green]best" if best else "")
    return table


def run(main: Callable[..., Any]) -> None:
    """Run a job file's `main` from its command line; errors of the tree end in one line and exit code 2."""
    with one_line_errors():
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(main)
        app()


def show_steps(steps: "Iterable[Done]", here: Job, as_json: bool = False) -> None:
    """Name every step of a pipeline as it is done, and the report at the end."""
    done = []
    for step in steps:
        here.progress.finish()
        done.append({"artifact": step.manifest.reference, "published": not step.skipped})
        if not as_json:
            console.print(f"[green]{'stands' if step.skipped else 'published'}[/] {step.manifest.reference}")
    if as_json:
        show_figures("pipeline", {"steps": done}, as_json=True)
    elif step.manifest.kind == "evaluations":
        console.print(f"report: {Storage.open(here.config.storage).uri}/{step.manifest.reference}/report.html", soft_wrap=True)


def show_outlook(outlook: "Mapping[str, Outlook]", as_json: bool = False) -> None:
    """Say of each step whether a run would make it, and why."""
    if as_json:
        show_figures("pipeline", {"steps": outlook}, as_json=True)
        return
    table = Table("artifact", "a run would", "since", box=None)
    for reference, found in outlook.items():
        verb = {"stands": "[green]skip it[/]", "not asked for": "[dim]leave it[/]"}.get(found, "[yellow]make it[/]")
        table.add_row(reference, verb, "it stands" if found == "stands" else "it is missing" if found == "missing" else found)
    show_wide(table)


def say_who_gets_in(config: Config, url: str, *, make_first: bool = False) -> None:
    """Say so where nobody has a key; with `make_first` make one, where only this machine can ask and a person reads along.

    A log is no place for a secret, and neither is the terminal of a service that others reach.
    """
    from llumi.serve.keys import KeyStore

    keys = KeyStore(Storage.open(config.storage))
    if keys.any_open():
        return
    if not (make_first and console.is_terminal and config.serve.host in ("127.0.0.1", "localhost", "::1")):
        console.print("[yellow]nobody has a key yet[/]; make one: llumi keys create NAME --scope gm --scope im", soft_wrap=True)
        return
    key, secret = keys.create("first", ["gm", "im"])
    console.print(f"[green]made[/] the key {key.name} (gm, im); it is shown this once. Try:", soft_wrap=True)
    console.print(
        f"curl {url}/v1/draft -H 'Authorization: Bearer {secret}' -H 'Content-Type: application/json' "
        """-d '{"post": "The evenings are so quiet since I moved."}'""",
        soft_wrap=True,
        markup=False,
    )


def serve_until_stopped(url: str) -> None:
    """Say where the service listens, and wait for Ctrl-C or the job's end."""
    console.print(f"[green]serving[/] {url}   POST {url}/v1/draft, {url}/v1/improve, {url}/v1/chat/completions", soft_wrap=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
