import pytest

from llumi.safety.literals import required_words


@pytest.mark.parametrize(
    ("pattern", "rarest"),
    [
        (r"\b(?:stop|start)(?:ing)? (?:\w+ )?walks?\b", {"stop", "start", "stoping", "starting"}),
        (r"\b(?:cheerful|glad) dogs?", {"cheerful", "glad"}),
        (r"\b(?:quiet day|slow) (?:\w+ )*tea", {"quiet", "slow"}),
        (r"\bdon'?t worry", {"worry"}),
    ],
)
def test_the_rarest_words_that_a_match_must_hold(pattern: str, rarest: set[str]) -> None:
    assert required_words(pattern)[0] == rarest


def test_a_pattern_of_gaps_has_none() -> None:
    with pytest.raises(ValueError, match="no word"):
        required_words(r"(?:tea)? \w+")
