"""One bucket of a corpus: all captures of some posts and of every comment on them -> examples, pairs and their accounts.

Pure Polars on frames that fit one task; which posts share a bucket makes no difference to what comes out.
"""

from collections import Counter
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from llumi.config import PairsConfig
from llumi.pairs.account import PairAccount, account_for
from llumi.pairs.endorse import mark_eligible, ranked, select_pairs
from llumi.pairs.examples import gm_dpo, gm_sft, held_out
from llumi.pairs.revise import im_dpo, im_sft
from llumi.pairs.split import example_id, split_of
from llumi.records import DPO_SCHEMA, HELD_OUT_SCHEMA, SFT_SCHEMA

POST_ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("retrieved_on", pa.int64()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("community", pa.string()),
        ("text", pa.string()),
    ]
)
"""A capture of a post, ids as pseudonyms: `reason` is null where it is kept, else `text` is empty."""

COMMENT_ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("retrieved_on", pa.int64()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("post_id", pa.string()),
        ("is_top_level", pa.bool_()),
        ("score", pa.int64()),
        ("body", pa.string()),
    ]
)
"""A capture of a comment: `score` is null where it has no usable one; `body` is empty unless it is a kept top-level reply."""

EXAMPLES = {
    f"{name}/{split}": schema
    for name, schema in (("gm-sft", SFT_SCHEMA), ("gm-dpo", DPO_SCHEMA), ("im-sft", SFT_SCHEMA), ("im-dpo", DPO_SCHEMA))
    for split in ("train", "test")
} | {"held-out": HELD_OUT_SCHEMA}
"""The folders of the artifact and what lies in them."""

OLDER = "older_capture"
ABSENT = "absent"


@dataclass
class Bucket:
    """The newest captures, joined. `replies` are the top-level ones, with their post's text, community and post_reason."""

    posts: pl.DataFrame
    comments: pl.DataFrame
    replies: pl.DataFrame
    num_captures: dict[str, int]

    @classmethod
    def of(cls, posts: pa.Table, comments: pa.Table) -> "Bucket":
        """From the rows of POST_ROWS and COMMENT_ROWS, in any order; `text` and `body` may be missing."""
        newest_posts, newest_comments = _newest(posts), _newest(comments)
        of_posts = newest_posts.drop("retrieved_on", "position").rename({"id": "post_id", "reason": "post_reason"})
        of_posts = of_posts.with_columns(is_there=pl.lit(True))
        joined = newest_comments.join(of_posts, on="post_id", how="left", maintain_order="left").with_columns(
            post_reason=pl.when("is_there").then("post_reason").otherwise(pl.lit(ABSENT))
        )
        return cls(
            posts=newest_posts,
            comments=joined.drop("text", "body", strict=False),
            replies=joined.filter("is_top_level").drop("is_there", "is_top_level"),
            num_captures={"posts": posts.num_rows, "comments": comments.num_rows},
        )

    @property
    def kept_replies(self) -> pl.DataFrame:
        """Replies that cleaning kept, to posts that it kept."""
        return self.replies.filter(pl.col("reason").is_null(), pl.col("post_reason").is_null())

    def dropped(self) -> dict[str, Counter[str]]:
        """Why captures of posts and comments are not in use; the others are kept."""
        return {
            kind: Counter({OLDER: self.num_captures[kind] - newest.height}) + _reasons(newest, "reason")
            for kind, newest in (("posts", self.posts), ("comments", self.comments))
        }

    def dropped_replies(self) -> Counter[str]:
        """Why kept comments are no replies to kept posts."""
        kept = self.comments.filter(pl.col("reason").is_null())
        posts = _reasons(kept.filter("is_top_level"), "post_reason")
        return Counter({"not_top_level": kept.filter(~pl.col("is_top_level")).height}) + Counter(
            {f"post_{reason}": num for reason, num in posts.items()}
        )

    @property
    def num_met(self) -> int:
        """Comments whose post is in the corpus, kept or not."""
        return int(self.comments["is_there"].sum())


def build_examples(bucket: Bucket, config: PairsConfig, thresholds: pl.DataFrame) -> tuple[dict[str, pa.Table], PairAccount]:
    """The tables of EXAMPLES from one bucket (those without rows left out), and the account of its candidate pairs."""
    kept = bucket.kept_replies
    of_posts = _with_split(kept.select("post_id", "community", "text").unique("post_id"), config.test_fraction)
    pairs = select_pairs(mark_eligible(kept, config, thresholds), config)
    account = account_for(bucket.replies, pairs.height, config, thresholds)
    pairs = _with_ids(pairs, "post_id", "id", "id_rejected").join(of_posts, on="post_id", maintain_order="left")
    endorsed = ranked(kept.filter(pl.col("score") >= config.sft_min_score), best_first=True, limit=config.sft_replies_per_post)
    replies = _with_ids(endorsed, "post_id", "id").join(
        of_posts.select("post_id", "split"), on="post_id", maintain_order="left"
    )
    tables: dict[str, pa.Table] = {}
    for split in ("train", "test"):
        some_replies, some_pairs = (rows.filter(split=split) for rows in (replies, pairs))
        tables |= {
            f"gm-sft/{split}": gm_sft(some_replies),
            f"gm-dpo/{split}": gm_dpo(some_pairs),
            f"im-sft/{split}": im_sft(some_pairs),
            f"im-dpo/{split}": im_dpo(some_pairs),
        }
    held_out_posts = pairs.filter(split="test").select("post_id")
    tables["held-out"] = held_out(_extremes(kept.join(held_out_posts, on="post_id", how="semi")))
    return {folder: table for folder, table in tables.items() if table.num_rows}, account


def _newest(rows: pa.Table) -> pl.DataFrame:
    """The last capture of each record: the one retrieved last, or of several such the one furthest down in the dumps."""
    frame = pl.DataFrame(pl.from_arrow(rows))
    return frame.sort("id", "retrieved_on", "position").unique("id", keep="last", maintain_order=True)


def _reasons(rows: pl.DataFrame, column: str) -> Counter[str]:
    counted = rows.drop_nulls(column).group_by(column).len()
    return Counter(dict(counted.iter_rows()))


def _with_ids(rows: pl.DataFrame, *columns: str) -> pl.DataFrame:
    ids = [example_id(*parts) for parts in rows.select(columns).iter_rows()]
    return rows.with_columns(pl.Series("example_id", ids, pl.String))


def _with_split(posts: pl.DataFrame, test_fraction: float) -> pl.DataFrame:
    return posts.with_columns(
        split=pl.Series([split_of(post_id, test_fraction) for post_id in posts["post_id"]], dtype=pl.String)
    )


def _extremes(replies: pl.DataFrame) -> pl.DataFrame:
    """For each post its most endorsed reply and, with `_rejected`, its least endorsed one."""
    best = ranked(replies, best_first=True, limit=1)
    worst = ranked(replies, best_first=False, limit=1).select("post_id", "id", "score", "body")
    return best.join(worst, on="post_id", suffix="_rejected", maintain_order="left")
