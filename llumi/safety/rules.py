"""The rules as they are judged: which tier a post has, and which rules refuse a reply.

There is one judgement, of one text, with Python's `re`. The words without which a pattern cannot match are looked up first,
for a column by polars; each text is then judged by the patterns whose words it holds, and most texts by none.

Words are looked for, not meanings: `docs/safety.md` says what that cannot do.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import polars as pl
from pydantic import BeforeValidator, Field, field_validator

from llumi.errors import ConfigError
from llumi.safety.documents import Document, parsed_document, read_text
from llumi.safety.literals import Words, required_words
from llumi.safety.sentences import Sentences
from llumi.safety.sieve import Judge, Sieve
from llumi.safety.spelling import Spellings

Tier = Literal["none", "possible", "imminent"]
TIERS: tuple[Tier, ...] = get_args(Tier)
DEFAULT_FILE = Path(__file__).with_name("rules.yaml")


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
class SafetyRules:
    """The rules of one file; `digest` tells two sets of rules apart."""

    file: RulesFile
    spellings: Spellings
    imminent: tuple[Judge, ...]
    possible: tuple[Judge, ...]
    replies: tuple[Judge, ...]

    @staticmethod
    def load(path: Path | None = None) -> "SafetyRules":
        """From `path`, else the rules that LLUMI ships; files are compiled once a process.

        Raises ConfigError in one line that names the file, the rule and the problem: no YAML, an unknown key, a pattern
        outside of what Python and Rust read alike, a rule that does not hold for its own examples.
        """
        path = path or DEFAULT_FILE
        return _loaded(path, read_text(path))

    @classmethod
    def of(cls, path: Path, text: str) -> Self:
        """What stands in the file at `path`; raises as `load`."""
        file = parsed_document(RulesFile, path, text)
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
        found = self._post_sieve.names(Sentences.of(self.spellings.corrected(post)))
        return max((self._tier_of[name] for name in found), key=TIERS.index, default="none")

    def violations(self, reply: str) -> tuple[str, ...]:
        """The names of all rules that refuse the reply, in the order of the file."""
        return self._reply_sieve.names(Sentences.of(reply))

    def refusals(self, reply: str) -> tuple[str, ...]:
        """As `violations`, and also what only neighbouring sentences say together: for text that is about to be sent."""
        sentences = Sentences.of(reply)
        return self._reply_sieve.names(sentences, sentences.joined())

    def tiers(self, posts: pl.Series) -> pl.Series:
        """`tier` for a column of strings; null where the post is null."""
        rules = self._post_sieve.first(self.spellings.corrected_column(posts))
        tiers = rules.replace_strict(self._tier_of, default="none", return_dtype=pl.String)
        return tiers.set(posts.is_null(), None)

    def vetoes(self, replies: pl.Series) -> pl.Series:
        """The first rule that refuses each reply, null where none does."""
        return self._reply_sieve.first(replies)

    @cached_property
    def _tier_of(self) -> dict[str, Tier]:
        return {rule.name: rule.tier for rule in self.file.posts}

    @cached_property
    def _post_sieve(self) -> Sieve:
        return Sieve(self.imminent + self.possible)

    @cached_property
    def _reply_sieve(self) -> Sieve:
        return Sieve(self.replies)


@lru_cache(maxsize=4)
def _loaded(path: Path, text: str) -> SafetyRules:
    """Once a process: hundreds of patterns and their examples take seconds."""
    return SafetyRules.of(path, text)


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
    patterns = _checked([_expand(pattern, terms, where) for pattern in rule.patterns], where)
    unless = _checked([_expand(pattern, terms, where) for pattern in rule.unless], f"{where}, unless")
    words = tuple(_words(pattern, where) for pattern in patterns)
    judge = Judge(rule.name, tuple(map(_compiled, patterns)), words, _compiled("|".join(unless)) if unless else None)
    for number, example in enumerate(rule.examples, start=1):
        if not judge.finds(Sentences.of(example)):
            raise ConfigError(f"{where}: does not match its example {number}; widen a pattern or narrow unless")
    for number, example in enumerate(rule.counterexamples, start=1):
        if judge.finds(Sentences.of(example)):
            raise ConfigError(f"{where}: matches its counterexample {number}; narrow a pattern or widen unless")
    return judge


def _words(pattern: str, where: str) -> tuple[Words, ...]:
    try:
        return required_words(pattern)
    except ValueError as error:
        raise ConfigError(f"{where}: pattern {pattern[:60]!r}: {error}") from None


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.ASCII | re.MULTILINE)


def _checked(patterns: list[str], where: str) -> list[str]:
    """The patterns, if Python and Rust both read each: what another service may judge by as well."""
    column = pl.DataFrame({"pattern": patterns}, schema={"pattern": pl.String})
    matches = column.select(pl.col("pattern").str.contains(pl.col("pattern"), strict=False))  # a call for each takes seconds
    read_by_rust = matches.to_series().is_not_null()
    for pattern, is_read in zip(patterns, read_by_rust, strict=True):
        try:
            _compiled(pattern)
            if not is_read:
                pl.Series([""]).str.contains(pattern)
        except (re.error, pl.exceptions.ComputeError) as error:
            problem = str(error).strip().splitlines()[-1].removeprefix("error: ")
            shown = f"pattern {pattern[:60]!r}"
            raise ConfigError(f"{where}: {shown} is outside of what Python and Rust share ({problem})") from None
    return patterns
