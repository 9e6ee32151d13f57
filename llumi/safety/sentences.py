"""A text as patterns see it, sentence by sentence; and where a sentence of a text that still grows has ended for good."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

APOSTROPHES = "'\u2019\u2018\u02bc\u00b4`"
QUOTES = '"\u201c\u201d\u201e'
BLANKS = r"\s\x1c-\x1f\u200b*_~"
"""What counts as a space: Python's white space, zero-width spaces, and the marks of Markdown around words."""
WINDOW = 3
"""So many neighbouring sentences are also read as one: what is said across a full stop is said all the same."""

END_MARKS = ".!?\u2026\"')]*_~"
"""Of these and of white space the end of a sentence is made."""

_PLAIN = str.maketrans(dict.fromkeys(APOSTROPHES[1:], "'") | dict.fromkeys(QUOTES[1:], '"'))
_SENTENCE_END = re.compile(r"(?<=[.!?\u2026])[\"')\]*_~]*\s+|\n\s*\n")
_BLANK_RUN = re.compile(f"[{BLANKS}]+")
_FINAL_MARKS = re.compile(r"[.!?\u2026,;:\"')\]]+$")


@dataclass(frozen=True)
class Sentences:
    """The sentences of a text; `lines` has a sentence a line, so that one search rules most patterns out."""

    sentences: tuple[str, ...]
    whole: str | None = None
    """What holds every word of the sentences, where that is shorter than these."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Plain apostrophes and quotes, single spaces, no marks of Markdown."""
        found = (_BLANK_RUN.sub(" ", part).strip() for part in _SENTENCE_END.split(text.translate(_PLAIN)))
        return cls(tuple(filter(None, found)))

    @cached_property
    def lines(self) -> str:
        """A sentence a line."""
        return "\n".join(self.sentences)

    @cached_property
    def looked_up(self) -> str:
        """All words, in lower case."""
        return (self.lines if self.whole is None else self.whole).lower()

    def joined(self) -> Self:
        """Each run of `WINDOW` neighbours as one sentence, without the marks between them; all of them where they are fewer."""
        bare = [_FINAL_MARKS.sub("", sentence) for sentence in self.sentences]
        runs = (" ".join(bare[at : at + WINDOW]) for at in range(max(1, len(bare) - WINDOW + 1)))
        return type(self)(tuple(runs), " ".join(bare))


def sentence_ends(text: str, start: int) -> Iterator[tuple[int, int]]:
    """For each sentence from `start` on that more text cannot change: where it ends, and where the next one begins."""
    for match in _SENTENCE_END.finditer(text, start):
        if match.end() == len(text):
            return
        yield match.start() + len(match[0].rstrip()), match.end()
