"""Which engine a service gets: what is set counts, and `auto` takes what suits the cluster and what is installed."""

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llumi.config import EngineConfig, ServeEngineConfig
from llumi.errors import ConfigError


@dataclass(frozen=True)
class Installed:
    """Which packages are here; every node has the same."""

    torch_for_gpus: bool
    vllm: bool

    @classmethod
    def look(cls) -> "Installed":
        """Look without importing either, which would take as long as the start of a cluster."""
        return cls("+cpu" not in importlib.metadata.version("torch"), importlib.util.find_spec("vllm") is not None)


@dataclass(frozen=True)
class Choice:
    """The engine, and one line for whoever starts the service: which it is, on what, and why."""

    engine: EngineConfig
    line: str


def choose_engine(
    asked: ServeEngineConfig, wanted: int, nodes: Sequence[Mapping[str, float]], installed: Installed | None = None
) -> Choice:
    """The engine for `wanted` replicas on `nodes`, each given by its Ray resources; `installed` null looks here.

    With GPUs, `auto` is `vllm` with a GPU for each replica; `hf` where vLLM is not installed, or where replicas have to share
    a GPU, of which vLLM takes the memory whole. Without, it is `hf` on the CPU. Raises ConfigError where `num_gpus` asks for
    more than `hf` can use and vLLM is not there.
    """
    if asked.kind == "echo":
        return _chosen(asked, "echo", 0, "serve.engine.kind is echo")
    installed = installed or Installed.look()
    num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if asked.num_gpus is not None:
        each, why = asked.num_gpus, f"serve.engine.num_gpus is {asked.num_gpus:g}"
    elif not num_gpus:
        each, why = 0.0, "no GPU in this cluster"
    elif not installed.torch_for_gpus:
        each, why = 0.0, f"GPUs in this cluster: {num_gpus}, but torch here is built for CPUs alone"
    elif asked.kind == "vllm" or (asked.kind == "auto" and asked.ranks > 1):
        each, why = float(asked.ranks), f"GPUs in this cluster: {num_gpus}"
    else:
        each, why = _share(-(-wanted // num_gpus)), f"GPUs in this cluster: {num_gpus}, for {wanted} replicas"
    if asked.kind != "auto":
        return _chosen(asked, asked.kind, each, f"serve.engine.kind is {asked.kind}; {why}")
    return _automatic(asked, each, why, installed)


def _share(engines: int) -> float:
    """What each of them has of one GPU; Ray counts in ten-thousandths."""
    return 10_000 // engines / 10_000


def _automatic(asked: ServeEngineConfig, each: float, why: str, installed: Installed) -> Choice:
    if not each:
        return _chosen(asked, "hf", each, why)
    if not installed.vllm:
        if each > 1:
            raise ConfigError(
                f"serve.engine.num_gpus: {each:g} GPUs for one model need vLLM, which is not installed; "
                "pip install vllm on every node, or set num_gpus 1"
            )
        return _chosen(asked, "hf", each, f"{why}; vLLM is not installed, and would be faster for many: pip install vllm")
    if each < 1 and asked.num_gpus is None:
        return _chosen(asked, "hf", each, f"{why}; vllm would want a GPU for each")
    return _chosen(asked, "vllm", each, why)


def _chosen(asked: ServeEngineConfig, kind: Literal["hf", "vllm", "echo"], num_gpus: float, why: str) -> Choice:
    engine = EngineConfig(**asked.model_dump(exclude={"kind", "num_gpus"}), kind=kind, num_gpus=num_gpus)
    return Choice(engine, f"echo ({why})" if kind == "echo" else f"{kind} on {_place(num_gpus)} ({why})")


def _place(num_gpus: float) -> str:
    if num_gpus <= 1:
        return "a GPU each" if num_gpus == 1 else "shared GPUs" if num_gpus else "CPU"
    return f"{num_gpus:g} GPUs each"
