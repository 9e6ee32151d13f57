"""The users of the store: what setup.sh makes on a real server, what each may do there, and that none may do more."""

import base64
import hashlib
import hmac
import io
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import httpx
import pyarrow as pa
import pytest
import yaml

from llumi.config import StorageConfig
from llumi.errors import StoreError
from llumi.serve.keys import FOLDER, KeyStore
from llumi.storage import FileEntry, Kind, Storage, delete_tree
from tests.cluster.files import CLUSTER

pytest.importorskip("minio", reason="MinIO's client is not installed (pip install -e '.[dev]')")

from tests.cluster.mc import Mc
from tests.cluster.proxies import caddy
from tests.conftest import free_port, wait_for_port

MINIO = CLUSTER / "minio"
POLICIES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (MINIO / "policies").glob("*.json")}
ROOT_USER, ROOT_PASSWORD = "llumi-test", "llumi-test-secret"
MULTIPART_BYTES = 11 * 2**20
"""Above what pyarrow's client sends in one piece."""

Become = Callable[[str], Storage]


@pytest.fixture(scope="module")
def mc(s3_server: str) -> Mc:
    return Mc(s3_server.removeprefix("http://"), ROOT_USER, ROOT_PASSWORD)


@pytest.fixture(scope="module")
def secrets(mc: Mc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets of the users that setup.sh made, on its first run and kept on its second."""
    programs, kept = tmp_path_factory.mktemp("bin"), tmp_path_factory.mktemp("users") / "kept"
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    seen = []
    with mc.installed(programs):
        for _ in range(2):
            done = subprocess.run(
                [str(MINIO / "setup.sh"), "store", str(kept)],
                env=environment, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            seen.append({path.name: path.read_text() for path in kept.iterdir()})
    assert seen[0] == seen[1]
    return kept


@pytest.fixture
def become(secrets: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Become:
    """The store as one of its users sees it."""

    def as_user(user: str, bucket: str = "llumi/main") -> Storage:
        secret = ROOT_PASSWORD if user == ROOT_USER else (secrets / f"{user}.secret").read_text().strip()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", user)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        return Storage.open(StorageConfig(uri=f"s3://{bucket}", endpoint_url=s3_server))

    return as_user


def whole_life(storage: Storage) -> None:
    """All that LLUMI's jobs ask of a store: an artifact made in parts, read, copied, made anew, swept, deleted."""
    for _ in range(2):
        draft = storage.begin("models", "gm-sft")
        files = [draft.write("config.json", b"{}"), draft.pour(io.BytesIO(bytes(MULTIPART_BYTES)), "weights")]
        storage.write("scratch/part", b"moved")
        draft.take("scratch", [moved := FileEntry.of("part", b"moved")])
        draft.publish([*files, moved], fingerprint="f", config={}, inputs=[])
    manifest = storage.manifest("models/gm-sft")
    assert "gm-sft" in {known.name for known in storage.list("models")}
    assert storage.copy(manifest, "gm-best").files == manifest.files
    storage.write("models/gm-sft/left", b"over")
    assert storage.sweep(manifest) == 1
    pairs = storage.begin("pairs", "default")
    pairs.publish([pairs.write_table("t.parquet", pa.table({"a": [1]}))], fingerprint="f", config={}, inputs=[])
    assert storage.find("pairs/default")
    for kind in ("generations", "evaluations", "references"):
        storage.begin(kind, "default").publish([], fingerprint="f", config={}, inputs=[])
    for path in ("checkpoints/gm-sft/run/started", "runs/gm-sft/events", ".doctor", ".doctor-node"):
        storage.write(path, b"x")
    delete_tree(storage.filesystem, storage.path("checkpoints/gm-sft"))


def refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except (StoreError, OSError) as error:
        return re.search("(?i)access.?denied|forbidden|ACCESS_DENIED|refuses", str(error)) is not None
    return False


def test_secrets_are_for_one_user_alone(secrets: Path):
    assert {path.stem for path in secrets.iterdir()} == set(POLICIES) == {"trainer", "server", "keys", "reader"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o600}
    assert all(len(path.read_text().strip()) == 64 for path in secrets.iterdir())


def test_the_trainer_can_do_all_that_jobs_do_and_touches_no_key(become: Become):
    root = become(ROOT_USER, "llumi-dumps")
    root.write("RC_2024-01.ndjson", b"dump")
    trainer = become("trainer")
    whole_life(trainer)
    assert refused(lambda: trainer.write("keys/mine.json", b"{}"))
    assert refused(lambda: trainer.read("keys/version"))
    dumps = become("trainer", "llumi-dumps")
    assert dumps.read("RC_2024-01.ndjson") == b"dump"
    assert refused(lambda: dumps.write("RC_2024-01.ndjson", b"other"))


def test_keys_are_made_by_one_user_and_read_by_the_server(become: Become):
    keys = KeyStore(become("keys"))
    _, secret = keys.create("desk", ["gm"])
    _, rotated = keys.rotate("desk")
    assert rotated != secret
    assert refused(lambda: become("keys").write("models/gm-sft/manifest.json", b"{}"))
    assert refused(lambda: become("keys").read("pairs/default/manifest.json"))
    whole_life(become("trainer"))
    server = become("server")
    assert KeyStore(server).any_open()
    assert server.fetch("models/gm-sft").joinpath("config.json").read_bytes() == b"{}"
    assert refused(lambda: server.write("models/gm-sft/config.json", b"{}"))
    assert refused(lambda: server.write("keys/mine.json", b"{}"))
    assert refused(lambda: server.read("pairs/default/manifest.json"))
    keys = KeyStore(become("keys"))
    assert keys.revoke("desk")


def test_the_reader_sees_reports_and_no_text_to_learn_from(become: Become):
    whole_life(become("trainer"))
    reader = become("reader")
    assert reader.find("evaluations/default")
    assert reader.read("runs/gm-sft/events") == b"x"
    for path in ("pairs/default/manifest.json", "models/gm-sft/config.json", "generations/default/manifest.json"):
        assert refused(lambda path=path: reader.read(path)), path
    assert refused(lambda: reader.write("evaluations/default/manifest.json", b"{}"))


def test_nobody_reads_without_a_key(secrets: Path, s3_server: str):
    assert httpx.get(f"{s3_server}/llumi/main/models/gm-sft/config.json", trust_env=False).status_code == 403


def test_the_store_is_reached_over_tls_with_an_authority_of_our_own(
    s3_server: str, secrets: Path, certificate: Path, tmp_path: Path
):
    """As with MinIO's own TLS, SSL_CERT_FILE is what LLUMI needs to be told; without it the store is refused."""
    port = free_port()
    command, environment = caddy(tmp_path, certificate, int(s3_server.rpartition(":")[2]), port)
    asks = (
        "import sys; from llumi.config import StorageConfig; from llumi.storage import Storage;"
        f"Storage.open(StorageConfig(uri='s3://llumi/main', endpoint_url='https://localhost:{port}')).write('.doctor', b'x')"
    )
    keys = {"AWS_ACCESS_KEY_ID": "trainer", "AWS_SECRET_ACCESS_KEY": (secrets / "trainer.secret").read_text().strip()}
    trust = {"SSL_CERT_FILE": str(certificate / "ca.crt")}
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL) as proxy:
        try:
            wait_for_port(port)
            asked = [
                subprocess.run(
                    [sys.executable, "-c", asks], env=os.environ | keys | more, capture_output=True, text=True, check=False
                )
                for more in (trust, {})
            ]
        finally:
            proxy.terminate()
    assert asked[0].returncode == 0, asked[0].stderr
    assert asked[1].returncode == 1
    assert "no store answers" in asked[1].stderr


