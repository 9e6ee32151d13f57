from pathlib import Path

import pytest
from ray.job_submission import JobDetails
from ray.runtime_env import RuntimeEnv

from llumi import __version__, submit
from llumi.cli_jobs import _amount, _pairs
from llumi.errors import ConfigError
from llumi.jobs_api import JobsClient
from llumi.submit import Submission, verdict

ROOT = Path(__file__).parents[1]


def test_what_the_cluster_keeps_of_a_job() -> None:
    assert Submission("train", ["gm", "sft"]).metadata == {"job_name": "train", "llumi_version": __version__}
    assert Submission("train", by="ada").metadata["submitted_by"] == "ada"


def test_a_job_in_an_image_runs_the_images_own_file() -> None:
    assert Submission("train", ["gm", "two words"]).entrypoint == "python jobs/train.py gm 'two words'"
    assert Submission("train", ["gm", "sft"], image="registry.internal/llumi").entrypoint == (
        "python /opt/llumi/jobs/train.py gm sft"
    )


def test_rays_image_takes_no_working_directory_and_no_packages() -> None:
    """Why `--image` sends no files; where Ray learns to, it should."""
    RuntimeEnv(image_uri="registry.internal/llumi", env_vars={"A": "b"})
    for excluded in ({"working_dir": "gcs://_ray_pkg_0.zip"}, {"pip": ["polars"]}):
        with pytest.raises(ValueError, match="cannot be used together"):
            RuntimeEnv(image_uri="registry.internal/llumi", **excluded)


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        (Submission("dance"), "jobs/dance.py: no such job; .*jobs here: build_pairs, "),
        (Submission("train", install=True, image="i"), "--install: not with --image"),
        (
            Submission("train", ["--config", "small.yaml"], image="i"),
            "--config small.yaml: with --image .* no files",
        ),
    ],
)
def test_what_cannot_run_is_refused(submission: Submission, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=message):
        submit.check(submission)


def test_an_installation_follows_the_constraints_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--install: no pyproject\.toml"):
        submit._installation()
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["polars>=2"]')
    with pytest.raises(ConfigError, match=r"--install: no constraints\.txt"):
        submit._installation()
    (tmp_path / "constraints.txt").write_text("polars==2.1.0")
    first = RuntimeEnv(**submit._installation())
    assert first["pip"]["packages"][1:] == [
        "--constraint ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt",
        "polars>=2",
    ]
    (tmp_path / "constraints.txt").write_text("polars==2.1.1")
    assert RuntimeEnv(**submit._installation()).pip_uri() != first.pip_uri()


@pytest.mark.parametrize(
    ("details", "line"),
    [
        ({"status": "SUCCEEDED"}, "succeeded a"),
        ({"status": "STOPPED"}, "stopped a"),
        ({"status": "FAILED", "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "driver_exit_code": 2}, "failed a: exit code 2"),
        (
            {"status": "FAILED", "error_type": "RUNTIME_ENV_SETUP_FAILURE", "message": "Traceback\nNo matching distribution\n"},
            "failed a: RUNTIME_ENV_SETUP_FAILURE: No matching distribution",
        ),
    ],
)
def test_a_verdict_is_one_line(details: dict[str, object], line: str) -> None:
    assert verdict("a", JobDetails(type="SUBMISSION", entrypoint="python jobs/train.py", **details)) == line


@pytest.mark.parametrize("address", ["head:8265", "auto", "ray://head:10001"])
def test_an_address_that_is_no_dashboards(address: str) -> None:
    with pytest.raises(ConfigError, match="give the dashboard's URL"):
        JobsClient(address)


def test_pairs_of_the_command_line() -> None:
    assert _pairs("--label", ["zone=a=b"]) == [("zone", "a=b")]
    assert _amount("disk", "0.5") == 0.5
    for given in ("disk", "=1", "disk="):
        with pytest.raises(ConfigError, match="give NAME=VALUE"):
            _pairs("--resource", [given])
    for amount in ("many", "-1", "nan", "inf"):
        with pytest.raises(ConfigError, match="give a number of units"):
            _amount("disk", amount)
