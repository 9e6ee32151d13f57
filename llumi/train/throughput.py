"""How fast a run trains, and how much of its hardware that uses: the formulas, and the clock they are fed by.

Model FLOPs count what the mathematics of a step asks for, whatever the hardware does besides: what gradient checkpointing
computes a second time is not counted, and neither is padding.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
TERA = 1e12

PEAK_TFLOPS = {
    r"B200": 2250,  # HGX B200 data sheet: 4,500 with sparsity
    r"GH200": 989.4,  # GH200 data sheet: 1,979 with sparsity
    r"H200 NVL": 835.5,  # H200 data sheet, NVL: 1,671 with sparsity
    r"H200": 989.4,  # H200 data sheet, SXM: 1,979 with sparsity
    r"H100 NVL": 835.5,  # H100 data sheet, NVL: 1,671 with sparsity
    r"H100 PCIe": 756,  # H100 data sheet, PCIe: 1,513 with sparsity
    r"H100.*HBM3": 989.4,  # H100 data sheet, SXM: 1,979 with sparsity
    r"A100": 312,  # A100 data sheet, SXM and PCIe alike
    r"A40": 149.7,  # A40 data sheet
    r"A30": 165,  # A30 data sheet
    r"A10": 125,  # A10 data sheet
    r"L40S": 362.05,  # L40S data sheet
    r"L40": 181.05,  # L40 data sheet
    r"L4": 121,  # L4 data sheet: 242 with sparsity
    r"RTX 6000 Ada Generation": 364.2,  # Ada white paper, appendix: 728.5 with sparsity
    r"RTX A6000": 154.8,  # RTX A6000 data sheet: 309.7 with sparsity
    r"GeForce RTX 4090": 165.2,  # Ada white paper, appendix, accumulating in fp32: 330.4 with sparsity
    r"GeForce RTX 3090": 71,  # GA102 white paper, appendix, accumulating in fp32: 142 with sparsity
    r"V100S-PCIE.*": 130,  # V100 data sheet, in fp16: it knows no bf16
    r"V100-SXM.*": 125,  # V100 data sheet, SXM2, in fp16
    r"V100-PCIE.*": 112,  # V100 data sheet, PCIe, in fp16
    r"T4": 65,  # T4 data sheet, in fp16
}
"""Dense bf16 TFLOP/s of one GPU, from NVIDIA's data sheets, most of which give twice as much, "with sparsity".

The keys are patterns for what CUDA calls the GPU behind the maker's name, and before its memory.
"""

_MEMORY = r"(?:[ -](?:SXM\d?|PCIE|PCIe))?(?:[ -]\d+GB)?(?: PCIe)?"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the FLOPs of a token follow from; `attention_width` is heads times the size of one.

    Parameters count where they are multiplied with, so an input embedding only where the output layer shares it.
    """

    trained: int
    frozen: int
    layers: int
    attention_width: int


def flops_per_token(shape: ModelShape, length: float, reference: bool = False) -> float:
    """Model FLOPs that one token of a sequence of `length` tokens costs in a training step.

    6 for each trained parameter, 2 forward and 4 backward (PaLM, arXiv 2204.02311, appendix B); 4 for a frozen one (LoRA,
    QLoRA), of whose backward pass only the gradient of the activations is computed. Attention has no weights, so its
    12 x layers x width x length stays the same. `reference` adds the forward pass of DPO's reference model: 2 for each
    parameter of the parent, and 4 of the 12 for attention.
    """
    attention = shape.layers * shape.attention_width * length
    flops = 6 * shape.trained + 4 * shape.frozen + 12 * attention
    if reference:
        flops += 2 * (shape.frozen or shape.trained) + 4 * attention
    return flops


def utilisation(tokens_per_second: float, flops_of_a_token: float, num_devices: int, peak_flops: float) -> float:
    """Model FLOPs utilisation, between 0 and 1: FLOP/s that the model asks for over those the devices can do at most.

    Source: PaLM, arXiv 2204.02311, section 4.1 and appendix B. `peak_flops` is that of one device.
    """
    return tokens_per_second * flops_of_a_token / (num_devices * peak_flops)


