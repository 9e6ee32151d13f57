"""Engines: `open_engine` gives the one that the config names."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from llumi.adapters import check_adapter_fits, check_adapter_folder
from llumi.config import EngineConfig
from llumi.engine.base import Delta, Engine, FinishReason, Request, Sampling
from llumi.lean import lean_imports

__all__ = ["Delta", "Engine", "FinishReason", "Request", "Sampling", "check_engine", "open_engine"]


def open_engine(config: EngineConfig, model: Path, adapters: Mapping[str, Path] = MappingProxyType({})) -> Engine:
    """Load the model folder `model` into the engine of `config.kind`, with LoRA adapters by the names that requests use.

    Raises EngineError, or ModelError for a folder that is no model, no adapter, or an adapter of another model.
    """
    for folder in adapters.values() if config.kind != "echo" else ():
        check_adapter_folder(folder)
        check_adapter_fits(folder, model)
    match config.kind:
        case "echo":
            from llumi.engine.echo import EchoEngine

            return EchoEngine(seconds_per_token=config.echo_seconds_per_token, adapters=adapters)
        case "hf":
            with lean_imports():
                from llumi.engine.hf import HfEngine

            return HfEngine(config, model, adapters)
        case "vllm":
            from llumi.engine.vllm import VllmEngine

            return VllmEngine(config, model, adapters)


def check_engine(config: EngineConfig, where: str) -> None:
    """Raise ConfigError for what is wrong in the section `where`, before anything is started on the cluster."""
    # Without keys there is nothing to ask vLLM, whose import takes as long as the start of a cluster.
    if config.kind == "vllm" and config.vllm and importlib.util.find_spec("vllm"):
        from llumi.engine.vllm import check_vllm_keys

        check_vllm_keys(config, where)
