import pytest

from llumi.safety.sentences import Sentences, sentence_ends


def ends(text: str, start: int = 0) -> list[str]:
    return [text[:end] for end, _ in sentence_ends(text, start)]


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("One. Two", ["One."]),
        ("One. ", []),
        ("One.", []),
        ('"One!" Two', ['"One!"']),
        ("One\n\nTwo", ["One"]),
        ("One\n", []),
        ("One... Two? Three", ["One...", "One... Two?"]),
        ("", []),
    ],
)
def test_a_sentence_ends_for_good_once_something_follows_it(text: str, certain: list[str]):
    assert ends(text) == certain


def test_neighbours_are_read_as_one():
    joined = Sentences.of("One. Two! Three? Four.").joined()
    assert joined.sentences == ("One Two Three", "Two Three Four")
    assert Sentences.of("One. Two.").joined().sentences == ("One Two",)