def peak_flops_of(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by the name that CUDA gives it; None for one that is not listed, or a slice of one."""
    name = re.sub(r"^(?:NVIDIA|Tesla) (?:Tesla )?", "", device_name)
    for pattern, tflops in PEAK_TFLOPS.items():
        if re.fullmatch(pattern + _MEMORY, name):
            return tflops * TERA
    return None


def peak_memory_bytes(use_gpu: bool) -> int | None:
    """The most that this process has held so far: memory of its GPU, else resident memory; None where nobody counts it."""
    if use_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else None


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the time went between two readings of a clock; an evaluation is in neither."""

    training_seconds: float
    checkpoint_seconds: float


class Clock:
    """Tells the time of training from the time during which training waits; each rank has its own."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._since: float | None = None
        self._waited = self._checkpoints = 0.0

    def start(self) -> None:
        """Begin with the first step; later calls change nothing."""
        if self._since is None:
            self._since, self._waited = self._now(), 0.0

    @contextlib.contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Time during which training waits for a checkpoint."""
        before = self._waited
        try:
            with self.pause():
                yield
        finally:
            self._checkpoints += self._waited - before

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time during which training waits for something else, such as an evaluation."""
        began = self._now()
        try:
            yield
        finally:
            self._waited += self._now() - began

    def read(self) -> Spent:
        """What was spent since the last reading, or since the start."""
        now = self._now()
        training = 0.0 if self._since is None else now - self._since - self._waited
        spent = Spent(max(0.0, training), self._checkpoints)
        self._since, self._waited, self._checkpoints = now, 0.0, 0.0
        return spent


@dataclass(frozen=True, slots=True)
class Seen:
    """What all ranks trained on between two readings; `squares` is the sum of the squared lengths of the sequences."""

    tokens: int
    samples: float
    squares: int

    def __add__(self, other: "Seen") -> "Seen":
        """Both spans together."""
        return Seen(self.tokens + other.tokens, self.samples + other.samples, self.squares + other.squares)

    @property
    def mean_length(self) -> float:
        """The length of the sequence that a token lies in, on average over tokens."""
        return self.squares / self.tokens if self.tokens else 0.0


def step_figures(
    seen: Seen,
    spent: Spent,
    shape: ModelShape | None = None,
    *,
    num_devices: int = 1,
    peak_flops: float | None = None,
    reference: bool = False,
) -> dict[str, float]:
    """What is logged of the steps between two logs: tokens and samples a second, seconds, and `mfu` where it is known.

    Rates are those of training: time of checkpoints and evaluations is not in them.
    """
    seconds = spent.training_seconds
    figures = {"seconds": seconds, "checkpoint_seconds": spent.checkpoint_seconds}
    if seconds > 0:
        figures |= {"tokens_per_second": seen.tokens / seconds, "samples_per_second": seen.samples / seconds}
        if shape and peak_flops:
            cost = flops_per_token(shape, seen.mean_length, reference)
            figures["mfu"] = utilisation(figures["tokens_per_second"], cost, num_devices, peak_flops)
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


def run_figures(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The same figures over a whole run, from its log: rates weighted by time, memory at its highest, checkpoints summed."""
    figures = {}
    for name in ("tokens_per_second", "samples_per_second", "mfu"):
        weighed = [(entry[name], entry["seconds"]) for entry in history if name in entry]
        if weighed:
            figures[name] = sum(rate * seconds for rate, seconds in weighed) / sum(seconds for _, seconds in weighed)
    if any("memory_gib" in entry for entry in history):
        figures["memory_gib"] = max(entry.get("memory_gib", 0.0) for entry in history)
    if any("checkpoint_seconds" in entry for entry in history):
        figures["checkpoint_seconds"] = sum(entry.get("checkpoint_seconds", 0.0) for entry in history)
    return {name: float(f"{value:.6g}") for name, value in figures.items()}
