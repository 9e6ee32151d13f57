"""`llumi corpus inspect`: read everything with Ray Data, and count it."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import ray

from llumi.config import Config
from llumi.corpus.chunks import FileReport, FileReports, map_chunks, refuse_truncated
from llumi.corpus.clean import Rules, Tally, clean_lines
from llumi.corpus.dump import Chunk, Dump, open_corpus
from llumi.progress import Progress, silent
from llumi.records import Drop

_LAST_SECOND = 253_402_300_799  # of the year 9999, where datetime ends


@dataclass
class CorpusReport:
    """What a corpus holds; every capture counts, also where a later one would replace it.

    Months are "YYYY-MM", empty where no kept record has a time; `communities` counts kept posts and comments by name.
    """

    uri: str
    posts: Tally = field(default_factory=Tally)
    comments: Tally = field(default_factory=Tally)
    files: list[FileReport] = field(default_factory=list)
    first_month: str = ""
    last_month: str = ""
    communities: dict[str, dict[str, int]] = field(default_factory=dict)
    accept_truncated: bool = False

    @property
    def truncated(self) -> list[FileReport]:
        """The files that end before their end."""
        return [file for file in self.files if file.is_truncated]

    def figures(self) -> dict[str, Any]:
        """For a reader, and for `--json`."""
        return {
            "uri": self.uri,
            "posts": self.posts.as_counts(),
            "comments": self.comments.as_counts(),
            "truncated": [file.name for file in self.truncated],
            "first_month": self.first_month,
            "last_month": self.last_month,
            "communities": self.communities,
            "files": [asdict(file) for file in self.files],
        }

    def raise_if_truncated(self) -> None:
        """Raise CorpusError where a file is truncated, unless the config said to keep what such a file gives."""
        if not self.accept_truncated:
            refuse_truncated(self.uri, self.files)


def inspect_corpus(config: Config, progress: Progress = silent) -> CorpusReport:
    """Read everything that `corpus.uri` names and count it; a truncated file is reported, and stops nothing."""
    corpus = open_corpus(config)
    files = FileReports(corpus)
    report = CorpusReport(config.corpus.uri, accept_truncated=config.corpus.truncated == "keep")
    months: set[str] = set()
    for finding in map_chunks(ray.data.from_items, corpus, _Inspection(Rules.of(config.corpus)), progress):
        tally = Tally.from_counts(finding.result["tally"])
        files.add(finding, tally.records)
        (report.posts if finding.dump.kind == "posts" else report.comments).add(tally)
        months.update(finding.result["months"])
        for community, num_kept in finding.result["communities"].items():
            counts = report.communities.setdefault(community, {"posts": 0, "comments": 0})
            counts[finding.dump.kind] += num_kept
    report.files = files.all()
    report.communities = dict(sorted(report.communities.items()))
    if months:
        report.first_month, report.last_month = min(months), max(months)
    return report


@dataclass(frozen=True)
class _Inspection:
    """The work on one chunk."""

    rules: Rules

    def __call__(self, dump: Dump, chunk: Chunk) -> dict[str, Any]:
        tally, months, communities = Tally(), set[str](), Counter[str]()
        for record in clean_lines(chunk.data.split(b"\n"), dump.kind, self.rules, tally):
            if not isinstance(record, Drop):
                communities[record.community] += 1
                if record.created_utc > 0:
                    months.add(_month(record.created_utc))
        return {"tally": tally.as_counts(), "months": sorted(months), "communities": communities}


def _month(created_utc: int) -> str:
    return datetime.fromtimestamp(min(created_utc, _LAST_SECOND), UTC).strftime("%Y-%m")
