import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.fs as pafs
import pytest

from llumi.config import CorpusConfig, load_config
from llumi.corpus.clean import Rules, Tally, clean_lines, count_reasons, wanted_lines
from llumi.corpus.dump import iter_chunks, open_corpus
from llumi.corpus.exclude import Exclusions
from llumi.corpus.reddit import Kind, read_records
from tests.dumps import comment, line, post, shared


def cleaned(config: CorpusConfig, kind: Kind, *records: dict[str, Any]) -> tuple[pl.DataFrame, Tally]:
    return clean_lines(b"\n".join(line(record) for record in records), kind, Rules.of(config))


def reasons(config: CorpusConfig, *records: dict[str, Any], kind: Kind = "comments") -> list[str | None]:
    """The reason of each record that is read, None where it is kept."""
    return cleaned(config, kind, *records)[0]["reason"].to_list()


@pytest.fixture
def strict(tmp_path: Path) -> CorpusConfig:
    """Every rule of the section can hold."""
    (tmp_path / "exclude.txt").write_text("post t3_Gone1\nauthor Left_Out\n")
    return CorpusConfig(communities=("Porch",), exclude=tmp_path / "exclude.txt", min_characters=3, max_characters=60)


COMMENT_FAULTS: dict[str, dict[str, Any]] = {
    # Beside the community that is wanted, so that the line is read at all.
    "other_community": {"subreddit": "elsewhere", "crosspost": {"subreddit": "porch"}},
    "excluded_post": {"link_id": "t3_gone1"},
    "excluded_author": {"author": "LEFT_out"},
    "no_post": {"link_id": None, "parent_id": "t1_c9"},
    "removed_text": {"removed_by_category": "moderator"},
    "own_reply": {"is_submitter": True},
    "no_community": {"subreddit": None, "crosspost": {"subreddit": "porch"}},
    "deleted_author": {"author": "[deleted]"},
    "deleted_later": {"_meta": {"was_deleted_later": True}},
    "moderator": {"distinguished": "moderator"},
    "stickied": {"stickied": True},
    "no_score": {"score": None},
    "bot": {"author": "AUTOMODERATOR"},
    "empty_text": {"body": " \n\u00a0"},
    "too_short": {"body": " ab "},
    "too_long": {"body": "long " * 20},
}
_ONLY_COMMENTS = ("excluded_post", "no_post", "own_reply", "no_score", "empty_text", "too_short", "too_long")
POST_FAULTS: dict[str, dict[str, Any]] = {
    "other_community": COMMENT_FAULTS["other_community"],
    "excluded_post": {"id": "GONE1"},
    "excluded_author": COMMENT_FAULTS["excluded_author"],
    "not_text_post": {"is_self": False},
    **{
        reason: changes
        for reason, changes in COMMENT_FAULTS.items()
        if reason not in (*_ONLY_COMMENTS, *list(COMMENT_FAULTS)[:3])
    },
    "empty_text": {"title": " ", "selftext": "\n"},
    "too_short": {"title": "a", "selftext": ""},
    "too_long": {"title": "long " * 20},
}


@pytest.mark.parametrize(("kind", "faults"), [("comments", COMMENT_FAULTS), ("posts", POST_FAULTS)], ids=["comments", "posts"])
def test_of_all_that_is_wrong_the_first_rule_is_the_reason(
    strict: CorpusConfig, kind: Kind, faults: dict[str, dict[str, Any]]
) -> None:
    base = comment("c1", "p1", 3) if kind == "comments" else post("p1")
    assert reasons(strict, base, kind=kind) == [None]
    order = list(faults)
    for place, reason in enumerate(order):
        assert reasons(strict, base | faults[reason], kind=kind) == [reason]
        record = dict(base)
        for worse in reversed(order[place:]):
            record |= faults[worse]
        assert reasons(strict, record, kind=kind) == [reason]


def test_bots_by_name_without_regard_to_case() -> None:
    records = [comment("c1", "p", 1, author="AUTOMODERATOR"), comment("c2", "p", 1, author="RemindBot"), comment("c3", "p", 1)]
    assert reasons(CorpusConfig(), *records) == ["bot", None, None]
    assert reasons(CorpusConfig(bots=("remindbot",)), *records) == [None, "bot", None]
    assert reasons(CorpusConfig(bots=()), *records) == [None, None, None]


