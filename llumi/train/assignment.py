"""What a training run is told by the driver, and what each rank makes ready from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llumi.config import Config, DpoStageConfig, Stage
from llumi.prompts import Role
from llumi.storage import Input, Storage
from llumi.train.columns import Counts, Examples, Objective


@dataclass(frozen=True)
class Assignment:
    """The stage to train, where its inputs lie, and what the artifact will say of them; `name` is that of the artifact."""

    config: Config
    storage: Storage
    role: Role
    stage: Stage
    name: str
    parent: str
    pairs: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    fingerprint: str
    inputs: tuple[Input, ...]
    started_at: float

    @property
    def objective(self) -> Objective:
        """Which columns and which of TRL's trainers."""
        return "dpo" if isinstance(self.config.train.stage(self.stage), DpoStageConfig) else "sft"


@dataclass(frozen=True)
class Materials:
    """What one rank works with, on its own machine: the parent model's folder, and both splits as token columns."""

    parent: Path
    tokenizer: Any
    train: Examples
    test: Examples

    @property
    def counts(self) -> dict[str, Counts]:
        """What became of the examples, by split."""
        return {"train": self.train.counts, "test": self.test.counts}
