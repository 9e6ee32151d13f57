"""A folder of dumps through the first pass without Ray: partition's work on each chunk, then every bucket."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llumi.config import CorpusConfig, StorageConfig, load_config
from llumi.corpus.clean import Rules, Tally
from llumi.corpus.dump import iter_chunks, open_corpus
from llumi.corpus.privacy import Pseudonymizer
from llumi.pairs.bucket import Bucket
from llumi.pairs.partition import COMMENT_ROWS, NOT_TOP_LEVEL, POST_ROWS, Partition, Partitioning
from llumi.pairs.scratch import Exchange
from llumi.storage import Storage
from tests.dumps import comment, post, shared, write_corpus

KEY = Pseudonymizer.from_secret("only for tests")
JANUARY, FEBRUARY = 1_672_531_200, 1_675_209_600


def partition(uri: Path, folder: Path, num_buckets: int = 1, **corpus_config: Any) -> Partition:
    corpus = open_corpus(load_config(None, [f"corpus.uri={uri}"]))
    storage = Storage.open(StorageConfig(uri=str(folder)))
    posts, comments = (Exchange(storage, "rows", num_buckets, schema) for schema in (POST_ROWS, COMMENT_ROWS))
    numbers = {dump.path: number for number, dump in enumerate(corpus.dumps)}
    work = Partitioning(Rules.of(CorpusConfig(**corpus_config)), KEY, posts, comments, numbers)
    parts = Partition(posts, comments, {"posts": Tally(), "comments": Tally()})
    for dump in corpus.dumps:
        for chunk in iter_chunks(corpus.filesystem, dump):
            result = work(dump, chunk)
            parts.lines[dump.kind].add(Tally.from_counts(result["lines"]))
            parts.months.add(result["months"])
            (posts if dump.kind == "posts" else comments).add(result["paths"])
    return parts


def bucket_of(parts: Partition, number: int = 0, early: tuple[str, ...] = ()) -> Bucket:
    return Bucket.of(parts.posts.read(number), parts.comments.read(number), early)


def of(tmp_path: Path, posts: list[dict[str, Any]], comments: list[dict[str, Any]], early: tuple[str, ...] = ()) -> Bucket:
    return bucket_of(partition(write_corpus(tmp_path / "dumps", posts, comments), tmp_path / "store"), early=early)


def reasons(bucket: Bucket) -> dict[str, str | None]:
    """Why each reply is not in use, by its text, or by its score where the text is gone."""
    texts = bucket.bodies.gather(bucket.replies["row"])
    rows = zip(texts, bucket.replies["score"], bucket.replies["reason"], strict=True)
    return {text or str(score): reason for text, score, reason in rows}


REASONS = {
    "no usable score": "no_score",
    "removed text": "removed_text",
    "deleted text": "removed_text",
    "deleted author": "deleted_author",
    "deleted after capture": "deleted_later",
    "bot": "bot",
    "moderator": "moderator",
    "stickied": "stickied",
    "empty text": "empty_text",
    "not a text post": "not_text_post",
    "no subreddit": "no_community",
}
"""The words of expected.json -> our reasons; "no post to join" has no row and is counted while reading."""


class TestQuirks:
    @pytest.fixture(scope="class")
    def expected(self) -> dict[str, Any]:
        return json.loads((shared("quirks") / "expected.json").read_text())

    @pytest.fixture(scope="class")
    def parts(self, tmp_path_factory: pytest.TempPathFactory) -> Partition:
        return partition(shared("quirks") / "quirks_*", tmp_path_factory.mktemp("quirks"))

    def test_top_level_comments_are_kept_and_dropped_as_expected(self, expected: dict[str, Any], parts: Partition) -> None:
        comments = expected["comments"]
        raws = [*comments["kept"], *comments["dropped"]]
        names = dict(zip(KEY.hashed("comment", pl.Series(raws)), raws, strict=True))
        bucket = bucket_of(parts)
        texts = bucket.bodies.gather(bucket.replies["row"])
        rows = {
            names[row["id"]]: row | {"body": text}
            for row, text in zip(bucket.replies.to_dicts(), texts, strict=True)
            if row["id"] in names
        }
        for raw, record in comments["kept"].items():
            if record["parent_id"] == "t3_p1":
                assert (rows[raw]["reason"], rows[raw]["score"]) == (None, record["score"]), raw
                assert rows[raw]["body"] == record["body"].strip(), raw
            else:
                assert raw not in rows
        dropped = {raw: REASONS[why] for raw, why in comments["dropped"].items() if why != "no post to join"}
        assert {raw: rows[raw]["reason"] for raw in dropped if raw in rows} == {
            raw: dropped[raw] for raw in dropped if raw in rows
        }
        assert len(dropped.keys() & rows.keys()) > len(REASONS) / 2

    def test_every_comment_is_accounted_for(self, expected: dict[str, Any], parts: Partition) -> None:
        lines, bucket = parts.lines["comments"], bucket_of(parts)
        assert lines.malformed == expected["comments"]["malformed_lines"]
        assert lines.dropped["no_post"] == 1
        assert lines.dropped[NOT_TOP_LEVEL] == sum(r["parent_id"] != "t3_p1" for r in expected["comments"]["kept"].values())
        kept = bucket.replies.filter(pl.col("reason").is_null()).height
        assert lines.records == kept + lines.dropped.total() + bucket.dropped()["comments"].total()

    def test_posts_are_kept_and_dropped_as_expected(self, expected: dict[str, Any], parts: Partition) -> None:
        posts = {row["post"]: row for row in bucket_of(parts).posts.to_dicts()}
        submissions = expected["submissions"]
        names = {raw: KEY.pseudonym("post", raw) for raw in [*submissions["kept"], *submissions["dropped"]]}
        assert all(posts[names[raw]]["reason"] is None for raw in submissions["kept"])
        found = {raw: posts[names[raw]]["reason"] for raw in submissions["dropped"]}
        assert found == {raw: REASONS[why] for raw, why in submissions["dropped"].items()}
        assert set(posts) == set(names.values())
        for raw, title in submissions["unescaped_title"].items():
            assert posts[names[raw]]["text"].startswith(f"{title}\n\n")


def test_the_capture_retrieved_last_counts_even_where_it_was_removed(tmp_path: Path) -> None:
    comments = [
        comment("c1", "p1", 9, retrieved_on=20, body="[removed]"),
        comment("c1", "p1", 5, retrieved_on=10),
        comment("c2", "p1", 1),
        comment("c2", "p1", 2, body="The last one"),
    ]
    posts = [post("p1", retrieved_on=5, selftext="Newer"), post("p1", retrieved_on=1, selftext="Older")]
    bucket = of(tmp_path, posts, comments)
    assert reasons(bucket) == {"9": "removed_text", "The last one": None}  # of one moment the one further down counts
    assert bucket.posts["text"].to_list() == ["A quiet week\n\nNewer"]
    dropped = bucket.dropped()
    assert dropped["posts"]["older_capture"] == 1
    assert dropped["comments"] == {"older_capture": 2, "removed_text": 1}


def test_replies_of_one_id_below_two_posts_are_two(tmp_path: Path) -> None:
    comments = [comment("c1", "p1", 1, body="First"), comment("c1", "p2", 2, body="Second")]
    assert reasons(of(tmp_path, [post("p1"), post("p2")], comments)) == {"First": None, "Second": None}


def test_the_askers_own_reply_is_known_by_the_name_alone(tmp_path: Path) -> None:
    comments = [
        comment("c1", "p1", 9, author="asker", body="Thank you all"),
        comment("c2", "p2", 8, author="asker", body="I know that week"),
        comment("c3", "p1", 7, body="By a helper"),
        comment("c4", "gone", 6, author="asker", body="Post is absent"),
    ]
    bucket = of(tmp_path, [post("p1"), post("p2", author="other")], comments)
    found = reasons(bucket)
    assert found == {"Thank you all": "own_reply", "I know that week": None, "By a helper": None, "Post is absent": None}
    assert bucket.dropped()["comments"]["own_reply"] == 1


def test_a_removed_post_of_a_deleted_author_makes_no_reply_its_own(tmp_path: Path) -> None:
    bucket = of(tmp_path, [post("p1", author="", selftext="[removed]")], [comment("c1", "p1", 3, author="")])
    assert bucket.replies["reason"].to_list() == ["deleted_author"]


def test_early_months_are_left_out_to_their_last_second(tmp_path: Path) -> None:
    comments = [
        comment("c1", "p1", 1, created_utc=JANUARY, body="First second"),
        comment("c2", "p1", 1, created_utc=FEBRUARY - 1, body="Last second"),
        comment("c3", "p1", 1, created_utc=FEBRUARY, body="Next month"),
        comment("c4", "p1", 4, created_utc=JANUARY, body="[removed]"),
    ]
    bucket = of(tmp_path, [post("p1")], comments, early=("2023-01",))
    early = "early_month"
    assert reasons(bucket) == {"First second": early, "Last second": early, "Next month": None, "4": "removed_text"}


def test_replies_know_what_became_of_their_posts(tmp_path: Path) -> None:
    posts = [post("kept"), post("gone", selftext="[removed]")]
    comments = [comment(f"c-{of}", of, 3) for of in ("kept", "gone", "absent")]
    comments += [comment("deep", "kept", 3, parent_id="t1_c-kept")]
    parts = partition(write_corpus(tmp_path / "dumps", posts, comments), tmp_path / "store")
    bucket = bucket_of(parts)
    assert bucket.dropped_replies() == {"post_removed_text": 1, "post_absent": 1}
    assert parts.lines["comments"].dropped == {NOT_TOP_LEVEL: 1}
    in_use = bucket.replies.filter(bucket.in_use)
    assert bucket.bodies.gather(in_use["row"]).to_list() == ["The reply c-kept"]
    assert in_use.select("community", "post_created_utc").rows() == [("porch", JANUARY)]
    assert bucket.num_met == 2


def test_what_lies_in_scratch_names_nobody(tmp_path: Path) -> None:
    folder = write_corpus(
        tmp_path / "dumps",
        [post("rawpost", author="rawauthor", permalink="/r/rawlink")],
        [comment("rawcomment", "rawpost", 3, author="rawhelper", permalink="/r/rawlink")],
    )
    parts = partition(folder, tmp_path / "store")
    everything = repr([exchange.read(0).to_dicts() for exchange in (parts.posts, parts.comments)])
    assert "The reply rawcomment" in everything
    everything = everything.replace("The reply rawcomment", "").replace("The body of rawpost", "")
    assert "raw" not in everything


def test_records_of_other_communities_have_no_row(tmp_path: Path) -> None:
    posts = [post("p1"), post("p2", subreddit="elsewhere")]
    comments = [comment("c1", "p1", 1), comment("c2", "p2", 1, subreddit="elsewhere")]
    parts = partition(write_corpus(tmp_path / "dumps", posts, comments), tmp_path / "store", communities=("Porch",))
    assert bucket_of(parts).posts.height == bucket_of(parts).replies.height == 1
    assert [parts.lines[kind].dropped for kind in ("posts", "comments")] == [{"other_community": 1}] * 2
    assert [parts.lines[kind].records for kind in ("posts", "comments")] == [2, 2]


def test_a_thread_lies_in_one_bucket_and_buckets_together_hold_all(tmp_path: Path) -> None:
    posts = [post(f"p{number}") for number in range(60)]
    comments = [comment(f"c{number}-{score}", f"p{number}", score) for number in range(60) for score in (1, 4, 9)]
    folder = write_corpus(tmp_path / "dumps", posts, comments)
    parts = partition(folder, tmp_path / "seven", num_buckets=7)
    buckets = [bucket_of(parts, number) for number in range(7)]
    assert sum(bucket.posts.height for bucket in buckets) == sum(bucket.num_met for bucket in buckets) / 3 == 60
    assert sum(bucket.posts.height > 0 for bucket in buckets) > 4
    one = bucket_of(partition(folder, tmp_path / "one"))
    together = pl.concat([bucket.replies for bucket in buckets])
    assert together.drop("row").sort("id").equals(one.replies.drop("row").sort("id"))


def test_a_corpus_without_rows_is_an_empty_bucket(tmp_path: Path) -> None:
    bucket = of(tmp_path, [], [])
    assert (bucket.posts.height, bucket.replies.height, bucket.num_met) == (0, 0, 0)
    assert not any(dropped.total() for dropped in bucket.dropped().values())
