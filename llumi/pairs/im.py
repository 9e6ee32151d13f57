"""IM's pairs from votes: of GM's pairs those whose two replies are near in meaning, the weaker one as the draft."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from llumi.config import RevisionConfig
from llumi.pairs.finish import Survivors, part, written
from llumi.pairs.near import similarities
from llumi.pairs.passes import over_buckets
from llumi.pairs.revise import im_dpo, im_sft, in_sample, within_window
from llumi.pairs.totals import Totals
from llumi.progress import Progress

NOT_SAMPLED = "not_sampled"


def build_im(totals: Totals, survivors: Survivors, folder: str, num_buckets: int, progress: Progress) -> None:
    """Write IM's tables into `folder` of scratch and add them to `totals`; nothing where `revisions.source` is none."""
    config = totals.config.revisions
    num_pairs = totals.pairs.kept
    if config.source == "none":
        return
    # A share of all ranks, and not the exact number: it takes no look at all pairs first.
    bound = None if num_pairs <= config.max_pairs else int(2**64 * (config.max_pairs / num_pairs))
    read = _Read(survivors, bound)
    numbers = [{"bucket": number} for number in range(num_buckets)]
    pairs = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        read, batch_size=1, batch_format="pyarrow", num_cpus=1
    )
    measured = []
    for table in similarities(pairs, config):
        measured.append(table)
        progress("compare meanings", sum(len(part) for part in measured), min(num_pairs, config.max_pairs))
    empty = pl.DataFrame(schema={"pair_id": pl.String, "similarity": pl.Float64})
    nearness = pl.concat([empty, *(pl.DataFrame(pl.from_arrow(table)) for table in measured)])
    dropped = Counter({NOT_SAMPLED: num_pairs - nearness.height})
    kept, outside = within_window(nearness, config)
    dropped += outside
    for result in over_buckets(num_buckets, _Write(survivors, folder, kept), "write revisions", progress):
        totals.add_tables(result)
    totals.revisions = {"pairs": num_pairs, "kept": kept.height, "dropped": dict(dropped), "window": _window(config)}


@dataclass(frozen=True)
class _Read:
    """The pairs of one bucket in which both replies are to be compared."""

    survivors: Survivors
    bound: int | None

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        (number,) = batch["bucket"].to_pylist()
        pairs, _ = self.survivors.pairs(number)
        sample = pairs.filter(in_sample(pairs["example_id"], self.bound))
        texts = self.survivors.texts(number).of(sample)
        slim = texts.select(pair_id="example_id", draft="body_rejected", revision="body")
        yield slim.to_arrow(compat_level=pl.CompatLevel.oldest())


@dataclass(frozen=True)
class _Write:
    """IM's tables of one bucket, into `folder` of scratch; `nearness` is that of all pairs that are near."""

    survivors: Survivors
    folder: str
    nearness: pl.DataFrame

    def __call__(self, number: int) -> dict[str, Any]:
        """The files and their rows."""
        pairs, _ = self.survivors.pairs(number)
        nearness = self.nearness.rename({"pair_id": "example_id"})
        near = self.survivors.texts(number).of(pairs.join(nearness, on="example_id", how="inner", maintain_order="left"))
        tables: dict[str, pa.Table] = {}
        for split in ("train", "test"):
            rows = near.filter(split=split)
            tables |= {f"im-sft/{split}": im_sft(rows), f"im-dpo/{split}": im_dpo(rows)}
        return written(self.survivors.storage, self.folder, part(number), tables)


def _window(config: RevisionConfig) -> dict[str, Any]:
    return config.model_dump(include={"min_similarity", "max_similarity"})
