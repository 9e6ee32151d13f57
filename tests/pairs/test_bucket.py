"""A folder of dumps through both passes without Ray: partition's work on each chunk, then every bucket."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.fs as pafs
import pytest

from llumi.config import CorpusConfig, PairsConfig, load_config
from llumi.corpus.clean import Kind, Rules, Tally
from llumi.corpus.dump import iter_chunks, open_corpus
from llumi.corpus.privacy import Pseudonymizer
from llumi.pairs.bucket import Bucket, build_examples
from llumi.pairs.partition import Partition, Partitioning
from llumi.pairs.split import split_of
from tests.dumps import comment, post, shared, write_corpus
from tests.pairs.threads import NO_THRESHOLDS, margin

LOCAL = pafs.LocalFileSystem()
KEY = Pseudonymizer.from_secret("only for tests")


def partition(uri: Path, scratch: Path, num_buckets: int = 1) -> Partition:
    dumps = open_corpus(load_config(None, [f"corpus.uri={uri}"])).dumps
    scratch.mkdir()
    numbers = {dump.path: number for number, dump in enumerate(dumps)}
    work = Partitioning(Rules.of(CorpusConfig()), KEY, LOCAL, str(scratch), num_buckets, numbers)
    paths: dict[Kind, list[str]] = {"posts": [], "comments": []}
    lines: dict[Kind, Tally] = {"posts": Tally(), "comments": Tally()}
    for dump in dumps:
        for chunk in iter_chunks(LOCAL, dump):
            result = work(dump, chunk)
            lines[dump.kind].add(Tally.from_counts(result["lines"]))
            paths[dump.kind] += [result["path"]] if result["path"] else []
    return Partition(num_buckets, paths, lines, [])


def bucket_of(parts: Partition, number: int = 0) -> Bucket:
    return Bucket.of(parts.read(LOCAL, "posts", number), parts.read(LOCAL, "comments", number))


def pseudonym(domain: Any, raw: str) -> str:
    return KEY.pseudonym(domain, raw)


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
        return partition(shared("quirks") / "quirks_*", tmp_path_factory.mktemp("quirks") / "scratch")

    def test_kept_comments_are_kept_as_expected(self, expected: dict[str, Any], parts: Partition) -> None:
        comments = {row["id"]: row for row in parts.read(LOCAL, "comments", 0).to_pylist() if row["retrieved_on"] != 1000}
        for raw_id, record in expected["comments"]["kept"].items():
            row = comments[pseudonym("comment", raw_id)]
            is_top_level = record["parent_id"] == "t3_p1"
            assert (row["reason"], row["score"], row["is_top_level"]) == (None, record["score"], is_top_level), raw_id
            assert row["body"] == (record["body"].strip() if is_top_level else ""), raw_id

    def test_dropped_comments_are_dropped_for_the_expected_reason(self, expected: dict[str, Any], parts: Partition) -> None:
        comments = {row["id"]: row["reason"] for row in parts.read(LOCAL, "comments", 0).to_pylist()}
        dropped = dict(expected["comments"]["dropped"])
        assert dropped.pop("q24") == "no post to join"
        assert parts.lines["comments"].dropped == {"no_post": 1}
        assert {raw: comments[pseudonym("comment", raw)] for raw in dropped} == {
            raw: REASONS[why] for raw, why in dropped.items()
        }

    def test_every_record_is_accounted_for(self, expected: dict[str, Any], parts: Partition) -> None:
        lines = parts.lines["comments"]
        assert lines.malformed == expected["comments"]["malformed_lines"]
        bucket = bucket_of(parts)
        kept = bucket.comments.filter(pl.col("reason").is_null())["id"].to_list()
        either = expected["comments"]["either_malformed_or_kept"]
        assert set(kept) == {pseudonym("comment", raw) for raw in [*expected["comments"]["kept"], *either]}
        assert lines.records == len(kept) + lines.dropped.total() + bucket.dropped()["comments"].total()

    def test_the_capture_retrieved_last_wins(self, parts: Partition) -> None:
        (body,) = bucket_of(parts).replies.filter(pl.col("id") == pseudonym("comment", "q01"))["body"]
        assert body == "second capture"
        assert bucket_of(parts).dropped()["comments"]["older_capture"] == 1

    def test_posts_are_kept_and_dropped_as_expected(self, expected: dict[str, Any], parts: Partition) -> None:
        posts = {row["id"]: row for row in parts.read(LOCAL, "posts", 0).to_pylist()}
        submissions = expected["submissions"]
        assert all(posts[pseudonym("post", raw)]["reason"] is None for raw in submissions["kept"])
        found = {raw: posts[pseudonym("post", raw)]["reason"] for raw in submissions["dropped"]}
        assert found == {raw: REASONS[why] for raw, why in submissions["dropped"].items()}
        assert len(posts) == len(submissions["kept"]) + len(submissions["dropped"])
        for raw, title in submissions["unescaped_title"].items():
            assert posts[pseudonym("post", raw)]["text"].startswith(f"{title}\n\n")


def test_a_later_capture_that_was_removed_takes_the_earlier_one_with_it(tmp_path: Path) -> None:
    comments = [
        comment("c1", "p1", 9, retrieved_on=20, body="[removed]"),
        comment("c1", "p1", 5, retrieved_on=10),
        comment("c2", "p1", 1),
        comment("c2", "p1", 2),
    ]
    bucket = bucket_of(partition(write_corpus(tmp_path / "d", [post("p1")], comments), tmp_path / "s"))
    newest = {row["score"]: row["reason"] for row in bucket.replies.to_dicts()}
    assert newest == {9: "removed_text", 2: None}  # of captures of one moment the one further down counts


def test_what_lies_in_scratch_names_nobody(tmp_path: Path) -> None:
    folder = write_corpus(
        tmp_path / "d",
        [post("rawpost", author="rawauthor", permalink="/r/rawlink")],
        [comment("rawcomment", "rawpost", 3, author="rawauthor", permalink="/r/rawlink")],
    )
    parts = partition(folder, tmp_path / "s")
    everything = repr([parts.read(LOCAL, kind, 0).to_pylist() for kind in ("posts", "comments")])
    assert "The reply rawcomment" in everything
    everything = everything.replace("The reply rawcomment", "").replace("The body of rawpost", "")
    assert not any(raw in everything for raw in ("rawpost", "rawcomment", "rawauthor", "rawlink"))


def test_replies_know_what_became_of_their_posts(tmp_path: Path) -> None:
    posts = [post("kept"), post("gone", selftext="[removed]")]
    comments = [comment(f"c-{of}", of, 3) for of in ("kept", "gone", "absent")]
    comments += [comment("deep", "kept", 3, parent_id="t1_c-kept")]
    bucket = bucket_of(partition(write_corpus(tmp_path / "d", posts, comments), tmp_path / "s"))
    assert bucket.dropped_replies() == {"not_top_level": 1, "post_removed_text": 1, "post_absent": 1}
    assert bucket.kept_replies["body"].to_list() == ["The reply c-kept"]
    assert bucket.num_met == 3


def thread(number: int) -> list[dict[str, Any]]:
    return [comment(f"c{number}-{score}", f"p{number}", score) for score in (1, 4, 9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    posts = [post(f"p{number}", title=f"Title {number}") for number in range(60)]
    return write_corpus(tmp_path_factory.mktemp("threads"), posts, [reply for number in range(60) for reply in thread(number)])


def test_a_thread_lies_in_one_bucket_and_buckets_together_hold_all(folder: Path, tmp_path: Path) -> None:
    parts = partition(folder, tmp_path / "s", num_buckets=7)
    buckets = [bucket_of(parts, number) for number in range(7)]
    assert sum(bucket.posts.height for bucket in buckets) == 60
    assert sum(bucket.kept_replies.height for bucket in buckets) == 180
    one = bucket_of(partition(folder, tmp_path / "one"))
    together = pl.concat([bucket.replies for bucket in buckets]).sort("id")
    assert together.equals(one.replies.sort("id"))


def test_examples_of_a_bucket(folder: Path, tmp_path: Path) -> None:
    config = PairsConfig(max_pairs_per_post=2, sft_replies_per_post=1, sft_min_score=5, test_fraction=0.3)
    tables, account = build_examples(bucket_of(partition(folder, tmp_path / "s")), config, NO_THRESHOLDS)
    rows = {name: table.to_pylist() for name, table in tables.items()}
    assert account.as_counts() == {"candidates": 180, "kept": 120, "dropped": {"over_cap_per_post": 60}}
    for split in ("train", "test"):
        posts = {row["post_id"] for row in rows[f"gm-sft/{split}"]}
        assert all(split_of(post_id, 0.3) == split for post_id in posts)
        for name in ("gm-dpo", "im-sft", "im-dpo"):
            assert {row["post_id"] for row in rows[f"{name}/{split}"]} == posts
    assert {row["score"] for row in rows["gm-sft/train"]} == {9}
    assert len(rows["gm-sft/train"]) + len(rows["gm-sft/test"]) == 60
    assert [row["post_id"] for row in rows["held-out"]] == sorted({row["post_id"] for row in rows["gm-dpo/test"]})
    assert {(row["reply_score"], row["draft_score"]) for row in rows["held-out"]} == {(9, 1)}
    assert all(row["post"].startswith("Title ") for row in rows["held-out"])


def test_im_learns_to_revise_the_draft_and_not_to_repeat_it(folder: Path, tmp_path: Path) -> None:
    tables, _ = build_examples(bucket_of(partition(folder, tmp_path / "s")), margin(2, 1), NO_THRESHOLDS)
    gm, im, sft = (tables[f"{name}/train"].to_pylist() for name in ("gm-dpo", "im-dpo", "im-sft"))
    assert [row["pair_id"] for row in im] == [row["pair_id"] for row in gm] == [row["example_id"] for row in sft]
    for draft, revision, example in zip(gm, im, sft, strict=True):
        assert revision["chosen"] == draft["chosen"] == example["completion"]
        assert revision["rejected"] == draft["rejected"]
        assert revision["prompt"] == example["prompt"]
        assert revision["prompt"][0]["content"].endswith(f"Draft:\n{draft['rejected'][0]['content']}")


def test_a_corpus_without_rows_gives_no_tables(tmp_path: Path) -> None:
    parts = partition(write_corpus(tmp_path / "d", [], []), tmp_path / "s")
    tables, account = build_examples(bucket_of(parts), margin(2), NO_THRESHOLDS)
    assert tables == {}
    assert account.candidates == 0
