"""Bulk generation on a real cluster: every prompt accounted for, in the same rows however it ran."""

from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

pytest.importorskip("ray")

from llumi.config import Config, EndpointConfig
from llumi.errors import ArtifactError, ConfigError, EngineError, ModelError
from llumi.generate.answer import prompt_seed
from llumi.generate.names import answers_train_posts, generation_name
from llumi.generate.run import generate, generate_fingerprint
from llumi.generate.select import select_prompts
from llumi.models import ensure_base
from llumi.prompts import Role
from llumi.records import GENERATION_SCHEMA, HELD_OUT_SCHEMA
from llumi.storage import Storage
from tests.service import Service

pytestmark = pytest.mark.ray
POSTS = {f"p{number}": f"I moved to town number {number} and feel lonely. " * (1 + number % 3) for number in range(20)}


def publish_held_out(
    storage: Storage, posts: dict[str, str], draft: str | None = "Call a friend tonight.", drafts: dict[str, str] | None = None
) -> None:
    begun = storage.begin("pairs", "default")
    files = []
    for folder, texts in (("held-out", posts), ("drafts", drafts or {})):
        rows = [
            {"post_id": post_id, "community": "evenings", "post": text, "reply": "Thank you for telling us.", "draft": draft}
            for post_id, text in texts.items()
        ]
        half = len(rows) // 2
        files += [
            begun.write_table(f"{folder}/part-{index}.parquet", pa.Table.from_pylist(part, schema=HELD_OUT_SCHEMA))
            for index, part in enumerate([rows[:half], rows[half:]])
            if part
        ]
    begun.publish(files, fingerprint=f"pairs of {len(posts)}", config={}, inputs=[])


def vary(config: Config, **generate_keys: object) -> Config:
    return config.model_copy(update={"generate": config.generate.model_copy(update=generate_keys)})


@pytest.fixture
def storage(config: Config) -> Storage:
    storage = Storage.open(config.storage)
    ensure_base(config, storage)
    publish_held_out(storage, POSTS)
    return storage


@pytest.fixture
def echo(config: Config) -> Config:
    return vary(config, engine=config.generate.engine.model_copy(update={"kind": "echo"}), max_posts=None)


def rows_of(storage: Storage, reference: str) -> list[dict]:
    table = storage.read_table(reference, "rows")
    assert table.schema.equals(GENERATION_SCHEMA)
    return table.to_pylist()


@pytest.mark.slow
def test_gm_answers_every_held_out_post_alike_however_many_share_the_work(config: Config, storage: Storage, ray_cluster: None):
    seen: list[tuple[float, float | None]] = []
    manifest = generate(vary(config, max_posts=None), "gm", "base", lambda _, done, total=None: seen.append((done, total)))
    rows = rows_of(storage, "generations/gm-base")
    assert {row["post_id"] for row in rows} == set(POSTS)
    assert manifest.counts == {"prompts": 20, "answered": 20, "failed": 0}
    assert all(row["error"] is None and row["finish_reason"] in {"stop", "length"} for row in rows)
    assert manifest.metrics["tokens"] == sum(row["num_completion_tokens"] for row in rows) > 0
    assert 0 < manifest.metrics["start_seconds"] < manifest.metrics["seconds"]
    assert {entry.name for entry in manifest.inputs} == {"pairs/default", "models/base"}
    assert seen[0] == (0, 20)
    assert seen[-1] == (20, 20)
    assert len(seen) > 2

    small = config.generate.engine.model_copy(update={"max_batch_size": 3})
    generate(vary(config, max_posts=None, num_actors=2, engine=small), "gm", "base")
    assert rows_of(storage, "generations/gm-base") == rows
    assert len({row["seed"] for row in rows}) == 20


def test_im_revises_the_draft(echo: Config, storage: Storage, ray_cluster: None):
    generate(echo, "im", "base")
    assert all(row["reply"].endswith("Call a friend tonight.") for row in rows_of(storage, "generations/im-base"))


def test_im_passes_over_posts_without_draft(echo: Config, storage: Storage, ray_cluster: None):
    publish_held_out(storage, POSTS, draft=None)
    with pytest.raises(ArtifactError, match="no held-out post for im"):
        generate(echo, "im", "base")


