"""The first pass over a corpus: every record goes into the bucket of its post while the dumps are being read."""

import math
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from llumi.config import Config
from llumi.corpus.chunks import FileReport, FileReports, map_chunks, refuse_truncated
from llumi.corpus.clean import OUTSIDE, Rules, Tally, clean_lines, count_reasons
from llumi.corpus.dump import Chunk, Corpus, Dump
from llumi.corpus.months import Months, count_months
from llumi.corpus.privacy import Pseudonymizer
from llumi.corpus.reddit import Kind
from llumi.pairs.scratch import Exchange
from llumi.progress import Progress
from llumi.storage import Storage

BUCKET_BYTES = 96 * 2**20
"""At most about this much of the dumps' text goes into one bucket, so that memory does not grow with the corpus."""

NOT_TOP_LEVEL = "not_top_level"

_TEXT_PER_COMPRESSED_BYTE = {"plain": 1, "zstd": 10, "gzip": 6, "parquet": 6}
_MAX_BUCKETS = 4096

POST_ROWS = pa.schema(
    [
        ("post_id", pa.uint64()),
        ("post", pa.large_string()),
        ("retrieved_on", pa.int64()),
        ("position", pa.int64()),
        ("reason", pa.large_string()),
        ("community", pa.large_string()),
        ("author", pa.large_string()),
        ("created_utc", pa.int64()),
        ("text", pa.large_string()),
    ]
)
"""A capture of a post: `reason` is null where it is kept, else `text` is empty.

`post_id` is a keyed hash, a number that is quick to sort and join and means something in scratch alone; `post` is the
pseudonym of the post, and `author` that of its author.
"""

COMMENT_ROWS = pa.schema(
    [
        ("id", pa.uint64()),
        ("post_id", pa.uint64()),
        ("retrieved_on", pa.int64()),
        ("position", pa.int64()),
        ("reason", pa.large_string()),
        ("author", pa.large_string()),
        ("created_utc", pa.int64()),
        ("score", pa.int64()),
        ("body", pa.large_string()),
    ]
)
"""A capture of a top-level reply: `id` is a keyed hash that is unique within the post, `score` null where it has none.

Author and `body` are empty where the reply is dropped.
"""


@dataclass(frozen=True)
class Partition:
    """What the first pass left: the rows in scratch, and the lines that have none there.

    A tally of `lines` counts all records; of its drops only those without a row, as the newest capture decides the rest.
    """

    posts: Exchange
    comments: Exchange
    lines: dict[Kind, Tally]
    months: Months = field(default_factory=Months)
    files: list[FileReport] = field(default_factory=list)

    @property
    def num_buckets(self) -> int:
        """How many parts the second pass has."""
        return self.posts.num_buckets


