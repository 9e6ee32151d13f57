"""The formulas by hand, and the clock with a hand of its own."""

import contextlib

import pytest

from llumi.train.throughput import (
    Clock,
    ModelShape,
    Seen,
    Spent,
    flops_per_token,
    peak_flops_of,
    peak_memory_bytes,
    run_figures,
    step_figures,
    utilisation,
)

SEVEN_BILLION = ModelShape(trained=7_000_000_000, frozen=0, layers=32, attention_width=4096)


class Hand:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_token_costs_6_for_a_trained_parameter_4_for_a_frozen_one_and_12_in_attention() -> None:
    attention = 32 * 4096 * 2048
    assert flops_per_token(SEVEN_BILLION, length=2048) == 6 * 7e9 + 12 * attention
    lora = ModelShape(trained=40_000_000, frozen=7_000_000_000, layers=32, attention_width=4096)
    assert flops_per_token(lora, length=2048) == 4 * 7e9 + 6 * 4e7 + 12 * attention


def test_a_reference_model_adds_its_forward_pass() -> None:
    attention = 32 * 4096 * 100
    assert flops_per_token(SEVEN_BILLION, 100, reference=True) == 8 * 7e9 + 16 * attention
    lora = ModelShape(trained=40_000_000, frozen=7_000_000_000, layers=32, attention_width=4096)
    # With the adapters switched off, only the parent's parameters are in the reference.
    assert flops_per_token(lora, 100, reference=True) - flops_per_token(lora, 100) == 2 * 7e9 + 4 * attention


def test_the_figures_of_palm_are_met() -> None:
    # arXiv 2204.02311, section 4.1: 238.3K tokens/s on 6144 chips of 275 TFLOP/s are 46.2 %, and 45.7 % without attention.
    palm = ModelShape(trained=540_350_000_000, frozen=0, layers=118, attention_width=48 * 256)
    assert utilisation(238_300, flops_per_token(palm, 2048), 6144, 275e12) == pytest.approx(0.462, abs=0.001)
    assert utilisation(238_300, flops_per_token(palm, 0), 6144, 275e12) == pytest.approx(0.457, abs=0.001)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-32GB", 112),
        ("Tesla V100S-PCIE-32GB", 130),
        ("Tesla T4", 65),
    ],
)
def test_a_gpu_is_known_by_the_name_that_cuda_gives_it(name: str, tflops: float) -> None:
    assert peak_flops_of(name) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA Graphics Device",
        "",
    ],
)
def test_a_gpu_that_is_not_listed_or_a_slice_of_one_has_no_peak(name: str) -> None:
    assert peak_flops_of(name) is None


def test_the_clock_tells_training_from_what_it_waits_for() -> None:
    hand = Hand()
    clock = Clock(hand)
    with clock.pause():
        hand.seconds += 50  # an evaluation before the first step
    clock.start()
    hand.seconds += 10
    clock.start()
    with clock.checkpoint():
        hand.seconds += 3
    with clock.pause():
        hand.seconds += 4
    hand.seconds += 1
    assert clock.read() == Spent(training_seconds=11, checkpoint_seconds=3)
    hand.seconds += 2
    with contextlib.suppress(OSError), clock.checkpoint():
        hand.seconds += 5
        raise OSError("the disk is full")
    assert clock.read() == Spent(training_seconds=2, checkpoint_seconds=5)
    assert clock.read() == Spent(0, 0)


def test_rates_are_those_of_training() -> None:
    figures = step_figures(Seen(tokens=1200, samples=6, squares=240_000), Spent(2.0, 1.5))
    assert figures == {"seconds": 2, "checkpoint_seconds": 1.5, "tokens_per_second": 600, "samples_per_second": 3}
    # 1200 tokens in 6 sequences of 200: a token's sequence is 200 long.
    shape = ModelShape(trained=1000, frozen=0, layers=2, attention_width=8)
    known = step_figures(Seen(1200, 6, 240_000), Spent(2.0, 0), shape, num_devices=2, peak_flops=1e9)
    assert known["mfu"] == pytest.approx(600 * (6000 + 12 * 2 * 8 * 200) / 2e9)
    assert step_figures(Seen(0, 0, 0), Spent(0, 0), shape, peak_flops=1e9) == {"seconds": 0, "checkpoint_seconds": 0}


def test_a_run_is_weighed_by_time() -> None:
    history = [
        {"step": 1, "loss": 2.0, "seconds": 3.0, "tokens_per_second": 100.0, "memory_gib": 1.5, "checkpoint_seconds": 0.0},
        {"step": 2, "eval_loss": 2.0},
        {"step": 2, "loss": 1.0, "seconds": 1.0, "tokens_per_second": 300.0, "memory_gib": 1.25, "checkpoint_seconds": 2.0},
        {"step": 2, "train_loss": 1.5, "checkpoint_seconds": 0.5},
    ]
    assert run_figures(history) == {"tokens_per_second": 150, "memory_gib": 1.5, "checkpoint_seconds": 2.5}
    assert run_figures([{"step": 1, "loss": 2.0}]) == {}


def test_memory_is_the_most_that_was_held() -> None:
    before = peak_memory_bytes(use_gpu=False)
    assert before is not None
    held = bytearray(b"x") * (before + 2**26)
    del held
    assert peak_memory_bytes(use_gpu=False) >= before + 2**26