def test_a_teacher_revises_the_drafts_of_train_and_test_posts(echo: Config, storage: Storage, ray_cluster: None):
    train_posts = {f"t{number}": f"The evenings of week {number} are quiet." for number in range(30)}
    publish_held_out(storage, POSTS, drafts=train_posts)
    manifest = generate(vary(echo, max_posts=3), "im", "base", posts="drafts")
    assert manifest.reference == "generations/im-base-drafts"
    assert manifest.counts == {"prompts": 50, "answered": 50, "failed": 0}
    rows = rows_of(storage, "generations/im-base-drafts")
    assert {row["post_id"] for row in rows} == set(POSTS) | set(train_posts)
    assert all(row["role"] == "im" and row["reply"].endswith("Call a friend tonight.") for row in rows)
    assert {entry.name for entry in manifest.inputs} == {"pairs/default", "models/base"}

    few = echo.pairs.model_copy(update={"revisions": echo.pairs.revisions.model_copy(update={"max_pairs": 25})})
    sample = select_prompts(echo.model_copy(update={"pairs": few}), storage, "im", posts="drafts")["post_id"].to_pylist()
    assert sample == [row["post_id"] for row in rows][:25]
    assert set(sample) & set(POSTS)
    assert set(sample) & set(train_posts)


@pytest.mark.parametrize("role", ["gm", "im"])
def test_train_posts_alone_for_a_study_that_dpo2_learns_from(role: Role, echo: Config, storage: Storage, ray_cluster: None):
    train_posts = {f"t{number}": f"The evenings of week {number} are quiet." for number in range(30)}
    publish_held_out(storage, POSTS, drafts=train_posts)
    manifest = generate(vary(echo, max_posts=12), role, "base", posts="train")
    assert manifest.reference == f"generations/{role}-base-train"
    answered = {row["post_id"] for row in rows_of(storage, manifest.reference)}
    assert len(answered) == 12
    assert answered < set(train_posts)


def test_a_teacher_needs_drafts_and_only_im_revises(echo: Config, storage: Storage, ray_cluster: None):
    with pytest.raises(ArtifactError, match=r"holds no drafts/; run `llumi pairs build` again"):
        generate(echo, "im", "base", posts="drafts")
    with pytest.raises(ConfigError, match="llumi generate im base --posts drafts"):
        generate(echo, "gm", "base", posts="drafts")


def test_a_prompt_that_is_too_long_is_recorded_and_the_rest_goes_on(echo: Config, storage: Storage, ray_cluster: None):
    publish_held_out(storage, {**POSTS, "long": "lantern " * 6000})
    manifest = generate(echo, "gm", "base")
    assert manifest.counts == {"prompts": 21, "answered": 20, "failed": 1}
    [failed] = [row for row in rows_of(storage, "generations/gm-base") if row["error"]]
    assert failed["post_id"] == "long"
    assert failed["reply"] is None
    assert "the prompt has" in failed["error"]
    assert "lantern" not in failed["error"]


def test_no_answer_at_all_is_an_error_and_leaves_the_standing_artifact(echo: Config, storage: Storage, ray_cluster: None):
    generate(echo, "gm", "base")
    publish_held_out(storage, {"long": "lantern " * 6000})
    with pytest.raises(EngineError, match="not one of 1 prompts was answered") as problem:
        generate(echo, "gm", "base")
    assert "lantern" not in str(problem.value)
    assert storage.find("generations/gm-base") is not None


