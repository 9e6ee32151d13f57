"""What all passes counted together, and whether it leaves something to learn from."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from llumi.config import CorpusConfig, PairsConfig
from llumi.corpus.chunks import FileReport
from llumi.corpus.clean import Tally
from llumi.corpus.months import Months
from llumi.corpus.reddit import Kind
from llumi.errors import PairsError
from llumi.pairs.account import OVER_CAP, Accounts, PairAccount, total
from llumi.pairs.bucket import EARLY
from llumi.pairs.leaks import LEAKS
from llumi.pairs.length import add_figures, as_metrics
from llumi.storage import FileEntry


@dataclass
class Totals:
    """The sums over all buckets, pass by pass; every account adds up, and the next one begins with what the last one kept."""

    uri: str
    corpus: CorpusConfig
    config: PairsConfig
    lines: dict[Kind, Tally]
    months: Months
    read_files: list[FileReport]
    files: list[FileEntry] = field(default_factory=list)
    num_rows: Counter[str] = field(default_factory=Counter)
    dropped: dict[Kind, Counter[str]] = field(default_factory=lambda: {"posts": Counter(), "comments": Counter()})
    dropped_replies: Counter[str] = field(default_factory=Counter)
    lost_replies: Counter[str] = field(default_factory=Counter)
    vetoed: Counter[str] = field(default_factory=Counter)
    scrubbed: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    scores: dict[str, Counter[str]] = field(default_factory=dict)
    communities: dict[str, Counter[str]] = field(default_factory=dict)
    accounts: Accounts = field(default_factory=dict)
    lengths: dict[str, Any] = field(default_factory=dict)
    revisions: dict[str, Any] = field(default_factory=dict)
    num_met: int = 0

    def add_selected(self, result: dict[str, Any]) -> None:
        """Take in what `Select` gave for one bucket."""
        for kind, dropped in self.dropped.items():
            dropped.update(result["dropped"][kind])
        self.dropped_replies.update(result["dropped_replies"])
        self.vetoed.update(result["vetoed"])
        self.scrubbed.update(result["scrubbed"])
        self.num_met += result["num_met"]
        for community, counts in result["accounts"].items():
            self.accounts.setdefault(community, PairAccount()).add(PairAccount.from_counts(counts))
        for sums, parts in ((self.communities, result["communities"]), (self.scores, result["scores"])):
            for community, counts in parts.items():
                sums.setdefault(community, Counter()).update(counts)

    def add_finished(self, result: dict[str, Any]) -> None:
        """Take in what `Finish` gave for one bucket."""
        self.add_tables(result)
        for community, lost in result["lost"].items():
            self.accounts[community].drop(lost)
        self.lost_replies.update(result["lost_replies"])
        self.lengths = add_figures(self.lengths, result["lengths"])
        self.splits.update(result["splits"])

    def add_tables(self, result: dict[str, Any]) -> None:
        """Take in the tables that were written of one bucket."""
        self.files.extend(FileEntry(**entry) for entry in result["files"])
        self.num_rows.update(result["num_rows"])

    @property
    def pairs(self) -> PairAccount:
        """The account of all candidate pairs."""
        return total(self.accounts.values())

    def tally(self, kind: Kind) -> Tally:
        """All lines of one kind, with the newest capture of each record decided."""
        lines = self.lines[kind]
        dropped = lines.dropped + self.dropped[kind]
        return Tally(lines.records, lines.malformed, lines.records - dropped.total(), dropped)

    def as_counts(self, folders: list[str]) -> dict[str, Any]:
        """For the manifest."""
        comments = self.tally("comments")
        replies = Tally(comments.kept, 0, comments.kept - self.dropped_replies.total(), self.dropped_replies).as_counts()
        replies.pop("malformed")
        return {
            "posts": self.tally("posts").as_counts(),
            "comments": comments.as_counts(),
            "replies": replies,
            "candidate_pairs": self.pairs.as_counts(),
            "communities": {name: self._community(name) for name in sorted(self.communities)},
            "months": self.months.as_counts(self.corpus.early_share),
            "vetoed": dict(self.vetoed.most_common()),
            "scrubbed": dict(self.scrubbed.most_common()),
            "sft_dropped": dict(self.lost_replies.most_common()),
            "splits": {split: {"posts": self.splits[split]} for split in ("train", "test")}
            | {"by": self.config.split_by, "leaks_removed": self._leaks()},
            "revisions": self.revisions,
            "examples": {folder: self.num_rows[folder] for folder in folders},
            "files": [asdict(file) for file in self.read_files],
            "truncated_files": [{"name": f.name, "num_records": f.num_records} for f in self.read_files if f.is_truncated],
        }

    def as_metrics(self) -> dict[str, Any]:
        """For the manifest: distributions."""
        return {
            "scores": {name: dict(counts) for name, counts in sorted(self.scores.items())},
            "lengths": as_metrics(self.lengths),
        }

    def check_selected(self) -> None:
        """Raise PairsError where posts and comments do not meet, or the rules left nothing, and say which to change."""
        posts, comments = self.tally("posts").records, self.tally("comments").records
        if not self.num_met:
            raise PairsError(
                f"{self.uri}: {posts} posts and {comments} comments, but no comment belongs to one of these posts; "
                "give submissions and comments of the same communities and months"
            )
        if not self.pairs.kept:
            raise PairsError(_nothing_left(self.pairs, self.config))

    def check_finished(self) -> None:
        """Raise PairsError where a split is without examples."""
        if not self.pairs.kept:
            raise PairsError(_nothing_left(self.pairs, self.config))
        if not self.num_rows["gm-sft/train"]:
            raise PairsError(
                f"pairs.sft_min_score {self.config.sft_min_score}: no reply of the training posts reaches it; lower it, "
                "or see `llumi corpus inspect` for what cleaning dropped"
            )
        for split, empty in (("train", "training"), ("test", "test")):
            if not self.num_rows[f"gm-dpo/{split}"]:
                raise PairsError(
                    f"pairs: of {self.pairs.kept} pairs none is left for {empty} ({self._lost()}); where few people wrote much "
                    "of a corpus, split by post alone (pairs.split_by=post), or change pairs.test_fraction"
                )

    def _lost(self) -> str:
        lost = Counter[str]()
        for reason, num in self.pairs.dropped.items():
            for last in ("near_duplicate", *LEAKS):
                lost[last] += num if reason.endswith(last) else 0
        return ", ".join(f"{reason} {num}" for reason, num in lost.items())

    def _community(self, name: str) -> dict[str, Any]:
        account = self.accounts.get(name, PairAccount())
        return {
            "posts": self.communities[name]["posts"],
            "replies": self.communities[name]["replies"],
            "candidates": account.candidates,
            "pairs": account.kept,
            "yields": _yields(account),
        }

    def _leaks(self) -> dict[str, int]:
        dropped = self.pairs.dropped
        return {leak: sum(num for reason, num in dropped.items() if reason.endswith(leak)) for leak in LEAKS}


def _yields(account: PairAccount) -> dict[str, int]:
    """How many candidates are left after each step, in the order in which the rules are asked."""
    left, yields = account.candidates, {}
    last = ("near_duplicate", *LEAKS)
    steps = [
        ("posts kept", [reason for reason in account.dropped if reason.startswith("post_") and not reason.endswith(last)]),
        (
            "replies kept",
            [r for r in account.dropped if r.startswith(("chosen_", "rejected_")) and not r.endswith(("vetoed", *last))],
        ),
        *((reason, [reason]) for reason in _IN_ORDER),
        ("no near-duplicates, no leaks", [reason for reason in account.dropped if reason.endswith(last)]),
    ]
    for step, reasons in steps:
        num = sum(account.dropped[reason] for reason in reasons)
        if num or step.endswith("kept"):
            left -= num
            yields[step] = left
    return yields


_IN_ORDER = (
    "not_in_top",
    "chosen_vetoed",
    "not_in_bottom",
    "gap_too_small",
    "ratio_too_small",
    "not_later",
    "not_earlier",
    "not_matched",
    "length_unmatched",
    OVER_CAP,
)


def _nothing_left(pairs: PairAccount, config: PairsConfig) -> str:
    """One line: which rules dropped how many candidates, and what would let some through."""
    if not pairs.candidates:
        return "pairs: no post has two top-level replies of different score; a larger corpus is needed"
    preset = config.preset
    top = "raise pairs.paper.chosen_top" if preset == "paper" else "lower pairs.shp.min_score"
    bottom = "raise pairs.paper.rejected_bottom" if preset == "paper" else "lower pairs.shp.min_score"
    order = "use pairs.order=any"
    advice = {
        "gap_too_small": f"lower pairs.{preset}.min_gap (now {getattr(getattr(config, preset), 'min_gap', '')})",
        "ratio_too_small": f"lower pairs.shp.min_ratio (now {config.shp.min_ratio})",
        "not_in_top": f"{top} or use pairs.preset=margin",
        "not_in_bottom": f"{bottom} or use pairs.preset=margin",
        **dict.fromkeys(("not_later", "not_earlier", "not_matched"), order),
        "length_unmatched": f"raise pairs.length_ratio (now {config.length_ratio}) or use pairs.length_balance=weigh",
        f"chosen_{EARLY}": "its month was captured too early; use corpus.early_months=keep, or a later capture",
    }
    dropped = pairs.as_counts()["dropped"]
    rules = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
    what = next((advice[reason] for reason in dropped if reason in advice), "loosen the rules of the section corpus")
    return f"pairs.preset {preset}: none of {pairs.candidates} candidate pairs is left ({rules}); {what}"
