"""Replies as the frames that `llumi.pairs` works on, and gentle texts that have no three words in a row in common."""

import random
from collections.abc import Iterator
from typing import Any

import polars as pl

from llumi.config import MarginConfig, PairsConfig, PaperConfig, ShpConfig
from llumi.pairs.endorse import THRESHOLDS_SCHEMA, mark_eligible, score_histogram, score_thresholds

NO_THRESHOLDS = pl.DataFrame(schema=THRESHOLDS_SCHEMA)
REASONS = (None, None, None, None, "removed_text", "early_month")
START = 1_672_531_200
SCHEMA = {
    "post_id": pl.String,
    "id": pl.UInt64,
    "community": pl.String,
    "score": pl.Int64,
    "created_utc": pl.Int64,
    "post_created_utc": pl.Int64,
    "length": pl.Int64,
    "reason": pl.String,
    "post_reason": pl.String,
    "veto": pl.String,
}
_GENTLE = (
    "garden river window morning kettle lantern meadow blanket letter corner orchard pebble harbour ribbon basket candle "
    "feather market puddle saddle thimble walnut willow button cottage daisy engine fiddle glove hammock island jacket "
    "ladder mitten needle oven parcel quilt radish spoon teapot umbrella violin wagon yarn bicycle cupboard doorway"
)
WORDS = _GENTLE.split()


def margin(min_gap: int, max_pairs_per_post: int = 4, **changes: Any) -> PairsConfig:
    return PairsConfig(preset="margin", margin=MarginConfig(min_gap=min_gap), max_pairs_per_post=max_pairs_per_post, **changes)


def paper(top: float, bottom: float, min_gap: int, max_pairs_per_post: int = 4, **changes: Any) -> PairsConfig:
    rules = PaperConfig(chosen_top=top, rejected_bottom=bottom, min_gap=min_gap)
    return PairsConfig(preset="paper", paper=rules, max_pairs_per_post=max_pairs_per_post, **changes)


def shp(min_score: int = 2, min_ratio: float = 2, max_pairs_per_post: int = 5, **changes: Any) -> PairsConfig:
    rules = ShpConfig(min_score=min_score, min_ratio=min_ratio)
    return PairsConfig(preset="shp", shp=rules, max_pairs_per_post=max_pairs_per_post, **changes)


def replies(threads: dict[str, list[int]], community: str = "porch", **columns: list[Any]) -> pl.DataFrame:
    """Kept replies with these scores, one second and one character apart; `columns` of the same order replace others."""
    rows = [
        {"post_id": post, "community": community, "score": score, "post_created_utc": START}
        | {"created_utc": START + 1 + number, "length": 100 + number}
        for post, scores in threads.items()
        for number, score in enumerate(scores)
    ]
    return _frame(rows).with_columns(**{name: pl.Series(values, dtype=SCHEMA[name]) for name, values in columns.items()})


def random_replies(seed: int, num_posts: int = 40) -> pl.DataFrame:
    """Kept, dropped and vetoed replies to kept, dropped and absent posts of two communities, some without score or time."""
    chance = random.Random(seed)
    rows = []
    for post in range(num_posts):
        post_reason = chance.choice((None, None, None, "absent", "removed_text"))
        is_there = post_reason != "absent"
        for _ in range(chance.randrange(14)):
            reason = chance.choice(REASONS)
            row = {"post_id": f"p{post}", "community": "ab"[post % 2] if is_there else None, "post_reason": post_reason}
            row |= {"score": None if reason and chance.random() < 0.3 else chance.randint(-4, 12), "reason": reason}
            row |= {"created_utc": chance.choice((0, *(START + chance.randrange(1, 50) for _ in range(6))))}
            row |= {"post_created_utc": START if is_there else None, "length": chance.randint(1, 40)}
            rows.append(row | {"veto": chance.choice((None, None, None, "minimising"))})
    return _frame(rows)


def in_use(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("reason").is_null(), pl.col("post_reason").is_null())


def thresholds_of(frame: pl.DataFrame, config: PairsConfig) -> pl.DataFrame:
    return score_thresholds(score_histogram(in_use(frame)), config) if config.preset == "paper" else NO_THRESHOLDS


def marked(frame: pl.DataFrame, config: PairsConfig) -> pl.DataFrame:
    return mark_eligible(frame, config, thresholds_of(frame, config))


def texts(seed: int, num_words: int = 14) -> Iterator[str]:
    chance = random.Random(seed)
    while True:
        yield " ".join(chance.choice(WORDS) for _ in range(num_words)).capitalize() + "."


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    ids = random.Random(len(rows))
    blank = {"reason": None, "post_reason": None, "veto": None}
    return pl.DataFrame([{"id": ids.getrandbits(64)} | blank | row for row in rows], schema=SCHEMA)
