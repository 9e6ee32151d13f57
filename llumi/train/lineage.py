"""Which model a stage starts from and which pairs it learns from, and whether what stands in the store is that."""

import json
from collections.abc import Mapping
from typing import Any

from llumi.config import Config, DpoStageConfig, Stage
from llumi.errors import ArtifactError, ConfigError, ModelError
from llumi.models import ensure_base, model_name
from llumi.prompts import Role
from llumi.storage import Manifest, Storage, store_errors

STAGE_BEFORE: dict[Stage, Stage | None] = {"sft": None, "dpo1": "sft", "dpo2": "dpo1"}
"""DPO1 refers to the SFT model, DPO2 to the DPO1 model; SFT starts from the base."""


def parent_name(role: Role, stage: Stage) -> str:
    """The model that a stage starts from, and that DPO refers to: ("gm", "dpo2") gives "gm-dpo1"."""
    before = STAGE_BEFORE[stage]
    return model_name(role, before) if before else "base"


def find_parent(config: Config, storage: Storage, role: Role, stage: Stage) -> Manifest:
    """The parent's manifest; a base that does not stand yet is brought in.

    Raises ModelError where the parent is missing, or is not what its name says: trained from another model than the one
    that stands in its line.
    """
    before = STAGE_BEFORE[stage]
    if before is None:
        return ensure_base(config, storage)
    name = model_name(role, before)
    parent = storage.find(f"models/{name}")
    if parent is None:
        raise ModelError(
            f"models/{name}: not trained yet, and {role} {stage} starts from it; run `llumi train {role} {before}` first"
        )
    _check_origin(storage, parent, role, before)
    return parent


def find_pairs(config: Config, storage: Storage, stage: Stage) -> Manifest:
    """The manifest of the pairs that a stage learns from; raises ArtifactError with the command that makes them."""
    name = pairs_name(config, stage)
    pairs = storage.find(f"pairs/{name}")
    if pairs is None:
        raise ArtifactError(f"{storage.uri}/pairs/{name}: not built yet; run `{pairs_command(config, stage)}` first")
    return pairs


def pairs_name(config: Config, stage: Stage) -> str:
    """The pairs that a stage learns from: its own, or those that all stages share."""
    section = config.train.stage(stage)
    return (section.pairs if isinstance(section, DpoStageConfig) else None) or config.pairs.name


def pairs_command(config: Config, stage: Stage) -> str:
    """What makes them."""
    name = pairs_name(config, stage)
    return "llumi pairs build" if name == config.pairs.name else f"llumi pairs add {name} FILE"


def _check_origin(storage: Storage, model: Manifest, role: Role, stage: Stage) -> None:
    expected = f"models/{parent_name(role, stage)}"
    origin = model.inputs[0] if model.inputs else None
    if model.name != model_name(role, stage) or origin is None or origin.name != expected:
        found = f"{model.name}, made from {origin.name if origin else 'nothing that it names'}"
        raise ModelError(
            f"models/{model_name(role, stage)}: a wrong parent ({found}), where one made from {expected} is expected; "
            f"run `llumi train {role} {stage}` again"
        )
    standing = storage.find(expected)
    if standing is not None and standing.as_input() != origin:
        raise ModelError(
            f"{model.reference}: made from another {expected} than the one that stands; run `llumi train {role} {stage}` again"
        )


def model_settings(storage: Storage, model: Manifest) -> dict[str, Any]:
    """The `config.json` of a model that stands; raises ModelError where it has none."""
    path = storage.path(model.reference, "config.json")
    try:
        with store_errors(storage.uri), storage.filesystem.open_input_file(path) as stream:
            settings: dict[str, Any] = json.loads(stream.read())
    except FileNotFoundError:
        raise ModelError(f"{model.reference}: no config.json; this is no whole model, make it again") from None
    return settings


def check_context(settings: Mapping[str, Any], parent: str, max_length: int) -> None:
    """Raise ConfigError where a model cannot read as many tokens."""
    context = settings.get("max_position_embeddings")
    if context is not None and max_length > context:
        raise ConfigError(f"train.max_length: {max_length} is above the {context} tokens that {parent} can read")
