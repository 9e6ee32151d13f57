import polars as pl
import pytest

from llumi.pairs.split import split_of, with_ids, with_split

POSTS = [f"{number:024x}" for number in range(4000)]


def test_about_the_fraction_is_held_out() -> None:
    share = sum(split_of(post, 0.1) == "test" for post in POSTS) / len(POSTS)
    assert 0.08 < share < 0.12


def test_a_larger_fraction_keeps_what_was_held_out() -> None:
    held_out = [post for post in POSTS if split_of(post, 0.1) == "test"]
    assert all(split_of(post, 0.2) == "test" for post in held_out)


def example_id(*parts: str) -> str:
    columns = {str(number): [part] for number, part in enumerate(parts)}
    return with_ids(pl.DataFrame(columns), *columns)["example_id"].item()


def test_ids_tell_apart_what_differs() -> None:
    parts = [("p", "a", "b"), ("p", "b", "a"), ("p", "ab"), ("p", "a"), ("pa",)]
    assert len({example_id(*some) for some in parts}) == len(parts)
    assert len(example_id("p", "a")) == 24


@pytest.mark.parametrize("by", ["post_id", "post_author"])
def test_all_rows_of_one_side_follow_the_same_name(by: str) -> None:
    rows = pl.DataFrame({"post_id": POSTS, "post_author": [f"{number % 90:024x}" for number in range(len(POSTS))]})
    split = with_split(rows, by, 0.2)
    assert split["split"].to_list() == [split_of(name, 0.2) for name in rows[by]]
    assert split.group_by(by).agg(pl.col("split").n_unique())["split"].max() == 1


def test_a_row_is_named_after_the_columns_asked_for() -> None:
    rows = with_ids(pl.DataFrame({"post_id": ["p", "p"], "body": ["a", "b"], "score": [1, 2]}), "post_id", "body")
    assert rows["example_id"].to_list() == [example_id("p", "a"), example_id("p", "b")]


def test_no_rows_stay_no_rows() -> None:
    empty = with_split(with_ids(pl.DataFrame({"post_id": []}, schema={"post_id": pl.String}), "post_id"), "post_id", 0.1)
    assert empty.height == 0
    assert empty.columns == ["post_id", "example_id", "split"]
