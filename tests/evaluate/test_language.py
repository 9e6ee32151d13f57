from math import isnan

import numpy as np
import pytest

from llumi.evaluate.language import Language, measure_texts

POST = "I walk in the rain. I miss my friends."


def test_a_row_for_each_reply_beside_its_post() -> None:
    measured = measure_texts(["I miss my friends.", "", "Thanks"], [POST, POST, ""])
    assert set(measured) == {*Language.__slots__, "style", "post_style"}
    assert measured["words"] == [4, 0, 1]
    assert measured["complexity"][0] == pytest.approx(4, abs=1e-6)
    assert measured["politeness"][2] == pytest.approx(1, abs=1e-6)
    # The same words as its post's second sentence, but not the same shares: 50 % personal pronouns beside 3 of 9.
    assert 0 < measured["style_matching"][0] < 1
    assert isnan(measured["style_matching"][2])
    assert measured["style"].shape == measured["post_style"].shape == (3, 9)
    assert np.isnan(measured["style"][1]).all()
    assert np.isnan(measured["post_style"][2]).all()


@pytest.mark.parametrize("text", ["", " \n", "…", "🕯️"])
def test_no_words(text: str) -> None:
    measured = measure_texts([text], [POST])
    assert (measured["words"], measured["sentences"]) == ([0], [0])
    assert all(isnan(measured[name][0]) for name in set(Language.__slots__) - {"words", "sentences"})


def test_composed_accents_do_not_change_a_figure() -> None:
    composed, apart = (measure_texts([text], [POST]) for text in ("Zo\u00eb dances.", "Zoe\u0308 dances."))
    assert all(composed[name] == pytest.approx(apart[name], nan_ok=True) for name in Language.__slots__)


def test_a_text_in_another_place_has_the_same_figures() -> None:
    replies = ["Rest well.", "Thank you for writing!", "Rest well."]
    measured = measure_texts(replies, [POST, "", POST])
    alone = measure_texts(["Rest well."], [POST])
    for name in Language.__slots__:
        assert measured[name][0] == measured[name][2] == alone[name][0]