def test_lengths_are_those_of_the_text_without_its_margins() -> None:
    config = CorpusConfig(min_characters=3, max_characters=5)
    bodies = (" \n\t ", "ab ", "abc", "  abcde  ", "abcdef", "\u00e9\U0001f499\u00e9")
    records = [comment("c", "p", 1, body=body) for body in bodies]
    assert reasons(config, *records) == ["empty_text", "too_short", None, None, "too_long", None]


def test_a_post_is_as_long_as_its_title_and_its_text() -> None:
    config = CorpusConfig(min_characters=3, max_characters=5)
    texts = (("", ""), ("a", ""), ("a", "b"), ("", "abcde"), ("abc", "def"))
    records = [post("p", title=title, selftext=body) for title, body in texts]
    assert reasons(config, *records, kind="posts") == ["empty_text", "too_short", None, None, "too_long"]


@pytest.mark.parametrize("mark", ["[removed]", "[deleted]", " [ Removed by Reddit ] ", "[deleted by user]", "[REMOVED]\n"])
def test_the_marks_of_removal(mark: str) -> None:
    assert reasons(CorpusConfig(), comment("c", "p", 1, body=mark), comment("c", "p", 1, author=mark)) == [
        "removed_text",
        "deleted_author",
    ]
    posts = [post("p", selftext=mark), post("p", title=mark), post("p", selftext=f"{mark} is what it said")]
    assert reasons(CorpusConfig(), *posts, kind="posts") == ["removed_text", "removed_text", None]


def test_a_score_matters_to_a_comment_alone() -> None:
    assert reasons(CorpusConfig(), comment("c", "p", "many"), comment("c", "p", 0), comment("c", "p", -5)) == [
        "no_score",
        None,
        None,
    ]
    assert reasons(CorpusConfig(), post("p", score=None), kind="posts") == [None]


def test_exclusions_hold_in_any_case_and_take_the_replies_to_a_post_along() -> None:
    rules = Rules.of(CorpusConfig())
    assert rules.exclusions == Exclusions()
    excluding = Rules(rules.bots, (), 1, 99, Exclusions(frozenset({"abc1"}), frozenset({"quiet_maple"})))
    comments = [comment("abc1", "p1", 1), comment("c1", "ABC1", 1), comment("c2", "p1", 1, author="Quiet_Maple")]
    posts = [post("ABC1"), post("abc12"), post("p1", author="QUIET_MAPLE"), post("p2", author="quiet_maple2")]
    assert clean_lines(b"\n".join(map(line, comments)), "comments", excluding)[0]["reason"].to_list() == [
        None,
        "excluded_post",
        "excluded_author",
    ]
    assert clean_lines(b"\n".join(map(line, posts)), "posts", excluding)[0]["reason"].to_list() == [
        "excluded_post",
        None,
        "excluded_author",
        None,
    ]


def test_the_tally_adds_up_and_blank_lines_are_no_lines() -> None:
    lines = [
        line(comment("c1", "p", 1)),
        b"",
        b" \r",
        b"{cut",
        line(comment("c2", "p", None)),
        line(comment("c3", "p", 2)) + b"\r",
    ]
    records, tally = clean_lines(b"\n".join(lines), "comments", Rules.of(CorpusConfig()))
    assert records.filter(pl.col("reason").is_null())["id"].to_list() == ["c1", "c3"]
    assert tally.as_counts() == {"records": 3, "kept": 2, "dropped": {"no_score": 1}, "malformed": 1}
    assert Tally.from_counts(tally.as_counts()) == tally


