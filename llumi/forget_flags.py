"""Which flags hold a text that is to be forgotten: told by its words, since a flag has no id of a post behind it."""

import contextlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from llumi.config import Config, RateConfig
from llumi.contacts import AllowList
from llumi.corpus.scrub import Scrubber
from llumi.errors import ConfigError
from llumi.prompts import asked_about
from llumi.rate.database import Database
from llumi.rate.flags import TEXTS, list_flags, remove_flags
from llumi.safety import Resources

MIN_WORDS = 8
"""A shorter text counts only where it is the whole of the other: "thank you for writing" is nobody's."""

_WRITTEN = {
    "post": "post_author",
    "draft": "draft_author",
    "reply": "reply_author",
    "completion": "author",
    "chosen": "chosen_author",
    "rejected": "rejected_author",
}
"""The texts in rows of pairs, and the column that says whose each is."""

_WORD = re.compile(r"\w+")


class Wording:
    """Compares texts by their words alone, scrubbed as those of the store are: case, marks and spaces do not count."""

    def __init__(self, config: Config) -> None:
        resources = Resources.load(config.safety.resources)
        self._scrubber = Scrubber(AllowList.of(resources.numbers, resources.domains))

    def of(self, text: str) -> str:
        """The words of a text, a space before and after each."""
        scrubbed, _ = self._scrubber.scrub(text)
        words = _WORD.findall(unicodedata.normalize("NFKC", scrubbed).casefold())
        return f" {' '.join(words)} " if words else ""

    def flags_with(self, flags: Iterable[dict[str, Any]], texts: Collection[str]) -> list[int]:
        """The ids of those `flags` whose post, draft or suggestion is one of `texts`, holds one, or is a part of one."""
        sought = {words for text in texts if (words := self.of(text))}
        return [
            flag["id"]
            for flag in flags
            if any(_alike(self.of(flag[name]), words) for name in TEXTS if flag[name] for words in sought)
        ]


def standing_flags(config: RateConfig) -> list[dict[str, Any]]:
    """Every flag with its texts; none where there is no database. Raises DatabaseError where nothing answers."""
    if (database := Database.find(config)) is None:
        return []
    with contextlib.closing(database):
        return list_flags(database)


def forget_flags(config: RateConfig, numbers: Collection[int]) -> None:
    """Delete these flags, if any, and their bytes; raises DatabaseError where nothing answers, or others are at work."""
    if numbers and (database := Database.find(config)):
        with contextlib.closing(database):
            remove_flags(database, numbers)


def texts_of(rows: pa.Table, posts: Collection[str], authors: Collection[str]) -> Iterator[str]:
    """What stands in rows of pairs of these `posts`, and of what these `authors` wrote; both are pseudonyms."""
    for row in rows.to_pylist():
        if "prompt" in row:
            row["post"], row["draft"] = asked_about(row["prompt"])
        for name, author in _WRITTEN.items():
            if row.get(name) and (row.get(author) in authors or (name == "post" and row["post_id"] in posts)):
                yield row[name] if isinstance(row[name], str) else row[name][-1]["content"]


def read_text(path: Path) -> str:
    """What a person wrote, from a file; raises ConfigError where it cannot be read or holds no word."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'}); name a text file"
        ) from None
    if not _WORD.search(text):
        raise ConfigError(f"{path}: holds no word; put in it what the person wrote")
    return text


def _alike(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return shorter == longer or (shorter.count(" ") > MIN_WORDS and shorter in longer)
