"""Sentiment by VADER: its lexicon and rules, as the package of its author carries them."""

import math
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
    # VADER knows "isn't" by its straight apostrophe alone.
    texts = (sentence.text.replace("’", "'") for sentence in sentences)
    return math.fsum(_analyzer().polarity_scores(text)["compound"] for text in texts) / len(sentences)
