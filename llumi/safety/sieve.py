"""Rules at work: one over one text, and all of them over a text or a column, by way of the words that their patterns need."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from llumi.safety.literals import Lookup, Words
from llumi.safety.sentences import APOSTROPHES, BLANKS, QUOTES, Sentences

_CUT = " . "
"""Stands where `unless` cut words out: a full stop, which no gap of a pattern reaches across."""


@dataclass(frozen=True)
class Judge:
    """One rule, compiled; `words` are the sets for each pattern of which it needs a word each to match."""

    name: str
    patterns: tuple[re.Pattern[str], ...]
    words: tuple[tuple[Words, ...], ...]
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
        words = self._words
        rows = [(word, number) for number, (rarest, *_) in enumerate(words) for word in sorted(rarest)]
        return pl.DataFrame(rows, schema={"word": pl.String, "pattern": pl.Int64}, orient="row")

    @cached_property
    def _words(self) -> list[tuple[Words, ...]]:
        return [words for judge in self.judges for words in judge.words]

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup.of(self._words)

    def names(self, *views: Sentences) -> tuple[str, ...]:
        """The names of the rules that hold for any of these views of one text, in their order."""
        return tuple(judge.name for judge in self.found(*views))

    def found(self, *views: Sentences) -> tuple[Judge, ...]:
        """The rules that hold for any of these views of one text, in their order; the last view holds the words of all."""
        asked = (self.patterns[number] for number in self._lookup.possible(views[-1].looked_up))
        found = {judge.name for judge, pattern, _ in asked if any(judge.finds(view, [pattern]) for view in views)}
        return tuple(judge for judge in self.judges if judge.name in found)

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
