"""Replies per second of the measures that need no model, beside the loop that one would write around libraries.

    python benchmarks/measures.py [--replies 100000] [--by-hand 5000] [--workers 2] [--json]

Ours: `measure_texts` over blocks of `BLOCK_ROWS`, in one process by the time of its processor, and in as many as there are
workers by the clock on the wall (the pool stands before it starts, as Ray's actors do). By hand: one reply after the
other, each measure by itself: textstat for words, sentences, Coleman-Liau and the mean length of a sentence, the ratio of
types, the mean over explicit windows, one pass over the words for each class of function words, one search for each marker
of politeness, and VADER for each sentence. It runs over the first replies alone, in one process. All in one run, on the
same texts.
"""

import argparse
import json
import math
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import textstat
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from llumi.evaluate.counts import MATTR_WINDOW
from llumi.evaluate.language import measure_texts
from llumi.evaluate.politeness import markers
from llumi.evaluate.run import BLOCK_ROWS
from llumi.evaluate.style import CLASSES, function_words

OPENINGS = ["Thank you for writing this,", "What you say makes sense here,", "You are not alone,", "As someone older told me,"]
MIDDLES = [
    "many of us have sat awake with the same thoughts",
    "the first {number} weeks in a new town were long for me too",
    "a short walk with my {animal} made the evenings lighter",
    "it doesn't have to be done tonight",
    "the people in the {colour} house said that small steps count",
    "nobody should carry that without some company",
]
CLOSINGS = [
    "and I'm glad that you told us.",
    "so take the time that it takes.",
    "could you call someone today?",
    "it will change!",
]
ANIMALS = ["dog", "cat", "rabbit", "neighbour", "sister", "old teacher"]
COLOURS = ["red", "blue", "green", "yellow", "quiet", "little"]

Row = tuple[str, str]


