from math import isnan

import pytest

from llumi.evaluate.style import CLASSES, categorical_dynamic, function_words, profile, style_matching
from llumi.evaluate.words import read_text


def style_of(text: str) -> tuple[float, ...]:
    return profile(read_text(text).types)


def shares(text: str) -> dict[str, float]:
    """The classes that a text uses, in percent of its words."""
    return {name: share for name, share in zip(CLASSES, style_of(text), strict=True) if share}


def test_every_listed_word_can_be_met() -> None:
    assert all(read_text(word).types == (word,) for word in function_words())
    assert {place for places in function_words().values() for place in places} == set(range(len(CLASSES)))


def test_profile_by_hand() -> None:
    # 8 words: "you" twice; "are"; "not" is an adverb and a negation; "and"; "in"; "the"; "valley" is none.
    assert shares("You are not, and you... in the valley") == {
        "personal_pronoun": 25.0,
        "auxiliary_verb": 12.5,
        "adverb": 12.5,
        "negation": 12.5,
        "conjunction": 12.5,
        "preposition": 12.5,
        "article": 12.5,
    }


@pytest.mark.parametrize("word", ["I’m", "I'm", "im"])
def test_a_contraction_belongs_to_the_classes_of_its_parts(word: str) -> None:
    assert shares(word) == {"personal_pronoun": 100.0, "auxiliary_verb": 100.0}


def test_categorical_dynamic_by_hand() -> None:
    # 5 words: 2 articles, 1 preposition: 30 + 40 + 20.
    assert categorical_dynamic(style_of("The lamp in the window")) == pytest.approx(90, abs=1e-6)
    # 4 words: 2 personal pronouns, 1 negation with its auxiliary: 30 - 50 - 25 - 25.
    assert categorical_dynamic(style_of("I don't hear you")) == pytest.approx(-70, abs=1e-6)
    # Quantifiers take no part; 3 words, none other.
    assert categorical_dynamic(style_of("many small steps")) == pytest.approx(30, abs=1e-6)


def test_style_matching_by_hand() -> None:
    # Reply: 4 words, "you" 25 %, "the" 25 %. Post: 5 words, "I" 20 %, "the" 20 %, "in" 20 %.
    matching = style_matching(style_of("You light the lamp"), style_of("I walk in the rain"))
    alike = 1 - 5 / 45.0001
    # Two classes are met in part, prepositions in the post alone (1 - 20 / 20.0001), the other six by neither.
    assert matching == pytest.approx((2 * alike + (1 - 20 / 20.0001) + 6) / 9, abs=1e-6)
    assert matching == pytest.approx(0.864198, abs=1e-6)


def test_style_matching_of_the_same_text_is_1_and_does_not_depend_on_the_order() -> None:
    one, other = style_of("I walk in the rain"), style_of("You light the lamp")
    assert style_matching(one, one) == 1
    assert style_matching(one, other) == style_matching(other, one)


def test_one_word_and_none() -> None:
    assert categorical_dynamic(style_of("the")) == pytest.approx(130, abs=1e-6)
    assert style_matching(style_of("the"), style_of("lamp")) == pytest.approx((8 + 1 - 100 / 100.0001) / 9, abs=1e-6)
    assert isnan(categorical_dynamic(style_of("")))
    assert isnan(style_matching(style_of(""), style_of("the lamp")))
    assert isnan(style_matching(style_of("the lamp"), style_of(" ")))
