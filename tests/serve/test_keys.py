"""Keys from their making to their end, in a store, and as a router that runs sees them."""

import json
import time
from pathlib import Path

import pytest

from llumi.errors import AccessError, StoreError
from llumi.serve import ring as ring_module
from llumi.serve.keys import SECRET_BYTES, KeyStore, hashed, make_key
from llumi.serve.ring import KeyRing
from llumi.storage import Storage
from tests.serve.keyed import key_store


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> KeyStore:
    return key_store(tmp_path, clock)


def test_a_key_opens_and_only_its_hash_is_at_rest(store: KeyStore, tmp_path: Path, clock: Clock):
    key, secret = store.create("clinic-web", ["im", "gm"], requests_per_minute=60)
    assert KeyRing(store, clock=clock).find(secret) == (key, None)
    assert key.scopes == ("gm", "im")
    assert len(secret) > SECRET_BYTES
    files = [file.read_text() for file in (tmp_path / "keys").iterdir()]
    assert any(key.hash in content for content in files)
    assert not any(secret in content or secret.removeprefix("llumi_") in content for content in files)


def test_a_wrong_key_is_nobodys_and_leaves_nothing_behind(store: KeyStore, clock: Clock):
    _, secret = store.create("web", ["gm"])
    ring = KeyRing(store, clock=clock)
    known = len(ring._by_hash)
    for wrong in ("", secret[:-1], secret + "x", hashed(secret), "ü" * 1000):
        assert ring.find(wrong) == (None, None)
    assert len(ring._by_hash) == known


def test_rotation_ends_the_old_secret_at_once_or_after_its_grace(store: KeyStore, clock: Clock):
    key, first = store.create("web", ["gm"])
    ring = KeyRing(store, clock=clock)
    rotated, second = store.rotate("web")
    ring.refresh()
    assert rotated.id == key.id
    assert ring.find(first)[1] == "was replaced by a new secret"
    assert ring.find(second) == (rotated, None)
    _, third = store.rotate("web", grace_hours=2)
    ring.refresh()
    assert ring.find(first) == (None, None)
    assert ring.find(second)[1] is ring.find(third)[1] is None
    clock.now += 2 * 3600
    assert ring.find(second)[1] == "was replaced by a new secret"
    assert ring.find(third)[1] is None


def test_a_key_expires(store: KeyStore, clock: Clock):
    _, secret = store.create("web", ["gm"], days=30)
    ring = KeyRing(store, clock=clock)
    clock.now += 30 * 86400 - 1
    assert ring.find(secret)[1] is None
    clock.now += 1
    assert ring.find(secret)[1] == "has expired"
    assert [key.state(clock.now) for key in store.all()] == ["expired"]
    assert not store.any_open()


def test_a_revoked_key_stays_closed_and_gives_its_name_free(store: KeyStore, clock: Clock):
    first, secret = store.create("web", ["gm"])
    ring = KeyRing(store, clock=clock)
    store.revoke("web")
    ring.refresh()
    assert ring.find(secret)[1] == "was revoked"
    clock.now += 1
    second, new = store.create("web", ["im"])
    ring.refresh()
    assert second.id != first.id
    assert ring.find(new)[1] is None
    assert ring.find(secret)[1] == "was revoked"
    assert [key.state(clock.now) for key in store.all()] == ["revoked", "open"]


def test_what_cannot_be_is_one_line(store: KeyStore, tmp_path: Path):
    store.create("web", ["gm"])
    with pytest.raises(AccessError, match=r"key web: stands already; .*llumi keys rotate web"):
        store.create("web", ["gm"])
    with pytest.raises(AccessError, match="key 'Web Page': not a name"):
        store.create("Web Page", ["gm"])
    for change in (store.rotate, store.revoke):
        with pytest.raises(AccessError, match="key wbe: no open key has this name; there are: web"):
            change("wbe")
    (tmp_path / "keys" / "stray.json").write_text("{}")
    with pytest.raises(AccessError, match=r"keys/stray\.json: not a key of LLUMI"):
        store.all()


def test_two_keys_of_one_name_are_revoked_together_and_not_rotated(tmp_path: Path, clock: Clock):
    """As two people leave them who create it at the same moment."""
    store = key_store(tmp_path, clock)
    for secret in ("one", "other"):
        store._write(make_key("web", secret, ["gm"], clock.now))
    with pytest.raises(AccessError, match="2 keys have this name"):
        store.rotate("web")
    assert len(store.revoke("web")) == 2
    assert not store.any_open()


def test_a_ring_reads_one_small_file_until_a_key_changes(store: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    _, secret = store.create("web", ["gm"])
    ring = KeyRing(store, clock=clock)
    read: list[str] = []
    monkeypatch.setattr(Storage, "read", lambda self, path, read=read, real=Storage.read: read.append(path) or real(self, path))
    ring.refresh()
    assert read == ["keys/VERSION"]
    monkeypatch.setattr(ring_module, "REREAD_SECONDS", 0)
    ring.refresh()
    assert len(read) == 3
    assert ring.find(secret)[1] is None


def test_a_revocation_reaches_a_ring_that_watches(store: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ring_module, "POLL_SECONDS", 0.01)
    _, secret = store.create("web", ["gm"])
    ring = KeyRing(store, clock=clock)
    ring.watch()
    store.revoke("web")
    wait_for(lambda: ring.find(secret)[1] == "was revoked")
    ring.close()


def test_a_store_that_fails_leaves_the_known_keys_open_and_is_said_once(
    store: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(ring_module, "POLL_SECONDS", 0.01)
    _, secret = store.create("web", ["gm"])
    ring = KeyRing(store, clock=clock)
    asked = 0

    def silent(_: Storage, path: str) -> bytes:
        nonlocal asked
        asked += 1
        raise StoreError("s3://llumi: no store answers")

    with monkeypatch.context() as outage:
        outage.setattr(Storage, "read", silent)
        ring.watch()
        wait_for(lambda: asked > 3)
        assert ring.find(secret)[1] is None
    store.revoke("web")
    wait_for(lambda: ring.find(secret)[1] == "was revoked")
    ring.close()
    assert [record.message for record in caplog.records] == [
        "keys cannot be read, those known go on to open: s3://llumi: no store answers"
    ]


def test_keys_live_on_s3_as_well(s3_storage, clock: Clock):
    store = KeyStore(Storage.open(s3_storage), clock)
    assert not store.any_open()
    ring = KeyRing(store, clock=clock)
    _, secret = store.create("web", ["gm"])
    ring.refresh()
    assert ring.find(secret)[1] is None
    store.revoke("web")
    ring.refresh()
    assert ring.find(secret)[1] == "was revoked"


def test_the_record_of_a_key_is_json_that_a_person_can_read(store: KeyStore, tmp_path: Path):
    key, _ = store.create("web", ["gm"], tokens_per_minute=1000)
    record = json.loads((tmp_path / "keys" / f"{key.id}.json").read_text())
    assert (record["name"], record["scopes"], record["tokens_per_minute"]) == ("web", ["gm"], 1000)


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
