"""Sentiment by VADER: its lexicon and rules, as the package of its author carries them."""

import math
from collections.abc import Sequence
from functools import cache

from vaderSentiment.vaderSentiment import BOOSTER_DICT, SentimentIntensityAnalyzer, SentiText

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
    """What `polarity_scores` gives: with VADER's own rules for a word of its lexicon, and without a call for any other word."""
    vader = _analyzer()
    # VADER knows "isn't" by its straight apostrophe alone.
    text = text.replace("’", "'").strip()
    parts = SentiText(text)
    lowered = [word.lower() for word in parts.words_and_emoticons]
    # An emoji is read as the words that describe it, and "but" weighs the valences anew on both of its sides.
    if "but" in lowered or not vader.emojis.keys().isdisjoint(text):
        return float(vader.polarity_scores(text)["compound"])
    if vader.lexicon.keys().isdisjoint(lowered):
        return 0.0
    valences: list[float] = []
    for place, word in enumerate(lowered):
        is_modifier = word in BOOSTER_DICT or (word == "kind" and lowered[place + 1 : place + 2] == ["of"])
        if word in vader.lexicon and not is_modifier:
            vader.sentiment_valence(0, parts, parts.words_and_emoticons[place], place, valences)
        else:
            valences.append(0)
    return float(vader.score_valence(valences, text)["compound"])
