"""Sentiment by VADER: its lexicon and rules, as the package of its author carries them."""

import math
import string
from collections.abc import Sequence
from functools import cache

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from llumi.evaluate.words import Sentence


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


def sentiment(sentences: Sequence[Sentence]) -> float:
    """Mean compound valence of the sentences, -1 (dark) to 1 (bright); NaN without a sentence.

    s / sqrt(s^2 + 15), with s the sum of a sentence's valences after VADER's rules for negation, emphasis and contrast
    (Hutto and Gilbert 2014, VADER: a parsimonious rule-based model for sentiment analysis of social media text, ICWSM).
    It is made for a sentence, and saturates over a whole text: hence the mean.
    """
    if not sentences:
        return math.nan
    return math.fsum(_compound(sentence.text) for sentence in sentences) / len(sentences)


def _compound(text: str) -> float:
    # VADER knows "isn't" by its straight apostrophe alone.
    text = text.replace("’", "'")
    return 0.0 if _is_neutral(text) else float(_analyzer().polarity_scores(text)["compound"])


def _is_neutral(text: str) -> bool:
    """Whether no token is in VADER's lexicon, so that its rules have nothing to work on: they take most of the time."""
    tokens = text.lower().split()
    has_valence = _analyzer().lexicon.keys()
    # It strips a token's punctuation unless that makes an emoticon of it, and reads an emoji as the words that describe it.
    return text.isascii() and has_valence.isdisjoint(tokens + [token.strip(string.punctuation) for token in tokens])
