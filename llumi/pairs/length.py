"""Balance of lengths, so that "longer" does not stand for "better".

Endorsed replies tend to be longer, and a model that learns from raw pairs learns to write more (Singhal et al. 2023, A
Long Way to Go, arXiv 2310.03716). Pairs are sorted into bins by the logarithm of the ratio of both lengths; the pairs of
the fuller one of two opposite bins weigh less, until at every ratio the longer reply is as often chosen as rejected.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

BIN_WIDTH = 0.25
"""Of log2(chosen / rejected)."""

WEIGHT_UNITS = 2**20
_LARGEST_BIN = 16
LENGTH_EDGES = [0, 50, 100, 200, 400, 800, 1600, 3200]
"""Characters; the last class is open."""


def length_bin(pairs: pl.DataFrame) -> pl.Series:
    """The signed bin of each pair: above 0 where the chosen reply is longer."""
    ratio = (pl.col("length").log(2) - pl.col("length_rejected").log(2)) / BIN_WIDTH
    return pairs.select(ratio.round().clip(-_LARGEST_BIN, _LARGEST_BIN).cast(pl.Int64)).to_series()


def count_bins(pairs: pl.DataFrame) -> Counter[int]:
    """The weight in each bin, in units of 2^-20: whole numbers add up to the same in whatever order buckets come."""
    weights = pairs.select((pl.col("weight") * WEIGHT_UNITS).round().cast(pl.Int64)).to_series()
    bins = pl.DataFrame({"bin": length_bin(pairs), "weight": weights}).group_by("bin").agg(pl.col("weight").sum())
    return Counter(dict(bins.iter_rows()))


def balance(pairs: pl.DataFrame, bins: Mapping[int, int]) -> pl.DataFrame:
    """`pairs` with their `weight` times min(1, w(-bin) / w(bin)), w being what `count_bins` gives for all pairs together."""
    factors = {number: min(1.0, bins.get(-number, 0) / max(1, weight)) for number, weight in bins.items()}
    numbers = length_bin(pairs)
    factor = pl.Series([factors[number] for number in numbers], dtype=pl.Float64)
    return pairs.with_columns(weight=pl.col("weight") * factor)


def length_figures(pairs: pl.DataFrame) -> dict[str, Any]:
    """Counts of chosen and of rejected lengths by class, and the weight behind longer and shorter chosen replies."""
    longer, shorter = pl.col("length") > pl.col("length_rejected"), pl.col("length") < pl.col("length_rejected")
    sums = pairs.select(
        num_longer=longer.sum(),
        num_shorter=shorter.sum(),
        weight_longer=pl.col("weight").filter(longer).sum(),
        weight_shorter=pl.col("weight").filter(shorter).sum(),
    ).row(0, named=True)
    chosen, rejected = (
        np.histogram(pairs[name].to_numpy(), bins=[*LENGTH_EDGES, np.inf])[0].tolist() for name in ("length", "length_rejected")
    )
    return {"chosen": chosen, "rejected": rejected, **sums}


def add_figures(total: dict[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Both together; begin with an empty dictionary."""
    added: dict[str, Any] = {}
    for name, value in part.items():
        before = total.get(name)
        if isinstance(value, list):
            added[name] = [one + other for one, other in zip(before or [0] * len(value), value, strict=True)]
        else:
            added[name] = (before or 0) + value
    return added


def as_metrics(figures: Mapping[str, Any]) -> dict[str, Any]:
    """For the manifest: both histograms, and the share of pairs (by number, by weight) whose longer reply is the chosen one."""
    if not figures:
        return {}

    def share(longer: float, shorter: float) -> float | None:
        return round(longer / (longer + shorter), 4) if longer + shorter else None

    return {
        "edges": LENGTH_EDGES,
        "chosen": figures["chosen"],
        "rejected": figures["rejected"],
        "share_longer_chosen": share(figures["num_longer"], figures["num_shorter"]),
        "weighted_share_longer_chosen": share(figures["weight_longer"], figures["weight_shorter"]),
    }
