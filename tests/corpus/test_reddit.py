import json

import pytest

from llumi.corpus.reddit import MalformedLineError, base36, parse_comment, parse_post
from llumi.records import Comment, Drop, Post
from tests.dumps import comment, line, post


def test_a_post_becomes_a_post() -> None:
    parsed = parse_post(line(post("p1", title="Q &amp; A", retrieved_on="7")))
    assert parsed == Post("p1", "porch", "asker", 1_672_531_200, 10, "Q & A", "The body of p1", retrieved_on=7)


def test_a_comment_becomes_a_comment() -> None:
    parsed = parse_comment(line(comment("c1", "p1", 3)))
    assert parsed == Comment("c1", "p1", "t3_p1", "porch", "helper", 1_672_531_200, 3, "The reply c1")
    assert parsed.is_top_level


@pytest.mark.parametrize("score", [5, 5.0, "5", "5.0"])
def test_numbers_in_every_form(score: object) -> None:
    parsed = parse_comment(line(comment("c1", "p1", score, created_utc=str(score))))
    assert isinstance(parsed, Comment)
    assert (parsed.score, parsed.created_utc) == (5, 5)


@pytest.mark.parametrize("score", [None, True, "many", [1], 10**30, float("nan"), float("inf"), "1e999"])
def test_what_is_no_score_drops_the_comment(score: object) -> None:
    parsed = parse_comment(line(comment("c1", "p1", score)))
    assert isinstance(parsed, Drop)
    assert (parsed.reason, parsed.score, parsed.post_id, parsed.parent_id) == ("no_score", None, "p1", "t3_p1")


def test_a_hidden_score_is_no_score() -> None:
    assert parse_comment(line(comment("c1", "p1", 1, score_hidden=True))) == Drop(
        "no_score", "c1", "p1", "t3_p1", "porch", None, 0
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"body": "[removed]"}, "removed_text"),
        ({"body": " [ Removed by Reddit ] "}, "removed_text"),
        ({"body": "[deleted by user]"}, "removed_text"),
        ({"author": "[deleted]"}, "deleted_author"),
        ({"author": None}, "deleted_author"),
        ({"subreddit": None}, "no_community"),
        ({"_meta": {"was_deleted_later": True}}, "deleted_later"),
        ({"distinguished": "moderator"}, "moderator"),
        ({"distinguished": "admin"}, "moderator"),
        ({"stickied": True}, "stickied"),
        ({"is_submitter": True}, "own_reply"),
        ({"link_id": None, "parent_id": None}, "no_post"),
    ],
)
def test_a_dropped_comment_keeps_its_reason_and_its_score(changes: dict[str, object], reason: str) -> None:
    parsed = parse_comment(line(comment("c1", "p1", 8) | changes))
    assert isinstance(parsed, Drop)
    assert (parsed.reason, parsed.score, parsed.id) == (reason, 8, "c1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_self": False, "selftext": ""}, "not_text_post"),
        ({"selftext": "[removed]"}, "removed_text"),
        ({"title": "[deleted by user]", "selftext": ""}, "removed_text"),
        ({"removed_by_category": "moderator"}, "removed_text"),
        ({"author": "[deleted]"}, "deleted_author"),
        ({"stickied": True}, "stickied"),
    ],
)
def test_a_dropped_post_keeps_its_reason(changes: dict[str, object], reason: str) -> None:
    parsed = parse_post(line(post("p1") | changes))
    assert isinstance(parsed, Drop)
    assert (parsed.reason, parsed.id, parsed.post_id) == (reason, "p1", "p1")


@pytest.mark.parametrize(
    ("link", "parent", "post_id", "parent_id"),
    [
        ("t3_p1", None, "p1", "t3_p1"),
        ("t3_p1", 45568804275, "p1", "t1_kxmhmer"),
        (None, "t3_p1", "p1", "t3_p1"),
        (None, "t1_c9", "", "t1_c9"),
        (46655, "t1_c9", "zzz", "t1_c9"),
    ],
)
def test_threads_in_every_form(link: object, parent: object, post_id: str, parent_id: str) -> None:
    parsed = parse_comment(line(comment("c1", "p1", 1) | {"link_id": link, "parent_id": parent}))
    assert (parsed.post_id, parsed.parent_id) == (post_id, parent_id)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("&lt;3 &amp;amp; it&#39;s &#x1F499;", "<3 &amp; it's \U0001f499"),
        ("R&D &copy that &unknown;", "R&D &copy that &unknown;"),
        ("nul\0inside", "nulinside"),
        ("half \ud83d here", "half \ufffd here"),
        ("whole \ud83d\udc99 here", "whole \U0001f499 here"),
    ],
)
def test_text_in_every_form(raw: str, text: str) -> None:
    parsed = parse_comment(json.dumps(comment("c1", "p1", 1, body=raw)).encode())
    assert isinstance(parsed, Comment)
    assert parsed.body == text


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    parsed = parse_comment(line(comment("c1", "p1", 1, body="bad X here")).replace(b"X", b"\xff"))
    assert isinstance(parsed, Comment)
    assert parsed.body == "bad \ufffd here"


@pytest.mark.parametrize("raw", [b"[1]", b"7", b'{"id":"c1","bo', b'{"score":3}', b"\xff\xfe", b"[" * 100_000, b'{"id":""}'])
def test_what_holds_no_record_is_malformed(raw: bytes) -> None:
    for parse in (parse_post, parse_comment):
        with pytest.raises(MalformedLineError) as error:
            parse(raw)
        assert str(error.value) == ""


def test_base36() -> None:
    assert [base36(number) for number in (1, 35, 36, 45568804275)] == ["1", "z", "10", "kxmhmer"]
