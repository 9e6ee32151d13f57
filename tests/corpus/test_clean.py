from llumi.config import CorpusConfig
from llumi.corpus.clean import Rules, Tally, clean_lines
from llumi.records import Comment, Drop
from tests.dumps import comment, line


def reasons(config: CorpusConfig, *records: dict[str, object]) -> list[str]:
    """The reason of each record, "" where it is kept."""
    cleaned = clean_lines([line(record) for record in records], "comments", Rules.of(config), Tally())
    return [record.reason if isinstance(record, Drop) else "" for record in cleaned]


def test_bots_by_name_without_regard_to_case() -> None:
    records = [comment("c1", "p", 1, author="AUTOMODERATOR"), comment("c2", "p", 1, author="RemindBot"), comment("c3", "p", 1)]
    assert reasons(CorpusConfig(), *records) == ["bot", "", ""]
    assert reasons(CorpusConfig(bots=("remindbot",)), *records) == ["", "bot", ""]


def test_lengths_are_those_of_the_text_without_its_margins() -> None:
    config = CorpusConfig(min_characters=3, max_characters=5)
    records = [comment("c", "p", 1, body=body) for body in (" \n\t ", "ab ", "abc", "  abcde  ", "abcdef")]
    assert reasons(config, *records) == ["empty_text", "too_short", "", "", "too_long"]


def test_other_communities_are_outside_whatever_else_is_wrong_with_them() -> None:
    config = CorpusConfig(communities=("Porch",))
    records = [comment("c1", "p", 1), comment("c2", "p", 1, subreddit="other"), comment("c3", "p", None, subreddit="other")]
    assert reasons(config, *records) == ["", "other_community", "other_community"]


def test_the_tally_adds_up_and_blank_lines_are_no_lines() -> None:
    tally = Tally()
    lines = [
        line(comment("c1", "p", 1)),
        b"",
        b" \r",
        b"{cut",
        line(comment("c2", "p", None)),
        line(comment("c3", "p", 2)) + b"\r",
    ]
    kept = [record for record in clean_lines(lines, "comments", Rules.of(CorpusConfig()), tally) if isinstance(record, Comment)]
    assert [record.id for record in kept] == ["c1", "c3"]
    assert tally.as_counts() == {"records": 3, "kept": 2, "dropped": {"no_score": 1}, "malformed": 1}
    assert Tally.from_counts(tally.as_counts()) == tally


def test_a_drop_of_a_rule_keeps_what_the_accounts_need() -> None:
    record = comment("c1", "p", 4, author="AutoModerator", retrieved_on=9)
    (dropped,) = clean_lines([line(record)], "comments", Rules.of(CorpusConfig()), Tally())
    assert dropped == Drop("bot", "c1", "p", "t3_p", "porch", 4, 9)
