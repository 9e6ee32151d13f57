"""IM's pairs from votes: of GM's pairs those whose two replies are near in meaning, the weaker one as the draft."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from llumi.config import RevisionConfig
from llumi.pairs.finish import Survivors
from llumi.pairs.near import similarities
from llumi.pairs.revise import im_dpo, im_sft, in_sample, within_window
from llumi.pairs.totals import Totals
from llumi.progress import Progress
from llumi.storage import FileEntry, parquet

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
    for number in range(num_buckets):
        _write_bucket(totals, survivors, folder, number, kept)
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


def _write_bucket(totals: Totals, survivors: Survivors, folder: str, number: int, nearness: pl.DataFrame) -> None:
    pairs, _ = survivors.pairs(number)
    pairs = pairs.join(nearness.rename({"pair_id": "example_id"}), on="example_id", how="inner", maintain_order="left")
    near = survivors.texts(number).of(pairs)
    for split in ("train", "test"):
        rows = near.filter(split=split)
        for name, table in ((f"im-sft/{split}", im_sft(rows)), (f"im-dpo/{split}", im_dpo(rows))):
            if table.num_rows:
                content = parquet(table)
                path = f"{name}/part-{number:05}.parquet"
                survivors.storage.write(f"{folder}/{path}", content)
                totals.files.append(FileEntry.of(path, content))
                totals.num_rows[name] += table.num_rows


def _window(config: RevisionConfig) -> dict[str, Any]:
    return config.model_dump(include={"min_similarity", "max_similarity"})
