"""From what the nodes say to verdicts; nothing here asks anybody."""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from llumi.config import Config
from llumi.doctor.alike import unlike
from llumi.doctor.check import Check, Reports, Silence, gib, verdict
from llumi.engine.choice import choose_engine
from llumi.errors import ConfigError

MIN_FREE_DISK_BYTES = 10 * 2**30
MIN_FREE_MEMORY_BYTES = 2 * 2**30
MAX_CLOCK_SECONDS = 2
MAX_STORE_CLOCK_SECONDS = 60
"""S3 refuses a signature that is 15 minutes off; a clock that is a minute off is on its way there."""


class Sized(Protocol):
    """A node, as far as a verdict needs to know it."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def resources(self) -> Mapping[str, float]: ...  # noqa: D102


def judge_nodes(alive: Sequence[Sized], lost: Mapping[str, str], silences: Mapping[str, Silence]) -> Check:
    """Every node is there and answers; `lost` gives the reason of those that died and did not come back."""
    problems = [f"{name} died and is missed ({reason}); start it again, or restart the head to forget it" for name, reason in
                lost.items()]  # fmt: skip
    problems += [f"{name} is alive for Ray and does not work: {silence.reason}" for name, silence in silences.items()]
    cpus, memory = (sum(node.resources.get(kind, 0) for node in alive) for kind in ("CPU", "memory"))
    found = f"{len(alive)}: {cpus:.0f} CPUs, {gib(memory)} for tasks"
    return verdict("nodes", problems, found, tuple({"node": node.name, **_size(node)} for node in alive))


def _size(node: Sized) -> dict[str, float]:
    return {kind: node.resources.get(kind, 0) for kind in ("CPU", "GPU", "memory", "object_store_memory")}


def judge_gpus(config: Config, nodes: Sequence[Sized], reports: Reports) -> Check:
    """Enough of them for training and for the service, each by itself, and the same driver and CUDA wherever there are any."""
    counts = {node.name: int(node.resources.get("GPU", 0)) for node in nodes}
    found = sum(counts.values())
    train = config.train.num_workers if config.train.use_gpu else 0
    problems = []
    if found < train:
        problems.append(f"{found}, and train.num_workers asks for {train}; add nodes, or lower it")
    problems += _wrong_for_serving(config, nodes, found)
    for name, report in reports.items():
        if len(report["gpus"]) > counts.get(name, 0) and found < train:
            problems.append(
                f"{name} has {len(report['gpus'])}, and Ray was told of {counts.get(name, 0)}; start it with --num-gpus there"
            )
    with_gpus = {name: report for name, report in reports.items() if report["gpus"]}
    drivers = {name: {"driver": report["gpus"][0]["driver"], "torch": report["versions"].get("torch")} for name, report in
               with_gpus.items()}  # fmt: skip
    problems += [f"{name} has {what} {has}, and most others {most}" for name, what, has, most in unlike(drivers)]
    if not found:
        return verdict("GPUs", problems, "none; training and serving use CPUs")
    kinds = Counter(gpu["name"] for report in with_gpus.values() for gpu in report["gpus"])
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "of a kind that nvidia-smi does not name"
    return verdict("GPUs", problems, f"{found}: {named}; train.num_workers asks for {train}")


def _wrong_for_serving(config: Config, nodes: Sequence[Sized], found: int) -> Iterator[str]:
    replicas = sum(pool.min_replicas for pool in config.serve.pools)
    try:
        each = choose_engine(config.serve.engine, replicas, [node.resources for node in nodes]).engine.num_gpus
    except ConfigError as error:
        yield str(error)
        return
    if each * replicas > found:
        yield f"{found}, and serve asks for {each * replicas:g} ({replicas} replicas with {each:g}); add nodes, or lower it"
    elif each > max((node.resources.get("GPU", 0) for node in nodes), default=0):
        yield f"no node has {math.ceil(each)}, which serve.engine.num_gpus asks for on one node"


def judge_disks(reports: Reports) -> Check:
    """Enough is free in each folder that jobs write to."""
    rows = [{"node": name, "for": purpose, **disk} for name, report in reports.items() for purpose, disk in
            report["disks"].items()]  # fmt: skip
    problems = [
        f"{row['node']} has {gib(row['free_bytes'])} free at {row['path']} ({row['for']}), and {gib(MIN_FREE_DISK_BYTES)} are "
        "wanted; make room there"
        for row in rows
        if row["free_bytes"] < MIN_FREE_DISK_BYTES
    ]
    least = min(rows, key=lambda row: int(row["free_bytes"]))
    found = f"{gib(least['free_bytes'])} free where least, at {least['path']} ({least['for']}) on {least['node']}"
    return verdict("disk", problems, found, tuple(rows))


def judge_memory(nodes: Sequence[Sized], reports: Reports) -> Check:
    """Some is free on each node, and Ray's objects have room in shared memory."""
    stores = {node.name: node.resources.get("object_store_memory", 0) for node in nodes}
    rows = [{"node": name, **(report["memory"] or {}), "shared_memory_bytes": report["shared_memory"]} for name, report in
            reports.items()]  # fmt: skip
    problems = []
    for row in rows:
        name, free, shared = row["node"], row.get("free_bytes"), row["shared_memory_bytes"]
        if free is not None and free < MIN_FREE_MEMORY_BYTES:
            problems.append(f"{name} has {gib(free)} free, and {gib(MIN_FREE_MEMORY_BYTES)} are wanted; see what runs there")
        if shared is not None and shared < stores.get(name, 0):
            problems.append(
                f"{name} has {gib(shared)} of /dev/shm for an object store of {gib(stores[name])}; enlarge it, or start Ray "
                "with a smaller --object-store-memory"
            )
    known = [row for row in rows if "free_bytes" in row]
    if not known:
        return verdict("memory", problems, "not told by this system", tuple(rows))
    least = min(known, key=lambda row: int(row["free_bytes"]))
    found = f"{gib(least['free_bytes'])} of {gib(least['total_bytes'])} free where least, on {least['node']}"
    return verdict("memory", problems, found, tuple(rows))


