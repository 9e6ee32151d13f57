"""The same differences where both replies are of like length, beside those over all posts.

Many measures move with length by themselves, and raters are drawn by it too; a model that writes longer differs in all of
them. Posts are kept where the two replies have about as many words: matching within a caliper (Cochran and Rubin 1973,
Sankhya A 35(4); Stuart 2010, Statistical Science 25(1)), here a ratio. It supposes no form of the relation to length, and
where the lengths hardly meet, few posts remain and say so, where a regression would extrapolate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llumi.evaluate.statistics import FloatArray, bootstrap_intervals, paired_posts


@dataclass(frozen=True, slots=True)
class LikeLength:
    """An arm's mean difference to the reference over the `matched_n` paired posts where the two are of like length.

    `matched_low` and `matched_high` bound its percentile interval; NaN below two posts, the difference too without any.
    All four are empty for the reference itself.
    """

    matched_n: int | None
    matched_difference: float
    matched_low: float
    matched_high: float


def compare_at_like_length(
    values: Mapping[str, FloatArray],
    words: Mapping[str, FloatArray],
    reference: str,
    *,
    ratio: float,
    num_bootstrap: int,
    confidence: float,
    seed: int,
) -> list[LikeLength]:
    """Each arm of `values` beside the arm `reference`, in the order of `values`.

    `words` holds the lengths of the same replies, aligned like `values`. Of the posts with a value in every arm, an arm keeps
    those whose longer reply has at most `ratio` times the words of the shorter. A reply without a word is like no other.
    """
    paired = paired_posts(values)
    compared = []
    for arm in values:
        if arm == reference:
            compared.append(LikeLength(None, np.nan, np.nan, np.nan))
            continue
        shorter, longer = np.minimum(words[arm], words[reference]), np.maximum(words[arm], words[reference])
        kept = paired & (shorter > 0) & (longer <= ratio * shorter)
        differences = (values[arm] - values[reference])[kept]
        low, high = bootstrap_intervals(differences[:, None], num_bootstrap, confidence, seed)[0]
        mean = differences.mean() if len(differences) else np.nan
        compared.append(LikeLength(len(differences), float(mean), float(low), float(high)))
    return compared
