"""What the nodes said, and the verdict: each problem names the node, the thing, and what would be right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from llumi.config import Config, load_config
from llumi.doctor.alike import PACKAGES, judge_versions
from llumi.doctor.check import NAMED, Silence, verdict
from llumi.doctor.judge import judge_clocks, judge_disks, judge_gpus, judge_memory, judge_nodes, judge_store
from llumi.doctor.node import look
from llumi.doctor.switches import judge_outbound, judge_telemetry
from llumi.environment import OUTBOUND_OFF

GIB = 2**30
GPU = {"name": "H100", "memory_mib": "81559", "driver": "580.95"}


@dataclass(frozen=True)
class Node:
    name: str
    resources: Mapping[str, float]


def report(**changed: Any) -> dict[str, Any]:
    """What a node says where all is well."""
    return {
        "versions": dict.fromkeys(("python", *PACKAGES, "xxhash"), "1.0") | {"torch": "2.13.0+cpu"},
        "constraints": "a" * 64,
        "gpus": [],
        "worker_environment": dict(OUTBOUND_OFF),
        "raylet_environment": dict(OUTBOUND_OFF),
        "disks": {"working folder": {"path": "/var/lib/llumi", "free_bytes": 50 * GIB, "total_bytes": 99 * GIB}},
        "memory": {"total_bytes": 16 * GIB, "free_bytes": 8 * GIB},
        "shared_memory": 8 * GIB,
    } | changed


def versions(**changed: str | None) -> dict[str, str | None]:
    return report()["versions"] | changed


def three(**changed: Any) -> dict[str, Any]:
    return {"10.0.0.1": report(), "10.0.0.2": report(), "10.0.0.3": report(**changed)}


def config(*overrides: str) -> Config:
    return load_config(None, list(overrides))


def test_a_node_that_died_or_hangs_is_named():
    alive = [Node("10.0.0.1", {"CPU": 4}), Node("10.0.0.2", {"CPU": 4})]
    assert judge_nodes(alive, {}, {}).passed
    check = judge_nodes(alive, {"10.0.0.3": "heartbeats missed"}, {"10.0.0.2": Silence("no answer in 20 s")})
    assert not check.passed
    assert "10.0.0.3 died and is missed (heartbeats missed)" in check.detail
    assert "10.0.0.2 is alive for Ray and does not work: no answer in 20 s" in check.detail


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"versions": versions(transformers="0.9")}, "10.0.0.3 has transformers 0.9, and most nodes 1.0"),
        ({"versions": versions(xxhash="0.8")}, "10.0.0.3 has xxhash 0.8, and most nodes 1.0"),
        ({"versions": versions(llumi=None)}, "10.0.0.3 has no llumi, and most nodes 1.0"),
        ({"versions": versions(torch="2.12.0+cu130")}, "10.0.0.3 has torch 2.12.0, and most nodes 2.13.0"),
        ({"constraints": "b" * 64}, "10.0.0.3 has another constraints.txt"),
    ],
)
def test_the_node_and_the_package_that_differ_are_named(changed: dict[str, Any], says: str):
    check = judge_versions(three(**changed))
    assert not check.passed
    assert says in check.detail
    assert "10.0.0.1" not in check.detail


def test_a_build_for_gpus_and_a_node_without_vllm_are_no_difference():
    gpu = {"torch": "2.13.0+cu130", "vllm": "0.32.0", "nvidia-nccl": "2.29"}
    assert judge_versions(three(versions=versions(**gpu), constraints=None)).passed
    old = three(versions=versions(vllm="0.31.0")) | {"10.0.0.2": report(versions=versions(vllm="0.32.0"))}
    assert "10.0.0.3 has vllm 0.31.0, and most nodes 0.32.0" in judge_versions(old).detail


def test_gpus_are_counted_against_training_and_service():
    nodes = [Node("10.0.0.1", {"GPU": 2}), Node("10.0.0.2", {"GPU": 2})]
    reports = {node.name: report(gpus=[GPU] * 2) for node in nodes}
    train = ("train.use_gpu=true", "train.num_workers=4")
    hf = "serve.engine.kind=hf"
    check = judge_gpus(config(*train, hf), nodes, reports)
    assert check.passed, check.detail
    assert "4: 4 H100" in check.detail
    assert "train.num_workers asks for 5" in judge_gpus(config(train[0], "train.num_workers=5", hf), nodes, reports).detail
    many = judge_gpus(
        config(hf, "serve.engine.num_gpus=1", "serve.gm.min_replicas=4", "serve.gm.max_replicas=4"), nodes, reports
    )
    assert "4, and serve asks for 5 (5 replicas with 1)" in many.detail
    large = judge_gpus(config("serve.engine.kind=vllm", "serve.engine.num_gpus=4", "serve.shared_base=true"), nodes, reports)
    assert "no node has 4" in large.detail


def test_gpus_that_ray_was_not_told_of_and_drivers_that_differ():
    nodes = [Node("10.0.0.1", {"GPU": 1}), Node("10.0.0.2", {})]
    reports = {"10.0.0.1": report(gpus=[GPU]), "10.0.0.2": report(gpus=[GPU | {"driver": "570.1"}])}
    check = judge_gpus(config("train.use_gpu=true", "train.num_workers=2", "serve.engine.kind=hf"), nodes, reports)
    assert "10.0.0.2 has 1, and Ray was told of 0" in check.detail
    assert "10.0.0.2 has driver 570.1, and most others 580.95" in check.detail


def test_a_switch_that_is_on_is_named_and_nothing_is_called():
    assert judge_telemetry(three()).passed
    assert "no connection was tried" in judge_outbound(three()).detail
    on = judge_telemetry(three(raylet_environment=OUTBOUND_OFF | {"RAY_USAGE_STATS_ENABLED": None}))
    assert "RAY_USAGE_STATS_ENABLED is not 0 on 10.0.0.3; set it there before ray start" in on.detail
    online = judge_outbound(three(worker_environment=OUTBOUND_OFF | {"HF_HUB_OFFLINE": "0"}))
    assert "HF_HUB_OFFLINE is not 1 on 10.0.0.3; LLUMI_OFFLINE=0 opened it" in online.detail
    assert judge_telemetry(three(raylet_environment=None)).passed  # a system without /proc


def test_a_full_disk_and_little_memory_are_named():
    full = {"Ray's session": {"path": "/tmp/ray", "free_bytes": 2 * GIB, "total_bytes": 99 * GIB}}
    assert "10.0.0.3 has 2 GiB free at /tmp/ray (Ray's session)" in judge_disks(three(disks=full)).detail
    assert judge_disks(three()).passed
    nodes = [Node(f"10.0.0.{n}", {"object_store_memory": 4 * GIB}) for n in (1, 2, 3)]
    assert judge_memory(nodes, three()).passed
    assert "10.0.0.3 has 1 GiB free" in judge_memory(nodes, three(memory={"total_bytes": 4 * GIB, "free_bytes": GIB})).detail
    assert "0.0625 GiB of /dev/shm for an object store of 4 GiB" in judge_memory(nodes, three(shared_memory=GIB // 16)).detail
    assert judge_memory(nodes, three(memory=None)).passed


def test_the_clock_that_is_off_is_named_and_not_the_one_that_asks():
    check = judge_clocks({"10.0.0.1": (-30.0, 0.01), "10.0.0.2": (-30.1, 0.01), "10.0.0.3": (0.0, 0.01)})
    assert "10.0.0.3 is 30.0 s ahead" in check.detail
    assert "10.0.0.1" not in check.detail
    assert judge_clocks({"10.0.0.1": (0.0, 0.01), "10.0.0.2": (1.0, 0.01)}).passed
    assert judge_clocks({"10.0.0.1": (0.0, 0.01), "10.0.0.2": (9.0, 10.0)}).passed  # a node that was slow to answer


def test_the_store_is_judged_from_each_node():
    good = {"read_milliseconds": 1.0, "store_ahead_seconds": 0.2}
    assert judge_store("s3://llumi/main", {"10.0.0.1": good, "10.0.0.2": good}).passed
    late = judge_store("s3://llumi/main", {"10.0.0.1": good, "10.0.0.2": good | {"store_ahead_seconds": 900.0}})
    assert "10.0.0.2: the store's clock is +900 s from this node's" in late.detail
    bad = {
        "10.0.0.1": good,
        "10.0.0.2": {"failed": "write: refused", "store_ahead_seconds": None},
        "10.0.0.3": Silence("hangs"),
    }
    assert "10.0.0.2: write: refused; 10.0.0.3: hangs" in judge_store("s3://llumi/main", bad).detail


def test_many_problems_of_one_kind_are_counted():
    assert verdict("x", [str(n) for n in range(NAMED + 2)], "").detail.endswith("; and 2 more")


@pytest.mark.ray
def test_a_node_says_what_the_verdicts_ask_for(ray_cluster: None):
    import ray

    said = ray.get(ray.remote(look).remote(tuple(OUTBOUND_OFF)))
    assert said.keys() == report().keys()
    assert {"working folder", "copies of models", "Ray's session"} <= said["disks"].keys()
    assert said["versions"]["ray"] == ray.__version__
    for judged in (judge_versions, judge_telemetry, judge_outbound):
        check = judged({"here": said})
        assert check.passed, check.detail
