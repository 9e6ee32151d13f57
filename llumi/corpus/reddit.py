"""Lines of a Reddit dump -> a frame of records in one form.

Dumps were written over fifteen years by several programs: numbers come as strings and floats, identifiers as numbers,
text with HTML entities, NULs and half emojis. Most lines have the usual form, and a columnar parser takes them by the
block; a line with anything unusual in it is read once more by itself, and comes out in the same form.
"""

import html
import json
import re
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any, Literal

import orjson
import polars as pl

Kind = Literal["posts", "comments"]
Record = dict[str, Any]

POST_PREFIX = "t3_"
COMMENT_PREFIX = "t1_"
_MAX_INTEGER = 2**53  # the largest that JSON carries exactly; far from overflow when scores are subtracted
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_STRING = r'(?s)^(?:true|false|-?[0-9]+(?:\.[0-9]+)?|\{.*\}|\[(?:[\[{"0-9tfn-].*)?\])$'  # JSON of another type, as text
_DELETED_LATER = r'"was_deleted_later":\s*true'
_FEW_LINES = 64  # among which a line that the columnar parser refuses is no longer searched for, but all read singly

_COMMON = {
    "community": pl.String,
    "author": pl.String,
    "created_utc": pl.Int64,
    "score": pl.Int64,
    "retrieved_on": pl.Int64,
    "is_stickied": pl.Boolean,
    "distinguished": pl.String,
    "was_removed": pl.Boolean,
    "was_deleted_later": pl.Boolean,
}
RECORDS: dict[Kind, dict[str, Any]] = {
    "posts": {"id": pl.String, **_COMMON, "is_text": pl.Boolean, "title": pl.String, "body": pl.String},
    "comments": {
        "id": pl.String,
        "post_id": pl.String,
        "is_top_level": pl.Boolean,
        **_COMMON,
        "is_own": pl.Boolean,
        "body": pl.String,
    },
}
"""The form of a record: ids bare, absent text "", absent times 0; `score` is null where it says nothing.

`retrieved_on` orders several captures of one record. `is_own`: the asker's own reply, as far as the dump marks it.
"""

_RAW_COMMON = [
    *("id", "subreddit", "author", "created_utc", "score", "retrieved_on", "retrieved_utc"),
    *("stickied", "distinguished", "removed_by_category", "_meta"),
]
_RAW: dict[Kind, list[str]] = {
    "posts": [*_RAW_COMMON, "is_self", "title", "selftext"],
    "comments": [*_RAW_COMMON, "link_id", "parent_id", "is_submitter", "score_hidden", "body"],
}
COLUMNS = {kind: frozenset(names) for kind, names in _RAW.items()}
"""The fields of a dump that are read."""

_NUMBERS = ("created_utc", "score", "retrieved_on", "retrieved_utc")
_FLAGS: dict[Kind, tuple[str, ...]] = {
    "posts": ("stickied", "is_self"),
    "comments": ("stickied", "is_submitter", "score_hidden"),
}


def read_records(lines: bytes, kind: Kind) -> tuple[pl.DataFrame, int]:
    """The records of whole lines, in their order (RECORDS), and how many lines hold none; blank lines are no lines."""
    try:
        raw = _parse(lines, kind)
    except pl.exceptions.PolarsError:
        return _read_halves(lines, kind)
    unusual = raw.select(_is_unusual(kind)).to_series()
    if not unusual.any():
        return _usual(raw, kind), 0
    rows = _split(lines)
    if len(rows) != raw.height:  # the parser takes other lines for blank ones than Python does
        singly, num_malformed = _read_singly(enumerate(rows), kind)
        return singly.drop("line"), num_malformed
    frame = _usual(raw, kind).with_row_index("line").filter(~unusual)
    singly, num_malformed = _read_singly(((line, rows[line]) for line in unusual.arg_true()), kind)
    return pl.concat([frame, singly]).sort("line").drop("line"), num_malformed


