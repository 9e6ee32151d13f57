"""Text that was to be forgotten is nowhere, what remains is whole, and a run that dies anywhere can be run again."""

import contextlib
import hashlib
import json
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from llumi.cli import app
from llumi.config import Config, StorageConfig, load_config
from llumi.corpus.exclude import Exclusions, read_exclusions
from llumi.corpus.privacy import KEY_VARIABLE, Pseudonymizer
from llumi.errors import ArtifactError, ConfigError, DatabaseError
from llumi.forget import _trained_on, forget
from llumi.forget_flags import Wording
from llumi.prompts import answer, gm_prompt, im_prompt
from llumi.rate.database import Database
from llumi.rate.draw import Drawn
from llumi.rate.flags import FlagBox, list_flags
from llumi.rate.study import create_study
from llumi.rate.tables import Flag, Item
from llumi.records import DPO_SCHEMA, GENERATION_SCHEMA, HELD_OUT_SCHEMA, SFT_SCHEMA
from llumi.storage import Input, Manifest, Storage, cached_copy

SECRET = "a long key for the tests"
KEY = Pseudonymizer.from_secret(SECRET)
AUTHORS = ("wren", "heron", "finch", "robin")
"""Post i is by AUTHORS[i % 4], its better reply by the next one, its weaker reply by the one after that."""


def author(name: str) -> str:
    return KEY.pseudonym("author", name)


def post_id(number: int) -> str:
    return KEY.pseudonym("post", f"p{number}")


def people(number: int) -> tuple[str, str, str]:
    return tuple(AUTHORS[(number + step) % 4] for step in range(3))  # type: ignore[return-value]


def text(kind: str, number: int) -> str:
    return f"A {kind} about the garden, number {number}, by {people(number)[('post', 'reply', 'draft').index(kind)]}"


def sft_row(role: str, number: int) -> dict[str, Any]:
    asker, helper, _ = people(number)
    post, reply, draft = (text(kind, number) for kind in ("post", "reply", "draft"))
    return {
        "example_id": f"{'pair' if role == 'im' else 'example'}-{number}",
        "post_id": post_id(number),
        "post_author": author(asker),
        "author": author(helper),
        "community": "porch",
        "risk": "none",
        "prompt": gm_prompt(post) if role == "gm" else im_prompt(post, draft),
        "completion": answer(reply),
        "score": 5,
    }


def dpo_row(role: str, number: int) -> dict[str, Any]:
    row = sft_row(role, number)
    _, helper, drafter = people(number)
    return {key: row[key] for key in ("post_id", "post_author", "community", "risk", "prompt")} | {
        "pair_id": f"pair-{number}",
        "chosen_author": author(helper),
        "rejected_author": author(drafter),
        "chosen": row["completion"],
        "rejected": answer(text("draft", number)),
        "chosen_score": 5,
        "rejected_score": 1,
        "weight": 1.0,
    }


def held_out_row(number: int) -> dict[str, Any]:
    asker, helper, drafter = people(number)
    return {
        "post_id": post_id(number),
        "post_author": author(asker),
        "community": "porch",
        "risk": "none",
        "post": text("post", number),
        "reply": text("reply", number),
        "reply_author": author(helper),
        "reply_score": 5,
        "draft": text("draft", number),
        "draft_author": author(drafter),
        "draft_score": 1,
    }


def generation_row(role: str, number: int) -> dict[str, Any]:
    failed = number == 23
    return {
        "generation_id": f"{role}-{number}",
        "post_id": post_id(number),
        "community": "porch",
        "role": role,
        "model": f"{role}-sft",
        "reply": None if failed else f"{role} answers post {number}",
        "error": "too long" if failed else None,
    }


TRAIN, TEST = range(16), range(20, 24)


def publish(
    storage: Storage, reference: str, tables: dict[str, pa.Table], inputs: Sequence[Input] = (), **counts: Any
) -> Manifest:
    kind, name = reference.split("/")
    draft = storage.begin(kind, name)  # type: ignore[arg-type]
    files = [draft.write_table(path, table) for path, table in tables.items()]
    return draft.publish(files, fingerprint=f"of {reference}", config={}, inputs=inputs, counts=counts, metrics={"m": 1})


