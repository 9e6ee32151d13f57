"""Three nodes, a store and a laptop on one machine: the jobs run across nodes, and come to the same when something dies."""

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("ray")

from common.hosts import Host, NoNamespacesError
from common.nodes import BIN, Nodes
from faults import disturbed, require, trial_cluster

from llumi.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
DISTURBED = {"pairs": "killed", "train": "store", "generate": "link"}
"""Each job with one fault; `python benchmarks/faults.py` has each job with each, and more."""

RAN_AS = {"pairs": ("tasks", "Map"), "train": ("actors", "RayTrainWorker"), "generate": ("actors", "MapWorker")}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    try:
        with trial_cluster(num_posts=80) as cluster:
            yield cluster
    except NoNamespacesError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("job", DISTURBED)
def test_a_job_from_a_laptop_runs_across_nodes_and_comes_to_the_same_after_a_fault(nodes: Nodes, job: str):
    storage = Storage.open(nodes.storage)
    if job != "pairs" and storage.find("pairs/default") is None:
        require(nodes.submit("build_pairs"))
    figures = disturbed(nodes, job, [DISTURBED[job]])
    row = figures[f"{job}, {DISTURBED[job]}"]
    assert row["same"], figures
    assert row["submissions"] == 1, figures
    assert len(nodes.where(*RAN_AS[job])) > 1
    assert nodes.laptop.address not in nodes.alive()


def test_the_doctor_refuses_a_node_with_another_version(nodes: Nodes, tmp_path: Path):
    with other_version(nodes, nodes.workers[1], "peft", tmp_path):
        # "auto" would find whatever other cluster runs on this machine: hosts of their own have no processes of their own.
        command = [str(BIN / "llumi"), "doctor", "--json", "--timeout", "60", "--config", str(nodes.config_file)]
        done = nodes.head.run([*command, "--set", f"ray.address={nodes.head.address}:6379"], seconds=400)
    assert done.returncode == 1, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert not checks["versions"]["passed"]
    here = importlib.metadata.version("peft")
    assert checks["versions"]["detail"].startswith(f"{nodes.workers[1].address} has peft 0.0.1, and most nodes {here};")
    for fit in ("nodes", "telemetry", "outbound paths", "clocks", "all-reduce", "store"):
        assert checks[fit]["passed"], checks[fit]
    assert len(checks["all-reduce"]["rows"]) == 3


@contextmanager
def other_version(nodes: Nodes, worker: Host, package: str, folder: Path) -> Iterator[None]:
    """The worker starts again and has 0.0.1 of the package, as far as its metadata says; then as it was."""
    installed = Path(str(importlib.metadata.distribution(package).locate_file("")))
    (here,) = installed.glob(f"{package}-*.dist-info")
    changed = folder / here.name
    shutil.copytree(here, changed)
    said = (changed / "METADATA").read_text()
    (changed / "METADATA").write_text(said.replace(f"\nVersion: {importlib.metadata.version(package)}\n", "\nVersion: 0.0.1\n"))
    mounts = dict(worker.mounts)
    nodes.kill_worker(worker)
    worker.mounts[changed] = here
    try:
        nodes.start_worker(worker)
        yield
    finally:
        nodes.kill_worker(worker)
        worker.mounts = mounts
        nodes.start_worker(worker)
