"""The model against what was measured in this tree and what the training code counts itself, each within a stated factor."""

import re
from pathlib import Path

import pytest

from llumi.capacity import figures
from llumi.capacity.gpus import GPUS
from llumi.capacity.inputs import Hardware, Question
from llumi.capacity.pairs import AT_ONCE, BUCKET_BYTES, MAX_BUCKETS, PairsPlan, plan_pairs
from llumi.capacity.shapes import MODELS, Shape, size_of
from llumi.config import TrainConfig
from llumi.train.memory import estimate_memory
from llumi.train.throughput import ModelShape, flops_per_token

ROOT = Path(__file__).parents[2]
CORPUS = (ROOT / "docs" / "corpus.md").read_text(encoding="utf-8")


def pairs_on_two_cores(comments: float) -> PairsPlan:
    hardware = Hardware(GPUS["h100"], 1, 8, 2, 1e9, 1e9, 2e-5)
    return plan_pairs(Question(comments, 1.0, MODELS["7b"], TrainConfig(), hardware, 1))


def test_a_build_at_the_two_sizes_that_were_measured():
    (row,) = re.findall(r"^\| LLUMI \| (\d+) s, ([\d.]+) GiB \| (\d+) s, ([\d.]+) GiB", CORPUS, re.MULTILINE)
    seconds, memory = map(float, row[::2]), map(float, row[1::2])
    for millions, took, held in zip((2, 8), seconds, memory, strict=True):
        plan = pairs_on_two_cores(millions * 1e6)
        assert took == pytest.approx(plan.seconds.typical, rel=0.1)
        assert plan.memory_bytes.low <= held * 2**30 <= plan.memory_bytes.high


def test_a_build_of_another_size_and_of_one_large_post():
    ((seconds, gib),) = re.findall(r"`--millions 1 --skew 0.3`\): the same pairs, (\d+) s and ([\d.]+) GiB", CORPUS)
    plan = pairs_on_two_cores(1e6)
    assert float(seconds) == pytest.approx(plan.seconds.typical, rel=0.3)
    assert plan.memory_bytes.low <= float(gib) * 2**30 <= plan.memory_bytes.high


@pytest.mark.parametrize(
    ("length", "batch", "zero_stage", "held"),
    [(64, 1, 2, 1.7e9), (64, 1, 3, 2.8e9), (256, 2, 2, 4.5e9)],
    ids=["zero-2", "zero-3", "zero-2, longer"],
)
def test_memory_of_a_small_model_on_cpus(length: int, batch: int, zero_stage: int, held: float):
    """Resident memory of a rank, LoRA DPO of SmolLM2-135M in fp32: within a factor of 1.8.

    DeepSpeed's bucket counts in the estimate, and is resident once it is used; Python and torch are resident alone.
    """
    train = TrainConfig(max_length=length, zero_stage=zero_stage, dpo1={"batch_size_per_worker": batch})
    estimate = estimate_memory(size_of(MODELS["135m"], train), train, "dpo1").peak
    assert 1 / 1.8 < estimate / held < 1.8


def test_buckets_are_cut_as_a_build_cuts_them():
    pytest.importorskip("ray")
    from llumi import storage
    from llumi.pairs import partition

    assert (BUCKET_BYTES, MAX_BUCKETS, AT_ONCE) == (partition.BUCKET_BYTES, partition._MAX_BUCKETS, storage.AT_ONCE)
    assert partition._TEXT_PER_COMPRESSED_BYTE["zstd"] == figures.PLAIN_PER_COMPRESSED.value.typical


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("135m", "full"), ("135m", "qlora"), ("7b", "lora"), ("70b", "full")])
def test_models_are_counted_as_training_counts_them(name: str, method: str):
    pytest.importorskip("torch")
    from llumi.train.size import model_size

    shape, train = MODELS[name], TrainConfig(method=method)
    settings = {
        "model_type": "mistral" if name == "7b" else "llama",
        "hidden_size": shape.hidden_width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }
    assert size_of(shape, train) == model_size(settings, train)


def test_the_mean_time_between_failures_is_what_was_published():
    assert figures.FAILURES.value.typical == pytest.approx(54 * 24 * 16_384 / 419, rel=0.01)
    assert figures.FAILURES.value.low == pytest.approx(60 * 24 * 992 / 105, rel=0.01)
    assert figures.SFT_YIELD.value.typical == pytest.approx(42_503 / 310_000, rel=0.01)
    assert figures.DPO_YIELD.value.typical == pytest.approx(4_390 / 310_000, rel=0.01)


def test_every_figure_says_whose_it_is_and_its_range_is_one():
    for known in figures.ALL:
        assert known.value.low <= known.value.typical <= known.value.high, known.name
        assert known.source, known.name
        if known.kind == "published":
            assert "arXiv" in known.source, known.name
        if known.kind == "measured":
            files = re.findall(r"(?:docs|benchmarks)/[a-z]+\.(?:md|py)", known.source)
            assert files, known.name
            assert all((ROOT / file).exists() for file in files)


def test_every_gpu_has_a_peak_in_the_table_of_the_training_figures():
    assert all(gpu.peak_flops > 1e13 for gpu in GPUS.values())


ONE_CORE_FLOPS = 148e9
"""Products of matrices in fp32 on one thread, by benchmarks/plan.py on the machine of docs/training.md."""


def test_training_uses_the_share_of_its_hardware_that_a_plan_reckons_with():
    """The steps of docs/training.md: 12 million parameters, two ranks, four examples of 238 to 295 tokens in each."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (sft,) = re.findall(r"^\| SFT, LoRA, 30 steps .*\| ([\d.]+) s \|", page, re.MULTILINE)
    (dpo,) = re.findall(r"^\| DPO, whole model, 36 steps: .*\| ([\d.]+) s \|", page, re.MULTILINE)
    shape = Shape("small", 384, 1024, 6, 6, 6, 64, 2000)
    tokens = 2 * 4 * (238 + 295) / 2
    adapters, whole = (size_of(shape, TrainConfig(method=method)) for method in ("lora", "full"))
    weights = whole.parameters - whole.looked_up
    of_sft = tokens * flops_per_token(ModelShape(adapters.trainable, weights, 6, 384), 266)
    of_dpo = 2 * tokens * flops_per_token(ModelShape(weights, 0, 6, 384), 266)  # two rows a pair, the reference was kept
    assert of_dpo / of_sft == pytest.approx(float(dpo) / float(sft), rel=0.2)
    for work, seconds in ((of_sft, float(sft)), (of_dpo, float(dpo))):
        share = work / seconds / (2 * ONE_CORE_FLOPS)
        assert figures.UTILISATION.value.low <= share <= figures.UTILISATION.value.high, share
