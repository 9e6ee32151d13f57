"""Work on all chunks of a corpus in parallel, as steps of a Ray Data dataset.

A zstd frame cannot be split, so one task per file decompresses and cuts the text into chunks of whole lines; tasks on
all cores then work on the chunks. Neither holds more than a chunk, whatever the size of the corpus. Ray itself is not
imported here: who runs the work hands in `ray.data.from_items`.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from llumi import errors
from llumi.corpus.dump import CHUNK_BYTES, Chunk, Corpus, Dump, iter_chunks
from llumi.errors import CorpusError, LlumiError
from llumi.progress import Progress, silent

BLOCK_BYTES = 2**20
"""Ray Data hands a block on once it is this large: one chunk at a time, and every result as soon as it is there."""

READER_CPUS = 0.5
"""A reader mostly waits for those who parse; another share than theirs also keeps Ray from fusing the two steps."""

FromItems = Callable[..., Any]
Work = Callable[[Dump, Chunk], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What the work on one chunk gave: JSON-able, without text; of the chunk itself only the head is left."""

    dump: Dump
    chunk: Chunk
    result: dict[str, Any]


@dataclass
class FileReport:
    """How the reading of one file went."""

    name: str
    num_bytes: int
    sha256: str = ""
    num_records: int = 0
    is_truncated: bool = False


class FileReports:
    """The reports of all files of a corpus, filled chunk by chunk in whatever order they arrive."""

    def __init__(self, corpus: Corpus) -> None:
        self._reports = {dump.path: FileReport(dump.name, dump.num_bytes) for dump in corpus.dumps}

    def add(self, finding: Finding, num_records: int) -> None:
        """Take in one chunk of a file."""
        report = self._reports[finding.dump.path]
        report.num_records += num_records
        if finding.chunk.is_last:
            report.is_truncated = finding.chunk.is_truncated
            report.sha256 = finding.chunk.sha256

    def all(self) -> list[FileReport]:
        """In the order of the corpus."""
        return list(self._reports.values())


def refuse_truncated(uri: str, files: Iterable[FileReport]) -> None:
    """Raise one CorpusError that names every truncated file, if there is one."""
    cut = [f"{file.name} ({file.num_records} whole records before the cut)" for file in files if file.is_truncated]
    if cut:
        raise CorpusError(
            f"{uri}: truncated: {', '.join(cut)}; fetch them again, or go on with what was read: --set corpus.truncated=keep"
        )


def map_chunks(
    from_items: FromItems,
    corpus: Corpus,
    work: Work,
    progress: Progress = silent,
    *,
    num_readers: int | None = None,
    num_workers: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[Finding]:
    """Read every file and do `work` on each of its chunks, on all cores of the cluster; findings come in no set order.

    At most `num_readers` files are read, and `num_workers` chunks worked on, at once; None leaves it to the cluster.

    An LlumiError that a task raises arrives as itself.
    """
    dumps = corpus.dumps
    dataset = from_items([{"dump": number} for number in range(len(dumps))], override_num_blocks=len(dumps))
    dataset.context.target_max_block_size = BLOCK_BYTES
    reader = _Reader(corpus, chunk_bytes)
    by_one = {"batch_size": 1, "batch_format": "pyarrow"}
    dataset = dataset.map_batches(reader, **by_one, num_cpus=READER_CPUS, concurrency=num_readers)
    worker = _Worker(corpus, work)
    dataset = dataset.map_batches(worker, **by_one, num_cpus=1, zero_copy_batch=True, concurrency=num_workers)
    num_done = 0
    progress("read dumps", 0, corpus.num_bytes)
    for row, result in outcomes(dataset):
        finding = Finding(dumps[row["dump"]], Chunk(data=b"", **json.loads(row["chunk"])), result)
        num_done += finding.chunk.num_source_bytes
        progress("read dumps", num_done, corpus.num_bytes)
        yield finding


def attempt(work: Callable[[], dict[str, Any]]) -> str:
    """What `work` gave, or the LlumiError that it raised, as text for the column `outcome`.

    Errors travel as values, because Ray adds its own words to the message of what a task raises, and logs a traceback.
    """
    try:
        return json.dumps({"result": work()})
    except LlumiError as error:
        return _failure(error)


def outcomes(dataset: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of a dataset as its tasks finish, with the result in their column `outcome`; or the error in it, raised."""
    for row in dataset.iter_rows():
        outcome = json.loads(row["outcome"])
        if "error" in outcome:
            raise getattr(errors, outcome["error"])(outcome["message"])
        yield row, outcome["result"]


def _failure(error: LlumiError) -> str:
    return json.dumps({"error": type(error).__name__, "message": str(error)})


@dataclass(frozen=True)
class _Reader:
    """The first step: the number of a file -> its chunks, one row each; a failure is a row without a chunk."""

    corpus: Corpus
    chunk_bytes: int

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for number in batch["dump"].to_pylist():
            try:
                for chunk in iter_chunks(self.corpus.filesystem, self.corpus.dumps[number], self.chunk_bytes):
                    head = asdict(chunk)
                    yield self._row(number, head.pop("data"), json.dumps(head))
            except LlumiError as error:
                yield self._row(number, b"", "", _failure(error))

    @staticmethod
    def _row(number: int, data: bytes, head: str, outcome: str = "") -> pa.Table:
        ends = pa.py_buffer(struct.pack("=qq", 0, len(data)))
        column = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(data)])  # without a copy
        return pa.table({"dump": [number], "chunk": [head], "data": column, "outcome": [outcome]})


@dataclass(frozen=True)
class _Worker:
    """The second step: a chunk -> what came of the work on it."""

    corpus: Corpus
    work: Work

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        dump = self.corpus.dumps[row["dump"]]
        outcome = row["outcome"] or attempt(lambda: self.work(dump, Chunk(data=row["data"], **json.loads(row["chunk"]))))
        return pa.table({"dump": [row["dump"]], "chunk": [row["chunk"]], "outcome": [outcome]})