def partition_corpus(
    corpus: Corpus, config: Config, storage: Storage, folder: str, *, progress: Progress, chunk_bytes: int
) -> Partition:
    """Read all dumps into `folder` of scratch; raises CorpusError where one is truncated and the config refuses that."""
    buckets = num_buckets(corpus, config)
    partition = Partition(
        Exchange(storage, folder, buckets, POST_ROWS),
        Exchange(storage, folder, buckets, COMMENT_ROWS),
        {"posts": Tally(), "comments": Tally()},
    )
    files = FileReports(corpus)
    numbers = {dump.path: number for number, dump in enumerate(corpus.dumps)}
    work = Partitioning(Rules.of(config.corpus), Pseudonymizer.open(config), partition.posts, partition.comments, numbers)
    cores = usable_cores()
    # A reader feeds several parsers; of lines that are mostly passed over it feeds hardly one.
    readers = cores if config.corpus.communities else max(1, cores // 2)
    findings = map_chunks(
        ray.data.from_items, corpus, work, progress, num_readers=readers, num_workers=max_tasks(), chunk_bytes=chunk_bytes
    )
    for finding in findings:
        lines = Tally.from_counts(finding.result["lines"])
        files.add(finding, lines.records)
        partition.lines[finding.dump.kind].add(lines)
        partition.months.add(finding.result["months"])
        (partition.posts if finding.dump.kind == "posts" else partition.comments).add(finding.result["paths"])
    partition.files.extend(files.all())
    if config.corpus.truncated == "refuse":
        refuse_truncated(corpus.uri, partition.files)
    return partition


def usable_cores() -> int:
    """How many tasks can compute at once: a local cluster counts more CPUs than it has cores, so that services fit.

    Each further worker process costs seconds of start and a few hundred MiB, and computes nothing more.
    """
    num_nodes = sum(1 for node in ray.nodes() if node["Alive"])
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    return max(1, min(num_cpus, num_nodes * (os.cpu_count() or 1)))


def max_tasks() -> int:
    """How many tasks of a pass run at once: one that waits for Ray's next word leaves its core to the one too many."""
    return usable_cores() + 1


def num_buckets(corpus: Corpus, config: Config) -> int:
    """As many as `pairs.num_buckets` says, or more where a bucket would be too large for a task."""
    text = sum(dump.num_bytes * _TEXT_PER_COMPRESSED_BYTE[dump.form] for dump in corpus.dumps)
    return min(max(config.pairs.num_buckets, math.ceil(text / BUCKET_BYTES)), _MAX_BUCKETS)


@dataclass(frozen=True)
class Partitioning:
    """The work of the first pass on one chunk: clean, replace identifiers, write every record into its post's bucket."""

    rules: Rules
    pseudonymizer: Pseudonymizer
    posts: Exchange
    comments: Exchange
    dump_numbers: dict[str, int]

    def __call__(self, dump: Dump, chunk: Chunk) -> dict[str, Any]:
        """The paths of what was written, the tally for `Partition.lines`, and the months of its comments."""
        records, tally = clean_lines(chunk.data, dump.kind, self.rules)
        number = self.dump_numbers[dump.path]
        first = (number << 44) + (chunk.index << 24)
        records = records.with_columns(position=pl.int_range(pl.len(), dtype=pl.Int64) + first)
        rowless = Counter[str]()
        if OUTSIDE in tally.dropped:
            rowless[OUTSIDE] = tally.dropped[OUTSIDE]
            records = records.filter(pl.col("reason").ne_missing(OUTSIDE))
        months = count_months(records) if dump.kind == "comments" else {}
        if dump.kind == "comments":
            has_row = records["is_top_level"] & (records["post_id"] != "")
            rowless += count_reasons(records.filter(~has_row)["reason"].fill_null(NOT_TOP_LEVEL))
            records = records.filter(has_row)
        rows, buckets = self._comment_rows(records) if dump.kind == "comments" else self._post_rows(records)
        exchange = self.comments if dump.kind == "comments" else self.posts
        paths = exchange.write(f"{dump.kind}-{number:05}-{chunk.index:06}", rows, buckets)
        return {"paths": paths, "lines": Tally(tally.records, tally.malformed, 0, rowless).as_counts(), "months": months}

    def _post_rows(self, posts: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        title, body = pl.col("title").str.strip_chars(), pl.col("body").str.strip_chars()
        both = pl.when((title != "") & (body != "")).then(title + "\n\n" + body).otherwise(title + body)
        is_kept = pl.col("reason").is_null()
        rows = posts.with_columns(
            self.pseudonymizer.hashed("post", posts["id"]).alias("post_id"),
            self.pseudonymizer.column("post", posts["id"]).alias("post"),
            self.pseudonymizer.column("author", posts["author"]).alias("author"),
            text=pl.when(is_kept).then(both).otherwise(pl.lit("")),
        )
        return rows, self._buckets(rows["post_id"])

    def _comment_rows(self, comments: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        is_kept = comments["reason"].is_null()
        rows = comments.with_columns(
            self.pseudonymizer.hashed("comment", comments["id"]).alias("id"),
            self.pseudonymizer.hashed("post", comments["post_id"]).alias("post_id"),
            self.pseudonymizer.column("author", comments["author"].zip_with(is_kept, pl.Series([""]))).alias("author"),
            body=pl.when(is_kept).then(pl.col("body").str.strip_chars()).otherwise(pl.lit("")),
        )
        return rows, self._buckets(rows["post_id"])

    def _buckets(self, post_ids: pl.Series) -> pl.Series:
        return (post_ids % self.posts.num_buckets).cast(pl.Int64)
