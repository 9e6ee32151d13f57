"""`llumi submit` and `llumi jobs ...`: jobs on a cluster, through Ray's Jobs API."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from llumi.errors import ConfigError
from llumi.job import JsonOption
from llumi.terminal import console, escape, show_figures, show_wide

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

SUBMIT_SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""What follows the job's name belongs to the job."""

AddressOption = Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `llumi submit` said, or `llumi jobs list` says.")]

DASHBOARD = "http://127.0.0.1:8265"
_LONGEST_ARGUMENTS = 60
_SECONDS_BETWEEN_LOOKS = 0.5

jobs_app = typer.Typer(help="Jobs on a cluster: which there are, their logs, stop one.", no_args_is_help=True)


def submit(
    job_name: Annotated[str, typer.Argument(metavar="JOB", help="A file of jobs/: build_pairs, train, generate, ...")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="-- ARGS", help="What the job is given.")] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log; or print the job's id and end.")] = True,
    install: Annotated[
        bool, typer.Option("--install", help="Install what constraints.txt says on the nodes first; default: what they have.")
    ] = False,
    image: Annotated[
        str | None, typer.Option(help="Run in this container image, which holds LLUMI; the nodes need podman.")
    ] = None,
    num_cpus: Annotated[float | None, typer.Option(min=0, help="CPUs for the job's own process, beside its workers.")] = None,
    num_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs for the job's own process, beside its workers.")] = None,
    memory: Annotated[float | None, typer.Option(metavar="GIB", min=0, help="Memory for the job's own process.")] = None,
    resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=AMOUNT", help="A resource of your own that its node must have.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label that its node must have.")] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who submits it, for `llumi jobs list`.")] = None,
    address: AddressOption = DASHBOARD,
) -> None:
    """Run a job on a cluster and follow its log; ends with the job's own verdict. Ctrl-C leaves the job running.

    The code of this folder goes with it, and the files of settings that are named. Example: llumi submit train -- gm sft
    """
    from llumi.jobs_api import JobsClient
    from llumi.submit import Submission, check, follow_to_the_end
    from llumi.submit import submit as submit_job

    submission = Submission(
        job_name,
        # What follows the job's name arrives as it was typed, the separator included.
        arguments[1:] if arguments and arguments[0] == "--" else arguments or [],
        install=install,
        image=image,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        memory_gib=memory,
        resources={name: _amount(name, value) for name, value in _pairs("--resource", resource)},
        labels=dict(_pairs("--label", label)),
        by=by,
    )
    check(submission)
    client = JobsClient(address)
    job_id = submit_job(submission, client)
    if not wait:
        sys.stdout.write(job_id + "\n")
        return
    raise typer.Exit(follow_to_the_end(client, job_id))


@jobs_app.command("list")
def jobs_list(address: AddressOption = DASHBOARD, as_json: JsonOption = False) -> None:
    """Every job that the cluster's head remembers, the newest first. Example: llumi jobs list --address http://head:8265"""
    from llumi.jobs_api import JobsClient

    jobs = [_row(details) for details in JobsClient(address).submitted()]
    if as_json:
        show_figures("jobs", {"jobs": jobs}, as_json=True)
        return
    table = Table("job", "status", "since", "seconds", "by", "command", box=None)
    for job in jobs:
        started = datetime.fromtimestamp(job["started"]).astimezone().strftime("%Y-%m-%d %H:%M") if job["started"] else ""
        style = {"RUNNING": "yellow", "SUCCEEDED": "green", "FAILED": "red"}.get(job["status"], "dim")
        seconds = "" if job["seconds"] is None else f"{job['seconds']:,.0f}"
        command = job["command"]
        short = command if len(command) <= _LONGEST_ARGUMENTS else command[: _LONGEST_ARGUMENTS - 1] + "…"
        table.add_row(
            escape(job["id"]), f"[{style}]{job['status'].lower()}[/]", started, seconds, escape(job["by"] or ""), escape(short)
        )
    show_wide(table)


@jobs_app.command("logs")
def jobs_logs(
    job_id: IdArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job's end, with its verdict.")] = False,
    address: AddressOption = DASHBOARD,
) -> None:
    """Print a job's log. Example: llumi jobs logs --follow train-3fa92c"""
    from llumi.jobs_api import JobsClient
    from llumi.submit import follow_to_the_end

    client = JobsClient(address)
    if follow:
        raise typer.Exit(follow_to_the_end(client, job_id))
    sys.stdout.write(client.get_job_logs(job_id))


@jobs_app.command("stop")
def jobs_stop(job_id: IdArgument, address: AddressOption = DASHBOARD) -> None:
    """Stop a job and wait until it has ended: it has a minute to end by itself. Example: llumi jobs stop train-3fa92c"""
    from llumi.jobs_api import JobsClient
    from llumi.submit import verdict

    client = JobsClient(address)
    stopping = client.stop_job(job_id)
    while not (details := client.get_job_info(job_id)).status.is_terminal():
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    console.print(escape(verdict(job_id, details)) + ("" if stopping else " (before)"), soft_wrap=True)


def _row(details: "JobDetails") -> dict[str, Any]:
    """What a job is to a person; times are seconds."""
    started, ended = (None if stamp is None else stamp / 1000 for stamp in (details.start_time, details.end_time))
    metadata = details.metadata or {}
    return {
        "id": details.submission_id,
        "name": metadata.get("job_name"),
        "status": str(details.status),
        "by": metadata.get("submitted_by"),
        "llumi_version": metadata.get("llumi_version"),
        "started": started,
        "seconds": None if started is None else (ended or time.time()) - started,
        "exit_code": details.driver_exit_code,
        "command": details.entrypoint,
    }


def _pairs(option: str, given: Sequence[str] | None) -> list[tuple[str, str]]:
    pairs = []
    for each in given or ():
        name, separator, value = each.partition("=")
        if not (name and separator and value):
            raise ConfigError(f"{option} {each}: give NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _amount(name: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise ConfigError(f"--resource {name}={value}: give a number of units, such as {name}=1")
    return amount
