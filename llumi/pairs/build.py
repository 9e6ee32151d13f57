"""The job: dumps -> `pairs/<name>`, in two passes of Ray Data.

The first pass partitions the records by post while it reads (`partition`), the second joins bucket by bucket
(`bucket`). Memory depends on the size of a chunk and of a bucket, not on that of the corpus.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from llumi.config import Config, PairsConfig
from llumi.corpus.chunks import attempt, outcomes
from llumi.corpus.clean import Kind, Tally
from llumi.corpus.dump import CHUNK_BYTES, open_corpus
from llumi.corpus.privacy import Pseudonymizer
from llumi.errors import PairsError
from llumi.pairs.account import PairAccount
from llumi.pairs.bucket import EXAMPLES, Bucket, build_examples
from llumi.pairs.endorse import HISTOGRAM_SCHEMA, THRESHOLDS_SCHEMA, score_histogram, score_thresholds
from llumi.pairs.partition import Partition, partition_corpus
from llumi.progress import Progress, silent
from llumi.storage import Draft, FileEntry, Input, Manifest, Storage, delete_tree, digest, fingerprint, parquet, store_errors

_SLIM: dict[Kind, list[str]] = {
    "posts": ["id", "retrieved_on", "position", "reason", "community"],
    "comments": ["id", "retrieved_on", "position", "reason", "post_id", "is_top_level", "score"],
}


def build_pairs(config: Config, progress: Progress = silent, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    """Build and publish `pairs/<config.pairs.name>`.

    Raises CorpusError for dumps that cannot be read as such, PairsError where the rules leave nothing to train on.
    """
    corpus = open_corpus(config)
    corpus.require_both_kinds()
    storage = Storage.open(config.storage)
    with _scratch(storage, config.pairs.name) as scratch:
        folder = storage.path(scratch)
        partition = partition_corpus(corpus, config, storage, folder, progress=progress, chunk_bytes=chunk_bytes)
        thresholds = _thresholds(partition, storage, config.pairs, progress)
        totals = _Totals(partition.lines)
        work = _Join(partition, storage, f"{scratch}/examples", config.pairs, thresholds)
        for done, result in enumerate(_over_buckets(partition, work), start=1):
            totals.add(result)
            progress("pair replies", done, partition.num_buckets)
        totals.check(corpus.uri, config.pairs)
        draft = storage.begin("pairs", config.pairs.name)
        for file in totals.files:
            draft.take(f"{work.folder}/{file.path}", file)
        return draft.publish(
            [*totals.files, *_empty_parts(draft, totals.num_rows)],
            fingerprint=pairs_fingerprint(config),
            config=config.model_dump(mode="json"),
            inputs=[Input(corpus.uri, digest([(file.name, file.sha256) for file in partition.files]))],
            counts=totals.as_counts() | _file_counts(partition),
            metrics={"thresholds": thresholds.rows_by_key("community", named=True, unique=True)} if thresholds.height else {},
        )


def pairs_fingerprint(config: Config) -> str:
    """What determines the pairs: the files of the corpus as they stand, the rules of both sections, and the key."""
    others = {"margin", "paper"} - {config.pairs.preset}
    seen = {
        "corpus": config.corpus.model_dump(mode="json", exclude={"uri", "truncated"}),
        "pairs": config.pairs.model_dump(mode="json", exclude={"name", "num_buckets"} | others),
        "key": Pseudonymizer.open(config).key_id,
    }
    return fingerprint("pairs", seen, [Input("corpus", open_corpus(config).state)])


@contextlib.contextmanager
def _scratch(storage: Storage, name: str) -> Iterator[str]:
    """A folder below the root for what lies between the passes; it goes with them, or at the next attempt after a crash."""
    scratch = f"scratch/pairs-{name}"
    with store_errors(storage.uri):
        delete_tree(storage.filesystem, storage.path(scratch))
        try:
            yield scratch
        finally:
            delete_tree(storage.filesystem, storage.path(scratch))


@dataclass
class _Totals:
    """What all buckets gave together."""

    lines: dict[Kind, Tally]
    files: list[FileEntry] = field(default_factory=list)
    num_rows: Counter[str] = field(default_factory=Counter)
    dropped: dict[Kind, Counter[str]] = field(default_factory=lambda: {"posts": Counter(), "comments": Counter()})
    dropped_replies: Counter[str] = field(default_factory=Counter)
    num_met: int = 0
    pairs: PairAccount = field(default_factory=PairAccount)

    def add(self, result: dict[str, Any]) -> None:
        """Take in one bucket."""
        self.files.extend(FileEntry(**entry) for entry in result["files"])
        self.num_rows.update(result["num_rows"])
        for kind, dropped in self.dropped.items():
            dropped.update(result["dropped"][kind])
        self.dropped_replies.update(result["dropped_replies"])
        self.num_met += result["num_met"]
        self.pairs.add(PairAccount.from_counts(result["pairs"]))

    def tally(self, kind: Kind) -> Tally:
        """All lines of one kind, with the newest capture of each record decided."""
        lines = self.lines[kind]
        dropped = lines.dropped + self.dropped[kind]
        return Tally(lines.records, lines.malformed, lines.records - dropped.total(), dropped)

    def as_counts(self) -> dict[str, Any]:
        """For the manifest: each account adds up, and the next one begins with what the last one kept."""
        comments = self.tally("comments")
        replies = Tally(comments.kept, 0, comments.kept - self.dropped_replies.total(), self.dropped_replies).as_counts()
        replies.pop("malformed")
        return {
            "posts": self.tally("posts").as_counts(),
            "comments": comments.as_counts(),
            "replies": replies,
            "candidate_pairs": self.pairs.as_counts(),
            "examples": {folder: self.num_rows[folder] for folder in EXAMPLES},
        }

    def check(self, uri: str, config: PairsConfig) -> None:
        """Raise PairsError where there is nothing to learn from, and say which rule to change."""
        posts, comments = self.tally("posts").records, self.tally("comments").records
        if not self.num_met:
            raise PairsError(
                f"{uri}: {posts} posts and {comments} comments, but no comment belongs to one of these posts; "
                "give submissions and comments of the same communities and months"
            )
        if not self.pairs.kept:
            raise PairsError(_nothing_left(self.pairs, config))
        if not self.num_rows["gm-sft/train"]:
            raise PairsError(
                f"pairs.sft_min_score {config.sft_min_score}: no reply of the training posts reaches it; lower it, "
                "or see `llumi corpus inspect` for what cleaning dropped"
            )


def _nothing_left(pairs: PairAccount, config: PairsConfig) -> str:
    """One line: which rules dropped how many candidates, and what would let some through."""
    if not pairs.candidates:
        return "pairs: no post has two top-level replies of different score; a larger corpus is needed"
    preset = config.preset
    advice = {
        "gap_too_small": f"lower pairs.{preset}.min_gap (now {getattr(config, preset).min_gap})",
        "not_in_top": f"raise pairs.paper.chosen_top (now {config.paper.chosen_top}) or use pairs.preset=margin",
        "not_in_bottom": f"raise pairs.paper.rejected_bottom (now {config.paper.rejected_bottom}) or use pairs.preset=margin",
    }
    dropped = pairs.as_counts()["dropped"]
    rules = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
    what = next((advice[reason] for reason in dropped if reason in advice), "loosen the rules of the section corpus")
    return f"pairs.preset {preset}: none of {pairs.candidates} candidate pairs is left ({rules}); {what}"


@dataclass(frozen=True)
class _Join:
    """The second pass on one bucket: join, pair, write the part files into `folder` of scratch.

    A standing artifact of the same name is withdrawn only once the rules have turned out to leave something.
    """

    partition: Partition
    storage: Storage
    folder: str
    config: PairsConfig
    thresholds: pl.DataFrame

    def __call__(self, number: int) -> dict[str, Any]:
        filesystem = self.storage.filesystem
        bucket = Bucket.of(
            self.partition.read(filesystem, "posts", number), self.partition.read(filesystem, "comments", number)
        )
        tables, pairs = build_examples(bucket, self.config, self.thresholds)
        files = [self._write(f"{name}/part-{number:05}.parquet", table) for name, table in tables.items()]
        return {
            "files": [asdict(file) for file in files],
            "num_rows": {folder: table.num_rows for folder, table in tables.items()},
            "dropped": bucket.dropped(),
            "dropped_replies": bucket.dropped_replies(),
            "num_met": bucket.num_met,
            "pairs": pairs.as_counts(),
        }

    def _write(self, path: str, table: pa.Table) -> FileEntry:
        content = parquet(table)
        self.storage.write(f"{self.folder}/{path}", content)
        return FileEntry.of(path, content)


@dataclass(frozen=True)
class _Histogram:
    """Before the second pass of preset `paper`: the scores of one bucket's kept replies, without their text."""

    partition: Partition
    storage: Storage

    def __call__(self, number: int) -> dict[str, Any]:
        filesystem = self.storage.filesystem
        posts, comments = (self.partition.read(filesystem, kind, number, slim) for kind, slim in _SLIM.items())
        return score_histogram(Bucket.of(posts, comments).kept_replies).to_dict(as_series=False)


