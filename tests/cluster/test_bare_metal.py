"""The units and `ray-up.yaml`: systemd and Ray themselves take them, and they say what the documentation promises."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray")

from ray._private import ray_constants
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

from llumi.environment import OUTBOUND_OFF
from tests.cluster.files import BARE_METAL, ROOT, SYSTEMD, env_file, unit

UNITS = sorted(SYSTEMD.glob("*.service"))
RAY_UP = yaml.safe_load((BARE_METAL / "ray-up.yaml").read_text(encoding="utf-8"))
ENVIRONMENT = env_file(BARE_METAL / "llumi.env")
SECRETS = ("secrets.env.example", "minio.env.example")
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (apt-get install systemd)")
each_unit = pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
MOST_EXPOSED = {"llumi-minio": 20, "llumi-head": 36, "llumi-worker": 36, "llumi-serve": 36}
"""In tenths of systemd's own measure: 0 is nothing, 100 all. Ray needs GPUs, and memory that is written and then run."""


def ray_options(command: str) -> dict[str, object]:
    """The options of a `ray start`, by Ray's own parser; it refuses what it does not know."""
    words = shlex.split(command)
    start = words.index("start")
    return cli.commands["start"].make_context("start", words[start + 1 :]).params


def expanded(command: str) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: ENVIRONMENT.get(match[1], match[0]), command)


@needs_systemd
@each_unit
def test_systemd_takes_the_unit(path: Path, tmp_path: Path):
    programs = {"/opt/llumi/.venv/bin/ray": "ray", "/opt/llumi/.venv/bin/llumi": "llumi", "/usr/local/bin/minio": "minio"}
    for source in UNITS:  # units name each other; verify looks for programs where this machine has none
        text = source.read_text(encoding="utf-8")
        for program, name in programs.items():
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
            text = text.replace(program, str(tmp_path / name))
        (tmp_path / source.name).write_text(text)
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", "--recursive-errors=no", str(tmp_path / path.name)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line or path.name in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


@needs_systemd
@each_unit
def test_the_unit_is_hardened(path: Path):
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", f"--threshold={MOST_EXPOSED[path.stem]}", "--no-pager", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    settings = unit(path)
    assert settings["User"] == (["minio"] if "minio" in path.stem else ["llumi"])
    assert settings["NoNewPrivileges"] == ["yes"]
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["LimitCORE"] == ["0"]
    assert settings["IPAddressDeny"] == ["any"]
    assert settings["Restart"] == ["always"]


@pytest.mark.parametrize("name", ["llumi-head", "llumi-worker"])
def test_ray_takes_the_command_of_the_unit(name: str):
    options = ray_options(expanded(unit(SYSTEMD / f"{name}.service")["ExecStart"][0]))
    assert options["block"]
    assert options["disable_usage_stats"]
    assert options["metrics_export_port"] == 8090
    assert options["node_ip_address"] == ENVIRONMENT["LLUMI_NODE_IP"]
    ports = [value for option, value in options.items() if option.endswith("port") and option not in ("min_worker_port",)]
    fixed = [port for port in ports if port]
    assert len(set(fixed)) == len(fixed)
    assert not any(20000 <= int(port) < 29999 for port in fixed if port != options["max_worker_port"])
    if name == "llumi-head":
        assert options["head"]
        assert options["dashboard_host"] == "127.0.0.1"
        assert ENVIRONMENT["LLUMI_HEAD"].endswith(f":{options['port']}")
    else:
        assert options["address"] == ENVIRONMENT["LLUMI_HEAD"]


def test_a_worker_has_more_time_to_stop_than_to_drain():
    settings = unit(SYSTEMD / "llumi-worker.service")
    drains = re.search(r"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=(\d+)", " ".join(settings["Environment"]))
    assert drains
    assert int(settings["TimeoutStopSec"][0]) > int(drains[1])
    assert ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S > 0  # Ray knows the variable by this name


def test_the_environment_closes_every_way_out():
    assert {name: ENVIRONMENT.get(name) for name in OUTBOUND_OFF} == OUTBOUND_OFF
    assert ENVIRONMENT["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_is_in_the_tree(name: str):
    values = env_file(BARE_METAL / name)
    assert [value for variable, value in values.items() if re.search("SECRET|PASSWORD|PRIVACY", variable)] == [""] * sum(
        bool(re.search("SECRET|PASSWORD|PRIVACY", variable)) for variable in values
    )
    assert not set(values) & set(ENVIRONMENT)


def test_ray_takes_the_cluster_of_ray_up():
    validate_config(prepare_config(RAY_UP))


@pytest.mark.parametrize("part", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_takes_the_commands_of_ray_up(part: str, tmp_path: Path):
    stop, start = RAY_UP[part]
    assert stop.endswith("ray stop")
    subprocess.run(["sh", "-n", "-c", start], check=True)
    options = ray_options(start.rpartition("; ")[2].removesuffix(";").strip())
    assert options["disable_usage_stats"]
    assert options["dashboard_host"] == "127.0.0.1"
    # What comes before `ray start` really gives Ray the variables of both files.
    home = tmp_path / "home"
    for source, target in RAY_UP["file_mounts"].items():
        there = home / source.removeprefix("~/")
        there.parent.mkdir(parents=True, exist_ok=True)
        if target == ".":
            shutil.copytree(ROOT / "cluster", there / "cluster")
        else:
            there.write_text("LLUMI_PRIVACY_KEY=known\n")
    before = start[: start.rindex("ray start")]
    shown = subprocess.run(
        ["sh", "-c", before + " env"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    variables = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert OUTBOUND_OFF.items() <= variables.items()
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["LLUMI_PRIVACY_KEY"] == "known"
    assert variables["PATH"].startswith(str(home / "llumi-venv/bin"))
    assert (home / ".ray/auth_token").exists()  # where Ray looks for its token by itself


def test_every_node_is_installed_from_the_constraints_file():
    install = RAY_UP["setup_commands"][-1]
    assert "--constraint ~/llumi/constraints.txt ~/llumi" in install
    assert (ROOT / "constraints.txt").is_file()
    assert ".git" in RAY_UP["rsync_exclude"]
