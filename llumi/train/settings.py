"""What TRL and DeepSpeed are told: our named fields, and the keys that the operator passes through.

A passed-through key is checked against what the library itself reads, on the driver, before a worker is leased. A key
that one of our fields sets is refused, so that a setting has one place.
"""

import dataclasses
import difflib
import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from llumi.config import DpoStageConfig, Stage, TrainConfig
from llumi.errors import ConfigError

OWN_TRL_KEYS = {
    "beta": "train.<stage>.beta",
    "bf16": "train.precision",
    "deepspeed": "train.deepspeed",
    "fp16": "train.precision",
    "eval_steps": "train.eval_steps",
    "gradient_accumulation_steps": "train.<stage>.gradient_accumulation_steps",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "label_smoothing": "train.<stage>.label_smoothing",
    "learning_rate": "train.<stage>.learning_rate",
    "logging_steps": "train.logging_steps",
    "loss_type": "train.<stage>.loss",
    "loss_weights": "train.<stage>.loss",
    "max_length": "train.max_length",
    "max_steps": "train.<stage>.max_steps",
    "num_train_epochs": "train.<stage>.epochs",
    "output_dir": "storage.uri",
    "packing": "train.sft.packing",
    "per_device_train_batch_size": "train.<stage>.batch_size_per_worker",
    "save_steps": "train.checkpoint_steps",
    "seed": "train.seed",
    "use_cpu": "train.use_gpu",
}
"""TRL's fields that fields of ours set, and where."""

REFUSED_TRL_KEYS = {
    "assistant_only_loss": "the loss covers the completion",
    "dataset_kwargs": "examples arrive as tokens",
    "eval_strategy": "the held-out split is evaluated every train.eval_steps, and at the end",
    "group_by_length": "train.<stage>.length_buckets puts pairs of like length together",
    "include_num_input_tokens_seen": "tokens are counted in any case",
    "ld_alpha": "the reference's log-probabilities are kept whole",
    "padding_free": "examples of several lengths are padded, or packed by train.sft.packing",
    "precompute_ref_log_probs": "the reference's log-probabilities are an artifact of their own",
    "push_to_hub": "nothing leaves the network",
    "report_to": "nothing leaves the network",
    "resume_from_checkpoint": "a run resumes by itself",
    "save_strategy": "checkpoints come every train.checkpoint_steps",
    "sync_ref_model": "the reference's log-probabilities are computed once",
    "train_sampling_strategy": "the order of examples is the run's own",
}
"""TRL's fields that would break a promise of ours, and which."""

OWN_DEEPSPEED_KEYS = {
    "bf16": "train.precision",
    "fp16": "train.precision",
    "gradient_accumulation_steps": "train.<stage>.gradient_accumulation_steps",
    "train_batch_size": "train.<stage>.batch_size_per_worker",
    "train_micro_batch_size_per_gpu": "train.<stage>.batch_size_per_worker",
}


def precision(train: TrainConfig) -> str:
    """The floating-point type of the weights: bf16 on GPUs, fp32 on CPUs, unless told otherwise."""
    if train.precision != "auto":
        return train.precision
    return "bf16" if train.use_gpu else "fp32"


def checkpoints_activations(train: TrainConfig) -> bool:
    """Whether gradient checkpointing is on. It saves memory and costs speed, which on a CPU is the scarcer of the two."""
    return train.use_gpu if train.gradient_checkpointing is None else train.gradient_checkpointing


