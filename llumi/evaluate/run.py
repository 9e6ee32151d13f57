"""The evaluation job: measure every reply on the cluster, compare the arms by post, publish tables and a report."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray
import ray.data

from llumi.config import Config, EmpathyConfig
from llumi.embedding import Embedder, cosines
from llumi.errors import ModelError
from llumi.evaluate.across import measure_arms
from llumi.evaluate.arms import Replies, find_generations, read_replies
from llumi.evaluate.empathy import EmpathyJudge, empathy_inputs
from llumi.evaluate.equivalence import check_margins
from llumi.evaluate.language import measure_texts
from llumi.evaluate.measures import MEASURES
from llumi.evaluate.report import Evaluation, render_report
from llumi.evaluate.safety import count_refused, judge_replies, learned_pairs, repeat_training_text, safety_metrics
from llumi.evaluate.studies import read_studies, study_inputs
from llumi.evaluate.summary import metrics_of, summarise
from llumi.lineage import trace
from llumi.progress import Progress, silent
from llumi.safety.rules import SafetyRules
from llumi.storage import Draft, FileEntry, Input, Manifest, Storage, fingerprint

BLOCK_ROWS = 512
"""Replies that one worker measures at a time; which replies share a block does not depend on the cluster."""


ERROR = "error"
"""The one column of a block that stands for a failure."""


def evaluate(config: Config, generations: Sequence[str] = (), progress: Progress = silent) -> Manifest:
    """Publish `evaluations/<config.evaluate.name>`: `report.html`, and the tables `measures`, `summary` and `safety`.

    `generations` are names under `generations/`; an empty list takes all that were made from `pairs/<config.pairs.name>`.
    Needs a connected Ray cluster. Raises ArtifactError where nothing can be compared, ConfigError for a margin of no measure,
    ModelError where a classifier of `evaluate.empathy` is none, and RatingsError where a folder of `evaluate.ratings` is none.
    """
    check_margins(config.evaluate)
    studies = read_studies(config.evaluate)
    storage = Storage.open(config.storage)
    chosen = find_generations(config, storage, generations)
    replies = read_replies(config, storage, chosen)
    inputs = _inputs(config, storage, chosen)
    measures = measure_replies(replies.table, config.evaluate.empathy, progress)
    progress("compare", 0)
    summary = summarise(measures, replies.sections, config.evaluate)
    judged = _judge(config, storage, replies.table, chosen)
    refused = count_refused(judged)
    evaluation = Evaluation(
        config.pairs.name,
        config.evaluate,
        replies,
        measures,
        summary,
        judged,
        refused,
        made_of=[given.name for given in inputs],
        ancestors=trace(storage, inputs),
        studies=studies,
    )
    draft = storage.begin("evaluations", config.evaluate.name)
    return draft.publish(
        _write(draft, evaluation),
        fingerprint=evaluate_fingerprint(config, storage, generations),
        config=config.model_dump(mode="json"),
        inputs=inputs,
        counts=_counts(replies),
        metrics=metrics_of(summary) | {"safety": safety_metrics(refused)},
    )


def _judge(config: Config, storage: Storage, replies: pl.DataFrame, generations: Sequence[Manifest]) -> pl.DataFrame:
    judged = judge_replies(replies, SafetyRules.load(config.safety.rules))
    learned = learned_pairs(storage, generations)
    return judged.with_columns(repeat_training_text(replies, storage, learned, config.evaluate.memorised_words))


def evaluate_fingerprint(config: Config, storage: Storage, generations: Sequence[str] = ()) -> str:
    """What determines the evaluation: its config, the pairs, the generations (in any order), the classifiers, the ratings."""
    inputs = _inputs(config, storage, find_generations(config, storage, generations))
    rules = SafetyRules.load(config.safety.rules).digest
    return fingerprint("evaluate", config.evaluate.model_dump(mode="json") | {"safety": rules}, inputs)


def measure_replies(table: pl.DataFrame, empathy: EmpathyConfig, progress: Progress = silent) -> pl.DataFrame:
    """Measure each reply of `Replies.table` with Ray Data: post_id, role, arm and one column per measure; no text."""
    blocks = [table.slice(start, BLOCK_ROWS).to_arrow() for start in range(0, table.height, BLOCK_ROWS)]
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    # One CPU stays free: blocks are split and gathered by tasks that a pool holding every CPU would wait for forever.
    most_actors = max(1, min(len(blocks), num_cpus - 1))
    measured = ray.data.from_arrow(blocks).map_batches(
        ReplyMeasurer,
        fn_constructor_args=(empathy,),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most_actors),
    )
    progress("measure replies", 0, table.height)
    done: list[pa.Table] = []
    for block in measured.iter_batches(batch_size=None, batch_format="pyarrow"):
        done.append(figures_of(block))
        progress("measure replies", sum(part.num_rows for part in done), table.height)
    measured_replies = pl.DataFrame(pa.concat_tables(done))
    columns = [measure.column for measure in MEASURES if measure.column in measured_replies.columns]
    return measure_arms(measured_replies.sort("role", "arm", "post_id", *columns))


def figures_of(block: pa.Table) -> pa.Table:
    """What a `ReplyMeasurer` returned; raises the ModelError that it met."""
    if ERROR in block.column_names:
        raise ModelError(block[ERROR][0].as_py())
    return block


class ReplyMeasurer:
    """A Ray Data actor: it holds the embedding model and the classifiers, and turns replies into figures."""

    def __init__(self, empathy: EmpathyConfig) -> None:
        self._empathy = empathy

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder()

    @cached_property
    def _judge(self) -> EmpathyJudge:
        return EmpathyJudge(self._empathy)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per reply, without its text; or one row that says why a model cannot be loaded on this node."""
        # Ray Data passes on what a worker raises as text alone; as a row, the error keeps its one line.
        try:
            return self._measure(batch)
        except ModelError as error:
            return pa.table({ERROR: [str(error)]})

    def _measure(self, batch: pa.Table) -> pa.Table:
        """What `measure_arms` takes, with one column per measure of a reply; null where a measure is not defined."""
        replies, posts, drafts = (batch[column].to_pylist() for column in ("reply", "post", "draft"))
        columns: dict[str, Any] = {column: batch[column] for column in ("post_id", "role", "arm")}
        columns |= measure_texts(replies, posts)
        embeddings, of_posts, of_drafts = np.split(self._embedder.embed_rows(replies + posts + drafts), 3)
        columns["similarity_to_post"] = cosines(embeddings, of_posts)
        columns["similarity_to_draft"] = cosines(embeddings, of_drafts)
        columns["embedding"] = embeddings.astype(np.float32)
        columns |= self._judge.levels(replies, posts)
        return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None)).to_arrow()


