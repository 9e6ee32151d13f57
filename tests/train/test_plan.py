"""The plan against what torch, PEFT, accelerate, TRL and DeepSpeed really do, and the recipes as it lays them out."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llumi.config import Config, TrainConfig, load_config
from llumi.errors import ModelError
from llumi.models import EMBEDDED, EMBEDDED_WHEEL, WHEELS, base_settings
from llumi.records import DPO_SCHEMA, SFT_SCHEMA
from llumi.storage import Storage
from llumi.train.flops import hardware_flops, step_flops
from llumi.train.memory import (
    DEEPSPEED_DEFAULTS,
    GIB,
    HEAD_TILE,
    Memory,
    checkpoint_bytes,
    estimate_memory,
    layer_activation_bytes,
)
from llumi.train.plan import Plan, make_plan, plan_steps
from llumi.train.size import ModelSize, model_size
from tests.conftest import free_port
from tests.train.conftest import MakePairs

RECIPES = sorted((Path(__file__).parents[2] / "cluster" / "recipes").glob("*.yaml"))
STAGES = ("sft", "dpo1", "dpo2")
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
MISTRAL_PARAMETERS = 7_241_732_096


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config.json of Mistral-7B-Instruct-v0.2, and nothing else."""
    folder = tmp_path_factory.mktemp("mistral")
    (folder / "config.json").write_text(json.dumps(MISTRAL))
    return folder


@pytest.fixture(scope="module")
def mistral_size() -> ModelSize:
    return model_size(MISTRAL, TrainConfig(method="full"))


def settings(recipe: Path, base: Path, store: Path, *more: str) -> Config:
    return load_config(recipe, [f"train.base={base}", f"storage.uri={store}", *more])


def publish_pairs(config: Config, name: str, folder: str, rows: int) -> None:
    schema = SFT_SCHEMA if "sft" in folder else DPO_SCHEMA
    table = pa.table({field.name: pa.nulls(rows, field.type) for field in schema}, schema=schema)
    draft = Storage.open(config.storage).begin("pairs", name)
    draft.publish([draft.write_table(f"{folder}/train/part-00000.parquet", table)], fingerprint=name, config={}, inputs=[])


# The recipes.


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_its_gpus_from_the_config_alone_and_writes_nothing(recipe: Path, mistral: Path, tmp_path: Path) -> None:
    config = settings(recipe, mistral, tmp_path / "store")
    assert config.train.num_workers == int(re.findall(r"\d+", recipe.stem)[0])
    for stage in STAGES:
        plan = make_plan(config, "gm", stage, gpu_memory_gib=80)
        assert plan.size.parameters == pytest.approx(7.24e9, rel=1e-3)
        assert plan.size.parameters == MISTRAL_PARAMETERS
        assert plan.verdict is not None
        assert plan.verdict.fits, plan.verdict.text
        assert config.train.stage(stage).max_steps == -1
        assert any("does not stand yet: run `llumi " in note for note in plan.notes)
        written = plan.figures()["writes"]["model"]
        assert written["artifact"] == f"models/gm-{stage}"
        # Each stage's adapter holds those of the stages before.
        in_fp32 = 4 * plan.size.trainable * (1 + STAGES.index(stage)) / GIB
        assert written.get("adapter_gib") == (pytest.approx(in_fp32) if config.train.method == "lora" else None)
    assert not (tmp_path / "store").exists()


def test_the_recipes_learn_from_as_many_examples_a_step() -> None:
    assert [path.stem for path in RECIPES] == ["paper-1gpu", "paper-4gpu", "paper-8gpu"]
    configs = [load_config(recipe) for recipe in RECIPES]
    for stage, batch in zip(STAGES, (64, 32, 16), strict=True):
        assert {plan_steps(config.train, stage, None).global_batch for config in configs} == {batch}
    assert {config.train.max_length for config in configs} == {2048}
    assert {config.train.stage(stage).epochs for config in configs for stage in ("sft", "dpo1")} == {1}
    for config in configs[1:]:
        assert (config.train.method, config.train.zero_stage) == ("full", 3)


