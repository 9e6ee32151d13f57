import pickle
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from llumi.config import StorageConfig
from llumi.errors import ArtifactError, StoreError
from llumi.storage import Draft, Input, Storage, cached_copy, delete_stale_copies, fingerprint
from tests.faulty_proxy import faulty_proxy


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    if request.param == "s3":
        return Storage.open(request.getfixturevalue("s3_storage"))
    return Storage.open(StorageConfig(uri=str(tmp_path / "store")))


def publish(draft: Draft, table: pa.Table, **counts: int) -> None:
    entry = draft.write_table("rows/part-0.parquet", table)
    draft.publish([entry], fingerprint="f", config={"a": 1}, inputs=[Input("corpus", "x")], counts=counts)


TABLE = pa.table({"n": [1, 2, 3]})


def test_an_artifact_is_seen_only_once_its_manifest_stands(storage: Storage) -> None:
    draft = storage.begin("pairs", "one")
    entry = draft.write_table("rows/part-0.parquet", TABLE)
    assert storage.find("pairs/one") is None
    assert storage.list("pairs") == []
    draft.publish([entry], fingerprint="f", config={}, inputs=[], counts={"kept": 3})
    assert storage.manifest("pairs/one").counts == {"kept": 3}
    assert [manifest.name for manifest in storage.list("pairs")] == ["one"]
    assert storage.read_table("pairs/one", "rows").equals(TABLE)


def test_beginning_again_withdraws_what_stood_and_clears_what_a_failed_attempt_left(storage: Storage) -> None:
    draft = storage.begin("pairs", "one")
    draft.write_table("rows/left-behind.parquet", TABLE)
    publish(storage.begin("pairs", "one"), TABLE)
    again = storage.begin("pairs", "one")
    assert storage.find("pairs/one") is None
    publish(again, TABLE.slice(1))
    assert storage.read_table("pairs/one", "rows").num_rows == 2
    files = storage.filesystem.get_file_info(pa.fs.FileSelector(storage.path("pairs/one"), recursive=True))
    assert {Path(f.path).name for f in files if f.type == pa.fs.FileType.File} == {"part-0.parquet", "manifest.json"}


def test_a_manifest_is_replaced_in_one_step_and_what_it_does_not_list_is_swept(storage: Storage) -> None:
    draft = storage.begin("pairs", "one")
    publish(draft, TABLE)
    old = storage.manifest("pairs/one")
    entry = draft.write_table("rows/part-0-new.parquet", TABLE.slice(2))
    assert storage.read_table("pairs/one", "rows").num_rows == 3
    storage.replace(replace(old, files=(entry,)))
    assert storage.read_table("pairs/one", "rows").num_rows == 1
    assert replace(storage.manifest("pairs/one"), files=old.files) == old
    assert storage.sweep(storage.manifest("pairs/one")) == 1
    assert storage.sweep(storage.manifest("pairs/one")) == 0
    files = storage.filesystem.get_file_info(pa.fs.FileSelector(storage.path("pairs/one"), recursive=True))
    assert {Path(f.path).name for f in files if f.type == pa.fs.FileType.File} == {"part-0-new.parquet", "manifest.json"}


def test_copies_of_what_stood_before_are_deleted(storage: Storage, tmp_path: Path) -> None:
    for name in ("one", "one-two"):
        publish(storage.begin("models", name), TABLE)
    stale = cached_copy(storage.manifest("models/one"))
    publish(storage.begin("models", "one"), TABLE.slice(1))
    kept = [cached_copy(storage.manifest(f"models/{name}")) for name in ("one", "one-two")]
    unfinished = stale.with_name(".one-ab12_xyz")
    for folder in (stale, unfinished, *kept):
        folder.mkdir(parents=True)
    assert delete_stale_copies(storage.manifest("models/one")) == 2
    assert set(stale.parent.iterdir()) == set(kept)


def test_fetch_gives_a_local_copy_of_a_whole_folder(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "deep").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "deep" / "big.bin").write_bytes(bytes(20 * 2**20))
    draft = storage.begin("models", "m")
    draft.publish(draft.upload(source), fingerprint="f", config={}, inputs=[])
    folder = storage.fetch("models/m")
    assert (folder / "config.json").read_text() == "{}"
    assert (folder / "deep" / "big.bin").stat().st_size == 20 * 2**20
    assert storage.fetch("models/m") == folder


