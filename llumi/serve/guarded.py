"""What leaves the guard: text that was judged, and what was decided about it."""

from dataclasses import dataclass
from typing import Any, Literal

from llumi.engine import FinishReason
from llumi.safety import Resource, Tier

Decision = Literal["passed", "regenerated", "own_draft", "fallback", "error"]
"""The model's first reply; its second one; the person's draft as it was; a fixed text, since the model's were refused, or
since they could not be judged."""


@dataclass(frozen=True)
class Help:
    """What stands beside every reply, whatever the model says; `tier` is null where the post could not be judged."""

    tier: Tier | None
    banner: str | None
    resources: tuple[Resource, ...]

    def fields(self) -> dict[str, Any]:
        """As an answer carries it."""
        return {"banner": self.banner, "resources": [resource.model_dump(exclude={"locales"}) for resource in self.resources]}


@dataclass(frozen=True)
class Guarded:
    """The next piece of an answer that may be sent; the first and the last carry `help`, the last all that follows it.

    `refused_by` names what refused a reply of the model on the way here. Tokens are those of every reply that the model
    wrote for this answer; one that was broken off counts its pieces. `guard_seconds` is how long it waited for its judges.
    """

    text: str
    help: Help | None = None
    finish_reason: FinishReason | Literal["content_filter"] | None = None
    decision: Decision | None = None
    refused_by: tuple[str, ...] = ()
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    guard_seconds: float = 0.0

    def guard_fields(self) -> dict[str, Any]:
        """The guard's part of an answer: `guard` once it is decided, `banner` and `resources`."""
        if self.help is None:
            return {}
        if self.decision is None:
            return self.help.fields()
        return {
            "guard": {"decision": self.decision, "tier": self.help.tier, "refused_by": list(self.refused_by)}
        } | self.help.fields()
