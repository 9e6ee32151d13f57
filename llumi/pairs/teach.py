"""IM's pairs from a local teacher: its revisions of drafts -> `pairs/<name>-taught`.

A teacher is any model of this store; `llumi generate im MODEL --posts drafts` lets it revise. Here each revision is judged:
one that is whole, safe and near its draft becomes the chosen answer over the draft. Everything else is kept as it was.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from llumi.config import Config, RevisionConfig, SafetyConfig
from llumi.corpus.chunks import attempt, outcomes
from llumi.embedding import Embedder
from llumi.errors import ArtifactError, PairsError
from llumi.pairs.finish import written
from llumi.pairs.near import device, embedder_pool
from llumi.pairs.revise import TOO_FAR, TOO_NEAR, im_dpo, im_sft, judge, window_side
from llumi.pairs.scratch import scratch_folder
from llumi.pairs.split import with_ids
from llumi.progress import Progress, silent
from llumi.records import DPO_SCHEMA, SFT_SCHEMA, Split
from llumi.safety import Resource, Resources, SafetyRules
from llumi.storage import Draft, FileEntry, Manifest, Storage, at_once, fingerprint, store_errors

SPLITS: dict[str, Split] = {"drafts": "train", "held-out": "test"}
"""The split of a pair is the folder that its draft came from: a teacher moves no thread from one side to the other."""

EXAMPLES = {
    f"{name}/{split}": schema for name, schema in (("im-sft", SFT_SCHEMA), ("im-dpo", DPO_SCHEMA)) for split in SPLITS.values()
}


def taught_name(pairs: str) -> str:
    """The artifact that comes of the pairs of this name: "default" gives "default-taught"."""
    return f"{pairs}-taught"


def teach(config: Config, generations: str, progress: Progress = silent) -> Manifest:
    """Publish `pairs/<config.pairs.name>-taught` from `generations/<generations>`.

    Raises ArtifactError where the generations are not a teacher's of these pairs, PairsError where no revision is left to
    train on.
    """
    storage = Storage.open(config.storage)
    parent, taught = _inputs(config, storage, generations)
    judging = _Judging(storage, parent, taught, config.pairs.revisions, config.safety)
    totals = _Totals()
    with scratch_folder(storage, taught_name(config.pairs.name)) as scratch:
        for outcome in _over_parts(judging, scratch, progress):
            totals.add(outcome)
        totals.check(config)
        draft = storage.begin("pairs", taught_name(config.pairs.name))
        draft.take(scratch, totals.files)
        return draft.publish(
            [*totals.files, *_empty_parts(draft, totals.num_rows), *_copy_others(storage, parent, draft)],
            fingerprint=teach_fingerprint(config, storage, generations),
            config=config.model_dump(mode="json"),
            inputs=[parent.as_input(), taught.as_input()],
            counts=totals.as_counts(),
        )


def teach_fingerprint(config: Config, storage: Storage, generations: str) -> str:
    """What determines the taught pairs: the pairs, the revisions, the window between them, and the safety rules."""
    rules = config.pairs.revisions.model_dump(mode="json", include={"min_similarity", "max_similarity"})
    rules |= {
        "safety": SafetyRules.load(config.safety.rules).digest,
        "resources": Resources.load(config.safety.resources).model_dump(mode="json"),
    }
    return fingerprint("teach", rules, [manifest.as_input() for manifest in _inputs(config, storage, generations)])


def _inputs(config: Config, storage: Storage, generations: str) -> tuple[Manifest, Manifest]:
    """The pairs, and what a teacher made of their drafts."""
    parent = storage.manifest(f"pairs/{config.pairs.name}")
    for folder in SPLITS:
        if not parent.files_under(folder):
            raise ArtifactError(f"{storage.uri}/{parent.reference}: holds no {folder}/; run `llumi pairs build` again")
    taught = storage.manifest(f"generations/{generations}")
    if not generations.startswith("im-") or not generations.endswith("-drafts"):
        raise ArtifactError(
            f"{storage.uri}/{taught.reference}: not a teacher's; generate with: llumi generate im MODEL --posts drafts"
        )
    if parent.as_input() not in taught.inputs:
        raise ArtifactError(
            f"{storage.uri}/{taught.reference}: not made from {parent.reference} as it stands; "
            "generate it again, or set pairs.name"
        )
    return parent, taught


@dataclass
class _Totals:
    """What all parts gave together: drafts == kept + sum of dropped."""

    files: list[FileEntry] = field(default_factory=list)
    num_rows: Counter[str] = field(default_factory=Counter)
    num_drafts: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: dict[str, Any]) -> None:
        """Take in one part."""
        self.files.extend(FileEntry(**entry) for entry in outcome["files"])
        self.num_rows.update(outcome["num_rows"])
        self.num_drafts += outcome["drafts"]
        self.kept += outcome["kept"]
        self.dropped.update(outcome["dropped"])

    def as_counts(self) -> dict[str, Any]:
        """For the manifest; the reason that dropped most comes first."""
        dropped = dict(sorted(self.dropped.items(), key=lambda entry: (-entry[1], entry[0])))
        return {
            "drafts": {"drafts": self.num_drafts, "kept": self.kept, "dropped": dropped},
            "examples": {folder: self.num_rows[folder] for folder in EXAMPLES},
        }

    def check(self, config: Config) -> None:
        """Raise PairsError where nothing is left to train on: what dropped most, and which knob lets more through."""
        if self.num_rows["im-sft/train"]:
            return
        dropped = self.as_counts()["drafts"]["dropped"]
        rules = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "no train post has a draft"
        most = next(iter(dropped), "not_generated")
        raise PairsError(
            f"pairs/{config.pairs.name}: none of {self.num_drafts - self.kept} revisions of drafts is left to train on "
            f"({rules}); {_advice(most, config)}"
        )


def _advice(reason: str, config: Config) -> str:
    revisions = config.pairs.revisions
    return {
        TOO_FAR: f"lower pairs.revisions.min_similarity (now {revisions.min_similarity}), or take another teacher",
        TOO_NEAR: f"raise pairs.revisions.max_similarity (now {revisions.max_similarity}), or take another teacher",
        "unfinished": f"raise generate.max_new_tokens (now {config.generate.max_new_tokens}) and generate again",
        "not_generated": f"raise pairs.revisions.max_pairs (now {revisions.max_pairs}) and generate again",
        "failed": "see the column error of the generations",
    }.get(reason, "take another teacher: llumi model add NAME FOLDER")


@dataclass(frozen=True)
class _Judging:
    """What an actor needs to know."""

    storage: Storage
    parent: Manifest
    taught: Manifest
    config: RevisionConfig
    safety: SafetyConfig

    def revisions(self) -> pl.DataFrame:
        """The teacher's revisions by post_id, at most `max_pairs` of them."""
        columns = ["post_id", "generation_id", "reply", "finish_reason", "error"]
        rows = pl.DataFrame(self.storage.read_table(self.taught.reference, "rows").select(columns))
        return rows.rename({"reply": "revision"})

    def drafts(self, path: str) -> pl.DataFrame:
        """The drafts of one part of the pairs (HELD_OUT_SCHEMA)."""
        with store_errors(self.storage.uri):
            table = pq.read_table(self.storage.path(self.parent.reference, path), filesystem=self.storage.filesystem)
        return pl.DataFrame(table).filter(pl.col("draft").is_not_null())


