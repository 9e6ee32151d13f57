"""Phone numbers and web addresses in a text: their shapes, and which of them are allowed.

Scrubbing takes out of the text of people what is not allowed; the service lets no model's answer give it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


def _in_one_case(endings: str) -> str:
    """Endings in lower or in upper case: where a space was lost, "so.At last" is no address."""
    return f"(?-i:{endings}|{endings.upper()})"


TLD = _in_one_case(
    "com|org|net|edu|gov|mil|int|info|biz|io|ai|app|dev|blog|gg|ly|tv|fm|online|site|website|page|link|museum|"
    "uk|ie|de|at|ch|fr|es|pt|nl|dk|se|fi|pl|cz|eu|ca|mx|br|au|nz|jp|cn|kr|ru|za"
)
WORD_TLD = _in_one_case(
    "me|us|in|it|is|be|no|to|my|so|am|as|by|co|club|help|care|life|live|health|support|space|chat|community|today|world"
)
"""Endings that are words too: "tell me.it was" is no address, so these ask for a path or for a hyphen or digit before."""
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_PATH = r"(?:/[^\s<>\"\]]*)?"
EMAIL = (
    r"[\w.!#$%&*+=?^{|}~'-]*[\w+~-]@[\w-]+(?:\.[\w-]+)+"
    r"|[\w.+-]+ ?[\[(] ?at ?[\])] ?[\w-]+(?: ?(?:\.|[\[(] ?dot ?[\])]) ?[\w-]+)+"
    r"|[\w.+-]+ at [\w-]+ dot (?:com|org|net|edu)\b"
)
LINK = (
    r"https?://[^\s<>\"\]]+"
    r"|www\.[^\s<>\"\],]+"
    rf"|(?<![\w@.-])(?:{_LABEL}\.)+{TLD}(?![a-z_-]|\.\w){_PATH}"
    rf"|(?<![\w@.-])(?:{_LABEL}\.)*(?:[a-z0-9]*[0-9-][a-z0-9-]*\.{WORD_TLD}(?![a-z_-]|\.\w){_PATH}|{_LABEL}\.{WORD_TLD}/\w[^\s<>\"\]]*)"
)
GAP = r"[ \u00a0.\-\u2010-\u2015/()]"
"""What may stand between the digits of a phone number."""

DATE = re.compile(r"[0-9]{1,2}[./-][0-9]{1,2}[./-](?:19|20)[0-9]{2}|(?:19|20)[0-9]{2}[./-][0-9]{1,2}[./-][0-9]{1,2}")
YEARS = re.compile(r"(?:(?:19|20)[0-9]{2}(?:\D+|$)){2,}")


@dataclass(frozen=True)
class AllowList:
    """What stays: phone `numbers` in any spacing, and web `domains` with everything below them."""

    numbers: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()

    @classmethod
    def of(cls, numbers: Iterable[str], domains: Iterable[str]) -> Self:
        """From numbers and domains as people write them."""
        return cls(
            frozenset(significant(number) for number in numbers),
            frozenset(domain.casefold().removeprefix("www.") for domain in domains),
        )

    def has_number(self, written: str) -> bool:
        """Whether this is an allowed number; long ones also with a country's prefix before them."""
        digits = significant(written)
        return digits in self.numbers or any(
            len(number) >= 9 and digits.endswith(number) and len(digits) - len(number) <= 3 for number in self.numbers
        )

    def has_address(self, written: str) -> bool:
        """Whether a link or an e-mail address lies on an allowed domain."""
        host = re.split(r"[/?#:]", re.sub(r"^https?://|^[^/]*@", "", written.casefold()), maxsplit=1)[0].removeprefix("www.")
        return any(host == domain or host.endswith(f".{domain}") for domain in self.domains)


def significant(number: str) -> str:
    """The digits without what is dialled or left out at will: leading zeros, and North America's 1."""
    return re.sub(r"^1(?=[0-9]{10}$)", "", re.sub(r"\D", "", number).lstrip("0"))


def without_closing_marks(link: str) -> str:
    """A link without the sentence's own marks at its end, and without a bracket that it did not open."""
    while link and (link[-1] in ".,;:!?'\"*_" or (link[-1] == ")" and link.count(")") > link.count("("))):
        link = link[:-1]
    return link