def test_a_model_without_tokenizer_is_named_by_the_actors_own_error(config: Config, storage: Storage, ray_cluster: None):
    folder = Path(storage.path("models/base"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"base: no tokenizer \(tokenizer\.json\)"):
        generate(config, "gm", "base")
    assert storage.find("generations/gm-base") is None


def test_a_cluster_without_room_is_said_and_not_waited_for(config: Config, storage: Storage, ray_cluster: None):
    gpus = config.generate.engine.model_copy(update={"num_gpus": 1})
    with pytest.raises(ConfigError, match=r"generate\.engine\.num_gpus: 1 engines of 1 GPU each do not fit"):
        generate(vary(config, engine=gpus), "gm", "base")
    with pytest.raises(ConfigError, match=r"generate\.engine\.num_cpus: 64 engines"):
        generate(vary(config, num_actors=64), "gm", "base")


@pytest.fixture
def house(config: Config, service: Service) -> Config:
    """A service that is in use already, as the arm `house`."""
    endpoint = EndpointConfig(url=service.url, model="in-use", max_in_flight=4)
    return vary(config, endpoints={"house": endpoint}, max_posts=None)


def asked_of(service: Service) -> Counter[str]:
    return Counter(asked["messages"][-1]["content"] for asked in service.asked)


def test_a_service_of_the_house_is_an_arm_like_a_model(house: Config, service: Service, storage: Storage, ray_cluster: None):
    manifest = generate(house, "gm", "house")
    assert manifest.reference == "generations/gm-house"
    assert [given.name for given in manifest.inputs] == ["pairs/default", "endpoints/house"]
    rows = rows_of(storage, "generations/gm-house")
    assert {row["post_id"] for row in rows} == set(POSTS)
    assert {(row["model"], row["reply"], row["num_completion_tokens"]) for row in rows} == {("house", "You are not alone.", 5)}
    assert set(asked_of(service).values()) == {1}
    assert {asked["seed"] for asked in service.asked} == {row["seed"] for row in rows}
    other = house.generate.endpoints["house"].model_copy(update={"model": "another"})
    assert generate_fingerprint(vary(house, endpoints={"house": other}), storage, "gm", "house") != manifest.fingerprint


def test_an_attempt_that_dies_goes_on_where_it_stood(house: Config, service: Service, storage: Storage, ray_cluster: None):
    def die(_: str, done: float, total: float | None = None) -> None:
        if done >= 8:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        generate(house, "gm", "house", die)
    assert storage.find("generations/gm-house") is None
    # Only what came back counts as answered; what was still with the service is asked once more.
    service.asked.clear()
    manifest = generate(house, "gm", "house")
    before = manifest.metrics["answered_before"]
    assert before >= 8
    assert manifest.counts == {"prompts": 20, "answered": 20, "failed": 0}
    assert len(service.asked) == 20 - before
    rows = rows_of(storage, "generations/gm-house")
    assert [row["post_id"] for row in rows] == select_prompts(house, storage, "gm")["post_id"].to_pylist()
    assert not any("scratch" in str(path) for path in Path(storage.root).rglob("*.parquet"))


def test_a_killed_actor_costs_no_prompt_and_gives_none_twice(
    house: Config, service: Service, storage: Storage, ray_cluster: None
):
    killed: list[int] = []

    def kill_while_it_waits() -> None:
        with service.lock:
            if killed or len(service.asked) < 6:
                return
            actors = [each for each in psutil.Process().children(recursive=True) if "Answerer" in " ".join(each.cmdline())]
            killed.extend(actor.pid for actor in actors)
            for actor in actors:
                actor.kill()

    service.wait = kill_while_it_waits
    manifest = generate(house, "gm", "house")
    assert len(killed) == 1
    assert len(service.asked) > 20
    assert manifest.counts == {"prompts": 20, "answered": 20, "failed": 0}
    assert Counter(row["post_id"] for row in rows_of(storage, "generations/gm-house")) == Counter(POSTS.keys())


def test_a_service_outside_of_the_network_is_refused(house: Config, storage: Storage, ray_cluster: None):
    public = house.generate.endpoints["house"].model_copy(update={"url": "http://8.8.8.8/v1"})
    with pytest.raises(ConfigError, match=r"generate\.endpoints\.house\.url: 8\.8\.8\.8 .* must not leave the network"):
        generate(vary(house, endpoints={"house": public}), "gm", "house")


def test_a_missing_model_or_pairs_is_named(config: Config, storage: Storage, ray_cluster: None):
    with pytest.raises(ArtifactError, match="models/gm-dpo1: no such artifact"):
        generate(config, "gm", "gm-dpo1")
    with pytest.raises(ArtifactError, match="pairs/other: no such artifact"):
        generate(config.model_copy(update={"pairs": config.pairs.model_copy(update={"name": "other"})}), "gm", "base")


def test_a_smaller_sample_is_part_of_a_larger_one(config: Config, storage: Storage):
    few = select_prompts(config, storage, "gm")["post_id"].to_pylist()
    more = select_prompts(vary(config, max_posts=9), storage, "gm")["post_id"].to_pylist()
    assert few == more[:4]
    assert few != sorted(POSTS)[:4]


def test_the_fingerprint_follows_what_determines_the_rows_and_nothing_else(config: Config, storage: Storage, tiny_model: Path):
    mark = generate_fingerprint(config, storage, "gm", "base")
    assert generate_fingerprint(vary(config, num_actors=3), storage, "gm", "base") == mark
    changed = [
        generate_fingerprint(vary(config, seed=18), storage, "gm", "base"),
        generate_fingerprint(vary(config, temperature=0.1), storage, "gm", "base"),
        generate_fingerprint(config, storage, "im", "base"),
        generate_fingerprint(config, storage, "im", "base", posts="drafts"),
        generate_fingerprint(config, storage, "im", "base", posts="train"),
    ]
    publish_held_out(storage, {"p1": "Another post."})
    changed.append(generate_fingerprint(config, storage, "gm", "base"))
    assert len({mark, *changed}) == 7


def test_names():
    assert [generation_name("gm", model) for model in ("base", "gm-sft", "gm-dpo1")] == ["gm-base", "gm-sft", "gm-dpo1"]
    assert generation_name("im", "base") == "im-base"
    assert generation_name("im", "teacher", posts="drafts") == "im-teacher-drafts"
    assert generation_name("gm", "gm-sft", posts="train") == "gm-sft-train"
    assert answers_train_posts("gm-sft-train", ["gm-sft"])
    assert answers_train_posts("im-teacher-drafts", ["teacher"])
    assert not answers_train_posts("im-night-train", ["night-train"])
    assert prompt_seed(17, "p1") == prompt_seed(17, "p1") != prompt_seed(17, "p2")
