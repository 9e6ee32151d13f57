"""LoRA adapters as PEFT writes them, made with numpy alone: random, strong enough to change every reply; and their replies."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from llumi.adapters import tensor_shapes
from llumi.engine import Request

MODULES = ("q_proj", "down_proj")
SCALE = 0.4
"""Of the weights: at this size an adapter of the tiny model says something else than the model."""


def write_adapter(
    folder: Path,
    model: Path,
    *,
    seed: int = 1,
    rank: int = 4,
    wider: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """An adapter for the linear modules `MODULES` of every layer of `model`, in `folder`; `wider` is of a larger model."""
    numbers = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for name, shape in tensor_shapes(model / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module.endswith(MODULES):
            size_out, size_in = (2 * size for size in shape) if wider else shape
            for part, size in (("A", (rank, size_in)), ("B", (size_out, rank))):
                drawn = (SCALE * numbers.standard_normal(size)).astype(np.float32)
                weights[f"base_model.model.{module}.lora_{part}.weight"] = drawn
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    own = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model), "r": rank, "lora_alpha": rank,
        "target_modules": list(MODULES), "lora_dropout": 0.0, "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(own | dict(settings or {})))
    return folder


def merged_reply(model: Path, adapter: Path | None, request: Request) -> str:
    """The greedy reply of transformers, from `model` with `adapter` merged into it by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, weights = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    if adapter:
        weights = PeftModel.from_pretrained(weights, adapter).merge_and_unload()
    text = tokenizer.apply_chat_template(list(request.messages), add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    reply = weights.generate(**ids, max_new_tokens=request.sampling.max_new_tokens, do_sample=False)
    # A character that the limit cuts off is left out by engines, and shown as a mark by transformers.
    return tokenizer.decode(reply[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).rstrip("\ufffd")
