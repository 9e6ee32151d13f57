import polars as pl
import pytest

from llumi.safety import SafetyRules
from llumi.safety.spelling import Spellings

SPELLINGS = Spellings.of(["tonight: tn|tonite", "going to: goin to"], ["suicide", "pills"])


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("See you tn!", "See you tonight!"),
        ("TONITE", "tonight"),
        ("goin  to bed", "going to bed"),
        ("suicde, suciide", "suicide, suicide"),
        ("one pill, partner", "one pill, partner"),
    ],
)
def test_listed_words_and_slips_are_put_right(typed: str, right: str):
    assert SPELLINGS.corrected(typed) == right
    assert SPELLINGS.corrected_column(pl.Series([typed, None, "Quiet."])).to_list() == [right, None, "Quiet."]


def test_none_listed_changes_nothing():
    texts = pl.Series(["tn"])
    assert Spellings.of([], []).corrected("tn") == "tn"
    assert Spellings.of([], []).corrected_column(texts) is texts


def test_a_line_without_its_right_word_is_refused():
    with pytest.raises(ValueError, match="right: wrong"):
        Spellings.of(["tonite"], [])


def test_the_shipped_spellings_leave_gentle_words_alone():
    spellings = SafetyRules.load().spellings
    for text in ("I live here with my family.", "My partner has the last word about the pill.", "We exit on the left."):
        assert spellings.corrected(text) == text
