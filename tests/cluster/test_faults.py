"""Three nodes, a store and a laptop on one machine: the jobs run across nodes, and come to the same when something dies."""

from collections.abc import Iterator

import pytest

pytest.importorskip("ray")

from common.hosts import NoNamespacesError
from common.nodes import Nodes
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
