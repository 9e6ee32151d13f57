"""A conversation as the token ids of a model's own chat template, checked against its context."""

from collections.abc import Sequence
from typing import Any

from llumi.errors import PromptRefusedError, PromptTooLongError
from llumi.prompts import Message


def encode_conversation(tokenizer: Any, messages: Sequence[Message], context_tokens: int) -> list[int]:
    """Token ids that end where the reply begins.

    `tokenizer` is one of transformers, `context_tokens` how many tokens prompt and reply may have together. Raises
    PromptTooLongError where no room is left for a reply, PromptRefusedError where the template does not take these roles.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    except TemplateError:
        roles = ", ".join(message["role"] for message in messages)
        raise PromptRefusedError(
            f"the model's chat template refuses turns of {roles}; send user and assistant by turns"
        ) from None
    # The template writes the special tokens itself.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) >= context_tokens:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens and leaves no room for a reply: the model's context is {context_tokens} tokens"
        )
    return ids
