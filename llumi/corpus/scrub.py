"""What points to a person outside of the text: user names, e-mail, phone numbers, links, and names under a reply.

Each is replaced by its kind in brackets. Crisis lines and their addresses stay where the caller allows them: a reply
that names one is worth more with it. Shapes are looked for, not meanings: a first name within a sentence stays.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import polars as pl

from llumi.contacts import DATE, EMAIL, GAP, LINK, TLD, WORD_TLD, YEARS, AllowList, without_closing_marks

Kind = Literal["user", "email", "phone", "link", "name"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HELD_OUT = Path(__file__).with_name("scrub_held_out.ndjson")
"""Made-up texts, one a line: a list of plain strings and of `{kind: text to find}`."""

_DIGIT = "[0-9]"
_USER = r"(?<![\w/.])/?u/[\w-]{3,20}|(?<![\w@./])@[a-z_]\w+(?:\.\w+)*"
_CUE = r"(?:call|phone|telephone|tel|ph|text|cell|mobile|handy|whatsapp|fax|number|dial|ring|reach)"
_PHONE = (
    rf"(?<![\w+])(?:\+|00)[1-9](?:{GAP}{{0,3}}{_DIGIT}){{7,14}}"
    rf"|(?<![0-9_.,$€£-])(?:1{GAP}{{0,2}})?(?:\([2-9][0-9]{{2}}\)|[2-9][0-9]{{2}}){GAP}{{0,2}}[2-9][0-9]{{2}}{GAP}?[0-9]{{4}}"
    rf"|(?<![0-9_.,$€£-])(?:\(0[1-9][0-9]{{0,3}}\)(?:{GAP}{{0,2}}{_DIGIT}){{5,8}}|0[1-9](?:{GAP}{{0,2}}{_DIGIT}){{7,10}})"
    r"|(?<![0-9_.,$€£-])[2-9][0-9]{2}[-\u2010-\u2015][0-9]{4}"
    rf"|(?<=[\s:(])(?P<cued>(?<!\w){_DIGIT}(?:{GAP}?{_DIGIT}){{6,14}})"
)
_AFTER_PHONE = r"(?![\w]|[.,:/-][0-9])"
_FOUND = re.compile(
    rf"(?P<email>{EMAIL})|(?P<link>{LINK})|(?P<user>{_USER})|(?P<phone>(?:{_PHONE}){_AFTER_PHONE})", re.IGNORECASE
)
_CUED = re.compile(rf"\b{_CUE}\b[^.!?\n0-9]{{0,20}}$", re.IGNORECASE)

_CREDENTIAL = (
    r"(?:LMFTA?|A?MFT|LPCC?(?:-?S)?|LPCA|LCPC|LPCMH|LMHCA?|LCMHC|LCSW(?:-?[CRS])?|LICSW|LISW(?:-?S)?|LMSW|MSW|RSW|LCAT|LMHP"
    r"|LCADC|LADC|CADC|LCDC|Ph\.?D|Psy\.?D|Ed\.?D|Ed\.?S|DBH|M\.?Ed|M\.?A|M\.?S|M\.?D|NCC|RN|LP|ATR|BCBA|R\.?C\.?C)"
)
_BLANK = r"[^\S\n]"
_WORD = r"[^\W\d_a-z][\w'’-]*[^\W\d_]"
_FULL_NAME = rf"{_WORD}(?:{_BLANK}{{1,2}}(?:[A-Z]\.?|van|von|de|der|den|la|{_WORD})){{1,3}}"
_TITLES = rf"(?:{_BLANK}?[,/]{_BLANK}?|{_BLANK})(?:[A-Z][\w.-]{{1,9}}{_BLANK}?,{_BLANK}?)?{_CREDENTIAL}\b\.?"
_MORE = rf"(?:{_BLANK}?[,/]?{_BLANK}?[A-Z][\w.'’-]{{0,15}}){{0,4}}"
_END = r"(?=[\s*_|-]*(?:$|\(|\[|https?://|www\.|P\.S\.|[+(]?[0-9]))"
_SIGNED = re.compile(
    rf"(?P<name>(?:Dr\.?{_BLANK})?{_FULL_NAME}{_TITLES}{_MORE}){_END}"
    rf"|(?:^|[.!?,…]){_BLANK}*[*_~–—-]*{_BLANK}*(?P<doctor>Dr\.?{_BLANK}{_WORD}{_MORE}){_END}",
    re.MULTILINE,
)
"""A full name with a profession's letters, or a doctor's alone, at the end of a line or before an address."""

_PREFILTER = (
    r"@[A-Za-z0-9_]|[\[(] ?[aA][tT] ?[\])]| [dD][oO][tT] |[uU]/[0-9A-Za-z_-]|://|[wW][wW][wW]\."
    rf"|[0-9A-Za-z]\.(?:{TLD}|{WORD_TLD})"
    rf"|[0-9](?:{GAP}{{0,3}}[0-9]){{6}}"
    rf"|[,/\s\u00a0]{_CREDENTIAL}(?:[^A-Za-z0-9]|$)|Dr\.?[\s\u00a0]"
)
"""Holds for every text in which anything is found (and for some others): the regex engine of polars is fast on it."""


class Span(NamedTuple):
    """Where something was found: characters `start` to `end` of a text."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True)
