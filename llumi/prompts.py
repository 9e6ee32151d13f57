"""The GM and the IM conversation: one wording for training, bulk generation and serving.

Both are a single user turn, because chat templates such as Mistral-Instruct-v0.2's refuse a system role.
"""

from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

Role = Literal["gm", "im"]
ROLES: tuple[Role, ...] = get_args(Role)

GM_INSTRUCTION = (
    "Write a short, warm reply to this post. Show that you understood, do not judge, do not diagnose, "
    "and offer one small next step."
)
IM_INSTRUCTION = (
    "Improve this draft of a reply to the post. Keep its meaning and its voice; make it warmer, clearer and safer. "
    "Return the reply only."
)
_POST, _DRAFT = "\n\nPost:\n", "\n\nDraft:\n"


class Message(TypedDict):
    """One turn of a conversation, as chat templates and TRL expect it."""

    role: Literal["system", "user", "assistant"]
    content: str


def post_text(title: str, body: str) -> str:
    """Title and body as one text; either may be empty."""
    return "\n\n".join(part for part in (title.strip(), body.strip()) if part)


def gm_prompt(post: str) -> list[Message]:
    """The conversation that asks GM for a reply to `post`."""
    return [{"role": "user", "content": f"{GM_INSTRUCTION}{_POST}{post}"}]


def im_prompt(post: str, draft: str) -> list[Message]:
    """The conversation that asks IM to revise `draft`, a person's reply to `post`."""
    return [{"role": "user", "content": f"{IM_INSTRUCTION}{_POST}{post}{_DRAFT}{draft}"}]


def asked_about(prompt: Sequence[Message]) -> tuple[str, str | None]:
    """The post and the draft of a conversation that `gm_prompt` or `im_prompt` made; GM's has no draft."""
    instruction, _, given = prompt[0]["content"].partition(_POST)
    if instruction != IM_INSTRUCTION:
        return given, None
    post, _, draft = given.rpartition(_DRAFT)
    return post, draft


def answer(text: str) -> list[Message]:
    """A reply as the completion of either conversation."""
    return [{"role": "assistant", "content": text}]
