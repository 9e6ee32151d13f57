"""The stages end to end on real Ray, two gloo ranks under DeepSpeed, and the random two-layer model."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from peft import PeftModel
from pyarrow.fs import FileSelector, FileType, LocalFileSystem
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from transformers import AutoModelForCausalLM, AutoTokenizer

from llumi.adapters import ADAPTER_FOLDER, adapter_settings
from llumi.config import Config, StorageConfig, load_config
from llumi.errors import ArtifactError, ConfigError, ModelError, PairsError, TrainError
from llumi.storage import Input, Manifest, Storage
from llumi.train.assignment import Assignment
from llumi.train.run import _as_our_error, train, train_fingerprint
from llumi.train.worker import _one_line_errors
from tests.train.conftest import COLD, POSTS, WARM, MakePairs
from tests.train.test_sight import FIGURES, points_of

ASSIGNMENT = Assignment(
    config=Config(),
    storage=Storage(LocalFileSystem(), "/nowhere", "/nowhere"),
    role="gm",
    stage="sft",
    name="gm-sft",
    parent="models/base",
    pairs="pairs/default",
    train_files=(),
    test_files=(),
    fingerprint="f",
    inputs=(),
    started_at=0.0,
)
BATCH, SFT_STEPS, CHECKPOINT_STEPS, DPO_STEPS = 2, 90, 24, 1
"""12 examples on 2 ranks in batches of 2 are 3 steps to an epoch, so the checkpoint lies on the border of one."""


ONE_RANK = ["train.num_workers=1", f"train.sft.batch_size_per_worker={2 * BATCH}"]


def overrides(store: str, base: Path, *more: str) -> list[str]:
    return [
        f"storage.uri={store}",
        f"train.base={base}",
        "train.max_length=256",
        "train.num_workers=2",
        f"train.sft={{max_steps: {SFT_STEPS}, batch_size_per_worker: {BATCH}}}",
        f"train.dpo1={{max_steps: {DPO_STEPS}, batch_size_per_worker: {BATCH}}}",
        f"train.checkpoint_steps={CHECKPOINT_STEPS}",
        "train.peak_tflops=0.05",
        *more,
    ]


def settings(store: str, base: Path, *more: str) -> Config:
    return load_config(None, overrides(store, base, *more))


def weights(storage: Storage, name: str) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(storage.fetch(f"models/{name}")).state_dict()


def log_of(storage: Storage, manifest: Manifest) -> list[dict]:
    return json.loads((storage.fetch(manifest.reference) / "training_log.json").read_text())


def losses(storage: Storage, manifest: Manifest) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in log_of(storage, manifest) if "loss" in entry}


def steps_of(storage: Storage) -> list[dict]:
    return [entry for entry in log_of(storage, storage.manifest("models/gm-sft")) if "loss" in entry]


def files_below(storage: Storage, folder: str) -> list[str]:
    selector = FileSelector(storage.path(folder), recursive=True, allow_not_found=True)
    return [info.path for info in storage.filesystem.get_file_info(selector) if info.type == FileType.File]


@dataclass(frozen=True)
class Learnt:
    """The losses of a run of `gm sft` by step, and the weights it came to."""

    losses: dict[int, float]
    weights: dict[str, torch.Tensor]

    @staticmethod
    def of(config: Config) -> "Learnt":
        storage = Storage.open(config.storage)
        return Learnt(losses(storage, storage.manifest("models/gm-sft")), weights(storage, "gm-sft"))

    def assert_like(self, other: "Learnt", tolerance: float) -> None:
        assert self.losses == pytest.approx(other.losses, abs=tolerance)
        for name, tensor in other.weights.items():
            torch.testing.assert_close(self.weights[name], tensor, atol=tolerance, rtol=10 * tolerance)


@pytest.fixture(scope="module")
def trained(ray_cluster: None, tiny_model: Path, make_pairs: MakePairs, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A store where gm-sft stands, made by LoRA under ZeRO-2."""
    config = settings(str(tmp_path_factory.mktemp("trained") / "store"), tiny_model)
    make_pairs(config.storage)
    told: list[tuple[str, float, float | None]] = []
    manifest = train(config, "gm", "sft", lambda *call: told.append((*call, None)[:3]))
    assert told[0] == ("gm sft", 0, None)
    assert told[-1] == ("gm sft", SFT_STEPS, SFT_STEPS)
    assert manifest == Storage.open(config.storage).manifest("models/gm-sft")
    return config


