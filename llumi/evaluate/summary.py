"""From one figure per reply to one row per arm and measure, with its difference to the human reference."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from llumi.config import EvaluateConfig
from llumi.evaluate.arms import Section
from llumi.evaluate.equivalence import compare_within_margin
from llumi.evaluate.like_length import compare_at_like_length
from llumi.evaluate.measures import Measure, measures_of
from llumi.evaluate.statistics import FloatArray, compare_arms, holm

SUMMARY_SCHEMA = {
    "role": pl.String,
    "measure": pl.String,
    "fidelity": pl.String,
    "arm": pl.String,
    "reference": pl.String,
    "n": pl.Int64,
    "mean": pl.Float64,
    "sd": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "effect_size": pl.Float64,
    "p_value": pl.Float64,
    "p_holm": pl.Float64,
    "matched_n": pl.Int64,
    "matched_difference": pl.Float64,
    "matched_low": pl.Float64,
    "matched_high": pl.Float64,
    "margin": pl.Float64,
    "p_equivalence": pl.Float64,
    "p_equivalence_holm": pl.Float64,
}
"""`summary.parquet` and `summary.csv`: null where a figure is not defined (the reference itself, too few posts, no margin)."""


def values_by_arm(measures: pl.DataFrame, section: Section, measure: Measure) -> dict[str, FloatArray]:
    """One array per arm, aligned by post, NaN where it has no value; an arm that answers a post twice gives its mean."""
    return _column_by_arm(measures, section, measure.arms(section.role, section.model_arms), measure.column)


def summarise(measures: pl.DataFrame, sections: Sequence[Section], config: EvaluateConfig) -> pl.DataFrame:
    """Rows of `SUMMARY_SCHEMA`, by role, measure and arm.

    Both kinds of p are corrected over all the comparisons of a role (Holm): those that ask for a difference, and those that
    ask for equality within a declared margin.
    """
    rows: list[dict[str, Any]] = []
    for section in sections:
        of_role = [
            row
            for measure in measures_of(section.role, measures.columns)
            for row in _compare(measures, section, measure, config)
        ]
        for p_value, corrected in (("p_value", "p_holm"), ("p_equivalence", "p_equivalence_holm")):
            for row, p in zip(of_role, holm(np.array([row[p_value] for row in of_role])), strict=True):
                row[corrected] = float(p)
        rows += of_role
    return pl.DataFrame(rows, schema=SUMMARY_SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def _compare(measures: pl.DataFrame, section: Section, measure: Measure, config: EvaluateConfig) -> list[dict[str, Any]]:
    values = values_by_arm(measures, section, measure)
    reference = next(iter(values))
    comparisons = compare_arms(
        values, reference, num_bootstrap=config.num_bootstrap, confidence=config.confidence, seed=config.seed
    )
    matched = compare_at_like_length(
        values,
        _column_by_arm(measures, section, list(values), "words"),
        reference,
        ratio=config.length_ratio,
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )
    equivalence = compare_within_margin(values, reference, config.equivalence.get(measure.column))
    shared = {"role": section.role, "measure": measure.column, "fidelity": measure.fidelity, "reference": reference}
    return [
        shared | asdict(comparison) | asdict(at_like_length) | asdict(within_margin)
        for comparison, at_like_length, within_margin in zip(comparisons, matched, equivalence, strict=True)
    ]


def _column_by_arm(measures: pl.DataFrame, section: Section, arms: list[str], column: str) -> dict[str, FloatArray]:
    wide = (
        measures.filter((pl.col("role") == section.role) & pl.col("arm").is_in(arms))
        .pivot("arm", index="post_id", values=column, aggregate_function="mean")
        .sort("post_id")
    )
    return {arm: wide[arm].cast(pl.Float64).fill_null(np.nan).to_numpy() for arm in arms}


def metrics_of(summary: pl.DataFrame) -> dict[str, Any]:
    """The summary in short, for the manifest: role -> arm -> measure -> mean, difference and its interval."""
    metrics: dict[str, Any] = {}
    for row in summary.iter_rows(named=True):
        arm = metrics.setdefault(row["role"], {}).setdefault(row["arm"], {})
        arm[row["measure"]] = {key: _short(row[key]) for key in ("mean", "difference", "low", "high") if row[key] is not None}
    return metrics


def _short(value: float) -> float:
    return float(f"{value:.6g}")
