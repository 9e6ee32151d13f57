"""A small pairs artifact, as the pairs job would publish it."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest

from llumi.config import Config, StorageConfig
from llumi.models import ensure_base
from llumi.prompts import answer, gm_prompt, im_prompt
from llumi.records import DPO_SCHEMA, SFT_SCHEMA
from llumi.storage import Manifest, Storage

POSTS = [
    "I moved to a new town and I feel lonely in the evenings.",
    "My exams went badly and I do not know what to tell my parents.",
    "I miss my grandmother more than I thought I would.",
    "Work has been loud this week and I cannot sleep well.",
]
WARM = [
    "Thank you for telling us; that sounds heavy. Could you call a friend tonight?",
    "I am glad that you wrote. Small steps count, maybe a short walk first?",
]
COLD = ["It will pass.", "Others have it worse, just sleep more."]

MakePairs = Callable[..., Manifest]


def sft_rows(num: int) -> list[dict]:
    return [
        {
            "example_id": f"e{i}",
            "post_id": f"p{i}",
            "community": "kindness",
            "prompt": gm_prompt(POSTS[i % 4]),
            "completion": answer(f"{WARM[i % 2]} ({i})"),
            "score": 5,
        }
        for i in range(num)
    ]


def dpo_rows(num: int) -> list[dict]:
    return [
        {
            "pair_id": f"d{i}",
            "post_id": f"p{i}",
            "community": "kindness",
            "prompt": im_prompt(POSTS[i % 4], COLD[i % 2]) if i % 2 else gm_prompt(POSTS[i % 4]),
            "chosen": answer(f"{WARM[i % 2]} ({i})"),
            "rejected": answer(COLD[i % 2]),
            "chosen_score": 5,
            "rejected_score": 1,
        }
        for i in range(num)
    ]


def with_sft(config: Config) -> Storage:
    """A store whose gm-sft is the base itself, so that DPO needs no training before it."""
    storage = Storage.open(config.storage)
    base = ensure_base(config, storage)
    draft = storage.begin("models", "gm-sft")
    files = [entry for entry in draft.upload(storage.fetch("models/base")) if entry.path != "manifest.json"]
    draft.publish(files, fingerprint="the base", config={}, inputs=[base.as_input()])
    return storage


@pytest.fixture(scope="session")
def make_pairs() -> MakePairs:
    """Publishes `pairs/default` for GM with so many rows; the train split lies in two files, one of them empty."""

    def make(storage: StorageConfig, sft: int = 12, dpo: int = 8, test: int = 4) -> Manifest:
        draft = Storage.open(storage).begin("pairs", "default")
        splits: Sequence[tuple[str, list[dict], pa.Schema]] = (
            ("gm-sft/train", sft_rows(sft), SFT_SCHEMA),
            ("gm-sft/test", sft_rows(test), SFT_SCHEMA),
            ("gm-dpo/train", dpo_rows(dpo), DPO_SCHEMA),
            ("gm-dpo/test", dpo_rows(test), DPO_SCHEMA),
        )
        files = []
        for folder, rows, schema in splits:
            files.append(draft.write_table(f"{folder}/part-00000.parquet", pa.Table.from_pylist([], schema=schema)))
            files.append(draft.write_table(f"{folder}/part-00001.parquet", pa.Table.from_pylist(rows, schema=schema)))
        return draft.publish(files, fingerprint=f"pairs-{sft}-{dpo}-{test}", config={}, inputs=[])

    return make
