"""What one sees of a run while it lasts: figures of speed in every logged step, and curves for TensorBoard and MLflow.

Imported by the worker only: it takes seconds to load.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from llumi.config import TrainConfig
from llumi.errors import StoreError
from llumi.storage import Storage
from llumi.train.assignment import Assignment
from llumi.train.checkpoint import run_name
from llumi.train.settings import precision
from llumi.train.throughput import GIB, TERA, Clock, ModelShape, Seen, peak_flops_of, peak_memory_bytes, step_figures
from llumi.train.tracking import MlflowRun

RUNS = "runs"
"""Below it in the store lie the event files: `runs/<model>/<run>/`."""


class Sighted(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Stands before one of TRL's trainers in a class and adds figures of speed to what that one logs.

    They are in the log's history and in what callbacks are given: transformers appends to the history first, so a callback
    would come too late. Counts are summed over the ranks, memory is the highest of any rank.

    TRL gathers each of its own figures from all ranks in every step, a dozen times for DPO. Here a rank keeps its own until
    they are logged, and all that is logged is gathered at once: the mean over ranks, where TRL weighs entropy and token
    accuracy by the tokens of each. An evaluation is left as it is.
    """

    sequences_per_sample = 1
    """How many rows of a batch make one example: DPO's has a chosen and a rejected one."""

    def __init__(self, *args: Any, clock: Clock, peak_flops: float | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock
        self._peak_flops = peak_flops
        self._shape = model_shape(self.model)
        self._counted: torch.Tensor | None = None
        self._seen = Seen(0, 0, 0)
        self._memory_bytes = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Count what is in the batch, then train on it."""
        self._clock.start()
        counted = self.count(inputs)
        self._counted = counted if self._counted is None else self._counted + counted
        return super().training_step(model, inputs, *args, **kwargs)

    def count(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Tokens that the model computes, sequences, and the sum of the squared lengths of a batch, without padding."""
        return count_batch(inputs)

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, with its figures as this rank has them."""
        with _alone(self.accelerator) if self.model.training else contextlib.nullcontext():
            return super().compute_loss(model, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate while the clock of training stands."""
        with self._clock.pause():
            figures: dict[str, float] = super().evaluate(*args, **kwargs)
            return figures

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures to what a step logs, and checkpoints that came after the last step to the end of the run."""
        if "loss" in logs:
            self._tally(self._metrics["train"])
            logs |= self._step_figures()
        elif "train_loss" in logs:
            self._tally(self._metrics["train"])
            logs["checkpoint_seconds"] = self._clock.read().checkpoint_seconds
        super().log(logs, start_time)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self._clock.checkpoint():
            self._tally({})
            super()._save_checkpoint(*args, **kwargs)

    def _step_figures(self) -> dict[str, float]:
        seen, self._seen = self._seen, Seen(0, 0, 0)
        return step_figures(
            seen,
            self._clock.read(),
            self._shape,
            num_devices=self.accelerator.num_processes,
            peak_flops=self._peak_flops,
            # TRL's SFT trainer knows no such attribute, and no reference model.
            reference=not getattr(self, "precompute_ref_logps", True),
        ) | {
            "num_input_tokens_seen": self.state.num_input_tokens_seen,
            **({"memory_gib": round(self._memory_bytes / GIB, 4)} if self._memory_bytes else {}),
        }

    def _tally(self, metrics: dict[str, list[float]]) -> None:
        """Add what all ranks have counted since the last time, and make `metrics` of this rank those of all.

        Every rank must call it. The state keeps the sum of tokens, so that a run which resumes goes on with it.
        """
        counted = [0, 0, 0] if self._counted is None else self._counted.tolist()
        self._counted = None
        names = sorted(metrics)
        means = [sum(metrics[name]) / len(metrics[name]) for name in names]
        own = torch.tensor([*counted, peak_memory_bytes(not self.args.use_cpu) or 0, *means], dtype=torch.float64)
        of_ranks = self.accelerator.gather(own.to(self.args.device)).view(-1, len(own)).cpu()
        tokens, sequences, squares = (int(total) for total in of_ranks[:, :3].sum(dim=0))
        self.state.num_input_tokens_seen += tokens
        self._seen += Seen(tokens, sequences / self.sequences_per_sample, squares)
        self._memory_bytes = int(of_ranks[:, 3].max())
        for name, values in zip(names, of_ranks[:, 4:].T, strict=True):
            # TRL counts tokens from the start of the process.
            metrics[name] = [float(values.sum() if name == "num_tokens" else values.mean())]


@contextlib.contextmanager
def _alone(accelerator: Any) -> Iterator[None]:
    """Gathering within gives what this rank holds."""
    accelerator.gather = accelerator.gather_for_metrics = lambda figure, *_, **__: figure
    try:
        yield
    finally:
        del accelerator.gather, accelerator.gather_for_metrics


def count_batch(inputs: dict[str, Any]) -> torch.Tensor:
    """Tokens, sequences and the sum of the squared lengths of a batch, without padding; of packed rows, each example counts."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    positions = inputs.get("position_ids")
    positions = mask.cumsum(dim=-1) - 1 if positions is None else positions
    # 1 + 3 + 5 + ... + (2n - 1) is n squared.
    return torch.stack([mask.sum(), ((positions == 0) * mask).sum(), ((2 * positions + 1) * mask).sum()])


def model_shape(model: Any) -> ModelShape | None:
    """What the FLOPs of a model follow from; None for a mixture of experts, of which a token sees only some."""
    config = model.config.get_text_config()
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    lookup, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    if head is not None and head.weight is lookup:
        lookup = None
    trained = frozen = 0
    for parameter in model.parameters():
        if parameter is lookup:
            continue
        if parameter.requires_grad:
            trained += _num_values(parameter)
        else:
            frozen += _num_values(parameter)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(trained, frozen, config.num_hidden_layers, config.num_attention_heads * head_size)


def _num_values(parameter: Any) -> int:
    """How many numbers a parameter holds, also where ZeRO-3 has put them on other ranks, or bitsandbytes two in a byte."""
    num = int(getattr(parameter, "ds_numel", 0) or parameter.numel())
    return num * 2 * parameter.element_size() if type(parameter).__name__ == "Params4bit" else num


def peak_flops_here(train: TrainConfig) -> float | None:
    """What one device of this rank can do at most, in FLOP/s: `train.peak_tflops`, else that of a GPU that is listed."""
    if train.peak_tflops is not None:
        return train.peak_tflops * TERA
    if not train.use_gpu or precision(train) != "bf16":
        return None
    return peak_flops_of(torch.cuda.get_device_name())


def curve_callbacks(work: Assignment, scratch: Path) -> list[TrainerCallback]:
    """The callbacks that write the curves of a run, as `train.tensorboard` and `train.mlflow_uri` ask for them.

    They act on rank 0 alone. Raises ConfigError where MLflow is asked for and not installed on this node.
    """
    train = work.config.train
    callbacks: list[TrainerCallback] = []
    if train.tensorboard:
        callbacks.append(EventFiles(work.storage, f"{RUNS}/{work.name}/{run_name(work.fingerprint)}", scratch))
    if train.mlflow_uri is not None:
        callbacks.append(MlflowCurves(MlflowRun(train, work.stage, work.name, run_name(work.fingerprint))))
    return callbacks


class EventFiles(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Writes TensorBoard's event files to `folder` of the store: live where that is local, else at every checkpoint.

    What an earlier attempt wrote beyond the step that this one goes on from is purged, so that no step is there twice.
    """

    def __init__(self, storage: Storage, folder: str, scratch: Path) -> None:
        self._storage = storage
        self._folder = folder
        self._local = Path(storage.path(folder)) if storage.is_local else scratch / RUNS
        self._writer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on behind the checkpoint; what it knows of its own last step is written again."""
        if not state.is_world_process_zero:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._local), purge_step=state.global_step)
        for entry in state.log_history:
            if entry["step"] == state.global_step:
                self._write(entry, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Write every figure of `logs` as a point of its curve."""
        if state.is_world_process_zero:
            self._write(logs, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hand the event files over with the checkpoint."""
        self._upload(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hand them over with the figures of the whole run."""
        self._upload(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hand them over after an evaluation: the last one comes when training is done."""
        self._upload(state)

    def _write(self, logs: dict[str, float], step: int) -> None:
        for name, value in rewrite_logs(logs).items():
            if isinstance(value, int | float) and name != "train/step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _upload(self, state: Any) -> None:
        if self._storage.is_local or not state.is_world_process_zero:
            return
        for file in self._local.iterdir():
            with contextlib.suppress(StoreError):  # no reason to end a run: the next upload brings all of it
                self._storage.write(f"{self._folder}/{file.name}", file.read_bytes())


class MlflowCurves(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Sends the curves of a run to an MLflow server."""

    def __init__(self, run: MlflowRun) -> None:
        self._run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the run, or go on with the one of the attempt before."""
        if state.is_world_process_zero:
            self._run.open(resumed=state.global_step > 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Send every figure of `logs`."""
        if state.is_world_process_zero:
            self._run.log(rewrite_logs(logs), state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the run as finished; figures of the last evaluation still come."""
        if state.is_world_process_zero:
            self._run.finish()
