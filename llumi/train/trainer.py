"""TRL's trainers as one rank drives them.

Imported by the worker only: it takes seconds to load.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import torch.distributed as dist
from transformers import PrinterCallback, Trainer, TrainerCallback
from trl import DPOTrainer, SFTTrainer, pack_dataset

from llumi.config import DpoStageConfig, SftStageConfig
from llumi.errors import TrainError
from llumi.storage import digest
from llumi.train.assignment import Assignment, Materials
from llumi.train.checkpoint import Upload, hand_over, run_name
from llumi.train.columns import Examples
from llumi.train.order import EpochOrder
from llumi.train.resume import Resume
from llumi.train.settings import global_batch, keep_trainable, lora, quantization, trainer_arguments
from llumi.train.shared_prompt import Pairs, SharedPrompt, can_share_prompt
from llumi.train.sight import Sighted, curve_callbacks, peak_flops_here
from llumi.train.throughput import Clock

_NAMED_AT_MOST = 8


class _Ours(Sighted):
    """What both of TRL's trainers do differently here: figures of speed, the order, a watch over the loss, lean checkpoints.

    `examples` and `work` are set before the first step.
    """

    work: Assignment
    examples: Examples

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows_of_step: list[int] = []

    @property
    def batch_of_all_ranks(self) -> int:
        """Examples of one step."""
        return global_batch(self.work.config.train, self.work.stage)

    def row_lengths(self, examples: Examples) -> list[int]:
        """Tokens that each of them takes in a batch."""
        return examples.lengths()

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        section = self.work.config.train.stage(self.work.stage)
        by_length = isinstance(section, DpoStageConfig) and section.length_buckets
        return EpochOrder(
            len(self.train_dataset),
            self.batch_of_all_ranks,
            self.work.config.train.seed,
            epoch=lambda: int(self.state.epoch or 0),
            lengths=self.row_lengths(self.examples) if by_length else None,
        )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "row" not in self._signature_columns:
            self._signature_columns.append("row")

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Keep the numbers of the batch's examples from the model, which does not know them."""
        prepared = super()._prepare_inputs(inputs)
        self._rows = prepared.pop("row")
        return dict(prepared)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; raises TrainError where its loss or the step's gradient is no number.

        Either is noticed before a checkpoint could hold what came of it.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        rows = self._rows.flatten().tolist()
        if not torch.isfinite(loss):
            raise TrainError(self._not_a_number(f"the loss is {float(loss)}", rows))
        self._rows_of_step += rows
        if self.accelerator.sync_gradients:
            self._check_gradient()
            self._rows_of_step = []
        return loss

    def _check_gradient(self) -> None:
        """DeepSpeed gives the norm over all ranks, so all stop together and can say what they had."""
        norm = self.model_wrapped.get_global_grad_norm() if self.is_deepspeed_enabled else None
        if norm is None:  # without ZeRO nobody keeps it, but the step has been taken
            norm = sum(parameter.detach().float().sum() for parameter in self.model.parameters() if parameter.requires_grad)
        if math.isfinite(norm):
            return
        rows: list[Any] = [self._rows_of_step]
        if dist.is_initialized():
            rows *= dist.get_world_size()
            dist.all_gather_object(rows, self._rows_of_step)
        raise TrainError(self._not_a_number("the gradient is no number", [row for part in rows for row in part]))

    def _not_a_number(self, what: str, rows: Sequence[int]) -> str:
        ids = [self.examples.ids[row] for row in sorted(set(rows))]
        named = ", ".join(ids[:_NAMED_AT_MOST]) + (
            f" and {len(ids) - _NAMED_AT_MOST} more" if len(ids) > _NAMED_AT_MOST else ""
        )
        return (
            f"{self.work.name}: {what} at step {self.state.global_step + 1}, on the examples {named}; the last "
            f"checkpoint stays; lower train.{self.work.stage}.learning_rate, or look at these examples in {self.work.pairs}"
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Only the folder of a checkpoint: DeepSpeed's files hold the weights, a gathered copy would cost time and room."""
        Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL would put one of its own into every checkpoint."""


class _TokenSFTTrainer(_Ours, SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """SFT on columns that are tokens already."""


class _TokenDPOTrainer(_Ours, DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """DPO on columns that are tokens already, with the reference's log-probabilities among them, each prompt computed once.

    TRL would insist on making tokens from text, and on a cache of its own for the log-probabilities, which fails where
    rows are in memory and ranks are several.
    """

    sequences_per_sample = 2

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        return dataset

    @functools.cached_property
    def shares_prompt(self) -> bool:
        """Whether chosen and rejected reply lie behind one prompt, in one row."""
        train = self.work.config.train
        section = train.stage(self.work.stage)
        assert isinstance(section, DpoStageConfig)  # noqa: S101  (of DPO, always)
        return section.share_prompt and can_share_prompt(self.model, train.max_length)

    def row_lengths(self, examples: Examples) -> list[int]:
        return examples.lengths(joined=self.shares_prompt)

    def count(self, inputs: dict[str, Any]) -> torch.Tensor:
        if not self.shares_prompt:
            return super().count(inputs)
        pairs = Pairs.of(inputs["attention_mask"], inputs["completion_mask"])
        return torch.stack([pairs.tokens.sum(), torch.tensor(2 * len(pairs.tokens)), pairs.squares.sum()])

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        return super().compute_ref_log_probs(self._with_shared_prompt(model), inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        return super()._compute_loss(self._with_shared_prompt(model), inputs, return_outputs)

    def _with_shared_prompt(self, model: Any) -> Any:
        return SharedPrompt(model) if self.shares_prompt else model


@dataclasses.dataclass(frozen=True)
class _WithRows:
    """A collator of TRL that also passes on the numbers of its examples."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [torch.as_tensor(example["row"]).flatten() for example in examples]
        return self.collate(examples) | {"row": torch.cat(rows)}


class _HandOver(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Hands each saved checkpoint to Ray Train. A rank saves into a folder of its own, so all in it is its part."""

    def __init__(self, work: Assignment, clock: Clock) -> None:
        self.clock = clock
        run = work.storage.path("checkpoints", work.name, run_name(work.fingerprint))
        self.upload = Upload(work.storage.filesystem, run)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with self.clock.checkpoint():
            hand_over(self.upload, folder, state.global_step, losses[-1] if losses else None)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        with self.clock.checkpoint():
            self.upload.wait()


class _Tell(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Writes on the driver's board how far rank 0 is, and does not wait for it to be read."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.board.write.remote(state.global_step, state.max_steps)


def build_trainer(work: Assignment, materials: Materials, board: Any, scratch: Path, start: Resume | None = None) -> Trainer:
    """TRL's trainer for the stage of `work`, which starts from the parent's weights, or is about to load `start`.

    One for DPO lacks the reference's log-probabilities yet: `llumi.train.reference` gives them to it.
    """
    train = work.config.train
    clock = Clock()
    kind = _TokenDPOTrainer if work.objective == "dpo" else _TokenSFTTrainer
    trainer = kind(
        model=str(materials.parent),
        args=trainer_arguments(train, work.stage, scratch, is_universal=start is not None and start.is_universal),
        train_dataset=_dataset(work, materials.train, "train"),
        eval_dataset=_dataset(work, materials.test, "test") if materials.test.ids else None,
        processing_class=materials.tokenizer,
        callbacks=[_HandOver(work, clock), _Tell(board), *curve_callbacks(work, scratch)],
        peft_config=None if train.method == "full" else lora(train),
        quantization_config=quantization(train),
        clock=clock,
        peak_flops=peak_flops_here(train),
    )
    keep_trainable(trainer.model)
    trainer.work, trainer.examples = work, materials.train
    trainer.data_collator = _WithRows(trainer.data_collator)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _dataset(work: Assignment, examples: Examples, split: str) -> datasets.Dataset:
    """With a fingerprint of ours, datasets need not hash the rows to make one."""
    section = work.config.train.stage(work.stage)
    dataset = datasets.Dataset(examples.rows, fingerprint=digest([work.fingerprint, split]))
    if not (isinstance(section, SftStageConfig) and section.packing):
        return dataset
    # Packing joins lists, so the number of an example goes with each of its tokens.
    numbers = [[row] * len(ids) for row, ids in zip(dataset["row"], dataset["input_ids"], strict=True)]
    dataset = dataset.remove_columns("row").add_column(
        "row", numbers, new_fingerprint=digest([work.fingerprint, split, "numbered"])
    )
    map_kwargs = {"new_fingerprint": digest([work.fingerprint, split, "packed"]), "keep_in_memory": True}
    return pack_dataset(dataset, work.config.train.max_length, "bfd", map_kwargs)
