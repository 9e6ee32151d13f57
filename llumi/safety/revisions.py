"""What a revision may not lose of a draft, what it may not add to it, and what no model may tell of itself."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import Field

from llumi.safety.documents import Document, read_document
from llumi.safety.literals import COMMON
from llumi.safety.rules import DEFAULT_FILE as RULES_FILE
from llumi.safety.rules import Lines, Rule, RulesFile, compiled_rule, expanded_terms
from llumi.safety.sentences import Sentences
from llumi.safety.sieve import Judge, Sieve

DEFAULT_FILE = Path(__file__).with_name("revisions.yaml")


class RevisionsFile(Document):
    """`revisions.yaml` as it is written."""

    terms: dict[str, Lines] = Field(default_factory=dict)
    kept: tuple[Rule, ...]
    added: tuple[Rule, ...]
    invented: tuple[Rule, ...]


@dataclass(frozen=True)
class RevisionRules:
    """Rules that hold a revision against its draft, or any reply against the draft that it does not have."""

    kept: tuple[Judge, ...]
    added: tuple[Judge, ...]
    invented: tuple[Judge, ...]

    @classmethod
    def load(cls, path: Path = DEFAULT_FILE) -> Self:
        """The rules of `path`, over its terms and those of the rules that LLUMI ships; raises ConfigError in one line."""
        file = read_document(RevisionsFile, path)
        terms = expanded_terms(read_document(RulesFile, RULES_FILE).terms | file.terms, path)

        def compiled(rules: tuple[Rule, ...]) -> tuple[Judge, ...]:
            return tuple(compiled_rule(rule, terms, f"{path}: rule {rule.name}") for rule in rules)

        return cls(compiled(file.kept), compiled(file.added), compiled(file.invented))

    def lost(self, draft: Sentences, revision: Sentences) -> tuple[str, ...]:
        """The rules of `kept` that the draft matches and the revision does not."""
        return tuple(judge.name for judge in self.kept if judge.finds(draft) and not judge.finds(revision))

    def added_to(self, draft: Sentences | None, reply: Sentences) -> tuple[str, ...]:
        """The rules that find in the reply what the draft does not hold: those of `added` too where there is a draft."""
        found = (self._of_a_reply if draft is None else self._of_a_revision).found(reply)
        if draft is None:
            return tuple(judge.name for judge in found)
        words = _words(" ".join(draft.sentences))
        return tuple(
            judge.name
            for judge in found
            if not judge.finds(draft) or not all(_words(match) <= words for match in judge.matches(reply))
        )

    @cached_property
    def _of_a_reply(self) -> Sieve:
        return Sieve(self.invented)

    @cached_property
    def _of_a_revision(self) -> Sieve:
        return Sieve(self.added + self.invented)


def _words(text: str) -> frozenset[str]:
    """Uncommon words, without a plural's s, so that a pill is the same as pills."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return frozenset(word.removesuffix("s") for word in words if word not in COMMON and not word.startswith("i'"))
