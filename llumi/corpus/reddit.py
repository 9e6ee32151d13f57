"""One line of a Reddit dump -> Post, Comment or Drop.

Dumps were written over fifteen years by several programs: numbers come as strings and floats, identifiers as numbers,
text with HTML entities, NULs and half emojis. Here every such form becomes one; what the form alone rules out (no
usable score, text that was taken away, a record that a moderator set) becomes a Drop with its reason.
"""

import html
import json
import re
from typing import Any

import orjson

from llumi.records import Comment, Drop, Post

Record = dict[str, Any]

POST_PREFIX = "t3_"
COMMENT_PREFIX = "t1_"
_MAX_INTEGER = 2**53  # the largest that JSON carries exactly; far from overflow when scores are subtracted
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLACEHOLDER = re.compile(r"\[\s*(?:deleted|removed)(?: by [a-z ]+)?\s*\]", re.IGNORECASE)
_OFFICIAL = ("moderator", "admin")


class MalformedLineError(ValueError):
    """A line that holds no record; it carries nothing of the line."""


def parse_post(line: bytes) -> Post | Drop:
    """One line of a submissions file, without its line break; raises MalformedLineError where it holds no record."""
    record = _record(line)
    title, body = _text(record.get("title")), _text(record.get("selftext"))
    reason = _post_reason(record, title, body)
    if reason:
        return Drop(
            reason,
            id=_identifier(record),
            post_id=_identifier(record),
            community=_text(record.get("subreddit")),
            score=_integer(record.get("score")),
            retrieved_on=_retrieved_on(record),
        )
    return Post(
        id=_identifier(record),
        community=_text(record.get("subreddit")),
        author=_text(record.get("author")),
        created_utc=_integer(record.get("created_utc")) or 0,
        score=_integer(record.get("score")) or 0,
        title=title,
        body=body,
        retrieved_on=_retrieved_on(record),
    )


def parse_comment(line: bytes) -> Comment | Drop:
    """One line of a comments file, without its line break; raises MalformedLineError where it holds no record."""
    record = _record(line)
    post_id, parent_id = _thread(record)
    body, score = _text(record.get("body")), _score(record)
    reason = _comment_reason(record, post_id, body)
    if reason is None and score is not None:
        return Comment(
            id=_identifier(record),
            post_id=post_id,
            parent_id=parent_id,
            community=_text(record.get("subreddit")),
            author=_text(record.get("author")),
            created_utc=_integer(record.get("created_utc")) or 0,
            score=score,
            body=body,
            retrieved_on=_retrieved_on(record),
        )
    return Drop(
        reason or "no_score",
        id=_identifier(record),
        post_id=post_id,
        parent_id=parent_id,
        community=_text(record.get("subreddit")),
        score=score,
        retrieved_on=_retrieved_on(record),
    )


def base36(number: int) -> str:
    """A number as identifiers are written: 35 -> "z", 36 -> "10"."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return digits


def _post_reason(record: Record, title: str, body: str) -> str | None:
    if record.get("is_self") is False:
        return "not_text_post"
    if _is_placeholder(body) or _is_placeholder(title):
        return "removed_text"
    return _common_reason(record)


def _comment_reason(record: Record, post_id: str, body: str) -> str | None:
    if not post_id:
        return "no_post"
    if _is_placeholder(body):
        return "removed_text"
    if record.get("is_submitter") is True:
        return "own_reply"  # the asker's thanks are often endorsed, and are no support for the asker
    return _common_reason(record)


def _common_reason(record: Record) -> str | None:
    """What posts and comments are dropped for alike."""
    if record.get("removed_by_category"):
        return "removed_text"
    if not record.get("subreddit"):
        return "no_community"
    author = _text(record.get("author"))
    if not author or _is_placeholder(author):
        return "deleted_author"
    meta = record.get("_meta")
    if isinstance(meta, dict) and meta.get("was_deleted_later"):
        return "deleted_later"
    if record.get("distinguished") in _OFFICIAL:
        return "moderator"
    return "stickied" if record.get("stickied") is True else None


def _record(line: bytes) -> Record:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        record = _lenient(line)
    if isinstance(record, dict) and record.get("id"):
        return record
    raise MalformedLineError


def _lenient(line: bytes) -> Any:
    """What orjson refuses and a dump holds all the same: half an emoji, bytes that are no UTF-8, NaN."""
    try:
        record = json.loads(line.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        raise MalformedLineError from None
    if isinstance(record, dict):
        return {key: _SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value for key, value in record.items()}
    return record


def _thread(record: Record) -> tuple[str, str]:
    """The bare id of the post, and the prefixed id of what the comment answers; both empty where it names no post.

    Old dumps give the parent as a number, always of a comment, and leave it out where the parent is the post.
    """
    link, parent = _fullname(record.get("link_id"), POST_PREFIX), _fullname(record.get("parent_id"), COMMENT_PREFIX)
    if not link and parent.startswith(POST_PREFIX):
        link = parent
    return link.removeprefix(POST_PREFIX), parent or link


def _fullname(value: Any, prefix: str) -> str:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is None:
        return _text(value)
    integer = _integer(number)
    return f"{prefix}{base36(integer)}" if integer and integer > 0 else ""


def _identifier(record: Record) -> str:
    return str(record["id"])


def _score(record: Record) -> int | None:
    """The score, or None where votes were still hidden when the record was taken: the number says nothing then."""
    return None if record.get("score_hidden") is True else _integer(record.get("score"))


def _retrieved_on(record: Record) -> int:
    return _integer(record.get("retrieved_on")) or _integer(record.get("retrieved_utc")) or 0


def _integer(value: Any) -> int | None:
    """A number in any of the forms that dumps give it (5, 5.0, "5", "5.0"); None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = value if isinstance(value, int) else int(float(value))
    except (ValueError, OverflowError):
        return None
    return number if -_MAX_INTEGER <= number <= _MAX_INTEGER else None


def _text(value: Any) -> str:
    """Text without HTML entities and NULs; empty for what is no text."""
    if not isinstance(value, str):
        return ""
    text = _ENTITY.sub(_unescape, value) if "&" in value else value
    return text.replace("\0", "")


def _unescape(entity: re.Match[str]) -> str:
    return html.unescape(entity.group())


def _is_placeholder(text: str) -> bool:
    """Whether text is the mark that the site leaves where text was taken away: "[removed]", "[deleted by user]"."""
    return len(text) < 40 and _PLACEHOLDER.fullmatch(text.strip()) is not None
