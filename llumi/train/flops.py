"""How much a stage computes, in floating-point operations of its matrix products (PaLM, arXiv 2204.02311, app. B)."""

from llumi.config import DpoStageConfig, Stage, TrainConfig
from llumi.train.memory import checkpoints_activations, sequences
from llumi.train.size import ModelSize


def tokens_per_step(train: TrainConfig, stage: Stage) -> int:
    """Tokens of one step over all workers, every row full."""
    section = train.stage(stage)
    return sequences(train, stage) * section.gradient_accumulation_steps * train.num_workers * train.max_length


def forward_flops(size: ModelSize, row_tokens: int) -> int:
    """Of one token's forward pass: 2 for each weight, and attention to all tokens of its row, as PaLM counts it."""
    return 2 * (size.parameters - size.looked_up) + 4 * size.num_layers * size.attention_width * row_tokens


def step_flops(size: ModelSize, train: TrainConfig, stage: Stage) -> int:
    """Of one step over all workers, as the model needs them: what is computed a second time does not count.

    For each token 6 a weight: 2 forward, 2 for the gradient of what goes in, 2 for its own. A frozen weight has none of its
    own, so LoRA costs 4 a weight, and 6 for each of the few that it adds.
    """
    weights = size.parameters - size.looked_up
    products = 6 * weights if train.method == "full" else 4 * weights + 6 * size.trainable
    attention = 12 * size.num_layers * size.attention_width * train.max_length
    return tokens_per_step(train, stage) * (products + attention)


def hardware_flops(size: ModelSize, train: TrainConfig, stage: Stage) -> int:
    """Of one step with what is computed twice: under gradient checkpointing the whole forward pass."""
    again = forward_flops(size, train.max_length) if checkpoints_activations(train) else 0
    return step_flops(size, train, stage) + tokens_per_step(train, stage) * again


def reference_flops(size: ModelSize, train: TrainConfig, stage: Stage, num_examples: int) -> int:
    """Of the reference's log-probabilities, a forward pass for both replies of every pair; none for SFT."""
    if not isinstance(train.stage(stage), DpoStageConfig):
        return 0
    return 2 * num_examples * train.max_length * forward_flops(size, train.max_length)