def test_tallies_of_parts_are_that_of_the_whole(strict: CorpusConfig) -> None:
    chooser = random.Random(17)
    faults = [{}, *COMMENT_FAULTS.values(), {"subreddit": "elsewhere"}]
    lines = [line(comment(f"c{number}", "p1", 3) | chooser.choice(faults)) for number in range(1000)]
    rules, whole = Rules.of(strict), Tally()
    for start in range(0, 1000, 130):
        part = clean_lines(b"\n".join(lines[start : start + 130]), "comments", rules)[1]
        assert part.records == part.kept + part.dropped.total()
        whole.add(part)
    assert whole == clean_lines(b"\n".join(lines), "comments", rules)[1]
    assert (whole.records, whole.malformed) == (1000, 0)
    assert set(whole.dropped) == set(COMMENT_FAULTS)
    weights = list(whole.as_counts()["dropped"].values())
    assert weights == sorted(weights, reverse=True)


def test_what_is_dropped_keeps_what_the_accounts_need() -> None:
    record = comment("c1", "p1", 4, author="AutoModerator", retrieved_on=9)
    (dropped,) = cleaned(CorpusConfig(), "comments", record)[0].to_dicts()
    expected = {"reason": "bot", "id": "c1", "post_id": "p1", "community": "porch", "score": 4, "retrieved_on": 9}
    assert {name: dropped[name] for name in expected} == expected


def test_reasons_are_counted_without_what_is_kept() -> None:
    assert count_reasons(pl.Series(["bot", None, "bot", "stickied", None])) == {"bot": 2, "stickied": 1}
    assert not count_reasons(pl.Series([None], dtype=pl.String))


@pytest.mark.parametrize("kind", ["posts", "comments"])
@pytest.mark.parametrize("lines", [b"", b"\n", b" \n\n"])
def test_nothing_gives_nothing(kind: Kind, lines: bytes) -> None:
    records, tally = clean_lines(lines, kind, Rules.of(CorpusConfig()))
    assert (records.height, tally) == (0, Tally())
    assert records.schema["reason"] == pl.String


class TestWantedLines:
    @pytest.mark.parametrize("end", [b"", b"\n"])
    def test_other_communities_are_passed_over_and_counted(self, end: bytes) -> None:
        lines = [
            line(comment(f"c{place}", "p", 1, subreddit=name)) for place, name in enumerate(("a", "porch", "b", "porch", "c"))
        ]
        assert wanted_lines(b"\n".join(lines) + end, ("porch",)) == (lines[1] + b"\n" + lines[3] + b"\n", 3)
        wanted, num_passed_over = wanted_lines(b"\n".join(lines[:2]) + end, ("porch",))
        assert (wanted.strip(), num_passed_over) == (lines[1], 1)
        assert wanted_lines(b"\n".join(lines) + end, ("d",)) == (b"", 5)
        assert wanted_lines(end, ("d",))[0] == b""

    def test_all_lines_are_wanted_where_no_community_is_named(self) -> None:
        text = line(comment("c1", "p", 1)) + b"\n{cut\n"
        assert wanted_lines(text, ()) == (text, 0)

    @pytest.mark.parametrize("spacing", ['"subreddit":"{}"', '"subreddit": "{}"', '"subreddit" :\t "{}"'])
    @pytest.mark.parametrize("name", ["porch", "PORCH", "pOrCh"])
    def test_a_wanted_line_is_found_in_any_case_and_spacing(self, spacing: str, name: str) -> None:
        raw = line(comment("c1", "p", 1)).replace(b'"subreddit": "porch"', spacing.format(name).encode())
        text = b"{cut\n" + raw + b"\r\n" + line(comment("c2", "p", 1, subreddit="other"))
        assert wanted_lines(text, ("other2", "porch")) == (raw + b"\r\n", 2)

    def test_a_name_is_no_pattern_and_no_part_of_another(self) -> None:
        names = ("u_a.b", "u_axb", "porchlight", "front porch", "porch")
        lines = [line(comment(name, "p", 1, subreddit=name)) for name in names]
        assert wanted_lines(b"\n".join(lines), ("u_a.b", "porch")) == (lines[0] + b"\n" + lines[4], 3)

    def test_a_name_beyond_ascii_is_left_to_the_rules(self) -> None:
        records = [comment("c1", "p", 1, subreddit="CAF\u00c9"), comment("c2", "p", 1)]
        assert reasons(CorpusConfig(communities=("caf\u00e9",)), *records) == [None, "other_community"]

    def test_a_line_that_only_speaks_of_a_community_is_not_kept(self) -> None:
        records = [
            comment("c1", "p", 1, subreddit="other", body='it said "subreddit":"porch" there'),
            comment("c2", "p", 1, subreddit="other", crosspost={"subreddit": "porch"}),
            comment("c3", "p", 1),
        ]
        frame, tally = cleaned(CorpusConfig(communities=("porch",)), "comments", *records)
        assert frame.filter(pl.col("reason").is_null())["id"].to_list() == ["c3"]
        assert tally.as_counts() == {"records": 3, "kept": 1, "dropped": {"other_community": 2}, "malformed": 0}

    def test_passing_over_keeps_what_reading_everything_keeps(self) -> None:
        chooser = random.Random(17)
        names = ["porch", "Porch", "steps", "STEPS", "stepstone", "por", "other", "porch_"]
        separators = [(",", ":"), (", ", ": "), (" , ", " : ")]
        lines = []
        for number in range(2000):
            record = list(comment(f"c{number}", "p", number, subreddit=chooser.choice(names)).items())
            chooser.shuffle(record)
            lines.append(json.dumps(dict(record), separators=chooser.choice(separators)).encode())
        text = b"\n".join(lines)
        rules = Rules.of(CorpusConfig(communities=("PORCH", "steps")))
        passing, tally = clean_lines(text, "comments", rules)
        everything = rules.judge(read_records(text, "comments")[0], "comments")
        kept = everything.filter(pl.col("reason").is_null())
        assert passing.filter(pl.col("reason").is_null()).equals(kept)
        assert 800 < kept.height < 1200
        assert tally == Tally.of(everything, 0, 0)


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
    "no post to join": "no_post",
}
"""The words of expected.json -> our reasons."""


