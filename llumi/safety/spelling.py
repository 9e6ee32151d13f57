"""Words as people type them in haste or on purpose, put right before the rules for posts look.

A misspelling that no pattern names would hide a post from every rule. Only listed words are touched, so that no word of
ordinary English becomes another.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import polars as pl


@dataclass(frozen=True)
class Spellings:
    """`right` for each wrong spelling in lower case."""

    right: Mapping[str, str]

    @classmethod
    def of(cls, lines: Iterable[str], typos: Iterable[str]) -> Self:
        """From lines such as "tonight: tn|tonite", and from words whose usual slips of the fingers count too."""
        listed = {wrong.strip(): right.strip() for right, _, wrongs in map(_cut, lines) for wrong in wrongs.split("|")}
        slips = {slip: word for word in typos for slip in _slips(word)}
        return cls({wrong.lower(): right for wrong, right in (slips | listed).items()})

    def corrected(self, text: str) -> str:
        """The text with each wrong spelling put right."""
        if not self.right:
            return text
        return self._pattern.sub(lambda match: self.right[" ".join(match[0].lower().split())], text)

    def corrected_column(self, texts: pl.Series) -> pl.Series:
        """`corrected` for a column of strings; nulls stay null."""
        if not self.right:
            return texts
        rows = texts.str.contains(_in_rust(self._alternatives)).fill_null(value=False).arg_true()
        if not len(rows):
            return texts
        return texts.scatter(rows, pl.Series([self.corrected(text) for text in texts.gather(rows)], dtype=pl.String))

    @cached_property
    def _alternatives(self) -> str:
        return "|".join(re.escape(wrong).replace(r"\ ", r"\s+") for wrong in sorted(self.right, key=len, reverse=True))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"\b(?:{self._alternatives})\b", re.IGNORECASE | re.ASCII)


def _cut(line: str) -> tuple[str, str, str]:
    right, colon, wrongs = line.partition(":")
    if not colon or not right.strip() or not all(wrong.strip() for wrong in wrongs.split("|")):
        raise ValueError(f'{line[:40]!r}: write "right: wrong|wrong"')
    return right, colon, wrongs


def _slips(word: str) -> set[str]:
    """Two letters changed over, or one left out: not the first, which people seldom miss, and no plural's s."""
    last = len(word) - word.endswith("s")
    turned = {word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(1, len(word) - 1)}
    short = {word[:at] + word[at + 1 :] for at in range(1, last)}
    return (turned | short) - {word}


def _in_rust(alternatives: str) -> str:
    return rf"(?i)(?-u:\b)(?:{alternatives})(?-u:\b)"
