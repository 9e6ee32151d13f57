"""Which posts a study shows: never one of the other purpose, none that must not be shown, and every reason counted."""

from collections import Counter
from typing import Any

import pytest

from llumi.errors import ArtifactError, RateError
from llumi.rate.draw import draw_items
from llumi.records import HUMAN_DRAFT, HUMAN_REPLY
from tests.rate.conftest import GM_ARMS, IM_ARMS, NUM_POSTS, House, generation_rows, post_rows, write_generation, write_store


@pytest.mark.parametrize(("purpose", "folder"), [("evaluation", "held-out"), ("training", "drafts")])
def test_a_study_draws_from_the_posts_of_its_purpose_alone(purpose: Any, folder: str, house: House) -> None:
    for role, arms in (("gm", (*GM_ARMS, HUMAN_REPLY)), ("im", IM_ARMS)):
        drawn = draw_items(house.config, role, arms, purpose, None)
        assert {item.post_id for item in drawn.items} == {f"{folder}-{number:02}" for number in range(NUM_POSTS)}


def test_a_training_study_never_shows_a_held_out_post_even_where_the_folders_overlap(house: House) -> None:
    overlap = post_rows("drafts")[:5] + post_rows("held-out")[:1]
    write_store(house.config, held_out=overlap)
    drawn = draw_items(house.config, "gm", (HUMAN_REPLY, HUMAN_DRAFT), "training", None)
    assert {item.post_id for item in drawn.items} == {f"drafts-{number:02}" for number in range(5, NUM_POSTS)}


def test_pairs_of_arms_are_dealt_evenly_and_a_post_comes_once(house: House) -> None:
    drawn = draw_items(house.config, "gm", (*GM_ARMS, HUMAN_REPLY), "evaluation", None)
    assert Counter((item.arm_a, item.arm_b) for item in drawn.items) == {
        (GM_ARMS[0], GM_ARMS[1]): 4,
        (GM_ARMS[0], HUMAN_REPLY): 4,
        (GM_ARMS[1], HUMAN_REPLY): 4,
    }
    assert len({item.post_id for item in drawn.items}) == NUM_POSTS


def test_a_revision_is_compared_with_its_draft_and_its_author_is_known(house: House) -> None:
    (item,) = draw_items(house.config, "im", IM_ARMS, "evaluation", 1).items
    assert (item.arm_a, item.arm_b) == (HUMAN_DRAFT, *IM_ARMS)
    assert item.text_a.startswith("Go for a walk")
    assert (item.author_a, item.author_b) == ("b" * 24, None)


def test_every_post_that_is_left_out_is_counted(house: House) -> None:
    posts = post_rows("held-out")
    posts[0]["risk"], posts[1]["risk"], posts[2]["draft"] = "imminent", "possible", posts[2]["reply"]
    posts[3]["draft"] = "  "
    write_store(house.config, held_out=posts)
    drawn = draw_items(house.config, "gm", (HUMAN_REPLY, HUMAN_DRAFT), "evaluation", None)
    assert drawn.left_out == {"risk": 1, "not_answered_by_all": 1, "same_words": 1}
    assert len(drawn.items) == NUM_POSTS - 3


def test_the_same_seed_draws_the_same_posts(house: House) -> None:
    first, again = (draw_items(house.config, "gm", GM_ARMS, "evaluation", 5).items for _ in range(2))
    assert [item.post_id for item in first] == [item.post_id for item in again]
    assert len(first) == 5


@pytest.mark.parametrize(
    ("role", "arms", "error", "line"),
    [
        ("gm", ("gm-heron",), RateError, "compares at least two arms"),
        ("gm", ("gm-heron", "gm-heron"), RateError, "named twice"),
        ("gm", ("gm-heron", "im-finch"), RateError, r"generations/im-finch: not written by gm"),
        ("im", ("human-reply",), RateError, "compares revisions with their drafts"),
        ("im", (), RateError, "compares revisions with their drafts"),
        ("gm", ("gm-heron", "gm-gone"), ArtifactError, r"generations/gm-gone: no such artifact"),
        ("gm", ("gm-heron", "gm-old"), ArtifactError, r"generations/gm-old: not made from pairs/default as it stands"),
        ("gm", ("gm-heron", "gm-void"), ArtifactError, "generations/gm-void: holds no row; generate it again"),
        ("gm", ("gm-heron", "gm-blank"), RateError, r"none of 12 posts of drafts/ can be shown .*not_answered_by_all 12"),
        ("gm", ("gm-heron", "gm-few"), RateError, r"none of 12 posts of drafts/ can be shown \(risk 0, not_answered_by_all 12"),
    ],
)
def test_arms_that_make_no_comparison_are_one_line(
    role: Any, arms: tuple[str, ...], error: type[Exception], line: str, house: House
) -> None:
    storage = write_store(house.config)
    write_generation(storage, "gm-old", generation_rows("gm", "old", "bell"), [])
    pairs = storage.manifest("pairs/default").as_input()
    write_generation(storage, "gm-few", generation_rows("gm", "few", "bell", ("held-out",)), [pairs])
    write_generation(storage, "gm-void", [], [pairs])
    blank = [row | {"reply": " "} for row in generation_rows("gm", "blank", "bell")]
    write_generation(storage, "gm-blank", blank, [pairs])
    with pytest.raises(error, match=line) as raised:
        draw_items(house.config, role, arms, "training", None)
    assert "\n" not in str(raised.value)
