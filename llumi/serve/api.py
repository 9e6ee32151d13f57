"""What the service takes and gives: the bodies of its routes, and errors in OpenAI's form.

No answer to a wrong request repeats what it held: a client's logs are no place for the text of a person either.
"""

import json
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llumi.config import ServeConfig
from llumi.engine import Request, Sampling
from llumi.errors import EngineError, LlumiError, PromptRefusedError, PromptTooLongError
from llumi.prompts import Message, Role, gm_prompt, im_prompt, post_text
from llumi.serve.guarded import Guarded

LABEL = "AI-assisted draft: a person reads and edits it before it is sent."
CHAT_MODELS: Mapping[str, Role] = {"llumi-gm": "gm", "llumi-im": "im"}
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Which model answers for a role; `version` changes with its weights."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Canary:
    """The model that answers a share of a role's requests, `weight`, in the place of the stable one."""

    model: ServedModel
    weight: float

    def shown(self) -> dict[str, Any]:
        """As `/v1/models` and `/healthz` show it."""
        return {"version": str(self.model), "weight": self.weight}


class Body(BaseModel):
    """How a reply is drawn, and whose crisis lines stand beside it; null takes the service's default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    stream: bool = False
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    country: str | None = Field(None, pattern=r"^(\*|[A-Za-z]{2})$")

    def sampling(self, config: ServeConfig) -> Sampling:
        """The request's wishes over the defaults of `config`; `max_new_tokens` of the config is the limit."""
        return Sampling(
            max_new_tokens=self.most_tokens(config),
            temperature=config.temperature if self.temperature is None else self.temperature,
            top_p=config.top_p if self.top_p is None else self.top_p,
            seed=secrets.randbits(31) if self.seed is None else self.seed,
        )

    def most_tokens(self, config: ServeConfig) -> int:
        """How long the answer may become."""
        wanted = self.wanted_tokens()
        return config.max_new_tokens if wanted is None else min(wanted, config.max_new_tokens)

    def wanted_tokens(self) -> int | None:
        """How many tokens the client wants at most."""
        raise NotImplementedError

    def messages(self) -> list[Message]:
        """The conversation for the model."""
        raise NotImplementedError

    def request(self, config: ServeConfig) -> Request:
        """What the engine is asked."""
        return Request(tuple(self.messages()), self.sampling(config))


class DraftBody(Body):
    """`POST /v1/draft`: a reply to a post."""

    title: str = ""
    post: str = Field(min_length=1)
    max_new_tokens: int | None = Field(None, ge=1)

    def wanted_tokens(self) -> int | None:
        """See Body."""
        return self.max_new_tokens

    def messages(self) -> list[Message]:
        """See Body."""
        return gm_prompt(post_text(self.title, self.post))


class ImproveBody(DraftBody):
    """`POST /v1/improve`: a revision of the draft that a person wrote."""

    draft: str = Field(min_length=1)

    def messages(self) -> list[Message]:
        """See Body."""
        return im_prompt(post_text(self.title, self.post), self.draft)