def made_up_rows(num: int) -> list[Row]:
    """Replies of 3 to 9 sentences, each with the post that it answers; four replies share a post, as the arms do."""
    generator = random.Random(17)

    def text(low: int, high: int) -> str:
        return " ".join(sentence(generator) for _ in range(generator.randint(low, high)))

    posts = [text(3, 12) for _ in range(num // 4 + 1)]
    return [(text(3, 9), posts[row // 4]) for row in range(num)]


def sentence(generator: random.Random) -> str:
    """One of some thousand gentle sentences."""
    middle = generator.choice(MIDDLES).format(
        number=generator.randint(2, 90), animal=generator.choice(ANIMALS), colour=generator.choice(COLOURS)
    )
    return f"{generator.choice(OPENINGS)} {middle}, {generator.choice(CLOSINGS)}"


def measure_block(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Ours, for one block."""
    columns = measure_texts([reply for reply, _ in rows], [post for _, post in rows])
    return {name: column for name, column in columns.items() if name not in {"style", "post_style"}}


class ByHand:
    """The loop around libraries."""

    def __init__(self) -> None:
        self._vader = SentimentIntensityAnalyzer()
        self._classes = {
            name: {word for word, places in function_words().items() if place in places} for place, name in enumerate(CLASSES)
        }
        self._markers = [
            (
                marker,
                re.compile((r"(?:^|\s)" if marker.at_start else r"(?<=\S)\s") + re.escape(" ".join(marker.phrase)) + r"(?!\S)"),
            )
            for of_word in markers().values()
            for marker in of_word
        ]

    def measure(self, row: Row) -> dict[str, float]:
        """Every measure of one reply."""
        reply, post = row
        words = re.findall(r"[^\W_]+(?:['’\-][^\W_]+)*", reply.lower())
        sentences = re.split(r"(?<=[.!?])\s+", reply)
        windows = [words[start : start + MATTR_WINDOW] for start in range(max(1, len(words) - MATTR_WINDOW + 1))]
        ours, theirs = self._shares(reply), self._shares(post)
        matches = [1 - abs(ours[name] - theirs[name]) / (ours[name] + theirs[name] + 0.0001) for name in CLASSES]
        plus, minus = ("article", "preposition"), set(CLASSES) - {"article", "preposition", "quantifier"}
        return {
            "words": textstat.lexicon_count(reply),
            "sentences": textstat.sentence_count(reply),
            "coleman_liau": textstat.coleman_liau_index(reply),
            "complexity": textstat.words_per_sentence(reply),
            "repeatability": 1 - len(set(words)) / len(words),
            "mattr": statistics.fmean(len(set(window)) / len(window) for window in windows),
            "categorical_dynamic": 30 + sum(ours[name] for name in plus) - sum(ours[name] for name in minus),
            "style_matching": statistics.fmean(matches),
            "politeness": statistics.fmean(self._politeness(one) for one in sentences),
            "sentiment": statistics.fmean(self._vader.polarity_scores(one)["compound"] for one in sentences),
        }

    def neutral_share(self, rows: Sequence[Row]) -> float:
        """The share of sentences in which VADER finds nothing: ours spends little time on them."""
        found = [self._vader.polarity_scores(one)["compound"] for reply, _ in rows for one in re.split(r"(?<=[.!?])\s+", reply)]
        return found.count(0) / len(found)

    def _shares(self, text: str) -> dict[str, float]:
        words = re.findall(r"[^\W_]+(?:['’\-][^\W_]+)*", text.lower())
        return {name: 100 * sum(word in listed for word in words) / len(words) for name, listed in self._classes.items()}

    def _politeness(self, one: str) -> int:
        plain = re.sub(r"[^\w'\- ]", "", one.lower())
        used = {
            marker.strategy: marker.sign
            for marker, pattern in self._markers
            if (pattern.search(plain) if marker.later else pattern.match(plain))
        }
        return sum(used.values())


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long a processor works for it, which other processes on a shared machine hardly change; and what it gives."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def run(num_replies: int, num_by_hand: int, num_workers: int) -> dict[str, float]:
    """All figures of one run."""
    rows = made_up_rows(num_replies)
    blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
    by_hand, few = ByHand(), rows[:num_by_hand]
    by_hand.measure(few[0])
    measure_block(few[:1])
    hand_seconds, hand = cpu_seconds(lambda: [by_hand.measure(row) for row in few])
    our_seconds, ours = cpu_seconds(lambda: measure_block(few))
    check_same_work(ours, hand)
    with ProcessPoolExecutor(num_workers) as pool:
        list(pool.map(measure_block, [block[:1] for block in blocks[: 4 * num_workers]]))
        start = time.perf_counter()
        list(pool.map(measure_block, blocks))
        pool_seconds = time.perf_counter() - start
    return {
        "replies": num_replies,
        "workers": num_workers,
        "words_in_a_reply": statistics.fmean(ours["words"]),
        "sentences_without_valence": by_hand.neutral_share(few),
        "by_hand_replies_per_cpu_second": num_by_hand / hand_seconds,
        "our_replies_per_cpu_second": num_by_hand / our_seconds,
        "workers_replies_per_second": num_replies / pool_seconds,
        "ours_over_by_hand": hand_seconds / our_seconds,
    }


def check_same_work(ours: dict[str, list[float]], hand: list[dict[str, float]]) -> None:
    """Both sides give the same figures, up to the last digits; textstat computes Coleman-Liau with 0.058 in place of 0.0588."""
    for name in ours.keys() - {"coleman_liau"}:
        for figure, row in zip(ours[name], hand, strict=True):
            assert math.isclose(figure, row[name], abs_tol=1e-5), f"{name}: {figure} and by hand {row[name]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=100_000)
    parser.add_argument("--by-hand", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    figures = {name: round(figure, 2) for name, figure in run(options.replies, options.by_hand, options.workers).items()}
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name.replace('_', ' '):45} {figure:>12,.2f}")


if __name__ == "__main__":
    main()
