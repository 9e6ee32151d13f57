"""Phone numbers and web addresses that a reply gives: one that a model made up leads a person in need to a stranger."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llumi.contacts import DATE, EMAIL, GAP, LINK, WORD_TLD, YEARS, AllowList, significant, without_closing_marks

_CUE = r"\b(?:call|text|dial|ring|phone|reach|number|(?:hot|help|life|crisis )?lines?|send \w+ to)\b[^.!?\n0-9]{0,20}?"
_LONG = re.compile(rf"(?<![0-9])\+?[(]?[0-9](?:{GAP}{{0,3}}[0-9]){{6,14}}(?![0-9])")
_SHORT = re.compile(rf"{_CUE}(?P<number>\b[0-9](?:[ -]?[0-9]){{2,5}}\b)(?!{GAP}{{0,3}}[0-9])", re.IGNORECASE)
_NUMERALS = "zero one two three four five six seven eight nine"
_DIGITS = {word: str(digit) for digit, word in enumerate(_NUMERALS.split())} | {"oh": "0"}
_DIGIT = rf"(?:{'|'.join(_DIGITS)})"
_SPELLED = re.compile(
    rf"{_CUE}(?P<number>\b{_DIGIT}(?:[ -]{_DIGIT}){{2,}}\b)|(?P<long>\b{_DIGIT}(?:[ -]{_DIGIT}){{6,}}\b)", re.IGNORECASE
)
_ADDRESS = re.compile(
    rf"{EMAIL}|{LINK}|\b[a-z0-9-]+\.{WORD_TLD}\b(?<!\.me)(?<!\.it)|\b[a-z0-9-]+ (?:dot|\(dot\)|\[dot\]) [a-z]+\b", re.IGNORECASE
)
_FIGURE = re.compile("[0-9]")
_ADDRESS_SIGN = re.compile(r"\.[^\s.]|@|dot|://|[\[(] ?at\b", re.IGNORECASE)
"""One of these is in every address; most replies have none, and are spared the expression."""
_UNSEEN = re.compile("[\u200b-\u200d\u2060\ufeff]")


@dataclass(frozen=True)
class Contact:
    """One number or address; `key` is the same for every way to write it."""

    kind: Literal["number", "address"]
    written: str
    key: str

    def allowed_by(self, allowed: AllowList) -> bool:
        """Whether the list holds it."""
        return allowed.has_number(self.written) if self.kind == "number" else allowed.has_address(self.written)


def contacts(text: str) -> Iterator[Contact]:
    """Every number that may be dialled, in digits or words, and every address; dates and years are none."""
    plain = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    for match in _ADDRESS.finditer(plain) if _ADDRESS_SIGN.search(plain) else ():
        written = without_closing_marks(re.sub(r" [\[(]?dot[\])]? ", ".", match[0], flags=re.IGNORECASE))
        yield Contact("address", written, re.sub(r"^(?:https?://)?(?:www\.)?", "", written.casefold()).rstrip("/"))
    if _FIGURE.search(plain):
        for match in _LONG.finditer(plain):
            if not DATE.search(match[0]) and not YEARS.match(match[0]):
                yield _number(match[0])
        yield from (_number(match["number"]) for match in _SHORT.finditer(plain))
    for match in _SPELLED.finditer(plain):
        words = re.split(r"[ -]", (match["number"] or match["long"]).lower())
        yield _number("".join(_DIGITS[word] for word in words))


def _number(written: str) -> Contact:
    return Contact("number", written, significant(written))
