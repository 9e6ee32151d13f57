"""How near each revision is to its draft, on the cluster: Ray Data carries pairs through actors that embed sentences."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from llumi import errors
from llumi.config import RevisionConfig
from llumi.embedding import Embedder
from llumi.errors import ConfigError, LlumiError

PAIRS_PER_BATCH = 256
"""Enough that texts of like length find each other, few enough that progress shows."""

FAILURE = "failure"


def similarities(pairs: ray.data.Dataset, config: RevisionConfig) -> Iterator[pa.Table]:
    """Tables of pair_id and similarity (null where a side is blank), in no set order, as batches are done.

    `pairs` has the columns pair_id, draft and revision. A batch of texts is held at a time; what a pair gets depends on
    its own two texts alone. Raises ModelError where a node lacks the embedding model, ConfigError without room.
    """
    measured = pairs.map_batches(
        Comparer,
        fn_constructor_args=(device(config),),
        batch_size=PAIRS_PER_BATCH,
        batch_format="pyarrow",
        **embedder_pool(config),
    )
    for table in measured.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield nearness_of(table)


def nearness_of(table: pa.Table) -> pa.Table:
    """What a `Comparer` returned; raises the error that it met."""
    if FAILURE in table.column_names:
        raise getattr(errors, table[FAILURE][0].as_py())(table["message"][0].as_py())
    return table


def embedder_pool(config: RevisionConfig) -> dict[str, Any]:
    """What `map_batches` is told of the actors that embed; raises ConfigError where the cluster cannot hold them."""
    wanted = {"CPU": config.num_actors + 1, "GPU": config.num_actors * config.num_gpus}
    for resource, amount in wanted.items():
        there = ray.cluster_resources().get(resource, 0)
        if there < amount:
            # One CPU stays free: a pool that holds every CPU would wait forever for the tasks that feed it.
            raise ConfigError(
                f"pairs.revisions.num_actors: {config.num_actors} actors and the tasks that feed them need {amount:g} "
                f"{resource}s, the cluster has {there:g}; add nodes, or ask for less"
            )
    pool = ray.data.ActorPoolStrategy(size=config.num_actors)
    return {"num_cpus": 1, "num_gpus": config.num_gpus, "compute": pool}


def device(config: RevisionConfig) -> str:
    """Where the actors embed, in torch's terms."""
    return "cuda" if config.num_gpus else "cpu"


class Comparer:
    """A Ray Data actor: it holds the embedding model.

    An error comes back as a row: what is raised in an actor loses its type, and Ray prints its traceback.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self._device)

    def __call__(self, pairs: pa.Table) -> pa.Table:
        """pair_id and similarity of each row, in the same order; or one row that says what went wrong."""
        try:
            nearness = self._embedder.similarities(pairs["draft"].to_pylist(), pairs["revision"].to_pylist())
        except LlumiError as error:
            return pa.table({FAILURE: [type(error).__name__], "message": [str(error)]})
        return pa.table({"pair_id": pairs["pair_id"], "similarity": pa.array(nearness, pa.float64(), mask=np.isnan(nearness))})