def build_pairs(
    storage: Storage, name: str = "default", numbers: Sequence[int] = TRAIN, tests: Sequence[int] = TEST
) -> Manifest:
    """Two parts to a folder of training, one to a folder of testing."""
    tables = {}
    for role in ("gm", "im"):
        for kind, schema, row in (("sft", SFT_SCHEMA, sft_row), ("dpo", DPO_SCHEMA, dpo_row)):
            for split, parts in (("train", (numbers[::2], numbers[1::2])), ("test", (tests,))):
                for index, part in enumerate(parts):
                    rows = [row(role, number) for number in part]
                    tables[f"{role}-{kind}/{split}/part-{index:05}.parquet"] = pa.Table.from_pylist(rows, schema=schema)
    tables["held-out/part-00000.parquet"] = pa.Table.from_pylist([held_out_row(n) for n in tests], schema=HELD_OUT_SCHEMA)
    examples: dict[str, int] = {}
    for path, table in tables.items():
        folder = path.rpartition("/")[0]
        examples[folder] = examples.get(folder, 0) + table.num_rows
    return publish(storage, f"pairs/{name}", tables, [Input("corpus", "c")], examples=examples, posts={"kept": 20})


def build_model(storage: Storage, name: str, *inputs: Manifest) -> Manifest:
    draft = storage.begin("models", name)
    files = [draft.write("config.json", b"{}")]
    made_from = [artifact.as_input() for artifact in inputs]
    return draft.publish(files, fingerprint=f"of {name}", config={}, inputs=made_from, counts={"steps": 3})


def build_store(storage: Storage) -> None:
    pairs = build_pairs(storage)
    base = build_model(storage, "base")
    generations = []
    for role in ("gm", "im"):
        sft = build_model(storage, f"{role}-sft", base, pairs)
        build_model(storage, f"{role}-dpo1", sft, pairs)
        rows = pa.Table.from_pylist([generation_row(role, number) for number in TEST], schema=GENERATION_SCHEMA)
        inputs = [pairs.as_input(), sft.as_input()]
        generations.append(
            publish(
                storage, f"generations/{role}-sft", {"rows/part-00000.parquet": rows}, inputs, prompts=4, answered=3, failed=1
            )
        )
    measures = [
        {"post_id": post_id(n), "role": role, "arm": arm, "words": n} for n in TEST for role in ("gm", "im") for arm in "ab"
    ]
    tables = {"measures.parquet": pa.Table.from_pylist(measures), "summary.parquet": pa.table({"mean": [1.0]})}
    publish(
        storage, "evaluations/default", tables, [artifact.as_input() for artifact in (pairs, *generations)], held_out_posts=4
    )


@pytest.fixture(params=["local", "s3"])
def deployment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Storage]:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    place = request.getfixturevalue("s3_storage") if request.param == "s3" else StorageConfig(uri=str(tmp_path / "store"))
    exclude, database = tmp_path / "private" / "exclude.txt", f"sqlite:///{tmp_path / 'rate.db'}"
    config = load_config(None, [f"storage.uri={place.uri}", f"corpus.exclude={exclude}", f"rate.database={database}"])
    config = config.model_copy(update={"storage": place})
    storage = Storage.open(place)
    build_store(storage)
    return config, storage


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Storage]:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    config = load_config(None, [f"storage.uri={tmp_path / 'store'}", f"rate.database=sqlite:///{tmp_path / 'rate.db'}"])
    storage = Storage.open(config.storage)
    build_store(storage)
    return config, storage


def build_study(config: Config, name: str = "first", *, anonymous: bool = False) -> None:
    """A study of the held-out posts, a model's reply beside the human one, with the checks that every study has."""
    config = config.model_copy(update={"rate": config.rate.model_copy(update={"check_share": 0.5})})
    items = []
    for place, number in enumerate(TEST):
        asker, helper, _ = (None, None, None) if anonymous else map(author, people(number))
        texts = {"post": text("post", number), "text_a": "I hear you.", "text_b": text("reply", number)}
        arms = {"arm_a": "gm-sft", "arm_b": "human-reply", "author_a": None, "author_b": helper}
        items.append(Item(number=place, post_id=post_id(number), post_author=asker, community="porch", **texts, **arms))
    drawn = Drawn("gm", "evaluation", items, ["gm-sft", "human-reply"], {}, {})
    with contextlib.closing(Database.open(config.rate, create=True)) as database:
        create_study(database, config.rate, name, drawn)


def items_of(config: Config) -> list[Item]:
    """The posts of all studies that stand."""
    with contextlib.closing(Database.open(config.rate)) as database:
        return database.run(lambda session: list(session.scalars(select(Item).where(Item.expected.is_(None)))))


