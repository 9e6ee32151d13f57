"""Which posts a study shows, and which two replies to each: drawn from artifacts, by a hash of the seed and the post."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import polars as pl

from llumi.config import Config
from llumi.errors import ArtifactError, RateError
from llumi.prompts import Role
from llumi.rate.chance import draw
from llumi.rate.tables import Item, Purpose
from llumi.records import HUMAN_DRAFT, HUMAN_REPLY
from llumi.storage import Manifest, Storage

FOLDERS: dict[Purpose, str] = {"evaluation": "held-out", "training": "drafts"}
"""Where a study's posts come from; the two folders of pairs share no post."""

_HUMAN = {HUMAN_REPLY: ("reply", "reply_author"), HUMAN_DRAFT: ("draft", "draft_author")}


@dataclass(frozen=True)
class Drawn:
    """The items of a study, and what was left out by reason; `inputs` fixes the artifacts that they came from."""

    role: Role
    purpose: Purpose
    items: list[Item]
    arms: list[str]
    inputs: dict[str, str]
    left_out: dict[str, int]


def draw_items(config: Config, role: Role, arms: Sequence[str], purpose: Purpose, num_posts: int | None) -> Drawn:
    """One item for each of `num_posts` posts (null: all that can be shown), the pairs of arms dealt out in turn.

    An arm is `human-reply`, `human-draft` or the name of generations. GM's arms are compared each with each; IM's are
    revisions, compared with the draft. Raises RateError for arms that make no comparison and where no post is left,
    ArtifactError for what does not stand or was made from another build of the pairs.
    """
    arms = _checked(role, arms)
    storage = Storage.open(config.storage, create=False)
    pairs = storage.manifest(f"pairs/{config.pairs.name}")
    posts = _posts(storage, pairs, purpose, role)
    generations = [storage.manifest(f"generations/{arm}") for arm in arms if arm not in _HUMAN]
    table = _with_people(posts, arms)
    for generation in generations:
        table = _with_generation(storage, table, generation, pairs, role)
    answered = pl.all_horizontal(pl.col(_text(arm)).str.strip_chars().fill_null("") != "" for arm in arms)
    reasons = {
        "risk": pl.col("risk").fill_null("none").is_in(config.rate.risks).not_(),
        "not_answered_by_all": answered.not_(),
        "same_words": pl.any_horizontal(pl.col(_text(a)) == pl.col(_text(b)) for a, b in _pairs_of(role, arms)),
    }
    judged = table.with_columns(reason=pl.coalesce(pl.when(holds).then(pl.lit(reason)) for reason, holds in reasons.items()))
    left_out = {reason: judged.filter(reason=reason).height for reason in reasons}
    kept = judged.filter(pl.col("reason").is_null())
    if kept.is_empty():
        account = ", ".join(f"{reason} {num}" for reason, num in left_out.items())
        raise RateError(
            f"{storage.uri}/{pairs.reference}: none of {table.height} posts of {FOLDERS[purpose]}/ can be shown ({account}); "
            "generate replies to these posts, or change rate.risks"
        )
    rows = sorted(kept.iter_rows(named=True), key=lambda row: draw(config.rate.seed, "post", row["post_id"]))[:num_posts]
    dealt = _pairs_of(role, arms)
    items = [_item(number, row, *dealt[number % len(dealt)]) for number, row in enumerate(rows)]
    inputs = {given.name: given.sha256 for given in (manifest.as_input() for manifest in (pairs, *generations))}
    return Drawn(role, purpose, items, arms, inputs, left_out)


def _checked(role: Role, arms: Sequence[str]) -> list[str]:
    if len(set(arms)) < len(arms):
        raise RateError("an arm is named twice; name each once")
    if role == "im":
        revisions = [arm for arm in arms if arm != HUMAN_DRAFT]
        if not revisions or HUMAN_REPLY in revisions:
            raise RateError("a study of im compares revisions with their drafts; name generations such as im-dpo1")
        return [HUMAN_DRAFT, *revisions]
    if len(arms) < 2:
        raise RateError(f"a study of gm compares at least two arms; name another, such as {HUMAN_REPLY}")
    return list(arms)


def _pairs_of(role: Role, arms: Sequence[str]) -> list[tuple[str, str]]:
    return [(arms[0], arm) for arm in arms[1:]] if role == "im" else list(combinations(arms, 2))


def _posts(storage: Storage, pairs: Manifest, purpose: Purpose, role: Role) -> pl.DataFrame:
    posts = pl.DataFrame(storage.read_table(pairs.reference, FOLDERS[purpose]))
    if purpose == "training":  # an older build of the pairs may not have kept the two folders apart
        held_out = pl.DataFrame(storage.read_table(pairs.reference, FOLDERS["evaluation"]))
        posts = posts.join(held_out, on="post_id", how="anti")
    return posts.filter(pl.col("draft").is_not_null()) if role == "im" else posts


def _with_people(posts: pl.DataFrame, arms: Sequence[str]) -> pl.DataFrame:
    """`posts` with a text and an author for each arm that people wrote."""
    human = [(arm, *_HUMAN[arm]) for arm in arms if arm in _HUMAN]
    texts = [pl.col(text).alias(_text(arm)) for arm, text, _ in human]
    return posts.with_columns(*texts, *(pl.col(author).alias(_author(arm)) for arm, _, author in human))


def _with_generation(storage: Storage, table: pl.DataFrame, generation: Manifest, pairs: Manifest, role: Role) -> pl.DataFrame:
    """`table` with the texts of an arm that a model wrote, null where it has none."""
    if pairs.as_input() not in generation.inputs:
        raise ArtifactError(
            f"{storage.uri}/{generation.reference}: not made from {pairs.reference} as it stands; "
            "generate it again, or set pairs.name"
        )
    rows = pl.DataFrame(storage.read_table(generation.reference, "rows"))
    if rows.is_empty():
        raise ArtifactError(f"{storage.uri}/{generation.reference}: holds no row; generate it again")
    if set(rows["role"]) != {role}:
        raise RateError(f"{storage.uri}/{generation.reference}: not written by {role}; name generations of {role}")
    texts = rows.select("post_id", pl.col("reply").alias(_text(generation.name)))
    written = table.join(texts, on="post_id", how="left")
    return written.with_columns(pl.lit(None, pl.String).alias(_author(generation.name)))


def _item(number: int, row: dict[str, str], arm_a: str, arm_b: str) -> Item:
    return Item(
        number=number,
        post_id=row["post_id"],
        post_author=row["post_author"],
        community=row["community"],
        post=row["post"],
        arm_a=arm_a,
        arm_b=arm_b,
        text_a=row[_text(arm_a)],
        text_b=row[_text(arm_b)],
        author_a=row[_author(arm_a)],
        author_b=row[_author(arm_b)],
    )


def _text(arm: str) -> str:
    return f"text of {arm}"


def _author(arm: str) -> str:
    return f"author of {arm}"
