"""How much a stage computes, in floating-point operations of its matrix products (PaLM, arXiv 2204.02311, app. B)."""

from llumi.config import DpoStageConfig, Stage, TrainConfig
from llumi.train.memory import sequences
from llumi.train.settings import checkpoints_activations
from llumi.train.size import ModelSize
from llumi.train.throughput import ModelShape, flops_per_token


def tokens_per_step(train: TrainConfig, stage: Stage) -> int:
    """Tokens of one step over all workers, every row full."""
    section = train.stage(stage)
    return sequences(train, stage) * section.gradient_accumulation_steps * train.num_workers * train.max_length


def forward_flops(size: ModelSize, row_tokens: int) -> int:
    """Of one token's forward pass: 2 for each weight, and attention to all tokens of its row, as PaLM counts it."""
    return 2 * (size.parameters - size.looked_up) + 4 * size.num_layers * size.attention_width * row_tokens


def step_flops(size: ModelSize, train: TrainConfig, stage: Stage) -> int:
    """Of one step over all workers, as the model needs them: what is computed a second time does not count."""
    weights = size.parameters - size.looked_up
    trained, frozen = (weights, 0) if train.method == "full" else (size.trainable, weights)
    shape = ModelShape(trained, frozen, size.num_layers, size.attention_width)
    return round(tokens_per_step(train, stage) * flops_per_token(shape, train.max_length))


def hardware_flops(size: ModelSize, train: TrainConfig, stage: Stage) -> int:
    """Of one step with what is computed twice: under gradient checkpointing the whole forward pass."""
    again = forward_flops(size, train.max_length) if checkpoints_activations(train) else 0
    return step_flops(size, train, stage) + tokens_per_step(train, stage) * again


def reference_flops(size: ModelSize, train: TrainConfig, stage: Stage, num_examples: int) -> int:
    """Of the reference's log-probabilities, a forward pass for both replies of every pair; none for SFT."""
    if not isinstance(train.stage(stage), DpoStageConfig):
        return 0
    return 2 * num_examples * train.max_length * forward_flops(size, train.max_length)
