"""The rules as they are judged: which tier a post has, and which rules refuse a reply.

There is one judgement, of one text, with Python's `re`. For a column, polars first looks up the words without which a
pattern cannot match; each text is then judged by the patterns whose words it holds, and most texts by none.

Words are looked for, not meanings: `docs/safety.md` says what that cannot do.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import BeforeValidator, Field, field_validator

from llumi.errors import ConfigError
from llumi.safety.documents import Document, read_document
from llumi.safety.literals import required_words
from llumi.safety.sentences import APOSTROPHES, BLANKS, QUOTES, Sentences
from llumi.safety.spelling import Spellings

Tier = Literal["none", "possible", "imminent"]
DEFAULT_FILE = Path(__file__).with_name("rules.yaml")

_CUT = " . "
"""Stands where `unless` cut words out: a full stop, which no gap of a pattern reaches across."""


def _lines(value: object) -> object:
    return tuple(line.strip() for line in value.splitlines() if line.strip()) if isinstance(value, str) else value


Lines = Annotated[tuple[str, ...], BeforeValidator(_lines)]
"""A block of YAML with one entry a line: patterns hold what YAML would read as its own."""


class Rule(Document):
    """What a rule looks for (`what`), the guideline behind it, and texts that it must and must not match."""

    name: str = Field(pattern=r"^[a-z][a-z_]*$")
    what: str
    guideline: str
    patterns: Lines = Field(min_length=1)
    unless: Lines = ()
    examples: tuple[str, ...] = Field(min_length=1)
    counterexamples: tuple[str, ...] = ()


class PostRule(Rule):
    """A rule that puts a post into a tier."""

    tier: Literal["possible", "imminent"]


class RulesFile(Document):
    """`rules.yaml` as it is written."""

    terms: dict[str, Lines] = Field(default_factory=dict)
    spellings: Lines = ()
    typos: Lines = ()
    posts: tuple[PostRule, ...]
    replies: tuple[Rule, ...]

    @field_validator("spellings")
    @classmethod
    def _spelled(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        Spellings.of(lines, ())
        return lines


@dataclass(frozen=True)
class Judge:
    """One rule, compiled."""

    name: str
    patterns: tuple[re.Pattern[str], ...]
    unless: re.Pattern[str] | None

    def finds(self, text: Sentences, patterns: Iterable[re.Pattern[str]] | None = None) -> bool:
        """Whether the rule (or some of its patterns) holds for a sentence, after `unless` cut out what it covers."""
        near = (pattern for pattern in patterns or self.patterns if pattern.search(text.lines))
        return any(self._matches(pattern, sentence) for pattern in near for sentence in text.sentences)

    def matches(self, text: Sentences) -> Iterator[str]:
        """The words themselves that the rule finds, after `unless` cut out what it covers."""
        for pattern in self.patterns:
            for sentence in text.sentences if pattern.search(text.lines) else ():
                left = sentence if self.unless is None else self.unless.sub(_CUT, sentence)
                yield from (match[0] for match in pattern.finditer(left))

    def _matches(self, pattern: re.Pattern[str], sentence: str) -> bool:
        if pattern.search(sentence) is None:
            return False
        return self.unless is None or pattern.search(self.unless.sub(_CUT, sentence)) is not None


@dataclass(frozen=True)
class Sieve:
    """Rules in the order in which they are asked, over a column: words first, then expressions, then the judge.

    Few texts hold the words that a pattern needs, and of those few match its expression in Rust, which sees no sentences
    and so matches wherever the pattern could. Only what passes both is judged.
    """

    judges: tuple[Judge, ...]

    @cached_property
    def patterns(self) -> list[tuple[Judge, re.Pattern[str], str]]:
        """Every pattern in the order of the rules, with its rule and its expression in Rust."""
        return [(judge, pattern, _loosened(pattern.pattern)) for judge in self.judges for pattern in judge.patterns]

    @cached_property
    def asked(self) -> pl.DataFrame:
        """The words and phrases, each with the numbers of the patterns that need it or another of their set."""
        words = [required_words(pattern.pattern) for _, pattern, _ in self.patterns]
        rows = [(word, number) for number, of_pattern in enumerate(words) for word in sorted(of_pattern)]
        return pl.DataFrame(rows, schema={"word": pl.String, "pattern": pl.Int64}, orient="row")

    def first(self, texts: pl.Series) -> pl.Series:
        """The name of the first rule that holds for each text, null where none does."""
        verdicts = pl.Series(texts.name, [None], dtype=pl.String).new_from_index(0, len(texts))
        possible = self._possible(_plain_column(texts))
        rows = sorted(possible)
        judged = [self._judge(text, possible[row]) for row, text in zip(rows, texts.gather(rows), strict=True)]
        return verdicts.scatter(rows, pl.Series(judged, dtype=pl.String)) if rows else verdicts

    def _possible(self, plain: pl.Series) -> dict[int, list[int]]:
        """For each text that may break a rule, the numbers of the patterns that say so."""
        words = sorted(set(self.asked["word"]))
        found = plain.str.to_lowercase().str.extract_many(words, overlapping=True).list.unique().alias("word")
        hits = found.to_frame().with_row_index("row").filter(pl.col("word").list.len() > 0).explode("word")
        hits = hits.join(self.asked, on="word")
        possible: dict[int, list[int]] = {}
        for (number,), of_pattern in hits.select("row", "pattern").unique().partition_by("pattern", as_dict=True).items():
            rows = of_pattern["row"]
            for row in rows.filter(plain.gather(rows).str.contains(self.patterns[int(number)][2])):
                possible.setdefault(row, []).append(int(number))
        return possible

    def _judge(self, text: str, numbers: list[int]) -> str | None:
        sentences = Sentences.of(text)
        asked = (self.patterns[number] for number in sorted(numbers))
        return next((judge.name for judge, pattern, _ in asked if judge.finds(sentences, [pattern])), None)


@dataclass(frozen=True)
class SafetyRules:
    """The rules of one file; `digest` tells two sets of rules apart."""

    file: RulesFile
    spellings: Spellings
    imminent: tuple[Judge, ...]
    possible: tuple[Judge, ...]
    replies: tuple[Judge, ...]

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """From `path`, else the rules that LLUMI ships.

        Raises ConfigError in one line that names the file, the rule and the problem: no YAML, an unknown key, a pattern
        outside of what Python and Rust read alike, a rule that does not hold for its own examples.
        """
        path = path or DEFAULT_FILE
        file = read_document(RulesFile, path)
        terms = expanded_terms(file.terms, path)
        posts = [compiled_rule(rule, terms, f"{path}: rule {rule.name}") for rule in file.posts]
        tiers = {
            tier: tuple(j for j, r in zip(posts, file.posts, strict=True) if r.tier == tier)
            for tier in ("possible", "imminent")
        }
        replies = tuple(compiled_rule(rule, terms, f"{path}: rule {rule.name}") for rule in file.replies)
        return cls(file, Spellings.of(file.spellings, file.typos), tiers["imminent"], tiers["possible"], replies)

    @cached_property
    def digest(self) -> str:
        """A hash of all that the rules say, for manifests."""
        return hashlib.sha256(self.file.model_dump_json().encode()).hexdigest()[:16]

    def tier(self, post: str) -> Tier:
        """The highest tier that a rule gives to the post."""
        sentences = Sentences.of(self.spellings.corrected(post))
        if any(judge.finds(sentences) for judge in self.imminent):
            return "imminent"
        return "possible" if any(judge.finds(sentences) for judge in self.possible) else "none"

    def violations(self, reply: str) -> tuple[str, ...]:
        """The names of all rules that refuse the reply, in the order of the file."""
        sentences = Sentences.of(reply)
        return tuple(judge.name for judge in self.replies if judge.finds(sentences))

    def refusals(self, reply: str) -> tuple[str, ...]:
        """As `violations`, and also what only neighbouring sentences say together: for text that is about to be sent."""
        sentences = Sentences.of(reply)
        joined = sentences.joined()
        return tuple(judge.name for judge in self.replies if judge.finds(sentences) or judge.finds(joined))

    def tiers(self, posts: pl.Series) -> pl.Series:
        """`tier` for a column of strings; null where the post is null."""
        tier_of = {judge.name: "imminent" for judge in self.imminent} | {judge.name: "possible" for judge in self.possible}
        rules = self._post_sieve.first(self.spellings.corrected_column(posts))
        tiers = rules.replace_strict(tier_of, default="none", return_dtype=pl.String)
        return tiers.set(posts.is_null(), None)

    def vetoes(self, replies: pl.Series) -> pl.Series:
        """The first rule that refuses each reply, null where none does."""
        return self._reply_sieve.first(replies)

    @cached_property
    def _post_sieve(self) -> Sieve:
        return Sieve(self.imminent + self.possible)

    @cached_property
    def _reply_sieve(self) -> Sieve:
        return Sieve(self.replies)


def _loosened(pattern: str) -> str:
    """The pattern for Rust, over a whole text: borders of words as in ASCII, borders of sentences between any words."""
    border = pattern.replace(r"\b", r"(?-u:\b)")
    starts = re.sub(r"(?<![\\\[])\^", r"(?:^|\\W)", border)
    return "(?i)" + re.sub(r"(?<!\\)\$", r"(?:\\W|$)", starts)


def _plain_column(texts: pl.Series) -> pl.Series:
    """The spaces and quotes of `Sentences`, without the sentences: whatever a pattern can match there is in here, too."""
    rows = (
        texts.str.contains(f"[{APOSTROPHES[1:]}{QUOTES[1:]}]|[{BLANKS}]{{2}}|[^\\S ]|[\x1c-\x1f\u200b*_~]")
        .fill_null(value=False)
        .arg_true()
    )
    return texts.scatter(rows, _plainly(texts.gather(rows))) if len(rows) else texts


def _plainly(texts: pl.Series) -> pl.Series:
    plain = texts.str.replace_many(
        list(APOSTROPHES[1:]) + list(QUOTES[1:]), ["'"] * (len(APOSTROPHES) - 1) + ['"'] * (len(QUOTES) - 1)
    )
    return plain.str.replace_all(f"[{BLANKS}]+", " ")


def expanded_terms(terms: dict[str, tuple[str, ...]], path: Path) -> dict[str, str]:
    """Each term as one group; a term may use those above it."""
    expanded: dict[str, str] = {}
    for name, alternatives in terms.items():
        expanded[name] = f"(?:{'|'.join(_expand(line, expanded, f'{path}: term {name}') for line in alternatives)})"
    return expanded


def _expand(pattern: str, terms: dict[str, str], where: str) -> str:
    def of(match: re.Match[str]) -> str:
        if match[1] not in terms:
            raise ConfigError(f"{where}: no term <{match[1]}>; there are {', '.join(terms) or 'none'}")
        return terms[match[1]]

    return re.sub(r"<(\w+)>", of, pattern)


def compiled_rule(rule: Rule, terms: dict[str, str], where: str) -> Judge:
    """The rule over `terms`; raises ConfigError with `where` for a pattern that cannot be read, or that fails its examples."""
    patterns = [_checked(_expand(pattern, terms, where), where) for pattern in rule.patterns]
    unless = [_checked(_expand(pattern, terms, where), f"{where}, unless") for pattern in rule.unless]
    for pattern in patterns:
        try:
            required_words(pattern)
        except ValueError as error:
            raise ConfigError(f"{where}: pattern {pattern[:60]!r}: {error}") from None
    judge = Judge(rule.name, tuple(map(_compiled, patterns)), _compiled("|".join(unless)) if unless else None)
    for number, example in enumerate(rule.examples, start=1):
        if not judge.finds(Sentences.of(example)):
            raise ConfigError(f"{where}: does not match its example {number}; widen a pattern or narrow unless")
    for number, example in enumerate(rule.counterexamples, start=1):
        if judge.finds(Sentences.of(example)):
            raise ConfigError(f"{where}: matches its counterexample {number}; narrow a pattern or widen unless")
    return judge


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.ASCII | re.MULTILINE)


def _checked(pattern: str, where: str) -> str:
    """The pattern, if Python and Rust both read it: what another service may judge by as well."""
    try:
        _compiled(pattern)
        pl.Series([""]).str.contains(pattern)
    except (re.error, pl.exceptions.ComputeError) as error:
        problem = str(error).strip().splitlines()[-1].removeprefix("error: ")
        raise ConfigError(f"{where}: pattern {pattern[:60]!r} is outside of what Python and Rust share ({problem})") from None
    return pattern
