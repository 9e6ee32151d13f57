"""Pairs that people preferred, from a small file -> `pairs/<name>`, from which the stage dpo2 learns.

The rows go through what pairs from votes go through as far as it asks for text: people who want to be left out, safety,
scrubbing, copies, the split by post. A person's judgement stands in the place of votes, so no rule asks for scores,
lengths or nearness. The file fits one process; nothing is written before every row is right.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llumi.config import ARTIFACT_NAME, Config
from llumi.corpus.exclude import Exclusions, read_exclusions
from llumi.corpus.privacy import Domain, Pseudonymizer, is_pseudonym
from llumi.errors import ArtifactError, PairsError
from llumi.pairs.examples import EXAMPLES, dpo_table, gm_dpo, im_prompts
from llumi.pairs.preferred import read_preferred
from llumi.pairs.revise import words
from llumi.pairs.split import with_ids, with_split
from llumi.pairs.text import TextRules
from llumi.records import PEOPLE_SCHEMA
from llumi.safety import Resources
from llumi.storage import Input, Manifest, Storage, digest, fingerprint, store_errors

MADE_BY = "pairs add"
"""In `metrics` of the manifest: tells these pairs from those of a corpus."""

_COLUMNS = {
    "post": "text",
    "chosen": "body",
    "rejected": "body_rejected",
    "chosen_author": "author",
    "rejected_author": "author_rejected",
}
"""A field of the file -> the column of a frame of pairs (`llumi.pairs.examples`); other fields keep their names."""

_TEXTS = ("text", "draft", "body", "body_rejected")
_PEOPLE = ("post_author", "author", "author_rejected", "draft_author", "rater")
_PARTS = {"draft_author": "draft", "rater": "rater"}
"""People for whom the rows of pairs have no column, and their part in PEOPLE_SCHEMA."""


def add_pairs(config: Config, name: str, file: Path) -> Manifest:
    """Publish `pairs/<name>` from a file of pairs that people preferred (`llumi.pairs.preferred`).

    Pairs of that name that came from a file are replaced. Raises PairsError for a name that the line itself gives, for
    what is not right in the file, and where the rules leave nothing to train on; ArtifactError where pairs of that name
    stand that did not come from a file.
    """
    _check_name(config, name)
    preferred = read_preferred(file)
    storage = Storage.open(config.storage)
    _check_standing(storage, name)
    key = Pseudonymizer.open(config)
    exclusions = read_exclusions(config.corpus.exclude)
    named = _with_pseudonyms(preferred.rows.rename(_COLUMNS).with_columns(pl.col("draft").fill_null("")), key, exclusions)
    rules = TextRules.of(config)
    rows, vetoed, scrubbed = _judged(named, rules)
    kept = with_split(rows.filter(pl.col("reason").is_null()), "post_id", config.pairs.test_fraction)
    _check_left(config, file, rows, vetoed, kept)
    tables = _tables(kept)
    draft = storage.begin("pairs", name)
    return draft.publish(
        [draft.write_table(f"{folder}/part-00000.parquet", table) for folder, table in tables.items()],
        fingerprint=_fingerprint(config, key, exclusions, rules, preferred.sha256),
        config=config.model_dump(mode="json"),
        inputs=[Input(str(file), preferred.sha256)],
        counts={
            "rows": {"read": rows.height, "kept": kept.height, "dropped": _dropped(rows)},
            "vetoed": dict(vetoed.most_common()),
            "scrubbed": dict(scrubbed.most_common()),
            "splits": _splits(kept, _held_out(storage, config.pairs.name)),
            "raters": kept["rater"].drop_nulls().n_unique(),
            "examples": {folder: table.num_rows for folder, table in tables.items()},
        },
        metrics={"made_by": MADE_BY, "key_id": key.key_id, **_agreement(kept)},
    )


def _check_name(config: Config, name: str) -> None:
    built = sorted({"default", config.pairs.name})
    if not re.fullmatch(ARTIFACT_NAME, name) or name in built or name.endswith("-taught"):
        raise PairsError(
            f"pairs add {name!r}: not a name for pairs from a file; take lower-case letters, digits, dots and dashes, such as "
            f"human, and not {' or '.join(built)} (llumi pairs build writes it) or ...-taught"
        )


def _check_standing(storage: Storage, name: str) -> None:
    standing = storage.find(f"pairs/{name}")
    if standing is not None and standing.metrics.get("made_by") != MADE_BY:
        raise ArtifactError(
            f"{storage.uri}/{standing.reference}: stands, and did not come from a file of preferred pairs; take another name"
        )


def _fingerprint(config: Config, key: Pseudonymizer, exclusions: Exclusions, rules: TextRules, sha256: str) -> str:
    """What determines the pairs: the file, who is left out, the safety rules, the share of the test split, and the key."""
    seen = {
        "test_fraction": config.pairs.test_fraction,
        "safety": rules.safety.digest,
        "resources": Resources.load(config.safety.resources).model_dump(mode="json"),
        "excluded": digest([sorted(exclusions.posts), sorted(exclusions.authors)]),
        "key": key.key_id,
    }
    return fingerprint(MADE_BY, seen, [Input("file", sha256)])


def _with_pseudonyms(rows: pl.DataFrame, key: Pseudonymizer, exclusions: Exclusions) -> pl.DataFrame:
    """`rows` with pseudonyms in the place of names, and whether the post or somebody with a part in it is to be left out.

    A post without an identifier is named after its text.
    """
    posts = key.column("post", pl.Series(list(exclusions.posts), dtype=pl.String)).to_list()
    authors = key.column("author", pl.Series(list(exclusions.authors), dtype=pl.String)).to_list()
    named = rows.with_columns(
        *(_pseudonyms(key, "author", rows[who]) for who in _PEOPLE),
        post_id=_pseudonyms(key, "post", rows["post_id"]).fill_null(key.column("post", rows["text"])),
        excluded_post=_pseudonyms(key, "post", rows["post_id"].str.to_lowercase()).is_in(posts),
    )
    return named.with_columns(excluded_author=pl.any_horizontal(pl.col(_PEOPLE).is_in(authors)))


def _pseudonyms(key: Pseudonymizer, domain: Domain, names: pl.Series) -> pl.Series:
    """The pseudonym of each name; what is one already stays, as `llumi forget` takes it, and so does null."""
    hashed = key.column(domain, names.fill_null(""))
    stays = names.map_elements(is_pseudonym, return_dtype=pl.Boolean, skip_nulls=True).fill_null(value=True)
    return names.zip_with(stays, hashed)


def _judged(rows: pl.DataFrame, rules: TextRules) -> tuple[pl.DataFrame, Counter[str], Counter[str]]:
    """`rows` as they would be published, each with the first `reason` that drops it; and what was refused and scrubbed.

    A person's own words are judged, and what scrubbing made of them is compared.
    """
    rows = rows.with_columns(risk=rules.tiers(rows["text"]), veto=rules.safety.vetoes(rows["body"]))
    scrubbed = Counter[str]()
    for name in _TEXTS:
        texts, found = rules.scrub(rows[name])
        rows = rows.with_columns(texts.alias(name))
        scrubbed += found
    reasons = {
        "excluded_post": pl.col("excluded_post"),
        "excluded_author": pl.col("excluded_author"),
        "chosen_vetoed": pl.col("veto").is_not_null(),
        "same_words": words(pl.col("body")) == words(pl.col("body_rejected")),
        "unchanged": words(pl.col("body")) == words(pl.col("draft")),
    }
    rows = rows.with_columns(reason=pl.coalesce(pl.when(holds).then(pl.lit(reason)) for reason, holds in reasons.items()))
    is_kept = pl.col("reason").is_null()
    is_copy = pl.int_range(pl.len()).over(is_kept, "role", *_TEXTS) > 0
    rows = rows.with_columns(reason=pl.when(is_kept & is_copy).then(pl.lit("duplicate")).otherwise("reason"))
    return rows, Counter(rows.filter(reason="chosen_vetoed")["veto"]), scrubbed


def _dropped(rows: pl.DataFrame) -> dict[str, int]:
    """How many rows each reason dropped; the one that dropped most comes first."""
    return dict(Counter(rows["reason"].drop_nulls()).most_common())


def _check_left(config: Config, file: Path, rows: pl.DataFrame, vetoed: Counter[str], kept: pl.DataFrame) -> None:
    """Raise PairsError where no row is left to train on: what became of all, and what would let some through."""
    if not kept.filter(split="train").is_empty():
        return
    held_out = "held_out"
    dropped = Counter(_dropped(rows)) + Counter({held_out: kept.height})
    refused = ", ".join(f"{rule} {num}" for rule, num in vetoed.most_common())
    advice = {
        "excluded_post": "corpus.exclude names their posts",
        "excluded_author": "corpus.exclude names people who have a part in them",
        "chosen_vetoed": f"the safety rules refuse what was chosen ({refused})",
        "same_words": "chosen and rejected must differ in more than spacing, case and what is scrubbed",
        "unchanged": "chosen must differ from the draft in more than spacing, case and what is scrubbed",
        held_out: f"give more posts, or lower pairs.test_fraction (now {config.pairs.test_fraction})",
    }
    (most, _), *_ = dropped.most_common()
    account = ", ".join(f"{reason} {num}" for reason, num in dropped.most_common())
    raise PairsError(f"{file}: none of {rows.height} rows is left to train on ({account}); {advice[most]}")


def _tables(kept: pl.DataFrame) -> dict[str, pa.Table]:
    """Every folder of the artifact; those that only votes can fill are empty."""
    nothing = {"score": pl.Int64, "score_rejected": pl.Int64, "similarity": pl.Float64}
    pairs = with_ids(kept, "role", "post_id", *_TEXTS).with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in nothing.items()
    )
    tables = {folder: schema.empty_table() for folder, schema in EXAMPLES.items()}
    for split in ("train", "test"):
        gm, im = (pairs.filter(role=role, split=split) for role in ("gm", "im"))
        tables[f"gm-dpo/{split}"] = gm_dpo(gm)
        tables[f"im-dpo/{split}"] = dpo_table(im, im_prompts(im.with_columns(body_rejected="draft")))
    return tables | {"people": _people(pairs)}


def _people(pairs: pl.DataFrame) -> pa.Table:
    """Who else had a part in a pair (PEOPLE_SCHEMA)."""
    parts = (
        pairs.select("post_id", pair_id="example_id", author=who, part=pl.lit(part)).drop_nulls("author")
        for who, part in _PARTS.items()
    )
    people = pl.concat(parts).select(PEOPLE_SCHEMA.names)
    return people.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(PEOPLE_SCHEMA)


def _agreement(kept: pl.DataFrame) -> dict[str, float]:
    """How many people judged a pair, and what share of them preferred the chosen text, where the file says so."""
    means = {f"mean_{name}": kept[name].mean() for name in ("num_raters", "agreement")}
    return {name: round(mean, 3) for name, mean in means.items() if isinstance(mean, float)}


def _splits(kept: pl.DataFrame, held_out: set[str]) -> dict[str, Any]:
    """How many posts are on each side, and how many of those are among the ones that evaluations look at."""
    sides = {split: set(kept.filter(split=split)["post_id"]) for split in ("train", "test")}
    counted = {split: {"posts": len(posts), "also_held_out": len(posts & held_out)} for split, posts in sides.items()}
    return counted | {"by": "post"}


def _held_out(storage: Storage, name: str) -> set[str]:
    """The held-out posts of `pairs/<name>`, which generations and evaluations work on; none where it does not stand."""
    pairs = storage.find(f"pairs/{name}")
    paths = pairs.files_under("held-out") if pairs else []
    with store_errors(storage.uri):
        tables = [
            pq.read_table(storage.path("pairs", name, path), filesystem=storage.filesystem, columns=["post_id"])
            for path in paths
        ]
    return {post_id for table in tables for post_id in table["post_id"].to_pylist()}
