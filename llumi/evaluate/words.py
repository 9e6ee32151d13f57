"""A text taken apart once, for all the measures that count in it: its sentences, its words and their types.

The rules are made for English. A word is a run of letters and digits, held together by inner apostrophes and hyphens
("don't", "self-care"). A sentence ends at `.`, `!`, `?` or an ellipsis before white space, or at a line break; a stretch
without a letter, such as the number of a list's item, is no sentence, though its words count. A type is a word without
regard to case and to the form of its apostrophe.
"""

import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|\n+")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A stretch with a letter: as it is written, its mark included, and its types."""

    text: str
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A text in pieces, in order."""

    words: tuple[str, ...]
    types: tuple[str, ...]
    sentences: tuple[Sentence, ...]


def read_text(text: str) -> Text:
    """Take `text` apart; without a word all its parts are empty."""
    # A letter and its accent may come as two characters, and only the first of them counts as a letter.
    text = unicodedata.normalize("NFC", text)
    words: list[str] = []
    types: list[str] = []
    sentences: list[Sentence] = []
    # No word crosses a sentence's end, so each is looked for in its own stretch alone.
    for stretch in _SENTENCE_END.split(text):
        found = _WORD.findall(stretch)
        if not found:
            continue
        # All words at once: a call for each would take as long as finding them.
        of_stretch = tuple("\n".join(found).casefold().replace("’", "'").split("\n"))
        words += found
        types += of_stretch
        if _LETTER.search(stretch):
            sentences.append(Sentence(stretch, of_stretch))
    return Text(tuple(words), tuple(types), tuple(sentences))
