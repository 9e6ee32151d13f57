"""What must not be on both sides, and not twice: near-duplicate texts, and authors.

Every bucket claims a key for each text and each author of its examples; claims of one key meet in one place, and all but
the rightful holder lose. A text's keys are the bands of its MinHash (Broder 1997; locality-sensitive hashing after
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3.4): two texts whose three-word shingles have Jaccard
similarity s share a key with probability 1 - (1 - s^ROWS)^BANDS, that is 0.43 at 0.8, 0.93 at 0.9 and 0.998 at 0.95.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from rensa import RMinHash

from llumi.config import PairsConfig

BANDS, ROWS = 8, 12
SHINGLE_WORDS = 3
_SEED = 17
REPLY_TEXT, POST_TEXT, AUTHOR = 0, 1, 2

CLAIMS = [
    ("key", pa.uint64()),
    ("kind", pa.int8()),
    ("is_test", pa.bool_()),
    ("bucket", pa.int32()),
    ("post_id", pa.uint64()),
    ("id", pa.uint64()),
    ("score", pa.int64()),
]
"""A claim: `id` is the reply's, or 0 where the post itself claims; `score` decides between replies."""

LOSSES = [("post_id", pa.uint64()), ("id", pa.uint64()), ("reason", pa.large_string()), ("bucket", pa.int32())]
"""A text that must go; `id` is 0 where the whole post must."""

LEAKS = ("post_in_training", "author_in_training")


def claims(posts: pl.DataFrame, replies: pl.DataFrame, bucket: int, config: PairsConfig) -> pl.DataFrame:
    """The claims of one bucket's posts and replies, as far as examples use them; each stands in its frame once."""
    columns = ["is_test", "bucket", "post_id", "id", "author", "score", "body"]
    posts = posts.with_columns(is_test=pl.col("split") == "test", bucket=pl.lit(bucket, pl.Int32))
    replies = replies.join(posts.select("post_id", "is_test", "bucket"), on="post_id", maintain_order="left").select(columns)
    whole_posts = posts.with_columns(
        id=pl.lit(0, pl.UInt64), author="post_author", score=pl.lit(0, pl.Int64), body="text"
    ).select(columns)
    found = [pl.DataFrame(pl.from_arrow(pa.schema(CLAIMS).empty_table()))]
    if config.near_duplicates == "drop":
        found += [_banded(replies, REPLY_TEXT), _banded(whole_posts, POST_TEXT)]
    if config.split_by == "author":
        found += [_of_authors(replies), _of_authors(whole_posts)]
    return pl.concat([rows.select(name for name, _ in CLAIMS) for rows in found])


def losses(claimed: pl.DataFrame) -> pl.DataFrame:
    """What loses among claims that meet (LOSSES): each text once for each reason.

    Of replies with a key in common the most endorsed stays. Of posts, and of authors, what is in the test split loses to
    what is in training.
    """
    shared = claimed.filter(pl.len().over("kind", "key") > 1)
    replies = shared.filter(kind=REPLY_TEXT).sort("key", "score", "post_id", "id", descending=[False, True, False, False])
    copies = replies.filter(~pl.struct("key").is_first_distinct()).with_columns(reason=pl.lit("near_duplicate"))
    meets_training = (~pl.col("is_test")).any().over("kind", "key")
    leaked = shared.filter(pl.col("kind") != REPLY_TEXT).filter(meets_training).filter("is_test")
    reason = pl.when(pl.col("kind") == POST_TEXT).then(pl.lit(LEAKS[0])).otherwise(pl.lit(LEAKS[1]))
    columns = [name for name, _ in LOSSES]
    return pl.concat([copies.select(columns), leaked.with_columns(reason=reason).select(columns)]).unique()


def settle(pairs: pl.DataFrame, lost: pl.DataFrame) -> pl.DataFrame:
    """`pairs` with the column `reason`: why a pair goes after all, null for those that stay; the post comes first."""
    of_posts = lost.filter(id=0).sort("post_id", "reason").unique("post_id", keep="first").select("post_id", of_post="reason")
    of_replies = lost.filter(pl.col("id") != 0).sort("post_id", "id", "reason").unique(["post_id", "id"], keep="first")
    joined = pairs.join(of_posts, on="post_id", how="left", maintain_order="left")
    reasons = [pl.col("of_post")]
    for side, name in (("", "chosen"), ("_rejected", "rejected")):
        if f"id{side}" in pairs.columns:
            of_side = of_replies.select("post_id", **{f"id{side}": "id", f"of_{name}": "reason"})
            joined = joined.join(of_side, on=["post_id", f"id{side}"], how="left", maintain_order="left")
            reasons.append(name + "_" + pl.col(f"of_{name}"))
    return joined.with_columns(reason=pl.coalesce(reasons)).select(*pairs.columns, "reason")


def band_keys(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """The keys of each text, shape (len(texts), BANDS); a text of less than three words is one shingle."""
    shingles = [_shingles(text) for text in texts]
    matrix = RMinHash.digest_matrix_from_token_sets(shingles, num_perm=BANDS * ROWS, seed=_SEED)
    hashes = np.array(matrix.to_rows(), dtype=np.uint64)
    bands = hashes.reshape(len(texts), BANDS, ROWS)
    keys = np.full((len(texts), BANDS), np.arange(1, BANDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    for row in range(ROWS):  # FNV-1a over words of 64 bits
        keys = (keys ^ bands[:, :, row]) * np.uint64(0x100000001B3)
        keys ^= keys >> np.uint64(29)
    return keys


def _shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[start : start + SHINGLE_WORDS]) for start in range(max(1, len(words) - SHINGLE_WORDS + 1))]


def _banded(texts: pl.DataFrame, kind: int) -> pl.DataFrame:
    if texts.is_empty():
        return texts.with_columns(key=pl.lit(0, pl.UInt64), kind=pl.lit(kind, pl.Int8))
    keys = band_keys(texts["body"].to_list())
    rows = [texts.with_columns(key=pl.Series(keys[:, band]), kind=pl.lit(kind, pl.Int8)) for band in range(BANDS)]
    return pl.concat(rows)


def _of_authors(texts: pl.DataFrame) -> pl.DataFrame:
    key = pl.col("author").str.slice(0, 15).str.to_integer(base=16, dtype=pl.Int64).cast(pl.UInt64)
    return texts.with_columns(key=key, kind=pl.lit(AUTHOR, pl.Int8))
