"""What a config leads to, and what cannot be brought back: over a store, without a service."""

from pathlib import Path

import pytest

pytest.importorskip("ray")

from llumi.config import Config, load_config
from llumi.errors import ArtifactError, ConfigError
from llumi.serve.rollout import plan, require_standing
from llumi.serve.running import Applied
from llumi.storage import Storage


def config(folder: Path, *overrides: str) -> Config:
    return load_config(None, [f"storage.uri={folder}", *overrides])


def publish(folder: Path, name: str, content: bytes) -> None:
    draft = Storage.open(config(folder).storage).begin("models", name)
    files = [draft.write(file, b"{}") for file in ("config.json", "tokenizer.json", "chat_template.jinja")]
    draft.publish([*files, draft.write("model.safetensors", content)], fingerprint="", config={}, inputs=[])


def applied(of: Config) -> Applied:
    return Applied(of, plan(of, Storage.open(of.storage)))


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
    assert ([version.model for version in gm.versions], gm.weight) == (["gm-sft", "base"], 0.25)
    with pytest.raises(ConfigError, match=r"serve\.gm\.canary\.model: gm-sft is the model beside it"):
        applied(config(tmp_path, "serve.gm.canary={model: gm-sft, weight: 0.25}"))
    with pytest.raises(ConfigError, match=r"serve\.gm\.canary\.weight"):
        config(tmp_path, "serve.gm.canary={model: base, weight: 1.5}")
