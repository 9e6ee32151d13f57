"""What rank 0 makes of a trained stage: a whole model in Hugging Face's layout, its adapter, and its manifest.

Imported by the worker only: it takes seconds to load.
"""

import dataclasses
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from llumi.storage import Manifest
from llumi.train.adapter import save_adapter
from llumi.train.assignment import Assignment, Materials
from llumi.train.card import TRAINING_LOG, gather_card, write_card
from llumi.train.checkpoint import best_checkpoint
from llumi.train.settings import lora, precision
from llumi.train.throughput import run_figures

Weights = dict[str, torch.Tensor]


def publish(work: Assignment, materials: Materials, trainer: Trainer, scratch: Path) -> None:
    """Publish the trained model as `models/<role>-<stage>`; every rank must call it, rank 0 writes."""
    step, weights = trainer.state.global_step, trainer.accelerator.get_state_dict(trainer.deepspeed)
    history = trainer.state.log_history
    if not trainer.is_world_process_zero():
        return
    if work.config.train.publish == "best":
        step, weights = _best(work, step, weights, history)
    folder = scratch / "model"
    _save_model(work, weights, materials.parent, folder)
    AutoTokenizer.from_pretrained(materials.parent).save_pretrained(folder)
    (folder / TRAINING_LOG).write_text(json.dumps(history, indent=1), encoding="utf-8")
    model = _described(work, materials, trainer.state, step)
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


def _described(work: Assignment, materials: Materials, state: Any, step: int) -> Manifest:
    """What the manifest will say, its files aside: the card is one of them, and tells the rest."""
    return Manifest(
        kind="models",
        name=work.name,
        fingerprint=work.fingerprint,
        config=work.config.model_dump(mode="json"),
        inputs=work.inputs,
        files=(),
        counts=_counts(materials),
        metrics=_metrics(work, state, step),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _best(work: Assignment, step: int, weights: Weights, history: list[dict[str, Any]]) -> tuple[int, Weights]:
    """The step of the lowest held-out loss with its weights: a checkpoint's, or the last ones where none beats them."""
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    best = best_checkpoint()
    if best is None or best.held_out_loss >= losses[-1]:
        return step, weights
    with best.checkpoint.as_directory() as folder:
        return best.step, _weights_of(Path(folder), work)


def _weights_of(checkpoint: Path, work: Assignment) -> Weights:
    """The trained weights of a checkpoint, joined from its shards where ZeRO cut them."""
    train = work.config.train
    if train.zero_stage == 0:
        (file,) = checkpoint.glob("global_step*/mp_rank_00_model_states.pt")
        module: Weights = torch.load(file, map_location="cpu", weights_only=False)["module"]
        return module
    joined: Weights = get_fp32_state_dict_from_zero_checkpoint(
        str(checkpoint), exclude_frozen_parameters=train.method != "full"
    )
    return joined


def _save_model(work: Assignment, weights: Weights, parent: Path, folder: Path) -> None:
    """Write the parent with the trained weights in it, adapters merged and beside it, in the precision of the training.

    Starting from the parent anew leaves behind what the trainer changed for its own use (config, forward, wrappers).
    Merging is done in fp32 and rounded once. What qlora trained on a parent in four bits is merged into the parent as it
    stands, so its adapter is true of that, too.
    """
    unset_hf_deepspeed_config()  # else ZeRO-3 would partition this model too, and wait for the other ranks
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    if work.config.train.method == "full":
        model.load_state_dict(weights)
    else:
        adapted = get_peft_model(model, lora(work.config.train))
        set_peft_model_state_dict(adapted, get_peft_model_state_dict(adapted, weights, save_embedding_layers=False))
        save_adapter(adapted, work.inputs[0], parent, folder)
        model = adapted.merge_and_unload(adapter_names=["default"])
    model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision(work.config.train)]).save_pretrained(folder)


def _counts(materials: Materials) -> dict[str, dict[str, int]]:
    counts = {split: dataclasses.asdict(count) for split, count in materials.counts.items()}
    counts["test"]["evaluated"] = len(materials.test.ids)
    return counts


def _metrics(work: Assignment, state: Any, step: int) -> dict[str, Any]:
    """The last logged figures of training, those of the held-out split at the published `step`, and what they cost."""
    train = [entry for entry in state.log_history if "loss" in entry]
    test = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] == step]
    return {
        "steps": state.global_step,
        "published_step": step,
        "num_tokens": state.num_input_tokens_seen,
        "wall_seconds": round(time.time() - work.started_at, 1),
        **run_figures(state.log_history),
        "train": train[-1] if train else {},
        "eval": {key.removeprefix("eval_"): value for key, value in test[-1].items()} if test else {},
    }
