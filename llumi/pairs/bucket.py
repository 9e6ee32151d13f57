"""One bucket of a corpus: all captures of some posts and of every reply to them, joined.

Pure Polars on frames that fit one task; which posts share a bucket makes no difference to what comes out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import polars as pl

from llumi.corpus.clean import count_reasons
from llumi.corpus.months import in_months

OLDER = "older_capture"
ABSENT = "absent"
EARLY = "early_month"


@dataclass(frozen=True)
class Bucket:
    """The newest captures. `replies` have their post's community, author, time and reason, and their `row` in `bodies`.

    Texts stay where they were read: only those that are needed are gathered, by row.
    """

    posts: pl.DataFrame
    replies: pl.DataFrame
    bodies: pl.Series
    num_captures: dict[str, int]

    @classmethod
    def of(cls, posts: pl.DataFrame, comments: pl.DataFrame, early_months: Sequence[str] = ()) -> Self:
        """From the rows of POST_ROWS and COMMENT_ROWS, in any order; `text` and `body` may be missing."""
        newest_posts = _newest(posts, ["post_id"]).drop("position", "retrieved_on")
        slim = comments.drop("body", strict=False).with_row_index("row")
        newest = _newest(slim, ["post_id", "id"]).drop("position", "retrieved_on")
        of_posts = newest_posts.select(
            "post_id",
            "community",
            post_author="author",
            post_created_utc="created_utc",
            post_reason=pl.col("reason"),
            is_there=pl.lit(True),
        )
        replies = newest.join(of_posts, on="post_id", how="left", maintain_order="left").with_columns(
            pl.when("is_there").then("post_reason").otherwise(pl.lit(ABSENT)).alias("post_reason"), length=pl.lit(1, pl.Int64)
        )
        is_own = (pl.col("author") == pl.col("post_author")) & (pl.col("author") != "")
        late_reasons = pl.coalesce(
            "reason",
            pl.when(is_own).then(pl.lit("own_reply")),
            pl.when(in_months(list(early_months))).then(pl.lit(EARLY)),
        )
        bodies = comments["body"] if "body" in comments.columns else pl.Series("body", [], pl.String)
        return cls(
            posts=newest_posts,
            replies=replies.with_columns(late_reasons.alias("reason"), veto=pl.lit(None, pl.String)),
            bodies=bodies,
            num_captures={"posts": posts.height, "comments": comments.height},
        )

    @property
    def in_use(self) -> pl.Expr:
        """Of `replies`: kept so far, and to a post that was kept."""
        return pl.col("reason").is_null() & pl.col("post_reason").is_null()

    def dropped(self) -> dict[str, Counter[str]]:
        """Why captures of posts and replies are not in use; the others are kept."""
        return {
            kind: Counter({OLDER: self.num_captures[kind] - newest.height}) + count_reasons(newest["reason"])
            for kind, newest in (("posts", self.posts), ("comments", self.replies))
        }

    def dropped_replies(self) -> Counter[str]:
        """Why kept comments are no replies to kept posts."""
        posts = count_reasons(self.replies.filter(pl.col("reason").is_null())["post_reason"])
        return Counter({f"post_{reason}": num for reason, num in posts.items()})

    @property
    def num_met(self) -> int:
        """Replies whose post is in the corpus, kept or not."""
        return self.replies["is_there"].count()


def _newest(rows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """The last capture of each record: the one retrieved last, or of several such the one furthest down in the dumps."""
    # Few records were captured twice: only those are sorted.
    is_repeated = rows.select(pl.col(key[-1]).is_duplicated()).to_series()
    if not is_repeated.any():
        return rows
    repeated = rows.filter(is_repeated).sort(*key, "retrieved_on", "position").unique(key, keep="last", maintain_order=True)
    return pl.concat([rows.filter(~is_repeated), repeated])
