"""A process of ours on each node, which does what it is asked, and answers in time or counts as silent."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llumi import interfaces
from llumi.doctor import allreduce, node
from llumi.doctor.check import Silence

Key = TypeVar("Key")

_UNEXPECTED = (2, 3)
"""Ray's reasons for the death of a node after which it is missed: it went silent, or was taken away. Others said good-bye."""

_SENT_AS_CODE: tuple[ModuleType, ...] = (node, allreduce, interfaces)


@dataclass(frozen=True)
class Node:
    """A node of the cluster that Ray takes for alive."""

    node_id: str
    address: str
    name: str
    resources: Mapping[str, float]

    @property
    def num_gpus(self) -> int:
        """The GPUs that Ray was told of."""
        return int(self.resources.get("GPU", 0))


@dataclass(frozen=True)
class Lost:
    """A node that died and did not come back."""

    name: str
    reason: str


def find_nodes() -> tuple[list[Node], list[Lost]]:
    """The nodes that are alive, the head first, and those that are missed."""
    known = ray.nodes()
    here = [entry for entry in known if entry["Alive"]]
    here.sort(key=lambda entry: ("node:__internal_head__" not in entry["Resources"], entry["NodeName"]))
    back = Counter(entry["NodeName"] for entry in here)
    alive = [Node(entry["NodeID"], entry["NodeManagerAddress"], _name(entry, back), entry["Resources"]) for entry in here]
    lost = {entry["NodeName"]: entry for entry in known if not entry["Alive"] and entry["DeathReason"] in _UNEXPECTED}
    missed = [Lost(name, _one_line(entry["DeathReasonMessage"])) for name, entry in lost.items() if name not in back]
    return alive, sorted(missed, key=lambda found: found.name)


def _name(entry: Mapping[str, Any], names: Mapping[str, int]) -> str:
    """What `ray start` called it, by default its address; where several have one name, also the beginning of its id."""
    name: str = entry["NodeName"]
    return name if names[name] == 1 else f"{name} ({entry['NodeID'][:6]})"


class Guest:
    """A process on one node, with GPUs of its own where it asks for some; a process that hangs or dies can be renewed."""

    def __init__(self, host: Node, num_gpus: int = 0) -> None:
        self.host = host
        self._options = {
            "scheduling_strategy": NodeAffinitySchedulingStrategy(host.node_id, soft=False),
            "num_cpus": 0,
            "num_gpus": num_gpus,
        }
        self._actor: Any = None

    def ask(self, function: Callable[..., Any], *arguments: Any) -> "ray.ObjectRef[Any]":
        """Have `function` run there; what it gives, or why it fails, is in the reference."""
        if self._actor is None:
            self._actor = ray.remote(node.Worker).options(**self._options).remote()
        return self._actor.call.remote(function, arguments)

    def leave(self) -> None:
        """End the process, also one that hangs; the next question starts another."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None


@contextmanager
def guests_on(nodes: Sequence[Node]) -> Iterator[list[Guest]]:
    """A guest on each node, until the end of the block."""
    for module in _SENT_AS_CODE:
        ray.cloudpickle.register_pickle_by_value(module)
    guests = [Guest(host) for host in nodes]
    try:
        yield guests
    finally:
        for guest in guests:
            guest.leave()
        for module in _SENT_AS_CODE:
            ray.cloudpickle.unregister_pickle_by_value(module)


def gather(asked: Mapping[Key, "ray.ObjectRef[Any]"], seconds: float) -> dict[Key, Any]:
    """The answers of all that answer within `seconds` from now, and a Silence in the place of each other one."""
    references = list(asked.values())
    ready = set(ray.wait(references, num_returns=len(references), timeout=seconds)[0]) if references else set()
    silent = Silence(f"no answer in {seconds:g} s")
    return {key: _answer(reference) if reference in ready else silent for key, reference in asked.items()}


def _answer(reference: "ray.ObjectRef[Any]") -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        return Silence(_one_line(str(error.cause)) if error.cause is not None else _one_line(str(error)))
    except RayError as error:
        return Silence(_one_line(str(error)))


def _one_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0][:200] if lines else "no reason given"
