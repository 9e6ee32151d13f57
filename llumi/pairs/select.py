"""The second pass, bucket by bucket: join the replies to their posts, apply the rules, select pairs and examples.

What it leaves in scratch is small, as a post gives few examples; and it claims, for every text and every author in use,
a key that the next step compares across buckets and splits.
"""

import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from llumi.config import PairsConfig
from llumi.pairs.account import account_for
from llumi.pairs.bucket import Bucket
from llumi.pairs.endorse import mark_eligible, max_compared, score_histogram, select_pairs
from llumi.pairs.leaks import CLAIMS, claims
from llumi.pairs.partition import Partition
from llumi.pairs.scratch import Exchange
from llumi.pairs.split import with_ids, with_split
from llumi.pairs.text import TextRules
from llumi.storage import Storage

_SLIM_POSTS = ["post_id", "retrieved_on", "position", "reason", "community", "author", "created_utc"]
_SLIM_COMMENTS = ["id", "post_id", "retrieved_on", "position", "reason", "author", "created_utc", "score"]
POST_COLUMNS = ["post_id", "post", "post_author", "community", "risk", "split", "text"]
REPLY_COLUMNS = ["post_id", "id", "author", "score", "length", "body"]
PAIR_COLUMNS = ["example_id", "post_id", "id", "id_rejected", "weight"]
EXAMPLE_COLUMNS = ["example_id", "post_id", "id"]
SCORE_LABELS = ["below 0", "0", "1", "2", "3-4", "5-9", "10-19", "20-49", "50-99", "100+"]
_SCORE_BREAKS = [-1, 0, 1, 2, 4, 9, 19, 49, 99]


@dataclass(frozen=True)
class Histogram:
    """Before the second pass of preset `paper`: the scores of one bucket's kept replies, without their text."""

    partition: Partition
    early_months: list[str]

    def __call__(self, number: int) -> dict[str, Any]:
        """HISTOGRAM_SCHEMA as lists."""
        posts = self.partition.posts.read(number, _SLIM_POSTS)
        bucket = Bucket.of(posts, self.partition.comments.read(number, _SLIM_COMMENTS), self.early_months)
        return score_histogram(bucket.replies.filter(bucket.in_use)).to_dict(as_series=False)


