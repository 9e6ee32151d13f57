"""DPO with each prompt computed once: chosen and rejected reply behind one prompt, in one row, blind to each other.

TRL puts prompt + chosen and prompt + rejected into two rows, so the prompt, which is most of a post with its reply, goes
through the model twice. Here a row holds

    prompt | chosen | last token of the prompt | rejected

The rejected reply has the positions that it would have in a row of its own, and an attention mask hides the chosen reply
from it; the repeated token is there because both replies start from what the model says behind it. The log-probabilities
are those of two rows, up to rounding (Wang et al. 2024, "Accelerating Direct Preference Optimization with Prefix Sharing",
arXiv 2410.20305).

Imported by the worker only: it takes seconds to load.
"""

import dataclasses
import functools
from typing import Any

import torch

from llumi.train.columns import IGNORED

MODEL_TYPES = frozenset(
    "cohere gemma glm granite llama ministral mistral olmo2 phi3 qwen2 qwen3 smollm3 starcoder2".split()  # noqa: SIM905
)
"""Families that attend to all that a mask allows them, and number positions as they are told; a test holds each."""


def can_share_prompt(model: Any, max_length: int) -> bool:
    """Whether the family of `model` is one that is known to give the same figures, for rows of at most `max_length` tokens.

    A mask of our own asks for PyTorch's attention, and it cannot express a sliding window.
    """
    settings = model.config
    window = getattr(settings, "sliding_window", None) if getattr(settings, "use_sliding_window", True) else None
    return (
        settings.model_type in MODEL_TYPES
        and settings._attn_implementation == "sdpa"
        and (window is None or window >= max_length)
    )


@dataclasses.dataclass(frozen=True)
class SharedPrompt:
    """Stands before a model in TRL's DPO trainer, takes its batch of two rows a pair, and answers in that shape."""

    model: Any

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> Any:
        """What the model, with TRL's fused head, says of each token of `input_ids`, shape (2 * pairs, tokens).

        The first half of the rows are chosen, the second half rejected replies to the same prompts; padding is on the right,
        and `labels` are `IGNORED` where no reply is.
        """
        pairs = Pairs.of(attention_mask, labels != IGNORED)
        answer = self.model(
            input_ids=pairs.joined(input_ids),
            attention_mask=pairs.visible(),
            position_ids=pairs.positions(),
            labels=pairs.joined(labels, of_padding=IGNORED),
            **kwargs,
        )
        for name in ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask"):
            if (of_tokens := getattr(answer, name)) is not None:
                setattr(answer, name, pairs.apart(of_tokens))
        return answer


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Where prompt, chosen and rejected reply of each pair lie; `prompt`, `chosen`, `rejected` are tokens, shape (pairs, 1)."""

    prompt: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor
    width: int
    """Of the two rows."""

    @classmethod
    def of(cls, attention_mask: torch.Tensor, completion_mask: torch.Tensor) -> "Pairs":
        """Read from a batch of TRL's, shape (2 * pairs, width)."""
        tokens = attention_mask.sum(dim=1, keepdim=True)
        chosen, rejected = completion_mask.sum(dim=1, keepdim=True).chunk(2)
        return cls(tokens.chunk(2)[0] - chosen, chosen, rejected, attention_mask.size(1))

    @property
    def first(self) -> torch.Tensor:
        """Tokens of prompt and chosen reply, behind which the repeated token lies, shape (pairs, 1)."""
        return self.prompt + self.chosen

    @property
    def tokens(self) -> torch.Tensor:
        """Tokens of each row, padding not counted, shape (pairs, 1)."""
        return self.first + 1 + self.rejected

    @property
    def squares(self) -> torch.Tensor:
        """Pairs of tokens of which one sees the other, both ways, shape (pairs, 1); of one reply alone, its squared length."""
        return self.first**2 + (self.prompt + self.rejected) ** 2 - (self.prompt - 1) ** 2

    def joined(self, of_tokens: torch.Tensor, of_padding: int | None = None) -> torch.Tensor:
        """Values of two rows a pair as those of one, shape (pairs, row); padding keeps what lies behind the rejected reply."""
        chosen, rejected = of_tokens.chunk(2)
        at = self._at
        in_first = chosen.gather(1, at.clamp(max=self.width - 1).expand(len(chosen), -1))
        in_second = rejected.gather(1, self.positions().clamp(max=self.width - 1))
        joined = torch.where(at < self.first, in_first, in_second)
        return joined if of_padding is None else joined.masked_fill(at >= self.tokens, of_padding)

    def positions(self) -> torch.Tensor:
        """The place of each token in a conversation of its own, shape (pairs, row)."""
        return torch.where(self._at < self.first, self._at, self._at - self.first + self.prompt - 1)

    def visible(self) -> torch.Tensor:
        """Which tokens each token sees, true or false, shape (pairs, 1, row, row)."""
        query, key = self._at[..., :, None], self._at[..., None, :]
        first, prompt = self.first[..., None], self.prompt[..., None]
        of_the_other = (query >= first) & (key >= prompt - 1) & (key < first)
        return ((key <= query) & ~of_the_other)[:, None]

    def apart(self, of_tokens: torch.Tensor) -> torch.Tensor:
        """What was said of each next token as of two rows a pair, shape (2 * pairs, width - 1); 0 where no reply is."""
        at = torch.arange(self.width - 1, device=self.prompt.device)[None]
        halves = []
        for replies, behind in ((self.chosen, 0), (self.rejected, self.chosen + 1)):
            is_reply = (at >= self.prompt - 1) & (at < self.prompt - 1 + replies)
            places = (at + behind).clamp(max=of_tokens.size(1) - 1).expand(len(of_tokens), -1)
            halves.append(of_tokens.gather(1, places).masked_fill(~is_reply, 0))
        return torch.cat(halves)

    @functools.cached_property
    def _at(self) -> torch.Tensor:
        return torch.arange(int(self.tokens.max()), device=self.prompt.device)[None]
