"""Identifiers of examples, and which of them are held out: both follow from pseudonyms and text alone, on any machine."""

import hashlib

import polars as pl

from llumi.corpus.privacy import hex_digests
from llumi.records import Split

_ID_KEYS = ("llumi-example-id", "id-example-llumi")


def split_of(person_or_post: str, test_fraction: float) -> Split:
    """The side of an author with all posts, or of a post; a larger fraction only moves some from train to test."""
    number = int.from_bytes(hashlib.blake2b(person_or_post.encode(), digest_size=8, person=b"split").digest(), "big")
    return "test" if number < test_fraction * 2**64 else "train"


def with_ids(rows: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """`rows` with their `example_id`: 24 hexadecimal digits that stand for the text of `columns`, a post and its replies."""
    parts = rows.select(pl.concat_str(columns, separator="\0")).to_series()  # cleaning leaves no NUL in a text
    return rows.with_columns(hex_digests(parts, _ID_KEYS).alias("example_id"))


def with_split(rows: pl.DataFrame, by: str, test_fraction: float) -> pl.DataFrame:
    """`rows` with their `split`, by the value of one column."""
    distinct = rows[by].unique()
    sides = pl.Series([split_of(value, test_fraction) for value in distinct], dtype=pl.String)
    return rows.with_columns(split=rows[by].replace_strict(distinct, sides, return_dtype=pl.String))
