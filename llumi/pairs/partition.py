"""The first pass over a corpus: every record goes into the bucket of its post while the dumps are being read.

Each chunk of a dump becomes one Arrow file in scratch that holds one record batch for each bucket, so that the second
pass reads a bucket with one ranged read per file. Nothing larger than a chunk or a bucket is ever in memory.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import ray

from llumi.config import Config
from llumi.corpus.chunks import FileReport, FileReports, map_chunks, refuse_truncated
from llumi.corpus.clean import OUTSIDE, Kind, Rules, Tally, clean_lines
from llumi.corpus.dump import Chunk, Corpus, Dump
from llumi.corpus.privacy import Pseudonymizer
from llumi.corpus.reddit import POST_PREFIX
from llumi.pairs.bucket import COMMENT_ROWS, POST_ROWS
from llumi.progress import Progress
from llumi.prompts import post_text
from llumi.records import Comment, Drop, Post
from llumi.storage import Storage, store_errors

BUCKET_BYTES = 512 * 2**20
"""At most about this much of the dumps' text goes into one bucket."""

_TEXT_PER_COMPRESSED_BYTE = 10
_MAX_BUCKETS = 4096
SCHEMAS: dict[Kind, pa.Schema] = {"posts": POST_ROWS, "comments": COMMENT_ROWS}


@dataclass(frozen=True)
class Partition:
    """What the first pass left: the files of scratch by kind, and the lines that have no row in them.

    A tally of `lines` counts all records; of its drops only those without a row, as the newest capture decides the rest.
    """

    num_buckets: int
    paths: dict[Kind, list[str]]
    lines: dict[Kind, Tally]
    files: list[FileReport]

    def read(self, filesystem: pafs.FileSystem, kind: Kind, bucket: int, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of one bucket, or some of their columns only."""
        schema = SCHEMAS[kind]
        fields = [schema.get_field_index(name) for name in columns or schema.names]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        batches = []
        with store_errors("scratch"):
            for path in self.paths[kind]:
                with filesystem.open_input_file(path) as stream:
                    batches.append(pa.ipc.open_file(stream, options=options).get_batch(bucket))
        return pa.Table.from_batches(batches, pa.schema([schema.field(number) for number in fields]))


def partition_corpus(
    corpus: Corpus,
    config: Config,
    storage: Storage,
    folder: str,
    *,
    progress: Progress,
    chunk_bytes: int,
) -> Partition:
    """Read all dumps into `folder` of scratch; raises CorpusError where one is truncated and the config refuses that."""
    if storage.is_local:
        with store_errors(storage.uri):
            storage.filesystem.create_dir(folder, recursive=True)
    partition = Partition(
        num_buckets(corpus, config), {"posts": [], "comments": []}, {"posts": Tally(), "comments": Tally()}, []
    )
    files = FileReports(corpus)
    numbers = {dump.path: number for number, dump in enumerate(corpus.dumps)}
    work = Partitioning(
        Rules.of(config.corpus), Pseudonymizer.open(config), storage.filesystem, folder, partition.num_buckets, numbers
    )
    for finding in map_chunks(ray.data.from_items, corpus, work, progress, chunk_bytes=chunk_bytes):
        lines = Tally.from_counts(finding.result["lines"])
        files.add(finding, lines.records)
        partition.lines[finding.dump.kind].add(lines)
        if finding.result["path"]:
            partition.paths[finding.dump.kind].append(finding.result["path"])
    partition.files.extend(files.all())
    if config.corpus.truncated == "refuse":
        refuse_truncated(corpus.uri, partition.files)
    return partition


def num_buckets(corpus: Corpus, config: Config) -> int:
    """As many as `pairs.num_buckets` says, or more where a bucket would be too large for a task."""
    text = sum(dump.num_bytes * (_TEXT_PER_COMPRESSED_BYTE if dump.is_compressed else 1) for dump in corpus.dumps)
    return min(max(config.pairs.num_buckets, math.ceil(text / BUCKET_BYTES)), _MAX_BUCKETS)


@dataclass(frozen=True)
class Partitioning:
    """The work of the first pass on one chunk: clean, replace identifiers, write one batch per bucket."""

    rules: Rules
    pseudonymizer: Pseudonymizer
    filesystem: pafs.FileSystem
    folder: str
    num_buckets: int
    dump_numbers: dict[str, int]

    def __call__(self, dump: Dump, chunk: Chunk) -> dict[str, Any]:
        """The path of what was written ("" for nothing), and the tally for `Partition.lines`."""
        tally, rowless = Tally(), Counter[str]()
        first = (self.dump_numbers[dump.path] << 44) + (chunk.index << 24)
        rows: list[tuple[Any, ...]] = []
        for record in clean_lines(chunk.data.split(b"\n"), dump.kind, self.rules, tally):
            if isinstance(record, Drop) and (record.reason == OUTSIDE or not record.post_id):
                rowless[record.reason] += 1
            else:
                row = self._post_row if dump.kind == "posts" else self._comment_row
                rows.append(row(record, first + len(rows)))
        path = f"{self.folder}/{dump.kind}-{self.dump_numbers[dump.path]:05}-{chunk.index:06}.arrow" if rows else ""
        if rows:
            self._write(path, dump.kind, rows)
        return {"path": path, "lines": Tally(tally.records, tally.malformed, 0, rowless).as_counts()}

    def _post_row(self, record: Post | Comment | Drop, position: int) -> tuple[Any, ...]:
        reason = record.reason if isinstance(record, Drop) else None
        text = post_text(record.title, record.body) if isinstance(record, Post) else ""
        return self.pseudonymizer.pseudonym("post", record.id), record.retrieved_on, position, reason, record.community, text

    def _comment_row(self, record: Post | Comment | Drop, position: int) -> tuple[Any, ...]:
        assert not isinstance(record, Post)  # noqa: S101  (a comments file gives none)
        is_top_level = record.parent_id.startswith(POST_PREFIX)
        return (
            self.pseudonymizer.pseudonym("comment", record.id),
            record.retrieved_on,
            position,
            record.reason if isinstance(record, Drop) else None,
            self.pseudonymizer.pseudonym("post", record.post_id),
            is_top_level,
            record.score,
            record.body.strip() if is_top_level and isinstance(record, Comment) else "",
        )

    def _write(self, path: str, kind: Kind, rows: list[tuple[Any, ...]]) -> None:
        """One Arrow file whose n-th record batch is the n-th bucket."""
        schema = SCHEMAS[kind]
        columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
        post_ids = columns[schema.get_field_index("id" if kind == "posts" else "post_id")].to_pylist()
        buckets = np.array([int(post_id[:8], 16) % self.num_buckets for post_id in post_ids])
        batch = pa.record_batch(columns, schema).take(pa.array(np.argsort(buckets, kind="stable")))
        ends = np.cumsum(np.bincount(buckets, minlength=self.num_buckets))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            for start, end in zip((0, *ends[:-1]), ends, strict=True):
                writer.write_batch(batch.slice(start, end - start))
        with store_errors("scratch"), self.filesystem.open_output_stream(path) as stream:
            stream.write(sink.getvalue())
