"""The whole service on a real cluster: two deployments behind the router, asked over HTTP."""

import contextlib
import json
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx
import orjson
import pytest

pytest.importorskip("ray")

import ray
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from llumi.config import Config, RateConfig, load_config
from llumi.errors import ServeError
from llumi.models import ensure_base
from llumi.rate.database import Database
from llumi.rate.flags import list_flags
from llumi.serve.api import LABEL
from llumi.serve.app import Serving, check_port, serve, stop_serving
from llumi.serve.audit import log_files
from llumi.serve.audit_check import verify
from llumi.serve.sight import Between, Reader
from llumi.storage import Storage
from tests.conftest import free_port
from tests.serve.keyed import key_store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MARKER = "lanternintheevening"
CONTEXT_TOKENS = 16384
PATIENCE_SECONDS = 8
"""Much longer than a short answer takes, and much shorter than one that fills the context."""

POST = {"post": f"I feel lonely, {MARKER}.", "max_new_tokens": 6}


def service_config(folder: Path, tiny_model: Path, *overrides: str) -> Config:
    keys = [f"storage.uri={folder}", f"train.base={tiny_model}", f"serve.port={free_port()}", "serve.max_new_tokens=15000"]
    # With one place in the batch, whoever comes while an answer is written waits for its end.
    keys += ["serve.engine.max_batch_size=1", "serve.im.max_ongoing_requests=1", "serve.im.max_queued=1"]
    keys += ["serve.body_seconds=2"]
    return load_config(None, [*keys, *overrides])


@pytest.fixture(scope="module")
def long_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a context so long that a reply lasts until its reader has left, and no end of its own to it."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("long") / "model")
    weights = load_file(folder / "model.safetensors")
    end = AutoTokenizer.from_pretrained(folder).eos_token_id
    weights["lm_head.weight"][end] = 0  # its logit is 0, and the largest of all others is above that
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": CONTEXT_TOKENS}))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service is started; its replicas stand elsewhere."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def serving(ray_cluster: None, long_model: Path, store: Path) -> Iterator[Serving]:
    config = service_config(store, long_model, "rate.database=sqlite:///kept/rate.db")
    ensure_base(config, Storage.open(config.storage))
    with contextlib.chdir(store):
        at = serve(config)
    yield at
    stop_serving()


@pytest.fixture(scope="module")
def url(serving: Serving) -> str:
    return serving.url


@pytest.fixture(scope="module")
def client(serving: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serving.url, headers=bearer(serving.secret), timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def openai(serving: Serving) -> OpenAI:
    without_proxies = httpx.Client(trust_env=False)
    return OpenAI(base_url=f"{serving.url}/v1", api_key=serving.secret, max_retries=0, http_client=without_proxies)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.2)


def test_draft_and_improve_answer_with_the_model_behind_them(client: httpx.Client):
    draft = client.post("/v1/draft", json=POST).json()
    improve = client.post("/v1/improve", json={**POST, "draft": "Call a friend."}).json()
    assert isinstance(draft["reply"], str)
    assert isinstance(improve["revision"], str)
    for answer in (draft, improve):
        assert answer["model"].startswith("base@")
        assert answer["label"] == LABEL
        assert 0 < answer["usage"]["completion_tokens"] <= 6


