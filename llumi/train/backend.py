"""How the ranks of a training run find one another."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from llumi.interfaces import speak_from


class _OnTheClustersNetwork(_TorchBackend):  # type: ignore[misc]  # ray is untyped
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_speak_from_this_node)
        super().on_start(worker_group, backend_config)


@dataclass
class ClusterTorchConfig(TorchConfig):  # type: ignore[misc]  # ray is untyped
    """Ray Train's own, whose ranks listen on the address by which the cluster knows their node."""

    @property
    def backend_cls(self) -> type[_OnTheClustersNetwork]:
        """See TorchConfig."""
        return _OnTheClustersNetwork


def _speak_from_this_node() -> None:
    speak_from(ray.util.get_node_ip_address())
