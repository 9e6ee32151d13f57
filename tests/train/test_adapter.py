"""The adapter beside a trained model: on the base it is that model, also after several stages."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from llumi.adapters import ADAPTER_FOLDER, adapter_rank, adapter_settings, check_adapter_fits, check_adapter_folder
from llumi.config import LoraConfig, TrainConfig
from llumi.storage import Input
from llumi.train.adapter import save_adapter
from llumi.train.settings import lora

BASE = Input("models/base", "the hash of the base")


def trained(parent: Path, source: Input, folder: Path, **settings: object) -> Path:
    """What a stage on `parent` publishes in `folder`, with random factors in place of learned ones."""
    torch.manual_seed(len(folder.name))
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(parent), lora(TrainConfig(lora=LoraConfig(**settings))))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    save_adapter(adapted, source, parent, folder)
    adapted.merge_and_unload(adapter_names=["default"]).save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(torch.arange(20, 60).reshape(2, 20)).logits


@pytest.fixture
def stages(tiny_model: Path, tmp_path: Path) -> list[Path]:
    """Three models, each from the one before: everything, then two modules by a pattern, then two by name."""
    first = trained(tiny_model, BASE, tmp_path / "sft", rank=4)
    second = trained(first, Input("models/gm-sft", "1"), tmp_path / "dpo1", rank=8, alpha=4, target_modules=".*[qv]_proj")
    third = trained(second, Input("models/gm-dpo1", "2"), tmp_path / "dpo2", rank=2, target_modules=("q_proj", "down_proj"))
    return [first, second, third]


def test_base_and_adapter_are_the_model_after_every_stage(tiny_model: Path, stages: list[Path]):
    for stage, rank in zip(stages, (4, 12, 14), strict=True):
        adapter = stage / ADAPTER_FOLDER
        check_adapter_folder(adapter)
        check_adapter_fits(adapter, tiny_model)
        assert adapter_rank(adapter) == rank
        settings = adapter_settings(adapter)
        assert (settings["base_model_name_or_path"], settings["revision"]) == (BASE.name, BASE.sha256)
        merged = logits(AutoModelForCausalLM.from_pretrained(stage))
        beside = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapter))
        assert torch.allclose(beside, merged, atol=1e-4 * float(merged.abs().max()))
        assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tiny_model)), merged, atol=0.1)


def test_a_parent_that_was_trained_in_full_leaves_no_adapter(tiny_model: Path, tmp_path: Path):
    model = trained(tiny_model, Input("models/gm-sft", "1"), tmp_path / "dpo1", rank=4)
    assert (model / "model.safetensors").is_file()
    assert not (model / ADAPTER_FOLDER).exists()
