from math import isnan

import pytest

from llumi.evaluate.politeness import markers, politeness
from llumi.evaluate.words import read_text


def politeness_of(text: str) -> float:
    return politeness(read_text(text).sentences)


def test_every_marker_can_be_met() -> None:
    phrases = [marker.phrase for of_word in markers().values() for marker in of_word]
    assert all(read_text(" ".join(phrase)).types == phrase for phrase in phrases)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Thank you for writing.", 1),  # gratitude
        ("Thanks, thank you, I am grateful.", 1),  # one strategy, however often
        ("Hi, I am sorry to hear that.", 2),  # greeting, apology
        ("Tell us more, please.", 1),
        ("Please tell us more.", -1),  # at the beginning it orders
        ("Maybe you could rest.", 1),  # hedge; "you" stands within
        ("You are not alone.", 0),  # a beginning with "you" is comfort here, and left out
        ("You should rest.", 0),
        ("But you’re tired.", -1),  # direct start
        ("Why do you stay?", -1),  # direct question
        ("Could you call a friend?", 1),  # counterfactual modal
        ("A walk is good.", 0),  # deference at a beginning alone
        ("Pleased to meet the thankless task.", 0),  # parts of words are no markers
        ("", float("nan")),
    ],
)
def test_strategies_of_one_sentence(text: str, score: float) -> None:
    assert politeness_of(text) == pytest.approx(score, abs=1e-6, nan_ok=True)


def test_golden_text_is_the_mean_over_its_sentences() -> None:
    # gratitude +1; greeting 0; direct start -1 and hedge +1; counterfactual modal +1.
    text = "Thank you for this. The evening is long. But maybe it ends. Could you call a friend?"
    assert politeness_of(text) == pytest.approx(2 / 4, abs=1e-6)


def test_one_word_and_none() -> None:
    assert politeness_of("Thanks") == 1
    assert politeness_of("Lamp") == 0
    assert isnan(politeness_of("…"))
