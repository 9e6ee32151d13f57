"""Replies as the frames that `llumi.pairs` works on."""

import random

import polars as pl

from llumi.config import MarginConfig, PairsConfig, PaperConfig
from llumi.pairs.endorse import THRESHOLDS_SCHEMA, score_histogram, score_thresholds

NO_THRESHOLDS = pl.DataFrame(schema=THRESHOLDS_SCHEMA)
REASONS = (None, None, None, "removed_text", "bot")


def margin(min_gap: int, max_pairs_per_post: int = 4) -> PairsConfig:
    return PairsConfig(preset="margin", margin=MarginConfig(min_gap=min_gap), max_pairs_per_post=max_pairs_per_post)


def paper(top: float, bottom: float, min_gap: int, max_pairs_per_post: int = 4) -> PairsConfig:
    rules = PaperConfig(chosen_top=top, rejected_bottom=bottom, min_gap=min_gap)
    return PairsConfig(preset="paper", paper=rules, max_pairs_per_post=max_pairs_per_post)


def replies(threads: dict[str, list[int]], community: str = "porch") -> pl.DataFrame:
    """Kept replies with these scores; ids are unique and in the order given."""
    rows = [
        {"post_id": post, "id": f"{post}-{number:03}", "community": community, "score": score, "body": f"{post} {number}"}
        for post, scores in threads.items()
        for number, score in enumerate(scores)
    ]
    clean = pl.lit(None, pl.String)
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(reason=clean, post_reason=clean)


def random_replies(seed: int, num_posts: int = 40) -> pl.DataFrame:
    """Kept and dropped replies to kept, dropped and absent posts of two communities, some without a score."""
    chance = random.Random(seed)
    rows = []
    for post in range(num_posts):
        post_reason, community = chance.choice((None, None, "absent", "removed_text")), chance.choice("ab")
        for number in range(chance.randrange(12)):
            reason = chance.choice(REASONS)
            score = None if reason and chance.random() < 0.3 else chance.randint(-4, 12)
            key = {"post_id": f"p{post}", "id": f"p{post}-{chance.random()}", "community": community}
            rows.append(key | {"score": score, "body": f"b{number}", "reason": reason, "post_reason": post_reason})
    return pl.DataFrame(rows, infer_schema_length=None)


def thresholds_of(frame: pl.DataFrame, config: PairsConfig) -> pl.DataFrame:
    if config.preset == "margin":
        return NO_THRESHOLDS
    kept = frame.filter(pl.col("reason").is_null(), pl.col("post_reason").is_null())
    return score_thresholds(score_histogram(kept), config)
