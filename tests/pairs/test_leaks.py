"""Near-duplicates and authors on both sides: by hand, by frequency, and over random examples."""

import random
from typing import Any

import numpy as np
import polars as pl
import pytest

from llumi.config import PairsConfig
from llumi.corpus.privacy import Pseudonymizer
from llumi.pairs.leaks import AUTHOR, BANDS, POST_TEXT, REPLY_TEXT, ROWS, SHINGLE_WORDS, band_keys, claims, losses, settle
from llumi.pairs.split import with_split
from tests.pairs.threads import WORDS, texts

KEY = Pseudonymizer.from_secret("only for tests")


def shares_key(one: str, other: str) -> bool:
    first, second = band_keys([one, other])
    return bool((first == second).any())


class TestBandKeys:
    def test_equal_texts_have_all_keys_in_common(self) -> None:
        text = next(texts(1))
        first, second = band_keys([text, text.upper().replace(" ", "  ")])
        assert len(first) == BANDS
        assert (first == second).all()

    def test_distant_texts_have_none(self) -> None:
        some = texts(2, num_words=30)
        keys = band_keys([next(some) for _ in range(300)])
        assert len(np.unique(keys)) == keys.size

    def test_keys_do_not_depend_on_the_texts_beside_them(self) -> None:
        some = texts(3)
        three = [next(some) for _ in range(3)]
        assert (band_keys(three)[1] == band_keys(three[1:2])[0]).all()

    @pytest.mark.parametrize("text", ["", " ", "Yes.", "Thank you."])
    def test_the_shortest_texts_are_one_shingle(self, text: str) -> None:
        assert shares_key(text, text)
        assert not shares_key(text, "Good morning.")

    @pytest.mark.parametrize("similarity", [0.95, 0.9, 0.8, 0.5])
    def test_texts_share_a_key_as_often_as_the_formula_says(self, similarity: float) -> None:
        chance, num_texts = random.Random(17), 400
        pairs = [pair_of_similarity(chance, similarity) for _ in range(num_texts)]
        shared = np.mean([shares_key(one, other) for one, other, _ in pairs])
        found = np.mean([jaccard for *_, jaccard in pairs])
        assert found == pytest.approx(similarity, abs=0.01)
        expected = np.mean([1 - (1 - jaccard**ROWS) ** BANDS for *_, jaccard in pairs])
        assert shared == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / num_texts) + 0.01)


def pair_of_similarity(chance: random.Random, similarity: float) -> tuple[str, str, float]:
    """Two texts whose three-word shingles have about this Jaccard similarity, and the exact one: one has another end."""
    num_words, vocabulary = 200, [f"{word}{number}" for word in WORDS for number in range(40)]
    num_shingles = num_words - SHINGLE_WORDS + 1
    num_changed = round(num_shingles * (1 - similarity) / (1 + similarity))
    one = [chance.choice(vocabulary) for _ in range(num_words)]
    other = one[: num_words - num_changed] + [f"x{chance.random()}" for _ in range(num_changed)]
    first, second = ({tuple(text[at : at + SHINGLE_WORDS]) for at in range(num_shingles)} for text in (one, other))
    return " ".join(one), " ".join(other), len(first & second) / len(first | second)


