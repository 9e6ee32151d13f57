import itertools
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from llumi.evaluate.across import PROFILES, accommodation, diversity, measure_arms
from llumi.evaluate.statistics import FloatArray

NAN = np.nan


def units(*degrees: float) -> FloatArray:
    """Unit vectors in the plane."""
    radians = np.radians(degrees)
    return np.column_stack([np.cos(radians), np.sin(radians)])


def test_diversity_by_hand() -> None:
    # Two alike and one at a right angle: distances 0, 1, 1, mean 2 / 3; from the others 1/2, 1/2 and 1 in the mean.
    parts = diversity(units(0, 0, 90))
    assert parts.mean() == pytest.approx(2 / 3, abs=1e-6)
    # (2 * 2 * d - 3 * 2 / 3) / 1.
    assert parts == pytest.approx([0, 0, 2], abs=1e-6)


def test_diversity_is_the_mean_over_all_pairs_and_its_parts_are_pseudo_values() -> None:
    embeddings = np.random.default_rng(5).normal(size=(9, 4))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)

    def over_pairs(rows: FloatArray) -> float:
        return float(np.mean([1 - one @ other for one, other in itertools.combinations(rows, 2)]))

    parts = diversity(embeddings)
    assert parts.mean() == pytest.approx(over_pairs(embeddings), abs=1e-9)
    without = [over_pairs(np.delete(embeddings, row, axis=0)) for row in range(9)]
    assert parts == pytest.approx(9 * over_pairs(embeddings) - 8 * np.array(without), abs=1e-9)


def test_diversity_of_one_text_over_and_over_is_0() -> None:
    assert diversity(units(30, 30, 30, 30)) == pytest.approx(np.zeros(4), abs=1e-9)


def test_a_reply_without_text_takes_no_part_in_diversity() -> None:
    embeddings = np.vstack([units(0, 0, 90), [[NAN, NAN]]])
    assert diversity(embeddings) == pytest.approx([0, 0, 2, NAN], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("num", [0, 1, 2])
def test_too_few_replies_have_no_diversity(num: int) -> None:
    assert np.isnan(diversity(units(*range(num)))).all()


def test_accommodation_by_hand() -> None:
    # Class one: 2 of 4 posts use it, their replies both do, and 3 of 4 replies do: 1 - 3/4. Class two: 3 of 4 posts, of
    # whose replies 1 uses it, and 2 of 4 do: 1/3 - 1/2. Class three: all posts use it, so it is left out.
    posts = np.array([[9, 0, 5], [4, 2, 1], [0, 3, 1], [0, 8, 2]])
    replies = np.array([[7, 5, 1], [1, 6, 0], [0, 0, 1], [3, 0, 1]])
    assert accommodation(replies, posts).mean() == pytest.approx((1 / 4 - 1 / 6) / 2, abs=1e-6)


def test_accommodation_where_posts_do_not_differ_is_not_defined() -> None:
    assert np.isnan(accommodation(np.ones((3, 9)), np.ones((3, 9)))).all()
    assert np.isnan(accommodation(np.ones((3, 9)), np.zeros((3, 9)))).all()
    assert accommodation(np.zeros((0, 9)), np.zeros((0, 9))).shape == (0,)


def test_a_text_without_words_takes_no_part_in_accommodation() -> None:
    posts, replies = np.array([[1.0], [0.0], [NAN], [1.0]]), np.array([[1.0], [0.0], [1.0], [NAN]])
    # Of the two that are left: P(reply | post) is 1, and one reply of two uses the class.
    parts = accommodation(replies, posts)
    assert np.isnan(parts).tolist() == [False, False, True, True]
    assert np.nanmean(parts) == pytest.approx(1 / 2, abs=1e-6)


def draw_directions(generator: np.random.Generator) -> FloatArray:
    return diversity(units(*generator.normal(0, 40, size=60)))


def draw_classes(generator: np.random.Generator) -> FloatArray:
    posts = generator.random((60, 2)) < 0.7
    return accommodation((generator.random((60, 2)) < 0.2 + 0.5 * posts).astype(float), posts.astype(float))


@pytest.mark.parametrize("draw", [draw_directions, draw_classes])
def test_parts_vary_as_the_figure_does_from_one_draw_to_another(draw: Callable[[np.random.Generator], FloatArray]) -> None:
    """The standard error by the parts of one draw is the spread of the figure over 600 draws."""
    generator = np.random.default_rng(11)
    draws = [draw(generator) for _ in range(600)]
    spread = np.std([parts.mean() for parts in draws])
    told = np.sqrt(np.mean([parts.var(ddof=1) / len(parts) for parts in draws]))
    assert told == pytest.approx(spread, rel=0.1)


def test_each_arm_is_measured_by_itself_and_nothing_else_changes() -> None:
    replies = pl.DataFrame(
        {
            "role": "gm",
            "arm": ["b", "a", "a", "a", "b"],
            "post_id": ["1", "2", "3", "1", "2"],
            "embedding": units(0, 0, 90, 0, 90).astype(np.float32),
            "style": np.ones((5, 9)),
            "post_style": np.ones((5, 9)),
        }
    )
    measured = measure_arms(replies)
    assert measured.columns == ["role", "arm", "post_id", "accommodation", "diversity"]
    assert measured["post_id"].to_list() == ["2", "3", "1", "1", "2"]
    assert measured["diversity"].to_list() == [0.0, 2.0, 0.0, None, None]
    assert measured["accommodation"].null_count() == 5
    assert set(PROFILES).isdisjoint(measured.columns)