@dataclass(frozen=True)
class Select:
    """The second pass on one bucket; what is selected lies in `folder` of scratch, its claims in `claims`."""

    partition: Partition
    storage: Storage
    folder: str
    claims: Exchange
    config: PairsConfig
    text_rules: TextRules
    thresholds: pl.DataFrame
    early_months: list[str]

    def __call__(self, number: int) -> dict[str, Any]:
        """The accounts of the bucket; text stays in scratch."""
        bucket = self._judged(
            Bucket.of(self.partition.posts.read(number), self.partition.comments.read(number), self.early_months)
        )
        kept = bucket.replies.filter(bucket.in_use)
        selected, dropped = select_pairs(mark_eligible(kept, self.config, self.thresholds), self.config)
        num_kept = selected.group_by("community").agg(num=pl.len().cast(pl.Int64))
        accounts = account_for(bucket.replies, num_kept, dropped, self.config, self.thresholds)
        used, scrubbed = self._used(bucket, kept, selected)
        for name, frame in used.items():
            write_frame(self.storage, f"{self.folder}/{name}-{number:05}.arrow", frame)
        rows = claims(used["posts"], used["replies"], number, self.config)
        keys = rows["key"] % self.claims.num_buckets
        return {
            "claims": self.claims.write(f"claims-{number:05}", rows, keys.cast(pl.Int64)),
            "dropped": bucket.dropped(),
            "dropped_replies": bucket.dropped_replies(),
            "num_met": bucket.num_met,
            "accounts": {community: account.as_counts() for community, account in accounts.items()},
            "communities": _communities(bucket, kept),
            "vetoed": Counter(dict(kept["veto"].drop_nulls().value_counts().iter_rows())),
            "scrubbed": scrubbed,
            "scores": _scores(kept),
        }

    def _judged(self, bucket: Bucket) -> Bucket:
        """The bucket after the rules that read text."""
        judged = self.text_rules.judge(bucket.replies.filter(bucket.in_use), bucket.bodies).select(bucket.replies.columns)
        left = judged.filter(pl.col("reason").is_null())
        limit = max(max_compared(self.config), self.config.sft_replies_per_post)
        vetoed = self.text_rules.veto(left, bucket.bodies, limit)
        replies = pl.concat([bucket.replies.filter(~bucket.in_use), judged.drop_nulls("reason"), vetoed])
        return Bucket(bucket.posts, replies, bucket.bodies, bucket.num_captures)

    def _used(self, bucket: Bucket, kept: pl.DataFrame, selected: pl.DataFrame) -> tuple[dict[str, pl.DataFrame], Counter[str]]:
        """What examples are made of, each text once: posts, replies, pairs (of a post the widest first), examples of SFT."""
        endorsed = self._endorsed(kept)
        ids = pl.concat(
            [selected.select("post_id", "id"), selected.select("post_id", id="id_rejected"), endorsed.select("post_id", "id")]
        ).unique()
        replies = kept.join(ids, on=["post_id", "id"], how="semi")
        bodies, counts = self.text_rules.scrub(bucket.bodies.gather(replies["row"]))
        replies = replies.with_columns(bodies.alias("body")).select(REPLY_COLUMNS)
        posts, scrubbed_posts = self._posts(bucket, ids)
        pairs = with_texts(selected.select("post_id", "id", "id_rejected", "weight"), posts, replies)
        frames = {
            "posts": posts,
            "replies": replies,
            "pairs": with_ids(pairs, "post", "body", "body_rejected").select(PAIR_COLUMNS),
            "examples": with_ids(with_texts(endorsed, posts, replies), "post", "body").select(EXAMPLE_COLUMNS),
        }
        return frames, counts + scrubbed_posts

    def _posts(self, bucket: Bucket, used: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
        posts = bucket.posts.join(used, on="post_id", how="semi").sort("post_id")
        tiers = self.text_rules.tiers(posts["text"])
        texts, counts = self.text_rules.scrub(posts["text"])
        posts = posts.with_columns(texts.alias("text"), tiers.alias("risk")).rename({"author": "post_author"})
        by = "post_author" if self.config.split_by == "author" else "post"
        return with_split(posts, by, self.config.test_fraction).select(POST_COLUMNS), counts

    def _endorsed(self, kept: pl.DataFrame) -> pl.DataFrame:
        """The replies that SFT learns from: the most endorsed safe ones of each post."""
        rows = kept.filter(pl.col("score") >= self.config.sft_min_score, pl.col("veto").is_null())
        ordered = rows.sort("post_id", "score", "id", descending=[False, True, False])
        rank = pl.int_range(pl.len(), dtype=pl.Int64).over("post_id")
        return ordered.filter(rank < self.config.sft_replies_per_post).select("post_id", "id")


def with_texts(rows: pl.DataFrame, posts: pl.DataFrame, replies: pl.DataFrame) -> pl.DataFrame:
    """`rows` of pairs or of examples, in their order, with what `posts` and `replies` know of their post and replies."""
    joined = rows.join(posts, on="post_id", maintain_order="left").join(replies, on=["post_id", "id"], maintain_order="left")
    if "id_rejected" not in rows.columns:
        return joined
    rejected = replies.select("post_id", pl.exclude("post_id").name.suffix("_rejected"))
    return joined.join(rejected, on=["post_id", "id_rejected"], maintain_order="left")


def write_frame(storage: Storage, path: str, frame: pl.DataFrame) -> None:
    """One frame as one file of scratch."""
    sink = io.BytesIO()
    frame.write_ipc(sink, compression="lz4")
    storage.write(path, sink.getvalue())


def read_frame(storage: Storage, path: str) -> pl.DataFrame:
    """What `write_frame` wrote."""
    with storage.filesystem.open_input_stream(storage.path(path)) as stream:
        return pl.read_ipc(stream.read())


def claims_exchange(storage: Storage, folder: str, num_buckets: int) -> Exchange:
    """Where the claims of all buckets go."""
    return Exchange(storage, folder, num_buckets, pa.schema(CLAIMS))


def _communities(bucket: Bucket, kept: pl.DataFrame) -> dict[str, dict[str, int]]:
    posts = bucket.posts.filter(pl.col("reason").is_null()).group_by("community").agg(num=pl.len())
    replies = kept.group_by("community").agg(num=pl.len())
    found: dict[str, dict[str, int]] = {}
    for kind, counted in (("posts", posts), ("replies", replies)):
        for community, num in counted.iter_rows():
            found.setdefault(community, {"posts": 0, "replies": 0})[kind] = num
    return found


def _scores(kept: pl.DataFrame) -> dict[str, dict[str, int]]:
    label = kept["score"].cut(_SCORE_BREAKS, labels=SCORE_LABELS).cast(pl.String)
    found: dict[str, dict[str, int]] = {}
    for community, name, num in kept.with_columns(label=label).group_by("community", "label").len().iter_rows():
        found.setdefault(community, {})[name] = num
    return found