def base36(number: int) -> str:
    """A number as identifiers are written: 35 -> "z", 36 -> "10"."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return digits


def _parse(lines: bytes, kind: Kind) -> pl.DataFrame:
    """The fields of a block, with the column `is_mistyped`: a number or a flag of another type, which is null here."""
    texts = dict.fromkeys(_RAW[kind], pl.String)
    types = texts | dict.fromkeys(_NUMBERS, pl.Int64) | dict.fromkeys(_FLAGS[kind], pl.Boolean)
    try:
        return pl.read_ndjson(lines, schema=types).with_columns(is_mistyped=pl.lit(False))
    except pl.exceptions.PolarsError:
        # Columns of these types refuse the block for one number in quotes; as text it is seen which rows have it.
        raw = pl.read_ndjson(lines, schema=texts)
    numbers = [pl.col(name).cast(pl.Int64, strict=False) for name in _NUMBERS]
    flags = [
        pl.col(name).replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
        for name in _FLAGS[kind]
    ]
    typed = raw.with_columns(*numbers, *flags)
    mistyped = [typed[name].is_null() & raw[name].is_not_null() for name in (*_NUMBERS, *_FLAGS[kind])]
    return typed.with_columns(is_mistyped=reduce(or_, mistyped))


def _read_halves(lines: bytes, kind: Kind) -> tuple[pl.DataFrame, int]:
    """The same for a block that the columnar parser refuses: it names no line, so the line is searched for."""
    rows = _split(lines)
    if len(rows) <= _FEW_LINES:
        singly, num_malformed = _read_singly(enumerate(rows), kind)
        return singly.drop("line"), num_malformed
    middle = len(rows) // 2
    (first, num_first), (second, num_second) = (read_records(b"\n".join(half), kind) for half in (rows[:middle], rows[middle:]))
    return pl.concat([first, second]), num_first + num_second


def _split(lines: bytes) -> list[bytes]:
    return [line for line in lines.split(b"\n") if line and not line.isspace()]


def _is_unusual(kind: Kind) -> pl.Expr:
    """Whether a row needs a closer look: a value of another type than usual, an identifier without its prefix, NULs.

    The columnar parser also makes a NUL of half an emoji.
    """
    texts = ["body"] if kind == "comments" else ["title", "selftext"]
    names = ["subreddit", "author", "distinguished", *(["link_id"] if kind == "comments" else [])]
    signs = [
        pl.col("is_mistyped"),
        pl.col("id").is_null() | (pl.col("id") == ""),
        *(~pl.col(name).is_between(-_MAX_INTEGER, _MAX_INTEGER) for name in _NUMBERS),
        *(pl.col(name).str.contains(_NO_STRING) for name in ("id", "removed_by_category", *names, *texts)),
        *(pl.col(name).str.contains("\0", literal=True) for name in ("id", *texts)),
        *(pl.col(name).str.contains(r"[\x00&]") for name in names),
        pl.col("_meta").str.contains(r"^.+\{"),
    ]
    if kind == "comments":
        link, parent = pl.col("link_id"), pl.col("parent_id")
        signs += [
            link.is_null() | ~link.str.starts_with(POST_PREFIX),
            parent.is_null() | ~(parent.str.starts_with(POST_PREFIX) | parent.str.starts_with(COMMENT_PREFIX)),
        ]
    return pl.any_horizontal(sign.fill_null(False) for sign in signs)


def _usual(raw: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """The columns of a block as records; rows that are unusual come out as nonsense."""
    body = "body" if kind == "comments" else "selftext"
    raw = raw.with_columns(_unescaped(raw[name]) for name in (body, *(["title"] if kind == "posts" else [])))
    columns = {
        "id": pl.col("id"),
        "community": pl.col("subreddit").fill_null(""),
        "author": pl.col("author").fill_null(""),
        "created_utc": pl.col("created_utc").fill_null(0),
        "score": pl.col("score"),
        "retrieved_on": pl.coalesce("retrieved_on", "retrieved_utc").fill_null(0),
        "is_stickied": pl.col("stickied").fill_null(False),
        "distinguished": pl.col("distinguished").fill_null(""),
        "was_removed": (pl.col("removed_by_category") != "").fill_null(False),
        "was_deleted_later": pl.col("_meta").str.contains(_DELETED_LATER).fill_null(False),
        "body": pl.col(body).fill_null(""),
    }
    if kind == "posts":
        columns |= {"is_text": pl.col("is_self").fill_null(True), "title": pl.col("title").fill_null("")}
    else:
        columns |= {
            "post_id": pl.col("link_id").str.strip_prefix(POST_PREFIX),
            "is_top_level": pl.col("parent_id").str.starts_with(POST_PREFIX),
            "score": pl.when("score_hidden").then(None).otherwise("score"),
            "is_own": pl.col("is_submitter").fill_null(False),
        }
    return raw.select(**{name: columns[name] for name in RECORDS[kind]})


def _unescaped(texts: pl.Series) -> pl.Series:
    """Text without HTML entities; only the few rows that may have one leave the columns."""
    rows = texts.str.contains("&", literal=True).fill_null(False).arg_true()
    if not len(rows):
        return texts
    return texts.scatter(rows, [_text(text) for text in texts.gather(rows)])


def _read_singly(lines: Iterable[tuple[int, bytes]], kind: Kind) -> tuple[pl.DataFrame, int]:
    """Numbered lines one by one, with their number in the column `line`; and how many hold no record."""
    records, num_malformed = [], 0
    for number, line in lines:
        record = _record(line)
        if record is None:
            num_malformed += 1
        else:
            records.append({"line": number, **(_comment(record) if kind == "comments" else _post(record))})
    return pl.DataFrame(records, schema={"line": pl.get_index_type(), **RECORDS[kind]}), num_malformed


def _record(line: bytes) -> Record | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        record = _lenient(line)
    return record if isinstance(record, dict) and record.get("id") else None


def _lenient(line: bytes) -> Any:
    """What orjson refuses and a dump holds all the same: half an emoji, bytes that are no UTF-8, NaN."""
    try:
        record = json.loads(line.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return None
    if isinstance(record, dict):
        return {key: _SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value for key, value in record.items()}
    return record


def _post(record: Record) -> Record:
    return {
        **_common(record),
        "is_text": record.get("is_self") not in (False, "false"),
        "title": _text(record.get("title")),
        "body": _text(record.get("selftext")),
    }


def _comment(record: Record) -> Record:
    post_id, is_top_level = _thread(record)
    hidden = _flag(record.get("score_hidden"))
    return {
        **_common(record),
        "post_id": post_id,
        "is_top_level": is_top_level,
        **({"score": None} if hidden else {}),  # votes were not shown yet when it was taken: the number says nothing
        "is_own": _flag(record.get("is_submitter")),
        "body": _text(record.get("body")),
    }


def _common(record: Record) -> Record:
    return {
        "id": str(record["id"]),
        "community": _text(record.get("subreddit")),
        "author": _text(record.get("author")),
        "created_utc": _integer(record.get("created_utc")) or 0,
        "score": _integer(record.get("score")),
        "retrieved_on": _integer(record.get("retrieved_on")) or _integer(record.get("retrieved_utc")) or 0,
        "is_stickied": _flag(record.get("stickied")),
        "distinguished": _text(record.get("distinguished")),
        "was_removed": bool(record.get("removed_by_category")),
        "was_deleted_later": _is_deleted_later(record.get("_meta")),
    }


def _is_deleted_later(meta: Any) -> bool:
    """Parquet files may hold the object as text."""
    if isinstance(meta, str):
        return re.search(_DELETED_LATER, meta) is not None
    return isinstance(meta, dict) and meta.get("was_deleted_later") is True


def _thread(record: Record) -> tuple[str, bool]:
    """The bare id of the post, "" where it names none, and whether the comment answers the post itself.

    Old dumps give the parent as a number, always of a comment, and leave it out where the parent is the post.
    """
    link, parent = _fullname(record.get("link_id"), POST_PREFIX), _fullname(record.get("parent_id"), COMMENT_PREFIX)
    if not link and parent.startswith(POST_PREFIX):
        link = parent
    return link.removeprefix(POST_PREFIX), (parent or link).startswith(POST_PREFIX)


def _fullname(value: Any, prefix: str) -> str:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is None:
        return _text(value)
    integer = _integer(number)
    return f"{prefix}{base36(integer)}" if integer and integer > 0 else ""


def _integer(value: Any) -> int | None:
    """A number in any of the forms that dumps give it (5, 5.0, "5", "5.0"); None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = value if isinstance(value, int) else int(float(value))
    except (ValueError, OverflowError):
        return None
    return number if -_MAX_INTEGER <= number <= _MAX_INTEGER else None


def _flag(value: Any) -> bool:
    return value in (True, "true")


def _text(value: Any) -> str:
    """Text without HTML entities and NULs; empty for what is no text."""
    if not isinstance(value, str):
        return ""
    text = _ENTITY.sub(_unescape, value) if "&" in value else value
    return text.replace("\0", "")


def _unescape(entity: re.Match[str]) -> str:
    return html.unescape(entity.group())
