import json
import random
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from llumi.corpus.reddit import COLUMNS, RECORDS, Kind, _read_singly, base36, read_records
from tests.dumps import comment, line, post

KINDS: tuple[Kind, ...] = ("posts", "comments")


def singly(lines: list[bytes], kind: Kind) -> tuple[pl.DataFrame, int]:
    """What the slow way gives for these lines, one by one."""
    frame, num_malformed = _read_singly(enumerate(lines), kind)
    return frame.drop("line"), num_malformed


def read_one(raw: bytes, kind: Kind = "comments") -> dict[str, Any]:
    """The one record of a line, which has to come out the same the fast way, the slow way and among others."""
    frame, num_malformed = read_records(raw, kind)
    assert (frame.height, num_malformed) == (1, 0)
    assert frame.equals(singly([raw], kind)[0])
    neighbour = line(comment("n1", "p1", 1) if kind == "comments" else post("n1"))
    among, _ = read_records(b"\n".join([neighbour, raw, b"{no record", neighbour]), kind)
    assert among[1].equals(frame)
    return frame.row(0, named=True)


def read_comment(**changes: Any) -> dict[str, Any]:
    return read_one(line(comment("c1", "p1", 3) | changes))


def read_post(**changes: Any) -> dict[str, Any]:
    return read_one(line(post("p1") | changes), "posts")


def test_a_post_becomes_a_record() -> None:
    assert read_post(title="Q &amp; A", retrieved_on="7") == {
        "id": "p1",
        "community": "porch",
        "author": "asker",
        "created_utc": 1_672_531_200,
        "score": 10,
        "retrieved_on": 7,
        "is_stickied": False,
        "distinguished": "",
        "was_removed": False,
        "was_deleted_later": False,
        "is_text": True,
        "title": "Q & A",
        "body": "The body of p1",
    }


def test_a_comment_becomes_a_record() -> None:
    assert read_comment(distinguished="moderator", stickied=True, is_submitter=True, retrieved_utc=8) == {
        "id": "c1",
        "post_id": "p1",
        "is_top_level": True,
        "community": "porch",
        "author": "helper",
        "created_utc": 1_672_531_200,
        "score": 3,
        "retrieved_on": 8,
        "is_stickied": True,
        "distinguished": "moderator",
        "was_removed": False,
        "was_deleted_later": False,
        "is_own": True,
        "body": "The reply c1",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_with_nothing_but_its_id_has_every_column(kind: Kind) -> None:
    record = read_one(b'{"id":"a"}', kind)
    assert list(record) == list(RECORDS[kind])
    expected: dict[str, Any] = {"id": "a", "created_utc": 0, "retrieved_on": 0, "score": None}
    expected |= {"is_text": True} if kind == "posts" else {}
    assert {name: record[name] for name in expected} == expected
    assert not any(value for name, value in record.items() if name not in expected)


@pytest.mark.parametrize("number", [5, 5.0, "5", "5.0", " 5 ", "5.9"])
def test_numbers_in_every_form(number: object) -> None:
    record = read_comment(score=number, created_utc=number, retrieved_on=number)
    assert (record["score"], record["created_utc"], record["retrieved_on"]) == (5, 5, 5)


@pytest.mark.parametrize("score", [None, True, "many", "", [1], {}, 10**30, 2**53 + 1, float("nan"), float("inf"), "1e999"])
def test_what_is_no_score_is_null(score: object) -> None:
    record = read_comment(score=score)
    assert (record["score"], record["post_id"]) == (None, "p1")


def test_a_hidden_score_is_no_score() -> None:
    assert [read_comment(score_hidden=value)["score"] for value in (True, "true", False, "false", None)] == [
        None,
        None,
        3,
        3,
        3,
    ]


def test_flags_in_every_form() -> None:
    values = (True, "true", False, "false", None, "", "no")
    assert [read_comment(stickied=value)["is_stickied"] for value in values] == [True] * 2 + [False] * 5
    assert [read_post(is_self=value)["is_text"] for value in values] == [True, True, False, False, True, True, True]


def test_a_removal_is_named_and_a_false_is_none() -> None:
    values = ("moderator", "deleted", None, "", False)
    assert [read_post(removed_by_category=value)["was_removed"] for value in values] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("meta", "is_deleted"),
    [
        ({"was_deleted_later": True, "removal_type": "deleted"}, True),
        ({"retrieved_2nd_on": 7, "was_deleted_later": False}, False),
        ({"was_deleted_later": "true"}, False),
        ({"other": {"was_deleted_later": True}}, False),
        ({"note": '"was_deleted_later": true'}, False),
        ('{"was_deleted_later":true}', True),  # as a Parquet file may hold it
        (None, False),
        ([], False),
    ],
)
def test_a_deletion_after_the_capture(meta: object, is_deleted: bool) -> None:
    assert read_comment(_meta=meta)["was_deleted_later"] is is_deleted


