"""A job of `jobs/` on a cluster, through Ray's Jobs API: packed, submitted, followed, and its verdict returned."""

import asyncio
import hashlib
import secrets
import shlex
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.job_submission import JobDetails, JobStatus

from llumi import __version__
from llumi.errors import ConfigError
from llumi.job_package import named_configs, pack
from llumi.jobs_api import JobsClient, follow
from llumi.terminal import errors, escape

JOBS = Path("jobs")

JOBS_IN_IMAGE = Path("/opt/llumi/jobs")
"""Where the images of `cluster/` hold the jobs: in a container Ray gives a job no working directory."""

STOPS_IN_PEACE = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""Ray would kill a job 3 s after it told it to stop: too soon for `serve` to take its models down on a busy cluster."""

INTERRUPTED = 130

_INSTALL_TIMEOUT_SECONDS = 3600
_LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Submission:
    """What a person asks of a cluster: a file of `jobs/` by its name, and what the job is given.

    `memory_gib`, `num_cpus`, `num_gpus`, `resources` and `labels` are for the process that runs the job's file alone: its
    tasks, actors and workers ask for their own. `by` is who submits, where they want it to be known.
    """

    job: str
    arguments: Sequence[str] = ()
    install: bool = False
    image: str | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory_gib: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    by: str | None = None

    @property
    def entrypoint(self) -> str:
        """The command that the cluster runs."""
        folder = JOBS_IN_IMAGE if self.image else JOBS
        return shlex.join(["python", str(folder / f"{self.job}.py"), *self.arguments])

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster keeps about the job."""
        return {"job_name": self.job, "llumi_version": __version__, **({"submitted_by": self.by} if self.by else {})}


def check(submission: Submission) -> None:
    """What can be known before the cluster is asked; raises ConfigError."""
    if submission.image:
        if submission.install:
            raise ConfigError("--install: not with --image, which brings what it has installed; leave out one of them")
        for config in named_configs(submission.arguments):
            if not Path(config).is_absolute():
                raise ConfigError(f"--config {config}: with --image a job is sent no files; give an absolute path in the image")
        return
    script = JOBS / f"{submission.job}.py"
    if not script.is_file():
        known = ", ".join(sorted(path.stem for path in JOBS.glob("*.py"))) or "none in this folder"
        raise ConfigError(f"{script}: no such job; run this in the project's folder (jobs here: {known})")


def submit(submission: Submission, client: JobsClient) -> str:
    """Send what the job needs, start it, and return its id; the project's folder is the one this is called in.

    Raises ConfigError for what cannot be packed, JobError where the cluster takes none. Call `check` first.
    """
    job_id = f"{submission.job}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="llumi-job-") as scratch:
        runtime_env: dict[str, Any] = {"env_vars": STOPS_IN_PEACE}
        if submission.image:
            runtime_env["image_uri"] = submission.image
        else:
            package = pack(Path(), submission.arguments)
            _say(f"package: {len(package.content) / 2**20:.1f} MiB, {package.num_files} files")
            archive = Path(scratch, "package.zip")
            archive.write_bytes(package.content)
            runtime_env["working_dir"] = str(archive)
            if submission.install:
                runtime_env |= _installation()
        client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=job_id,
            runtime_env=runtime_env,
            metadata=submission.metadata,
            entrypoint_num_cpus=submission.num_cpus,
            entrypoint_num_gpus=submission.num_gpus,
            entrypoint_memory=None if submission.memory_gib is None else int(submission.memory_gib * 2**30),
            entrypoint_resources=dict(submission.resources) or None,
            entrypoint_label_selector=dict(submission.labels) or None,
        )
    _say(f"submitted {job_id}")
    return job_id


def follow_to_the_end(client: JobsClient, job_id: str) -> int:
    """Print a job's log as it comes; 0 where it succeeded, else 1, as `ray job submit`. Ctrl-C ends the following alone."""
    try:
        ended = asyncio.run(follow(client, job_id, _write, _say))
    except KeyboardInterrupt:
        where = f"--address {client.given_address} {job_id}"
        _say(f"{job_id} goes on; follow it with: llumi jobs logs --follow {where}, or stop it with: llumi jobs stop {where}")
        return INTERRUPTED
    _say(verdict(job_id, ended))
    return 0 if ended.status == JobStatus.SUCCEEDED else 1


def verdict(job_id: str, ended: JobDetails) -> str:
    """How a job ended, in one line; what its own log said last is not said again."""
    if ended.status != JobStatus.FAILED:
        return f"{ended.status.lower()} {job_id}"
    if ended.error_type == "JOB_ENTRYPOINT_COMMAND_ERROR":
        return f"failed {job_id}: exit code {ended.driver_exit_code}"
    lines = [line.strip() for line in (ended.message or "").splitlines() if line.strip()]
    return f"failed {job_id}: {ended.error_type or 'it did not start'}: {lines[-1][:_LONGEST_MESSAGE] if lines else ''}"


def _installation() -> dict[str, Any]:
    """Ray's runtime environment that installs what LLUMI depends on, in the versions of the constraints file that is sent."""
    try:
        dependencies = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        raise ConfigError("--install: no pyproject.toml with dependencies here; run this in the project's folder") from None
    if not Path("constraints.txt").is_file():
        raise ConfigError("--install: no constraints.txt here; run this in the project's folder")
    # Ray keeps an environment by the hash of these lines, so the first of them changes with the file that the second names.
    version = f"# {hashlib.sha256(Path('constraints.txt').read_bytes()).hexdigest()}"
    pins = "--constraint ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
    return {
        "pip": {"packages": [version, pins, *dependencies], "pip_check": False},
        "config": {"setup_timeout_seconds": _INSTALL_TIMEOUT_SECONDS},
    }


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    """On stderr: stdout is the job's log, or its id alone."""
    errors.print(escape(line), soft_wrap=True)