class TextPart(BaseModel):
    """One part of a message's content, in OpenAI's long form."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn; `name` is taken and not used."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def message(self) -> Message:
        """The turn as the chat template expects it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class ChatBody(Body):
    """`POST /v1/chat/completions`, as OpenAI's clients send it; what has no effect here is taken at its neutral value."""

    model: str
    messages_: list[ChatMessage] = Field(alias="messages", min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    stop: None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    user: str | None = None

    def wanted_tokens(self) -> int | None:
        """See Body."""
        return self.max_completion_tokens or self.max_tokens

    def messages(self) -> list[Message]:
        """See Body; the messages go to the model as they are."""
        return [message.message() for message in self.messages_]


def usage(last: Guarded) -> dict[str, int]:
    """Token counts in OpenAI's names."""
    return {
        "prompt_tokens": last.num_prompt_tokens,
        "completion_tokens": last.num_completion_tokens,
        "total_tokens": last.num_prompt_tokens + last.num_completion_tokens,
    }


def draft_answer(field: Literal["reply", "revision"], model: ServedModel, answer: Guarded) -> dict[str, Any]:
    """The answer of `/v1/draft` and `/v1/improve`."""
    return {field: answer.text, **draft_end(model, answer)}


def draft_end(model: ServedModel, last: Guarded) -> dict[str, Any]:
    """What an answer says beside its text, and what the last event of its stream says."""
    end = {"model": str(model), "finish_reason": last.finish_reason, "usage": usage(last), "label": LABEL}
    return end | last.guard_fields()


def draft_piece(piece: Guarded) -> dict[str, Any]:
    """A piece of its stream; the first brings what stands beside the reply."""
    return {"text": piece.text} | ({} if piece.finish_reason else piece.guard_fields())


@dataclass(frozen=True)
class ChatAnswer:
    """One answer of the chat route; its id and time are the same in every chunk."""

    body: ChatBody
    model: ServedModel
    id: str
    created: int

    @classmethod
    def to(cls, body: ChatBody, model: ServedModel) -> "ChatAnswer":
        """A new answer, dated now."""
        return cls(body, model, f"chatcmpl-{uuid.uuid4().hex}", int(time.time()))

    def by(self, model: ServedModel | None) -> "ChatAnswer":
        """The same answer, of the version that gave it."""
        return replace(self, model=model or self.model)

    def completion(self, answer: Guarded) -> dict[str, Any]:
        """The whole answer in one piece; the guard's fields are LLUMI's own, which OpenAI's clients keep."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}
        return self._envelope("chat.completion", [choice]) | {"usage": usage(answer)} | answer.guard_fields()

    def chunk(self, delta: Guarded, *, first: bool) -> dict[str, Any]:
        """One piece of a stream."""
        content: dict[str, Any] = {"role": "assistant"} if first else {}
        if delta.text:
            content["content"] = delta.text
        choice = {"index": 0, "delta": content, "finish_reason": delta.finish_reason, "logprobs": None}
        return self._envelope("chat.completion.chunk", [choice]) | delta.guard_fields()

    def usage_chunk(self, last: Guarded) -> dict[str, Any]:
        """The chunk without choices that ends a stream with `include_usage`."""
        return self._envelope("chat.completion.chunk", []) | {"usage": usage(last)}

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.body.model,
            "system_fingerprint": str(self.model),
            "choices": choices,
        }


def model_list(models: Mapping[Role, ServedModel], canaries: Mapping[Role, Canary]) -> dict[str, Any]:
    """The answer of `/v1/models`; `version` tells which artifact stands behind a name, `canary` which one beside it."""
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "llumi", "version": str(models[role])}
            | ({"canary": canaries[role].shown()} if role in canaries else {})
            for name, role in CHAT_MODELS.items()
        ],
    }


def event(data: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


class ApiError(Exception):
    """An error as the client sees it: a status, a body in OpenAI's form, and what the status asks for in the headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(
    status: int, message: str, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> ApiError:
    """What the client can correct."""
    return ApiError(status, message, kind="invalid_request_error", code=code, param=param, headers=headers)


def no_entry(message: str, *, known: bool) -> ApiError:
    """401 for a key that is missing, or (`known` to be one) opens nothing; the header is that of RFC 6750."""
    challenge = 'Bearer realm="llumi"' + (', error="invalid_token"' if known else "")
    headers = {"WWW-Authenticate": challenge}
    return ApiError(401, message, kind="invalid_request_error", code="invalid_api_key", headers=headers)


def out_of_scope(scope: str) -> ApiError:
    """403 for a key that is right, and not for this."""
    headers = {"WWW-Authenticate": f'Bearer realm="llumi", error="insufficient_scope", scope="{scope}"'}
    message = f"this key has no scope {scope}; ask whoever runs this service for one that has"
    return ApiError(403, message, kind="invalid_request_error", code="insufficient_scope", headers=headers)


def too_many(message: str, code: str, wait_seconds: float) -> ApiError:
    """429, and after how many seconds it is worth to come again."""
    return ApiError(429, message, kind="rate_limit_error", code=code, headers={"Retry-After": str(max(1, ceil(wait_seconds)))})


def server_error(status: int, message: str, code: str) -> ApiError:
    """What the client cannot help; it may come again later."""
    return ApiError(status, message, kind="server_error", code=code)


def from_llumi(error: LlumiError) -> ApiError:
    """The status that an engine's error stands for."""
    match error:
        case PromptTooLongError():
            return bad_request(400, str(error), "context_length_exceeded", "messages")
        case PromptRefusedError():
            return bad_request(400, str(error), "invalid_messages", "messages")
        case EngineError():
            return server_error(500, str(error), "engine_error")
        case _:
            return server_error(500, str(error), "internal_error")


def from_validation(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """422 for the first of pydantic's problems; neither a value nor an unknown key of the client is repeated."""
    problem = problems[0]
    path = [str(part) for part in problem["loc"] if part != "body"]
    if problem["type"] == "extra_forbidden":
        path, message = path[:-1], "a key that this route does not take"
    elif problem["type"] == "json_invalid":
        path, message = [], "the body is not valid JSON"
    else:
        message = problem["msg"]
    where = ".".join(path) or "body"
    return bad_request(422, f"{where}: {message}", problem["type"], where)