@pytest.mark.parametrize(
    ("link", "parent", "post_id", "is_top_level"),
    [
        ("t3_p1", "t3_p1", "p1", True),
        ("t3_p1", "t1_c9", "p1", False),
        ("t3_p1", None, "p1", True),
        ("t3_p1", 45568804275, "p1", False),
        ("t3_p1", 45568804275.0, "p1", False),
        (None, "t3_p1", "p1", True),
        (None, "t1_c9", "", False),
        (46655, "t1_c9", "zzz", False),
        (46655, None, "zzz", True),
        ("p1", "t3_p1", "p1", True),
        (None, None, "", False),
        (-1, True, "", False),
    ],
)
def test_threads_in_every_form(link: object, parent: object, post_id: str, is_top_level: bool) -> None:
    record = read_comment(link_id=link, parent_id=parent)
    assert (record["post_id"], record["is_top_level"]) == (post_id, is_top_level)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("&lt;3 &amp;amp; it&#39;s &#x1F499;", "<3 &amp; it's \U0001f499"),
        ("R&D &copy that &unknown;", "R&D &copy that &unknown;"),
        ("nul\0inside", "nulinside"),
        ("half \ud83d here", "half \ufffd here"),
        ("whole \ud83d\udc99 here", "whole \U0001f499 here"),
        ("line\u2028separator and next\u0085line", "line\u2028separator and next\u0085line"),
        ("5", "5"),
        ("true", "true"),
        ("[removed]", "[removed]"),
        ('{"a": 1}', '{"a": 1}'),
        (5, ""),
        (True, ""),
        ([], ""),
        ({"a": "b"}, ""),
        (None, ""),
    ],
)
def test_text_in_every_form(raw: object, text: str) -> None:
    assert read_comment(body=raw)["body"] == text
    record = read_post(title=raw, selftext=raw, subreddit=raw, author=raw)
    assert [record[name] for name in ("title", "body", "community", "author")] == [text] * 4


@pytest.mark.parametrize("where", ["body", "extra"])
def test_bytes_that_are_no_utf8_are_replaced(where: str) -> None:
    raw = line(comment("c1", "p1", 1, **{"body": "fine", where: "bad X here"})).replace(b"X", b"\xff")
    assert read_one(raw)["body"] == ("bad \ufffd here" if where == "body" else "fine")


def test_a_byte_order_mark_and_margins_are_no_part_of_a_line() -> None:
    raw = line(comment("c1", "p1", 1))
    expected = read_one(raw)
    assert all(read_one(changed) == expected for changed in (b"\xef\xbb\xbf" + raw, b" " + raw, raw + b"\r", raw + b" \t"))


NO_RECORDS = [
    b"[1]",
    b"7",
    b"null",
    b"{}",
    b'{"id":"c1","bo',
    b'{"score":3}',
    b'{"id":""}',
    b'{"id":null}',
    b'{"id":0}',
    b"\xff\xfe",
    b"\0\0\0",
    b"[" * 100_000,
    line(comment("c1", "p1", 1)) + b" and more",
    line(comment("c1", "p1", 1)) * 2,
]


