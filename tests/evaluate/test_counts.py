import math
import random

import pytest

from llumi.evaluate.counts import coleman_liau, complexity, mattr, repeatability
from llumi.evaluate.words import read_text


def test_golden_text() -> None:
    # 9 words of 3+3+3+2+3+3+2+3+5 = 27 letters in 2 sentences: L = 300, S = 22.2222...; 8 of the words are different.
    text = read_text("The cat sat on the mat. It was happy.")
    grade = coleman_liau(text.words, len(text.sentences))
    assert grade == pytest.approx(0.0588 * 300 - 0.296 * 200 / 9 - 15.8, abs=1e-6)
    assert grade == pytest.approx(-4.737778, abs=1e-6)
    assert complexity(len(text.words), len(text.sentences)) == pytest.approx(4.5, abs=1e-6)
    assert repeatability(text.types) == pytest.approx(1 / 9, abs=1e-6)
    assert mattr(text.types) == pytest.approx(8 / 9, abs=1e-6)


def test_inner_marks_do_not_count_as_letters() -> None:
    # 4 + 8 letters in 2 words and 1 sentence: L = 600, S = 50.
    assert coleman_liau(["Don’t", "self-care"], 1) == pytest.approx(0.0588 * 600 - 0.296 * 50 - 15.8, abs=1e-6)


def test_one_word() -> None:
    assert coleman_liau(["Hello"], 1) == pytest.approx(29.4 - 29.6 - 15.8, abs=1e-6)
    assert (complexity(1, 1), repeatability(["hello"]), mattr(["hello"])) == (1.0, 0.0, 1.0)


def test_no_words() -> None:
    assert all(math.isnan(figure) for figure in (coleman_liau([], 0), complexity(0, 0), repeatability([]), mattr([])))


def test_a_number_alone_is_a_word_without_a_sentence() -> None:
    assert math.isnan(complexity(1, 0))


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
    assert repeatability(long) > 0.8 > repeatability(short) + 0.3
