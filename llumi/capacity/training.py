"""A stage of training on GPUs: hours, memory under each way to train, bytes between GPUs, and what failures cost."""

from dataclasses import dataclass

from llumi.capacity.failures import best_interval, lost_share
from llumi.capacity.figures import FAILURES, RESTART, ROW_LENGTH, UTILISATION, Range
from llumi.capacity.inputs import Question
from llumi.capacity.shapes import size_of
from llumi.config import Stage, TrainConfig
from llumi.train.flops import hardware_flops
from llumi.train.memory import Memory, checkpoint_bytes, estimate_memory
from llumi.train.plan import plan_steps, stage_flops
from llumi.train.size import ModelSize

HOUR = 3600
WAYS = (("qlora", 0), ("lora", 0), ("lora", 2), ("lora", 3), ("full", 1), ("full", 2), ("full", 3))
"""Methods, and the stages of ZeRO that make a difference to them."""

_ELEMENT = 2  # bytes in bf16


@dataclass(frozen=True)
class Way:
    """One way to train, and what a GPU holds of it."""

    method: str
    zero_stage: int
    memory: Memory
    checkpoint_bytes: int
    fits: bool


@dataclass(frozen=True)
class StagePlan:
    """One stage. `step_seconds` is the work of a step, `network_seconds` what its bytes take on the slowest link.

    They happen at the same time, so that the slower of both decides over `hours`.
    """

    stage: Stage
    examples: Range
    steps: Range
    hours: Range
    step_seconds: Range
    network_bytes: float
    network_seconds: float


@dataclass(frozen=True)
class FailurePlan:
    """Seconds; `lost_share` is of wall time, with a checkpoint at each best interval.

    `hours_between_failures` and `lost_share` go from the worst to the best case.
    """

    checkpoint_seconds: float
    hours_between_failures: Range
    interval_seconds: Range
    lost_share: Range


def on_gpus(question: Question, **changes: object) -> TrainConfig:
    """The settings of `question` on its GPUs, with `changes`."""
    settings = question.train.model_dump() | {"use_gpu": True, "num_workers": question.hardware.num_gpus} | changes
    return TrainConfig.model_validate(settings)


def plan_ways(question: Question, stage: Stage) -> list[Way]:
    """What each way to train takes of one GPU, and whether it has that."""
    return [_way(question, stage, method, zero_stage) for method, zero_stage in WAYS]


def _way(question: Question, stage: Stage, method: str, zero_stage: int) -> Way:
    train = on_gpus(question, method=method, zero_stage=zero_stage, offload="none", nvme_path=None)
    size = size_of(question.shape, train)
    memory = estimate_memory(size, train, stage)
    return Way(method, zero_stage, memory, checkpoint_bytes(size, train), memory.fits(question.hardware.gpu.memory_bytes))


def plan_stage(question: Question, stage: Stage, examples: Range) -> StagePlan:
    """Lay out one stage on so many examples."""
    train = on_gpus(question)
    size = size_of(question.shape, train)
    sent = network_bytes(size, train, train.stage(stage).gradient_accumulation_steps)
    peak = question.hardware.num_gpus * question.hardware.gpu.peak_flops
    flops_per_second = UTILISATION.value * peak
    work = Range(*(_work(size, train, stage, each) for each in _ends(examples)))
    steps = Range(*(float(plan_steps(train, stage, max(1, round(each))).total or 0) for each in _ends(examples)))
    computing = Range(
        work.low * ROW_LENGTH.value.low / flops_per_second.high,
        work.typical * ROW_LENGTH.value.typical / flops_per_second.typical,
        work.high * ROW_LENGTH.value.high / flops_per_second.low,
    )
    step = flops_per_second.under(hardware_flops(size, train, stage))
    network_seconds = sent / _slowest_link(question)
    return StagePlan(
        stage=stage,
        examples=examples,
        steps=steps,
        hours=computing.at_least(steps * network_seconds) * (1 / HOUR),
        step_seconds=Range(step.low * ROW_LENGTH.value.low, step.typical, step.high),
        network_bytes=sent,
        network_seconds=network_seconds,
    )


def _ends(quantity: Range) -> tuple[float, float, float]:
    return quantity.low, quantity.typical, quantity.high


def _work(size: ModelSize, train: TrainConfig, stage: Stage, examples: float) -> float:
    return float(stage_flops(size, train, stage, plan_steps(train, stage, max(1, round(examples)))) or 0)


def network_bytes(size: ModelSize, train: TrainConfig, accumulation: int) -> float:
    """Bytes that one rank sends in a step (ZeRO, arXiv 1910.02054, sec. 7): it receives as many.

    A ring of n ranks moves (n - 1)/n of what is reduced or gathered. Gradients are reduced after each batch, and where ZeRO
    shards nothing of them once a step, both ways; what was updated is gathered once. ZeRO-3 gathers all weights, frozen ones
    too, for each batch's forward and backward pass, and scatters gradients.
    """
    ranks, trained, weights = train.num_workers, size.trainable * _ELEMENT, size.parameters * _ELEMENT
    reductions = accumulation if train.zero_stage >= 2 else 1
    sent = {0: 2 * trained, 1: 2 * trained, 2: (reductions + 1) * trained, 3: reductions * (2 * weights + trained)}
    return sent[train.zero_stage] * (ranks - 1) / ranks


def _slowest_link(question: Question) -> float:
    """A ring crosses from node to node once, so the whole of it goes at the pace of that link."""
    hardware = question.hardware
    return (
        hardware.gpu.link_bandwidth if hardware.num_nodes == 1 else min(hardware.network_bandwidth, hardware.gpu.link_bandwidth)
    )


def plan_failures(question: Question) -> FailurePlan:
    """What failures cost a run on all GPUs, with its checkpoints on the store."""
    train = on_gpus(question)
    write = checkpoint_bytes(size_of(question.shape, train), train) / question.hardware.store_bandwidth
    between = FAILURES.value * (HOUR / question.hardware.num_gpus)
    intervals = [best_interval(write, seconds) for seconds in _ends(between)]
    restarts = (RESTART.value.high, RESTART.value.typical, RESTART.value.low)
    lost = [
        lost_share(interval, write, seconds, restart + write)
        for interval, seconds, restart in zip(intervals, _ends(between), restarts, strict=True)
    ]
    return FailurePlan(write, between * (1 / HOUR), Range(*intervals), Range(*lost))
