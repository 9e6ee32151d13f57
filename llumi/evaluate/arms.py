"""What is laid side by side: which generations, from which models, and every reply with the post that it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import polars as pl

from llumi.config import Config
from llumi.errors import ArtifactError
from llumi.evaluate.measures import HUMAN_ARMS
from llumi.generate.names import answers_train_posts
from llumi.prompts import Role
from llumi.records import HUMAN_DRAFT, HUMAN_REPLY
from llumi.storage import Manifest, Storage

ROWS = "rows"
HELD_OUT = "held-out"


@dataclass(frozen=True)
class Arm:
    """One column of the comparison: a generation, or what people wrote (then without a lineage).

    `lineage` is the model and its ancestors, youngest first. Of `num_rows` replies asked for, `num_failed` were not
    given; of those that were, `num_empty` hold no text and `num_cut` ended at the token limit.
    """

    name: str
    lineage: tuple[str, ...]
    num_rows: int
    num_failed: int = 0
    num_empty: int = 0
    num_cut: int = 0

    @property
    def is_human(self) -> bool:
        """Whether people wrote it."""
        return self.name in {HUMAN_REPLY, HUMAN_DRAFT}


@dataclass(frozen=True)
class Section:
    """The arms of one role, the human reference first, and the number of posts that every arm answers."""

    role: Role
    arms: tuple[Arm, ...]
    num_posts: int

    @property
    def model_arms(self) -> list[str]:
        """The names of the arms that a model wrote."""
        return [arm.name for arm in self.arms if not arm.is_human]


@dataclass(frozen=True)
class Replies:
    """The replies to the posts that every arm of their role answers: role, arm, post_id, post, draft (null for gm), reply."""

    table: pl.DataFrame
    sections: tuple[Section, ...]
    num_held_out: int


def find_generations(config: Config, storage: Storage, names: Sequence[str]) -> list[Manifest]:
    """The generations called `names`, or all of this pairs set where the list is empty; ancestors before descendants.

    Raises ArtifactError for a name that does not stand, one that was made from another build of the pairs, or none.
    """
    pairs = storage.manifest(f"pairs/{config.pairs.name}").as_input()
    if names:
        chosen = [storage.manifest(f"generations/{name}") for name in dict.fromkeys(names)]
        for generation in chosen:
            if pairs not in generation.inputs:
                raise ArtifactError(
                    f"{storage.uri}/{generation.reference}: not made from {pairs.name} as it stands; "
                    f"generate it again, or set pairs.name"
                )
    else:
        standing = storage.list("generations")
        chosen = [one for one in standing if pairs in one.inputs and not answers_train_posts(one.name, _authors(one))]
    if not chosen:
        raise ArtifactError(
            f"{storage.uri}/generations: none from {pairs.name} as it stands; run `llumi generate gm base` first"
        )
    return sorted(chosen, key=lambda generation: (len(_lineage(storage, generation)), generation.name))


def read_replies(config: Config, storage: Storage, generations: Sequence[Manifest]) -> Replies:
    """The replies of people and models to the held-out posts; for sets of posts that fit one machine.

    Rows that failed are left out and counted. Raises ArtifactError where a generation holds no text, or where the
    generations of a role have no post in common.
    """
    held_out = pl.DataFrame(storage.read_table(f"pairs/{config.pairs.name}", HELD_OUT))
    arms: dict[Role, list[Arm]] = {}
    tables: dict[Role, list[pl.DataFrame]] = {}
    for generation in generations:
        rows = pl.DataFrame(storage.read_table(generation.reference, ROWS))
        arm = _model_arm(storage, generation, rows)
        role = _role(storage, generation, rows)
        arms.setdefault(role, []).append(arm)
        given = rows.filter(pl.col("error").is_null()).select("post_id", "reply", arm=pl.lit(generation.name))
        tables.setdefault(role, []).append(given)
    roles: list[Role] = [role for role in get_args(Role) if role in arms]
    sections, replies = [], []
    for role in roles:
        human = _human_replies(role, held_out)
        table = pl.concat([*human.values(), *tables[role]]).join(_prompts(role, held_out), on="post_id")
        shared = _shared_posts(storage, role, table)
        human_arms = [Arm(name, (), rows.height) for name, rows in human.items()]
        sections.append(Section(role, (*human_arms, *arms[role]), len(shared)))
        replies.append(
            table.filter(pl.col("post_id").is_in(shared.implode())).select(
                pl.lit(role).alias("role"), "arm", "post_id", "post", "draft", "reply"
            )
        )
    # Neighbours share their post, so that it is embedded once for all of its replies.
    return Replies(pl.concat(replies).sort("post_id", "role", "arm", "reply"), tuple(sections), held_out.height)


def _human_replies(role: Role, held_out: pl.DataFrame) -> dict[str, pl.DataFrame]:
    columns = {HUMAN_REPLY: "reply", HUMAN_DRAFT: "draft"}
    return {
        arm: _prompts(role, held_out).join(held_out, on="post_id").select("post_id", reply=columns[arm], arm=pl.lit(arm))
        for arm in HUMAN_ARMS[role]
    }


def _prompts(role: Role, held_out: pl.DataFrame) -> pl.DataFrame:
    """What a model of `role` was shown of each post; IM only posts whose draft is not the endorsed reply itself."""
    if role == "gm":
        return held_out.select("post_id", "post", draft=pl.lit(None, pl.String))
    return held_out.filter(pl.col("draft") != pl.col("reply")).select("post_id", "post", "draft")


def _shared_posts(storage: Storage, role: Role, table: pl.DataFrame) -> pl.Series:
    per_post = table.group_by("post_id").agg(pl.col("arm").n_unique())
    shared = per_post.filter(pl.col("arm") == table["arm"].n_unique())["post_id"]
    if shared.is_empty():
        raise ArtifactError(
            f"{storage.uri}/generations: those of {role} have no post in common; "
            "generate them again with the same generate.max_posts"
        )
    return shared


def _role(storage: Storage, generation: Manifest, rows: pl.DataFrame) -> Role:
    roles = set(rows["role"])
    for role in get_args(Role):
        if roles == {role}:
            return role  # type: ignore[no-any-return]
    raise ArtifactError(f"{storage.uri}/{generation.reference}: rows of one role, gm or im, are expected; generate it again")


def _model_arm(storage: Storage, generation: Manifest, rows: pl.DataFrame) -> Arm:
    given = rows.filter(pl.col("error").is_null())
    num_empty = given.filter(pl.col("reply").str.strip_chars() == "").height
    if num_empty == given.height:
        raise ArtifactError(
            f"{storage.uri}/{generation.reference}: no reply with text in any of its {rows.height} rows; generate it again"
        )
    return Arm(
        name=generation.name,
        lineage=_lineage(storage, generation),
        num_rows=rows.height,
        num_failed=rows.height - given.height,
        num_empty=num_empty,
        num_cut=given.filter(pl.col("finish_reason") == "length").height,
    )


def _authors(generation: Manifest) -> list[str]:
    """The model or the service that generated, by its name."""
    places = (entry.name.partition("/") for entry in generation.inputs)
    return [name for kind, _, name in places if kind in {"models", "endpoints"}]


def _lineage(storage: Storage, generation: Manifest) -> tuple[str, ...]:
    """The model that generated and its ancestors, as far as they still stand, youngest first."""
    names: list[str] = []
    manifest: Manifest | None = generation
    while manifest is not None:
        parents = [entry for entry in manifest.inputs if entry.name.startswith("models/")]
        if not parents or parents[0].name in names:
            break
        names.append(parents[0].name)
        manifest = storage.find(parents[0].name)
        if manifest is not None and manifest.as_input() != parents[0]:
            break
    return tuple(name.removeprefix("models/") for name in names)
