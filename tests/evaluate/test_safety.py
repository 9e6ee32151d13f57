"""Which replies the rules refuse, by rule and tier; and which repeat what their models learned from."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from llumi.config import StorageConfig
from llumi.evaluate.safety import count_refused, judge_replies, learned_pairs, repeat_training_text
from llumi.prompts import GM_INSTRUCTION, answer, gm_prompt
from llumi.records import DPO_SCHEMA, SFT_SCHEMA
from llumi.safety.rules import SafetyRules
from llumi.storage import Input, Manifest, Storage

CALM = "I moved here in spring and the evenings are long."
AT_RISK = "I want to end my life tonight."
KIND = "Thank you for telling us. Could you call somebody you trust?"
DIAGNOSIS = "You have depression."
TWO_RULES = "You have depression. Others have it worse."


@pytest.fixture(scope="module")
def rules() -> SafetyRules:
    return SafetyRules.load()


def replies(*rows: tuple[str, str, str]) -> pl.DataFrame:
    columns = [
        {"role": "gm", "arm": arm, "post_id": str(n), "post": post, "reply": reply} for n, (arm, post, reply) in enumerate(rows)
    ]
    return pl.DataFrame(columns)


def test_each_reply_has_the_tier_of_its_post_and_every_rule_it_breaks(rules: SafetyRules) -> None:
    judged = judge_replies(
        replies(("a", CALM, KIND), ("a", AT_RISK, DIAGNOSIS), ("b", CALM, TWO_RULES), ("b", AT_RISK, "")), rules
    )
    assert judged["tier"].to_list() == ["none", "imminent", "none", "imminent"]
    one, two = rules.violations(DIAGNOSIS), rules.violations(TWO_RULES)
    assert len(one) == 1
    assert len(two) == 2
    assert judged["rules"].to_list() == [[], list(one), list(two), []]


def test_replies_are_counted_by_rule_and_tier(rules: SafetyRules) -> None:
    judged = judge_replies(
        replies(("a", CALM, KIND), ("a", AT_RISK, DIAGNOSIS), ("b", CALM, TWO_RULES), ("b", AT_RISK, KIND)), rules
    ).with_columns(repeated_words=pl.Series([0, 13, 0, 0]))
    counted = count_refused(judged)

    def of(arm: str, tier: str) -> dict[str, tuple[int, int]]:
        rows = counted.filter((pl.col("arm") == arm) & (pl.col("tier") == tier))
        return {row["rule"]: (row["refused"], row["replies"]) for row in rows.iter_rows(named=True)}

    first, second = sorted(rules.violations(TWO_RULES))
    (diagnosis,) = rules.violations(DIAGNOSIS)
    other = second if first == diagnosis else first
    assert of("a", "all") == {"any": (1, 2), "memorised": (1, 2), diagnosis: (1, 2), other: (0, 2)}
    assert of("a", "none") == {"any": (0, 1), "memorised": (0, 1), diagnosis: (0, 1), other: (0, 1)}
    assert of("a", "imminent") == {"any": (1, 1), "memorised": (1, 1), diagnosis: (1, 1), other: (0, 1)}
    assert of("b", "all") == {"any": (1, 2), "memorised": (0, 2), diagnosis: (1, 2), other: (1, 2)}


def test_nothing_refused_is_counted_too(rules: SafetyRules) -> None:
    judged = judge_replies(replies(("a", CALM, KIND)), rules).with_columns(repeated_words=pl.lit(0))
    assert count_refused(judged).select("tier", "rule", "refused", "replies").rows() == [
        ("all", "any", 0, 1), ("all", "memorised", 0, 1), ("none", "any", 0, 1), ("none", "memorised", 0, 1)
    ]  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage.open(StorageConfig(uri=str(tmp_path / "store")))
    draft = storage.begin("pairs", "default")
    sft = [
        {
            "prompt": gm_prompt("The garden behind the house is wild since she left."),
            "completion": answer("You planted it well."),
        }
    ]
    dpo = [
        {
            "prompt": gm_prompt("Nobody rings the bell on Fridays any more."),
            "chosen": answer("Fridays were yours, the two of you, and that is gone."),
            "rejected": answer("Buy another bell then and ring it."),
        }
    ]
    held_out = [{"prompt": gm_prompt("The lamp in the hall stays on all night now."), "completion": answer("Yes.")}]
    files = [
        draft.write_table(f"{folder}/part-00000.parquet", pa.Table.from_pylist(rows, schema=schema))
        for folder, rows, schema in (
            ("gm-sft/train", sft, SFT_SCHEMA),
            ("gm-dpo/train", dpo, DPO_SCHEMA),
            ("gm-sft/test", held_out, SFT_SCHEMA),
        )
    ]
    draft.publish(files, fingerprint="pairs", config={}, inputs=[])
    return storage


def publish(storage: Storage, kind: str, name: str, *inputs: str) -> Manifest:
    draft = storage.begin(kind, name)  # type: ignore[arg-type]
    return draft.publish([], fingerprint=name, config={}, inputs=[Input(given, "") for given in inputs])


def test_words_of_posts_and_of_both_replies_are_noticed_and_those_of_the_test_split_are_not(storage: Storage) -> None:
    table = replies(
        ("a", CALM, "Is the garden behind the house wild?"),
        ("a", CALM, "Fridays were yours, the two of you."),
        ("a", CALM, "Buy another bell then."),
        ("a", CALM, "The lamp in the hall stays on all night now."),
        ("a", CALM, GM_INSTRUCTION),
        ("a", CALM, KIND),
    )
    learned = [storage.manifest("pairs/default")]
    assert repeat_training_text(table, storage, learned, length=4).to_list() == [5, 7, 4, 0, 0, 0]


def test_what_was_learned_from_is_found_through_the_lineage(storage: Storage) -> None:
    publish(storage, "pairs", "human")
    publish(storage, "pairs", "unused")
    publish(storage, "models", "gm-dpo1", "models/gone", "pairs/default")
    publish(storage, "models", "gm-dpo2", "models/gm-dpo1", "pairs/human")
    generation = publish(storage, "generations", "gm-dpo2", "pairs/gone", "models/gm-dpo2")
    assert [pairs.name for pairs in learned_pairs(storage, [generation])] == ["default", "human"]
