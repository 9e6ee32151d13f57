"""TRL's trainers as one rank drives them, and the model that rank 0 makes of the result.

Imported by the worker only: it takes seconds to load.
"""

import dataclasses
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import DPOTrainer, SFTTrainer

from llumi.storage import Manifest
from llumi.train.assignment import Assignment, Materials
from llumi.train.card import TRAINING_LOG, gather_card, write_card
from llumi.train.checkpoint import hand_over
from llumi.train.settings import precision, trainer_arguments
from llumi.train.sight import Sighted, curve_callbacks, peak_flops_here
from llumi.train.throughput import Clock, run_figures


class _SightedSFTTrainer(Sighted, SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """SFT that logs how fast it goes."""


class _TokenDPOTrainer(Sighted, DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """DPO on columns that are tokens already; TRL would insist on making them from text."""

    sequences_per_sample = 2

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        return dataset


class _HandOver(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Hands each saved checkpoint to Ray Train. A rank saves into a folder of its own, so all in it is its part."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        with self.clock.checkpoint():
            hand_over(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step)


class _Tell(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Writes on the driver's board how far rank 0 is, and does not wait for it to be read."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.board.write.remote(state.global_step, state.max_steps)


def build_trainer(work: Assignment, materials: Materials, board: Any, scratch: Path) -> Trainer:
    """TRL's trainer for the stage of `work`, which starts from the parent's weights.

    With LoRA, DPO's reference is the same model with its adapters switched off; in full fine-tuning TRL loads the
    parent a second time.
    """
    train = work.config.train
    test_rows = materials.test_rows
    clock = Clock()
    kind = _TokenDPOTrainer if work.objective == "dpo" else _SightedSFTTrainer
    trainer = kind(
        model=str(materials.parent),
        args=trainer_arguments(train, work.stage, scratch),
        # With a fingerprint of ours, datasets need not hash the rows to make one.
        train_dataset=datasets.Dataset(materials.train_rows, fingerprint=f"{work.fingerprint}-train"),
        eval_dataset=datasets.Dataset(test_rows, fingerprint=f"{work.fingerprint}-test") if test_rows.num_rows else None,
        processing_class=materials.tokenizer,
        callbacks=[_HandOver(clock), _Tell(board), *curve_callbacks(work, scratch)],
        peft_config=_lora(work) if train.method == "lora" else None,
        clock=clock,
        peak_flops=peak_flops_here(train),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def publish(work: Assignment, materials: Materials, trainer: Trainer, scratch: Path) -> None:
    """Publish the trained model as `models/<role>-<stage>`; every rank must call it, rank 0 writes."""
    weights = trainer.accelerator.get_state_dict(trainer.deepspeed)
    history = trainer.state.log_history
    if not trainer.is_world_process_zero():
        return
    folder = scratch / "model"
    _whole_model(work, weights, materials.parent).save_pretrained(folder)
    AutoTokenizer.from_pretrained(materials.parent).save_pretrained(folder)
    (folder / TRAINING_LOG).write_text(json.dumps(history, indent=1), encoding="utf-8")
    model = _described(work, materials, trainer.state)
    write_card(gather_card(work.storage, model, history), folder)
    draft = work.storage.begin("models", work.name)
    draft.publish(
        draft.upload(folder),
        fingerprint=model.fingerprint,
        config=model.config,
        inputs=model.inputs,
        counts=model.counts,
        metrics=model.metrics,
    )


def _described(work: Assignment, materials: Materials, state: Any) -> Manifest:
    """What the manifest will say, its files aside: the card is one of them, and tells the rest."""
    return Manifest(
        kind="models",
        name=work.name,
        fingerprint=work.fingerprint,
        config=work.config.model_dump(mode="json"),
        inputs=work.inputs,
        files=(),
        counts=_counts(materials),
        metrics=_metrics(work, state),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _lora(work: Assignment) -> LoraConfig:
    lora = work.config.train.lora
    modules = lora.target_modules
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


def _whole_model(work: Assignment, weights: dict[str, torch.Tensor], parent: Path) -> Any:
    """The parent with the trained weights in it, adapters merged, in the precision of the training.

    Starting from the parent anew leaves behind what the trainer changed for its own use (config, forward, wrappers).
    Merging is done in fp32 and rounded once.
    """
    unset_hf_deepspeed_config()  # else ZeRO-3 would partition this model too, and wait for the other ranks
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    if work.config.train.method == "lora":
        adapted = get_peft_model(model, _lora(work))
        set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted, weights, save_embedding_layers=False))
        model = adapted.merge_and_unload()
    else:
        model.load_state_dict(weights)
    return model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision(work.config.train)])


def _counts(materials: Materials) -> dict[str, dict[str, int]]:
    counts = {split: dataclasses.asdict(count) for split, count in materials.counts.items()}
    counts["test"]["evaluated"] = materials.test_rows.num_rows
    return counts


def _metrics(work: Assignment, state: Any) -> dict[str, Any]:
    """The last logged figures of training and of the held-out split, and what they cost."""
    train = [entry for entry in state.log_history if "loss" in entry]
    test = [entry for entry in state.log_history if "eval_loss" in entry]
    return {
        "steps": state.global_step,
        "num_tokens": state.num_input_tokens_seen,
        "wall_seconds": round(time.time() - work.started_at, 1),
        **run_figures(state.log_history),
        "train": train[-1] if train else {},
        "eval": {key.removeprefix("eval_"): value for key, value in test[-1].items()} if test else {},
    }