def test_the_papers_numbers_of_examples_become_steps(mistral: Path, tmp_path: Path) -> None:
    config = settings(RECIPES[2], mistral, tmp_path / "store", "train.peak_tflops=312")
    publish_pairs(config, "paper", "gm-sft", 42_503)
    publish_pairs(config, "human", "gm-dpo", 675)
    sft = make_plan(config, "gm", "sft")
    assert (sft.steps.examples, sft.steps.per_epoch, sft.steps.total, sft.steps.last_lacks) == (42_503, 665, 665, 57)
    assert f"models/base does not stand yet: the run brings it in from {mistral}, weights and all" in sft.notes
    assert sft.hours is not None
    assert 1 < sft.hours < 10
    dpo2 = make_plan(config, "gm", "dpo2")
    assert (dpo2.pairs, dpo2.parent) == ("pairs/human", "models/gm-dpo1")
    assert (dpo2.steps.per_epoch, dpo2.steps.total) == (43, 86)
    assert dpo2.figures()["writes"]["reference"] == "references/human-gm-by-gm-dpo1"
    assert "models/gm-dpo1 does not stand yet: run `llumi train gm dpo1` first" in dpo2.notes
    dpo1 = make_plan(config, "gm", "dpo1")  # of pairs/paper, which hold SFT examples alone
    assert dpo1.steps.total is None
    assert any("holds nothing that gm dpo1 could learn from" in note for note in dpo1.notes)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["pairs"]


# Steps.