def files_of(storage: Storage, reference: str) -> dict[str, bytes]:
    """Every file that lies in an artifact's folder, listed or not, but for the manifest."""
    folder = storage.path(reference)
    selector = pafs.FileSelector(folder, recursive=True, allow_not_found=True)
    found = {}
    for info in storage.filesystem.get_file_info(selector):
        if info.type == pafs.FileType.File and info.base_name != "manifest.json":
            with storage.filesystem.open_input_file(info.path) as stream:
                found[info.path.removeprefix(f"{folder}/")] = stream.read()
    return found


def assert_whole(storage: Storage, reference: str) -> None:
    """What the manifest lists is there, byte for byte, and its counts are those of the rows."""
    manifest = storage.manifest(reference)
    there = files_of(storage, reference)
    for entry in manifest.files:
        assert entry.num_bytes == len(there[entry.path])
        assert entry.sha256 == hashlib.sha256(there[entry.path]).hexdigest()
    if manifest.kind == "pairs":
        for folder, num_rows in manifest.counts["examples"].items():
            assert storage.read_table(reference, folder).num_rows == num_rows
    if manifest.kind == "generations":
        rows = storage.read_table(reference, "rows")
        assert manifest.counts["prompts"] == rows.num_rows
        assert manifest.counts["failed"] == rows.num_rows - rows["error"].null_count
        assert manifest.counts["answered"] == rows["error"].null_count


def artifacts(storage: Storage) -> list[str]:
    return [manifest.reference for kind in ("pairs", "generations", "evaluations") for manifest in storage.list(kind)]


def assert_forgotten(storage: Storage, *traces: str) -> None:
    """All artifacts are whole, hold nothing beside what they list, and none of `traces`, text or pseudonym."""
    for reference in artifacts(storage):
        assert_whole(storage, reference)
        there = files_of(storage, reference)
        assert set(there) == {entry.path for entry in storage.manifest(reference).files}
        for content in there.values():
            rows = json.dumps(pq.read_table(pa.BufferReader(content)).to_pylist())
            assert not [trace for trace in traces if trace in rows]


def test_a_person_is_taken_out_of_every_artifact(deployment: tuple[Config, Storage]) -> None:
    config, storage = deployment
    before = {reference: storage.manifest(reference) for reference in artifacts(storage)}
    report = forget(config, [], ["u/finch"])
    assert_forgotten(storage, author("finch"), "by finch")
    # Three of four posts have a part of finch's; of the four held-out ones, 22 is finch's own and 20 has finch's draft.
    assert report.rows["pairs/default"] == {
        **{
            f"{role}-{kind}/{split}": num
            for role in ("gm", "im")
            for kind in ("sft", "dpo")
            for split, num in (("train", 12), ("test", 3))
        },
        "gm-sft/train": 8,
        "gm-sft/test": 2,
        "held-out": 3,
    }
    assert report.rows["generations/gm-sft"] == {"rows": 1}
    assert report.rows["generations/im-sft"] == {"rows": 2}
    assert report.rows["evaluations/default"] == {"measures": 3 * 2 * 2}
    for reference, old in before.items():
        new = storage.manifest(reference)
        assert new.fingerprint == old.fingerprint
        assert new.as_input() != old.as_input()
        assert new.counts["forgotten"]["rows"] == report.rows[reference]
        assert new.metrics == old.metrics
        assert author("finch") not in json.dumps(new.counts)
    assert storage.manifest("generations/im-sft").counts["prompts"] == 2
    assert config.corpus.exclude is not None
    assert config.corpus.exclude.read_text() == "author finch\n"
    assert stat.S_IMODE(config.corpus.exclude.stat().st_mode) == 0o600


def test_a_post_is_taken_out_with_its_replies_and_what_does_not_hold_it_stays_as_it_was(
    deployment: tuple[Config, Storage],
) -> None:
    config, storage = deployment
    build_pairs(storage, "other", numbers=range(4, 8), tests=range(24, 26))
    untouched, held = files_of(storage, "pairs/other"), files_of(storage, "pairs/default")
    report = forget(config, ["t3_p1", "p21"], [])
    assert_forgotten(storage, post_id(1), post_id(21), text("post", 1), text("reply", 21))
    assert files_of(storage, "pairs/other") == untouched
    assert "pairs/other" not in report.rows
    assert report.rows["pairs/default"]["gm-sft/train"] == 1
    assert {path for path in held if path in files_of(storage, "pairs/default")} == {
        path for path in held if path.endswith("train/part-00000.parquet")
    }
    assert storage.read_table("pairs/default", "gm-sft/train")["post_id"].to_pylist()[:3] == [post_id(n) for n in (0, 2, 4)]


