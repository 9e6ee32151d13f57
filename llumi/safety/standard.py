"""All that a reply is held against before it is sent: rules, numbers and addresses, and for a revision its draft."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from llumi.config import SafetyConfig
from llumi.contacts import AllowList
from llumi.embedding_light import light_embedder
from llumi.errors import ConfigError
from llumi.safety.answers import DEFAULT_FILE as ANSWERS_FILE
from llumi.safety.answers import Answers
from llumi.safety.contacts import contacts
from llumi.safety.disguise import undisguised
from llumi.safety.likeness import LabelledPosts, LabelledReplies, Likeness
from llumi.safety.resources import Resource, Resources
from llumi.safety.revisions import RevisionRules
from llumi.safety.rules import TIERS, SafetyRules, Tier
from llumi.safety.sentences import Sentences

CONTACT = "contact"
RESOURCE_LOST = "resource_lost"
LIKENESS = "likeness"
"""Stand beside the names of rules: a number or address that nobody allowed, a crisis line of the draft that is gone, and a
sentence that is like harmful ones.
"""


@dataclass(frozen=True)
class Standard:
    """Judges without waiting for anything; it can be sent to any worker."""

    rules: SafetyRules
    revisions: RevisionRules
    resources: Resources
    answers: Answers
    extra: tuple[str, ...] = ()
    likeness: Likeness | None = None
    reply_likeness: Likeness | None = None

    @classmethod
    def load(cls, safety: SafetyConfig | None = None, extra: Sequence[str] = ()) -> Self:
        """The files of `safety` (else LLUMI's), with `extra` numbers and domains allowed.

        Raises ConfigError in one line, also where the rules would refuse what the service itself says, where it would give a
        number that is on no list, and where the embedding model of `likeness` is missing.
        """
        safety = safety or SafetyConfig()
        rules, resources, answers = (
            SafetyRules.load(safety.rules),
            Resources.load(safety.resources),
            Answers.load(safety.answers),
        )
        standard = cls(rules, RevisionRules.load(), resources, answers, tuple(extra))
        standard._check_answers(safety.answers or ANSWERS_FILE)
        if not safety.likeness:
            return standard
        return replace(standard, likeness=Likeness.load(LabelledPosts), reply_likeness=Likeness.load(LabelledReplies))

    def _check_answers(self, file: Path) -> None:
        for place, text in self.answers.texts().items():
            refused = self.refusals(text)
            if CONTACT in refused:
                raise ConfigError(
                    f"{file}: {place}: a number or address that is on no list; name it in safety.resources or serve.allowed"
                )
            if refused and not place.startswith("banners"):  # a banner speaks of danger in plain words, and is no reply
                raise ConfigError(
                    f"safety.rules: rule {refused[0]} refuses the service's own words in {file.name}; change either"
                )

    @cached_property
    def allowed(self) -> AllowList:
        """What any reply may give."""
        domains = [entry for entry in self.extra if re.search("[a-z]", entry, re.IGNORECASE)]
        numbers = [entry for entry in self.extra if entry not in domains]
        return AllowList.of([*self.resources.numbers, *numbers], [*self.resources.domains, *domains])

    def warm_up(self) -> None:
        """Load what likeness needs, so that no post waits for it; raises ModelError where it is missing."""
        if self.likeness or self.reply_likeness:
            light_embedder()

    def tier(self, post: str) -> Tier:
        """The tier of a post: by the rules, also as a reader sees its words; and by likeness where they find no risk."""
        return self.tiers([post])[0]

    def tiers(self, posts: Sequence[str]) -> list[Tier]:
        """`tier` of each post, in less time than one by one."""
        plain = [undisguised(post) for post in posts]
        told = [max(map(self.rules.tier, {post, seen}), key=TIERS.index) for post, seen in zip(posts, plain, strict=True)]
        if self.likeness is None:
            return told
        left = [at for at, tier in enumerate(told) if tier == "none"]
        for at, tier in zip(left, self.likeness.tiers([plain[at] for at in left]), strict=True):
            told[at] = tier or "none"
        return told

    def refusals(self, text: str, draft: str | None = None, latest: str | None = None) -> tuple[str, ...]:
        """Why `text` may not be sent, () where it may: names of rules, `CONTACT` and `LIKENESS`.

        Of a text that grows, `latest` is what was not judged yet: likeness, which looks at one sentence at a time and costs
        more than the rules, reads no more than that, and nothing where the rules refuse.
        Nothing may be `RevisionRules.invented`. A revision is held against its `draft` too: it may repeat the draft's
        contacts and stories, and adds nothing that `RevisionRules.added` looks for.
        """
        own = {contact.key for contact in contacts(draft)} if draft is not None else set()
        unknown = any(contact.key not in own and not contact.allowed_by(self.allowed) for contact in contacts(text))
        added = self.revisions.added_to(None if draft is None else Sentences.of(draft), Sentences.of(text))
        plain = undisguised(text)
        hidden = self.rules.refusals(plain) if plain != text else ()
        refused = tuple(dict.fromkeys((*self.rules.refusals(text), *hidden, *((CONTACT,) if unknown else ()), *added)))
        if refused or self.reply_likeness is None:
            return refused
        return (LIKENESS,) if self.reply_likeness.is_harmful(plain if latest is None else undisguised(latest)) else ()

    def lost(self, draft: str, revision: str) -> tuple[str, ...]:
        """What the draft holds and the revision has to hold: questions about safety, and crisis lines (`RESOURCE_LOST`)."""
        left = self.lines_of(draft) - self.lines_of(revision)
        return (*self.revisions.lost(Sentences.of(draft), Sentences.of(revision)), *((RESOURCE_LOST,) if left else ()))

    def lines_of(self, text: str) -> frozenset[str]:
        """The crisis lines that a text names: by number, address, name, or the word to send to a text line."""
        named = {contact.key for contact in contacts(text) if contact.allowed_by(self.allowed)}
        short = {number for number in self._short if re.search(rf"(?<![0-9]){number}(?![0-9])", text)}
        words = {name for resource in self.resources.resources for name in _names(resource) if _has_word(text, name)}
        return frozenset(named | short | words)

    @cached_property
    def _short(self) -> tuple[str, ...]:
        return tuple({number for number in self.resources.numbers if re.fullmatch("[0-9]{3,6}", number)})


def _names(resource: Resource) -> list[str]:
    keyword = [resource.text.split()[0]] if resource.text else []
    return keyword if resource.emergency else [resource.name, *keyword]


def _has_word(text: str, name: str) -> bool:
    """As written: "Shout" is a service, "to shout" is not."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None
