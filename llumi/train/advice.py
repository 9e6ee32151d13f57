"""Whether a stage fits the memory of a GPU, and which settings would make it fit."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llumi.config import Stage, TrainConfig
from llumi.train.memory import GIB, SPARE, estimate_memory
from llumi.train.settings import checkpoints_activations
from llumi.train.size import ModelSize

Change = dict[str, Any]
"""Fields of `train` by their dotted path below it, and what they would be set to."""


@dataclass(frozen=True)
class Verdict:
    """Whether a stage fits, and the line that says so or says what to try."""

    fits: bool
    text: str


def judge(train: TrainConfig, stage: Stage, gpu_memory_gib: float, size_for: Callable[[str], ModelSize]) -> Verdict:
    """Compare the estimate with a GPU of so many GiB; `size_for` counts the model for one `train.method`.

    A single change is preferred to several, and one that leaves the result as it is to one that does not.
    """
    size_for = functools.cache(size_for)

    def fits(settings: TrainConfig) -> bool:
        return estimate_memory(size_for(settings.method), settings, stage).fits(gpu_memory_gib * GIB)

    peak = estimate_memory(size_for(train.method), train, stage).peak / GIB
    needs = f"{gpu_memory_gib:g} GiB: it needs {peak:.1f} GiB and {SPARE:.0%} of that to spare"
    if fits(train):
        return Verdict(True, f"fits {needs}")
    for change in _candidates(_levers(train, stage)):
        if fits(_changed(train, change)):
            settings = " ".join(f"train.{path}={_yaml(value)}" for path, value in change.items())
            return Verdict(False, f"does not fit {needs}; try {settings}")
    return Verdict(False, f"does not fit {needs}; try more GPUs, a smaller train.max_length or a smaller base")


def _levers(train: TrainConfig, stage: Stage) -> Iterator[list[Change]]:
    """What may help, each from its mildest to its strongest setting."""
    section, zero = train.stage(stage), train.zero_stage
    batch, accumulation = section.batch_size_per_worker, section.gradient_accumulation_steps
    yield [] if checkpoints_activations(train) else [{"gradient_checkpointing": True}]
    # As many examples to a step as before.
    smaller = [each for each in range(batch - 1, 0, -1) if batch % each == 0]
    yield [
        {
            f"{stage}.batch_size_per_worker": each,
            f"{stage}.gradient_accumulation_steps": accumulation * batch // each,
        }
        for each in smaller
    ]
    yield [{"zero_stage": each} for each in range(zero + 1, 4)] if train.num_workers > 1 else []
    yield [{"offload": "cpu", "zero_stage": each} for each in range(max(zero, 1), 4)] if train.offload == "none" else []
    weaker = {"full": ("lora", "qlora"), "lora": ("qlora",), "qlora": ()}[train.method]
    yield [{"method": each} for each in weaker]


def _candidates(levers: Iterator[list[Change]]) -> Iterator[Change]:
    """Every setting of every lever by itself; then the strongest of the first two, three, ... levers together."""
    usable = [lever for lever in levers if lever]
    yield from itertools.chain.from_iterable(usable)
    for num in range(2, len(usable) + 1):
        yield _together([lever[-1] for lever in usable[:num]])


def _together(changes: Sequence[Change]) -> Change:
    return {path: value for change in changes for path, value in change.items()}


def _changed(train: TrainConfig, change: Mapping[str, Any]) -> TrainConfig:
    tree = train.model_dump()
    for path, value in change.items():
        *sections, key = path.split(".")
        functools.reduce(lambda branch, name: branch[name], sections, tree)[key] = value
    return TrainConfig.model_validate(tree)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