class TestQuirks:
    @pytest.fixture(scope="class")
    def expected(self) -> dict[str, Any]:
        expected: dict[str, Any] = json.loads((shared("quirks") / "expected.json").read_text(encoding="utf-8"))
        return expected

    @staticmethod
    def read(name: str) -> tuple[pl.DataFrame, Tally]:
        """One file of the folder, cleaned chunk by chunk: small ones, so that borders fall everywhere."""
        config = load_config(None, [f"corpus.uri={shared('quirks') / 'quirks_*'}"])
        (dump,) = (dump for dump in open_corpus(config).dumps if dump.name == name)
        frames, whole = [], Tally()
        for chunk in iter_chunks(pafs.LocalFileSystem(), dump, 1000):
            records, tally = clean_lines(chunk.data, dump.kind, Rules.of(config.corpus))
            frames.append(records)
            whole.add(tally)
        return pl.concat(frames), whole

    def test_comments(self, expected: dict[str, Any]) -> None:
        side = expected["comments"]
        records, tally = self.read(side["file"])
        newest = {row["id"]: row for row in records.sort("retrieved_on", maintain_order=True).to_dicts()}
        for raw_id, wanted in side["kept"].items():
            row = newest.pop(raw_id)
            assert (row["reason"], row["score"], row["created_utc"]) == (None, wanted["score"], wanted["created_utc"]), raw_id
            assert (row["post_id"], row["is_top_level"]) == ("p1", wanted["parent_id"] == "t3_p1"), raw_id
            assert row["body"] == wanted["body"], raw_id
        for raw_id in side["either_malformed_or_kept"]:
            assert newest.pop(raw_id, {"reason": None})["reason"] is None
        assert {raw_id: row["reason"] for raw_id, row in newest.items()} == {
            raw_id: REASONS[why] for raw_id, why in side["dropped"].items()
        }
        assert tally.malformed == side["malformed_lines"]
        assert tally == Tally.of(records, tally.malformed, 0)

    def test_submissions(self, expected: dict[str, Any]) -> None:
        side = expected["submissions"]
        rows = {row["id"]: row for row in self.read(side["file"])[0].to_dicts()}
        found = {raw_id: row["reason"] for raw_id, row in rows.items()}
        assert found == dict.fromkeys(side["kept"]) | {raw_id: REASONS[why] for raw_id, why in side["dropped"].items()}
        assert {raw_id: rows[raw_id]["title"] for raw_id in side["unescaped_title"]} == side["unescaped_title"]
