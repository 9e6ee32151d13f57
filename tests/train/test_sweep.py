"""Sweeps through real Ray Tune and Ray Train, with the random two-layer model; and the comparison of what came of them."""

import os
from pathlib import Path
from typing import Any

import pytest
import ray

from llumi.config import Config, StorageConfig, TrainConfig
from llumi.errors import ConfigError
from llumi.job import show_sweep
from llumi.storage import Manifest, Storage
from llumi.train.assignment import Assignment
from llumi.train.grid import Point, grid
from llumi.train.run import assign, train_fingerprint
from llumi.train.sweep import Outcome, SweepReport, _best, _measure, _num_at_once, sweep
from tests.train.conftest import COLD, POSTS, WARM, MakePairs, with_sft
from tests.train.test_run import ASSIGNMENT


def prepare(storage: StorageConfig, tiny_model: Path, make_pairs: MakePairs) -> list[str]:
    """A store with pairs and a parent, on which a point is one rank and two steps."""
    make_pairs(storage)
    with_sft(Config(storage=storage, train=TrainConfig(base=str(tiny_model))))
    return [
        f"storage.uri={storage.uri}",
        f"train.base={tiny_model}",
        "train.max_length=256",
        "train.num_workers=1",
        "train.dpo1.max_steps=2",
    ]


@pytest.fixture
def overrides(config: Config, tiny_model: Path, make_pairs: MakePairs) -> list[str]:
    return prepare(config.storage, tiny_model, make_pairs)


def session_logs() -> str:
    folder = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    files = [path for path in (folder / "logs").rglob("*") if path.is_file() and not path.is_symlink()]
    return "\n".join(path.read_text(errors="replace") for path in files)


def results_at_home() -> list[tuple[Path, float]]:
    return [(path, path.stat().st_mtime) for path in Path("~/ray_results").expanduser().rglob("*")]