def test_an_artifact_is_published_under_a_second_name(storage: Storage) -> None:
    publish(storage.begin("models", "gm-dpo1"), TABLE.slice(1))
    publish(storage.begin("models", "gm-dpo1-1a2b3c4d"), TABLE)
    one = storage.manifest("models/gm-dpo1-1a2b3c4d")
    second = storage.copy(one, "gm-dpo1")
    assert second == storage.manifest("models/gm-dpo1")
    assert second.as_input().sha256 == one.as_input().sha256
    assert storage.read_table("models/gm-dpo1", "rows") == TABLE
    assert storage.manifest("models/gm-dpo1-1a2b3c4d") == one
    with storage.filesystem.open_output_stream(storage.path("models/gm-dpo1/rows/part-0.parquet")) as stream:
        stream.write(b"something else")
    with pytest.raises(ArtifactError, match=r"models/gm-dpo1/rows/part-0\.parquet: not what the manifest says"):
        storage.copy(second, "gm-dpo1-kept")
    assert storage.find("models/gm-dpo1-kept") is None


def test_a_copy_that_differs_from_the_manifest_is_refused(s3_storage: StorageConfig, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    storage = Storage.open(s3_storage)
    publish(storage.begin("models", "m"), TABLE)
    with storage.filesystem.open_output_stream(storage.path("models/m/rows/part-0.parquet")) as stream:
        stream.write(b"something else")
    with pytest.raises(ArtifactError, match=r"part-0\.parquet: not what the manifest says"):
        storage.fetch("models/m")
    assert list((tmp_path / "cache").rglob("*.parquet")) == []


def test_a_missing_artifact_is_named_with_what_there_is(storage: Storage) -> None:
    publish(storage.begin("models", "gm-sft"), TABLE)
    with pytest.raises(ArtifactError, match=r"models/gm-dpo1: no such artifact \(gm-dpo1\); there are: gm-sft"):
        storage.manifest("models/gm-dpo1")


def test_a_manifest_that_is_none_is_refused(storage: Storage) -> None:
    storage.begin("models", "m").write("manifest.json", b'{"half":')
    with pytest.raises(ArtifactError, match="not a manifest"):
        storage.find("models/m")


def test_fingerprints_depend_on_work_config_and_inputs_only() -> None:
    one = fingerprint("pairs", {"a": 1, "b": 2}, [Input("corpus", "x")])
    assert one == fingerprint("pairs", {"b": 2, "a": 1}, [Input("corpus", "x")])
    assert one != fingerprint("pairs", {"a": 1, "b": 3}, [Input("corpus", "x")])
    assert one != fingerprint("pairs", {"a": 1, "b": 2}, [Input("corpus", "y")])


def test_a_store_that_refuses_the_key_says_so(s3_storage: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"^s3://llumi-\d+/root: the store refuses this key; check AWS_ACCESS_KEY_ID"):
        Storage.open(s3_storage)


def test_a_store_without_key_bucket_or_server_says_so(s3_storage: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="no bucket 'nowhere'"):
        Storage.open(s3_storage.model_copy(update={"uri": "s3://nowhere/root"}))
    with pytest.raises(StoreError, match=r"no store answers; check storage\.endpoint_url"):
        Storage.open(s3_storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"}))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY not in the environment"):
        Storage.open(s3_storage)


def test_every_process_outlasts_a_store_that_restarts(s3_storage: StorageConfig) -> None:
    assert s3_storage.endpoint_url is not None
    with faulty_proxy(s3_storage.endpoint_url, every=10**9) as proxy:
        storage = Storage.open(s3_storage.model_copy(update={"endpoint_url": proxy.endpoint_url}))
        storage.write("notes/one", b"kept")
        on_a_worker: Storage = pickle.loads(pickle.dumps(storage))
        proxy.is_away = True
        back = threading.Timer(
            8, lambda: setattr(proxy, "is_away", False)
        )  # a client that forgot its patience gives up after 3
        back.start()
        assert on_a_worker.read("notes/one") == b"kept"
        back.join()
    assert proxy.num_requests > 4


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/store: "):
        Storage.open(StorageConfig(uri=str(tmp_path / "file" / "store")))
