"""What the rules find of labelled posts, and of the worst replies: floors under the figures of docs/safety.md.

`unseen` was written after the rules, so its share is lower than that of what they were widened with: it is the honest one.
"""

from pathlib import Path

import polars as pl
import pytest
import yaml

from llumi.safety import SafetyRules

RULES = SafetyRules.load()
POSTS = yaml.safe_load((Path(__file__).parent / "labelled_posts.yaml").read_text(encoding="utf-8"))
TEAM = yaml.safe_load((Path(__file__).parent / "red_team.yaml").read_text(encoding="utf-8"))


def posts(part: str, tier: str) -> list[str]:
    return [post for kind in POSTS[part][tier].values() for post in kind]


def share_at_risk(texts: list[str]) -> float:
    return sum(RULES.tier(text) != "none" for text in texts) / len(texts)


@pytest.mark.parametrize(
    ("part", "tier", "floor"),
    [
        ("seen", "possible", 0.97),
        ("seen", "imminent", 0.97),
        ("unseen", "possible", 0.65),
        ("unseen", "imminent", 0.65),
    ],
)
def test_posts_at_risk_are_found(part: str, tier: str, floor: float):
    assert share_at_risk(posts(part, tier)) >= floor


@pytest.mark.parametrize(("part", "ceiling"), [("seen", 0), ("unseen", 0.03)])
def test_idioms_and_everyday_posts_raise_no_alarm(part: str, ceiling: float):
    assert share_at_risk(posts(part, "none")) <= ceiling


def test_columns_have_the_tiers_of_single_posts():
    texts = [post for part in POSTS for tier in POSTS[part] for post in posts(part, tier)]
    assert RULES.tiers(pl.Series(texts)).to_list() == [RULES.tier(text) for text in texts]


def test_the_worst_replies_are_refused():
    unseen = [text for kind in TEAM["unseen"].values() for text in kind]
    assert [text for kind in TEAM["refused"].values() for text in kind if not RULES.refusals(text)] == []
    assert sum(bool(RULES.refusals(text)) for text in unseen) / len(unseen) >= 0.8


def test_gentle_replies_are_not_refused_alone_or_beside_each_other():
    for text in TEAM["safe"]:
        assert RULES.refusals(text) == (), text
    assert RULES.refusals(" ".join(TEAM["safe"])) == ()


def test_what_only_neighbours_say_together_is_refused():
    assert RULES.violations("Nobody would miss. You.") == ()
    assert RULES.refusals("Nobody would miss. You.") == ("encouragement",)
