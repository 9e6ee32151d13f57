"""One plan: everything that a question about capacity leads to, and what its figures do not know."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from llumi.capacity.figures import ALL, DPO_YIELD, SFT_YIELD, short
from llumi.capacity.generation import GenerationPlan, plan_generation
from llumi.capacity.inputs import Question
from llumi.capacity.pairs import BUCKET_BYTES, PairsPlan, plan_pairs
from llumi.capacity.training import FailurePlan, StagePlan, Way, on_gpus, plan_failures, plan_stage, plan_ways
from llumi.train.memory import GIB, SPARE

NO_GPU = "no figure of a GPU was measured here: hours follow from FLOPs and bandwidth, and an assumed use of both"
MANY_EXAMPLES = 10**6
LONG_SECONDS = 3600


@dataclass(frozen=True)
class CapacityPlan:
    """The answer to one question."""

    question: Question
    pairs: PairsPlan
    ways: tuple[Way, ...]
    sft: StagePlan
    dpo: StagePlan
    generation: GenerationPlan | None
    failures: FailurePlan
    notes: tuple[str, ...]

    @property
    def way(self) -> Way | None:
        """That of the settings; none where it is not among those that are compared."""
        train = self.question.train
        return next((way for way in self.ways if (way.method, way.zero_stage) == (train.method, train.zero_stage)), None)

    def figures(self) -> dict[str, Any]:
        """The plan as a tree, with the figures that it rests on."""
        question, hardware = self.question, self.question.hardware
        return {
            "question": {
                "comments": question.num_comments,
                "share": question.share,
                "model": question.shape.name,
                "method": question.train.method,
                "zero_stage": question.train.zero_stage,
                "max_length": question.train.max_length,
                "replies": question.num_replies,
                "hardware": asdict(hardware),
            },
            "pairs": asdict(self.pairs),
            "ways": [
                {"method": way.method, "zero_stage": way.zero_stage, "peak_bytes": way.memory.peak, "fits": way.fits,
                 "checkpoint_bytes": way.checkpoint_bytes, "memory": asdict(way.memory)}
                for way in self.ways
            ],
            "sft": asdict(self.sft),
            "dpo": asdict(self.dpo),
            "generation": asdict(self.generation) if self.generation else None,
            "failures": asdict(self.failures),
            "notes": list(self.notes),
            "rests_on": [asdict(figure) for figure in ALL],
        }  # fmt: skip


def plan_capacity(question: Question) -> CapacityPlan:
    """Answer a question; raises ConfigError where settings contradict it."""
    ways = tuple(plan_ways(question, "dpo1"))
    pairs, failures = plan_pairs(question), plan_failures(question)
    sft = plan_stage(question, "sft", SFT_YIELD.value * question.wanted)
    dpo = plan_stage(question, "dpo1", DPO_YIELD.value * question.wanted)
    generation = plan_generation(question)
    notes = [*_notes_on_pairs(question, pairs), *_notes_on_training(question, ways, sft)]
    if generation is None:
        notes.append(f"{question.shape.name} in bf16 does not fit {_gpus(question)}, so it cannot generate there: more GPUs")
    return CapacityPlan(question, pairs, ways, sft, dpo, generation, failures, (NO_GPU, *notes))


def _gpus(question: Question) -> str:
    return f"{question.hardware.num_gpus} {question.hardware.gpu.name}"


def _notes_on_pairs(question: Question, pairs: PairsPlan) -> Iterator[str]:
    """What would surprise whoever builds them."""
    if pairs.bucket_bytes > BUCKET_BYTES:
        times = pairs.bucket_bytes / BUCKET_BYTES
        yield (
            f"a bucket of pairs build holds {pairs.bucket_bytes / GIB:.2g} GiB of text, {times:.0f} times what was measured, "
            "and a task holds a bucket: build communities or months one after the other"
        )
    work = pairs.work_seconds.at_least(pairs.transfer_seconds)
    if pairs.scratch_read_seconds.typical > max(work.typical, LONG_SECONDS):
        each = question.hardware.store_read_seconds * 1e3
        yield (
            f"pairs build reads scratch {short(pairs.scratch_reads)} times, which at {each:g} ms each takes longer than its "
            "work: build communities or months one after the other"
        )


def _notes_on_training(question: Question, ways: tuple[Way, ...], sft: StagePlan) -> Iterator[str]:
    """What would surprise whoever trains."""
    train, gpu = on_gpus(question), question.hardware.gpu.name
    chosen = f"{train.method} under ZeRO-{train.zero_stage}"
    if any(not way.fits and (way.method, way.zero_stage) == (train.method, train.zero_stage) for way in ways):
        fitting = [f"{way.method} under ZeRO-{way.zero_stage}" for way in ways if way.fits]
        fits = f"{', '.join(fitting)} would" if fitting else "nothing would; take more or larger GPUs, or offload"
        yield f"{chosen} does not fit a {gpu} with {SPARE:.0%} to spare; {fits}"
    if sft.network_seconds > sft.step_seconds.typical:
        yield (
            f"{chosen} sends {sft.network_bytes / 1e9:.1f} GB a step, which takes longer than computing it: more examples to a "
            "step, or GPUs that are nearer to one another"
        )
    if sft.examples.typical > MANY_EXAMPLES:
        yield (
            f"{short(sft.examples.typical)} examples are far more than fine-tuning needs (the paper has 42,503): "
            "train.sft.max_steps and train.dpo1.max_steps end it sooner"
        )
