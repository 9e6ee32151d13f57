"""Replies that are kept as they come, so that a run that dies goes on where it stood: no prompt is answered twice."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from llumi.errors import StoreError
from llumi.records import GENERATION_SCHEMA
from llumi.storage import Storage, at_once, delete_tree, parquet, store_errors

KEEP_SECONDS = 10.0
"""At most so much of what was answered is lost with the process that gathers it."""

_PARTIAL = ".partial"


@dataclass
class Kept:
    """The answered rows of one generation below `scratch/`, in files that are each complete; failures are asked anew."""

    storage: Storage
    folder: str
    now: Callable[[], float] = time.monotonic
    _waiting: list[pa.Table] = field(default_factory=list)
    _num_files: int = 0
    _since: float = 0.0

    def read(self) -> pa.Table:
        """What an earlier attempt kept, one row a prompt."""
        tables = [GENERATION_SCHEMA.empty_table()]
        with store_errors(self.storage.uri):
            selector = pafs.FileSelector(self.storage.path(self.folder), allow_not_found=True)
            files = sorted(info.path for info in self.storage.filesystem.get_file_info(selector) if info.extension == "parquet")
            tables += at_once(lambda file: pq.read_table(file, filesystem=self.storage.filesystem), files)
        self._num_files, self._since = len(files), self.now()
        return pa.concat_tables(tables)

    def add(self, rows: pa.Table) -> None:
        """Keep those of `rows` that were answered, at the latest when `KEEP_SECONDS` have gone by and more come."""
        self._waiting.append(rows.filter(pc.is_null(rows["error"])))
        if self.now() - self._since >= KEEP_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last time."""
        rows = pa.concat_tables([GENERATION_SCHEMA.empty_table(), *self._waiting])
        self._waiting, self._since = [], self.now()
        if not rows.num_rows:
            return
        # A file that is being written when the process dies is not taken for one.
        path = f"{self.folder}/part-{self._num_files:06d}.parquet"
        self.storage.write(f"{path}{_PARTIAL}", parquet(rows))
        with store_errors(self.storage.uri):
            self.storage.filesystem.move(self.storage.path(f"{path}{_PARTIAL}"), self.storage.path(path))
        self._num_files += 1


@contextlib.contextmanager
def kept_rows(storage: Storage, name: str, mark: str) -> Iterator[Kept]:
    """What is kept of the generation `name` with the fingerprint `mark`; it goes once the work within is done.

    Where that fails, what was answered stays for the next attempt. What attempts with another fingerprint left goes.
    """
    parent = f"scratch/generations-{name}"
    kept = Kept(storage, f"{parent}/{mark[:16]}")
    with store_errors(storage.uri):
        selector = pafs.FileSelector(storage.path(parent), allow_not_found=True)
        for info in storage.filesystem.get_file_info(selector):
            if info.path != storage.path(kept.folder):
                delete_tree(storage.filesystem, info.path)
    try:
        yield kept
    except BaseException:
        with contextlib.suppress(StoreError):  # what went wrong first is what is to be said
            kept.flush()
        raise
    with store_errors(storage.uri):
        delete_tree(storage.filesystem, storage.path(parent))
