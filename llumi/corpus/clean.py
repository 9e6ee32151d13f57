"""The rules by which a record of a corpus is kept, and the count of what each rule dropped."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from llumi.config import CorpusConfig
from llumi.corpus.reddit import MalformedLineError, parse_comment, parse_post
from llumi.records import Comment, Drop, Post

Kind = Literal["posts", "comments"]

OUTSIDE = "other_community"
"""The reason for records of communities that `corpus.communities` leaves out: no part of the corpus at all."""


@dataclass(frozen=True)
class Rules:
    """The section `corpus` of the config, in the form in which it is asked millions of times."""

    bots: frozenset[str]
    communities: frozenset[str]
    min_characters: int
    max_characters: int

    @classmethod
    def of(cls, config: CorpusConfig) -> Self:
        """Names are compared without regard to case, as the site does."""
        return cls(
            bots=frozenset(name.casefold() for name in config.bots),
            communities=frozenset(name.casefold() for name in config.communities),
            min_characters=config.min_characters,
            max_characters=config.max_characters,
        )

    def apply(self, record: Post | Comment | Drop) -> Post | Comment | Drop:
        """The record, or the Drop that it becomes; a Drop of the parser keeps its reason inside the corpus."""
        if self.communities and record.community and record.community.casefold() not in self.communities:
            return _drop(OUTSIDE, record)
        if isinstance(record, Drop):
            return record
        reason = self._reason(record)
        return _drop(reason, record) if reason else record

    def _reason(self, record: Post | Comment) -> str | None:
        if record.author.casefold() in self.bots:
            return "bot"
        text = record.body if isinstance(record, Comment) else f"{record.title}\n{record.body}"
        length = len(text.strip())
        if length == 0:
            return "empty_text"
        if length < self.min_characters:
            return "too_short"
        return "too_long" if length > self.max_characters else None


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


def clean_lines(lines: Iterable[bytes], kind: Kind, rules: Rules, tally: Tally) -> Iterator[Post | Comment | Drop]:
    """Parse and judge the lines of a dump; blank lines are no lines, and `tally` learns what became of the others."""
    parse: Callable[[bytes], Post | Comment | Drop] = parse_post if kind == "posts" else parse_comment
    for line in lines:
        if not line or line.isspace():
            continue
        try:
            record = rules.apply(parse(line))
        except MalformedLineError:
            tally.malformed += 1
            continue
        tally.records += 1
        if isinstance(record, Drop):
            tally.dropped[record.reason] += 1
        else:
            tally.kept += 1
        yield record


def _drop(reason: str, record: Post | Comment | Drop) -> Drop:
    """The slim form of a record that a rule left out."""
    thread = (record.id, "") if isinstance(record, Post) else (record.post_id, record.parent_id)
    return Drop(reason, record.id, *thread, record.community, record.score, record.retrieved_on)
