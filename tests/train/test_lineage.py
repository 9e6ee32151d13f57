"""Which parent and which pairs a stage takes, and which it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from llumi.config import Config
from llumi.errors import ArtifactError, ModelError
from llumi.storage import Input, Manifest, Storage
from llumi.train.lineage import find_pairs, find_parent, parent_name


def publish(storage: Storage, name: str, *inputs: Input, fingerprint: str = "f") -> Manifest:
    return storage.begin("models", name).publish([], fingerprint=fingerprint, config={}, inputs=inputs)


def line(storage: Storage, config: Config) -> tuple[Manifest, Manifest, Manifest]:
    """models/base, gm-sft made from it, gm-dpo1 made from that."""
    base = find_parent(config, storage, "gm", "sft")
    sft = publish(storage, "gm-sft", base.as_input())
    return base, sft, publish(storage, "gm-dpo1", sft.as_input())


def test_each_stage_starts_from_the_one_before(config: Config) -> None:
    storage = Storage.open(config.storage)
    base, sft, dpo1 = line(storage, config)
    assert base.reference == "models/base"
    assert find_parent(config, storage, "gm", "dpo1") == sft
    assert find_parent(config, storage, "gm", "dpo2") == dpo1
    assert [parent_name("im", stage) for stage in ("sft", "dpo1", "dpo2")] == ["base", "im-sft", "im-dpo1"]


def test_a_missing_parent_names_the_command_that_makes_it(config: Config) -> None:
    storage = Storage.open(config.storage)
    with pytest.raises(ModelError, match=r"^models/im-dpo1: not trained yet, and im dpo2 .*; run `llumi train im dpo1` first$"):
        find_parent(config, storage, "im", "dpo2")


def test_a_parent_of_another_line_is_refused_by_name(config: Config) -> None:
    storage = Storage.open(config.storage)
    _, sft, _ = line(storage, config)
    stray = publish(storage, "gm-dpo1", Input("models/base", "x"))
    with pytest.raises(
        ModelError, match=r"^models/gm-dpo1: a wrong parent \(gm-dpo1, made from models/base\), where one made from "
    ):
        find_parent(config, storage, "gm", "dpo2")
    # The IM model under GM's name, as a copied folder would put it there.
    storage.begin("models", "gm-dpo1")
    storage.replace(replace(stray, name="im-dpo1", inputs=(sft.as_input(),)))
    copied = Path(storage.path("models/im-dpo1/manifest.json"))
    Path(storage.path("models/gm-dpo1")).mkdir()
    copied.rename(storage.path("models/gm-dpo1/manifest.json"))
    with pytest.raises(ModelError, match=r"^models/gm-dpo1: a wrong parent \(im-dpo1, made from models/gm-sft\)"):
        find_parent(config, storage, "gm", "dpo2")


def test_a_parent_whose_own_parent_was_made_anew_is_refused(config: Config) -> None:
    storage = Storage.open(config.storage)
    base, _, dpo1 = line(storage, config)
    publish(storage, "gm-sft", base.as_input(), fingerprint="other settings")
    with pytest.raises(
        ModelError, match=r"made from another models/gm-sft than the one that stands; run `llumi train gm dpo1` "
    ):
        find_parent(config, storage, "gm", "dpo2")
    assert dpo1.inputs[0].name == "models/gm-sft"


def test_dpo2_learns_from_human_pairs(config: Config) -> None:
    storage = Storage.open(config.storage)
    for name in ("default", "human"):
        storage.begin("pairs", name).publish([], fingerprint=name, config={}, inputs=[])
    assert [find_pairs(config, storage, stage).name for stage in ("sft", "dpo1", "dpo2")] == ["default", "default", "human"]
    storage.begin("pairs", "human")
    with pytest.raises(ArtifactError, match=r"pairs/human: not built yet; run `llumi pairs add human FILE` first$"):
        find_pairs(config, storage, "dpo2")
