"""The GM and the IM conversation: one wording for training, bulk generation and serving.

Both are a single user turn, because chat templates such as Mistral-Instruct-v0.2's refuse a system role.
"""

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


class Message(TypedDict):
    """One turn of a conversation, as chat templates and TRL expect it."""

    role: Literal["system", "user", "assistant"]
    content: str


def post_text(title: str, body: str) -> str:
    """Title and body as one text; either may be empty."""
    return "\n\n".join(part for part in (title.strip(), body.strip()) if part)


def gm_prompt(post: str) -> list[Message]:
    """The conversation that asks GM for a reply to `post`."""
    return [{"role": "user", "content": f"{GM_INSTRUCTION}\n\nPost:\n{post}"}]


def im_prompt(post: str, draft: str) -> list[Message]:
    """The conversation that asks IM to revise `draft`, a person's reply to `post`."""
    return [{"role": "user", "content": f"{IM_INSTRUCTION}\n\nPost:\n{post}\n\nDraft:\n{draft}"}]


def answer(text: str) -> list[Message]:
    """A reply as the completion of either conversation."""
    return [{"role": "assistant", "content": text}]
