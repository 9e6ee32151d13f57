"""What the safety rules say of every reply that is compared, by rule and by the risk tier of its post, and what is repeated
word for word from training text.

The rules look for words, not for meanings: a reply that none refuses is not thereby safe (docs/safety.md).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from llumi.evaluate.memorised import longest_shared_runs
from llumi.prompts import GM_INSTRUCTION, IM_INSTRUCTION
from llumi.safety.rules import SafetyRules
from llumi.storage import Manifest, Storage, store_errors

ANY_RULE = "any"
MEMORISED = "memorised"
"""Stand in the column `rule` for a reply that any rule refuses, and for one that repeats training text."""

SAFETY_SCHEMA = {
    "role": pl.String,
    "arm": pl.String,
    "tier": pl.String,
    "rule": pl.String,
    "replies": pl.Int64,
    "refused": pl.Int64,
}
"""`safety.parquet` and `safety.csv`: of the replies of an arm to the posts of a tier, how many a rule refuses."""

_TEXTS = {"sft": ("prompt", "completion"), "dpo": ("prompt", "chosen", "rejected")}


def judge_replies(replies: pl.DataFrame, rules: SafetyRules) -> pl.DataFrame:
    """`replies` (role, arm, post_id, post, reply) with the `tier` of each post and the `rules` that refuse each reply."""
    posts = replies.select("post").unique(maintain_order=True)
    tiers = posts.with_columns(rules.tiers(posts["post"]).alias("tier"))
    # Few replies break a rule at all, and the first that they break is found by column.
    refused = rules.vetoes(replies["reply"]).is_not_null()
    named = pl.Series(
        "rules",
        [
            list(rules.violations(reply)) if is_refused else []
            for reply, is_refused in zip(replies["reply"], refused, strict=True)
        ],
        dtype=pl.List(pl.String),
    )
    return replies.with_columns(named).join(tiers, on="post", how="left", maintain_order="left")


def repeat_training_text(replies: pl.DataFrame, storage: Storage, learned: Sequence[Manifest], length: int) -> pl.Series:
    """Of each reply the words of its longest run that the train splits of the pairs `learned` hold word for word."""
    instructions = pl.Series([GM_INSTRUCTION, IM_INSTRUCTION])
    runs = longest_shared_runs(replies["reply"], _training_texts(storage, learned), length, ignored=instructions)
    return pl.Series("repeated_words", runs)


def learned_pairs(storage: Storage, generations: Sequence[Manifest]) -> list[Manifest]:
    """The pairs, as far as they still stand, that the models behind `generations` and their ancestors learned from."""
    pairs: dict[str, Manifest] = {}
    waiting, seen = [entry.name for one in generations for entry in one.inputs], set[str]()
    while waiting:
        name = waiting.pop()
        kind = name.partition("/")[0]
        if name in seen or kind not in {"models", "pairs"}:
            continue
        seen.add(name)
        manifest = storage.find(name)
        if manifest is not None and kind == "pairs":
            pairs[name] = manifest
        elif manifest is not None:
            waiting += [entry.name for entry in manifest.inputs]
    return [pairs[name] for name in sorted(pairs)]


def count_refused(judged: pl.DataFrame) -> pl.DataFrame:
    """Rows of `SAFETY_SCHEMA`: every tier that occurs and "all"; every rule that refuses a reply of the role, and `ANY_RULE`.

    `judged` is what `judge_replies` gives, with `repeated_words`.
    """
    named = judged.select(
        "role",
        "arm",
        "tier",
        pl.col("rules").alias("rule"),
        (pl.col("rules").list.len() > 0).alias(ANY_RULE),
        (pl.col("repeated_words") > 0).alias(MEMORISED),
    )
    tiers = pl.concat([named, named.with_columns(pl.lit("all").alias("tier"))])
    replies = tiers.group_by("role", "arm", "tier").agg(pl.len().cast(pl.Int64).alias("replies"))
    rules = tiers.select("role", "rule").explode("rule").drop_nulls().unique()
    asked = pl.concat([rules, *(replies.select("role", rule=pl.lit(rule)).unique() for rule in (ANY_RULE, MEMORISED))])
    hits = pl.concat(
        [
            tiers.explode("rule").drop_nulls("rule").select("role", "arm", "tier", "rule"),
            *(tiers.filter(rule).select("role", "arm", "tier", rule=pl.lit(rule)) for rule in (ANY_RULE, MEMORISED)),
        ]
    )
    refused = hits.group_by("role", "arm", "tier", "rule").agg(pl.len().cast(pl.Int64).alias("refused"))
    counted = replies.join(asked, on="role").join(refused, on=["role", "arm", "tier", "rule"], how="left")
    return counted.with_columns(pl.col("refused").fill_null(0)).select(SAFETY_SCHEMA.keys()).sort("role", "arm", "tier", "rule")


def safety_metrics(refused: pl.DataFrame) -> dict[str, Any]:
    """The counts over all tiers in short, for the manifest: role -> arm -> replies, refused by any rule, memorised."""
    metrics: dict[str, Any] = {}
    for row in refused.filter((pl.col("tier") == "all") & pl.col("rule").is_in([ANY_RULE, MEMORISED])).to_dicts():
        arm = metrics.setdefault(row["role"], {}).setdefault(row["arm"], {"replies": row["replies"]})
        arm["refused" if row["rule"] == ANY_RULE else MEMORISED] = row["refused"]
    return metrics


def _training_texts(storage: Storage, learned: Sequence[Manifest]) -> Iterator[pl.Series]:
    """Every turn of every train split, one column at a time."""
    for pairs in learned:
        for entry in pairs.files:
            folder, _, rest = entry.path.partition("/")
            if not rest.startswith("train/"):
                continue
            for column in _TEXTS.get(folder.partition("-")[2], ()):
                with store_errors(storage.uri):
                    path = storage.path(pairs.reference, entry.path)
                    table = pq.read_table(path, filesystem=storage.filesystem, columns=[column])
                yield pl.DataFrame(table).to_series().explode().struct.field("content")