def test_a_pseudonym_will_do_but_cannot_be_excluded(local: tuple[Config, Storage], tmp_path: Path) -> None:
    config, storage = local
    config = config.model_copy(update={"corpus": config.corpus.model_copy(update={"exclude": tmp_path / "exclude.txt"})})
    report = forget(config, [post_id(1), "p2"], [author("finch")])
    assert_forgotten(storage, post_id(1), post_id(2), author("finch"), "by finch")
    assert (tmp_path / "exclude.txt").read_text() == "post p2\n"
    assert any("a pseudonym cannot be excluded" in line for line in report.advice)


def test_a_teacher_s_revisions_of_a_person_s_drafts_go_with_the_drafts(local: tuple[Config, Storage]) -> None:
    config, storage = local
    drafts = pa.Table.from_pylist([held_out_row(number) for number in range(4)], schema=HELD_OUT_SCHEMA)
    by_teacher = {"author": None, "score": None, "completion": answer("A revision")}
    sft = pa.Table.from_pylist(
        [sft_row("im", n) | by_teacher | {"example_id": f"taught-{n}"} for n in range(4)], schema=SFT_SCHEMA
    )
    dpo = pa.Table.from_pylist(
        [
            dpo_row("im", n) | {"chosen_author": None, "chosen": answer("A revision"), "pair_id": f"taught-{n}"}
            for n in range(4)
        ],
        schema=DPO_SCHEMA,
    )
    tables = {
        f"{folder}/part-00000.parquet": table
        for folder, table in (("drafts", drafts), ("im-sft/train", sft), ("im-dpo/train", dpo))
    }
    publish(storage, "pairs/default-taught", tables, examples={"im-sft/train": 4, "im-dpo/train": 4, "drafts": 4})
    rows = pa.Table.from_pylist([generation_row("im", number) for number in range(4)], schema=GENERATION_SCHEMA)
    publish(storage, "generations/im-teacher-drafts", {"rows/part-00000.parquet": rows}, prompts=4, answered=4, failed=0)
    report = forget(config, [], ["finch"])
    assert_forgotten(storage, author("finch"), "draft about the garden, number 0", "by finch")
    # finch drafted for post 0 and asked post 2; the reply to post 1 is in the drafts' table, but taught nothing.
    assert report.rows["pairs/default-taught"] == {"drafts": 3, "im-sft/train": 2, "im-dpo/train": 2}
    assert report.rows["generations/im-teacher-drafts"] == {"rows": 2}


def test_what_is_forgotten_twice_is_counted_together(local: tuple[Config, Storage]) -> None:
    config, storage = local
    was = [storage.manifest("pairs/default").as_input().sha256]
    forget(config, ["p1"], [])
    was.append(storage.manifest("pairs/default").as_input().sha256)
    forget(config, ["p2", "p3"], [])
    account = storage.manifest("pairs/default").counts["forgotten"]
    assert account["rows"] == {f"{role}-{kind}/train": 3 for role in ("gm", "im") for kind in ("dpo", "sft")}
    assert account["was"] == was
    assert_forgotten(storage, post_id(1), post_id(2), post_id(3))
    assert sum("gm-sft/train" in entry.path for entry in storage.manifest("pairs/default").files) == 2


def test_an_artifact_of_which_nothing_is_left_still_stands(local: tuple[Config, Storage]) -> None:
    config, storage = local
    forget(config, [], list(AUTHORS))
    assert_forgotten(storage, *map(author, AUTHORS))
    assert storage.read_table("pairs/default", "gm-dpo/train").schema == DPO_SCHEMA
    assert set(storage.manifest("pairs/default").counts["examples"].values()) == {0}


def test_nothing_found_changes_nothing(local: tuple[Config, Storage]) -> None:
    config, storage = local
    before = {reference: storage.manifest(reference) for reference in artifacts(storage)}
    report = forget(config, ["nowhere"], ["nobody"])
    assert report.rows == {}
    assert report.models == ()
    assert {reference: storage.manifest(reference) for reference in artifacts(storage)} == before


