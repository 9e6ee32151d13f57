"""The reference's log-probabilities: asked once, by all ranks together, kept as an artifact, used by every later run.

DPO compares the policy with the model that it started from. What that model says of a pair never changes, so it is asked
once: a run then holds no reference model, and makes no forward pass through one. At the start of a stage policy and
reference are the same, so the policy itself is asked, before its first step.
"""

import io
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
from trl.models import prepare_deepspeed

from llumi.config import DpoStageConfig
from llumi.storage import FileEntry, Storage, digest, fingerprint, parquet, store_errors
from llumi.train.assignment import Assignment, Materials
from llumi.train.columns import Examples

ROWS = "rows.parquet"
_ROWS_SCHEMA = pa.schema({"pair_id": pa.string(), "chosen": pa.float64(), "rejected": pa.float64()})

_UNKNOWN = (math.nan, math.nan)

Logps = dict[str, tuple[float, float]]
"""By the id of a pair: the summed log-probabilities of its chosen and its rejected reply, in nats."""


def give_reference(work: Assignment, materials: Materials, trainer: Any) -> None:
    """Add the reference's log-probabilities to the rows of `trainer`; every rank must call it, before the first step."""
    known = _standing(work)
    missing = [
        (examples, [row for row in rows if examples.ids[row] not in known])
        for examples, rows in ((materials.train, _met(trainer)), (materials.test, range(len(materials.test.ids))))
    ]
    if any(rows for _, rows in missing):
        started = time.monotonic()
        known |= _computed(trainer, missing)
        if trainer.is_world_process_zero():
            _publish(work, known, time.monotonic() - started)
    trainer.precompute_ref_logps = True
    section = work.config.train.stage(work.stage)
    assert isinstance(section, DpoStageConfig)  # noqa: S101  (of DPO, always)
    trainer.train_dataset = _with_reference(trainer.train_dataset, materials.train, known, offset=_offset(section))
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = _with_reference(trainer.eval_dataset, materials.test, known, offset=0.0)


def reference_name(work: Assignment) -> str:
    """The artifact below `references/`: which pairs, seen by which model, as which role."""
    return f"{work.pairs.removeprefix('pairs/')}-{work.role}-by-{work.parent.removeprefix('models/')}"


def reference_fingerprint(work: Assignment) -> str:
    """What determines the figures: the parent (its weights, tokenizer and template), the pairs, and how they are cut."""
    train = work.config.train
    return fingerprint(f"reference {work.role}", {"max_length": train.max_length, "too_long": train.too_long}, work.inputs)


def _met(trainer: Any) -> list[int]:
    """The rows that the run will meet: all, or where its steps are fewer than one epoch's, those that come first."""
    order = list(trainer._get_train_sampler())
    steps = trainer.args.max_steps
    return order[: steps * trainer.batch_of_all_ranks] if steps > 0 else order


def _standing(work: Assignment) -> Logps:
    """What earlier runs asked, for pairs that this one may or may not meet."""
    reference = f"references/{reference_name(work)}"
    # One rank looks, so that all do the same even where another run publishes meanwhile.
    found: list[Logps] = [{}]
    if dist.get_rank() == 0:
        manifest = work.storage.find(reference)
        if manifest is not None and manifest.fingerprint == reference_fingerprint(work):
            found = [_read(work.storage, reference)]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _read(storage: Storage, reference: str) -> Logps:
    with store_errors(storage.uri), storage.filesystem.open_input_file(storage.path(reference, ROWS)) as stream:
        table = pq.read_table(io.BytesIO(stream.read()))
    return {row["pair_id"]: (row["chosen"], row["rejected"]) for row in table.to_pylist()}


def _publish(work: Assignment, known: Logps, seconds: float) -> None:
    ids = sorted(known)
    columns = {"pair_id": ids, "chosen": [known[name][0] for name in ids], "rejected": [known[name][1] for name in ids]}
    content = parquet(pa.table(columns, schema=_ROWS_SCHEMA))
    draft = work.storage.begin("references", reference_name(work))
    entry: FileEntry = draft.write(ROWS, content)
    draft.publish(
        [entry],
        fingerprint=reference_fingerprint(work),
        config=work.config.model_dump(mode="json"),
        inputs=work.inputs,
        counts={"pairs": len(ids)},
        metrics={"seconds": round(seconds, 2)},
    )


def _computed(trainer: Any, asked: Sequence[tuple[Examples, Sequence[int]]]) -> Logps:
    """What the policy says now of these rows: each rank asks for its share, and all learn what the others found."""
    model = prepare_deepspeed(trainer.model, trainer.accelerator)
    found: Logps = {}
    for examples, wanted in asked:
        lengths = trainer.row_lengths(examples)
        for places in _shares([lengths[row] for row in wanted], 2 * trainer.args.per_device_eval_batch_size):
            rows = np.asarray(wanted)[places]
            batch = trainer.data_collator(examples.rows.take(rows).to_pylist())
            batch = {name: tensor.to(trainer.accelerator.device) for name, tensor in batch.items() if name != "row"}
            chosen, rejected = trainer.compute_ref_log_probs(model, batch)
            pairs = zip(rows.tolist(), chosen.tolist(), rejected.tolist(), strict=True)
            found |= {examples.ids[row]: (one, other) for row, one, other in pairs}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, found)
    return {name: logps for part in parts for name, logps in part.items()}


def _shares(lengths: Sequence[int], batch: int) -> Iterator[npt.NDArray[np.int64]]:
    """The row numbers of this rank's batches, the longest first; as many for each rank, because ZeRO-3 computes in step."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    for start in range(0, len(batches), num_ranks):
        yield batches[min(start + rank, len(batches) - 1)]


def _offset(section: DpoStageConfig) -> float:
    """What `margin` moves the reference by, for a weight of 1.

    ODPO (arXiv 2402.10571, eq. 5) asks that the reward of the chosen reply wins by an offset d: -log sigmoid(beta * gap - d).
    With the reference's log-probability of the chosen reply raised by d / beta, the gap falls by d, and the loss is that.
    """
    return section.margin_scale / section.beta if section.loss == "margin" else 0.0


def _with_reference(dataset: datasets.Dataset, examples: Examples, known: Logps, offset: float) -> datasets.Dataset:
    weights = examples.rows["weight"].to_numpy()
    # A pair that the run does not meet has none: if it did, its loss would be no number.
    logps = np.array([known.get(name, _UNKNOWN) for name in examples.ids]).reshape(-1, 2)
    columns = {"ref_chosen_logps": logps[:, 0] + offset * weights, "ref_rejected_logps": logps[:, 1]}
    table = examples.rows
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.float32()))
    return datasets.Dataset(table, fingerprint=digest([dataset._fingerprint, "with reference"]))
