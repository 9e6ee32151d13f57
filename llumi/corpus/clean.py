"""The rules by which a record of a corpus is kept, and the count of what each rule dropped.

A rule is a reason and an expression over the columns of `reddit.RECORDS`; the first one that holds names the reason.
Rules that need other records (captures, months, the post) or a model's tokenizer come later, in `llumi.pairs`.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import polars as pl

from llumi.config import CorpusConfig
from llumi.corpus.exclude import Exclusions, read_exclusions
from llumi.corpus.reddit import Kind, read_records

OUTSIDE = "other_community"
"""The reason for records of communities that `corpus.communities` leaves out: no part of the corpus at all."""

_PLACEHOLDER = r"(?i)^\s*\[\s*(?:deleted|removed)(?: by [a-z ]+)?\s*\]\s*$"
"""The mark that the site leaves where text was taken away: "[removed]", "[deleted by user]"."""

_OFFICIAL = ("moderator", "admin")


@dataclass(frozen=True)
class Rules:
    """The section `corpus` of the config, in the form in which it is asked millions of times."""

    bots: tuple[str, ...]
    communities: tuple[str, ...]
    min_characters: int
    max_characters: int
    exclusions: Exclusions

    @classmethod
    def of(cls, config: CorpusConfig) -> Self:
        """Names are compared without regard to case, as the site does."""
        return cls(
            bots=tuple(name.lower() for name in config.bots),
            communities=tuple(name.lower() for name in config.communities),
            min_characters=config.min_characters,
            max_characters=config.max_characters,
            exclusions=read_exclusions(config.exclude),
        )

    def judge(self, records: pl.DataFrame, kind: Kind) -> pl.DataFrame:
        """`records` with the column `reason`: null where a record is kept."""
        rules = [*self._of_corpus(kind), *(_of_posts() if kind == "posts" else _of_comments()), *self._of_text(kind)]
        return records.with_columns(reason=pl.coalesce(pl.when(holds).then(pl.lit(reason)) for reason, holds in rules))

    def _of_corpus(self, kind: Kind) -> list[tuple[str, pl.Expr]]:
        community, author = pl.col("community"), pl.col("author").str.to_lowercase()
        post_id = pl.col("id" if kind == "posts" else "post_id")
        rules = []
        if self.communities:
            rules.append((OUTSIDE, (community != "") & ~community.str.to_lowercase().is_in(self.communities)))
        if self.exclusions.posts:
            rules.append(("excluded_post", post_id.str.to_lowercase().is_in(list(self.exclusions.posts))))
        if self.exclusions.authors:
            rules.append(("excluded_author", author.is_in(list(self.exclusions.authors))))
        return rules

    def _of_text(self, kind: Kind) -> list[tuple[str, pl.Expr]]:
        text = pl.col("body") if kind == "comments" else pl.col("title") + "\n" + pl.col("body")
        length = text.str.strip_chars().str.len_chars()
        return [
            ("bot", pl.col("author").str.to_lowercase().is_in(self.bots)),
            ("empty_text", length == 0),
            ("too_short", length < self.min_characters),
            ("too_long", length > self.max_characters),
        ]


@dataclass
class Tally:
    """How many lines of one kind were read, and what became of them: records == kept + sum of dropped."""

    records: int = 0
    malformed: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_counts(cls, counts: dict[str, Any]) -> Self:
        """Back from `as_counts`."""
        return cls(counts["records"], counts["malformed"], counts["kept"], Counter(counts["dropped"]))

    @classmethod
    def of(cls, judged: pl.DataFrame, num_malformed: int, num_passed_over: int) -> Self:
        """Of records with their `reason`, and of lines that were passed over unread because of their community."""
        dropped = count_reasons(judged["reason"])
        if num_passed_over:
            dropped[OUTSIDE] += num_passed_over
        num_records = judged.height + num_passed_over
        return cls(num_records, num_malformed, num_records - dropped.total(), dropped)

    def add(self, other: Self) -> None:
        """Take the counts of another part of the corpus into this one."""
        self.records += other.records
        self.malformed += other.malformed
        self.kept += other.kept
        self.dropped.update(other.dropped)

    def as_counts(self) -> dict[str, Any]:
        """For a manifest: the reasons by weight, the heaviest first."""
        dropped = dict(sorted(self.dropped.items(), key=lambda entry: (-entry[1], entry[0])))
        return {"records": self.records, "kept": self.kept, "dropped": dropped, "malformed": self.malformed}


def clean_lines(lines: bytes, kind: Kind, rules: Rules) -> tuple[pl.DataFrame, Tally]:
    """Whole lines of a dump -> their records with the column `reason`, and what became of all lines.

    Lines of communities that the rules leave out are passed over on their bytes, and are in the tally alone.
    """
    wanted, num_passed_over = wanted_lines(lines, rules.communities)
    records, num_malformed = read_records(wanted, kind)
    judged = rules.judge(records, kind)
    return judged, Tally.of(judged, num_malformed, num_passed_over)


def wanted_lines(lines: bytes, communities: tuple[str, ...]) -> tuple[bytes, int]:
    """The lines that may be of these communities, and the number of the others; all of them where none is named.

    A line is passed over only where its bytes name none of them in any case of letters, so nothing wanted is lost. What
    is passed over is not looked at: a malformed or a blank line among it counts as a record of another community.
    """
    if not communities or not all(name.isascii() for name in communities):
        return lines, 0
    names = b"|".join(re.escape(name.encode()) for name in communities)
    hit = re.compile(rb'"subreddit"\s*:\s*"(?i:' + names + rb')"')
    wanted, position = [], 0
    while match := hit.search(lines, position):
        start = lines.rfind(b"\n", position, match.start()) + 1 or position
        end = lines.find(b"\n", match.end())
        position = len(lines) if end < 0 else end + 1
        wanted.append(lines[start:position])
    num_lines = lines.count(b"\n") + (lines[-1:] not in (b"", b"\n"))
    return b"".join(wanted), num_lines - len(wanted)


def count_reasons(reasons: pl.Series) -> Counter[str]:
    """How often each reason occurs, nulls left out."""
    return Counter(dict(reasons.drop_nulls().value_counts().iter_rows()))


def _of_comments() -> list[tuple[str, pl.Expr]]:
    return [
        ("no_post", pl.col("post_id") == ""),
        ("removed_text", pl.col("body").str.contains(_PLACEHOLDER) | pl.col("was_removed")),
        # The asker's thanks are often endorsed, and are no support for the asker.
        ("own_reply", pl.col("is_own")),
        *_of_both(),
        ("no_score", pl.col("score").is_null()),
    ]


def _of_posts() -> list[tuple[str, pl.Expr]]:
    texts = (pl.col("title"), pl.col("body"))
    return [
        ("not_text_post", ~pl.col("is_text")),
        ("removed_text", pl.any_horizontal(text.str.contains(_PLACEHOLDER) for text in texts) | pl.col("was_removed")),
        *_of_both(),
    ]


def _of_both() -> list[tuple[str, pl.Expr]]:
    author = pl.col("author")
    return [
        ("no_community", pl.col("community") == ""),
        ("deleted_author", (author == "") | author.str.contains(_PLACEHOLDER)),
        ("deleted_later", pl.col("was_deleted_later")),
        ("moderator", pl.col("distinguished").is_in(_OFFICIAL)),
        ("stickied", pl.col("is_stickied")),
    ]
