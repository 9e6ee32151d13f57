"""Whether this deployment can do its work: one check a line, each with its verdict."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.table import Table

from llumi.config import Config
from llumi.environment import OUTBOUND_OFF
from llumi.errors import LlumiError
from llumi.storage import Storage, delete_file
from llumi.terminal import console, show_figures

PACKAGES = ("llumi", "ray", "torch", "transformers", "trl", "deepspeed", "peft", "pyarrow")
MIN_FREE_DISK_BYTES = 10 * 2**30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found."""

    name: str
    passed: bool
    detail: str


def diagnose(config: Config) -> list[Check]:
    """Look at the cluster that Ray is connected to, and at the store of `config`."""
    nodes = [_look_at(node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    reports: list[dict[str, Any]] = ray.get(nodes)
    return [_cluster(), _gpus(config), _versions(reports), *_outbound(reports), _disk(reports), _store(config)]


def show_checks(checks: Sequence[Check], as_json: bool = False) -> None:
    """Print the checks as one table, or as JSON."""
    if as_json:
        show_figures("doctor", {"checks": [asdict(check) for check in checks]}, as_json=True)
        return
    table = Table("", "check", "found", box=None, padding=(0, 2, 0, 0))
    for check in checks:
        table.add_row("[green]pass[/]" if check.passed else "[red]FAIL[/]", check.name, check.detail)
    console.print(table)


def _look_at(node_id: str) -> "ray.ObjectRef[dict[str, Any]]":
    on_that_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(_report_of_node).options(scheduling_strategy=on_that_node, num_cpus=0).remote()


def _report_of_node() -> dict[str, Any]:
    return {
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES},
        "environment": {name: os.environ.get(name) for name in OUTBOUND_OFF},
        "free_disk_bytes": shutil.disk_usage(os.getcwd()).free,
    }


def _cluster() -> Check:
    resources = ray.cluster_resources()
    alive = sum(node["Alive"] for node in ray.nodes())
    memory = resources.get("memory", 0) / 2**30
    return Check("cluster", True, f"{alive} node(s), {resources.get('CPU', 0):.0f} CPUs, {memory:.0f} GiB for tasks")


def _gpus(config: Config) -> Check:
    found = ray.cluster_resources().get("GPU", 0)
    wanted = config.train.num_workers if config.train.use_gpu else 0
    if found < wanted:
        return Check("GPUs", False, f"{found:.0f}, and train.num_workers asks for {wanted}; add nodes, or lower it")
    return Check("GPUs", True, f"{found:.0f}" if found else "none; training and serving use CPUs")


def _versions(reports: Sequence[dict[str, Any]]) -> Check:
    first = reports[0]["versions"]
    differing = sorted({name for report in reports for name in first if report["versions"][name] != first[name]})
    if differing:
        return Check("versions", False, f"{', '.join(differing)} differ between nodes; install the same constraints file")
    return Check("versions", True, ", ".join(f"{name} {number}" for name, number in first.items()))


def _outbound(reports: Sequence[dict[str, Any]]) -> Iterator[Check]:
    for name, off in OUTBOUND_OFF.items():
        open_on = sum(report["environment"][name] != off for report in reports)
        if open_on:
            yield Check("outbound paths", False, f"{name} is not {off} on {open_on} node(s); unset it there")
            return
    yield Check("outbound paths", True, f"closed by {len(OUTBOUND_OFF)} switches on every node")


def _disk(reports: Sequence[dict[str, Any]]) -> Check:
    least = min(report["free_disk_bytes"] for report in reports)
    return Check("disk", least >= MIN_FREE_DISK_BYTES, f"{least / 2**30:.0f} GiB free where least (10 are wanted)")


def _store(config: Config) -> Check:
    probe = b"llumi doctor"
    try:
        storage = Storage.open(config.storage)
        path = storage.path(".doctor")
        with storage.filesystem.open_output_stream(path) as stream:
            stream.write(probe)
        with storage.filesystem.open_input_stream(path) as stream:
            intact = stream.read() == probe
        delete_file(storage.filesystem, path)
    except (LlumiError, OSError) as error:
        return Check("store", False, str(error).splitlines()[0])
    return Check("store", intact, f"{storage.uri}: written, read and deleted")
