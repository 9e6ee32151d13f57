"""Losses on TRL's own trainers and the random two-layer model: against their formulas, packed, and no number."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from trl import DPOConfig, SFTConfig

from llumi.config import DpoStageConfig, load_config
from llumi.errors import PairsError, TrainError
from llumi.records import DPO_SCHEMA, SFT_SCHEMA
from llumi.train.columns import Counts, encode
from llumi.train.reference import _offset, _with_reference
from llumi.train.settings import loss_arguments
from llumi.train.throughput import Clock
from llumi.train.trainer import _dataset, _TokenDPOTrainer, _TokenSFTTrainer, _WithRows
from llumi.train.worker import _check_lengths
from tests.train.conftest import dpo_rows, sft_rows
from tests.train.test_columns import written
from tests.train.test_run import ASSIGNMENT

BETA, SMOOTHING = 0.3, 0.2
WEIGHTS = [0.5, 2.0, 1.0, 0.1]


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.log1p(np.exp(-x))


EXPECTED = {
    "sigmoid": lambda x: -log_sigmoid(x),
    "conservative": lambda x: -(1 - SMOOTHING) * log_sigmoid(x) - SMOOTHING * log_sigmoid(-x),
    "robust": lambda x: (-(1 - SMOOTHING) * log_sigmoid(x) + SMOOTHING * log_sigmoid(-x)) / (1 - 2 * SMOOTHING),
    "margin": lambda x: -log_sigmoid(x - 0.7 * np.array(WEIGHTS)),
}


def section(loss: Any) -> DpoStageConfig:
    smoothing = SMOOTHING if loss in ("conservative", "robust") else 0.0
    return DpoStageConfig(loss=loss, beta=BETA, label_smoothing=smoothing, margin_scale=0.7)


def loss_and_logps(loss: Any, tiny_model: Path, folder: Path) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """What the trainer computes for one batch; log-ratios of chosen and rejected replies, and the lengths of both."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [row | {"weight": weight} for row, weight in zip(dpo_rows(4), WEIGHTS, strict=True)]
    examples = encode(written(folder, rows, DPO_SCHEMA), "dpo", tokenizer, 1024)
    known = {name: (-20.0 - i, -60.0 + 3 * i) for i, name in enumerate(examples.ids)}
    plain = datasets.Dataset(examples.rows, fingerprint="plain")
    settings = section(loss)
    arguments = DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, beta=BETA, report_to="none",
        precompute_ref_log_probs=True, **loss_arguments(settings),
    )  # fmt: skip
    trainer = _TokenDPOTrainer(
        model=str(tiny_model),
        args=arguments,
        train_dataset=_with_reference(plain, examples, known, offset=_offset(settings)),
        processing_class=tokenizer,
        clock=Clock(),
        peak_flops=None,
    )
    trainer.work = replace(ASSIGNMENT, stage="dpo1")
    assert trainer.shares_prompt
    trainer.model.eval()
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        value = float(trainer.compute_loss(trainer.model, batch))
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
    reference = np.array([known[name] for name in examples.ids])
    lengths = np.array([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in examples.rows.to_pylist()])
    return value, chosen.numpy() - reference[:, 0], rejected.numpy() - reference[:, 1], lengths


@pytest.mark.parametrize("loss", EXPECTED)
def test_a_loss_is_its_formula(loss: str, tiny_model: Path, tmp_path: Path) -> None:
    value, chosen, rejected, _ = loss_and_logps(loss, tiny_model, tmp_path)
    x = BETA * (chosen - rejected)
    assert np.ptp(x) > 1  # pairs differ, so that a mean of losses is no loss of the mean
    assert value == pytest.approx(float(EXPECTED[loss](x).mean()), rel=1e-4)


def test_ipo_compares_what_a_token_gains(tiny_model: Path, tmp_path: Path) -> None:
    value, chosen, rejected, lengths = loss_and_logps("ipo", tiny_model, tmp_path)
    gap = chosen / lengths[:, 0] - rejected / lengths[:, 1]
    assert value == pytest.approx(float(((gap - 1 / (2 * BETA)) ** 2).mean()), rel=1e-4)


def test_conservative_without_smoothing_is_not_offered() -> None:
    with pytest.raises(ValueError, match="loss conservative needs label_smoothing"):
        DpoStageConfig(loss="conservative")
    with pytest.raises(ValueError, match="label_smoothing has no effect on loss ipo"):
        DpoStageConfig(loss="ipo", label_smoothing=0.1)
    assert math.isclose(sum(loss_arguments(section("conservative"))["loss_weights"]), 1.0)


def sft_trainer(model: Path, folder: Path, tmp_path: Path, packing: bool, num: int = 12) -> Any:
    """The trainer of SFT in this process, for `num` examples that fit into rows of 1024 tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = encode(written(tmp_path, sft_rows(num), SFT_SCHEMA), "sft", tokenizer, 1024)
    config = load_config(None, ["train.max_length=1024", f"train.sft.packing={str(packing).lower()}"])
    work = replace(ASSIGNMENT, config=config)
    arguments = SFTConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        packing=packing, max_length=1024, max_steps=1,
        dataset_kwargs={"skip_prepare_dataset": True}, per_device_train_batch_size=2,
    )  # fmt: skip
    trainer = _TokenSFTTrainer(
        model=str(model), args=arguments, train_dataset=_dataset(work, examples, "train"), processing_class=tokenizer,
        clock=Clock(), peak_flops=None,
    )  # fmt: skip
    trainer.work, trainer.examples = work, examples
    trainer.data_collator = _WithRows(trainer.data_collator)
    return trainer


def test_packed_examples_do_not_see_each_other(tiny_model: Path, tmp_path: Path) -> None:
    found = []
    for packing in (False, True):
        trainer = sft_trainer(tiny_model, tiny_model, tmp_path, packing)
        trainer.model.eval()
        rows = [dict(row) for row in trainer.train_dataset]
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        assert sorted(set(trainer._rows.tolist())) == list(range(12))
        with torch.no_grad():
            found.append((len(rows), float(trainer.compute_loss(trainer.model, batch))))
    (num_apart, apart), (num_packed, packed) = found
    assert (num_apart, num_packed) == (12, 2)
    # A mean over tokens does not ask in which row they lie, as long as no example sees another.
    assert packed == pytest.approx(apart, abs=1e-4)


def test_a_loss_that_is_no_number_names_its_examples(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(broken)
    trainer = sft_trainer(broken, tiny_model, tmp_path, packing=False)
    with pytest.raises(TrainError, match=r"^gm-sft: the loss is nan at step 1, on the examples e\d+, e\d+; .* pairs/default$"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_without_zero_the_weights_tell_of_a_gradient_that_is_no_number(tiny_model: Path, tmp_path: Path) -> None:
    trainer = sft_trainer(tiny_model, tiny_model, tmp_path, packing=False)
    trainer._rows_of_step = [3, 1]
    trainer._check_gradient()
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = float("nan")
    with pytest.raises(TrainError, match=r"^gm-sft: the gradient is no number at step 1, on the examples e1, e3; "):
        trainer._check_gradient()


def test_long_examples_can_stop_a_run() -> None:
    config = load_config(None, ["train.max_length=150", "train.too_long=refuse"])
    work = replace(ASSIGNMENT, config=config)
    _check_lengths(work, Counts(12, 0, 12))
    with pytest.raises(PairsError, match=r"^pairs/default: 5 of 12 examples of gm-sft/train are above 150 tokens, "):
        _check_lengths(work, Counts(12, 5, 7))
