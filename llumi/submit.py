"""A job of `jobs/` on a cluster, through Ray's Jobs API: submitted, followed, and its verdict returned."""

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from llumi.errors import ConfigError

JOBS = Path("jobs")

STOPS_IN_PEACE = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""Ray would kill a job 3 s after it told it to stop: too soon for `serve` to take its models down on a busy cluster."""


def submit_job(name: str, arguments: Sequence[str], address: str) -> int:
    """Submit `jobs/<name>.py` from the project's folder, print its log as it comes; 0 where it succeeded, else 1."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    script = JOBS / f"{name}.py"
    if not script.is_file():
        known = ", ".join(sorted(path.stem for path in JOBS.glob("*.py"))) or "none in this folder"
        raise ConfigError(f"{script}: no such job; run this in the project's folder (jobs here: {known})")
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError):
        raise ConfigError(f"--address {address}: no Ray dashboard answers; start a cluster, or correct the address") from None
    job_id = client.submit_job(
        entrypoint=shlex.join(["python", str(script), *arguments]),
        runtime_env={"working_dir": ".", "env_vars": STOPS_IN_PEACE},
    )
    asyncio.run(_follow(client, job_id))
    return 0 if client.get_job_status(job_id) == JobStatus.SUCCEEDED else 1


async def _follow(client: "JobSubmissionClient", job_id: str) -> None:  # type: ignore[name-defined] # noqa: F821
    async for lines in client.tail_job_logs(job_id):
        sys.stdout.write(lines)
        sys.stdout.flush()
