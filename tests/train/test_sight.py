"""What a run shows of itself: real TRL trainers on the random two-layer model in this process."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from mlflow import MlflowClient
from peft import LoraConfig, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from llumi.config import StorageConfig, TrainConfig
from llumi.environment import OUTBOUND_OFF
from llumi.errors import ConfigError
from llumi.storage import Storage
from llumi.train.sight import EventFiles, MlflowCurves, Sighted, count_batch, model_shape, peak_flops_here
from llumi.train.throughput import Clock, flops_per_token
from llumi.train.tracking import RUN_TAG, MlflowRun, check_mlflow
from tests.conftest import free_port

FIGURES = {"seconds", "tokens_per_second", "samples_per_second", "mfu", "memory_gib", "checkpoint_seconds"}
LENGTHS = (7, 12, 9, 20, 5, 16, 11, 8)


class SightedSFT(Sighted, SFTTrainer):
    pass


class SightedDPO(Sighted, DPOTrainer):
    sequences_per_sample = 2

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        return dataset


class CutOff(TrainerCallback):
    """Ends a run in the middle of a step, as a node that dies would."""

    def __init__(self, at_step: int) -> None:
        self.at_step = at_step

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.at_step:
            raise RuntimeError("the node died")


@pytest.fixture(autouse=True)
def own_process_state() -> Iterator[None]:
    """accelerate remembers the first trainer of a process; later tests bring others."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(StorageConfig(uri=str(tmp_path / "store")))


Make = Callable[..., SightedSFT]


@pytest.fixture
def sft(tiny_model: Path, tmp_path: Path) -> Make:
    """SFT over rows of known lengths: 4 steps to an epoch, a checkpoint every 2 steps, an evaluation after 4 and 6."""

    def make(*callbacks: TrainerCallback, peak_flops: float | None = 1e12, **more: Any) -> SightedSFT:
        rows = [{"input_ids": [5] * length, "labels": [-100] + [5] * (length - 1)} for length in LENGTHS]
        dataset = datasets.Dataset.from_list(rows)
        arguments = {"max_steps": 6, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 4}
        trainer = SightedSFT(
            model=str(tiny_model),
            args=SFTConfig(
                output_dir=str(tmp_path / "trainer"),
                dataset_kwargs={"skip_prepare_dataset": True},
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                logging_steps=1,
                per_device_train_batch_size=2,
                disable_tqdm=True,
                report_to="none",
                model_init_kwargs={"dtype": "float32"},
                **arguments | more,
            ),
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            callbacks=list(callbacks),
            clock=Clock(),
            peak_flops=peak_flops,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


def points_of(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_every_logged_step_says_how_fast_it_was(sft: Make) -> None:
    trainer = sft()
    trainer.train()
    history = trainer.state.log_history
    steps = [entry for entry in history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert all(entry.keys() >= FIGURES for entry in steps)
    # Two whole epochs of 4 steps would see all rows twice; 6 steps are one and a half.
    seen = sum(entry["tokens_per_second"] * entry["seconds"] for entry in steps[:4])
    assert seen == pytest.approx(sum(LENGTHS), rel=1e-4)
    assert steps[-1]["num_input_tokens_seen"] == pytest.approx(
        sum(entry["tokens_per_second"] * entry["seconds"] for entry in steps), rel=1e-4
    )
    assert all(entry["samples_per_second"] * entry["seconds"] == pytest.approx(2, rel=1e-4) for entry in steps)
    assert all(0 < entry["mfu"] < 1 and entry["memory_gib"] > 0.1 for entry in steps)
    # A checkpoint comes after the log of its step, and the last one after the last log.
    assert [entry["checkpoint_seconds"] > 0 for entry in steps] == [False, False, True, False, True, False]
    assert history[-1]["train_loss"]
    assert history[-1]["checkpoint_seconds"] > 0
    assert not FIGURES & {key for entry in history if "eval_loss" in entry for key in entry}


def test_without_a_known_device_there_is_no_utilisation(sft: Make) -> None:
    trainer = sft(peak_flops=None, max_steps=1)
    trainer.train()
    assert "mfu" not in trainer.state.log_history[0]
    assert "tokens_per_second" in trainer.state.log_history[0]
    assert peak_flops_here(TrainConfig()) is None
    assert peak_flops_here(TrainConfig(peak_tflops=71)) == 71e12


def test_evaluations_are_not_in_the_time_of_training(sft: Make) -> None:
    class Slow(TrainerCallback):
        def on_prediction_step(self, *_: Any, **__: Any) -> None:
            time.sleep(0.5)

    trainer = sft(Slow(), max_steps=4, save_strategy="no")
    trainer.train()
    runtime = next(entry["eval_runtime"] for entry in trainer.state.log_history if "eval_loss" in entry)
    assert runtime > 0.5
    assert (
        sum(entry.get("seconds", 0) for entry in trainer.state.log_history)
        < trainer.state.log_history[-1]["train_runtime"] - 0.5
    )


def test_a_dpo_pair_is_one_sample_and_its_reference_costs(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt_ids": [5] * 4, "chosen_ids": [6] * length, "rejected_ids": [7] * 3} for length in LENGTHS]
    trainer = SightedDPO(
        model=str(tiny_model),
        args=DPOConfig(
            output_dir=str(tmp_path / "trainer"),
            max_steps=2,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
            per_device_train_batch_size=4,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        clock=Clock(),
        peak_flops=1e12,
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all("rewards/margins" in entry for entry in steps)
    assert all(entry["samples_per_second"] * entry["seconds"] == pytest.approx(4, rel=1e-4) for entry in steps)
    assert steps[-1]["num_input_tokens_seen"] == sum(LENGTHS) + 7 * len(LENGTHS) + 4 * len(LENGTHS)
    # Lengths are about 10, so attention is small: 8 FLOPs for each parameter, where SFT has 6.
    per_parameter = steps[0]["mfu"] * 1e12 / steps[0]["tokens_per_second"] / model_shape(trainer.model).trained
    assert 8 < per_parameter < 10


def test_padding_does_not_count_and_packed_examples_do() -> None:
    ids = torch.ones(2, 5, dtype=torch.long)
    padded = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])}
    assert count_batch(padded).tolist() == [8, 2, 3**2 + 5**2]
    left = padded | {"attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])}
    assert count_batch(left).tolist() == [8, 2, 3**2 + 5**2]
    packed = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]])}
    assert count_batch(packed).tolist() == [10, 3, 2**2 + 3**2 + 5**2]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_the_formula_agrees_with_what_torch_counts(tied: bool, lora: bool) -> None:
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4,
        tie_word_embeddings=tied, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.randint(0, 256, (2, 48))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    expected = flops_per_token(model_shape(model), length=48) * ids.numel()
    # With LoRA, nothing flows back below the first adapters.
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03 if lora else 0.01)


