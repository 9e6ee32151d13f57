"""The fixed words of the service: banners above a reply, and what is said in the place of a refused one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from llumi.safety.documents import Document, read_document
from llumi.safety.resources import Resource
from llumi.safety.rules import Tier

DEFAULT_FILE = Path(__file__).with_name("answers.yaml")
LINES_IN_A_BANNER = 3
NO_EMERGENCY_NUMBER = "your local emergency number"


def _names_where_to_turn(text: str) -> str:
    for place in ("{lines}", "{emergency}"):
        if place not in text:
            raise ValueError(f"does not say {place}, in the place of which the numbers of a country come")
    if re.search("[{}]", text.replace("{lines}", "").replace("{emergency}", "")):
        raise ValueError("a brace that is not of {lines} or {emergency}")
    return text


Words = Annotated[str, Field(min_length=1)]
Banner = Annotated[str, AfterValidator(_names_where_to_turn)]


class Banners(Document):
    """A sentence for each tier that has one."""

    possible: Banner
    imminent: Banner


class Fallbacks(Document):
    """A reply for each role."""

    gm: Words
    im: Words


class Answers(Document):
    """`answers.yaml`; `closing` ends a stream of which something had left already."""

    banners: Banners
    fallbacks: Fallbacks
    closing: Words

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """From `path`, else the words that LLUMI ships; raises ConfigError in one line."""
        return read_document(cls, path or DEFAULT_FILE)

    def texts(self) -> dict[str, str]:
        """Everything the service may say, by its place in the file."""
        banners = {f"banners.{name}": text for name, text in self.banners.model_dump().items()}
        return (
            banners
            | {f"fallbacks.{name}": text for name, text in self.fallbacks.model_dump().items()}
            | {"closing": self.closing}
        )

    def banner(self, tier: Tier | None, resources: Sequence[Resource]) -> str | None:
        """For a tier: none for "none", and the words of "possible" where the tier could not be told (null)."""
        if tier == "none":
            return None
        text = self.banners.imminent if tier == "imminent" else self.banners.possible
        lines = [spoken(resource) for resource in resources if not resource.emergency][:LINES_IN_A_BANNER]
        emergency = next((number for resource in resources if resource.emergency for number in resource.numbers), None)
        return text.format(lines="; ".join(lines), emergency=emergency or NO_EMERGENCY_NUMBER)

    def fallback(self, role: Literal["gm", "im"]) -> str:
        """What is said in the place of a reply of `role`."""
        return self.fallbacks.gm if role == "gm" else self.fallbacks.im


def spoken(resource: Resource) -> str:
    """A service in a line: its name, and the first way to reach it that it has."""
    ways = [*resource.numbers[:1], *([f"text {resource.text}"] if resource.text else []), *resource.domains[:1]]
    return f"{resource.name}, {ways[0]}" if ways else resource.name
