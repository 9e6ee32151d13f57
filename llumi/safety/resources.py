"""Crisis lines and their addresses, by country: what a scrubber leaves standing, and what a service shows."""

from functools import cached_property
from pathlib import Path
from typing import Self

from llumi.safety.documents import Document, read_document

DEFAULT_FILE = Path(__file__).with_name("resources.yaml")


class Resource(Document):
    """One service: its `numbers` as people write them, a `text` line ("HOME to 741741"), web `domains`.

    `emergency` services come to a person in danger.
    """

    name: str
    locales: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    text: str | None = None
    domains: tuple[str, ...] = ()
    emergency: bool = False


class Resources(Document):
    """All services; a locale is an upper-case country code, EU for all of the Union, or * for everywhere."""

    resources: tuple[Resource, ...]

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """From `path`, else the list that LLUMI ships; raises ConfigError in one line."""
        return read_document(cls, path or DEFAULT_FILE)

    def of(self, locale: str) -> tuple[Resource, ...]:
        """The services for a country ("IE"), those for everywhere last; for "*" these alone."""
        everywhere = tuple(resource for resource in self.resources if "*" in resource.locales)
        own = (resource for resource in self.resources if locale.upper() in resource.locales)
        return (*(resource for resource in own if resource not in everywhere), *everywhere)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Every number, that of text lines too."""
        texts = (resource.text.split()[-1] for resource in self.resources if resource.text)
        return (*(number for resource in self.resources for number in resource.numbers), *texts)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Every web domain."""
        return tuple(domain for resource in self.resources for domain in resource.domains)