@pytest.mark.parametrize("action", sorted({a for s in POLICIES["trainer"]["Statement"] for a in s["Action"]}))
def test_the_trainer_needs_each_action_that_it_has(action: str, become: Become, mc: Mc):
    """A policy without it makes the same work fail: there is none to take away."""
    less = json.loads(json.dumps(POLICIES["trainer"]))
    for statement in less["Statement"]:
        statement["Action"] = [kept for kept in statement["Action"] if kept != action]
    less["Statement"] = [statement for statement in less["Statement"] if statement["Action"]]
    admin = mc.admin()
    admin.policy_add(policy_name="less", policy=less)
    admin.policy_set(policy_name="less", user="trainer")
    try:
        assert refused(lambda: whole_life(become("trainer")))
    finally:
        admin.policy_set(policy_name="llumi-trainer", user="trainer")


@pytest.mark.parametrize("user", sorted(POLICIES))
def test_a_policy_names_actions_and_places(user: str):
    for statement in POLICIES[user]["Statement"]:
        assert not [action for action in statement["Action"] if "*" in action]
        assert all(re.match(r"arn:aws:s3:::llumi(-dumps)?(/|$)", place) for place in statement["Resource"])


def test_the_trainer_reaches_every_kind_of_artifact():
    places = {place for statement in POLICIES["trainer"]["Statement"] for place in statement["Resource"]}
    assert {f"arn:aws:s3:::llumi/main/{kind}/*" for kind in get_args(Kind)} <= places
    assert not [place for place in places if FOLDER in place.split("/")]


def test_the_store_tells_prometheus_what_the_alerts_ask(s3_server: str):
    rules = yaml.safe_load((CLUSTER / "prometheus" / "alerts.yml").read_text())["groups"]
    asked = set(re.findall(r"\bminio_\w+", " ".join(rule["expr"] for group in rules for rule in group["rules"])))
    page = httpx.get(f"{s3_server}/minio/v2/metrics/cluster", headers=_prometheus_token(), trust_env=False)
    assert page.status_code == 200
    assert len(asked) == 2
    assert asked <= set(re.findall(r"^(\w+)\{", page.text, re.MULTILINE))


def _prometheus_token() -> dict[str, str]:
    """What `mc admin prometheus generate` shows: a JWT of the root user."""

    def part(content: Any) -> str:
        return (
            base64.urlsafe_b64encode(content if isinstance(content, bytes) else json.dumps(content).encode())
            .decode()
            .rstrip("=")
        )

    head = part({"alg": "HS512", "typ": "JWT"})
    body = f"{head}.{part({'exp': int(time.time()) + 3600, 'sub': ROOT_USER, 'iss': 'prometheus'})}"
    signature = hmac.new(ROOT_PASSWORD.encode(), body.encode(), hashlib.sha512).digest()
    return {"Authorization": f"Bearer {body}.{part(signature)}"}