@pytest.mark.parametrize("examples", [1, 7, 12, 13, 42_503])
@pytest.mark.parametrize(("batch", "accumulation", "workers"), [(1, 1, 1), (2, 3, 2), (4, 2, 3), (5, 4, 8)])
def test_steps_are_those_of_the_real_loader(examples: int, batch: int, accumulation: int, workers: int) -> None:
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler, SequentialSampler

    sampler = BatchSampler(SequentialSampler(range(examples)), batch, drop_last=False)
    loads = len(BatchSamplerShard(sampler, num_processes=workers, process_index=0))
    train = TrainConfig(
        num_workers=workers,
        sft={"batch_size_per_worker": batch, "gradient_accumulation_steps": accumulation, "epochs": 1.5},
    )
    steps = plan_steps(train, "sft", examples)
    assert steps.per_epoch == max(loads // accumulation + (loads % accumulation > 0), 1)
    assert steps.total == math.ceil(1.5 * steps.per_epoch)
    assert (examples + (steps.last_lacks or 0)) % steps.global_batch == 0
    capped = train.model_copy(update={"sft": train.sft.model_copy(update={"max_steps": 3})})
    assert plan_steps(capped, "sft", examples).total == plan_steps(capped, "sft", None).total == 3


# Parameters.


def tiny_settings(tiny_model: Path) -> dict[str, Any]:
    return json.loads((tiny_model / "config.json").read_text())


def test_parameters_are_those_of_the_real_model(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    real = AutoModelForCausalLM.from_pretrained(tiny_model)
    size = model_size(tiny_settings(tiny_model), TrainConfig(method="full"))
    assert size.parameters == size.trainable == sum(weight.numel() for weight in real.parameters())
    assert size.looked_up == real.get_input_embeddings().weight.numel()
    tied = model_size(tiny_settings(tiny_model) | {"tie_word_embeddings": True}, TrainConfig(method="full"))
    assert tied.parameters == size.parameters - size.looked_up
    assert tied.looked_up == 0


@pytest.mark.parametrize("modules", ["all-linear", ("q_proj", "v_proj"), r".*\.1\.mlp\..*_proj"])
def test_adapters_are_those_that_peft_trains(tiny_model: Path, modules: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    targets = modules if isinstance(modules, str) else list(modules)
    lora = LoraConfig(r=5, target_modules=targets, task_type="CAUSAL_LM")
    real, _ = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora).get_nb_trainable_parameters()
    train = TrainConfig(lora={"rank": 5, "target_modules": modules})
    assert model_size(tiny_settings(tiny_model), train).trainable == real


def test_the_embedded_base_is_counted_from_its_wheel() -> None:
    if not list(WHEELS.glob(f"{EMBEDDED_WHEEL.split('==')[0].replace('-', '_')}-*.whl")):
        pytest.skip(f"{EMBEDDED_WHEEL} is not on this machine (make install)")
    assert model_size(base_settings(EMBEDDED), TrainConfig()).parameters == pytest.approx(134.5e6, rel=1e-3)


def test_a_model_that_transformers_does_not_know_is_one_line(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"^config\.json: model_type 'of-tomorrow' is none that transformers \S+ knows$"):
        model_size({"model_type": "of-tomorrow"}, TrainConfig())
    with pytest.raises(ModelError, match=r"^train\.lora\.target_modules: \['nothing'\] names no linear layer of this model$"):
        model_size(tiny_settings(tiny_model), TrainConfig(lora={"target_modules": ("nothing",)}))


# Memory.


def held_bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_weights_gradients_and_optimizer_take_what_adamw_takes(tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long)).loss.backward()
    optimizer.step()
    train = TrainConfig(method="full", num_workers=1, zero_stage=0, precision="fp32")
    estimate = estimate_memory(model_size(tiny_settings(tiny_model), train), train, "sft")
    assert estimate.weights == held_bytes(model.parameters())
    assert estimate.gradients == held_bytes(weight.grad for weight in model.parameters())
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert estimate.optimizer == held_bytes(moments)


ONE_RANK = """
import json, os, sys
from pathlib import Path
import deepspeed, torch
from transformers import AutoModelForCausalLM, LlamaConfig

settings, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled first
deepspeed.init_distributed(dist_backend="gloo", verbose=False, auto_mpi_discovery=False)
found = {}
for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
    for stage in (0, 1, 2, 3):
        model = AutoModelForCausalLM.from_config(LlamaConfig.from_dict(settings), dtype=dtype)
        config = {
            "train_batch_size": 1,
            "bf16": {"enabled": precision == "bf16"},
            "zero_optimization": {"stage": stage, "reduce_bucket_size": 1000},
        }
        optimizer = torch.optim.AdamW(model.parameters())
        engine, optimizer, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        ids = torch.zeros(1, 8, dtype=torch.long)
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
        inner = getattr(optimizer, "optimizer", optimizer)
        own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        own |= {flat.untyped_storage().data_ptr() for flat in getattr(optimizer, "fp16_partitioned_groups_flat", [])}
        states = [state[name] for state in inner.state.values() for name in ("exp_avg", "exp_avg_sq")]
        flat = getattr(optimizer, "fp32_partitioned_groups_flat", None)
        trained = flat or [weight for group in inner.param_groups for weight in group["params"]]
        copies = [weight for weight in trained if weight.untyped_storage().data_ptr() not in own]
        engine.save_checkpoint(folder / f"{precision}-{stage}")
        found[f"{precision}-{stage}"] = {
            "optimizer": sum(tensor.numel() * tensor.element_size() for tensor in states + copies),
            "checkpoint": sum(path.stat().st_size for path in (folder / f"{precision}-{stage}").rglob("*.pt")),
        }
print(json.dumps(found), flush=True)
os._exit(0)  # gloo's threads may hold the interpreter back
"""


@pytest.mark.slow
def test_optimizer_and_checkpoint_are_as_large_as_deepspeed_makes_them(tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tiny_model) | {"hidden_size": 128, "intermediate_size": 512}
    port = str(free_port())
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "DS_ACCELERATOR": "cpu",
    }
    command = [sys.executable, "-c", ONE_RANK, json.dumps(settings), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, sizes in found.items():
        precision, stage = name.split("-")
        train = TrainConfig(method="full", num_workers=1, zero_stage=int(stage), precision=precision)
        size = model_size(settings, train)
        assert sizes["optimizer"] == pytest.approx(estimate_memory(size, train, "sft").optimizer, rel=0.01), name
        assert sizes["checkpoint"] == pytest.approx(checkpoint_bytes(size, train), rel=0.05), name


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layer_keeps_what_the_formula_says(tiny_model: Path, method: Any, precision: Any) -> None:
    """Of a batch with padding; adapters add what little they keep themselves."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    rows, length = 2, 96
    ids, mask = torch.zeros(rows, length, dtype=torch.long), torch.ones(rows, length, dtype=torch.long)
    mask[0, length // 2 :] = 0
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    shape = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    tree = tiny_settings(tiny_model) | shape

    def kept(num_layers: int) -> int:
        config = LlamaConfig.from_dict(tree | {"num_hidden_layers": num_layers})
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        if method == "lora":
            model = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear"), autocast_adapter_dtype=False)
            model.enable_input_require_grads()
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        storages: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = model(input_ids=ids, attention_mask=mask, use_cache=False)
        assert outputs.logits.requires_grad
        return sum(num for place, num in storages.items() if place not in weights)

    train = TrainConfig(method=method, precision=precision)
    size = model_size(tree, train)
    expected = layer_activation_bytes(size, train, rows, length)
    assert (kept(5) - kept(1)) / 4 == pytest.approx(expected, rel=0.03)


def test_the_constants_of_the_libraries_are_still_theirs() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE) == HEAD_TILE
    theirs = {field.alias or name: field.default for name, field in DeepSpeedZeroConfig.model_fields.items()}
    assert {key: theirs[key] for key in DEEPSPEED_DEFAULTS} == DEEPSPEED_DEFAULTS


def test_memory_follows_the_settings(mistral_size: ModelSize) -> None:
    def of(stage: Any = "sft", **given: Any) -> Memory:
        train = TrainConfig(
            **{"method": "full", "num_workers": 4, "use_gpu": True, "zero_stage": 0, "max_length": 2048} | given
        )
        return estimate_memory(mistral_size, train, stage)

    sharded = [of(zero_stage=stage) for stage in range(4)]
    whole = mistral_size.parameters
    assert [held.weights for held in sharded] == [2 * whole] * 3 + [2 * whole // 4]
    assert [held.gradients for held in sharded] == [2 * whole] * 2 + [2 * whole // 4] * 2
    assert [held.optimizer for held in sharded] == [12 * whole] + [12 * whole // 4] * 3
    moved = of(zero_stage=3, offload="cpu")
    assert (moved.weights, moved.gradients, moved.optimizer) == (0, 0, 0)
    assert moved.offloaded == sharded[3].weights + sharded[3].gradients + sharded[3].optimizer
    assert of(zero_stage=2, offload="cpu").weights == 2 * whole
    assert of(gradient_checkpointing=False).activations > 5 * of().activations
    # Chosen and rejected are rows of their own.
    assert of("dpo1", dpo1={"batch_size_per_worker": 2}).activations == of(sft={"batch_size_per_worker": 4}).activations
    bucket = of(zero_stage=2, deepspeed={"zero_optimization": {"reduce_bucket_size": 1000, "overlap_comm": True}}).buffers
    assert bucket == 2 * 1000 * 2


def test_qlora_holds_the_parent_in_four_bits() -> None:
    sizes = {method: model_size(MISTRAL, TrainConfig(method=method)) for method in ("lora", "qlora")}
    assert sizes["lora"] == sizes["qlora"]
    assert sizes["lora"].trainable == 41_943_040  # rank 16 beside the seven products of 32 layers
    weights = {
        method: estimate_memory(size, TrainConfig(method=method, use_gpu=True), "sft").weights for method, size in sizes.items()
    }
    assert weights["lora"] / GIB == pytest.approx(13.57, abs=0.01)
    assert weights["qlora"] / GIB == pytest.approx(3.93, abs=0.01)


# Work.


def test_flops_are_those_that_torch_counts(tiny_model: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    train = TrainConfig(method="full", max_length=32, num_workers=1, sft={"batch_size_per_worker": 3})
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=torch.zeros(3, 32, dtype=torch.long), use_cache=False).logits.sum().backward()
    size = model_size(tiny_settings(tiny_model), train)
    # The weights of the norms take part in no product.
    assert step_flops(size, train, "sft") == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_lora_spares_the_gradients_of_frozen_weights_and_checkpointing_computes_twice(mistral_size: ModelSize) -> None:
    full = TrainConfig(method="full", use_gpu=True, max_length=512)
    lora = full.model_copy(update={"method": "lora"})
    light = dataclasses.replace(mistral_size, trainable=0)
    assert step_flops(light, lora, "sft") / step_flops(mistral_size, full, "sft") == pytest.approx(2 / 3, rel=0.02)
    assert hardware_flops(mistral_size, full, "sft") / step_flops(mistral_size, full, "sft") == pytest.approx(4 / 3, rel=0.01)
    plain = full.model_copy(update={"gradient_checkpointing": False})
    assert hardware_flops(mistral_size, plain, "sft") == step_flops(mistral_size, plain, "sft")
    assert step_flops(mistral_size, full, "dpo1") == 2 * step_flops(mistral_size, full, "sft")


# The verdict.

ON_ONE_GPU = ("train.use_gpu=true", "train.num_workers=1", "train.max_length=2048", "train.sft.batch_size_per_worker=8")


@pytest.mark.parametrize(
    ("given", "gib", "tried"),
    [
        (("train.gradient_checkpointing=false",), 40, "train.gradient_checkpointing=true"),
        (("train.sft.batch_size_per_worker=32",), 40, "train.sft.batch_size_per_worker=16"),
        (("train.method=full", "train.num_workers=4"), 48, "train.zero_stage=3"),
        (("train.method=full",), 60, "train.offload=cpu"),
        (("train.sft.batch_size_per_worker=1", "train.offload=cpu"), 12, "train.method=qlora"),
        (("train.method=full", "train.gradient_checkpointing=false"), 24, "train.gradient_checkpointing=true train.sft.batch"),
    ],
)
def test_what_does_not_fit_gets_settings_with_which_it_would(
    mistral: Path, tmp_path: Path, given: tuple[str, ...], gib: int, tried: str
) -> None:
    def plan(*more: str) -> Plan:
        overrides = [f"train.base={mistral}", f"storage.uri={tmp_path / 'store'}", *ON_ONE_GPU, *given, *more]
        return make_plan(load_config(None, overrides), "gm", "sft", gpu_memory_gib=gib)

    before = plan()
    assert before.verdict is not None
    assert not before.verdict.fits
    advice = before.verdict.text.partition("; try ")[2]
    assert tried in advice
    after = plan(*advice.split())
    assert after.verdict is not None
    assert after.verdict.fits, (advice, after.verdict.text)
    assert after.steps.global_batch == before.steps.global_batch


def test_what_cannot_fit_says_so(mistral: Path, tmp_path: Path) -> None:
    overrides = [f"train.base={mistral}", f"storage.uri={tmp_path / 'store'}", *ON_ONE_GPU]
    verdict = make_plan(load_config(None, overrides), "gm", "sft", gpu_memory_gib=1).verdict
    assert verdict is not None
    assert verdict.text.endswith("try more GPUs, a smaller train.max_length or a smaller base")


# The command.


def run_llumi(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`llumi ...`, which then says on stderr whether Ray was loaded."""
    code = (
        "import sys, llumi.cli\n"
        "try:\n    llumi.cli.main()\n"
        "finally:\n    print('ray loaded:', 'ray' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=400)


def test_the_command_tells_the_plan_and_starts_and_writes_nothing(
    config: Config, make_pairs: MakePairs, tmp_path: Path
) -> None:
    make_pairs(config.storage)
    files = sorted(tmp_path.rglob("*"))
    given = [f"--set=storage.uri={config.storage.uri}", f"--set=train.base={config.train.base}"]
    done = run_llumi(tmp_path, "train", "gm", "sft", "--dry-run", "--json", *given)
    assert done.returncode == 0, done.stderr
    assert "ray loaded: False" in done.stderr
    figures = json.loads(done.stdout)
    assert figures["steps"] == {"examples": 12, "per_epoch": 3, "total": 3, "last_of_epoch_lacks_examples": 0}
    assert figures["starts_from"] == "models/base"
    assert "verdict" not in figures
    table = run_llumi(tmp_path, "train", "gm", "dpo1", "--gpu-memory=80", "--set=train.use_gpu=true", *given)
    assert table.returncode == 0, table.stderr
    for part in (
        "memory_gib_per_worker.peak",
        "references/default-gm-by-gm-sft",
        "fits 80 GiB",
        "run `llumi train gm sft` first",
    ):
        assert part in table.stdout
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--set=train.trl={warmup_step: 3}",), "train.trl.warmup_step: no such key of TRL; did you mean warmup_steps?"),
        (("--set=train.max_length=2048",), "train.max_length: 2048 is above the 1024 tokens that models/base can read"),
        (("--gpu-memory=80",), "--gpu-memory: train.use_gpu is false"),
        (("--set=train.base=nowhere",), "train.base: no nowhere/config.json on this machine"),
    ],
)
def test_bad_settings_are_one_line(config: Config, tmp_path: Path, given: tuple[str, ...], message: str) -> None:
    base = [f"--set=storage.uri={tmp_path / 'store'}", f"--set=train.base={config.train.base}"]
    done = run_llumi(tmp_path, "train", "gm", "sft", "--dry-run", *base, *given)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "store").exists()


def test_the_plan_is_loaded_without_torch() -> None:
    code = "import sys, llumi.train.plan\nprint([m for m in ['torch', 'transformers', 'trl', 'ray'] if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
