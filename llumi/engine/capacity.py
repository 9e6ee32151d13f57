"""Whether a cluster can hold the engines that a config asks for: said at once, where a scheduler would wait in silence."""

from collections.abc import Mapping, Sequence

from llumi.config import EngineConfig
from llumi.errors import ConfigError


def require_room(where: str, wanted: int, engine: EngineConfig, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise ConfigError unless `wanted` engines fit on `nodes` together, each on one node.

    `where` is the section of the engine ("generate.engine"); a node is its Ray resources ("CPU", "GPU").
    """
    for resource, key, each in (("GPU", "num_gpus", engine.num_gpus), ("CPU", "num_cpus", engine.num_cpus)):
        # Not `//`, by which ten times 0.1 would not fit into 1.
        fitting = sum(int(node.get(resource, 0) / each) for node in nodes) if each else wanted
        if fitting < wanted:
            there = ", ".join(f"{node.get(resource, 0):g}" for node in nodes) or "none"
            raise ConfigError(
                f"{where}.{key}: {wanted} engines of {each:g} {resource} each do not fit "
                f"({resource}s per node: {there}); add nodes, or ask for less"
            )
