"""What a revision may not lose of a draft, and what it may not add to it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field

from llumi.safety.documents import Document, read_document
from llumi.safety.literals import COMMON
from llumi.safety.rules import DEFAULT_FILE as RULES_FILE
from llumi.safety.rules import Lines, Rule, RulesFile, compiled_rule, expanded_terms
from llumi.safety.sentences import Sentences
from llumi.safety.sieve import Judge

DEFAULT_FILE = Path(__file__).with_name("revisions.yaml")


class RevisionsFile(Document):
    """`revisions.yaml` as it is written."""

    terms: dict[str, Lines] = Field(default_factory=dict)
    kept: tuple[Rule, ...]
    added: tuple[Rule, ...]


@dataclass(frozen=True)
class RevisionRules:
    """Rules that hold a revision against its draft."""

    kept: tuple[Judge, ...]
    added: tuple[Judge, ...]

    @classmethod
    def load(cls, path: Path = DEFAULT_FILE) -> Self:
        """The rules of `path`, over its terms and those of the rules that LLUMI ships; raises ConfigError in one line."""
        file = read_document(RevisionsFile, path)
        terms = expanded_terms(read_document(RulesFile, RULES_FILE).terms | file.terms, path)

        def compiled(rules: tuple[Rule, ...]) -> tuple[Judge, ...]:
            return tuple(compiled_rule(rule, terms, f"{path}: rule {rule.name}") for rule in rules)

        return cls(compiled(file.kept), compiled(file.added))

    def lost(self, draft: Sentences, revision: Sentences) -> tuple[str, ...]:
        """The rules of `kept` that the draft matches and the revision does not."""
        return tuple(judge.name for judge in self.kept if judge.finds(draft) and not judge.finds(revision))

    def added_to(self, draft: Sentences, revision: Sentences) -> tuple[str, ...]:
        """The rules of `added` that find in the revision what the draft does not hold."""
        words = _words(" ".join(draft.sentences))
        return tuple(
            judge.name
            for judge in self.added
            if (found := list(judge.matches(revision)))
            and (not judge.finds(draft) or not all(_words(match) <= words for match in found))
        )


def _words(text: str) -> frozenset[str]:
    """Uncommon words, without a plural's s, so that a pill is the same as pills."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return frozenset(word.removesuffix("s") for word in words if word not in COMMON and not word.startswith("i'"))
