"""The checks one after the other; a node that is silent costs its time once, and is left out of what follows."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llumi.config import Config, StorageConfig
from llumi.doctor import judge, node
from llumi.doctor.alike import judge_versions
from llumi.doctor.check import Check, Silence, verdict
from llumi.doctor.guests import Guest, find_nodes, gather, guests_on
from llumi.doctor.links import Links, measure_links
from llumi.doctor.store import leave_mark, look_into_store, remove_mark
from llumi.doctor.switches import judge_outbound, judge_telemetry
from llumi.environment import OUTBOUND_OFF
from llumi.progress import Progress, silent

CLOCK_SAMPLES = 5
MARK_ATTEMPTS = 3


@dataclass(frozen=True)
class Patience:
    """How long a node has for an answer and a pair of nodes for each step, and how long all pairs have together."""

    answer_seconds: float = 20
    links_seconds: float = 300


def diagnose(config: Config, patience: Patience = Patience(), progress: Progress = silent) -> list[Check]:
    """Look at the cluster that Ray is connected to, and at the store of `config` from each of its nodes."""
    nodes, lost = find_nodes()
    with guests_on(nodes) as guests:
        progress("asking the nodes", 0)
        hellos = _ask(guests, patience.answer_seconds, node.look, tuple(OUTBOUND_OFF))
        reports = {name: answer for name, answer in hellos.items() if not isinstance(answer, Silence)}
        silences = {name: answer for name, answer in hellos.items() if isinstance(answer, Silence)}
        checks = [judge.judge_nodes(nodes, {found.name: found.reason for found in lost}, silences)]
        checks.append(judge.judge_gpus(config, nodes, reports))
        awake = [guest for guest in guests if guest.host.name in reports]
        if not awake:
            return checks
        checks += [judge_versions(reports), judge_telemetry(reports), judge_outbound(reports)]
        checks += [judge.judge_disks(reports), judge.judge_memory(nodes, reports)]
        checks.append(judge.judge_clocks(_clocks(awake, patience.answer_seconds)))
        checks.append(_links(measure_links(awake, patience.answer_seconds, patience.links_seconds, progress)))
        progress("the store from each node", 0)
        checks.append(judge.judge_store(config.storage.uri, _store(awake, config.storage, patience.answer_seconds)))
    return checks


def _ask(guests: Sequence[Guest], seconds: float, function: Any, *arguments: Any) -> dict[str, Any]:
    return gather({guest.host.name: guest.ask(function, *arguments) for guest in guests}, seconds)


def _clocks(guests: Sequence[Guest], seconds: float) -> dict[str, tuple[float, float]]:
    """How far each node is ahead of this process, and half the time of the quickest question (Cristian's algorithm)."""
    ahead = {}
    for guest in guests:
        samples = []
        for _ in range(CLOCK_SAMPLES):
            asked = time.time()
            answer = gather({"now": guest.ask(node.now)}, seconds)["now"]
            if isinstance(answer, Silence):
                break
            answered = time.time()
            samples.append(((answered - asked) / 2, answer - (asked + answered) / 2))
        if samples:
            unsure, offset = min(samples)
            ahead[guest.host.name] = offset, unsure
    return ahead


def _store(guests: Sequence[Guest], config: StorageConfig, seconds: float) -> dict[str, Any]:
    """What each node found; one of the first leaves a mark that all should see."""
    mark = secrets.token_hex(16).encode()
    answers: dict[str, Any] = {}
    for first in guests[:MARK_ATTEMPTS]:
        left = gather({first.host.name: first.ask(leave_mark, config, mark)}, seconds)
        if not isinstance(left[first.host.name], Silence):
            break
        answers |= left
    else:
        return answers
    able = [guest for guest in guests if guest.host.name not in answers]
    asked = {guest.host.name: guest.ask(look_into_store, config, mark, guest.host.node_id[:12]) for guest in able}
    answers |= gather(asked, seconds)
    gather({"removed": first.ask(remove_mark, config)}, seconds)
    return answers


def _links(links: Links) -> Check:
    problems = [f"{link.first} - {link.second}: {link.failed}" for link in links.tried if link.failed]
    rows = tuple(asdict(link) for link in links.tried)
    untried = f"; {links.num_untried} pair(s) were not tried" if links.num_untried else ""
    works = [link for link in links.tried if link.megabytes_per_second is not None]
    if not works or problems:
        return verdict("all-reduce", problems or ["no pair was tried"], "", rows, right=untried)
    slowest = min(works, key=lambda link: link.megabytes_per_second or 0)
    between = f"{slowest.first} - {slowest.second}" if slowest.first != slowest.second else "two processes of the one node"
    found = (
        f"{len(works)} pair(s) over {', '.join(sorted({link.backend for link in works}))}; slowest {between}: "
        f"{slowest.megabytes_per_second:.0f} MB/s, {slowest.latency_microseconds:.0f} µs{untried}"
    )
    return verdict("all-reduce", [], found, rows)