def _inputs(config: Config, storage: Storage, generations: Sequence[Manifest]) -> list[Input]:
    by_name = sorted(generations, key=lambda generation: generation.name)
    artifacts = (storage.manifest(f"pairs/{config.pairs.name}"), *by_name)
    of_artifacts = [artifact.as_input() for artifact in artifacts]
    return of_artifacts + empathy_inputs(config.evaluate.empathy) + study_inputs(config.evaluate)


def _write(draft: Draft, evaluation: Evaluation) -> list[FileEntry]:
    summary, refused = evaluation.summary, evaluation.refused
    return [
        draft.write_table("measures.parquet", evaluation.measures.to_arrow()),
        draft.write_table("summary.parquet", summary.to_arrow()),
        draft.write("summary.csv", summary.write_csv().encode()),
        draft.write_table("safety.parquet", refused.to_arrow()),
        draft.write("safety.csv", refused.write_csv().encode()),
        draft.write("report.html", render_report(evaluation).encode()),
    ]


def _counts(replies: Replies) -> dict[str, Any]:
    """How many posts each role's arms share, and for each arm the replies asked for, failed, empty and cut."""
    counts: dict[str, Any] = {"held_out_posts": replies.num_held_out}
    for section in replies.sections:
        arms = {
            arm.name: {"rows": arm.num_rows, "failed": arm.num_failed, "empty": arm.num_empty, "cut": arm.num_cut}
            for arm in section.arms
        }
        counts[section.role] = {"paired_posts": section.num_posts, "arms": arms}
    return counts