@pytest.mark.ray
@pytest.mark.slow
def test_each_point_is_a_model_the_best_may_be_kept_and_one_that_fails_is_reported(
    ray_cluster: None,
    s3_storage: StorageConfig,
    tiny_model: Path,
    make_pairs: MakePairs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    at_home = results_at_home()
    overrides = [*prepare(s3_storage, tiny_model, make_pairs), f"storage.endpoint_url={s3_storage.endpoint_url}"]
    points = grid(None, [*overrides, "train.dpo1.beta=[0.1,0.3]"], "gm", "dpo1")
    too_short = grid(None, [*overrides, "train.max_length=[16]"], "gm", "dpo1")
    storage = Storage.open(points[0].config.storage)
    capfd.readouterr()
    told: list[tuple[str, float, float | None]] = []
    report = sweep([*points, *too_short], "gm", "dpo1", lambda *call: told.append((*call, None)[:3]))

    assert {model.name for model in storage.list("models")} == {"base", "gm-sft", *(point.name for point in points)}
    *trained, failed = report.outcomes
    for point, outcome in zip(points, trained, strict=True):
        manifest = storage.manifest(f"models/{point.name}")
        assert outcome == Outcome(point, manifest)
        assert manifest.fingerprint == train_fingerprint(point.config, storage, "gm", "dpo1")
        assert manifest.config["train"]["dpo1"]["beta"] == point.values["train.dpo1.beta"]
        assert manifest.inputs[0] == storage.manifest("models/gm-sft").as_input()
    assert report.failed == [failed]
    assert failed.failure is not None
    assert failed.failure.startswith("pairs/default: all 8 examples of gm-dpo/train are longer than 16 tokens; ")
    rows = report.figures()["points"][:2]
    assert [row["values"] for row in rows] == [{"train.dpo1.beta": 0.1}, {"train.dpo1.beta": 0.3}]
    assert all(row["steps"] == 2 and row["held_out_loss"] > 0 and row["wall_seconds"] > 0 for row in rows)
    assert rows[0]["held_out_loss"] != rows[1]["held_out_loss"]
    assert report.measure == "held-out reward accuracy"
    assert report.best in trained
    assert report.kept is None
    assert told[0] == ("sweep gm dpo1", 0, 3)
    assert told[-1] == ("sweep gm dpo1", 3, 3)

    told.clear()
    again = sweep(points, "gm", "dpo1", lambda *call: told.append((*call, None)[:3]), keep_best=True)
    assert [outcome.manifest for outcome in again.outcomes] == [outcome.manifest for outcome in trained]
    assert all(outcome.stood for outcome in again.outcomes)
    assert [what for what, *_ in told] == ["keep the best"]
    kept = storage.manifest("models/gm-dpo1")
    assert again.kept == kept
    assert report.best is not None
    assert report.best.manifest is not None
    assert kept.as_input().sha256 == report.best.manifest.as_input().sha256
    assert (kept.config, kept.metrics) == (report.best.manifest.config, report.best.manifest.metrics)
    weights = storage.fetch("models/gm-dpo1") / "model.safetensors"
    assert weights.read_bytes() == (storage.fetch(report.best.manifest.reference) / "model.safetensors").read_bytes()
    assert sweep(points, "gm", "dpo1", keep_best=True).kept == kept

    assert os.environ["AWS_SECRET_ACCESS_KEY"] == secret
    assert results_at_home() == at_home
    assert list(tmp_path.glob("llumi-*")) == []
    assert capfd.readouterr() == ("", "")
    logs = session_logs()
    assert "gm-dpo1" in logs
    for phrase in (secret, *POSTS, *WARM, *COLD):
        assert phrase not in logs


@pytest.mark.ray
def test_points_that_cannot_differ_or_cannot_start_are_refused(ray_cluster: None, overrides: list[str]) -> None:
    storage = Storage.open(grid(None, [*overrides, "train.seed=[1]"], "gm", "dpo1")[0].config.storage)
    for swept, line in (
        ("train.sft.learning_rate=[1e-5,2e-5]", r"^points train\.sft\.learning_rate=1e-05 and .*: the same model of gm dpo1; "),
        ("train.dpo1.beta=[0.1,0.1]", r"^points train\.dpo1\.beta=0\.1 and train\.dpo1\.beta=0\.1: the same model"),
        ("train.max_length=[256,2048]", r"^point train\.max_length=2048: train\.max_length: 2048 is above the 1024 tokens "),
        ("train.num_workers=[1,64]", r"^point train\.num_workers=64: train\.num_workers: 64 workers need 64 CPU, "),
    ):
        with pytest.raises(ConfigError, match=line):
            sweep(grid(None, [*overrides, swept], "gm", "dpo1"), "gm", "dpo1")
    assert [model.name for model in storage.list("models")] == ["base", "gm-sft"]


@pytest.mark.ray
def test_as_many_points_at_once_as_the_cluster_holds(ray_cluster: None, overrides: list[str]) -> None:
    def at_once(*more: str) -> int:
        points = grid(None, [*overrides, *more], "gm", "dpo1")
        storage = Storage.open(points[0].config.storage)
        return _num_at_once([assign(point.config, storage, "gm", "dpo1", point.name) for point in points])

    assert at_once("train.seed=[1,2]") == 4
    assert at_once("train.num_workers=[1,2]") == 2
    assert at_once("train.num_workers=[4]") == 1
    assert at_once("train.seed=[1,2]", "train.cpus_per_worker=3") == 1


@pytest.mark.ray
def test_a_best_that_is_kept_is_a_parent_like_any_other(ray_cluster: None, overrides: list[str], tiny_model: Path) -> None:
    (point,) = grid(None, [*overrides, "train.sft.learning_rate=[1e-4]"], "gm", "sft")
    storage = Storage.open(point.config.storage)
    base = storage.manifest("models/base")
    draft = storage.begin("models", point.name)
    trained = draft.publish(draft.upload(tiny_model), fingerprint="of the point", config={}, inputs=[base.as_input()])
    copied = storage.copy(trained, "gm-sft")
    assert assign(point.config, storage, "gm", "dpo1").inputs[0] == copied.as_input()


def outcome(name: str, **metrics: Any) -> Outcome:
    point = Point(name, {"train.dpo1.beta": 0.1}, (), Config())
    if not metrics:
        return Outcome(point, None, failure="pairs/default: nothing [left]")
    return Outcome(point, Manifest("models", name, "f", {}, (), (), metrics=metrics))


def held_out(name: str, loss: float, accuracy: float) -> Outcome:
    figures = {"loss": loss, "rewards/accuracies": accuracy, "rewards/margins": 0.5}
    return outcome(name, eval=figures, train={"loss": 1.0}, steps=2, wall_seconds=3.0)


DPO = Assignment(**(ASSIGNMENT.__dict__ | {"stage": "dpo1"}))


@pytest.mark.parametrize(
    ("work", "outcomes", "measure", "best"),
    [
        (DPO, [held_out("a", 0.6, 0.5), held_out("b", 0.7, 0.8)], "held-out reward accuracy", "b"),
        (DPO, [held_out("a", 0.7, 0.8), held_out("b", 0.6, 0.8)], "held-out reward accuracy", "b"),
        (ASSIGNMENT, [held_out("a", 0.6, 0.5), held_out("b", 0.7, 0.8)], "held-out loss", "a"),
        (DPO, [held_out("a", float("nan"), 0.9), held_out("b", 0.7, 0.8), outcome("c")], "held-out reward accuracy", "b"),
        (DPO, [outcome("a", train={"loss": 0.6}), outcome("b", train={"loss": 0.5})], "training loss", "b"),
        (DPO, [held_out("a", 0.1, 0.9), outcome("b", train={"loss": 0.5}), outcome("c")], "training loss", "b"),
        (DPO, [outcome("a"), outcome("b")], "held-out reward accuracy", None),
    ],
)
def test_the_best_point(work: Assignment, outcomes: list[Outcome], measure: str, best: str | None) -> None:
    found = _measure(outcomes, work)
    assert found == measure
    winner = _best(outcomes, found)
    assert (winner.point.name if winner else None) == best


def test_the_table_marks_the_best_and_names_what_failed(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = (held_out("gm-dpo1-aaaaaaaa", 0.6931, 0.75), outcome("gm-dpo1-bbbbbbbb"))
    show_sweep(SweepReport(outcomes, "held-out reward accuracy", outcomes[0], kept=outcomes[0].manifest), config)
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == "model dpo1.beta held-out loss accuracy margin training loss steps seconds"
    assert lines[1].split() == ["gm-dpo1-aaaaaaaa", "0.1", "0.6931", "0.75", "0.5", "1", "2", "3", "best"]
    assert lines[2].split() == ["gm-dpo1-bbbbbbbb", "0.1", "failed"]
    assert lines[3] == "failed train.dpo1.beta=0.1: pairs/default: nothing [left]"
    assert lines[4] == "best by held-out reward accuracy: gm-dpo1-aaaaaaaa"
    assert lines[5].endswith("/store/models/gm-dpo1-aaaaaaaa")