@pytest.mark.ray
@pytest.mark.slow
def test_sft_publishes_a_merged_model_with_its_lineage(trained: Config) -> None:
    storage = Storage.open(trained.storage)
    manifest = storage.manifest("models/gm-sft")
    base, pairs = storage.manifest("models/base"), storage.manifest("pairs/default")
    assert manifest.inputs == (base.as_input(), pairs.as_input())
    assert manifest.fingerprint == train_fingerprint(trained, storage, "gm", "sft")
    assert manifest.counts == {
        "train": {"examples": 12, "too_long": 0, "kept": 12, "truncated": 0},
        "test": {"examples": 4, "too_long": 0, "kept": 4, "truncated": 0, "evaluated": 4},
    }
    assert manifest.metrics["steps"] == SFT_STEPS
    assert manifest.metrics["num_tokens"] > SFT_STEPS * 4 * 30
    assert manifest.metrics["eval"]["loss"] == pytest.approx(manifest.metrics["train"]["loss"], rel=0.5)
    curve = losses(storage, manifest)
    assert list(curve) == list(range(1, SFT_STEPS + 1))
    assert curve[SFT_STEPS] < curve[1] - 0.05
    before, after = weights(storage, "base"), weights(storage, "gm-sft")
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert AutoTokenizer.from_pretrained(storage.fetch("models/gm-sft")).chat_template
    assert files_below(storage, "checkpoints") == []
    assert_shown(storage, manifest)


def assert_shown(storage: Storage, manifest: Manifest) -> None:
    """Every step has its figures and its point on a curve; the card and the curves lie beside the weights."""
    steps = [entry for entry in log_of(storage, manifest) if "loss" in entry]
    assert all(entry.keys() >= FIGURES for entry in steps)
    assert manifest.metrics.keys() >= FIGURES - {"seconds"}
    assert 0 < manifest.metrics["mfu"] < 1
    assert manifest.metrics["checkpoint_seconds"] > 0
    assert all(entry["samples_per_second"] * entry["seconds"] == pytest.approx(2 * BATCH, rel=1e-3) for entry in steps)
    tokens = sum(entry["tokens_per_second"] * entry["seconds"] for entry in steps)
    assert tokens == pytest.approx(manifest.metrics["num_tokens"], rel=1e-3)
    (run,) = Path(storage.path("runs", manifest.name)).iterdir()
    assert [step for step, _ in points_of(run, "train/loss")] == [entry["step"] for entry in steps]
    assert points_of(run, "eval/loss")
    folder = storage.fetch(manifest.reference)
    card = (folder / "README.md").read_text()
    assert f"# {manifest.name}\n" in card
    assert "](curves.svg)" in card
    assert (folder / "curves.svg").read_text().startswith("<svg")
    assert {"README.md", "curves.svg"} <= {entry.path for entry in manifest.files}
    assert not any(phrase in card for phrase in (*POSTS, *WARM, *COLD))


@pytest.mark.ray
@pytest.mark.slow
def test_dpo_starts_from_the_sft_model_and_refers_to_it(trained: Config, tiny_model: Path) -> None:
    storage = Storage.open(trained.storage)
    alone = settings(trained.storage.uri, tiny_model, "train.num_workers=1", f"train.dpo1.batch_size_per_worker={2 * BATCH}")
    manifest = train(alone, "gm", "dpo1")
    sft, pairs = storage.manifest("models/gm-sft"), storage.manifest("pairs/default")
    assert manifest.inputs == (sft.as_input(), pairs.as_input())
    # Policy and reference agree before the first step: every margin is 0, and the loss is -log sigmoid(0).
    assert losses(storage, manifest)[1] == pytest.approx(math.log(2), abs=1e-3)
    assert {"loss", "rewards/accuracies", "rewards/margins"} <= manifest.metrics["eval"].keys()
    name = "model.layers.1.self_attn.q_proj.weight"
    base, first, second = (weights(storage, model)[name] for model in ("base", "gm-sft", "gm-dpo1"))
    assert 0 < (second - first).norm() < (first - base).norm()
    assert {f"{ADAPTER_FOLDER}/adapter_config.json", f"{ADAPTER_FOLDER}/adapter_model.safetensors"} <= {
        entry.path for entry in manifest.files
    }
    on_base = AutoModelForCausalLM.from_pretrained(storage.fetch("models/base"))
    adapter = storage.fetch("models/gm-dpo1") / ADAPTER_FOLDER
    joined = PeftModel.from_pretrained(on_base, adapter).merge_and_unload().state_dict()
    for name, weight in weights(storage, "gm-dpo1").items():
        assert torch.allclose(joined[name], weight, atol=1e-6), name
    assert adapter_settings(adapter)["revision"] == storage.manifest("models/base").as_input().sha256
    # The one step meets four of the eight pairs, and some of those are among the held-out ones here.
    assert storage.manifest("references/default-gm-by-gm-sft").counts["pairs"] < 8
    assert_shown(storage, manifest)


