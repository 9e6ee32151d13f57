"""What a config leads to, and what cannot be brought back: over a store, without a service."""

from pathlib import Path

import pytest

pytest.importorskip("ray")

from llumi.adapters import ADAPTER_FOLDER
from llumi.config import Config, load_config
from llumi.errors import ArtifactError, ConfigError, ModelError
from llumi.models import ensure_base
from llumi.serve.rollout import plan, require_standing
from llumi.serve.running import Applied
from llumi.storage import Storage
from tests.adapters import write_adapter


def config(folder: Path, *overrides: str) -> Config:
    return load_config(None, [f"storage.uri={folder}", *overrides])


def publish(folder: Path, name: str, content: bytes) -> None:
    draft = Storage.open(config(folder).storage).begin("models", name)
    files = [draft.write(file, b"{}") for file in ("config.json", "tokenizer.json", "chat_template.jinja")]
    draft.publish([*files, draft.write("model.safetensors", content)], fingerprint="", config={}, inputs=[])


def applied(of: Config) -> Applied:
    return Applied(of, plan(of, Storage.open(of.storage), [{"CPU": 4.0}]))


def test_a_version_is_a_model_its_weights_and_its_engine(tmp_path: Path):
    publish(tmp_path, "base", b"first")
    table = applied(config(tmp_path)).table
    assert table.roles["gm"].stable.served == table.roles["im"].stable.served
    assert len(table.names) == 2
    assert all(role.stable.name.startswith(f"{name}-") for name, role in table.roles.items())
    scaled = applied(config(tmp_path, "serve.gm.max_replicas=3", "serve.max_new_tokens=9")).table
    assert scaled.names == table.names
    assert scaled.revision != table.revision
    assert applied(config(tmp_path, "serve.engine.max_batch_size=3")).table.names.isdisjoint(table.names)
    publish(tmp_path, "base", b"second")
    assert applied(config(tmp_path)).table.names.isdisjoint(table.names)


def test_what_was_replaced_in_the_store_is_said_unless_it_still_serves(tmp_path: Path):
    publish(tmp_path, "gm-sft", b"first")
    publish(tmp_path, "base", b"base")
    before = applied(config(tmp_path))
    publish(tmp_path, "gm-sft", b"second")
    with pytest.raises(ArtifactError, match=r"^models/gm-sft: version \w{12} was replaced by \w{12}, .*llumi serve deploy$"):
        require_standing(before, applied(config(tmp_path)).table)
    require_standing(before, before.table)


def test_a_canary_is_another_model_with_a_share(tmp_path: Path):
    publish(tmp_path, "base", b"base")
    publish(tmp_path, "gm-sft", b"first")
    gm = applied(config(tmp_path, "serve.gm.canary={model: base, weight: 0.25}")).table.roles["gm"]
    assert ([version.served.name for version in gm.versions], gm.weight) == (["gm-sft", "base"], 0.25)
    with pytest.raises(ConfigError, match=r"serve\.gm\.canary\.model: gm-sft is the model beside it"):
        applied(config(tmp_path, "serve.gm.canary={model: gm-sft, weight: 0.25}"))
    with pytest.raises(ConfigError, match=r"serve\.gm\.canary\.weight"):
        config(tmp_path, "serve.gm.canary={model: base, weight: 1.5}")


SHARED = "serve.shared_base=true"


def with_base(folder: Path, tiny_model: Path) -> Storage:
    """A store whose base is a real model."""
    own = config(folder, f"train.base={tiny_model}")
    storage = Storage.open(own.storage)
    ensure_base(own, storage)
    return storage


def publish_trained(storage: Storage, name: str, base: Path, scratch: Path, revision: str = "") -> None:
    """A model with an adapter that leads to it from `models/base`, or where `revision` is given, from another one."""
    revision = revision or storage.manifest("models/base").as_input().sha256
    write_adapter(scratch / ADAPTER_FOLDER, base, settings={"revision": revision})
    draft = storage.begin("models", name)
    draft.publish([*draft.upload(base), *draft.upload(scratch)], fingerprint=name, config={}, inputs=[])


def test_on_a_shared_base_one_pool_answers_for_every_version(tmp_path: Path, tiny_model: Path):
    storage = with_base(tmp_path / "store", tiny_model)
    for name in ("gm-sft", "gm-dpo1"):
        publish_trained(storage, name, tiny_model, tmp_path / name)
    models = ("serve.gm.model=gm-sft", "serve.im.model=base", "serve.gm.canary={model: gm-dpo1, weight: 0.5}")
    table = applied(config(tmp_path / "store", SHARED, *models)).table
    (pool,) = table.names
    assert pool.startswith("shared-")
    held = [(role, version.holding.model, version.holding.adapter) for role, version in table.versions]
    assert held == [("gm", "base", "models/gm-sft"), ("gm", "base", "models/gm-dpo1"), ("im", "base", None)]
    apart = applied(config(tmp_path / "store", *models)).table
    assert [version.served for _, version in table.versions] == [version.served for _, version in apart.versions]
    assert len(apart.names) == 3
    assert applied(config(tmp_path / "store", SHARED, *models, "serve.shared.max_replicas=3")).table.names == {pool}
    assert applied(config(tmp_path / "store", SHARED, *models[:2])).table.names.isdisjoint({pool})


@pytest.mark.parametrize(
    ("method", "revision", "wanted", "message"),
    [
        ("full", None, (), r"trained in full; set serve\.shared_base=false, or train it with train\.method=lora$"),
        ("lora", None, (), r"no adapter: a model before it was trained in full, or it is older; set serve\.shared_base=false"),
        ("lora", "another", (), r"trained from another models/base than stands; train it again, or set serve\.shared_base"),
        ("lora", "", ("serve.im.adapter=models/im-sft",), r"sits on models/im-sft; leave that out"),
    ],
    ids=["in-full", "no-adapter", "another-base", "adapter-on-a-model"],
)
def test_what_cannot_share_the_base_is_said_beforehand(
    tmp_path: Path, tiny_model: Path, method: str, revision: str | None, wanted: tuple[str, ...], message: str
):
    storage = with_base(tmp_path / "store", tiny_model)
    if revision is None:
        draft = storage.begin("models", "im-sft")
        draft.publish(draft.upload(tiny_model), fingerprint="", config={"train": {"method": method}}, inputs=[])
    else:
        publish_trained(storage, "im-sft", tiny_model, tmp_path / "im", revision)
    with pytest.raises(ModelError, match=f"^models/im-sft: {message}") as problem:
        applied(config(tmp_path / "store", SHARED, "serve.gm.model=base", "serve.im.model=im-sft", *wanted))
    assert "\n" not in str(problem.value)
