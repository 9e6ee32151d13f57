"""A real service whose replicas hold the base once, and answer for both roles as their merged models would."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

pytest.importorskip("ray")

from ray import serve as ray_serve

from llumi.adapters import ADAPTER_FOLDER
from llumi.config import load_config
from llumi.engine import Request, Sampling
from llumi.models import ensure_base
from llumi.prompts import gm_prompt, im_prompt
from llumi.serve.app import serve, stop_serving
from llumi.serve.audit import log_files
from llumi.storage import Storage
from tests.adapters import merged_reply, write_adapter
from tests.conftest import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
POST, DRAFT = "The evenings are so quiet since I moved.", "Maybe join a club."
TOKENS = 12
ROLES = {"gm": gm_prompt(POST), "im": im_prompt(POST, DRAFT)}


@pytest.fixture(scope="module")
def store(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """`gm-sft` and `im-sft` with random adapters on the tiny model; no whole weights are read, so they are the base's."""
    folder = tmp_path_factory.mktemp("store")
    config = load_config(None, [f"storage.uri={folder}", f"train.base={tiny_model}"])
    storage = Storage.open(config.storage)
    revision = {"revision": ensure_base(config, storage).as_input().sha256}
    for seed, role in enumerate(ROLES, start=3):
        scratch = tmp_path_factory.mktemp(role)
        write_adapter(scratch / ADAPTER_FOLDER, tiny_model, seed=seed, rank=2 * seed, settings=revision)
        draft = storage.begin("models", f"{role}-sft")
        draft.publish([*draft.upload(tiny_model), *draft.upload(scratch)], fingerprint=role, config={}, inputs=[])
    return storage


@pytest.fixture(scope="module")
def client(ray_cluster: None, store: Storage) -> Iterator[httpx.Client]:
    config = load_config(None, [f"storage.uri={store.root}", f"serve.port={free_port()}", "serve.shared_base=true"])
    serving = serve(config)
    key = {"Authorization": f"Bearer {serving.secret}"}
    with httpx.Client(base_url=serving.url, headers=key, timeout=60, trust_env=False) as client:
        yield client
    stop_serving()


def test_each_role_answers_as_its_merged_model_from_one_pool(client: httpx.Client, store: Storage, tiny_model: Path):
    body = {"post": POST, "temperature": 0, "max_new_tokens": TOKENS}
    drafted = client.post("/v1/draft", json=body).json()
    revised = client.post("/v1/improve", json=body | {"draft": DRAFT}).json()
    expected = {
        role: merged_reply(
            tiny_model,
            Path(store.path(f"models/{role}-sft/{ADAPTER_FOLDER}")),
            Request(tuple(messages), Sampling(max_new_tokens=TOKENS, temperature=0)),
        )
        for role, messages in ROLES.items()
    }
    assert {"gm": drafted["reply"], "im": revised["revision"]} == expected
    assert len(set(expected.values())) == len(ROLES)
    assert [name for name in ray_serve.status().applications if name.startswith(("gm", "im"))] == []


def test_each_role_still_names_its_own_model(client: httpx.Client, store: Storage):
    models = {role: f"{role}-sft@{store.manifest(f'models/{role}-sft').as_input().sha256[:12]}" for role in ROLES}
    health = client.get("/healthz").json()
    assert health == {"status": "ok", "roles": {role: {"ready": True, "model": model} for role, model in models.items()}}
    assert [model["version"] for model in client.get("/v1/models").json()["data"]] == list(models.values())
    client.post("/v1/draft", json={"post": POST, "max_new_tokens": 1})
    lines = [orjson.loads(line) for file in log_files(Path(store.root) / "audit") for line in file.read_bytes().splitlines()]
    assert {line["model"] for line in lines if line["role"] == "gm"} == {models["gm"]}