def claimed(*rows: tuple[int, int, bool, str, int, int]) -> pl.DataFrame:
    """Claims from (key, kind, is_test, post_id, id, score)."""
    schema = {
        "key": pl.UInt64,
        "kind": pl.Int8,
        "is_test": pl.Boolean,
        "post_id": pl.String,
        "id": pl.UInt64,
        "score": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(bucket=pl.lit(3, pl.Int32))


def lost(frame: pl.DataFrame) -> set[tuple[str, int, str]]:
    found = losses(frame)
    assert found.height == found.unique().height
    return set(found.select("post_id", "id", "reason").iter_rows())


class TestLosses:
    def test_of_replies_with_a_key_in_common_the_most_endorsed_stays(self) -> None:
        frame = claimed(
            (1, REPLY_TEXT, False, "p", 1, 5),
            (1, REPLY_TEXT, True, "q", 2, 9),
            (1, REPLY_TEXT, False, "r", 3, 9),
            (2, REPLY_TEXT, False, "p", 4, 1),
        )
        assert lost(frame) == {("p", 1, "near_duplicate"), ("r", 3, "near_duplicate")}

    def test_many_keys_in_common_are_one_loss(self) -> None:
        rows = [(key, REPLY_TEXT, False, post, 1, score) for key in range(8) for post, score in (("p", 1), ("q", 2))]
        assert losses(claimed(*rows)).rows() == [("p", 1, "near_duplicate", 3)]

    def test_a_test_post_loses_to_one_in_training_and_to_no_other(self) -> None:
        frame = claimed(
            (1, POST_TEXT, False, "p", 0, 0),
            (1, POST_TEXT, False, "q", 0, 0),
            (1, POST_TEXT, True, "r", 0, 0),
            (2, POST_TEXT, True, "s", 0, 0),
            (2, POST_TEXT, True, "t", 0, 0),
        )
        assert lost(frame) == {("r", 0, "post_in_training")}

    def test_what_an_author_of_training_wrote_leaves_the_test_split(self) -> None:
        frame = claimed(
            (1, AUTHOR, False, "p", 1, 5),
            (1, AUTHOR, True, "q", 2, 9),
            (1, AUTHOR, True, "r", 0, 0),
            (2, AUTHOR, True, "q", 4, 1),
        )
        assert lost(frame) == {("q", 2, "author_in_training"), ("r", 0, "author_in_training")}

    def test_keys_of_one_kind_say_nothing_of_another(self) -> None:
        assert (
            lost(claimed((1, AUTHOR, False, "p", 1, 5), (1, POST_TEXT, True, "q", 0, 0), (1, REPLY_TEXT, True, "q", 2, 9)))
            == set()
        )

    def test_nothing_claimed_nothing_lost(self) -> None:
        assert lost(claimed()) == set()


def test_a_pair_goes_with_its_post_its_chosen_or_its_rejected_reply() -> None:
    pairs = pl.DataFrame(
        {"post_id": ["p", "p", "q", "r"], "id": [1, 2, 1, 1], "id_rejected": [3, 4, 3, 3]},
        schema_overrides={"id": pl.UInt64, "id_rejected": pl.UInt64},
    )
    rows = [
        ("p", 1, "near_duplicate"),
        ("p", 3, "author_in_training"),
        ("p", 4, "near_duplicate"),
        ("q", 0, "post_in_training"),
    ]
    gone = pl.DataFrame(
        [*rows, ("q", 3, "near_duplicate")], schema={"post_id": pl.String, "id": pl.UInt64, "reason": pl.String}, orient="row"
    )
    settled = settle(pairs, gone)
    assert settled["reason"].to_list() == ["chosen_near_duplicate", "rejected_near_duplicate", "post_in_training", None]
    assert settled.drop("reason").equals(pairs)
    replies = settle(pairs.drop("id_rejected"), gone)
    assert replies["reason"].to_list() == ["chosen_near_duplicate", None, "post_in_training", None]


def examples(seed: int, test_fraction: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Random pairs and replies, many of them by the same people and with the same words."""
    chance, some = random.Random(seed), texts(seed)
    bodies, posts = [next(some) for _ in range(300)], [next(some) for _ in range(100)]
    people = [KEY.pseudonym("author", f"person {number}") for number in range(900)]

    def reply(side: str = "") -> dict[str, Any]:
        columns = {
            "id": chance.getrandbits(64),
            "author": chance.choice(people),
            "score": chance.randrange(9),
            "body": chance.choice(bodies),
        }
        return {f"{name}{side}": value for name, value in columns.items()}

    pairs, replies = [], []
    for number in range(120):
        post = {"post_id": number, "post_author": chance.choice(people), "text": chance.choice(posts)}
        chosen = reply()
        pairs += [post | chosen | reply("_rejected") for _ in range(chance.randrange(3))]
        replies += [post | chosen, post | reply()]
    schema = {"post_id": pl.UInt64, "id": pl.UInt64, "id_rejected": pl.UInt64}
    return tuple(
        with_split(
            pl.DataFrame(rows, schema_overrides={name: schema[name] for name in schema if name in rows[0]}),
            "post_author",
            test_fraction,
        )
        for rows in (pairs, replies)
    )


def claims_of(pairs: pl.DataFrame, replies: pl.DataFrame, config: PairsConfig) -> pl.DataFrame:
    """The claims of every post and reply among the examples."""
    sides = ["post_id", "id", "author", "score", "body"]
    rejected = pairs.select("post_id", pl.col(r"^.*_rejected$").name.replace("_rejected$", "")).select(sides)
    texts = pl.concat([pairs.select(sides), replies.select(sides), rejected]).unique(["post_id", "id"], maintain_order=True)
    whole = ["post_id", "post_author", "split", "text"]
    posts = pl.concat([pairs.select(whole), replies.select(whole)]).unique("post_id", maintain_order=True)
    return claims(posts, texts, 0, config)


def settled(seed: int, config: PairsConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    pairs, replies = examples(seed, 0.3)
    gone = losses(claims_of(pairs, replies, config)).drop("bucket")
    return settle(pairs, gone).filter(pl.col("reason").is_null()), settle(replies, gone).filter(pl.col("reason").is_null())


def of_split(frames: tuple[pl.DataFrame, ...], split: str, *columns: str) -> set[str]:
    return {value for frame in frames for name in columns if name in frame.columns for value in frame.filter(split=split)[name]}


@pytest.mark.parametrize("seed", range(6))
def test_nobody_and_no_post_is_on_both_sides_and_no_reply_there_twice(seed: int) -> None:
    kept = settled(seed, PairsConfig())
    for columns in (("post_author", "author", "author_rejected"), ("text",)):
        train, test = (of_split(kept, split, *columns) for split in ("train", "test"))
        assert train
        assert test
        assert not train & test
    holders: dict[str, set[tuple[int, int]]] = {}
    for frame in kept:
        for side in ("", "_rejected"):
            if f"id{side}" in frame.columns:
                for post, reply, body in frame.select("post_id", f"id{side}", f"body{side}").iter_rows():
                    holders.setdefault(body, set()).add((post, reply))
    assert all(len(where) == 1 for where in holders.values())


def test_rules_that_are_switched_off_drop_nothing() -> None:
    pairs, replies = examples(1, 0.3)
    off = PairsConfig(near_duplicates="keep", split_by="post")
    assert claims_of(pairs, replies, off).height == 0
    assert [frame.height for frame in settled(1, off)] == [pairs.height, replies.height]


def test_no_examples_claim_nothing() -> None:
    pairs, replies = examples(1, 0.3)
    assert claims_of(pairs[:0], replies[:0], PairsConfig()).height == 0
