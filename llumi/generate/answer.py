"""One actor of bulk generation: it holds an engine, and turns prompts into rows."""

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llumi.config import EndpointConfig, GenerateConfig
from llumi.engine import Engine, Request, Sampling, open_engine
from llumi.engine.endpoint import EndpointEngine
from llumi.errors import EngineError, LlumiError
from llumi.generate.names import Posts, generation_name
from llumi.models import fetch_model
from llumi.prompts import Message, Role, gm_prompt, im_prompt
from llumi.records import GENERATION_SCHEMA
from llumi.storage import Storage

FAILURE = "failure"
"""The column that stands for an engine that could not be opened."""

STOOD_AT = "stood_at"
"""The column beside those of GENERATION_SCHEMA: when the engine that answered stood, in seconds since the epoch."""


@dataclass(frozen=True)
class Work:
    """What an actor needs to know: how to draw, and who answers which posts as what."""

    config: GenerateConfig
    storage: Storage
    role: Role
    model: str
    posts: Posts = "held-out"

    @property
    def endpoint(self) -> EndpointConfig | None:
        """The service that answers, where it is none of our models."""
        return self.config.endpoints.get(self.model)

    @property
    def name(self) -> str:
        """The artifact that comes of it."""
        return generation_name(self.role, self.model, self.posts)


def prompt_seed(seed: int, post_id: str) -> int:
    """The seed of one prompt: its own, yet the same in every run and for every model."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{post_id}".encode()).digest()[:4], "big")


class Answerer:
    """What an actor of Ray Data holds: an engine.

    Where it cannot be opened, the error comes back as a row that `_raise_failure` knows: what is raised in an actor loses
    its type on the way, and Ray prints its traceback.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._opening = asyncio.Lock()
        self._engine: Any = None
        self._stood_at = 0.0

    async def __call__(self, prompts: pa.Table) -> pa.Table:
        """Prompts in, rows of GENERATION_SCHEMA and STOOD_AT out, in the same order; all are with the engine at once."""
        try:
            async with self._opening:
                if self._engine is None:
                    self._engine = await asyncio.to_thread(self._open)
                    self._stood_at = time.time()
        except LlumiError as error:
            return pa.table({FAILURE: [type(error).__name__], "message": [str(error)]})
        rows = await asyncio.gather(*(self._answer(prompt) for prompt in prompts.to_pylist()))
        stood_at = pa.array([self._stood_at] * len(rows), pa.float64())
        return pa.Table.from_pylist(rows, schema=GENERATION_SCHEMA).append_column(STOOD_AT, stood_at)

    def _open(self) -> Engine:
        if self._work.endpoint is not None:
            return EndpointEngine(self._work.endpoint)
        return open_engine(self._work.config.engine, fetch_model(self._work.storage, self._work.model))

    async def _answer(self, prompt: dict[str, str]) -> dict[str, Any]:
        drawn = self._work.config
        seed = prompt_seed(drawn.seed, prompt["post_id"])
        sampling = Sampling(drawn.max_new_tokens, drawn.temperature, drawn.top_p, seed)
        row = self._row(prompt, sampling)
        try:
            async for delta in self._engine.generate(Request(tuple(self._messages(prompt)), sampling, in_pieces=False)):
                row["reply"] = (row["reply"] or "") + delta.text
                row["finish_reason"] = delta.finish_reason
                row["num_prompt_tokens"], row["num_completion_tokens"] = delta.num_prompt_tokens, delta.num_completion_tokens
        except EngineError as error:
            row |= {"reply": None, "error": str(error)}
        return row

    def _messages(self, prompt: dict[str, str]) -> list[Message]:
        return gm_prompt(prompt["post"]) if self._work.role == "gm" else im_prompt(prompt["post"], prompt["draft"])

    def _row(self, prompt: dict[str, str], sampling: Sampling) -> dict[str, Any]:
        return {
            "generation_id": hashlib.sha256(f"{self._work.name}:{prompt['post_id']}:{sampling.seed}".encode()).hexdigest()[:32],
            "post_id": prompt["post_id"],
            "community": prompt["community"],
            "role": self._work.role,
            "model": self._work.model,
            "reply": None,
            "finish_reason": None,
            "error": None,
            "num_prompt_tokens": 0,
            "num_completion_tokens": 0,
            "seed": sampling.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
        }
