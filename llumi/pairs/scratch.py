"""Rows that change hands between two passes: grouped by bucket in scratch, with nothing large ever in memory.

Every task of a pass writes one Arrow file with one record batch for each bucket, so that a task of the next pass reads
its bucket with one ranged read per file.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa

from llumi.storage import Storage, at_once, delete_tree, retried, store_errors


@contextlib.contextmanager
def scratch_folder(storage: Storage, name: str) -> Iterator[str]:
    """A folder below the root for what lies between passes; it goes with them, or at the next attempt after a crash."""
    scratch = f"scratch/pairs-{name}"
    with store_errors(storage.uri):
        delete_tree(storage.filesystem, storage.path(scratch))
        try:
            yield scratch
        finally:
            delete_tree(storage.filesystem, storage.path(scratch))


@dataclass(frozen=True)
class Exchange:
    """The files of one kind of rows: `schema` is that of every file, `folder` lies below the root of the store."""

    storage: Storage
    folder: str
    num_buckets: int
    schema: pa.Schema
    paths: list[str] = field(default_factory=list)

    def write(self, name: str, rows: pl.DataFrame, buckets: pl.Series) -> list[str]:
        """Write the rows of one task, each into its bucket; the paths for `paths` (none for no rows)."""
        if rows.is_empty():
            return []
        order = buckets.arg_sort()
        table = rows.select(self.schema.names)[order].to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self.schema)
        (batch,) = table.combine_chunks().to_batches(max_chunksize=None)
        ends = np.cumsum(np.bincount(buckets.to_numpy(), minlength=self.num_buckets))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            for start, end in zip((0, *ends[:-1]), ends, strict=True):
                writer.write_batch(batch.slice(start, end - start))
        path = f"{self.folder}/{name}.arrow"
        self.storage.write(path, sink.getvalue())
        return [path]

    def read(self, bucket: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All rows of one bucket, or some of their columns only; in no set order."""
        names = list(columns or self.schema.names)
        options = pa.ipc.IpcReadOptions(included_fields=sorted(self.schema.get_field_index(name) for name in names))
        with store_errors("scratch"):
            batches = at_once(lambda path: retried(partial(self._batch, path, bucket, options)), self.paths)
        schema = pa.schema([field for field in self.schema if field.name in names])
        frame = pl.from_arrow(pa.Table.from_batches(batches, schema), rechunk=False)
        assert isinstance(frame, pl.DataFrame)  # noqa: S101  (of a table, always)
        return frame.select(names)

    def _batch(self, path: str, bucket: int, options: pa.ipc.IpcReadOptions) -> pa.RecordBatch:
        with self.storage.filesystem.open_input_file(self.storage.path(path)) as stream:
            return pa.ipc.open_file(stream, options=options).get_batch(bucket)

    def add(self, paths: Iterable[str]) -> None:
        """Take in what a task wrote."""
        self.paths.extend(paths)
