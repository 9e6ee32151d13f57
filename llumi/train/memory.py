"""What one GPU must hold while a stage trains: an estimate from sizes and settings, before anything is leased.

Weights, gradients and optimizer states are counted as in ZeRO (arXiv 1910.02054, sec. 3.1 and 5), what DeepSpeed 0.19
allocates around them as its source says. Activations are counted as in Korthikanti et al. (arXiv 2205.05198, sec. 4), term
by term, for the layers that transformers runs: a gated MLP, norms that compute in fp32, and attention that never keeps its
scores. Every row is taken to be full (`train.max_length` tokens), so that the figure is of the worst batch.
"""

from dataclasses import dataclass
from typing import Any

from llumi.config import DpoStageConfig, Stage, TrainConfig
from llumi.train.settings import checkpoints_activations, deepspeed_config, precision
from llumi.train.size import ModelSize

GIB = 2**30
SPARE = 0.10
"""What CUDA, NCCL and a fragmented allocator take besides, as a share of the estimate: assumed, not measured."""

HEAD_TILE = (4096, 32768)
"""Tokens and vocabulary of the tile in which TRL 1.16 computes log-probabilities: there never are whole logits."""

DEEPSPEED_DEFAULTS = {
    "reduce_bucket_size": 500_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "sub_group_size": 1_000_000_000,
}
"""Keys of `zero_optimization` that set aside memory, in numbers of parameters."""

_FP32 = 4
_MOMENTS = 2 * _FP32
_FOUR_BITS = (4 + 0.127) / 8
"""Bytes of a weight in NormalFloat with constants that are quantized, too (arXiv 2305.14314, sec. 3)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker, by purpose; `offloaded` are those on its host or NVMe disk, the others are on its GPU.

    `activations` are there during forward and backward pass, `step` (gradients in fp32) while the optimizer works: never
    both.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    step: int
    offloaded: int

    @property
    def peak(self) -> int:
        """The most that is held at one time."""
        return self.weights + self.gradients + self.optimizer + self.buffers + max(self.activations, self.step)

    def fits(self, gpu_bytes: float) -> bool:
        """Whether the peak leaves `SPARE` of itself free on a GPU of so many bytes."""
        return self.peak * (1 + SPARE) <= gpu_bytes


def estimate_memory(size: ModelSize, train: TrainConfig, stage: Stage) -> Memory:
    """The memory of one worker in a stage of `train`.

    DPO holds no reference model (its log-probabilities are computed once and kept), but chosen and rejected are rows of
    their own: they double the batch.
    """
    element, zero = _element(train), train.zero_stage
    ranks = train.num_workers
    weights = _weights(size, train) // (ranks if zero == 3 else 1)
    gradients = size.trainable * element // (ranks if zero >= 2 else 1)
    optimizer = size.trainable * _optimizer_bytes(train) // (ranks if zero >= 1 else 1)
    away = train.offload != "none"
    moved = {"weights": away and zero == 3, "gradients": away and zero >= 2, "optimizer": away}
    held = {"weights": weights, "gradients": gradients, "optimizer": optimizer}
    return Memory(
        **{name: 0 if moved[name] else num for name, num in held.items()},
        buffers=_buffers(size, train),
        activations=_activations(size, train, stage),
        step=0 if away else _step(size, train),
        offloaded=sum(num for name, num in held.items() if moved[name]),
    )


def checkpoint_bytes(size: ModelSize, train: TrainConfig) -> int:
    """The size of one checkpoint over all ranks: what is trained, its fp32 copy and its moments.

    Frozen weights are not in it. ZeRO-3 saves the fp32 copy alone, which stands for the weights.
    """
    weights = 0 if train.zero_stage == 3 else _element(train)
    return size.trainable * (weights + _optimizer_bytes(train))


def model_bytes(size: ModelSize, train: TrainConfig) -> int:
    """The size of the published model, adapters merged."""
    return size.parameters * _element(train)


def adapter_bytes(size: ModelSize, before: int) -> int:
    """The size of the adapter beside it, in fp32: that of the model before, of so many bytes, and what is trained."""
    return before + size.trainable * _FP32


def sequences(train: TrainConfig, stage: Stage) -> int:
    """Rows that one worker passes through the model at once."""
    section = train.stage(stage)
    return section.batch_size_per_worker * (2 if isinstance(section, DpoStageConfig) else 1)


def _element(train: TrainConfig) -> int:
    return {"fp32": 4, "bf16": 2}[precision(train)]


def _weights(size: ModelSize, train: TrainConfig) -> int:
    beside = 0 if train.method == "full" else size.trainable
    four_bits = size.in_four_bits if train.method == "qlora" else 0
    return int(four_bits * _FOUR_BITS) + (size.parameters - four_bits + beside) * _element(train)


def _optimizer_bytes(train: TrainConfig) -> int:
    """AdamW's two moments, and a copy in fp32 to sum small updates in.

    Where weights are fp32 already, ZeRO copies what a rank is to update all the same.
    """
    return _MOMENTS + (_FP32 if train.zero_stage or precision(train) == "bf16" else 0)


def _buffers(size: ModelSize, train: TrainConfig) -> int:
    """The bucket in which DeepSpeed reduces gradients, allocated whole however few there are; weights gathered by ZeRO-3."""
    zero = deepspeed_config(train)["zero_optimization"] if train.zero_stage else {}
    bucket = _number(zero, "reduce_bucket_size", auto=size.hidden_width**2)
    if train.zero_stage == 0:
        return min(bucket, size.trainable) * _element(train) if train.num_workers > 1 else 0
    twice = 2 if train.zero_stage < 3 and zero.get("overlap_comm") else 1
    live = min(size.parameters, _number(zero, "stage3_max_live_parameters")) if train.zero_stage == 3 else 0
    return (bucket * twice + live) * _element(train)


def _step(size: ModelSize, train: TrainConfig) -> int:
    """Gradients in fp32, as the optimizer takes them: this rank's share, by ZeRO-3 a group after the other."""
    if train.zero_stage == 0:
        return size.trainable * _FP32 if precision(train) == "bf16" else 0
    share = size.trainable // train.num_workers
    if train.zero_stage == 3:
        share = min(share, _number(deepspeed_config(train)["zero_optimization"], "sub_group_size"))
    return share * _FP32