def _thresholds(partition: Partition, storage: Storage, config: PairsConfig, progress: Progress) -> pl.DataFrame:
    """The scores that preset `paper` asks of each community; none for a preset that asks for no such scores."""
    if config.preset != "paper":
        return pl.DataFrame(schema=THRESHOLDS_SCHEMA)
    parts = [pl.DataFrame(schema=HISTOGRAM_SCHEMA)]
    for done, result in enumerate(_over_buckets(partition, _Histogram(partition, storage)), start=1):
        parts.append(pl.DataFrame(result, schema=HISTOGRAM_SCHEMA))
        progress("compare scores", done, partition.num_buckets)
    return score_thresholds(pl.concat(parts), config)


def _over_buckets(partition: Partition, work: _Join | _Histogram) -> Iterator[dict[str, Any]]:
    """What `work` gives for each bucket, in no set order."""

    def on_one(batch: pa.Table) -> pa.Table:
        (number,) = batch["bucket"].to_pylist()
        return pa.table({"outcome": [attempt(lambda: work(number))]})

    numbers = [{"bucket": number} for number in range(partition.num_buckets)]
    dataset = ray.data.from_items(numbers, override_num_blocks=len(numbers))
    for _, result in outcomes(dataset.map_batches(on_one, batch_size=1, batch_format="pyarrow", num_cpus=1)):
        yield result


def _empty_parts(draft: Draft, num_rows: Counter[str]) -> list[FileEntry]:
    """A part without rows for each folder that would be missing, so that readers need no special case."""
    return [
        draft.write_table(f"{folder}/part-00000.parquet", schema.empty_table())
        for folder, schema in EXAMPLES.items()
        if not num_rows[folder]
    ]


def _file_counts(partition: Partition) -> dict[str, Any]:
    """The files that were read, and which of them were cut."""
    return {
        "files": [asdict(file) for file in partition.files],
        "truncated_files": [{"name": f.name, "num_records": f.num_records} for f in partition.files if f.is_truncated],
    }
