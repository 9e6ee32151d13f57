"""What is measured in a reply, beside its post, without a model: one row of figures for each reply."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llumi.evaluate.counts import coleman_liau, complexity, mattr, repeatability
from llumi.evaluate.politeness import politeness
from llumi.evaluate.sentiment import sentiment
from llumi.evaluate.style import Profile, categorical_dynamic, profile, style_matching
from llumi.evaluate.words import Text, read_text


@dataclass(frozen=True, slots=True)
class Language:
    """The counted measures of one reply; NaN where a text has no words and a measure therefore no value."""

    words: int
    sentences: int
    coleman_liau: float
    complexity: float
    repeatability: float
    mattr: float
    categorical_dynamic: float
    style_matching: float
    politeness: float
    sentiment: float


def measure_texts(replies: Sequence[str], posts: Sequence[str]) -> dict[str, Any]:
    """Columns of `Language`, and the profiles `style` and `post_style`; a row for each reply and the post of its row.

    A text that comes several times, as a post does that several arms answer, is taken apart once.
    """
    texts = {text: read_text(text) for text in dict.fromkeys([*replies, *posts])}
    profiles = {text: profile(parts.types) for text, parts in texts.items()}
    style, post_style = ([profiles[text] for text in side] for side in (replies, posts))
    rows = [
        measure_language(texts[reply], of_reply, of_post)
        for reply, of_reply, of_post in zip(replies, style, post_style, strict=True)
    ]
    columns = {name: [getattr(row, name) for row in rows] for name in Language.__slots__}
    return columns | {"style": np.array(style), "post_style": np.array(post_style)}


def measure_language(reply: Text, style: Profile, post_style: Profile) -> Language:
    """All counted measures of a reply of this style. Without a word: 0 words, 0 sentences, and NaN for the rest."""
    num_sentences = len(reply.sentences)
    return Language(
        words=len(reply.words),
        sentences=num_sentences,
        coleman_liau=coleman_liau(reply.words, num_sentences),
        complexity=complexity(len(reply.words), num_sentences),
        repeatability=repeatability(reply.types),
        mattr=mattr(reply.types),
        categorical_dynamic=categorical_dynamic(style),
        style_matching=style_matching(style, post_style),
        politeness=politeness(reply.sentences),
        sentiment=sentiment(reply.sentences),
    )