def deepspeed_config(train: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's JSON; "auto" is filled in by transformers from TRL's arguments."""
    own = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": precision(train) == "bf16"},
        # Without the gathering, a ZeRO-3 run could not publish its model.
        "zero_optimization": {
            "stage": train.zero_stage,
            "stage3_gather_16bit_weights_on_model_save": True,
            **_offload(train),
        },
    }
    return _merged(own, train.deepspeed)


def _offload(train: TrainConfig) -> dict[str, Any]:
    """Where ZeRO keeps what it shards; weights are sharded by stage 3 alone."""
    if train.offload == "none":
        return {}
    place = {"device": train.offload} | ({"nvme_path": str(train.nvme_path)} if train.nvme_path else {"pin_memory": True})
    return {"offload_optimizer": place} | ({"offload_param": place} if train.zero_stage == 3 else {})


def global_batch(train: TrainConfig, stage: Stage) -> int:
    """Examples that one step learns from, over all ranks."""
    section = train.stage(stage)
    return section.batch_size_per_worker * section.gradient_accumulation_steps * train.num_workers


def loss_arguments(section: DpoStageConfig) -> dict[str, Any]:
    """TRL's fields for `loss`; what `margin` adds is in the reference's log-probabilities.

    TRL has no cDPO (E. Mitchell, A note on DPO with noisy preferences, 2023), but its two terms: with L the sigmoid loss of
    a pair, R the robust one and e the smoothing, (1 - e) L(x) + e L(-x) = 2 (1 - e) L - (1 - 2 e) R.
    """
    smoothing = section.label_smoothing
    match section.loss:
        case "conservative":
            weights = [2 * (1 - smoothing), -(1 - 2 * smoothing)]
            return {"loss_type": ["sigmoid", "robust"], "loss_weights": weights, "label_smoothing": smoothing}
        case "robust":
            return {"loss_type": ["robust"], "label_smoothing": smoothing}
        case "ipo":
            return {"loss_type": ["ipo"]}
        case "sigmoid" | "margin":
            return {"loss_type": ["sigmoid"]}


def quantization(train: TrainConfig) -> Any:
    """How `qlora` holds the parent (arXiv 2305.14314): four-bit NormalFloat, its constants quantized too; else None.

    What is stored must have the type of the weights beside it, or ZeRO-3 could not shard it.
    """
    if train.method != "qlora":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision(train)]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
    )


def trainer_arguments(train: TrainConfig, stage: Stage, folder: Path, is_universal: bool = False) -> Any:
    """TRL's `SFTConfig` or `DPOConfig` of one stage; `folder` is this rank's scratch, `is_universal` says
    what kind of checkpoint it will load.

    Raises ConfigError where TRL refuses a value that was passed through.
    """
    import trl

    section = train.stage(stage)
    kind = trl.DPOConfig if isinstance(section, DpoStageConfig) else trl.SFTConfig
    known = {field.name for field in dataclasses.fields(kind)}
    passed = {key: value for key, value in train.trl.items() if key in known}
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision(train)]
    own = {
        "output_dir": str(folder),
        "num_train_epochs": section.epochs,
        "max_steps": section.max_steps,
        "learning_rate": section.learning_rate,
        "per_device_train_batch_size": section.batch_size_per_worker,
        "per_device_eval_batch_size": section.batch_size_per_worker,
        "gradient_accumulation_steps": section.gradient_accumulation_steps,
        "gradient_checkpointing": checkpoints_activations(train),
        "eval_strategy": "steps" if train.eval_steps else "no",
        "eval_steps": train.eval_steps,
        "max_length": train.max_length,
        "seed": train.seed,
        "bf16": precision(train) == "bf16",
        "use_cpu": not train.use_gpu,
        "dataloader_pin_memory": train.use_gpu,
        "deepspeed": deepspeed_config(train) | ({"checkpoint": {"load_universal": True}} if is_universal else {}),
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is no number ends the run
        "save_steps": train.checkpoint_steps,
        "disable_tqdm": True,
        "report_to": "none",
        "model_init_kwargs": {"dtype": dtype},
    }
    if isinstance(section, DpoStageConfig):
        # With LoRA, TRL needs no reference model anyway, and would hash all weights for a cache that is not used here.
        own |= {"beta": section.beta, "precompute_ref_log_probs": train.method == "full", **loss_arguments(section)}
    else:
        own |= {"dataset_kwargs": {"skip_prepare_dataset": True}, "packing": section.packing}
    try:
        return kind(**_merged(own, passed))
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"train.trl: {kind.__name__} refuses it ({_first_line(error)})") from None


def lora(train: TrainConfig) -> Any:
    """PEFT's configuration of the adapters."""
    from peft import LoraConfig

    modules = train.lora.target_modules
    return LoraConfig(
        r=train.lora.rank,
        lora_alpha=train.lora.alpha,
        lora_dropout=train.lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


def keep_trainable(model: Any) -> None:
    """Keep four-bit weights as they are stored.

    On CPUs that compute in bf16, bitsandbytes packs them anew the first time that it evaluates, and cannot train on what it
    has packed.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def check_method(train: TrainConfig) -> None:
    """Raise ConfigError where `train.method` needs a library that is not installed."""
    if train.method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("train.method: qlora needs bitsandbytes on every node; run `pip install bitsandbytes`, or set lora")


def check_passthrough(train: TrainConfig) -> None:
    """Raise ConfigError for a key of `train.trl` or `train.deepspeed` that the library does not read.

    The libraries are imported only where there is a key to check: they take seconds.
    """
    if train.trl:
        _check_owners("train.trl", train.trl, OWN_TRL_KEYS)
        for key in sorted(train.trl.keys() & REFUSED_TRL_KEYS.keys()):
            raise ConfigError(f"train.trl.{key}: not to be set ({REFUSED_TRL_KEYS[key]}); leave it out")
        _check_known("train.trl", train.trl, _trl_keys())
    if train.deepspeed:
        _check_owners("train.deepspeed", train.deepspeed, OWN_DEEPSPEED_KEYS)
        zero = train.deepspeed.get("zero_optimization", {})
        if isinstance(zero, Mapping):
            _check_owners("train.deepspeed.zero_optimization", zero, {"stage": "train.zero_stage"})
        _check_deepspeed(train)


class _Recorder(dict[str, Any]):
    """A mapping that notes which keys were asked for: DeepSpeed publishes no list of those that it reads."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def keys(self) -> Any:
        """Itself, so that `key in mapping.keys()` is noted too."""
        return self

    def __copy__(self) -> Self:
        return self


def _check_deepspeed(train: TrainConfig) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    filled = {key: value for key, value in deepspeed_config(train).items() if value != "auto"}
    recorder = _Recorder(filled | {"train_micro_batch_size_per_gpu": 1})
    try:
        DeepSpeedConfig(recorder)
    except ValidationError as error:
        problem = error.errors()[0]
        path = ".".join(["train.deepspeed", *_path_to(train.deepspeed, problem["loc"])])
        if problem["type"] != "extra_forbidden":
            raise ConfigError(f"{path}: {problem['input']!r} is not right; {problem['msg']}") from None
        raise ConfigError(f"{path}: no such key of DeepSpeed{_nearest_zero(str(problem['loc'][-1]))}") from None
    except (ValueError, TypeError, AssertionError, AttributeError, KeyError) as error:
        raise ConfigError(f"train.deepspeed: DeepSpeed refuses it ({_first_line(error)})") from None
    _check_known("train.deepspeed", train.deepspeed, recorder.asked)


def _path_to(section: Mapping[str, Any], location: tuple[int | str, ...]) -> list[str]:
    """The keys down to a field that DeepSpeed names within one of its sections only."""
    for name, branch in section.items():
        if isinstance(branch, Mapping) and location[0] in branch:
            return [name, *map(str, location)]
    return list(map(str, location))


def _nearest_zero(key: str) -> str:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    return _nearest(key, [field.alias or name for name, field in fields.items()])


def _trl_keys() -> set[str]:
    import trl

    return {field.name for kind in (trl.SFTConfig, trl.DPOConfig) for field in dataclasses.fields(kind)}


def _check_owners(path: str, values: Mapping[str, Any], owners: Mapping[str, str]) -> None:
    for key in sorted(values.keys() & owners.keys()):
        raise ConfigError(f"{path}.{key}: set {owners[key]} instead")


def _check_known(path: str, values: Mapping[str, Any], known: Collection[str]) -> None:
    library = {"train.trl": "TRL", "train.deepspeed": "DeepSpeed"}[path]
    for key in sorted(values.keys() - set(known)):
        raise ConfigError(f"{path}.{key}: no such key of {library}{_nearest(key, known)}")


def _nearest(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _merged(own: Mapping[str, Any], passed: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one; where both have a leaf, the passed one wins."""
    both = dict(own) | dict(passed)
    for key in own.keys() & passed.keys():
        if isinstance(own[key], Mapping) and isinstance(passed[key], Mapping):
            both[key] = _merged(own[key], passed[key])
    return both


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
