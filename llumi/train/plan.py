"""What a training run would do, told before anything starts: steps, parameters, memory, work, and what it would write.

It reads a `config.json` and the metadata of Parquet files; no weights, no GPU and no cluster are needed, and nothing is
written. What does not stand yet (pairs, parent) is named with the command that makes it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from llumi.adapters import ADAPTER_FOLDER
from llumi.config import Config, DpoStageConfig, Stage, TrainConfig
from llumi.errors import ConfigError
from llumi.models import base_settings, model_name, standing_base
from llumi.prompts import Role
from llumi.storage import Manifest, Storage, store_errors
from llumi.train.advice import Verdict, judge
from llumi.train.flops import hardware_flops, reference_flops, step_flops, tokens_per_step
from llumi.train.lineage import STAGE_BEFORE, check_context, model_settings, pairs_command, pairs_name, parent_name
from llumi.train.memory import GIB, Memory, adapter_bytes, checkpoint_bytes, estimate_memory, model_bytes
from llumi.train.settings import check_passthrough
from llumi.train.size import ModelSize, model_size

ASSUMED_UTILISATION = 0.35
"""The share of `train.peak_tflops` that hours are reckoned with: assumed. GPT-3 reached 0.21, PaLM 0.46 (PaLM, table 3)."""


@dataclass(frozen=True)
class Steps:
    """How examples become steps; None where the number of examples is not known yet.

    `last_lacks` is how many examples the last step of an epoch has fewer than the others.
    """

    batch_per_worker: int
    accumulation: int
    workers: int
    examples: int | None
    per_epoch: int | None
    total: int | None
    last_lacks: int | None

    @property
    def global_batch(self) -> int:
        """Examples that one step learns from."""
        return self.batch_per_worker * self.accumulation * self.workers


@dataclass(frozen=True)
class Plan:
    """One stage, laid out. `hours` are none without `train.peak_tflops` or a number of steps; all sizes are estimates.

    `adapter_bytes` are none where no adapter is published beside the model.
    """

    role: Role
    stage: Stage
    config: Config
    parent: str
    pairs: str
    steps: Steps
    size: ModelSize
    memory: Memory
    adapter_bytes: int | None
    hours: float | None
    notes: tuple[str, ...]
    verdict: Verdict | None

    def figures(self) -> dict[str, Any]:
        """The plan as a tree with units in its keys; what is not known is left out."""
        train = self.config.train
        return {
            "starts_from": self.parent,
            "learns_from": self.pairs,
            "method": train.method,
            "batch": {
                "per_worker": self.steps.batch_per_worker,
                "accumulation": self.steps.accumulation,
                "workers": self.steps.workers,
                "global": self.steps.global_batch,
            },
            "steps": _known(
                examples=self.steps.examples,
                per_epoch=self.steps.per_epoch,
                total=self.steps.total,
                last_of_epoch_lacks_examples=self.steps.last_lacks,
            ),
            "parameters": {"total": self.size.parameters, "trainable": self.size.trainable},
            "memory_gib_per_worker": _gib(self.memory) | {"peak": self.memory.peak / GIB},
            "work": _known(
                tokens_per_step_at_most=tokens_per_step(train, self.stage),
                tflop_per_step=step_flops(self.size, train, self.stage) / 1e12,
                tflop_per_step_with_recomputation=hardware_flops(self.size, train, self.stage) / 1e12,
                assumed_utilisation=ASSUMED_UTILISATION if self.hours is not None else None,
                hours=self.hours,
            ),
            "writes": self._writes(),
            "notes": list(self.notes),
        } | _known(verdict=asdict(self.verdict) if self.verdict else None)

    def _writes(self) -> dict[str, Any]:
        train, name = self.config.train, model_name(self.role, self.stage)
        model = {"artifact": f"models/{name}", "gib": model_bytes(self.size, train) / GIB}
        if self.adapter_bytes is not None:
            model["adapter_gib"] = self.adapter_bytes / GIB
        checkpoints = {
            "below": f"checkpoints/{name}",
            "every_steps": train.checkpoint_steps,
            "kept": train.checkpoints_kept,
            "gib_each": checkpoint_bytes(self.size, train) / GIB,
        }
        if not isinstance(train.stage(self.stage), DpoStageConfig):
            return {"model": model, "checkpoints": checkpoints}
        pairs, parent = self.pairs.removeprefix("pairs/"), self.parent.removeprefix("models/")
        return {"model": model, "reference": f"references/{pairs}-{self.role}-by-{parent}", "checkpoints": checkpoints}


def make_plan(config: Config, role: Role, stage: Stage, gpu_memory_gib: float | None = None) -> Plan:
    """Lay out one stage; with `gpu_memory_gib` also judge whether it fits a GPU of that memory.

    Raises what training itself would raise for bad settings (ConfigError, ModelError).
    """
    train = config.train
    check_passthrough(train)
    if gpu_memory_gib is not None and not train.use_gpu:
        raise ConfigError("--gpu-memory: train.use_gpu is false, so no GPU is used; set it to true, or leave --gpu-memory out")
    storage = Storage.open(config.storage, create=False)
    parent = storage.find(_parent(role, stage)) if STAGE_BEFORE[stage] else standing_base(config, storage)
    pairs = storage.find(_pairs(config, stage))
    settings = model_settings(storage, parent) if parent else _base_settings(config, storage)
    check_context(settings, _parent(role, stage), train.max_length)
    examples = _num_examples(storage, pairs, role, stage) if pairs else None
    size = model_size(settings, train)
    steps = plan_steps(train, stage, examples)
    return Plan(
        role=role,
        stage=stage,
        config=config,
        parent=_parent(role, stage),
        pairs=_pairs(config, stage),
        steps=steps,
        size=size,
        memory=estimate_memory(size, train, stage),
        adapter_bytes=_adapter_bytes(size, train, stage, parent),
        hours=_hours(size, train, stage, steps),
        notes=tuple(_notes(config, role, stage, parent, steps)),
        verdict=_verdict(settings, size, train, stage, gpu_memory_gib) if gpu_memory_gib is not None else None,
    )


def plan_steps(train: TrainConfig, stage: Stage, examples: int | None) -> Steps:
    """The steps of a stage over so many examples, as transformers' Trainer and accelerate's loader count them."""
    section = train.stage(stage)
    batch, accumulation, workers = section.batch_size_per_worker, section.gradient_accumulation_steps, train.num_workers
    per_epoch = lacks = None
    total = section.max_steps if section.max_steps > 0 else None
    if examples:
        loads = math.ceil(math.ceil(examples / batch) / workers)
        per_epoch = math.ceil(loads / accumulation)
        lacks = -examples % (batch * accumulation * workers)
        total = total or math.ceil(section.epochs * per_epoch)
    return Steps(batch, accumulation, workers, examples, per_epoch, total, lacks)


def _parent(role: Role, stage: Stage) -> str:
    return f"models/{parent_name(role, stage)}"


def _pairs(config: Config, stage: Stage) -> str:
    return f"pairs/{pairs_name(config, stage)}"


def _base_settings(config: Config, storage: Storage) -> dict[str, Any]:
    """A model that does not stand yet will have the base's shape: training changes no shapes."""
    base = standing_base(config, storage)
    return model_settings(storage, base) if base else base_settings(config.train.base)


