"""What can be counted in a text: length, readability and variety of words, each by a published formula.

The rules are made for English. A word is a run of letters and digits, held together by inner apostrophes and hyphens
("don't", "self-care"). A sentence ends at `.`, `!`, `?` or an ellipsis before white space, or at a line break; a stretch
without a letter, such as the number of a list's item, is no sentence.
"""

import math
import re
import unicodedata
from dataclasses import dataclass

MATTR_WINDOW = 50

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|\n+")
_LETTER = re.compile(r"[^\W\d_]")
_INNER_MARKS = str.maketrans("", "", "'’-")


@dataclass(frozen=True, slots=True)
class Language:
    """The counted measures of one text; NaN where a text has no words and a measure therefore no value."""

    words: int
    sentences: int
    coleman_liau: float
    repeatability: float
    mattr: float


def measure_language(text: str) -> Language:
    """All counted measures of `text`. Without a word: 0 words, 0 sentences, and NaN for the rest."""
    # A letter and its accent may come as two characters, and only the first of them counts as a letter.
    text = unicodedata.normalize("NFC", text)
    words = find_words(text)
    types = [word.casefold().replace("’", "'") for word in words]
    num_sentences = count_sentences(text)
    return Language(
        words=len(words),
        sentences=num_sentences,
        coleman_liau=coleman_liau(words, num_sentences),
        repeatability=repeatability(types),
        mattr=mattr(types),
    )


def find_words(text: str) -> list[str]:
    """The words of `text`, in order, as they are written."""
    return _WORD.findall(text)


def count_sentences(text: str) -> int:
    """The number of sentences; 1 for words without any closing mark, 0 without a letter."""
    return sum(1 for stretch in _SENTENCE_END.split(text) if _LETTER.search(stretch))


def coleman_liau(words: list[str], num_sentences: int) -> float:
    """The school grade (US) at which a text is readable; higher is harder, NaN without words.

    0.0588 L - 0.296 S - 15.8, with L letters and S sentences per 100 words (Coleman and Liau 1975, A computer
    readability formula designed for machine scoring, Journal of Applied Psychology 60(2)). Digits count as letters.
    Short texts reach far below grade 0 and above 16: read it as an order, not as a grade.
    """
    if not words:
        return math.nan
    num_letters = sum(len(word.translate(_INNER_MARKS)) for word in words)
    return (5.88 * num_letters - 29.6 * num_sentences) / len(words) - 15.8


def repeatability(types: list[str]) -> float:
    """The share of words that repeat an earlier one: 1 - types / tokens, the complement of the type-token ratio.

    0 where no word comes twice (so for a single word), towards 1 the more a text repeats itself; NaN without words. It
    grows with length by itself (Templin 1957 for the ratio), so compare it between texts of like length.
    """
    return 1 - len(set(types)) / len(types) if types else math.nan


def mattr(types: list[str], window: int = MATTR_WINDOW) -> float:
    """Moving-average type-token ratio: the mean share of different words over all windows of `window` words.

    It does not fall with length (Covington and McFall 2010, Cutting the Gordian knot: the moving-average type-token
    ratio, Journal of Quantitative Linguistics 17(2)). A text shorter than the window is one window; NaN without words.
    """
    if not types:
        return math.nan
    window = min(window, len(types))
    last_start = len(types) - window
    seen: dict[str, int] = {}
    num_types = 0
    for index, word in enumerate(types):
        # A word is a new type in the windows that hold it and start after its previous occurrence.
        first_start = max(seen.get(word, -1) + 1, index - window + 1)
        num_types += max(0, min(index, last_start) - first_start + 1)
        seen[word] = index
    return num_types / (window * (last_start + 1))
