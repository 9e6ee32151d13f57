from math import isnan, sqrt

import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from llumi.evaluate.sentiment import sentiment
from llumi.evaluate.words import Sentence, read_text


def sentiment_of(text: str) -> float:
    return sentiment(read_text(text).sentences)


def compound(valence: float) -> float:
    """VADER's normalisation, rounded as it does."""
    return round(valence / sqrt(valence**2 + 15), 4)


def test_golden_text_is_the_mean_over_its_sentences() -> None:
    # In VADER's lexicon "glad" has 2.0 and "lonely" -1.5; a negation turns by -0.74; "!" adds 0.292.
    text = "I am glad. The evening was lonely. It is not lonely. I am glad! The lamp stands there."
    golden = [compound(2.0), compound(-1.5), compound(-1.5 * -0.74), compound(2.292), 0]
    assert sentiment_of(text) == pytest.approx(sum(golden) / 5, abs=1e-6)


def test_the_form_of_the_apostrophe_does_not_matter() -> None:
    assert sentiment_of("It isn’t lonely") == sentiment_of("It isn't lonely") == pytest.approx(compound(1.11), abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "The lamp stands there!!",
        "A lamp :)",
        "A lamp 🙂",
        "(glad)",
        "GLAD, the lamp",
        "A lamp, not bad",
        "no",
        "The lamp is the bomb",
        "It was kind of good, and a kind word too",
        "What a VERY good lamp, never so dear!",
        "The evening is hardly nice, but the lamp is great",
        "At least no good lamp – least of all a sad one – was lost??",
        " the bomb… or no friend ",
        "A lamp of kind",
        "",
    ],
)
def test_a_sentence_has_the_valence_that_vader_finds(text: str) -> None:
    assert sentiment([Sentence(text, ())]) == SentimentIntensityAnalyzer().polarity_scores(text)["compound"]


def test_one_word_and_none() -> None:
    assert sentiment_of("glad") == pytest.approx(compound(2.0), abs=1e-6)
    assert sentiment_of("lamp") == 0
    assert isnan(sentiment_of(""))
    assert isnan(sentiment_of("🕯️"))
