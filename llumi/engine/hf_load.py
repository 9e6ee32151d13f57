"""A model folder as the `hf` engine runs it: weights on their device, adapters beside them, and what ends a reply."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache, GenerationConfig

from llumi.config import EngineConfig
from llumi.errors import EngineError, ModelError
from llumi.models import check_model_folder

_BASE = "__base__"
"""PEFT's word for rows of a mixed batch that no adapter answers."""


class LoadedModel:
    """A causal model for inference; `adapters` (LoRA) share its weights, and each row of a batch may have another."""

    def __init__(self, config: EngineConfig, folder: Path, adapters: Mapping[str, Path]) -> None:
        """Load onto a GPU where `num_gpus` asks for one, else the CPU; raises ModelError or EngineError."""
        check_model_folder(folder)
        self.device = _device(config)
        self.tokenizer, model = _load(folder, _precision(config, self.device))
        self.context_tokens: int = model.config.get_text_config().max_position_embeddings
        self.stop_tokens = _stop_tokens(self.tokenizer, model.generation_config)
        if model._is_stateful:
            kind = model.config.model_type
            raise ModelError(f"{folder}: {kind} keeps more than keys and values, which hf cannot batch; set engine.kind=vllm")
        # Not every family takes them.
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._last_alone = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
        # PEFT takes no dots in a name.
        self.adapters = {name: f"adapter-{number}" for number, name in enumerate(adapters)}
        if adapters:
            model = _adapted(model, {self.adapters[name]: folder for name, folder in adapters.items()})
        self._model = model.to(self.device).eval()

    def logits(
        self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache, adapters: Sequence[str | None]
    ) -> torch.Tensor:
        """What comes after the last of `tokens`: logits of shape (rows, vocabulary) in fp32; `cache` grows by the tokens.

        `tokens` and `positions` have shape (rows, tokens), `mask` (rows, tokens in the cache and these), `adapters` a name
        for each row.
        """
        more: dict[str, Any] = dict(self._last_alone)
        if self._takes_positions:
            more["position_ids"] = positions
        if self.adapters:
            more["adapter_names"] = [_BASE if name is None else self.adapters[name] for name in adapters]
        output = self._model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
        last: torch.Tensor = output.logits[:, -1].float()
        return last


def _device(config: EngineConfig) -> torch.device:
    if not config.num_gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EngineError(f"engine.num_gpus: {config.num_gpus:g} asked, but torch sees no GPU here; set it to 0 for the CPU")
    return torch.device("cuda")


def _precision(config: EngineConfig, device: torch.device) -> torch.dtype:
    """bf16 on GPUs, fp32 on CPUs: without AMX a CPU is slower in bf16."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except Exception as error:  # each format of weights brings errors of its own
        raise ModelError(f"{folder}: transformers cannot load it ({_reason(error)})") from None


def _adapted(model: Any, adapters: Mapping[str, Path]) -> Any:
    """`model` with PEFT's layers, which compute each row of a batch with the adapter that is named for it."""
    from peft import PeftModel

    for name, folder in adapters.items():
        try:
            if isinstance(model, PeftModel):
                model.load_adapter(folder, name)
            else:
                model = PeftModel.from_pretrained(model, folder, name)
        except Exception as error:  # as above
            raise ModelError(f"{folder}: PEFT cannot load it ({_reason(error)})") from None
    return model


def _stop_tokens(tokenizer: Any, defaults: GenerationConfig) -> Collection[int]:
    """Every token that ends a reply: the tokenizer's, and those that the model's generation config names."""
    named = defaults.eos_token_id
    tokens = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    if not tokens:
        raise ModelError("the model names no end-of-sequence token; set eos_token in tokenizer_config.json")
    return frozenset(tokens)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