def test_the_same_seed_gives_the_same_draft_streamed_or_whole(client: httpx.Client):
    body = {**POST, "seed": 4, "max_new_tokens": 20}
    whole = client.post("/v1/draft", json=body).json()
    with client.stream("POST", "/v1/draft", json={**body, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    *pieces, last = [json.loads(line) for line in lines[:-1]]
    assert "".join(piece["text"] for piece in pieces) == whole["reply"]
    assert last["usage"] == whole["usage"]


def test_the_openai_client_talks_to_both_roles(openai: OpenAI):
    assert [model.id for model in openai.models.list()] == ["llumi-gm", "llumi-im"]
    for model in ("llumi-gm", "llumi-im"):
        answer = openai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": f"Hello {MARKER}"}], max_tokens=8, seed=3, temperature=0.5
        )
        assert answer.choices[0].finish_reason in {"stop", "length"}
        assert answer.usage is not None
        assert answer.guard["decision"] == "passed"
        assert answer.banner is None
        assert answer.resources[0]["domains"] == ["findahelpline.com"]
        assert answer.system_fingerprint.startswith("base@")


def test_the_openai_client_streams(openai: OpenAI):
    asked = {"model": "llumi-gm", "messages": [{"role": "user", "content": f"Hello {MARKER}"}], "max_tokens": 30, "seed": 3}
    whole = openai.chat.completions.create(**asked)
    chunks = list(openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[0].resources == whole.resources
    assert chunks[-2].guard == whole.guard


def test_the_openai_client_understands_the_errors(openai: OpenAI):
    messages = [{"role": "user", "content": f"Hello {MARKER}"}]
    with pytest.raises(NotFoundError, match="no such model"):
        openai.chat.completions.create(model=MARKER, messages=messages)
    too_long = [{"role": "user", "content": f"{MARKER} " * CONTEXT_TOKENS}]
    for stream in (False, True):
        with pytest.raises(BadRequestError, match=f"context is {CONTEXT_TOKENS} tokens") as refusal:
            openai.chat.completions.create(model="llumi-gm", messages=too_long, stream=stream)
        assert refusal.value.code == "context_length_exceeded"
    with pytest.raises(APIStatusError, match="temperature") as invalid:
        openai.chat.completions.create(model="llumi-gm", messages=messages, temperature=-1)
    assert invalid.value.status_code == 422


def test_a_post_at_risk_has_help_beside_its_reply(client: httpx.Client):
    answer = client.post("/v1/draft", json={**POST, "post": "I am going to end my life tonight.", "country": "IE"}).json()
    assert answer["guard"]["tier"] == "imminent"
    assert "999" in answer["banner"]
    assert "116 123" in answer["resources"][0]["numbers"]


def test_a_client_that_leaves_cancels_the_generation(client: httpx.Client):
    endless = {**POST, "max_new_tokens": 15000, "temperature": 0, "stream": True}
    with client.stream("POST", "/v1/draft", json=endless) as answer:
        lines = answer.iter_lines()  # kept: the connection closes with it
        next(lines)
        # This answer goes on for longer than another reader has patience.
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/draft", json=POST, timeout=PATIENCE_SECONDS)
    # Serve's own log does not tell: a call that is cancelled early leaves no line there.
    assert client.post("/v1/draft", json=POST, timeout=PATIENCE_SECONDS).status_code == httpx.codes.OK


def test_a_client_that_leaves_a_whole_answer_cancels_it_too(client: httpx.Client):
    endless = {**POST, "max_new_tokens": 15000, "temperature": 0}
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/draft", json=endless, timeout=1)
    assert client.post("/v1/draft", json=POST, timeout=PATIENCE_SECONDS).status_code == httpx.codes.OK


def test_a_deadline_of_the_client_ends_the_generation(client: httpx.Client):
    endless = {**POST, "max_new_tokens": 15000, "temperature": 0}
    answer = client.post("/v1/draft", json=endless, headers={"X-Request-Timeout": "1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert client.post("/v1/draft", json=POST, timeout=PATIENCE_SECONDS).status_code == httpx.codes.OK


def test_a_full_queue_is_429_and_frees_itself(client: httpx.Client):
    endless = {**POST, "draft": MARKER, "max_new_tokens": 15000, "temperature": 0}

    def ask() -> httpx.Response:
        return client.post("/v1/improve", json=endless, headers={"X-Request-Timeout": "5"})

    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        refused = next(as_completed(asked)).result()  # the replica and the queue take one each, and those for long
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["Retry-After"]) > 0
        assert client.post("/v1/draft", json=POST).status_code == 200  # GM's queue is its own
        assert {request.result().status_code for request in asked} == {429, 504}
    assert client.post("/v1/improve", json={**POST, "draft": MARKER}).status_code == 200


def test_a_key_opens_while_it_stands_and_no_longer(url: str, client: httpx.Client, store: Path):
    keys = key_store(store)
    _, secret = keys.create("web", ["gm"])

    def status() -> int:
        return client.post("/v1/draft", json=POST, headers=bearer(secret)).status_code

    wait_until(lambda: status() == 200)
    assert client.post("/v1/improve", json={**POST, "draft": MARKER}, headers=bearer(secret)).status_code == 403
    keys.revoke("web")
    wait_until(lambda: status() == 401)


def test_metrics_tell_of_real_replicas_and_their_times(url: str, client: httpx.Client, store: Path):
    _, secret = key_store(store).create("watch", ["admin"])
    with httpx.Client(base_url=url, headers=bearer(secret), timeout=60, trust_env=False) as watching:
        wait_until(lambda: watching.get("/metrics").status_code == 200)
    reader = Reader(url, secret)
    before = reader.read()
    for stream in (False, True):
        assert client.post("/v1/draft", json={"post": "It is late.", "max_new_tokens": 5, "stream": stream}).status_code == 200
    gm, im = Between(before, reader.read()).figures()["roles"]
    reader.close()
    assert gm["statuses"] == {"200": 2}
    assert min(gm["replicas"], im["replicas"]) >= 1
    for times in (gm["first_token_seconds"], gm["queue_seconds"], gm["guard_seconds"]):
        assert 0 < times["p50"] < 60
    assert im["queue_seconds"]["p50"] is None


def test_a_request_id_comes_back_once_and_as_it_was_where_it_is_one(client: httpx.Client):
    given = str(uuid.uuid4())
    assert client.get("/v1/models", headers={"X-Request-Id": given}).headers.get_list("X-Request-Id") == [given]
    for wrong in (MARKER.encode(), b"\xff\xfe"):
        answer = client.get("/v1/models", headers={"X-Request-Id": wrong, "X-Session-Id": wrong})
        assert answer.status_code == 200
        [made] = answer.headers.get_list("X-Request-Id")
        assert uuid.UUID(made)


def test_a_body_that_is_too_long_or_does_not_come_is_said(url: str, client: httpx.Client, serving: Serving):
    assert client.post("/v1/draft", json={"post": "x" * 2**20}).status_code == 413
    head = f"POST /v1/draft HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {serving.secret}\r\nContent-Length: 900\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=30) as connection:
        connection.sendall(head.encode() + b'{"post": "')
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 408")


def test_health_is_ready_on_both_sides(client: httpx.Client):
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert all(role["ready"] and role["model"].startswith("base@") for role in answer.json()["roles"].values())


def test_im_down_leaves_gm_going_and_comes_back(client: httpx.Client):
    [killed] = [actor for actor in ray.util.list_named_actors(all_namespaces=True) if "#im-" in actor["name"]]
    ray.kill(ray.get_actor(**killed))
    wait_until(lambda: client.get("/healthz").json()["status"] == "degraded")
    assert client.post("/v1/draft", json=POST).status_code == 200
    wait_until(lambda: client.get("/healthz").json()["status"] == "ok")
    assert client.post("/v1/improve", json={**POST, "draft": MARKER}).status_code == 200


def test_the_writing_page_comes_and_its_flags_are_kept_where_the_service_was_started(client: httpx.Client, store: Path):
    page = client.get("/")
    assert "Writing to someone" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert client.get("/static/page.js").headers["Content-Type"].startswith("text/javascript")
    assert client.get("/v1/resources").json()["resources"]
    flag = {"role": "gm", "model": "base@0", "post": MARKER, "suggestion": MARKER}
    assert client.post("/v1/flags", json=flag).status_code == httpx.codes.CREATED
    assert client.post("/v1/flags", json=flag | {"reason": MARKER}).status_code == httpx.codes.UNPROCESSABLE_ENTITY
    with contextlib.closing(Database.open(RateConfig(database=f"sqlite:///{store}/kept/rate.db"))) as database:
        assert [kept["post"] for kept in list_flags(database)] == [MARKER]


def test_a_port_in_use_is_one_line(url: str):
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises(ServeError, match=rf"^127\.0\.0\.1:{port}: the port is in use; .*--set serve\.port={port + 1}$"):
        check_port("127.0.0.1", port)
    with pytest.raises(ServeError, match=r"serve\.host: 192\.0\.2\.77"):
        check_port("192.0.2.77", port)


def test_a_second_service_on_the_cluster_is_refused_and_the_first_goes_on(
    client: httpx.Client, tiny_model: Path, tmp_path: Path
):
    config = service_config(tmp_path, tiny_model)
    ensure_base(config, Storage.open(config.storage))
    with pytest.raises(ServeError, match="serves already"):
        serve(config)
    assert client.get("/healthz").json()["status"] == "ok"


def test_a_port_that_was_just_closed_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as connection:
            server.accept()[0].close()
            connection.close()
    check_port("127.0.0.1", port)


def test_the_router_listens_where_it_was_told_only(url: str):
    port = int(url.rsplit(":", 1)[1])
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.2", port))


def test_no_text_of_a_person_reaches_a_log(client: httpx.Client, openai: OpenAI):
    """Last on purpose: the routes above were all asked with the marker; here come the errors again."""
    for path in ("/v1/draft", "/v1/improve", "/v1/chat/completions"):
        client.post(path, json={"post": MARKER, "draft": MARKER, MARKER: MARKER})
        client.post(path, content=f'{{"post": "{MARKER}')
    client.post("/v1/draft", json={"post": f"{MARKER} " * CONTEXT_TOKENS})
    client.post("/v1/improve", json={**POST, "draft": MARKER, "stream": True})
    client.get(f"/v1/{MARKER}")
    for headers in ({"Authorization": ""}, bearer(MARKER), {"X-Request-Id": MARKER}, {"X-Request-Timeout": MARKER}):
        client.post("/v1/draft", json={"post": MARKER, "max_new_tokens": 1}, headers=headers)
        client.get(f"/v1/{MARKER}?{MARKER}", headers=headers)
    client.post("/v1/draft", json={"post": MARKER * 2**17})
    logs = [file for file in log_folder().rglob("*") if file.is_file()]
    assert any("replica_" in file.name for file in logs)
    assert [file.name for file in logs if MARKER.encode() in file.read_bytes()] == []


def test_the_audit_log_holds_every_request_and_no_text(client: httpx.Client, store: Path):
    """After all of the above."""
    assert verify(store / "audit").torn == 0
    content = b"".join(file.read_bytes() for file in log_files(store / "audit"))
    statuses = {orjson.loads(line)["status"] for line in content.splitlines()}
    assert statuses >= {200, 400, 401, 403, 404, 408, 413, 422, 429, 499, 504}
    assert MARKER.encode() not in content


def log_folder() -> Path:
    return Path(ray._private.worker.global_worker.node.get_logs_dir_path())
