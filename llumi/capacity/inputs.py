"""What a plan is asked for."""

from dataclasses import dataclass

from llumi.capacity.gpus import Gpu
from llumi.capacity.shapes import Shape
from llumi.config import TrainConfig
from llumi.errors import ConfigError


@dataclass(frozen=True)
class Hardware:
    """What there is. Bandwidths are bytes a second, as `llumi doctor` measures them on a cluster that stands.

    `network_bandwidth` is that of one node to another; `store_bandwidth` is what the store takes in or gives out in all.
    """

    gpu: Gpu
    num_gpus: int
    gpus_per_node: int
    cores: int
    network_bandwidth: float
    store_bandwidth: float
    store_read_seconds: float

    @property
    def num_nodes(self) -> int:
        """Nodes that hold the GPUs."""
        return -(-self.num_gpus // self.gpus_per_node)


@dataclass(frozen=True)
class Question:
    """A corpus, of which `share` are comments of communities that are wanted, a model, and the settings of its training."""

    num_comments: float
    share: float
    shape: Shape
    train: TrainConfig
    hardware: Hardware
    num_replies: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"--share {self.share:g}: the share of the comments that are wanted is above 0 and at most 1")
        if self.num_comments < 1:
            raise ConfigError(f"--comments {self.num_comments:g}: give a number of comments, such as 1e9")

    @property
    def wanted(self) -> float:
        """Comments of communities that are wanted."""
        return self.num_comments * self.share
