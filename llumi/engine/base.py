"""The engine protocol: no more than bulk generation and serving ask of it."""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from llumi.errors import EngineError
from llumi.prompts import Message

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one reply is drawn: greedy at temperature 0; the same seed gives the same reply, whatever shares its batch."""

    max_new_tokens: int = 200
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 17


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to be answered; where not `in_pieces`, an engine may save itself all deltas but the last.

    `adapter` names which of the engine's LoRA adapters answers; null is the model itself.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    in_pieces: bool = True
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of an answer; the last one carries the reason why it ended and the token counts of the whole.

    A replica of the service adds, to the first piece, how long it took from the request's arrival there to the first token,
    and to this piece; an engine sets neither.
    """

    text: str
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    first_token_seconds: float | None = None
    replica_seconds: float | None = None


def require_adapter(name: str | None, there: Iterable[str]) -> None:
    """Raise EngineError where a request names an adapter that the engine has not."""
    if name is not None and name not in there:
        raise EngineError(f"no adapter {name}; there are: {', '.join(there) or 'none'}")


class Engine(Protocol):
    """A loaded model. Errors are raised (EngineError, PromptTooLongError), never yielded."""

    def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Answer `request` piece by piece; closing the iterator early frees its place in the batch."""

    async def close(self) -> None:
        """Free the model; requests that still run end with EngineError."""
