"""What raters are asked of a reply: scales from 1 to 5 with words at both ends."""

from dataclasses import dataclass

from llumi.prompts import Role

MIN_SCORE, MAX_SCORE = 1, 5
SCORES = tuple(range(MIN_SCORE, MAX_SCORE + 1))


@dataclass(frozen=True, slots=True)
class Dimension:
    """One scale; `low` says what 1 means, `high` what 5 means."""

    name: str
    label: str
    question: str
    low: str
    high: str


REPLY_DIMENSIONS = (
    Dimension("readability", "Readability", "How easy is it to read?", "hard to read", "easy to read"),
    Dimension("empathy", "Empathy", "Does it understand how the person feels?", "not at all", "very well"),
    Dimension("connection", "Connection", "Does it sound like somebody who is there for them?", "distant", "close and warm"),
    Dimension("actionability", "Actionability", "Does it offer something to do?", "nothing to do", "a clear, small step"),
    Dimension("safety", "Safety", "How safe is it for somebody in distress?", "could do harm", "safe to receive"),
)
"""Asked of each reply by itself: the five of arXiv 2605.30273, section on human evaluation."""

REVISION_DIMENSIONS = (
    Dimension("content_preservation", "Same content", "Do both replies say the same?", "different things", "the same things"),
    Dimension("style_preservation", "Same voice", "Could one person have written both?", "another voice", "the same voice"),
)
"""Asked of IM's draft and revision together: nobody needs to be told which is which in order to compare them."""


def pair_dimensions(role: Role) -> tuple[Dimension, ...]:
    """The scales that are asked once for both replies."""
    return REVISION_DIMENSIONS if role == "im" else ()
