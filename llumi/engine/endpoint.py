"""A service in this network that speaks OpenAI's chat route, behind the engine protocol: a baseline to compare with."""

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import httpx

from llumi.config import EndpointConfig
from llumi.engine.base import Delta, FinishReason, Request
from llumi.errors import ConfigError, EngineError, PromptRefusedError

ATTEMPTS = 5
PAUSE_SECONDS = 1.0
"""Before the second attempt; each later one waits twice as long."""

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


def check_in_house(where: str, endpoint: EndpointConfig) -> None:
    """Raise ConfigError where the host of `endpoint` is unknown, or has an address outside of private networks.

    Posts are sent to it, and no text of a person may leave the network.
    """
    host = urlsplit(endpoint.url).hostname or ""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        raise ConfigError(f"{where}.url: no host {host} in this network; correct the name") from None
    for address in sorted(map(str, addresses)):
        if ipaddress.ip_address(address.partition("%")[0]).is_global:
            raise ConfigError(
                f"{where}.url: {host} is {address}, a public address; text of people must not leave the network: "
                "give a service inside it"
            )
    if endpoint.key_variable is not None and not os.environ.get(endpoint.key_variable):
        raise ConfigError(f"{where}.key_variable: {endpoint.key_variable} is not in the environment; export the key first")


class EndpointEngine:
    """Asks the service for whole replies, `max_in_flight` at a time; one that is busy is asked again, with pauses."""

    def __init__(self, endpoint: EndpointConfig, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._endpoint = endpoint
        self._pause_seconds = pause_seconds
        key = os.environ.get(endpoint.key_variable) if endpoint.key_variable else None
        # No proxy of the environment: the service is in this network.
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=endpoint.timeout_seconds, trust_env=False
        )
        self._places = asyncio.Semaphore(endpoint.max_in_flight)

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The reply as one delta; raises PromptRefusedError for what the service refuses, EngineError where none comes."""
        async with self._places:
            answer = await self._ask(request)
        try:
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            reason: FinishReason = "length" if choice["finish_reason"] == "length" else "stop"
            counts = (int(usage.get(name, 0)) for name in ("prompt_tokens", "completion_tokens"))
            delta = Delta(choice["message"]["content"] or "", reason, *counts)
        except (KeyError, IndexError, TypeError, ValueError):
            raise EngineError(f"{self._endpoint.url}: answers otherwise than OpenAI's chat route") from None
        yield delta

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def _ask(self, request: Request) -> dict[str, Any]:
        drawn = request.sampling
        body = {
            "model": self._endpoint.model,
            "messages": list(request.messages),
            "max_tokens": drawn.max_new_tokens,
            "temperature": drawn.temperature,
            "top_p": drawn.top_p,
            "seed": drawn.seed,
        }
        url = self._endpoint.url
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._pause_seconds * 2 ** (attempt - 1))
            try:
                answer = await self._client.post(f"{url}/chat/completions", json=body)
            except httpx.TransportError as error:
                problem = f"does not answer ({type(error).__name__})"
                continue
            if answer.status_code == httpx.codes.OK:
                return self._read(answer)
            problem = f"answers HTTP {answer.status_code}"
            if answer.status_code not in _BUSY:
                # What it says may quote the post.
                raise PromptRefusedError(f"{url}: {problem} to this prompt")
        raise EngineError(f"{url}: {problem}, {ATTEMPTS} times")

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            return dict(answer.json())
        except (ValueError, TypeError):
            raise EngineError(f"{self._endpoint.url}: answers otherwise than OpenAI's chat route") from None
