"""What one would write instead of `llumi pairs build`: one process, zstandard and Polars.

The cleaning and the pairs are the same, and so are the safety rules (those of LLUMI, as a library).
Chunks are parsed and filtered as they are decompressed, so that only what is needed stays in memory.

python pairs_polars.py DUMPS OUT.parquet
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import zstandard

from llumi.safety import SafetyRules

MIN_GAP, MAX_PAIRS, CHUNK_BYTES = 2, 4, 32 * 2**20
GONE = ["[removed]", "[deleted]"]
POSTS = {"id": pl.String, "title": pl.String, "selftext": pl.String, "author": pl.String, "retrieved_on": pl.Int64}
COMMENTS = {
    "id": pl.String,
    "link_id": pl.String,
    "parent_id": pl.String,
    "author": pl.String,
    "score": pl.Int64,
    "body": pl.String,
    "retrieved_on": pl.Int64,
    "stickied": pl.Boolean,
    "is_submitter": pl.Boolean,
    "distinguished": pl.String,
}


def chunks(path: Path) -> Iterator[bytes]:
    """Whole lines of a dump, some MiB at a time."""
    with path.open("rb") as stream:
        reader = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(stream, read_across_frames=True)
        rest = b""
        while block := reader.read(CHUNK_BYTES):
            lines, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield lines
        if rest:
            yield rest


def read(folder: Path, kind: str, schema: dict[str, type[pl.DataType]], keep: pl.Expr, columns: list[str]) -> pl.DataFrame:
    """The newest captures of all records, the dropped ones without their text."""
    frames = [
        pl.read_ndjson(chunk, schema=schema).with_columns(is_kept=keep).select(*columns, "retrieved_on", "is_kept")
        for path in sorted(folder.glob(f"*_{kind}.zst"))
        for chunk in chunks(path)
    ]
    records = pl.concat(frames)
    repeated = records["id"].is_duplicated()
    newest = records.filter(repeated).sort("id", "retrieved_on").unique("id", keep="last", maintain_order=True)
    return pl.concat([records.filter(~repeated), newest]).filter("is_kept").drop("is_kept", "retrieved_on")


def extremes(replies: pl.DataFrame, best_first: bool) -> pl.DataFrame:
    """The best or the worst replies to each post."""
    ordered = replies.sort("post_id", "score", "id", descending=[False, best_first, False])
    return ordered.with_columns(rank=pl.int_range(pl.len()).over("post_id")).filter(pl.col("rank") < MAX_PAIRS)


def main() -> None:
    """Read, join, pair, write."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    is_there = ~pl.col("author").is_in(GONE)
    posts = read(
        folder, "submissions", POSTS, is_there & ~pl.col("selftext").is_in(GONE), ["id", "author", "title", "selftext"]
    )
    keep = (
        pl.col("parent_id").str.starts_with("t3_")
        & is_there
        & ~pl.col("body").is_in(GONE)
        & (pl.col("author") != "AutoModerator")
        & ~pl.col("stickied")
        & ~pl.col("is_submitter")
        & pl.col("distinguished").is_null()
        & pl.col("score").is_not_null()
    )
    comments = read(folder, "comments", COMMENTS, keep, ["id", "link_id", "author", "score", "body"])
    of_posts = posts.select(link_id="t3_" + pl.col("id"), post_author="author")
    replies = comments.join(of_posts, on="link_id").filter(pl.col("author") != pl.col("post_author"))
    slim = replies.with_row_index("row").select("row", "id", "score", post_id="link_id")
    best, worst = (extremes(slim, best_first) for best_first in (True, False))
    best = best.filter(SafetyRules.load().vetoes(replies["body"].gather(best["row"])).is_null())
    pairs = best.join(worst, on="post_id", suffix="_rejected")
    pairs = pairs.with_columns(gap=pl.col("score") - pl.col("score_rejected")).filter(pl.col("gap") >= MIN_GAP)
    pairs = pairs.sort("post_id", "gap", "rank", "rank_rejected", descending=[False, True, False, False])
    pairs = pairs.group_by("post_id", maintain_order=True).head(MAX_PAIRS)
    pairs = pairs.with_columns(
        replies["body"].gather(pairs["row"]).alias("chosen"), replies["body"].gather(pairs["row_rejected"]).alias("rejected")
    )
    text = posts.select(post_id="t3_" + pl.col("id"), prompt=pl.col("title") + "\n\n" + pl.col("selftext"))
    pairs.join(text, on="post_id").select("prompt", "chosen", "rejected", "score", "score_rejected").write_parquet(out)


if __name__ == "__main__":
    main()
