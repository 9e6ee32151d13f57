"""What can be counted in one text: readability, complexity and variety of words, each by a published formula."""

import math
from collections.abc import Sequence

MATTR_WINDOW = 50

_INNER_MARKS = str.maketrans("", "", "'’-")


def coleman_liau(words: Sequence[str], num_sentences: int) -> float:
    """The school grade (US) at which a text is readable; higher is harder, NaN without words.

    0.0588 L - 0.296 S - 15.8, with L letters and S sentences per 100 words (Coleman and Liau 1975, A computer
    readability formula designed for machine scoring, Journal of Applied Psychology 60(2)). Digits count as letters.
    Short texts reach far below grade 0 and above 16: read it as an order, not as a grade.
    """
    if not words:
        return math.nan
    num_letters = len("".join(words).translate(_INNER_MARKS))
    return (5.88 * num_letters - 29.6 * num_sentences) / len(words) - 15.8


def complexity(num_words: int, num_sentences: int) -> float:
    """Mean length of a sentence: words / sentences; NaN without a sentence.

    MLS among the measures of syntactic complexity of Lu 2010 (Automatic analysis of syntactic complexity in second
    language writing, International Journal of Corpus Linguistics 15(4)). Letters per word, the other half of what is
    called complexity beside a readability index, are in Coleman-Liau already.
    """
    return num_words / num_sentences if num_sentences else math.nan


def repeatability(types: Sequence[str]) -> float:
    """The share of words that repeat an earlier one: 1 - types / tokens, the complement of the type-token ratio.

    0 where no word comes twice (so for a single word), towards 1 the more a text repeats itself; NaN without words. It
    grows with length by itself (Templin 1957 for the ratio), so compare it between texts of like length.
    """
    return 1 - len(set(types)) / len(types) if types else math.nan


def mattr(types: Sequence[str], window: int = MATTR_WINDOW) -> float:
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
        if first_start <= last_start:
            num_types += min(index, last_start) - first_start + 1
        seen[word] = index
    return num_types / (window * (last_start + 1))
