"""Which steps a run takes, and what it says of each beforehand: over a store, without a cluster."""

from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from llumi.config import Config, StorageConfig, load_config
from llumi.corpus.sample import write_sample
from llumi.errors import ArtifactError, ConfigError
from llumi.pipeline import choose, look_ahead, pipeline, steps
from llumi.progress import silent
from llumi.serve.keys import KeyStore, hashed
from llumi.storage import Storage

GM = ["models/base", "pairs/default", "models/gm-sft", "models/gm-dpo1"]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLUMI_PRIVACY_KEY", "a long key for the tests")
    write_sample(tmp_path / "corpus", 20)
    return load_config(None, [f"storage.uri={tmp_path / 'store'}", f"corpus.uri={tmp_path / 'corpus'}"])


def publish(config: Config, reference: str, inputs: list[str] = ()) -> None:
    """The artifact of a step, as the step would have left it."""
    storage = Storage.open(config.storage)
    step = next(step for step in steps(config, storage, silent) if step.reference == reference)
    draft = storage.begin(*reference.split("/"))
    given = [storage.manifest(name).as_input() for name in inputs]
    draft.publish([draft.write("content", b"")], fingerprint=step.fingerprint(), config={}, inputs=given)


def chosen(config: Config, start: str | None = None, until: str | None = None) -> list[str]:
    line = steps(config, Storage.open(config.storage), silent)
    taken = choose(line, start, until)
    return [step.reference for step in line if step.reference in taken]


def test_a_step_comes_behind_all_that_it_needs(deployment: Config) -> None:
    seen: set[str] = set()
    for step in steps(deployment, Storage.open(deployment.storage), silent):
        assert seen.issuperset(step.needs)
        seen.add(step.reference)


def test_until_a_step_what_it_does_not_need_is_left_out(deployment: Config) -> None:
    assert chosen(deployment, until="gm-dpo1") == GM
    assert chosen(deployment, until="models/gm-dpo1") == GM
    assert chosen(deployment, until="pairs") == ["pairs/default"]
    assert len(chosen(deployment)) == len(chosen(deployment, until="evaluations")) == 13


def test_from_a_step_what_it_is_made_of_is_taken_as_it_stands(deployment: Config) -> None:
    assert chosen(deployment, "gm-sft", "gm-dpo1") == GM[2:]
    assert chosen(deployment, "im-dpo1") == ["models/im-dpo1", "generations/im-dpo1", "evaluations/default"]
    with pytest.raises(ArtifactError, match=r"^models/base: models/gm-sft is made of it, and it does not stand; leave --from"):
        next(pipeline(deployment, start="gm-sft"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"start": "gm-sfd"}, r"^--from gm-sfd: no such step; there are models/base, pairs/default, models/gm-sft"),
        ({"until": "models"}, r"^--until models: no such step"),  # more than one is of that kind
        ({"start": "im-sft", "until": "gm-dpo1"}, r"^--from im-sft: gm-dpo1 does not need it"),
    ],
)
def test_a_step_that_there_is_not_is_one_line(deployment: Config, options: dict[str, Any], problem: str) -> None:
    for run in (lambda: next(pipeline(deployment, **options)), lambda: look_ahead(deployment, **options)):
        with pytest.raises(ConfigError, match=problem):
            run()


def test_looking_ahead_says_what_stands_and_what_would_be_made(deployment: Config) -> None:
    assert set(look_ahead(deployment).values()) == {"missing"}
    publish(deployment, "models/base")
    publish(deployment, "pairs/default")
    publish(deployment, "models/gm-sft")
    found = look_ahead(deployment, until="gm-dpo1")
    assert [found[name] for name in GM] == ["stands", "stands", "stands", "missing"]
    assert found["models/im-sft"] == "not asked for"
    other = load_config(
        None, [f"storage.uri={deployment.storage.uri}", f"corpus.uri={deployment.corpus.uri}", "pairs.sft_min_score=7"]
    )
    found = look_ahead(other, until="gm-dpo1")
    assert [found[name] for name in GM] == ["stands", "config or inputs differ", "a step before it runs", "missing"]
    assert look_ahead(other, "gm-sft", "gm-dpo1")["models/gm-sft"] == "stands"  # pairs are taken as they stand


def test_what_a_copy_of_the_store_holds_stands_there_too(deployment: Config, s3_storage: StorageConfig) -> None:
    for reference in GM[:3]:
        publish(deployment, reference)
    before = Storage.open(deployment.storage)
    _, secret = KeyStore(before).create("desk", ["gm"])
    before.begin("models", "gm-dpo1").write("content", b"half of it")  # a run was at work when the copy was made
    backup = Storage.open(s3_storage)
    pafs.copy_files(before.root, backup.root, source_filesystem=before.filesystem, destination_filesystem=backup.filesystem)

    found = look_ahead(deployment.model_copy(update={"storage": s3_storage}), until="gm-dpo1")
    assert [found[name] for name in GM] == ["stands", "stands", "stands", "missing"]
    assert (backup.fetch("models/gm-sft") / "content").read_bytes() == b""
    assert [key.hash for key in KeyStore(backup).all()] == [hashed(secret)]


def test_what_stands_is_not_made_again(deployment: Config) -> None:
    for reference in GM[:3]:
        publish(deployment, reference)
    done = list(pipeline(deployment, until="gm-sft"))
    assert [(step.manifest.reference, step.skipped) for step in done] == [(name, True) for name in GM[:3]]