def _num_examples(storage: Storage, pairs: Manifest, role: Role, stage: Stage) -> int:
    num = 0
    for file in pairs.files_under(f"{role}-{'sft' if stage == 'sft' else 'dpo'}/train"):
        with store_errors(storage.uri), storage.filesystem.open_input_file(storage.path(pairs.reference, file)) as stream:
            num += int(pq.read_metadata(stream).num_rows)
    return num


def _adapter_bytes(size: ModelSize, train: TrainConfig, stage: Stage, parent: Manifest | None) -> int | None:
    """A parent that does not stand yet is taken to be trained alike."""
    if train.method == "full":
        return None
    before, known = 0, STAGE_BEFORE[stage]
    if known and parent:
        if not (files := parent.files_under(ADAPTER_FOLDER)):
            return None
        before = sum(entry.num_bytes for entry in parent.files if entry.path in files)
    elif known:
        before = _adapter_bytes(size, train, known, None) or 0
    return adapter_bytes(size, before)


def stage_flops(size: ModelSize, train: TrainConfig, stage: Stage, steps: Steps) -> int | None:
    """What all GPUs compute for a stage of full rows, the reference included; none where its steps are not known."""
    if steps.total is None:
        return None
    return steps.total * hardware_flops(size, train, stage) + reference_flops(size, train, stage, steps.examples or 0)


def _hours(size: ModelSize, train: TrainConfig, stage: Stage, steps: Steps) -> float | None:
    work = stage_flops(size, train, stage, steps)
    if train.peak_tflops is None or work is None:
        return None
    return work / (train.num_workers * train.peak_tflops * 1e12 * ASSUMED_UTILISATION) / 3600


def _notes(config: Config, role: Role, stage: Stage, parent: Manifest | None, steps: Steps) -> Iterator[str]:
    """What must come first, and what the figures do not know."""
    train, pairs = config.train, _pairs(config, stage)
    section = train.stage(stage)
    if parent is None and not STAGE_BEFORE[stage]:
        yield f"models/base does not stand yet: the run brings it in from {train.base}, weights and all"
    elif parent is None:
        yield f"{_parent(role, stage)} does not stand yet: run `llumi train {role} {STAGE_BEFORE[stage]}` first"
    if steps.examples is None:
        yield f"{pairs} does not stand yet: run `{pairs_command(config, stage)}` first"
    elif steps.examples == 0:
        yield f"{pairs} holds nothing that {role} {stage} could learn from: training would refuse to start"
    else:
        yield f"of the examples, those above {train.max_length} tokens meet train.too_long={train.too_long} at the start"
    if not isinstance(section, DpoStageConfig) and section.packing:
        yield "packing puts several examples into one row: there will be fewer steps than this"
    if isinstance(section, DpoStageConfig) and section.share_prompt:
        yield "each prompt is computed once for both of its replies: work and hours stay below this where prompts are long"
    if train.peak_tflops is None:
        yield "hours need train.peak_tflops, what one GPU can do (A100 312, H100 SXM 989, bf16)"


def _verdict(settings: Mapping[str, Any], size: ModelSize, train: TrainConfig, stage: Stage, gpu_memory_gib: float) -> Verdict:
    def size_for(method: str) -> ModelSize:
        return size if method == train.method else model_size(settings, train.model_copy(update={"method": method}))

    return judge(train, stage, gpu_memory_gib, size_for)


def _gib(estimate: Memory) -> dict[str, float]:
    return {name: num / GIB for name, num in asdict(estimate).items()}


def _known(**figures: Any) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if value is not None}
