"""Pages that ask for certain answers: whether a rater reads what is on the page. Raters are told beforehand that some do."""

from itertools import permutations
from typing import Any

from llumi.prompts import Role
from llumi.rate.chance import draw
from llumi.rate.dimensions import SCORES, pair_dimensions
from llumi.rate.tables import Item

NUM_CHECKS = 12
"""So many that nobody meets one twice."""

ARM = "check"
BOTH = "both"
"""In `Item.expected`: the score that scales for both replies are asked for, beside those for reply a and b."""

_POST = (
    "This page is a short check and not a post. Some pages are, so that we know that pages are read as they are meant to be. "
    "Please answer as the two replies ask you to."
)
_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}


def make_checks(role: Role, seed: int, first_number: int) -> list[Item]:
    """The checks of a study, numbered from `first_number`; the better reply is the one with the higher score."""
    asked = sorted(permutations(SCORES, 2), key=lambda scores: draw(seed, "check", *scores))[:NUM_CHECKS]
    return [_check(role, first_number + place, *scores) for place, scores in enumerate(asked)]


def _check(role: Role, number: int, score_a: int, score_b: int) -> Item:
    expected: dict[str, Any] = {"a": score_a, "b": score_b, BOTH: 3}
    return Item(
        number=number,
        post_id="",
        post=_POST,
        arm_a=ARM,
        arm_b=ARM,
        text_a=_text(role, score_a, is_better=score_a > score_b),
        text_b=_text(role, score_b, is_better=score_b > score_a),
        expected=expected,
    )


def _text(role: Role, score: int, *, is_better: bool) -> str:
    both = " Choose three on the scales for both replies." if pair_dimensions(role) else ""
    choice = "At the end, choose this reply." if is_better else "At the end, choose the other reply."
    return f"Thank you for reading closely. Please choose {_NUMBERS[score]} on every scale of this reply.{both} {choice}"
