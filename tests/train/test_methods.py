"""Ways to train, each on a real rank: DPO of the whole model, its reference, and the best checkpoint."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from llumi.config import Config, TrainConfig, load_config
from llumi.prompts import answer, gm_prompt
from llumi.records import DPO_SCHEMA
from llumi.storage import Manifest, Storage, parquet
from llumi.train.run import train
from llumi.train.settings import quantization
from tests.train.conftest import POSTS, MakePairs, dpo_rows, with_sft
from tests.train.test_run import log_of, losses, weights

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


SHORT = [
    "train.max_length=256", "train.max_failures=0", "train.num_workers=2",
    "train.sft.max_steps=4", "train.sft.batch_size_per_worker=2",
    "train.dpo1.max_steps=3", "train.dpo1.batch_size_per_worker=2",
]  # fmt: skip


def settings(folder: Path, base: Path, *more: str) -> Config:
    return load_config(None, [f"storage.uri={folder / 'store'}", f"train.base={base}", *SHORT, *more])


def kinder(num: int, split: str) -> list[dict]:
    """Pairs whose chosen reply is always the kinder one; the posts of one split are not those of the other."""
    kind = ["I am glad that you wrote to us.", "Thank you for telling us.", "That sounds heavy, you are not alone."]
    cool = ["It will pass.", "Others have it worse.", "Just sleep more."]
    rows = dpo_rows(num)
    for i, row in enumerate(rows):
        number = i if split == "train" else 1000 + i
        row |= {
            "pair_id": f"{split}{i}",
            "prompt": gm_prompt(f"{POSTS[i % 4]} It is evening {number} of the winter."),
            "chosen": answer(f"{kind[i % 3]} ({number})"),
            "rejected": answer(f"{cool[(i // 3) % 3]} ({number})"),
        }
    return rows


@pytest.fixture(scope="module")
def told_kinder(ray_cluster: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Manifest]:
    """DPO of the whole model on pairs of which the kinder reply is the chosen one."""
    config = settings(
        tmp_path_factory.mktemp("kinder"), tiny_model, "train.method=full", "train.dpo1.max_steps=24",
        "train.dpo1.learning_rate=2e-3", "train.dpo1.batch_size_per_worker=8", "train.eval_steps=12", "train.num_workers=1",
        "train.max_eval_examples=64",
    )  # fmt: skip
    storage = with_sft(config)
    draft = storage.begin("pairs", "default")
    files = [
        draft.write_table(f"gm-dpo/{split}/part-0.parquet", pa.Table.from_pylist(kinder(64, split), schema=DPO_SCHEMA))
        for split in ("train", "test")
    ]
    draft.publish(files, fingerprint="kinder", config={}, inputs=[])
    return config, train(config, "gm", "dpo1")


def test_dpo_learns_which_of_two_replies_is_kinder(told_kinder: tuple[Config, Manifest]) -> None:
    config, manifest = told_kinder
    storage = Storage.open(config.storage)
    curve = losses(storage, manifest)
    assert curve[1] == pytest.approx(math.log(2), abs=1e-3)
    assert curve[24] < 0.5 * curve[1]
    # Of 64 held-out pairs a guess gets 32 right, and 48 or more with a probability below 1e-4.
    assert manifest.metrics["eval"]["rewards/accuracies"] >= 0.75
    held_out = [entry["eval_rewards/margins"] for entry in log_of(storage, manifest) if "eval_loss" in entry]
    assert held_out[-1] > held_out[0] > 0


def test_the_reference_is_asked_once_and_used_by_every_later_run(told_kinder: tuple[Config, Manifest]) -> None:
    config, _ = told_kinder
    storage = Storage.open(config.storage)
    reference = storage.manifest("references/default-gm-by-gm-sft")
    assert reference.counts["pairs"] == 64 + 64
    assert reference.inputs == (
        storage.manifest("models/gm-sft").as_input(),
        storage.manifest("pairs/default").as_input(),
    )
    # A later run with other settings takes the figures as they lie there: moved by 10, they show in its loss.
    table = pq.read_table(storage.path(reference.reference, "rows.parquet"))
    moved = table.set_column(1, "chosen", pa.array([value - 10 for value in table["chosen"].to_pylist()]))
    storage.write(f"{reference.reference}/rows.parquet", parquet(moved))
    softer = config.train.dpo1.model_copy(update={"beta": 0.2, "max_steps": 1})
    later = config.model_copy(update={"train": config.train.model_copy(update={"dpo1": softer})})
    curve = losses(storage, train(later, "gm", "dpo1"))
    assert curve[1] == pytest.approx(math.log(1 + math.exp(-0.2 * 10)), abs=1e-3)
    assert storage.manifest(reference.reference) == reference


def test_a_parent_in_four_bits_learns_through_adapters(tiny_model: Path, make_pairs: MakePairs, tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        tiny_model,
        "train.method=qlora",
        "train.num_workers=1",
        "train.sft.learning_rate=5e-3",
        "train.sft.max_steps=12",
    )
    make_pairs(config.storage)
    manifest = train(config, "gm", "sft")
    storage = Storage.open(config.storage)
    curve = losses(storage, manifest)
    assert curve[12] < curve[1] - 0.05
    before, after = weights(storage, "base"), weights(storage, "gm-sft")
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed == {name for name in before if "_proj." in name}


def test_qlora_holds_the_layers_of_the_parent_in_four_bits(tiny_model: Path) -> None:
    held = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=quantization(TrainConfig(method="qlora")))
    layers = {name: type(layer).__name__ for name, layer in held.named_modules() if name.endswith("_proj")}
    assert layers
    assert set(layers.values()) == {"Linear4bit"}


def test_the_best_checkpoint_is_published_where_later_steps_lose(
    tiny_model: Path, make_pairs: MakePairs, tmp_path: Path
) -> None:
    config = settings(
        tmp_path, tiny_model, "train.method=full", "train.publish=best", "train.eval_steps=2", "train.checkpoint_steps=2",
        "train.sft.max_steps=8", "train.sft.learning_rate=1.0", "train.trl.lr_scheduler_type=constant",
        "train.checkpoints_kept=1", "train.num_workers=1", "train.sft.batch_size_per_worker=2",
    )  # fmt: skip
    make_pairs(config.storage)
    manifest = train(config, "gm", "sft")
    storage = Storage.open(config.storage)
    held_out = {entry["step"]: entry["eval_loss"] for entry in log_of(storage, manifest) if "eval_loss" in entry}
    best = min(held_out, key=lambda step: held_out[step])
    assert best < 8, held_out
    assert manifest.metrics["published_step"] == best
    assert manifest.metrics["eval"]["loss"] == held_out[best]
    assert manifest.metrics["steps"] == 8
