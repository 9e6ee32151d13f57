"""The job: dumps -> `pairs/<name>`, in passes of Ray Data.

1. `partition`: every record into the bucket of its post, while the dumps are being read;
2. `select`, bucket by bucket: join, clean, choose pairs and examples;
3. `finish`: settle what meets across buckets (near-duplicates, authors on both sides), and write the tables;
4. `near`: of the pairs, those whose replies are near in meaning become IM's.

Memory depends on the size of a chunk and of a bucket, not on that of the corpus.
"""

from collections import Counter
from typing import Any

import polars as pl
import pyarrow as pa

from llumi.config import Config
from llumi.corpus.dump import CHUNK_BYTES, open_corpus
from llumi.corpus.exclude import read_exclusions
from llumi.corpus.privacy import Pseudonymizer
from llumi.corpus.scrub import recall
from llumi.pairs.endorse import HISTOGRAM_SCHEMA, THRESHOLDS_SCHEMA, score_thresholds
from llumi.pairs.examples import EXAMPLES
from llumi.pairs.finish import CountBins, Finish, Resolve, Survivors
from llumi.pairs.im import build_im
from llumi.pairs.leaks import LOSSES
from llumi.pairs.partition import Partition, partition_corpus
from llumi.pairs.passes import over_buckets
from llumi.pairs.scratch import Exchange, scratch_folder
from llumi.pairs.select import Histogram, Select, claims_exchange
from llumi.pairs.text import TextRules
from llumi.pairs.totals import Totals
from llumi.progress import Progress, silent
from llumi.safety import Resources, SafetyRules
from llumi.storage import Draft, FileEntry, Input, Manifest, Storage, digest, fingerprint


def build_pairs(config: Config, progress: Progress = silent, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    """Build and publish `pairs/<config.pairs.name>`.

    Raises CorpusError for dumps that cannot be read as such, PairsError where the rules leave nothing to train on.
    """
    corpus = open_corpus(config)
    corpus.require_both_kinds()
    storage = Storage.open(config.storage)
    text_rules = TextRules.of(config)
    with scratch_folder(storage, config.pairs.name) as scratch:
        partition = partition_corpus(corpus, config, storage, f"{scratch}/rows", progress=progress, chunk_bytes=chunk_bytes)
        totals = Totals(corpus.uri, config.corpus, config.pairs, partition.lines, partition.months, partition.files)
        early = partition.months.early(config.corpus.early_share) if config.corpus.early_months == "drop" else []
        thresholds = _thresholds(partition, config, early, progress)
        selected, tables = f"{scratch}/selected", f"{scratch}/examples"
        claims = claims_exchange(storage, f"{scratch}/claims", partition.num_buckets)
        select = Select(partition, storage, selected, claims, config.pairs, text_rules, thresholds, early)
        for result in over_buckets(partition.num_buckets, select, "pair replies", progress):
            claims.add(result["claims"])
            totals.add_selected(result)
        totals.check_selected()
        losses = Exchange(storage, f"{scratch}/losses", partition.num_buckets, pa.schema(LOSSES))
        for result in over_buckets(partition.num_buckets, Resolve(claims, losses), "compare splits", progress):
            losses.add(result["paths"])
        survivors = Survivors(storage, selected, losses)
        bins = _length_bins(survivors, partition.num_buckets, config, progress)
        finish = Finish(survivors, storage, tables, config.pairs, bins)
        for result in over_buckets(partition.num_buckets, finish, "write examples", progress):
            totals.add_finished(result)
        totals.check_finished()
        build_im(totals, survivors, tables, partition.num_buckets, progress)
        draft = storage.begin("pairs", config.pairs.name)
        draft.take(tables, totals.files)
        return draft.publish(
            [*totals.files, *_empty_parts(draft, totals.num_rows)],
            fingerprint=pairs_fingerprint(config),
            config=config.model_dump(mode="json"),
            inputs=[Input(corpus.uri, digest([(file.name, file.sha256) for file in partition.files]))],
            counts=totals.as_counts(list(EXAMPLES)),
            metrics=totals.as_metrics() | _measured(thresholds, text_rules) | {"key_id": Pseudonymizer.open(config).key_id},
        )


def pairs_fingerprint(config: Config) -> str:
    """What determines the pairs: the files of the corpus as they stand, the rules of both sections, and the key."""
    seen_pairs = config.pairs.model_dump(mode="json", exclude={"name", "num_buckets", "margin", "paper", "shp"})
    seen_pairs["revisions"] = config.pairs.revisions.model_dump(mode="json", exclude={"num_actors", "num_gpus"})
    seen_pairs["rules"] = getattr(config.pairs, config.pairs.preset).model_dump(mode="json")
    exclusions = read_exclusions(config.corpus.exclude)
    seen = {
        "corpus": config.corpus.model_dump(mode="json", exclude={"uri", "truncated", "exclude"}),
        "excluded": digest([sorted(exclusions.posts), sorted(exclusions.authors)]),
        "pairs": seen_pairs,
        "base": config.train.base,
        "safety": SafetyRules.load(config.safety.rules).digest,
        "key": Pseudonymizer.open(config).key_id,
    }
    if config.safety.resources is not None:  # its numbers stay in the texts
        seen["resources"] = Resources.load(config.safety.resources).model_dump(mode="json")
    return fingerprint("pairs", seen, [Input("corpus", open_corpus(config).state)])


def _thresholds(partition: Partition, config: Config, early: list[str], progress: Progress) -> pl.DataFrame:
    """The scores that preset `paper` asks of each community; none for a preset that asks for no such scores."""
    if config.pairs.preset != "paper":
        return pl.DataFrame(schema=THRESHOLDS_SCHEMA)
    work = Histogram(partition, early)
    results = over_buckets(partition.num_buckets, work, "compare scores", progress)
    parts = [pl.DataFrame(result, schema=HISTOGRAM_SCHEMA) for result in results]
    return score_thresholds(pl.concat([pl.DataFrame(schema=HISTOGRAM_SCHEMA), *parts]), config.pairs)


def _length_bins(survivors: Survivors, num_buckets: int, config: Config, progress: Progress) -> dict[int, int]:
    if config.pairs.length_balance != "weigh":
        return {}
    bins = Counter[int]()
    for result in over_buckets(num_buckets, CountBins(survivors), "compare lengths", progress):
        bins.update({int(number): num for number, num in result.items()})
    return dict(bins)


def _measured(thresholds: pl.DataFrame, text_rules: TextRules) -> dict[str, Any]:
    found = recall(text_rules.scrubber)
    measured: dict[str, Any] = {"scrub_recall": {kind: round(detection.recall, 4) for kind, detection in found.items()}}
    if thresholds.height:
        measured["thresholds"] = thresholds.rows_by_key("community", named=True, unique=True)
    return measured


def _empty_parts(draft: Draft, num_rows: Counter[str]) -> list[FileEntry]:
    """A part without rows for each folder that would be missing, so that readers need no special case."""
    return [
        draft.write_table(f"{folder}/part-00000.parquet", schema.empty_table())
        for folder, schema in EXAMPLES.items()
        if not num_rows[folder]
    ]
