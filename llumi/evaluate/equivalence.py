"""Whether an arm is as good as equal to the reference: two one-sided tests against a margin that was declared beforehand.

A difference that is not significant may only be too few posts; equality within a margin has to be shown by a test of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llumi.config import EvaluateConfig
from llumi.errors import ConfigError
from llumi.evaluate.measures import MEASURES
from llumi.evaluate.statistics import FloatArray, paired_posts, spreads


@dataclass(frozen=True, slots=True)
class WithinMargin:
    """The p of an arm's equality with the reference within -margin and +margin; both NaN where no margin was declared.

    NaN as p also for the reference itself, and wherever `tost_p_values` has none.
    """

    margin: float
    p_equivalence: float


def check_margins(config: EvaluateConfig) -> None:
    """Raise ConfigError where `evaluate.equivalence` names a measure that is none."""
    known = [measure.column for measure in MEASURES]
    for name in config.equivalence:
        if name not in known:
            raise ConfigError(f"evaluate.equivalence.{name}: no such measure; there are {', '.join(known)}")


def compare_within_margin(values: Mapping[str, FloatArray], reference: str, margin: float | None) -> list[WithinMargin]:
    """Each arm of `values` beside the arm `reference`, in the order of `values`; aligned and paired as in `compare_arms`."""
    if margin is None:
        return [WithinMargin(np.nan, np.nan) for _ in values]
    differences = np.column_stack([values[arm] - values[reference] for arm in values])[paired_posts(values)]
    return [WithinMargin(margin, float(p)) for p in tost_p_values(differences, margin)]


def tost_p_values(differences: FloatArray, margin: float) -> FloatArray:
    """The p-value of the claim that each mean difference lies within -margin and +margin, shape (arms,).

    The larger p of two one-sided paired t tests, t = (mean +- margin) / (sd / sqrt(n)) with n - 1 degrees of freedom
    (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15(6); Lakens 2017, Social Psychological and
    Personality Science 8(4)). `differences` has shape (posts, arms). NaN below two posts, or where an arm's differences
    are all the same.
    """
    from scipy.special import stdtr

    num_posts, num_arms = differences.shape
    if num_posts < 2:
        return np.full(num_arms, np.nan)
    means = differences.mean(axis=0)
    errors = spreads(differences) / np.sqrt(num_posts)
    below = stdtr(num_posts - 1, -(means + margin) / errors)
    above = stdtr(num_posts - 1, (means - margin) / errors)
    return np.asarray(np.maximum(below, above))
