"""Three nodes, a store and a laptop on one machine: the jobs run across nodes, and come to the same when something dies."""

import json
import shutil
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytest.importorskip("ray")

from common.hosts import NoNamespacesError
from common.nodes import BIN, Nodes
from faults import disturbed, trial_cluster

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
    figures = disturbed(nodes, job, [DISTURBED[job]])
    row = figures[f"{job}, {DISTURBED[job]}"]
    assert row["same"], figures
    assert row["submissions"] == 1, figures
    assert len(nodes.where(*RAN_AS[job])) > 1
    assert nodes.laptop.address not in nodes.alive()


def test_the_doctor_names_the_node_with_another_version_and_measures_every_pair(nodes: Nodes, tmp_path: Path):
    worker = nodes.workers[1]
    installed = Path(str(distribution("peft").locate_file(""))) / f"peft-{distribution('peft').version}.dist-info"
    altered = Path(shutil.copytree(installed, tmp_path / "altered"))
    metadata = (altered / "METADATA").read_text()
    (altered / "METADATA").write_text(metadata.replace(f"\nVersion: {distribution('peft').version}\n", "\nVersion: 0.0.1\n"))
    worker.kill()
    worker.mounts[altered] = installed
    nodes.start_worker(worker)

    done = nodes.head.run([str(BIN / "llumi"), "doctor", "--json", "--config", str(nodes.config_file)], 400)
    assert done.returncode == 1 and done.stdout.startswith("{"), done.stdout + done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert f"{worker.address} has peft 0.0.1" in checks["versions"]["detail"]
    assert len(checks["all-reduce"]["rows"]) == 3
    assert all(checks[name]["passed"] for name in ("nodes", "all-reduce", "store", "clocks", "telemetry")), done.stdout
