"""Crisis lines and their addresses, by country: what a scrubber leaves standing, and what a service shows."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from llumi.safety.documents import Document, read_document

DEFAULT_FILE = Path(__file__).with_name("resources.yaml")
EVERYWHERE = "*"

Locale = Annotated[str, Field(pattern=r"^(\*|[A-Z]{2})$")]
Number = Annotated[str, Field(pattern=r"^\+?[0-9(][0-9 ()-]*[0-9]$")]
TextLine = Annotated[str, Field(pattern=r"^\S.* [0-9]+$")]
Domain = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$")]


class Resource(Document):
    """One service: its `numbers` as people write them, a `text` line ("HOME to 741741"), web `domains`.

    `emergency` services come to a person in danger.
    """

    name: str = Field(min_length=1)
    locales: tuple[Locale, ...] = Field(min_length=1)
    numbers: tuple[Number, ...] = ()
    text: TextLine | None = None
    domains: tuple[Domain, ...] = ()
    emergency: bool = False

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if not (self.numbers or self.text or self.domains):
            raise ValueError(f"{self.name}: no way to reach it; give numbers, text or domains")
        return self


class Resources(Document):
    """All services; a locale is an upper-case country code, EU for all of the Union, or * for everywhere."""

    resources: tuple[Resource, ...] = Field(min_length=1)

    @classmethod
    def load(cls, own: Path | None = None) -> Self:
        """The list that LLUMI ships, with a team's `own` in the place of its countries; raises ConfigError in one line."""
        shipped = read_document(cls, DEFAULT_FILE)
        return shipped if own is None else shipped.replaced_by(read_document(cls, own))

    def replaced_by(self, own: Self) -> Self:
        """With `own` lines for the countries that it names, and these for all others.

        An emergency number gives way to an emergency number alone: a file of helplines takes none away.
        """
        named = {(locale, resource.emergency) for resource in own.resources for locale in resource.locales}
        kept = []
        for resource in self.resources:
            locales = tuple(locale for locale in resource.locales if (locale, resource.emergency) not in named)
            if locales:
                kept.append(resource.model_copy(update={"locales": locales}))
        return type(self)(resources=(*own.resources, *kept))

    def of(self, locale: str) -> tuple[Resource, ...]:
        """The services for a country ("IE"), those for everywhere last; for "*" these alone."""
        everywhere = tuple(resource for resource in self.resources if EVERYWHERE in resource.locales)
        own = (resource for resource in self.resources if locale.upper() in resource.locales)
        return (*(resource for resource in own if resource not in everywhere), *everywhere)

    @cached_property
    def countries(self) -> tuple[str, ...]:
        """Every locale that has a service of its own, by its code."""
        return tuple(sorted({locale for resource in self.resources for locale in resource.locales} - {EVERYWHERE}))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Every number, that of text lines too."""
        texts = (resource.text.split()[-1] for resource in self.resources if resource.text)
        return (*(number for resource in self.resources for number in resource.numbers), *texts)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Every web domain."""
        return tuple(domain for resource in self.resources for domain in resource.domains)
