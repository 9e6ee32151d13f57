import pytest

from llumi.safety.literals import required_words


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
    assert required_words(pattern) == rarest


def test_a_pattern_of_gaps_has_none() -> None:
    with pytest.raises(ValueError, match="no word"):
        required_words(r"(?:tea)? \w+")
