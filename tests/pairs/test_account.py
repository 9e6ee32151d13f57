import itertools
from collections import Counter

import polars as pl
import pytest

from llumi.config import PairsConfig
from llumi.pairs.account import PairAccount, account_for
from llumi.pairs.endorse import mark_eligible, min_gap, select_pairs
from tests.pairs.threads import NO_THRESHOLDS, margin, paper, random_replies, replies, thresholds_of


def one_by_one(frame: pl.DataFrame, config: PairsConfig, thresholds: pl.DataFrame) -> tuple[int, Counter[str]]:
    """The candidates and what becomes of each before the cap, pair by pair."""
    num, reasons = 0, Counter[str]()
    marked = mark_eligible(frame.drop_nulls("score"), config, thresholds).to_dicts()
    for one, two in itertools.combinations(marked, 2):
        if one["post_id"] != two["post_id"] or one["score"] == two["score"]:
            continue
        high, low = (one, two) if one["score"] > two["score"] else (two, one)
        num += 1
        reasons[reason_of(high, low, config)] += 1
    return num, reasons


def reason_of(high: dict, low: dict, config: PairsConfig) -> str:
    if high["post_reason"]:
        return f"post_{high['post_reason']}"
    if high["reason"]:
        return f"chosen_{high['reason']}"
    if low["reason"]:
        return f"rejected_{low['reason']}"
    if not high["may_choose"]:
        return "not_in_top"
    if not low["may_reject"]:
        return "not_in_bottom"
    return "gap_too_small" if high["score"] - low["score"] < min_gap(config) else "eligible"


@pytest.mark.parametrize("config", [margin(1), margin(4, 1), paper(0.2, 0.4, 3)], ids=["margin", "one", "paper"])
@pytest.mark.parametrize("seed", range(5))
def test_the_account_agrees_with_counting_one_by_one(config: PairsConfig, seed: int) -> None:
    frame = random_replies(seed)
    thresholds = thresholds_of(frame, config)
    kept = frame.filter(pl.col("reason").is_null(), pl.col("post_reason").is_null())
    num_kept = select_pairs(mark_eligible(kept, config, thresholds), config).height
    account = account_for(frame, num_kept, config, thresholds).as_counts()
    num, reasons = one_by_one(frame, config, thresholds)
    over_cap = reasons.pop("eligible", 0) - num_kept
    expected = dict(reasons) | ({"over_cap_per_post": over_cap} if over_cap else {})
    assert account["candidates"] == num > 100
    assert account["dropped"] == expected
    assert account["kept"] + sum(account["dropped"].values()) == num


def test_a_post_with_fifty_thousand_replies_is_counted_at_once() -> None:
    frame = replies({"p": [number % 1000 for number in range(50_000)]})
    account = account_for(frame, 4, margin(2), NO_THRESHOLDS)
    same_score = 1000 * (50 * 49 // 2)
    assert account.candidates == 50_000 * 49_999 // 2 - same_score
    assert account.dropped["gap_too_small"] == 999 * 50 * 50


def test_no_replies_no_candidates() -> None:
    assert account_for(replies({"p": [1]})[:0], 0, margin(2), NO_THRESHOLDS).as_counts() == {
        "candidates": 0,
        "kept": 0,
        "dropped": {},
    }


def test_accounts_of_parts_add_up() -> None:
    account = PairAccount()
    account.add(PairAccount(5, 2, Counter(gap_too_small=3)))
    account.add(PairAccount(4, 1, Counter(gap_too_small=1, chosen_bot=2)))
    assert account.as_counts() == {"candidates": 9, "kept": 3, "dropped": {"gap_too_small": 4, "chosen_bot": 2}}