def _number(zero: dict[str, Any], key: str, auto: int = 0) -> int:
    value = zero.get(key, DEEPSPEED_DEFAULTS[key])
    return auto if value == "auto" else int(value)


def _activations(size: ModelSize, train: TrainConfig, stage: Stage) -> int:
    """The inputs of all layers, or all that they keep; and the larger of what the head and one layer work with."""
    rows, element = sequences(train, stage), _element(train)
    tokens = rows * train.max_length
    layer = layer_activation_bytes(size, train, rows, train.max_length)
    backward = 3 * element * size.mlp_width * tokens  # the gradients of the MLP's three products
    if checkpoints_activations(train):
        return size.num_layers * element * size.hidden_width * tokens + max(_head(size, train, tokens), layer + backward)
    return size.num_layers * layer + max(_head(size, train, tokens), backward)


def layer_activation_bytes(size: ModelSize, train: TrainConfig, rows: int, row_tokens: int) -> int:
    """What one layer keeps of so many rows for its backward pass.

    Two norms keep their input in fp32 and their output; where their own weights are trained, also what they multiply with
    them. Attention keeps queries, keys and values (of every head: a batch with padding repeats the shared ones), its output,
    a sum of each head's scores, and the mask. The MLP keeps gate, activated gate, the other branch and their product.
    """
    element, hidden = _element(train), size.hidden_width
    norms = 2 * (_FP32 + element) * hidden + (2 * element * hidden if train.method == "full" else 0)
    attention = 4 * element * size.attention_width + _FP32 * size.num_heads + element * row_tokens
    return rows * row_tokens * (norms + attention + 4 * element * size.mlp_width)


def _head(size: ModelSize, train: TrainConfig, tokens: int) -> int:
    """The last norm, and the log-probabilities tile by tile; gradients are summed in fp32, for the head's weights, too."""
    element, hidden = _element(train), size.hidden_width
    norm_and_copy = (_FP32 + 3 * element) * hidden * tokens
    tile_tokens, tile_words = HEAD_TILE
    tile = min(tokens, tile_tokens) * tile_words * element
    gradients = _FP32 * hidden * (tokens + (size.vocabulary if train.method == "full" else 0))
    return norm_and_copy + tile + gradients
