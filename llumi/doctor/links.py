"""All-reduce over every pair of nodes: many pairs side by side, no node in two of them at once."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray._private.state import available_resources_per_node

from llumi.doctor.allreduce import all_reduce, open_port, rounds
from llumi.doctor.check import Silence
from llumi.doctor.guests import Guest, gather
from llumi.progress import Progress, silent

GIVE_UP_AFTER = 3
"""So many partners a node is tried with before it is left alone, where it reached none of them."""


@dataclass(frozen=True)
class Link:
    """A pair of nodes, and how fast they reduce together; `failed` says why they do not."""

    first: str
    second: str
    backend: str
    latency_microseconds: float | None = None
    megabytes_per_second: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Links:
    """All pairs that were tried, and those for which there was no time or no hope."""

    tried: tuple[Link, ...]
    num_untried: int


def measure_links(guests: Sequence[Guest], seconds: float, most_seconds: float, progress: Progress = silent) -> Links:
    """All-reduce over every pair of the guests' nodes; on one node, over two processes there.

    NCCL where both nodes have a GPU that nobody uses, else gloo. A pair has `seconds` for each step of its own, and no
    round starts after `most_seconds`.
    """
    on_gpus = _guests_on_gpus(guests)
    by_gloo = list(guests) if len(guests) > 1 else [*guests, *(Guest(guest.host) for guest in guests)]
    extra = [guest for guest in by_gloo if guest not in guests] + [guest for guest in on_gpus if guest is not None]
    try:
        return _tournament(by_gloo, on_gpus, seconds, most_seconds, progress)
    finally:
        for guest in extra:
            guest.leave()


def _guests_on_gpus(guests: Sequence[Guest]) -> list[Guest | None]:
    """A guest with a GPU of its own on each node that has one to give, so that nothing that runs is disturbed."""
    free = available_resources_per_node()
    wanted = 1 if len(guests) > 1 else 2
    hosts = [guest.host for guest in guests] * (1 if len(guests) > 1 else 2)
    return [Guest(host, num_gpus=1) if free.get(host.node_id, {}).get("GPU", 0) >= wanted else None for host in hosts]


def _tournament(
    by_gloo: Sequence[Guest], on_gpus: Sequence[Guest | None], seconds: float, most_seconds: float, progress: Progress
) -> Links:
    reached: Counter[int] = Counter()
    missed: Counter[int] = Counter()
    tried: list[Link] = []
    started, num_pairs = time.monotonic(), len(by_gloo) * (len(by_gloo) - 1) // 2
    progress("all-reduce over pairs of nodes", 0, num_pairs)
    for pairs in rounds(len(by_gloo)):
        hopeless = {player for player, times in missed.items() if times >= GIVE_UP_AFTER and not reached[player]}
        playing = [pair for pair in pairs if not hopeless.intersection(pair)]
        if time.monotonic() - started > most_seconds:
            break
        for pair, link in zip(playing, _round([_meeting(by_gloo, on_gpus, *pair) for pair in playing], seconds), strict=True):
            (missed if link.failed else reached).update(pair)
            tried.append(link)
        progress("all-reduce over pairs of nodes", len(tried), num_pairs)
    return Links(tuple(tried), num_pairs - len(tried))


def _meeting(by_gloo: Sequence[Guest], on_gpus: Sequence[Guest | None], first: int, second: int) -> tuple[Guest, Guest, str]:
    one, other = on_gpus[first], on_gpus[second]
    return (by_gloo[first], by_gloo[second], "gloo") if one is None or other is None else (one, other, "nccl")


def _round(meetings: Sequence[tuple[Guest, Guest, str]], seconds: float) -> list[Link]:
    """All meetings at the same time; whoever did not answer in time is replaced before the next round."""
    ports = gather({at: first.ask(open_port) for at, (first, _, _) in enumerate(meetings)}, 2 * seconds)
    asked = {}
    for at, (first, second, backend) in enumerate(meetings):
        if not isinstance(ports[at], Silence):
            addresses = (first.host.address, second.host.address)
            for rank, guest in enumerate((first, second)):
                asked[at, rank] = guest.ask(all_reduce, rank, addresses, ports[at], backend, seconds)
    # A step to meet, one to reduce, and one for a process that starts and imports torch.
    answers = gather(asked, 3 * seconds)
    links = []
    for at, (first, second, backend) in enumerate(meetings):
        link = _link(first, second, backend, [answers.get((at, rank), ports[at]) for rank in (0, 1)])
        if link.failed:
            first.leave()
            second.leave()
        links.append(link)
    return links


def _link(first: Guest, second: Guest, backend: str, answers: Sequence[Any]) -> Link:
    names = first.host.name, second.host.name, backend
    for name, answer in zip(names, answers, strict=False):
        if isinstance(answer, Silence):
            return Link(*names, failed=f"{name}: {answer.reason}")
    for answer in answers:
        if "failed" in answer:
            return Link(*names, failed=answer["failed"])
    slowest = max(answers, key=lambda answer: float(answer["latency_microseconds"]))
    speed = min(answer["megabytes_per_second"] for answer in answers)
    return Link(*names, latency_microseconds=slowest["latency_microseconds"], megabytes_per_second=speed)