@pytest.mark.parametrize("raw", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_what_holds_no_record_is_counted_and_takes_no_other_with_it(raw: bytes) -> None:
    for kind in KINDS:
        assert read_records(raw, kind)[1] == 1
        assert read_records(raw, kind)[0].schema == RECORDS[kind]
    lines = [line(comment(f"c{number}", "p1", number)) for number in range(300)]
    lines[150] = raw
    frame, num_malformed = read_records(b"\n".join(lines), "comments")
    assert num_malformed == 1
    assert frame["score"].to_list() == [number for number in range(300) if number != 150]


@pytest.mark.parametrize("blank", [b"", b"\r", b"  \t", b"\x0b", b"\x0c"])
def test_blank_lines_are_no_lines(blank: bytes) -> None:
    raw = line(comment("c1", "p1", 1))
    assert read_records(b"\n".join([blank, raw, blank, blank, raw, blank]), "comments")[0].height == 2
    frame, num_malformed = read_records(b"\n".join([blank, blank]), "comments")
    assert (frame.height, num_malformed) == (0, 0)
    assert frame.schema == RECORDS["comments"]


def test_missing_text_beside_an_unusual_line_loses_nothing() -> None:
    lines = [line(comment("c1", "p1", 3, author=None, body=None)), line(comment("c2", "p1", "5.0"))]
    assert read_records(b"\n".join(lines), "comments")[0]["id"].to_list() == ["c1", "c2"]


NOT_TEXTS: list[Any] = [5, 5.0, -0.0, 1e-7, 2**64, True, False, None, [], [1], {}, {"a": "b"}]
NUMBERS: list[Any] = [
    *(0, 5, -3, 5.0, 5.5, 2**53, 2**53 + 1, 2**64, 1e16, -0.0, 1e-7, float("nan"), float("inf"), True, None, [], {"a": 1}),
    *("5", "5.0", " 5", "+5", "1e3", "", "x", "nan", "1e999", "\u0665"),
]
TEXTS: list[Any] = [
    *(
        "plain",
        "",
        " ",
        "[removed]",
        "[deleted]",
        "[a]",
        "two\nlines",
        "\u2028",
        "\ufffd",
        "\ud83d\udc99",
        "half \ud83d",
        "a\0b",
    ),
    *("salt &amp; pepper", "R&D", "line &#10; break", "5", "-5.5", "true", "{}", "[1]"),
    *NOT_TEXTS,
]
FULLNAMES: list[Any] = [
    *("t3_p1", "t1_c1", "p1", "t3_", "", " t3_p1", "46655", "t3_&amp;", "t3_\0", "t3_\ud83d"),
    *(46655, 46655.0, -1, True, None),
]
FLAGS: list[Any] = [True, False, None, "true", "false", "True", "", 1, 0, 1.0, [], {}]
METAS: list[Any] = [
    *({"was_deleted_later": value} for value in (True, False, "true", None)),
    *({"x": {"was_deleted_later": True}}, {"a": "{", "was_deleted_later": True}, {"a": float("nan")}, {}),
    *('{"was_deleted_later":true}', "", None, [], True),
]
FORMS: dict[str, list[Any]] = {
    "id": ["a", "a1", "12345", 12345, 0, "", "a\0", "half \ud83d", "&amp;", *NOT_TEXTS],
    **dict.fromkeys(("created_utc", "score", "retrieved_on", "retrieved_utc"), NUMBERS),
    **dict.fromkeys(("subreddit", "author", "distinguished", "removed_by_category", "title", "selftext", "body"), TEXTS),
    **dict.fromkeys(("link_id", "parent_id"), FULLNAMES),
    **dict.fromkeys(("stickied", "is_submitter", "score_hidden", "is_self"), FLAGS),
    "_meta": METAS,
}
"""Values that dumps hold, or might, for every field that is read."""


def _usual(number: int, kind: Kind) -> dict[str, Any]:
    return comment(f"c{number}", f"p{number}", number) if kind == "comments" else post(f"p{number}", stickied=False)


def test_the_forms_cover_every_field_that_is_read() -> None:
    assert set(FORMS) == set().union(*COLUMNS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_every_field_reads_the_same_both_ways(kind: Kind) -> None:
    base = _usual(1, kind)
    lines = [line(base | {name: value}) for name in sorted(COLUMNS[kind]) for value in FORMS[name]]
    lines += [line({key: value for key, value in base.items() if key != name}) for name in base]
    for raw in lines:
        (fast, num_fast), (slow, num_slow) = read_records(raw, kind), singly([raw], kind)
        assert num_fast == num_slow, raw
        assert fast.to_dicts() == slow.to_dicts(), raw


BREAKS: list[Callable[[bytes], bytes]] = [
    lambda raw: raw[: len(raw) // 2],
    lambda raw: raw + b"\r",
    lambda raw: b"\xef\xbb\xbf" + raw,
    lambda raw: raw.replace(b"e", b"\xff", 1),
    lambda raw: raw.replace(b"The", b"T\xffe"),
    lambda raw: raw.replace(b"The", b"T\x01e"),
    lambda raw: raw.replace(b'": ', b'":'),
    lambda raw: raw[:-1] + b', "more": {"deep": [1, {"a": null}]}}',
    lambda raw: raw[:-1] + b', "more": NaN}',
    lambda raw: raw[:-1] + b', "more": "\\ud83d"}',
    lambda raw: raw[:-1] + b",}",
    lambda raw: raw + b" x",
    lambda raw: b" " + raw + b"\t",
    lambda raw: b"",
    lambda raw: b" \r",
    lambda raw: b"[" + raw + b"]",
]


def _some_line(chooser: random.Random, number: int, kind: Kind, odd: float) -> bytes:
    """A line of the usual form, or with a share of `odd` one with a few values of another form, fields left out, or broken."""
    record = _usual(number, kind)
    if chooser.random() >= odd:
        return json.dumps(record, ensure_ascii=False).encode()
    for name in chooser.sample(sorted(COLUMNS[kind]), chooser.randint(0, 4)):
        record[name] = chooser.choice(FORMS[name])
    for name in chooser.sample(sorted(record), chooser.choice((0, 0, 1, 2))):
        del record[name]
    raw = line(record)
    return chooser.choice(BREAKS)(raw) if chooser.random() < 0.2 else raw


def _some_lines(odd: float, kind: Kind, number: int) -> list[bytes]:
    chooser = random.Random(f"{kind} {odd}")
    return [_some_line(chooser, place, kind, odd) for place in range(number)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", [0.001, 0.02, 0.3, 1.0])
def test_a_block_reads_the_fast_way_as_it_does_the_slow_way(kind: Kind, odd: float) -> None:
    lines = _some_lines(odd, kind, 3000)
    fast, num_malformed = read_records(b"\n".join(lines) + b"\n", kind)
    slow, num_slow = singly([raw for raw in lines if raw.strip()], kind)
    assert num_malformed == num_slow
    assert fast.equals(slow)
    assert fast.schema == RECORDS[kind]
    assert fast.height > 2000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", [0.05, 1.0])
def test_a_block_reads_as_each_of_its_lines_alone(kind: Kind, odd: float) -> None:
    lines = _some_lines(odd, kind, 400)
    whole, num_malformed = read_records(b"\n".join(lines), kind)
    parts = [read_records(raw, kind) for raw in lines]
    assert num_malformed == sum(num for _, num in parts)
    assert whole.equals(pl.concat([frame for frame, _ in parts]))


def test_base36() -> None:
    assert [base36(number) for number in (1, 35, 36, 45568804275)] == ["1", "z", "10", "kxmhmer"]
