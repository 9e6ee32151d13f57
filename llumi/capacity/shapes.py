"""The models that a plan can be made for, counted from their published shapes in closed form: no torch, no weights.

`llumi train --dry-run` counts a model of yours, whatever its family, from its own config.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llumi.config import TrainConfig
from llumi.errors import ConfigError
from llumi.train.size import ModelSize


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind, as its config.json says."""

    name: str
    hidden_width: int
    mlp_width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool = False

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token over all layers, in bf16."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_width * 2

    def linear(self) -> Iterator[tuple[str, int, int]]:
        """Name, inputs and outputs of the linear maps of one layer."""
        hidden, heads, keys = self.hidden_width, self.num_heads * self.head_width, self.num_kv_heads * self.head_width
        yield from (("q_proj", hidden, heads), ("k_proj", hidden, keys), ("v_proj", hidden, keys), ("o_proj", heads, hidden))
        yield from ((name, hidden, self.mlp_width) for name in ("gate_proj", "up_proj"))
        yield "down_proj", self.mlp_width, hidden


MODELS = {
    shape.name: shape
    for shape in (
        Shape("135m", 576, 1536, 30, 9, 3, 64, 49152, tied=True),  # HuggingFaceTB/SmolLM2-135M-Instruct
        Shape("7b", 4096, 14336, 32, 32, 8, 128, 32000),  # mistralai/Mistral-7B-Instruct-v0.2
        Shape("8b", 4096, 14336, 32, 32, 8, 128, 128256),  # meta-llama/Llama-3.1-8B-Instruct
        Shape("13b", 5120, 13824, 40, 40, 40, 128, 32000),  # meta-llama/Llama-2-13b-chat-hf
        Shape("70b", 8192, 28672, 80, 64, 8, 128, 128256),  # meta-llama/Llama-3.1-70B-Instruct
    )
}


def find_shape(name: str) -> Shape:
    """The model of this name; raises ConfigError with those that there are."""
    if name.lower() not in MODELS:
        known = ", ".join(MODELS)
        raise ConfigError(f"--model {name}: none that a plan knows; there are {known}; for one of yours: llumi train --dry-run")
    return MODELS[name.lower()]


def size_of(shape: Shape, train: TrainConfig) -> ModelSize:
    """What `model_size` counts on the model itself; raises ConfigError where `train.lora.target_modules` names no layer."""
    maps = list(shape.linear())
    table = shape.vocabulary * shape.hidden_width
    linear = shape.num_layers * sum(inputs * outputs for _, inputs, outputs in maps)
    norms = (2 * shape.num_layers + 1) * shape.hidden_width
    parameters = linear + norms + table * (1 if shape.tied else 2)
    return ModelSize(
        parameters=parameters,
        trainable=parameters if train.method == "full" else _adapters(shape, train),
        in_four_bits=linear,
        looked_up=0 if shape.tied else table,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        hidden_width=shape.hidden_width,
        attention_width=shape.num_heads * shape.head_width,
        mlp_width=shape.mlp_width,
        vocabulary=shape.vocabulary,
    )


def _adapters(shape: Shape, train: TrainConfig) -> int:
    targets = train.lora.target_modules
    adapted = [(inputs, outputs) for name, inputs, outputs in shape.linear() if targets == "all-linear" or name in targets]
    if not adapted:
        raise ConfigError(f"train.lora.target_modules: {targets!r} names no linear layer of {shape.name}")
    return shape.num_layers * train.lora.rank * sum(inputs + outputs for inputs, outputs in adapted)
