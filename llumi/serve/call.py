"""One request on its way through the router: who asks, until when, and what the audit log will say of it."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llumi.prompts import Role
from llumi.serve.api import ApiError, ServedModel, out_of_scope, too_many
from llumi.serve.guarded import Decision, Guarded
from llumi.serve.keys import Key, Scope
from llumi.serve.limits import Limits, Taken, Window

CALL: ContextVar["Call"] = ContextVar("call")
"""The request that is being answered; set by the door, and the same object in every task of the request."""

NOTHING_GENERATED = (400, 403, 404, 422, 429, 500, 503)
"""Statuses whose requests cost no tokens; after a timeout, and for who leaves, some were generated and nobody counted them."""

CLIENT_LEFT = 499
"""In the audit log alone: nobody was there to be answered."""


@dataclass
class Call:
    """What is known of a request; `deadline` is in seconds of the event loop's clock, which is the monotonic one.

    `guard` is what the guard decided; null where it was not asked. `status` is what the client was told,
    in the last event of a stream where that is an error, and `refusal` the code of what the client itself caused.
    `queue_seconds` adds up the waits of all draws that a replica took.
    """

    request_id: str
    route: str | None
    deadline: float
    limits: Limits
    key: Key | None = None
    role: Role | None = None
    model: ServedModel | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    guard: Decision | None = None
    status: int | None = None
    refusal: str | None = None
    started: float = field(default_factory=time.monotonic)
    first_token_seconds: float | None = None
    queue_seconds: float | None = None
    guard_seconds: float = 0.0
    _reserved: tuple[Window, Taken] | None = None

    def admit(self, role: Role, model: ServedModel, most_tokens: int) -> None:
        """Let the request through to `role`; raises ApiError 403 without its scope, 429 above the key's tokens.

        What the answer may cost at most is counted until it is known what it did cost.
        """
        self.role, self.model = role, model
        key = self.require(role)
        if key.tokens_per_minute is not None:
            window = self.limits.tokens_of(key)
            if wait := window.wait_seconds(most_tokens, key.tokens_per_minute):
                raise too_many(f"this key has {key.tokens_per_minute} tokens a minute", "tokens_exceeded", wait)
            self._reserved = window, window.take(most_tokens)

    def require(self, scope: Scope) -> Key:
        """The key, which has `scope`; raises ApiError 403 where it has not."""
        if self.key is None or scope not in self.key.scopes:
            raise out_of_scope(scope)
        return self.key

    def refused(self, error: ApiError) -> None:
        """It ends with `error`: kept where nothing was tried, since the client, or the operator, has to change something."""
        if error.status < 500 or error.code == "audit_unavailable":
            self.refusal = error.code

    def first_token(self, at: float) -> None:
        """A model's first token came; that of a second draw is none."""
        if self.first_token_seconds is None:
            self.first_token_seconds = at - self.started

    def answered(self, last: Guarded) -> None:
        """The answer is whole: `last` tells what it took, and what the guard decided."""
        self.guard = last.decision
        self.guard_seconds = last.guard_seconds
        self.prompt_tokens, self.completion_tokens = last.num_prompt_tokens, last.num_completion_tokens

    def settle(self) -> None:
        """The request is over: its key pays for what was generated."""
        if self._reserved is None:
            return
        window, taken = self._reserved
        if self.completion_tokens is not None:
            window.settle(taken, (self.prompt_tokens or 0) + self.completion_tokens)
        elif self.status in NOTHING_GENERATED:
            window.settle(taken, 0)

    def audit_fields(self) -> dict[str, Any]:
        """What the audit log keeps: ids and figures, no text."""
        return {
            "request": self.request_id,
            "key": self.key and self.key.id,
            "route": self.route,
            "role": self.role,
            "model": self.model and str(self.model),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "guard": self.guard,
            "status": self.status,
        }