@pytest.mark.ray
@pytest.mark.slow
def test_full_dpo_under_zero_3_on_s3(
    trained: Config, tiny_model: Path, s3_storage: StorageConfig, make_pairs: MakePairs, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    config = settings(
        s3_storage.uri, tiny_model, f"storage.endpoint_url={s3_storage.endpoint_url}", "train.method=full",
        "train.zero_stage=3", "train.checkpoint_steps=1", "train.checkpoints_kept=1",
        "train.dpo1.share_prompt=false",
    )  # fmt: skip
    make_pairs(config.storage)
    storage = Storage.open(config.storage)
    draft = storage.begin("models", "gm-sft")
    sft = Storage.open(trained.storage).fetch("models/gm-sft")
    files = [entry for entry in draft.upload(sft) if entry.path != "manifest.json"]
    draft.publish(files, fingerprint="copied", config={}, inputs=[Input("models/base", "of another store")])
    storage.filesystem.create_dir(storage.path("checkpoints/gm-dpo1/older-run"))
    with storage.filesystem.open_output_stream(storage.path("checkpoints/gm-dpo1/older-run/left")) as stream:
        stream.write(b"behind")

    manifest = train(config, "gm", "dpo1")
    assert losses(storage, manifest)[1] == pytest.approx(math.log(2), abs=1e-3)
    before, after = weights(storage, "gm-sft"), weights(storage, "gm-dpo1")
    assert {name: tensor.shape for name, tensor in before.items()} == {name: tensor.shape for name, tensor in after.items()}
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert files_below(storage, "checkpoints") == []
    assert manifest.files_under(ADAPTER_FOLDER) == []


def wait_for_the_first_checkpoint(store: Path, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Until Ray Train has noted it."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline and is_alive():
        notes = [path.read_text() for path in store.glob("checkpoints/gm-sft/*/checkpoint_manager_snapshot.json")]
        if any(f"step-{CHECKPOINT_STEPS:08d}" in note for note in notes):
            return
        time.sleep(0.05)
    raise TimeoutError("no checkpoint to kill after")


def kill_a_rank_after_the_first_checkpoint(store: Path) -> int:
    """`kill -9` of one rank of this process' cluster; its pid."""
    wait_for_the_first_checkpoint(store)
    ranks = [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in child.name()]
    ranks[-1].kill()
    return ranks[-1].pid


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_rank_goes_on_from_the_last_checkpoint_to_the_same_model(
    trained: Config, tiny_model: Path, make_pairs: MakePairs, tmp_path: Path
) -> None:
    config = settings(str(tmp_path / "store"), tiny_model)
    make_pairs(config.storage)
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_a_rank_after_the_first_checkpoint, Path(config.storage.uri))
        manifest = train(config, "gm", "sft")
        assert killed.result()
    undisturbed = Storage.open(trained.storage)
    # TRL's own count of tokens starts anew with the process, that of the manifest goes on.
    assert 0 < manifest.metrics["train"]["num_tokens"] < manifest.metrics["num_tokens"]
    expected = undisturbed.manifest("models/gm-sft")
    assert manifest.metrics["num_tokens"] == expected.metrics["num_tokens"]
    Learnt.of(config).assert_like(Learnt.of(trained), tolerance=1e-5)


@pytest.mark.ray
@pytest.mark.slow
def test_two_ranks_under_zero_learn_what_one_process_learns(
    trained: Config, tiny_model: Path, make_pairs: MakePairs, tmp_path: Path
) -> None:
    one = settings(str(tmp_path / "one"), tiny_model, *ONE_RANK, "train.zero_stage=0")
    halves = ["train.zero_stage=3", "train.sft.gradient_accumulation_steps=2", f"train.sft.batch_size_per_worker={BATCH // 2}"]
    sharded = settings(str(tmp_path / "sharded"), tiny_model, *halves)
    for config in (one, sharded):
        make_pairs(config.storage)
        train(config, "gm", "sft")
    Learnt.of(trained).assert_like(Learnt.of(one), tolerance=1e-4)
    Learnt.of(sharded).assert_like(Learnt.of(one), tolerance=1e-4)
    # Figures of two ranks are gathered only when they are logged, and come to those of the one.
    of_two, of_one = (steps_of(Storage.open(config.storage)) for config in (trained, one))
    for name in ("num_tokens", "num_input_tokens_seen"):
        assert [entry[name] for entry in of_two] == [entry[name] for entry in of_one]
    for name in ("entropy", "mean_token_accuracy"):
        assert [entry[name] for entry in of_two] == pytest.approx([entry[name] for entry in of_one], abs=0.02)


RUN_ALONE = """
import sys
from llumi.config import load_config
from llumi.ray_session import ray_session
from llumi.train.run import train
config = load_config(None, sys.argv[1:])
with ray_session(config.ray):
    train(config, "gm", "sft")
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_head_is_survived_by_fewer_ranks(
    trained: Config, tiny_model: Path, make_pairs: MakePairs, tmp_path: Path
) -> None:
    """The whole cluster dies after a checkpoint; one rank goes on where two were, to the model of an undisturbed run."""
    store = str(tmp_path / "store")
    disturbed = settings(store, tiny_model)
    make_pairs(disturbed.storage)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    log = (tmp_path / "driver.log").open("wb")
    alone = [sys.executable, "-c", RUN_ALONE, *overrides(store, tiny_model)]
    driver = subprocess.Popen(alone, env=environment, stdout=log, stderr=log)
    try:
        wait_for_the_first_checkpoint(Path(store), lambda: driver.poll() is None)
    finally:
        for process in [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]:
            process.kill()
        driver.wait()
    assert Storage.open(disturbed.storage).find("models/gm-sft") is None

    fewer = settings(store, tiny_model, *ONE_RANK)
    manifest = train(fewer, "gm", "sft")
    assert manifest.metrics["train"]["num_tokens"] < manifest.metrics["num_tokens"]
    Learnt.of(fewer).assert_like(Learnt.of(trained), tolerance=1e-4)


@pytest.fixture
def steep_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with the same losses and a gradient so steep that its norm is above all numbers."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.lm_head.weight *= 1e25
        model.model.norm.weight *= 1e-25
    model.save_pretrained(tmp_path / "steep")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "steep")
    return tmp_path / "steep"


@pytest.mark.ray
@pytest.mark.slow
def test_a_gradient_that_is_no_number_ends_the_run_at_once(
    ray_cluster: None, steep_model: Path, make_pairs: MakePairs, tmp_path: Path
) -> None:
    """DeepSpeed would pass over the step in silence. What a rank finds wrong is the caller's error; nothing is tried again."""
    config = settings(str(tmp_path / "store"), steep_model, "train.method=full", "train.checkpoint_steps=1")
    make_pairs(config.storage)
    both_ranks = r"e\d+, e\d+, e\d+, e\d+"
    with pytest.raises(TrainError, match=rf"^gm-sft: the gradient is no number at step 1, on the examples {both_ranks}; "):
        train(config, "gm", "sft")
    storage = Storage.open(config.storage)
    assert storage.find("models/gm-sft") is None
    assert not any("step-" in path for path in files_below(storage, "checkpoints"))


def failed_with(error: Exception, rank: int = 1) -> Exception:
    return _as_our_error(WorkerGroupError("", {rank: UserExceptionWithTraceback(error, "trace")}), ASSIGNMENT)


def test_what_failed_on_a_rank_becomes_one_line() -> None:
    error = failed_with(RuntimeError("shapes differ\n  more of it"))
    assert isinstance(error, TrainError)
    assert str(error) == "gm-sft: rank 1 failed with RuntimeError: shapes differ"
    dead = WorkerHealthCheckFailedError("gone", RuntimeError("actor died"))
    died = _as_our_error(WorkerGroupError("", {0: RuntimeError("connection reset"), 1: dead}), ASSIGNMENT)
    assert str(died).startswith("gm-sft: rank 1 died, and 2 restarts (train.max_failures) did not help; ")
    ours = PairsError("pairs/default: nothing left")
    assert _as_our_error(ControllerError(ours), ASSIGNMENT) is ours


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_a_rank_without_memory_says_which_settings_need_less(error: Exception) -> None:
    with (
        pytest.raises(TrainError, match=r"ran out of memory; lower train\.sft\.batch_size_per_worker"),
        _one_line_errors(ASSIGNMENT),
    ):
        raise error


@pytest.mark.ray
@pytest.mark.slow
def test_no_log_quotes_a_person(trained: Config) -> None:
    import ray

    logs = Path(ray._private.worker.global_worker.node.get_session_dir_path()) / "logs"
    texts = [path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("RayTrainWorker" in text for text in texts)
    for phrase in (*POSTS, *WARM, *COLD):
        assert not any(phrase in text for text in texts), "a log holds text of a post or a reply"


def test_a_missing_parent_names_the_command_that_makes_it(config: Config, make_pairs: MakePairs) -> None:
    make_pairs(config.storage)
    with pytest.raises(ModelError, match=r"^models/gm-sft: not trained yet, .* run `llumi train gm sft` first$"):
        train(config, "gm", "dpo1")


def test_missing_and_empty_pairs_are_named(config: Config, make_pairs: MakePairs) -> None:
    with pytest.raises(ArtifactError, match=r"pairs/default: not built yet; run `llumi pairs build` first$"):
        train(config, "gm", "sft")
    make_pairs(config.storage, dpo=0)
    with pytest.raises(PairsError, match=r"^pairs/default: gm-dpo/train holds no pairs; .* pairs\.margin\.min_gap$"):
        train(config, "gm", "dpo1")
    with pytest.raises(PairsError, match=r"^pairs/default: im-sft/train holds no examples; "):
        train(config, "im", "sft")


def test_settings_that_cannot_work_are_refused_before_anything_is_written(config: Config, make_pairs: MakePairs) -> None:
    make_pairs(config.storage)
    storage = Storage.open(config.storage)
    long = config.model_copy(update={"train": config.train.model_copy(update={"max_length": 2048})})
    with pytest.raises(ConfigError, match=r"^train\.max_length: 2048 is above the 1024 tokens that models/base can read$"):
        train(long, "gm", "sft")
    mistyped = config.model_copy(update={"train": config.train.model_copy(update={"trl": {"warmup_step": 1}})})
    with pytest.raises(ConfigError, match=r"^train\.trl\.warmup_step: "):
        train(mistyped, "gm", "sft")
    assert [manifest.name for manifest in storage.list("models")] == ["base"]


@pytest.mark.ray
def test_more_workers_than_the_machine_holds_are_refused(ray_cluster: None, config: Config, make_pairs: MakePairs) -> None:
    make_pairs(config.storage)
    greedy = config.model_copy(update={"train": config.train.model_copy(update={"num_workers": 64})})
    with pytest.raises(ConfigError, match=r"^train\.num_workers: 64 workers need 64 CPU, and this machine's cluster has 4; "):
        train(greedy, "gm", "sft")


def test_the_fingerprint_follows_what_determines_the_model(config: Config, make_pairs: MakePairs) -> None:
    make_pairs(config.storage)
    storage = Storage.open(config.storage)

    def mark(**update: object) -> str:
        changed = config.model_copy(update={"train": config.train.model_copy(update=update)})
        return train_fingerprint(changed, storage, "gm", "sft")

    assert mark(checkpoint_steps=1, max_failures=7, dpo1=config.train.dpo1.model_copy(update={"beta": 0.5})) == mark()
    half = {"batch_size_per_worker": config.train.sft.batch_size_per_worker * config.train.num_workers}
    assert mark(num_workers=1, sft=config.train.sft.model_copy(update=half)) == mark()
    assert mark(num_workers=4) != mark()
    assert mark(seed=18) != mark()
    assert mark(sft=config.train.sft.model_copy(update={"learning_rate": 1e-6})) != mark()
    before = mark()
    make_pairs(config.storage, sft=11)
    assert mark() != before
