"""Bulk generation: tokens a second by the roofline of decoding (Pope et al., arXiv 2211.05102, sec. 2.1)."""

import math
from dataclasses import dataclass

from llumi.capacity.figures import DECODING, UTILISATION, Range
from llumi.capacity.inputs import Question
from llumi.capacity.shapes import size_of
from llumi.train.flops import forward_flops

MIN_SEQUENCES, MAX_SEQUENCES = 16, 256
"""Fewer at once waste a GPU; more is above vLLM's own default. `generate.engine.max_batch_size` sets it."""

KV_SHARE = 0.9
"""vLLM's `gpu_memory_utilization`: the share of a GPU that it takes, weights included."""

PROMPT_TOKENS = 400
REPLY_TOKENS = 200
"""`generate.max_new_tokens`; prompts are a post and an instruction, assumed."""

_ELEMENT = 2
_HOUR = 3600


@dataclass(frozen=True)
class GenerationPlan:
    """`gpus_per_engine` hold one model together; `tokens_per_second` is of all engines."""

    gpus_per_engine: int
    engines: int
    sequences: int
    tokens_per_second: Range
    hours: Range


def plan_generation(question: Question) -> GenerationPlan | None:
    """Lay out `llumi generate` with vLLM in bf16; none where all GPUs together do not hold the model.

    A step reads the weights and all keys and values once, and gives a token to each sequence; where many sequences share
    it, products of matrices take longer than that, and decide. Prompts are computed beside.
    """
    hardware, shape = question.hardware, question.shape
    size = size_of(shape, question.train)
    weights, row = size.parameters * _ELEMENT, shape.kv_bytes_per_token * (PROMPT_TOKENS + REPLY_TOKENS)
    together = gpus_to_hold(weights + MIN_SEQUENCES * row, hardware.gpu.memory_bytes)
    if together > hardware.num_gpus:
        return None
    sequences = min(MAX_SEQUENCES, math.floor((together * hardware.gpu.memory_bytes * KV_SHARE - weights) / row))
    engines = hardware.num_gpus // together
    read_seconds = (DECODING.value * (hardware.gpu.memory_bandwidth * together)).under(weights + sequences * row * 0.75)
    flops = forward_flops(size, PROMPT_TOKENS + REPLY_TOKENS) * sequences * (1 + PROMPT_TOKENS / REPLY_TOKENS)
    product_seconds = (UTILISATION.value * (hardware.gpu.peak_flops * together)).under(flops)
    speed = read_seconds.at_least(product_seconds).under(engines * sequences)
    return GenerationPlan(together, engines, sequences, speed, speed.under(question.num_replies * REPLY_TOKENS / _HOUR))


def gpus_to_hold(num_bytes: float, memory: float) -> int:
    """How many GPUs share a model, a power of two, since its heads are cut evenly."""
    return int(2 ** max(0, math.ceil(math.log2(num_bytes / (memory * KV_SHARE)))))
