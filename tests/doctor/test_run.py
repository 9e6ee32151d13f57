"""The whole of it on two nodes of one machine: fit, then one that hangs, then one that is dead."""

import io
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from llumi.cli_doctor import show_checks
from llumi.config import Config, RayConfig, StorageConfig, load_config
from llumi.doctor.check import Check
from llumi.doctor.run import Patience, diagnose

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PATIENCE = Patience(answer_seconds=120, links_seconds=240)
"""A guest is a new process, and one that looks into the store imports much: on a machine that does other work, too, that
takes a while."""


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Two raylets on loopback under one head, with the key of the store in their environment, and this process connected."""
    from ray.cluster_utils import Cluster

    from llumi.ray_session import ray_session

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node, node_name="second")
    try:
        with ray_session(RayConfig(address=cluster.address)):
            yield cluster
    finally:
        cluster.shutdown()


def by_name(config: Config, patience: Patience = PATIENCE) -> dict[str, Check]:
    return {check.name: check for check in diagnose(config, patience)}


def test_two_nodes_that_are_fit_then_one_that_hangs_then_one_that_is_dead(
    s3_storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # In a process of its own: this one may be connected to the cluster that other tests share, which asks for a token and
    # says so in the environment. Ray reads that when it is imported.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        alone.submit(fit_then_one_hangs_then_one_is_dead, s3_storage, tmp_path).result()


def fit_then_one_hangs_then_one_is_dead(s3_storage: StorageConfig, tmp_path: Path) -> None:
    with two_nodes() as cluster:
        look_at(cluster, s3_storage, tmp_path)


def look_at(cluster: Any, s3_storage: StorageConfig, tmp_path: Path) -> None:
    config = load_config(None, [f"storage.uri={s3_storage.uri}", f"storage.endpoint_url={s3_storage.endpoint_url}"])
    checks = by_name(config)
    wrong = [check for check in checks.values() if not check.passed and check.name not in ("disk", "memory")]
    assert not wrong, wrong
    assert "from 2 node(s)" in checks["store"].detail
    (link,) = checks["all-reduce"].rows
    assert link["first"] != link["second"]
    assert link["megabytes_per_second"] > 1
    assert len(checks["versions"].rows) == len(checks["clocks"].rows) == 2
    with redirect_stdout(io.StringIO()) as shown:
        show_checks(list(checks.values()))
    assert "all-reduce" in shown.getvalue()

    # A folder of one machine is no store; here both nodes see it, so it is one.
    assert by_name(load_config(None, [f"storage.uri={tmp_path}"]))["store"].passed

    nobody = load_config(None, ["storage.uri=s3://llumi/root", "storage.endpoint_url=http://127.0.0.1:1"])
    store = by_name(nobody)["store"]
    assert not store.passed
    assert store.detail.count("no store answers; check storage.endpoint_url") == 2, store.detail

    (other,) = cluster.worker_nodes
    raylet = other.all_processes["raylet"][0].process.pid
    os.kill(raylet, signal.SIGSTOP)
    try:
        started = time.monotonic()
        checks = by_name(config, Patience(answer_seconds=5, links_seconds=30))
        assert time.monotonic() - started < 60
    finally:
        os.kill(raylet, signal.SIGCONT)
    assert not checks["nodes"].passed
    assert checks["nodes"].detail == "second is alive for Ray and does not work: no answer in 5 s"
    assert checks["store"].passed

    cluster.remove_node(other, allow_graceful=False)
    noticed = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        assert time.monotonic() < noticed, "Ray takes a node that was killed for alive"
        time.sleep(0.5)
    checks = by_name(config)
    assert checks["nodes"].detail.startswith("second died and is missed (")
    assert checks["all-reduce"].passed
