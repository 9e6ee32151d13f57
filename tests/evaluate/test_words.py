import pytest

from llumi.evaluate.words import read_text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't give up; self-care isn’t selfish.", ("Don't", "give", "up", "self-care", "isn’t", "selfish")),
        ("Call 988 now", ("Call", "988", "now")),
        ("'quoted' - and snake_case", ("quoted", "and", "snake", "case")),
        ("🕯️ … !!", ()),
        ("Ça va, Zoë?", ("Ça", "va", "Zoë")),
        ("1. Breathe in.\n2. Breathe out.", ("1", "Breathe", "in", "2", "Breathe", "out")),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert read_text(text).words == words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("no closing mark", 1),
        ("One. Two! Three? Four…", 4),
        ("She said “Rest.” Then we walked.", 2),
        ("It took 3.5 hours at example.org to write.", 1),
        ("1. Breathe in.\n2. Breathe out.", 2),
        ("A title\n\nand a text", 2),
        ("Wait... what?!", 2),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert len(read_text(text).sentences) == count


def test_a_sentence_keeps_its_mark_and_its_types() -> None:
    first, second = read_text("DON’T rush! Zoe\u0308 waits").sentences
    assert (first.text, first.types) == ("DON’T rush!", ("don't", "rush"))
    assert second.types == ("zo\u00eb", "waits")


def test_types_ignore_case_and_the_form_of_the_apostrophe() -> None:
    assert read_text("Don't DON’T don't").types == ("don't",) * 3