class _Judge:
    """A Ray Data actor: it holds the revisions, the rules and the embedding model, and judges part by part."""

    def __init__(self, judging: _Judging, folder: str) -> None:
        self._judging = judging
        self._folder = folder

    @cached_property
    def _revisions(self) -> pl.DataFrame:
        return self._judging.revisions()

    @cached_property
    def _rules(self) -> SafetyRules:
        return SafetyRules.load(self._judging.safety.rules)

    @cached_property
    def _resources(self) -> list[str]:
        return [resource_pattern(resource) for resource in Resources.load(self._judging.safety.resources).resources]

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(device(self._judging.config))

    def __call__(self, batch: pa.Table) -> pa.Table:
        (path,) = batch["path"].to_pylist()
        return pa.table({"outcome": [attempt(lambda: self._judge(path))]})

    def _judge(self, path: str) -> dict[str, Any]:
        """Judge the drafts of one part and write their pairs to scratch."""
        drafts = self._judging.drafts(path).join(self._revisions, on="post_id", how="left", maintain_order="left")
        drafts = drafts.with_columns(reason=judge(drafts, self._rules.vetoes, self._resources))
        pairs = self._with_similarity(drafts.filter(pl.col("reason").is_null()))
        pairs = pairs.with_columns(reason=window_side(self._judging.config))
        reasons = pl.concat([drafts["reason"], pairs["reason"]]).drop_nulls()
        kept = _as_pairs(pairs.filter(pl.col("reason").is_null()))
        folder, _, file = path.partition("/")
        tables = {f"{name}/{SPLITS[folder]}": build(kept) for name, build in (("im-sft", im_sft), ("im-dpo", im_dpo))}
        return written(self._judging.storage, self._folder, file, tables) | {
            "drafts": drafts.height,
            "kept": kept.height,
            "dropped": Counter(reasons),
        }

    def _with_similarity(self, pairs: pl.DataFrame) -> pl.DataFrame:
        if pairs.is_empty():  # no need to load the model
            return pairs.with_columns(similarity=pl.lit(None, pl.Float64))
        nearness = self._embedder.similarities(pairs["draft"].to_list(), pairs["revision"].to_list())
        return pairs.with_columns(similarity=pl.Series(nearness).fill_nan(None))


