"""How large a model is, counted from its `config.json` alone: no weights are read, none are allocated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llumi.config import TrainConfig
from llumi.errors import ModelError
from llumi.train.settings import lora


@dataclass(frozen=True)
class ModelSize:
    """What a model and its training count.

    `parameters` are the parent's; `trainable` is what `train.method` trains of them, or beside them. `in_four_bits` are
    weights that qlora would hold so; `looked_up` are those of an embedding that no matrix product touches. The widths
    are per token: of the residual stream, of all heads together, and of the MLP.
    """

    parameters: int
    trainable: int
    in_four_bits: int
    looked_up: int
    num_layers: int
    num_heads: int
    hidden_width: int
    attention_width: int
    mlp_width: int
    vocabulary: int


def model_size(settings: Mapping[str, Any], train: TrainConfig) -> ModelSize:
    """Build the model of `settings` (a `config.json`) on torch's meta device, adapters included, and count.

    Raises ModelError where transformers knows no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = _model_config(settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = _count(model)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    linear = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    text = config.get_text_config()
    return ModelSize(
        parameters=parameters,
        trainable=parameters if train.method == "full" else _count_adapters(model, train),
        in_four_bits=sum(weight.numel() for weight in linear),
        looked_up=0 if head is None or embedding.weight is head.weight else embedding.weight.numel(),
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        hidden_width=text.hidden_size,
        attention_width=text.num_attention_heads * _head_width(text),
        mlp_width=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
    )


def _model_config(settings: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, __version__

    kind = settings.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ModelError(f"config.json: model_type {kind!r} is none that transformers {__version__} knows")
    return CONFIG_MAPPING[kind].from_dict(dict(settings))


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _count_adapters(model: Any, train: TrainConfig) -> int:
    from peft import get_peft_model

    try:
        adapted = get_peft_model(model, lora(train))
    except ValueError:
        modules = train.lora.target_modules if isinstance(train.lora.target_modules, str) else list(train.lora.target_modules)
        raise ModelError(f"train.lora.target_modules: {modules!r} names no linear layer of this model") from None
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


def _head_width(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