def test_parameters_that_zero_3_keeps_on_other_ranks_count(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    whole = model_shape(model)
    assert whole.trained > 10_000
    for parameter in model.parameters():
        parameter.ds_numel = parameter.numel()
        parameter.data = torch.empty(0)
    assert model_shape(model) == whole


def test_a_mixture_of_experts_has_no_shape(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert model_shape(model).layers == 2
    model.config.num_local_experts = 8
    assert model_shape(model) is None


# Curves.


def test_tensorboard_goes_on_after_a_failure_without_doubling_a_step(sft: Make, storage: Storage, tmp_path: Path) -> None:
    folder = Path(storage.path("runs/gm-sft/abc"))
    with pytest.raises(RuntimeError, match="the node died"):
        sft(EventFiles(storage, "runs/gm-sft/abc", tmp_path), CutOff(5)).train()
    assert [step for step, _ in points_of(folder, "train/loss")] == [1, 2, 3, 4, 5]
    trainer = sft(EventFiles(storage, "runs/gm-sft/abc", tmp_path))
    trainer.train(resume_from_checkpoint=True)
    losses = points_of(folder, "train/loss")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    history = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    assert dict(losses) == pytest.approx(history)
    assert [step for step, _ in points_of(folder, "eval/loss")] == [4, 6]
    assert len(points_of(folder, "train/mfu")) == 6


def test_a_training_from_the_start_takes_the_place_of_the_curves_before(sft: Make, storage: Storage, tmp_path: Path) -> None:
    for _ in range(2):
        sft(EventFiles(storage, "runs/gm-sft/abc", tmp_path), max_steps=2).train()
    assert [step for step, _ in points_of(Path(storage.path("runs/gm-sft/abc")), "train/loss")] == [1, 2]


def test_on_s3_event_files_come_with_every_checkpoint(sft: Make, s3_storage: StorageConfig, tmp_path: Path) -> None:
    storage = Storage.open(s3_storage)

    def fetched(name: str) -> Path:
        from pyarrow.fs import LocalFileSystem, copy_files

        source = storage.path("runs/gm-sft/abc")
        (tmp_path / name).mkdir(exist_ok=True)
        copy_files(source, str(tmp_path / name), source_filesystem=storage.filesystem, destination_filesystem=LocalFileSystem())
        return tmp_path / name

    with pytest.raises(RuntimeError, match="the node died"):
        sft(EventFiles(storage, "runs/gm-sft/abc", tmp_path / "first"), CutOff(5)).train()
    assert [step for step, _ in points_of(fetched("cut"), "train/loss")] == [1, 2, 3, 4]
    trainer = sft(EventFiles(storage, "runs/gm-sft/abc", tmp_path / "second"))
    trainer.train(resume_from_checkpoint=True)
    assert [step for step, _ in points_of(fetched("whole"), "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in points_of(fetched("whole"), "train/train_loss")] == [6]


# MLflow.


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's store in a folder, which it keeps for such uses as this."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return str(tmp_path / "mlflow")


def curves_to(uri: str) -> MlflowCurves:
    return MlflowCurves(MlflowRun(TrainConfig(mlflow_uri=uri), "sft", "gm-sft", "abc"))


def runs_in(uri: str) -> list[Any]:
    client = MlflowClient(tracking_uri=uri)
    return client.search_runs([client.get_experiment_by_name("llumi").experiment_id])


def steps_sent(uri: str, run: Any, name: str) -> list[int]:
    return [metric.step for metric in MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, name)]


def test_mlflow_goes_on_after_a_failure_without_doubling_a_step(sft: Make, mlflow_store: str) -> None:
    with pytest.raises(RuntimeError, match="the node died"):
        sft(curves_to(mlflow_store), CutOff(5)).train()
    (cut,) = runs_in(mlflow_store)
    assert cut.info.status == "RUNNING"
    assert steps_sent(mlflow_store, cut, "train/loss") == [1, 2, 3, 4, 5]
    trainer = sft(curves_to(mlflow_store))
    trainer.train(resume_from_checkpoint=True)
    (run,) = runs_in(mlflow_store)
    assert (run.info.run_id, run.info.status) == (cut.info.run_id, "FINISHED")
    assert steps_sent(mlflow_store, run, "train/loss") == [1, 2, 3, 4, 5, 6]
    assert steps_sent(mlflow_store, run, "eval/loss") == [4, 6]
    assert run.data.metrics["train/tokens_per_second"] > 0
    sft(curves_to(mlflow_store), max_steps=1).train()
    assert len(runs_in(mlflow_store)) == 2, "a training from the start is a run of its own"


def test_only_figures_names_and_numbers_reach_mlflow(sft: Make, mlflow_store: str) -> None:
    sft(curves_to(mlflow_store), max_steps=1).train()
    (run,) = runs_in(mlflow_store)
    assert run.data.params["sft.learning_rate"] == "0.0002"
    assert all(value in ("True", "False") or float(value) is not None for value in run.data.params.values())
    assert run.data.tags == {RUN_TAG: "abc", "mlflow.runName": "gm-sft-abc"}
    assert not list(Path(mlflow_store).rglob("artifacts/*"))


def test_a_server_that_goes_away_ends_no_training(sft: Make, mlflow_store: str, caplog: pytest.LogCaptureFixture) -> None:
    class Gone(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                shutil.rmtree(mlflow_store)

    trainer = sft(curves_to(mlflow_store), Gone(), max_steps=3)
    trainer.train()
    assert trainer.state.global_step == 3
    assert [record.getMessage() for record in caplog.records if record.name == "llumi"] == [
        "MLflow no longer answers (Exception): the curves end here, training_log.json has all figures"
    ]


def test_a_server_that_never_answered_is_one_line_without_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = MlflowRun(TrainConfig(mlflow_uri=f"http://user:secret@127.0.0.1:{free_port()}"), "sft", "gm-sft", "abc")
    with pytest.raises(ConfigError, match=r"^train\.mlflow_uri: no MLflow server answers there \(INTERNAL_ERROR\); ") as caught:
        run.open(resumed=False)
    assert "secret" not in str(caught.value)


def test_without_the_client_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "mlflow")
    with pytest.raises(ConfigError, match=r"^train\.mlflow_uri: .* on this node; run `pip install mlflow-skinny`"):
        check_mlflow(TrainConfig(mlflow_uri="http://127.0.0.1:5000"))
    check_mlflow(TrainConfig())


def test_the_telemetry_of_mlflow_is_off_by_our_switch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.telemetry import utils

    monkeypatch.setattr(utils, "_IS_IN_CI_ENV_OR_TESTING", False)
    for name, value in OUTBOUND_OFF.items():
        monkeypatch.setenv(name, value)
    assert utils.is_telemetry_disabled()
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    assert not utils.is_telemetry_disabled()
