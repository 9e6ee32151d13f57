"""The preference losses against their formulas, on TRL's own trainer and the random two-layer model."""

import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from trl import DPOConfig

from llumi.config import DpoStageConfig
from llumi.train.columns import encode
from llumi.train.reference import _offset, _with_reference
from llumi.train.settings import loss_arguments
from llumi.train.throughput import Clock
from llumi.train.trainer import _TokenDPOTrainer
from tests.train.conftest import dpo_rows
from tests.train.test_columns import DPO_SCHEMA, written

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
