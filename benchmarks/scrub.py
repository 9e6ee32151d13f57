"""Megabytes per second of scrubbing and of the rules for replies, beside the loop that one would write by hand.

    python benchmarks/scrub.py [--replies 4000] [--json]

By hand: the same regular expressions over one text after the other. Ours: `Scrubber.scrub_column` and
`SafetyRules.vetoes`. Made-up replies of about 350 bytes, one in a hundred with a phone number and one in a hundred that
a rule refuses; the same texts and results on both sides, medians of three. The scrubber's recall on its held-out texts
is printed too.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from llumi.contacts import AllowList
from llumi.corpus.sample import CLOSINGS, THEMES, WELCOMES
from llumi.corpus.scrub import Scrubber, recall
from llumi.safety import Resources, SafetyRules


def made_up_replies(num_replies: int) -> pl.Series:
    """Sentences of the sample corpus, and the two kinds of text that there is work on."""
    chooser = random.Random(17)

    def reply(number: int) -> str:
        theme = chooser.choice(THEMES)
        parts = [WELCOMES, theme.understood, theme.steps, theme.understood, CLOSINGS]
        extra = {0: " Call me on 202-555-0143.", 50: " Other people have it worse."}.get(number % 100, "")
        return " ".join(chooser.choice(part) for part in parts) + extra

    return pl.Series([reply(number) for number in range(num_replies)])


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """The median of three runs of `work`, and what it gives."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def run(num_replies: int) -> dict[str, float]:
    """All figures of one run."""
    texts = made_up_replies(num_replies)
    megabytes = texts.str.len_bytes().sum() / 1e6
    resources, rules = Resources.load(), SafetyRules.load()
    scrubber = Scrubber(AllowList.of(resources.numbers, resources.domains))
    scrub_hand, by_hand = seconds(lambda: [scrubber.scrub(text)[0] for text in texts])
    scrub_ours, ours = seconds(lambda: scrubber.scrub_column(texts)[0])
    assert ours.to_list() == by_hand
    veto_hand, by_hand = seconds(lambda: [next(iter(rules.violations(text)), None) for text in texts])
    veto_ours, ours = seconds(lambda: rules.vetoes(texts))
    assert ours.to_list() == by_hand
    detections = recall(scrubber)
    return {
        "megabytes": megabytes,
        "scrub_by_hand_mb_per_second": megabytes / scrub_hand,
        "scrub_column_mb_per_second": megabytes / scrub_ours,
        "scrub_column_over_by_hand": scrub_hand / scrub_ours,
        "vetoes_by_hand_mb_per_second": megabytes / veto_hand,
        "vetoes_mb_per_second": megabytes / veto_ours,
        "vetoes_over_by_hand": veto_hand / veto_ours,
        **{f"recall_{kind}": detection.recall for kind, detection in detections.items()},
        **{f"precision_{kind}": detection.precision for kind, detection in detections.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    figures = {name: round(figure, 3) for name, figure in run(options.replies).items()}
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name.replace('_', ' '):45} {figure:>12,.3f}")


if __name__ == "__main__":
    main()