def test_a_dry_run_counts_the_same_and_changes_nothing(deployment: tuple[Config, Storage]) -> None:
    config, storage = deployment
    everything = [f"models/{m.name}" for m in storage.list("models")] + artifacts(storage)
    before = {reference: (storage.manifest(reference), files_of(storage, reference)) for reference in everything}
    dry = forget(config, ["p1"], ["finch"], dry_run=True)
    assert {reference: (storage.manifest(reference), files_of(storage, reference)) for reference in everything} == before
    assert config.corpus.exclude is not None
    assert not config.corpus.exclude.exists()
    done = forget(config, ["p1"], ["finch"])
    assert (dry.rows, dry.models) == (done.rows, done.models)


def test_only_models_that_learned_from_it_are_named_and_their_children(local: tuple[Config, Storage]) -> None:
    config, storage = local
    other = build_pairs(storage, "other", numbers=range(4, 8), tests=range(24, 26))
    build_model(storage, "im-sft", storage.manifest("models/base"), other)
    im = build_model(storage, "im-dpo1", storage.manifest("models/im-sft"), other)
    before = im.as_input()
    report = forget(config, ["p1"], [])
    assert report.models == ("models/gm-dpo1", "models/gm-sft")
    assert report.models_unknown == ()
    assert "saw_forgotten" in storage.manifest("models/gm-dpo1").counts
    assert storage.manifest("models/gm-dpo1").counts["steps"] == 3
    assert storage.manifest("models/im-dpo1").as_input() == before
    assert forget(config, ["p21"], []).models == (), "held-out text trains nobody"


def test_the_model_of_a_point_of_a_sweep_learned_as_its_stage_does(local: tuple[Config, Storage]) -> None:
    config, storage = local
    pairs = storage.manifest("pairs/default")
    model = build_model(storage, "gm-dpo1-1a2b3c4d", storage.manifest("models/base"), pairs)
    assert _trained_on(model, pairs) == {"gm-dpo/train"}
    assert model.reference in forget(config, ["p1"], []).models


def test_a_child_is_named_for_its_parent_alone(local: tuple[Config, Storage]) -> None:
    config, storage = local
    other = build_pairs(storage, "other", numbers=range(4, 8), tests=range(24, 26))
    build_model(storage, "gm-dpo1", storage.manifest("models/gm-sft"), other)
    assert forget(config, ["p1"], []).models == ("models/gm-dpo1", "models/gm-sft", "models/im-dpo1", "models/im-sft")


def test_a_model_is_named_although_its_pairs_have_changed_since(local: tuple[Config, Storage]) -> None:
    config, storage = local
    forget(config, ["p1"], [])
    build_model(storage, "gm-sft", storage.manifest("models/base"), storage.manifest("pairs/default"))
    report = forget(config, ["p2"], [])
    assert {"models/gm-sft", "models/im-sft", "models/im-dpo1"} <= set(report.models)
    assert report.models_unknown == ("models/gm-dpo1",) or "models/gm-dpo1" in report.models
    build_pairs(storage, numbers=range(4, 16))
    again = forget(config, ["p4"], [])
    assert again.models == ()
    assert set(again.models_before) == {"models/gm-dpo1", "models/gm-sft", "models/im-dpo1", "models/im-sft"}


def test_a_model_of_pairs_that_were_built_again_is_in_doubt(local: tuple[Config, Storage]) -> None:
    config, storage = local
    build_pairs(storage, numbers=range(8))
    report = forget(config, ["p1"], [])
    assert report.models == ()
    assert report.models_unknown == ("models/gm-dpo1", "models/gm-sft", "models/im-dpo1", "models/im-sft")


def test_pairs_without_authors_are_named(local: tuple[Config, Storage]) -> None:
    config, storage = local
    old = pa.table({"post_id": [post_id(1)], "community": ["porch"]})
    publish(storage, "pairs/old", {"gm-sft/train/part-00000.parquet": old}, examples={"gm-sft/train": 1})
    assert forget(config, [], ["nobody"]).without_authors == ("pairs/old",)
    report = forget(config, ["p1"], [])
    assert report.without_authors == ()
    assert report.rows["pairs/old"] == {"gm-sft/train": 1}


def test_what_died_before_it_was_published_goes_too(deployment: tuple[Config, Storage]) -> None:
    config, storage = deployment
    storage.write("scratch/pairs-default/posts/part-0", b"text between two passes")
    storage.begin("generations", "gm-dpo1").write("rows/part-00000.parquet", b"text without a manifest")
    report = forget(config, ["nowhere"], [])
    assert report.cleared == ("generations/gm-dpo1", "scratch/pairs-default")
    assert files_of(storage, "scratch") == {}
    assert files_of(storage, "generations/gm-dpo1") == {}
    assert forget(config, ["nowhere"], []).cleared == ()