class Scrubber:
    """Takes out what points to a person, and counts it by kind; `allowed` stays."""

    allowed: AllowList

    def find(self, text: str) -> list[Span]:
        """All that would be replaced, in the order of the text, without overlaps."""
        spans = [span for match in _FOUND.finditer(text) if (span := self._judge(text, match))]
        names = [Span(*match.span(match.lastgroup or 0), "name") for match in _SIGNED.finditer(text)]
        free = [name for name in names if not any(name.start < span.end and span.start < name.end for span in spans)]
        return sorted(spans + free)

    def scrub(self, text: str) -> tuple[str, Counter[Kind]]:
        """The text with "[kind]" in the place of each finding, and how many there were of each kind."""
        pieces, end = [], 0
        counts: Counter[Kind] = Counter()
        for span in self.find(text):
            pieces += [text[end : span.start], f"[{span.kind}]"]
            end = span.end
            counts[span.kind] += 1
        return "".join([*pieces, text[end:]]), counts

    def scrub_column(self, texts: pl.Series) -> tuple[pl.Series, Counter[Kind]]:
        """`scrub` for a column of strings; nulls stay null."""
        hits = texts.str.contains(_PREFILTER).fill_null(value=False).arg_true()
        counts: Counter[Kind] = Counter()
        scrubbed = []
        for text in texts.gather(hits):
            clean, found = self.scrub(text)
            scrubbed.append(clean)
            counts.update(found)
        if not counts:
            return texts, counts
        return texts.clone().scatter(hits, pl.Series(scrubbed, dtype=pl.String)), counts

    def _judge(self, text: str, match: re.Match[str]) -> Span | None:
        start, end = match.span()
        if match["link"]:
            end = start + len(without_closing_marks(match["link"]))
        found = text[start:end]
        if match["phone"]:
            kept = self.allowed.has_number(found) or not _is_phone(text, match)
            return None if kept else Span(start, end, "phone")
        if match["user"]:
            return Span(start, end, "user")
        kind: Kind = "email" if match["email"] else "link"
        return None if self.allowed.has_address(found) else Span(start, end, kind)


class Detection(NamedTuple):
    """How one kind was found in annotated texts: spans that are there, spans found whole, findings, and right findings."""

    num_spans: int
    num_covered: int
    num_found: int
    num_right: int

    @property
    def recall(self) -> float:
        """The share of the spans that were found from their first to their last character."""
        return self.num_covered / self.num_spans if self.num_spans else 1.0

    @property
    def precision(self) -> float:
        """The share of the findings that touch a span of their kind."""
        return self.num_right / self.num_found if self.num_found else 1.0


def recall(scrubber: Scrubber, held_out: Path = HELD_OUT) -> dict[str, Detection]:
    """What the scrubber finds of annotated texts, for each kind and for "all"."""
    counts = {kind: [0, 0, 0, 0] for kind in KINDS}
    for text, spans in read_annotated(held_out):
        found = scrubber.find(text)
        for span in spans:
            counts[span.kind][0] += 1
            counts[span.kind][1] += any(f.kind == span.kind and f.start <= span.start and span.end <= f.end for f in found)
        for finding in found:
            counts[finding.kind][2] += 1
            counts[finding.kind][3] += any(
                finding.kind == s.kind and finding.start < s.end and s.start < finding.end for s in spans
            )
    detections: dict[str, Detection] = {kind: Detection(*numbers) for kind, numbers in counts.items()}
    return {**detections, "all": Detection(*(sum(column) for column in zip(*detections.values(), strict=True)))}


def read_annotated(path: Path) -> Iterator[tuple[str, list[Span]]]:
    """Each text of a file like `HELD_OUT` with what is to be found in it."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield _join(json.loads(line))


def _join(parts: Sequence[str | dict[Kind, str]]) -> tuple[str, list[Span]]:
    text, spans = "", []
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        ((kind, found),) = part.items()
        spans.append(Span(len(text), len(text) + len(found), kind))
        text += found
    return text, spans


def _is_phone(text: str, match: re.Match[str]) -> bool:
    """Dates and years are no phone numbers; a number of no phone's shape is one only after a word for it."""
    found = match["phone"]
    if DATE.search(found) or YEARS.match(found):
        return False
    return not match["cued"] or bool(_CUED.search(text[max(0, match.start() - 40) : match.start()]))
