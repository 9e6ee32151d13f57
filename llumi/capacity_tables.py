"""A plan as tables for a person to read."""

from collections.abc import Sequence

from rich.table import Table

from llumi.capacity.figures import ALL, Range, short
from llumi.capacity.plan import CapacityPlan
from llumi.terminal import console, escape, show_figures, show_wide
from llumi.train.memory import GIB

_SECOND = 1 / 3600


def show_plans(plans: Sequence[CapacityPlan], as_json: bool = False, sources: bool = False) -> None:
    """Print one plan whole, or several as a row each; with `sources` also what they rest on."""
    if as_json:
        show_figures("plan", {"plans": [plan.figures() for plan in plans]}, as_json=True)
        return
    if len(plans) > 1:
        show_wide(_overview(plans))
    else:
        _show_whole(plans[0])
    if sources:
        show_wide(_figures())


def _show_whole(plan: CapacityPlan) -> None:
    question, train, hardware = plan.question, plan.question.train, plan.question.hardware
    wanted = "all wanted" if question.share == 1 else f"{question.share:.3g} of them wanted"
    corpus = f"{short(question.num_comments)} comments, {wanted}"
    machines = f"{hardware.num_gpus} {hardware.gpu.name} on {hardware.num_nodes} node(s), {hardware.cores} cores"
    training = f"{question.shape.name}, {train.method} under ZeRO-{train.zero_stage}, {train.max_length} tokens"
    console.print(f"{corpus}; {machines}; {training}", soft_wrap=True, highlight=False)
    for table in (_work(plan), _ways(plan), _resources(plan)):
        show_wide(table)
    for note in plan.notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True, highlight=False)


def _work(plan: CapacityPlan) -> Table:
    table = Table("step", "of", box=None, padding=(0, 2, 0, 0))
    for column in ("hours at least", "typically", "at most"):
        table.add_column(column, justify="right")
    stages = ((plan.sft, "llumi train gm sft", "examples"), (plan.dpo, "llumi train gm dpo1", "pairs"))
    table.add_row("llumi pairs build", f"{short(plan.question.num_comments)} comments", *_three(plan.pairs.seconds * _SECOND))
    for stage, command, unit in stages:
        table.add_row(command, f"{_span(stage.examples)} {unit}", *_three(stage.hours))
    replies = f"{plan.question.num_replies:,} replies"
    if plan.generation:
        table.add_row("llumi generate gm MODEL", replies, *_three(plan.generation.hours))
    return table


def _ways(plan: CapacityPlan) -> Table:
    table = Table("DPO trains", "ZeRO", box=None, padding=(0, 2, 0, 0))
    for column in ("weights", "gradients", "optimizer", "buffers", "activations", "GiB a GPU", "checkpoint, GiB"):
        table.add_column(column, justify="right")
    table.add_column(f"fits a {plan.question.hardware.gpu.name}")
    for way in plan.ways:
        memory = way.memory
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.buffers, memory.activations, memory.peak)
        cells = [f"{part / GIB:.1f}" for part in (*parts, way.checkpoint_bytes)]
        table.add_row(way.method, str(way.zero_stage), *cells, "[green]yes" if way.fits else "[red]no")
    return table


def _resources(plan: CapacityPlan) -> Table:
    pairs, failures, hardware = plan.pairs, plan.failures, plan.question.hardware
    generation = plan.generation
    table = Table("takes", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = {
        "dumps to read": f"{_span(pairs.dump_bytes * 1e-9)} GB",
        "memory of pairs build": f"{_span(pairs.memory_bytes * (1 / GIB))} GiB on {hardware.cores} cores",
        "scratch of pairs build": f"{_span(pairs.scratch_bytes * 1e-9)} GB, read in {short(pairs.scratch_reads)} pieces "
        f"({_span(pairs.scratch_read_seconds * _SECOND)} h at {hardware.store_read_seconds * 1e3:g} ms)",
        "a step of SFT": f"{_span(plan.sft.step_seconds)} s of work, {short(plan.sft.network_bytes / 1e9)} GB sent by each GPU "
        f"({short(plan.sft.network_seconds)} s)",
        "a checkpoint": f"{short(failures.checkpoint_seconds)} s to write at {hardware.store_bandwidth / 1e6:g} MB/s",
        "a failure every": f"{_span(failures.hours_between_failures)} h",
        "best time between checkpoints": f"{_span(failures.interval_seconds * (1 / 60))} min, or "
        f"{short(failures.interval_seconds.typical / plan.sft.step_seconds.typical)} steps of SFT (train.checkpoint_steps)",
        "time lost to failures then": f"{failures.lost_share.high:.2%} to {failures.lost_share.low:.2%}",
    }
    if generation:
        engines = (
            f"{generation.engines} engine(s) of {generation.gpus_per_engine} GPU(s), {generation.sequences} replies at once"
        )
        rows["generation"] = f"{engines}, {_span(generation.tokens_per_second)} tokens/s"
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _overview(plans: Sequence[CapacityPlan]) -> Table:
    table = Table("comments", "GPUs", "model", "pairs, h", "SFT, h", "DPO, h", "replies, h", "GiB a GPU", box=None)
    for plan in plans:
        hardware, way = plan.question.hardware, plan.way
        hours = [_span(each) for each in (plan.pairs.seconds * _SECOND, plan.sft.hours, plan.dpo.hours)]
        hours.append(_span(plan.generation.hours) if plan.generation else "does not fit")
        memory = "" if way is None else f"{way.memory.peak / GIB:.1f}{'' if way.fits else ', too much'}"
        gpus = f"{hardware.num_gpus} {hardware.gpu.name}"
        table.add_row(short(plan.question.num_comments), gpus, plan.question.shape.name, *hours, memory)
    return table


def _figures() -> Table:
    table = Table("rests on", "", "unit", "which is", "by", box=None)
    for known in ALL:
        table.add_row(known.name, _span(known.value), known.unit, known.kind, escape(known.source))
    return table


def _three(quantity: Range) -> tuple[str, str, str]:
    return short(quantity.low), short(quantity.typical), short(quantity.high)


def _span(quantity: Range) -> str:
    low, typical, high = _three(quantity)
    return typical if low == high else f"{typical} ({low} to {high})"
