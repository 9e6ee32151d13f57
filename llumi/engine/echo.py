"""The small shipped fake: answers at once with what a handler makes of the conversation."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

from llumi.engine.base import Delta, Request, require_adapter
from llumi.errors import PromptTooLongError

CONTEXT_WORDS = 4096
"""Longest conversation that is taken, so that callers meet the same refusal as with a model."""


def repeat_last_words(request: Request) -> str:
    """The last words of the conversation, as many as the sampling allows: the answer can be told from its request."""
    return " ".join(request.messages[-1]["content"].split()[-request.sampling.max_new_tokens :])


class EchoEngine:
    """For tests, and for measuring what the router adds: no model, one word a delta, a word counts as a token."""

    def __init__(
        self,
        handler: Callable[[Request], str] = repeat_last_words,
        seconds_per_token: float = 0,
        adapters: Iterable[str] = (),
    ) -> None:
        """Requests may name one of `adapters`, which changes nothing."""
        self._handler = handler
        self._seconds_per_token = seconds_per_token
        self._adapters = tuple(adapters)

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Stream the handler's answer word by word; raises PromptTooLongError above CONTEXT_WORDS."""
        require_adapter(request.adapter, self._adapters)
        num_prompt_tokens = sum(len(message["content"].split()) for message in request.messages)
        if num_prompt_tokens >= CONTEXT_WORDS:
            raise PromptTooLongError(f"the prompt has {num_prompt_tokens} words; echo takes {CONTEXT_WORDS}")
        words = self._handler(request).split()
        for index, word in enumerate(words):
            await asyncio.sleep(self._seconds_per_token)
            yield Delta(word if index == 0 else f" {word}")
        yield Delta("", "stop", num_prompt_tokens, len(words))

    async def close(self) -> None:
        """Nothing to free."""