def resource_pattern(resource: Resource) -> str:
    """What finds a crisis line in a text, in whichever way it is named there: by its name, a number or a web address."""
    text_numbers = [resource.text.split()[-1]] if resource.text else []
    numbers = [_number_pattern(number) for number in (*resource.numbers, *text_numbers)]
    names = [rf"\b{re.escape(name)}\b" for name in (resource.name, *resource.domains)]
    return "(?i)" + "|".join([*names, *(rf"(?:^|[^\d.,]){number}(?:\D|$)" for number in numbers)])


def _number_pattern(number: str) -> str:
    """The digits, however they are set apart; the 1 in front of a toll-free number may be missing."""
    digits = re.sub(r"\D", "", number)
    leading = "(?:1[ .()-]{0,2})?" if len(digits) == 11 and digits.startswith("1") else ""
    return leading + r"[ .()-]{0,2}".join(digits[1:] if leading else digits)


def _as_pairs(revisions: pl.DataFrame) -> pl.DataFrame:
    """In the columns that `im_sft` and `im_dpo` read: a teacher has no pseudonym and no votes."""
    revisions = with_ids(revisions.with_columns(pl.col("revision").str.strip_chars()), "post_id", "draft", "revision")
    return revisions.select(
        "example_id",
        "post_id",
        "post_author",
        "community",
        "risk",
        "similarity",
        author=pl.lit(None, pl.String),
        author_rejected="draft_author",
        text="post",
        body="revision",
        body_rejected="draft",
        score=pl.lit(None, pl.Int64),
        score_rejected="draft_score",
        weight=pl.lit(1.0),
    )


def _over_parts(judging: _Judging, folder: str, progress: Progress) -> Iterator[dict[str, Any]]:
    """What came of each part of the drafts, in no set order."""
    paths = [path for source in SPLITS for path in judging.parent.files_under(source)]
    progress("judge revisions", 0, len(paths))
    dataset = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=len(paths))
    judged = dataset.map_batches(
        _Judge,
        fn_constructor_args=(judging, folder),
        batch_size=1,
        batch_format="pyarrow",
        **embedder_pool(judging.config),
    )
    for done, (_, outcome) in enumerate(outcomes(judged), start=1):
        yield outcome
        progress("judge revisions", done, len(paths))


def _copy_others(storage: Storage, parent: Manifest, draft: Draft) -> list[FileEntry]:
    """The parent's other files as they are, copied by the store itself."""
    others = [entry for entry in parent.files if not entry.path.startswith(("im-sft/", "im-dpo/"))]

    def copy(entry: FileEntry) -> None:
        target = storage.path(draft.reference, entry.path)
        if storage.is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        storage.filesystem.copy_file(storage.path(parent.reference, entry.path), target)

    with store_errors(storage.uri):
        at_once(copy, others)
    return others


def _empty_parts(draft: Draft, num_rows: Counter[str]) -> list[FileEntry]:
    """A part without rows for each folder that would be missing, so that readers need no special case."""
    return [
        draft.write_table(f"{folder}/part-00000.parquet", schema.empty_table())
        for folder, schema in EXAMPLES.items()
        if not num_rows[folder]
    ]