def judge_clocks(ahead: Mapping[str, tuple[float, float]]) -> Check:
    """All nodes have one time; `ahead` gives how many seconds each is ahead of one clock, and how sure that is."""
    middle = statistics.median_low([seconds for seconds, _ in ahead.values()] or [0])
    apart = {name: (seconds - middle, unsure) for name, (seconds, unsure) in ahead.items()}
    problems = [
        f"{name} is {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"
        for name, (seconds, unsure) in apart.items()
        if abs(seconds) - unsure > MAX_CLOCK_SECONDS
    ]
    rows = tuple(
        {"node": name, "ahead_seconds": seconds, "unsure_seconds": unsure} for name, (seconds, unsure) in apart.items()
    )
    widest = max((abs(seconds) for seconds, _ in apart.values()), default=0)
    unsure = max((unsure for _, unsure in apart.values()), default=0)
    found = f"{widest * 1e3:.0f} ms apart, to within {unsure * 1e3:.0f} ms"
    return verdict("clocks", problems, found, rows, right="; let NTP set the clocks")


def judge_store(uri: str, answers: Mapping[str, Any]) -> Check:
    """Every node can do with the store what jobs do, and has its time."""
    rows, problems = [], []
    for name, answer in answers.items():
        if isinstance(answer, Silence):
            problems.append(f"{name}: {answer.reason}")
            continue
        rows.append({"node": name, **answer})
        if "failed" in answer:
            problems.append(f"{name}: {answer['failed']}")
        ahead = answer["store_ahead_seconds"]
        if ahead is not None and abs(ahead) > MAX_STORE_CLOCK_SECONDS:
            problems.append(f"{name}: the store's clock is {ahead:+.0f} s from this node's; let NTP set both")
    slowest = max((row["read_milliseconds"] for row in rows if "failed" not in row), default=0)
    found = f"{uri}: written, read, listed and deleted from {len(rows)} node(s); a small read took {slowest:.1f} ms at most"
    return verdict("store", problems, found, tuple(rows))
