"""One pass over all buckets, each a task of Ray Data."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray

from llumi.corpus.chunks import attempt, outcomes
from llumi.pairs.partition import max_tasks
from llumi.progress import Progress

Work = Callable[[int], dict[str, Any]]


def over_buckets(num_buckets: int, work: Work, what: str, progress: Progress) -> Iterator[dict[str, Any]]:
    """What `work` gives for each bucket, in no set order."""

    def on_one(batch: pa.Table) -> pa.Table:
        (number,) = batch["bucket"].to_pylist()
        return pa.table({"outcome": [attempt(lambda: work(number))]})

    numbers = [{"bucket": number} for number in range(num_buckets)]
    dataset = ray.data.from_items(numbers, override_num_blocks=len(numbers))
    done = dataset.map_batches(on_one, batch_size=1, batch_format="pyarrow", num_cpus=1, concurrency=max_tasks())
    for count, (_, result) in enumerate(outcomes(done), start=1):
        progress(what, count, num_buckets)
        yield result
