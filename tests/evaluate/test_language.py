import math
import random
from math import isnan

import pytest

from llumi.evaluate.language import count_sentences, find_words, mattr, measure_language


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't give up; self-care isn’t selfish.", ["Don't", "give", "up", "self-care", "isn’t", "selfish"]),
        ("Call 988 now", ["Call", "988", "now"]),
        ("'quoted' - and snake_case", ["quoted", "and", "snake", "case"]),
        ("🕯️ … !!", []),
        ("Ça va, Zoë?", ["Ça", "va", "Zoë"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert find_words(text) == words


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
    assert count_sentences(text) == count


def test_golden_text() -> None:
    # 9 words of 3+3+3+2+3+3+2+3+5 = 27 letters in 2 sentences: L = 300, S = 22.2222...; 8 of the words are different.
    measured = measure_language("The cat sat on the mat. It was happy.")
    assert (measured.words, measured.sentences) == (9, 2)
    assert measured.coleman_liau == pytest.approx(0.0588 * 300 - 0.296 * 200 / 9 - 15.8, abs=1e-6)
    assert measured.coleman_liau == pytest.approx(-4.737778, abs=1e-6)
    assert measured.repeatability == pytest.approx(1 / 9, abs=1e-6)
    assert measured.mattr == pytest.approx(8 / 9, abs=1e-6)


def test_inner_marks_and_composed_accents_do_not_change_the_letters() -> None:
    # 4 + 8 letters in 2 words and 1 sentence: L = 600, S = 50.
    assert measure_language("Don’t self-care").coleman_liau == pytest.approx(0.0588 * 600 - 0.296 * 50 - 15.8, abs=1e-6)
    assert measure_language("Zoe\u0308 dances.") == measure_language("Zo\u00eb dances.")


def test_one_word() -> None:
    measured = measure_language("Hello")
    assert (measured.words, measured.sentences, measured.repeatability, measured.mattr) == (1, 1, 0.0, 1.0)
    assert measured.coleman_liau == pytest.approx(29.4 - 29.6 - 15.8, abs=1e-6)


@pytest.mark.parametrize("text", ["", " \n", "…", "🕯️"])
def test_no_words(text: str) -> None:
    measured = measure_language(text)
    assert (measured.words, measured.sentences) == (0, 0)
    assert isnan(measured.coleman_liau)
    assert isnan(measured.repeatability)
    assert isnan(measured.mattr)


def test_types_ignore_case_and_the_form_of_the_apostrophe() -> None:
    assert measure_language("Don't DON’T don't").repeatability == pytest.approx(2 / 3)


def test_mattr_by_hand() -> None:
    # Windows of 3: "a b a" 2, "b a c" 3, "a c c" 2 types.
    assert mattr(["a", "b", "a", "c", "c"], window=3) == pytest.approx(7 / 9, abs=1e-6)


@pytest.mark.parametrize("length", [1, 49, 50, 51, 240])
def test_mattr_equals_the_mean_over_its_windows(length: int) -> None:
    generator = random.Random(length)
    types = [generator.choice("abcdefghijklmnop") + generator.choice("xyz") for _ in range(length)]
    window = min(50, length)
    ratios = [len(set(types[start : start + window])) / window for start in range(length - window + 1)]
    assert mattr(types) == pytest.approx(math.fsum(ratios) / len(ratios), abs=1e-6)


def test_mattr_does_not_fall_with_length_while_repeatability_rises() -> None:
    generator = random.Random(7)
    short, long = ([f"w{generator.randrange(200)}" for _ in range(length)] for length in (60, 2000))
    assert mattr(long) == pytest.approx(mattr(short), abs=0.03)
    assert measure_language(" ".join(long)).repeatability > 0.8 > measure_language(" ".join(short)).repeatability + 0.3
