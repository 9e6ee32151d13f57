"""The last pass, bucket by bucket: drop what lost, weigh, and write the tables that training and evaluation read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from llumi.config import PairsConfig
from llumi.pairs.examples import gm_dpo, gm_sft, held_out
from llumi.pairs.leaks import losses, settle
from llumi.pairs.length import balance, count_bins, length_figures
from llumi.pairs.scratch import Exchange
from llumi.pairs.select import read_frame, with_texts
from llumi.storage import FileEntry, Storage, at_once, parquet


@dataclass(frozen=True)
class Resolve:
    """Claims that meet -> losses, each on its way to the bucket that holds the text."""

    claims: Exchange
    losses: Exchange

    def __call__(self, number: int) -> dict[str, Any]:
        """The paths of what was written."""
        lost = losses(self.claims.read(number))
        return {"paths": self.losses.write(f"losses-{number:05}", lost, lost["bucket"].cast(pl.Int64))}


@dataclass(frozen=True)
class Texts:
    """The posts and replies of one bucket that examples use."""

    posts: pl.DataFrame
    replies: pl.DataFrame

    def of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Pairs or examples as `llumi.pairs.examples` reads them: with their texts, and the pseudonym of their post."""
        return with_texts(rows, self.posts, self.replies).drop("post_id").rename({"post": "post_id"})


@dataclass(frozen=True)
class Survivors:
    """What of the selected pairs and examples is left after the losses; ids first, texts where they are asked for."""

    storage: Storage
    folder: str
    losses: Exchange

    def pairs(self, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The pairs of one bucket that stay, and those that go, with their `reason`."""
        return self._settled("pairs", number)

    def examples(self, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The same of the examples of SFT."""
        return self._settled("examples", number)

    def texts(self, number: int) -> Texts:
        """The texts of one bucket."""
        return Texts(self._read("posts", number), self._read("replies", number))

    def _settled(self, kind: str, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        settled = settle(self._read(kind, number), self.losses.read(number).drop("bucket").unique())
        return settled.filter(pl.col("reason").is_null()).drop("reason"), settled.drop_nulls("reason")

    def _read(self, kind: str, number: int) -> pl.DataFrame:
        return read_frame(self.storage, f"{self.folder}/{kind}-{number:05}.arrow")


@dataclass(frozen=True)
class CountBins:
    """Before the last pass, where pairs are to be weighed by length: the weight in each bin."""

    survivors: Survivors

    def __call__(self, number: int) -> dict[str, Any]:
        """Bins as text, because this travels as JSON."""
        pairs, _ = self.survivors.pairs(number)
        return {str(name): weight for name, weight in count_bins(self.survivors.texts(number).of(pairs)).items()}


@dataclass(frozen=True)
class Finish:
    """The last pass on one bucket: the part files of GM's tables and of the held-out posts, into `folder` of scratch."""

    survivors: Survivors
    storage: Storage
    folder: str
    config: PairsConfig
    bins: Mapping[int, int]

    def __call__(self, number: int) -> dict[str, Any]:
        """The files, their rows, and the accounts of what was dropped."""
        texts = self.survivors.texts(number)
        pairs, lost = self.survivors.pairs(number)
        examples, lost_examples = self.survivors.examples(number)
        pairs, examples = texts.of(pairs), texts.of(examples)
        if self.config.length_balance == "weigh":
            pairs = balance(pairs, self.bins)
        tables: dict[str, pa.Table] = {}
        for split in ("train", "test"):
            tables[f"gm-sft/{split}"] = gm_sft(examples.filter(split=split))
            tables[f"gm-dpo/{split}"] = gm_dpo(pairs.filter(split=split))
        # The pairs of a post begin with its widest one.
        widest = pairs.unique("post_id", keep="first", maintain_order=True)
        tables |= {"drafts": held_out(widest.filter(split="train")), "held-out": held_out(widest.filter(split="test"))}
        return written(self.storage, self.folder, part(number), tables) | {
            "lost": _by_community(lost.join(texts.posts, on="post_id")),
            "lost_replies": Counter(lost_examples["reason"].to_list()),
            "lengths": length_figures(pairs),
            "splits": _splits(pairs, examples),
        }


def part(number: int) -> str:
    """The file of one bucket in each table."""
    return f"part-{number:05}.parquet"


def written(storage: Storage, folder: str, file: str, tables: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Write each table that has rows to `<its name>/<file>` below `folder` of scratch: the entries, and how many rows each."""
    contents = {f"{name}/{file}": parquet(table) for name, table in tables.items() if table.num_rows}
    at_once(lambda path: storage.write(f"{folder}/{path}", contents[path]), contents)
    return {
        "files": [asdict(FileEntry.of(path, content)) for path, content in contents.items()],
        "num_rows": {name: table.num_rows for name, table in tables.items() if table.num_rows},
    }


def _by_community(lost: pl.DataFrame) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for community, reason, num in lost.group_by("community", "reason").len().iter_rows():
        found.setdefault(community, {})[reason] = num
    return found


def _splits(pairs: pl.DataFrame, examples: pl.DataFrame) -> dict[str, int]:
    posts = pl.concat([pairs.select("post_id", "split"), examples.select("post_id", "split")]).unique("post_id")
    return {"train": posts.filter(split="train").height, "test": posts.filter(split="test").height}