def test_copies_of_this_machine_go_and_other_machines_are_named(
    s3_storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    storage = Storage.open(s3_storage)
    build_store(storage)
    build_pairs(storage, "default-2", numbers=range(4, 8), tests=range(24, 26))
    stale, other = storage.fetch("pairs/default"), storage.fetch("pairs/default-2")
    report = forget(load_config(None).model_copy(update={"storage": s3_storage}), ["p1"], [])
    assert report.num_cached_copies == 1
    assert not stale.exists()
    assert other.exists()
    assert any(str(tmp_path / "cache" / "artifacts") in line for line in report.advice)
    assert storage.fetch("pairs/default") == cached_copy(storage.manifest("pairs/default"))


class CutOffError(Exception):
    """Stands for the process that dies."""


class Mortal(pafs.FileSystemHandler):
    """A store, kept in a local folder, that dies at the `left`-th change; a file that is being written is lost half-way."""

    def __init__(self, left: int) -> None:
        self.inner = pafs.LocalFileSystem()
        self.left = left

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise CutOffError

    def get_type_name(self) -> str:
        return "mortal"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return self.inner.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return self.inner.get_file_info(selector)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.inner.open_input_stream(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self.inner.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        self._spend()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return self.inner.open_output_stream(path)

    def delete_file(self, path: str) -> None:
        self._spend()
        self.inner.delete_file(path)

    def _absent(self, *_: Any) -> Any:
        raise NotImplementedError

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = move = copy_file = _absent
    open_append_stream = _absent


@pytest.mark.slow
def test_a_run_that_dies_at_any_change_leaves_whole_artifacts_and_the_next_one_finishes(local: tuple[Config, Storage]) -> None:
    config, storage = local
    models = {"models/gm-sft", "models/gm-dpo1", "models/im-sft", "models/im-dpo1"}
    num_changes = 0
    while True:
        build_store(storage)
        try:
            forget(config, ["p3"], ["finch"], storage=replace(storage, filesystem=pafs.PyFileSystem(Mortal(num_changes))))
        except CutOffError:
            pass
        else:
            break
        for reference in artifacts(storage):
            assert_whole(storage, reference)
        assert len(artifacts(storage)) == 4
        report = forget(config, ["p3"], ["finch"])
        assert_forgotten(storage, author("finch"), "by finch", post_id(3))
        assert set(report.models) | set(report.models_before) == models
        num_changes += 1
    assert num_changes > 30


def test_half_a_manifest_beside_the_whole_one_is_swept(local: tuple[Config, Storage]) -> None:
    config, storage = local
    forget(config, ["p1"], [])
    storage.write("pairs/default/.manifest.json.partial", b'{"half":')
    storage.write("pairs/default/gm-sft/train/part-00000-0badc0de.parquet", b"half a file")
    forget(config, ["p1"], [])
    assert_forgotten(storage, post_id(1))


def test_a_file_that_is_not_what_its_manifest_says_is_not_signed_anew(local: tuple[Config, Storage]) -> None:
    config, storage = local
    other = pa.Table.from_pylist([sft_row("gm", 1)], schema=SFT_SCHEMA)
    pq.write_table(other, storage.path("pairs/default/gm-sft/train/part-00001.parquet"))
    with pytest.raises(ArtifactError, match=r"part-00001\.parquet: not what the manifest says"):
        forget(config, ["p1"], [])


def test_the_exclude_file_is_added_to_once_each_and_a_build_reads_it(local: tuple[Config, Storage], tmp_path: Path) -> None:
    config, _ = local
    path = tmp_path / "exclude.txt"
    path.write_text("# asked to be left out\npost P9")
    config = config.model_copy(update={"corpus": config.corpus.model_copy(update={"exclude": path})})
    for _ in range(2):
        report = forget(config, ["t3_p9", "t3_p1"], ["/u/Finch", "Finch"])
    assert path.read_text() == "# asked to be left out\npost P9\npost p1\nauthor Finch\n"
    assert not any("corpus.exclude" in line for line in report.advice)
    assert read_exclusions(path) == Exclusions(frozenset({"p9", "p1"}), frozenset({"finch"}))


def test_a_person_is_taken_out_of_the_studies_of_the_rating_page(local: tuple[Config, Storage], tmp_path: Path) -> None:
    config, _ = local
    build_study(config)
    # finch asked post 22, and wrote the reply to post 21; the draft of post 20 was shown to nobody.
    counted = forget(config, [], ["finch"], dry_run=True)
    assert counted.rows["studies/first"] == {"items": 2}
    assert len(items_of(config)) == 4
    report = forget(config, [], ["finch"])
    assert report.rows == counted.rows
    assert {item.post_id for item in items_of(config)} == {post_id(20), post_id(23)}
    left = b"".join(file.read_bytes() for file in tmp_path.glob("rate.db*"))
    assert text("post", 23).encode() in left
    for gone in (text("post", 22), text("reply", 21), author("finch"), post_id(21)):
        assert gone.encode() not in left
    assert any("exports of these studies" in line for line in report.advice)
    again = forget(config, [], ["finch"])
    assert "studies/first" not in again.rows
    assert not any("exports" in line for line in again.advice)
    assert forget(config, ["p20"], []).rows["studies/first"] == {"items": 1}


def test_a_study_that_kept_no_authors_is_named(local: tuple[Config, Storage]) -> None:
    config, _ = local
    build_study(config, "first", anonymous=True)
    build_study(config, "second")
    # The pairs know that finch asked post 22; that finch wrote the reply to post 21 is not known in the first study.
    report = forget(config, [], ["finch"])
    assert {name: rows for name, rows in report.rows.items() if name.startswith("studies/")} == {
        "studies/first": {"items": 1},
        "studies/second": {"items": 2},
    }
    assert report.without_authors == ("studies/first",)


def test_where_no_study_was_created_no_database_is_made(local: tuple[Config, Storage], tmp_path: Path) -> None:
    config, _ = local
    assert not any(name.startswith("studies/") for name in forget(config, [], ["finch"]).rows)
    assert list(tmp_path.glob("rate.db*")) == []


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_rating_database_that_is_down_is_said_before_anything_changes(
    deployment: tuple[Config, Storage], dry_run: bool
) -> None:
    config, storage = deployment
    down = config.rate.model_copy(update={"database": "postgresql://rater@127.0.0.1:9/nowhere"})
    before = {reference: files_of(storage, reference) for reference in artifacts(storage)}
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1:9/nowhere: does not answer"):
        forget(config.model_copy(update={"rate": down}), [], ["finch"], dry_run=dry_run)
    assert {reference: files_of(storage, reference) for reference in artifacts(storage)} == before
    assert config.corpus.exclude is not None
    assert not config.corpus.exclude.exists()


def test_without_an_exclude_file_the_report_asks_for_one(local: tuple[Config, Storage]) -> None:
    config, _ = local
    report = forget(config, [], ["finch"])
    assert any("set corpus.exclude" in line for line in report.advice)
    assert "finch" not in json.dumps(report.figures())


def test_a_key_that_is_not_here_is_not_made(
    local: tuple[Config, Storage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = local
    monkeypatch.delenv(KEY_VARIABLE)
    key_file = tmp_path / "keys" / "privacy.key"
    config = config.model_copy(update={"privacy": config.privacy.model_copy(update={"key_file": key_file})})
    with pytest.raises(ConfigError, match=r"privacy\.key_file .*: not there; bring the key"):
        forget(config, ["p1"], [])
    assert not key_file.exists()


@pytest.mark.parametrize(
    ("posts", "authors"), [([], []), (["p1 p2"], []), ([], ["finch\nauthor wren"]), (["t3_"], []), ([""], []), ([], ["finch#"])]
)
def test_what_names_nobody_is_one_line_that_repeats_nothing(
    local: tuple[Config, Storage], posts: list[str], authors: list[str]
) -> None:
    config, _ = local
    with pytest.raises(ConfigError) as raised:
        forget(config, posts, authors)
    assert "\n" not in str(raised.value)
    assert "finch" not in str(raised.value)


def flag_of(config: Config, **texts: str | None) -> int:
    given = {"role": "im", "model": "im-sft@1", "post": "Hello.", "draft": None, "suggestion": "Hello to you.", "key_id": None}
    return FlagBox(config.rate).keep(Flag(**given | texts))


def flags_left(config: Config) -> list[int]:
    with contextlib.closing(Database.open(config.rate)) as database:
        return [flag["id"] for flag in list_flags(database)]


def test_flags_with_a_forgotten_text_go_and_others_stay(local: tuple[Config, Storage]) -> None:
    config, _ = local
    pasted = f"  She wrote:\n\n{text('post', 1).upper()}!  And I did not know what to say."
    as_draft, as_suggestion = f"{text('draft', 3)}, or so", text("draft", 20)
    posts = [flag_of(config, post=pasted), flag_of(config, post=text("post", 1), draft="Go out.")]
    by_author = [flag_of(config, draft=as_draft), flag_of(config, suggestion=as_suggestion)]
    others = [flag_of(config, post=text("post", 2)), flag_of(config, post="A post about the garden"), flag_of(config)]
    assert forget(config, ["p1"], [], dry_run=True).rows["flags"] == {"flags": 2}
    assert flags_left(config) == posts + by_author + others
    assert forget(config, ["p1"], []).rows["flags"] == {"flags": 2}
    assert flags_left(config) == by_author + others
    # finch drafted for post 20 and asked post 2; heron drafted for post 3, in which finch has no part.
    assert forget(config, [], ["finch"]).rows["flags"] == {"flags": 2}
    assert forget(config, [], ["heron"]).rows["flags"] == {"flags": 1}
    assert flags_left(config) == others[1:]
    database = Path(config.rate.database.removeprefix("sqlite:///"))
    assert text("post", 1).encode() not in b"".join(part.read_bytes() for part in database.parent.glob("rate.db*"))


def test_a_title_that_was_left_out_or_a_name_that_is_scrubbed_hides_no_flag(local: tuple[Config, Storage]) -> None:
    config, _ = local
    stored = "Quiet evenings\n\nI moved here in spring, and [user] says that it takes a year to feel at home."
    wording = Wording(config)
    for flagged, found in [
        ("I moved here in spring, and u/heron says that it takes a year to feel at home.", True),
        (f"A title. {stored}", True),
        ("says that it takes a year to feel", True),
        ("that it takes a year to feel", False),
        ("quiet evenings", False),
        ("...", False),
    ]:
        hit = wording.flags_with([{"id": 1, "post": flagged, "draft": None, "suggestion": "x"}], [stored, "!"])
        assert bool(hit) is found, flagged


def test_flags_go_by_a_text_in_a_file(local: tuple[Config, Storage], tmp_path: Path) -> None:
    config, _ = local
    flag_of(config, post=f"Hello.\n{text('post', 1)}")
    kept = flag_of(config)
    said = tmp_path / "said.txt"
    said.write_text(text("post", 1))
    arguments = ["rate", "flags", "--remove-text", str(said), "--json", "--set", f"rate.database={config.rate.database}"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert (figures["removed"], figures["flags"]) == (1, 1)
    assert flags_left(config) == [kept]
    for wrong, problem in ((b"\xff", "not UTF-8"), (b" ... ", "holds no word")):
        said.write_bytes(wrong)
        assert problem in str(CliRunner().invoke(app, arguments).exception)


@pytest.fixture
def command(local: tuple[Config, Storage]) -> Callable[..., Any]:
    _, storage = local
    runner = CliRunner()

    def run(*arguments: str) -> Any:
        return runner.invoke(app, ["forget", "--set", f"storage.uri={storage.root}", *arguments])

    return run


def test_the_command_prints_rows_and_models_and_nobody_s_name(
    command: Callable[..., Any], local: tuple[Config, Storage]
) -> None:
    dry = command("--author", "finch", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "rows to remove" in dry.output
    done = command("--post", "p1", "--author", "finch")
    assert done.exit_code == 0, done.output
    assert "models/gm-sft" in done.output
    assert "finch" not in dry.output + done.output
    again = command("--author", "finch")
    assert again.exit_code == 0
    assert "nothing of it is in" in again.output
    assert "trained on what was forgotten before: models/gm-dpo1, models/gm-sft" in again.output
    assert_forgotten(local[1], author("finch"), post_id(1))


def test_the_command_s_figures_as_json(command: Callable[..., Any]) -> None:
    done = command("--post", "p1", "--json")
    figures = json.loads(done.stdout)
    assert figures["rows"]["pairs/default"]["gm-sft/train"] == 1
    assert figures["models"] == ["models/gm-dpo1", "models/gm-sft", "models/im-dpo1", "models/im-sft"]


def test_the_command_without_a_name_is_refused(command: Callable[..., Any]) -> None:
    assert isinstance(command().exception, ConfigError)
