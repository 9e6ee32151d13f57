"""What went into an artifact, over a store."""

from pathlib import Path

from llumi.config import StorageConfig
from llumi.lineage import Ancestor, trace
from llumi.storage import Input, Storage


def publish(storage: Storage, reference: str, content: bytes, *inputs: Input) -> Input:
    draft = storage.begin(*reference.split("/"))
    return draft.publish([draft.write("content", content)], fingerprint="", config={}, inputs=list(inputs)).as_input()


def test_an_artifact_goes_back_to_all_that_it_was_made_of(tmp_path: Path) -> None:
    storage = Storage.open(StorageConfig(uri=str(tmp_path)))
    corpus = Input("corpus", "aa")
    pairs = publish(storage, "pairs/default", b"pairs", corpus)
    base = publish(storage, "models/base", b"base", Input("/models/base", ""))
    sft = publish(storage, "models/gm-sft", b"sft", base, pairs)
    found = trace(storage, [pairs, sft])
    assert list(found.values()) == [
        Ancestor("corpus", "outside"),
        Ancestor("pairs/default", "stands", ("corpus",)),
        Ancestor("/models/base", "outside"),
        Ancestor("models/base", "stands", ("/models/base",)),
        Ancestor("models/gm-sft", "stands", ("models/base", "pairs/default")),
    ]


def test_what_is_no_more_what_it_was_is_said_and_not_followed(tmp_path: Path) -> None:
    storage = Storage.open(StorageConfig(uri=str(tmp_path)))
    first = publish(storage, "pairs/default", b"first", Input("corpus", "aa"))
    sft = publish(storage, "models/gm-sft", b"sft", first, Input("models/gone", "bb"))
    publish(storage, "pairs/default", b"second", Input("corpus", "cc"))
    found = trace(storage, [sft])
    assert found["pairs/default"] == Ancestor("pairs/default", "replaced")
    assert found["models/gone"] == Ancestor("models/gone", "gone")
    assert "corpus" not in found
