"""Made-up studies whose truth is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llumi.evaluate.ratings import DIMENSIONS, REVISION_DIMENSIONS, Choice, ScaleRating

DAVIDSON_1970 = """
1 2 19 22 16
1 3 16 19 12
2 3 19 19 10
1 4 18 23 13
2 4 23 19 9
3 4 19 20 15
1 5 13 19 18
2 5 16 20 12
3 5 16 15 17
4 5 17 14 16
1 6 18 21 12
2 6 22 20 12
3 6 13 18 10
4 6 14 19 18
5 6 11 21 12
"""
"""Davidson 1970, example 2: six brands of chocolate pudding, two at a time; for each pair wins of either, and ties."""


def davidson_choices() -> list[Choice]:
    """Every tasting as an item of its own."""
    choices = []
    for line in DAVIDSON_1970.split("\n")[1:-1]:
        left, right, *counts = line.split()
        verdicts = np.repeat(["left", "right", "tie"], [int(count) for count in counts])
        choices += [Choice("r", f"{left}-{right}-{n}", left, right, str(verdict)) for n, verdict in enumerate(verdicts)]
    return choices


def simulated_choices(
    generator: np.random.Generator,
    strengths: dict[str, float],
    *,
    num_items: int,
    raters_per_item: int,
    nu: float = 0.5,
    towards_left: float = 0.0,
    item_spread: float = 0.0,
) -> list[Choice]:
    """Raters who follow Davidson's model, each item with two arms on sides drawn by lot.

    `towards_left` is added to the left arm's log-strength; `item_spread` is the SD of a luck that an item gives the arm whose
    name comes first, whoever judges it.
    """
    choices = []
    for item in range(num_items):
        left, right = generator.choice(list(strengths), size=2, replace=False)
        luck = generator.normal(0, item_spread) * (1 if left < right else -1)
        lead = strengths[left] - strengths[right] + towards_left + luck
        weights = np.exp([lead / 2, -lead / 2, np.log(nu) if nu else -np.inf])
        for rater in range(raters_per_item):
            verdict = generator.choice(["left", "right", "tie"], p=weights / weights.sum())
            choices.append(Choice(f"r{rater}", f"i{item}", str(left), str(right), str(verdict)))
    return choices


def simulated_scores(
    generator: np.random.Generator, *, num_items: int, num_raters: int, noise: float, missing: float = 0.0
) -> list[ScaleRating]:
    """Scores for empathy of two arms: what a text deserves, and what each rater makes of it; some are missing."""
    ratings = []
    for item in range(num_items):
        for arm in ("human-reply", "gm-dpo2"):
            deserved = generator.normal(3, 1)
            for rater in range(num_raters):
                score = int(np.clip(np.round(deserved + generator.normal(0, noise)), 1, 5))
                if generator.random() >= missing:
                    ratings.append(ScaleRating(f"r{rater}", f"i{item:03}", arm, "empathy", score))
    return ratings


def write_study(folder: Path, arms: tuple[str, str], raters: int, items: int = 12) -> Path:
    """Every rater prefers the second arm, but to every fourth item, and scores it one higher."""
    scales: list[dict[str, Any]] = []
    choices: list[dict[str, Any]] = []
    for rater in range(raters):
        for item in range(items):
            named = {"rater": f"r{rater}", "item": f"{item:05}", "is_repeat": False}
            shown = arms if (rater + item) % 2 else arms[::-1]
            wins = arms[item % 4 > 0]
            choices.append(
                named | {"left_arm": shown[0], "right_arm": shown[1], "verdict": "left" if shown[0] == wins else "right"}
            )
            for place, arm in enumerate(arms):
                score = 2 + place + (item + rater // 2) % 2
                asked = DIMENSIONS + (REVISION_DIMENSIONS if arm.startswith("im-") else ())
                scales += [named | {"arm": arm, "dimension": dimension, "score": score} for dimension in asked]
    folder.mkdir()
    for name, rows in (("scales", scales), ("choices", choices)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder
