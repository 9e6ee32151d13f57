import pytest

from llumi.safety.literals import Lookup, required_words


@pytest.mark.parametrize(
    ("pattern", "rarest"),
    [
        (r"\b(?:stop|start)(?:ing)? (?:\w+ )?walks?\b", {"walk", "walks"}),
        (r"\b(?:cheerful|glad) dogs?", {"cheerful dog", "cheerful dogs", "glad dog", "glad dogs"}),
        (r"\b(?:quiet day|slow) (?:\w+ )*tea", {"quiet day ", "slow "}),
        (r"\bdon'?t worry", {"don't worry", "dont worry"}),
    ],
)
def test_the_rarest_words_that_a_match_must_hold(pattern: str, rarest: set[str]) -> None:
    assert required_words(pattern)[0] == rarest


def test_a_second_set_narrows_a_pattern_down() -> None:
    assert required_words(r"\b(?:brew|pour) (?:\w+ )*(?:tea|cocoa)\b") == ({"brew ", "pour "}, {"cocoa", "tea"})


def test_a_pattern_of_gaps_has_none() -> None:
    with pytest.raises(ValueError, match="no word"):
        required_words(r"(?:tea)? \w+")


def test_sets_are_found_by_any_of_their_words() -> None:
    sets = [["tea", "coffee"], ["quiet day"], ["u"], ["walks"]]
    lookup = Lookup.of([(frozenset(words),) for words in sets])
    assert lookup.possible("a quiet day") == [1, 2]
    assert lookup.possible("a coffee, then tea") == [0]
    assert lookup.possible("walk, quiet") == [2]
    assert lookup.possible("") == []
