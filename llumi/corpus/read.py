"""`llumi corpus inspect`: read everything with Ray Data, and count it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import ray

from llumi.config import Config
from llumi.corpus.chunks import FileReport, FileReports, map_chunks, refuse_truncated
from llumi.corpus.clean import Rules, Tally, clean_lines
from llumi.corpus.dump import Chunk, Dump, open_corpus
from llumi.corpus.months import Months, count_months
from llumi.progress import Progress, silent


@dataclass
class CorpusReport:
    """What a corpus holds; every capture counts, also where a later one would replace it.

    Months are those of kept comments, "YYYY-MM"; `early_months` are those that a build leaves out, because their scores were
    taken before people had voted. `communities` counts kept posts and comments by name.
    """

    uri: str
    posts: Tally = field(default_factory=Tally)
    comments: Tally = field(default_factory=Tally)
    files: list[FileReport] = field(default_factory=list)
    months: Months = field(default_factory=Months)
    early_share: float = 1.0
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
            "early_months": self.months.early(self.early_share),
            "months": self.months.as_counts(self.early_share),
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
    report = CorpusReport(
        config.corpus.uri, early_share=config.corpus.early_share, accept_truncated=config.corpus.truncated == "keep"
    )
    for finding in map_chunks(ray.data.from_items, corpus, _Inspection(Rules.of(config.corpus)), progress):
        tally = Tally.from_counts(finding.result["tally"])
        files.add(finding, tally.records)
        (report.posts if finding.dump.kind == "posts" else report.comments).add(tally)
        report.months.add(finding.result["months"])
        for community, num_kept in finding.result["communities"].items():
            counts = report.communities.setdefault(community, {"posts": 0, "comments": 0})
            counts[finding.dump.kind] += num_kept
    report.files = files.all()
    report.communities = dict(sorted(report.communities.items()))
    return report


@dataclass(frozen=True)
class _Inspection:
    """The work on one chunk."""

    rules: Rules

    def __call__(self, dump: Dump, chunk: Chunk) -> dict[str, Any]:
        records, tally = clean_lines(chunk.data, dump.kind, self.rules)
        kept = records.filter(pl.col("reason").is_null())
        months = count_months(records) if dump.kind == "comments" else {}
        communities = dict(kept.group_by("community").len().iter_rows())
        return {"tally": tally.as_counts(), "months": months, "communities": communities}
