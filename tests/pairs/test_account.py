import itertools
from collections import Counter
from typing import Any

import polars as pl
import pytest

from llumi.config import PairsConfig
from llumi.pairs.account import Accounts, PairAccount, account_for, total
from llumi.pairs.endorse import mark_eligible, select_pairs
from tests.pairs.threads import in_use, margin, marked, paper, random_replies, replies, shp, thresholds_of

CONFIGS = {
    "margin": margin(1),
    "one": margin(4, 1),
    "wide": margin(30),
    "paper": paper(0.2, 0.4, 3),
    "shp": shp(),
    "shp-any": shp(3, 1.5, order="any"),
    "earlier-match": margin(2, order="earlier", length_balance="match"),
    "matched-match": paper(0.3, 0.5, 2, order="matched", length_balance="match"),
}


def accounts_of(frame: pl.DataFrame, config: PairsConfig) -> tuple[Accounts, pl.DataFrame]:
    thresholds = thresholds_of(frame, config)
    kept, dropped = select_pairs(mark_eligible(in_use(frame), config, thresholds), config)
    num_kept = kept.group_by("community").agg(num=pl.len().cast(pl.Int64))
    return account_for(frame, num_kept, dropped, config, thresholds), kept


def one_by_one(frame: pl.DataFrame, config: PairsConfig) -> dict[str, Counter[str]]:
    """What becomes of each candidate before the cap, pair by pair, by community."""
    reasons: dict[str, Counter[str]] = {}
    scored = mark_eligible(frame.drop_nulls("score"), config, thresholds_of(frame, config)).to_dicts()
    for one, two in itertools.combinations(scored, 2):
        if one["post_id"] != two["post_id"] or one["score"] == two["score"]:
            continue
        high, low = (one, two) if one["score"] > two["score"] else (two, one)
        reasons.setdefault(one["community"] or "", Counter())[reason_of(high, low, config)] += 1
    return reasons


def reason_of(high: dict[str, Any], low: dict[str, Any], config: PairsConfig) -> str:
    gap = high["score"] - low["score"]
    too_near = {
        "margin": gap < config.margin.min_gap,
        "paper": gap < config.paper.min_gap,
        "shp": high["score"] < config.shp.min_ratio * low["score"],
    }
    demands = [
        (high["post_reason"], f"post_{high['post_reason']}"),
        (high["reason"], f"chosen_{high['reason']}"),
        (low["reason"], f"rejected_{low['reason']}"),
        (not high["may_choose"], "not_in_top"),
        (high["veto"], "chosen_vetoed"),
        (not low["may_reject"], "not_in_bottom"),
        (too_near[config.preset], "ratio_too_small" if config.preset == "shp" else "gap_too_small"),
        *pair_demands(high, low, config),
    ]
    return next((reason for is_against, reason in demands if is_against), "eligible")


def pair_demands(high: dict[str, Any], low: dict[str, Any], config: PairsConfig) -> list[tuple[bool, str]]:
    order = config.order or ("later" if config.preset == "shp" else "any")
    times = (high["created_utc"], low["created_utc"])
    is_unknown = 0 in times
    ages = sorted(max(1, time - (high["post_created_utc"] or 0)) for time in times)
    shorter, longer = sorted((high["length"], low["length"]))
    against = {
        "any": False,
        "later": is_unknown or times[0] <= times[1],
        "earlier": is_unknown or times[0] >= times[1],
        "matched": is_unknown or ages[1] > ages[0] * config.matched_ratio,
    }
    unmatched = config.length_balance == "match" and longer > shorter * config.length_ratio
    return [(against[order], f"not_{order}"), (unmatched, "length_unmatched")]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("seed", range(5))
def test_the_accounts_agree_with_counting_one_by_one(config: PairsConfig, seed: int) -> None:
    frame = random_replies(seed, num_posts=60)
    accounts, kept = accounts_of(frame, config)
    expected = one_by_one(frame, config)
    assert accounts.keys() == expected.keys() == {"", "a", "b"}
    for community, reasons in expected.items():
        account = accounts[community].as_counts()
        num_kept = kept.filter(community=community).height
        num = reasons.total()
        over_cap = reasons.pop("eligible", 0) - num_kept
        assert account["candidates"] == num > 100
        assert account["kept"] == num_kept
        assert account["dropped"] == dict(reasons) | ({"over_cap_per_post": over_cap} if over_cap else {})


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_large_posts_add_up_as_well(config: PairsConfig) -> None:
    frame = random_replies(7, num_posts=200).with_columns(
        post_id="p" + (pl.int_range(pl.len()) // 300).cast(pl.String),
        community=pl.lit("a"),
        post_reason=pl.lit(None, pl.String),
    )
    account = accounts_of(frame, config)[0]["a"]
    assert account.candidates == account.kept + account.dropped.total() > 50_000
    assert min(account.dropped.values()) >= 0


def test_a_post_with_fifty_thousand_replies_is_counted_at_once() -> None:
    account = accounts_of(replies({"p": [number % 1000 for number in range(50_000)]}), margin(2))[0]["porch"]
    same_score = 1000 * (50 * 49 // 2)
    assert account.candidates == 50_000 * 49_999 // 2 - same_score
    assert account.dropped["gap_too_small"] == 999 * 50 * 50
    assert account.kept == 4


def test_no_replies_no_accounts() -> None:
    assert accounts_of(replies({"p": [1]})[:0], margin(2))[0] == {}


def test_accounts_of_parts_add_up() -> None:
    parts = [PairAccount(5, 2, Counter(gap_too_small=3)), PairAccount(4, 1, Counter(gap_too_small=1, chosen_bot=2))]
    account = total(parts)
    assert account.as_counts() == {"candidates": 9, "kept": 3, "dropped": {"gap_too_small": 4, "chosen_bot": 2}}
    assert PairAccount.from_counts(account.as_counts()) == account


def test_what_is_dropped_later_leaves_the_kept_ones() -> None:
    account = PairAccount(5, 2, Counter(gap_too_small=3))
    account.drop({"post_in_training": 2})
    assert account.as_counts() == {"candidates": 5, "kept": 0, "dropped": {"gap_too_small": 3, "post_in_training": 2}}


def test_marks_follow_the_preset() -> None:
    frame = replies({"p": [1, 2, 9]})
    assert marked(frame, margin(1))["may_choose"].to_list() == [True, True, True]
    assert marked(frame, shp())["may_reject"].to_list() == [False, True, True]
    assert marked(frame, paper(0.3, 0.3, 1)).select("may_choose", "may_reject").rows() == [
        (False, True),
        (False, False),
        (True, False),
    ]
