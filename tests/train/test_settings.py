import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llumi.config import TrainConfig
from llumi.errors import ConfigError
from llumi.train.settings import check_passthrough, deepspeed_config, trainer_arguments


@pytest.fixture
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TRL's arguments tell accelerate, in globals and in the environment, that DeepSpeed is in charge; take that back."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trl": {"warmup_step": 3}}, r"^train\.trl\.warmup_step: no such key of TRL; did you mean warmup_steps\?$"),
        ({"trl": {"learning_rate": 1}}, r"^train\.trl\.learning_rate: set train\.<stage>\.learning_rate instead$"),
        ({"trl": {"push_to_hub": True}}, r"^train\.trl\.push_to_hub: not to be set \(nothing leaves the network\)"),
        (
            {"deepspeed": {"gradient_cliping": 1.0}},
            r"^train\.deepspeed\.gradient_cliping: no such key of DeepSpeed; did you mean gradient_clipping\?$",
        ),
        (
            {"deepspeed": {"zero_optimization": {"overlap_com": True}}},
            r"^train\.deepspeed\.zero_optimization\.overlap_com: no such key of DeepSpeed; did you mean overlap_comm\?$",
        ),
        (
            {"deepspeed": {"zero_optimization": {"reduce_bucket_size": "much"}}},
            r"^train\.deepspeed\.zero_optimization\.reduce_bucket_size: 'much' is not right",
        ),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, r"zero_optimization\.stage: set train\.zero_stage instead$"),
        ({"deepspeed": {"bf16": {"enabled": True}}}, r"^train\.deepspeed\.bf16: set train\.precision instead$"),
    ],
)
def test_a_key_that_the_library_does_not_read_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_passthrough(TrainConfig(**settings))


@pytest.mark.usefixtures("own_process_state")
def test_keys_that_the_libraries_read_pass_and_arrive(tmp_path: Path) -> None:
    train = TrainConfig(
        trl={"warmup_steps": 3, "discopop_tau": 0.1, "neftune_noise_alpha": 5.0},
        deepspeed={
            "gradient_clipping": 0.5,
            "flops_profiler": {"enabled": False},
            "zero_optimization": {"overlap_comm": False, "stage3_prefetch_bucket_size": 10},
        },
    )
    check_passthrough(train)
    merged = deepspeed_config(train)
    assert merged["gradient_clipping"] == 0.5
    assert merged["zero_optimization"] == {
        "stage": 2,
        "stage3_gather_16bit_weights_on_model_save": True,
        "overlap_comm": False,
        "stage3_prefetch_bucket_size": 10,
    }
    plain = train.model_copy(update={"deepspeed": {}})
    # `discopop_tau` is a field of DPO alone; SFT goes without it.
    assert trainer_arguments(plain, "dpo1", tmp_path).discopop_tau == 0.1
    assert trainer_arguments(plain, "sft", tmp_path).warmup_steps == 3


@pytest.mark.usefixtures("own_process_state")
def test_a_value_that_trl_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^train\.trl: SFTConfig refuses it \(.*not_a_schedule.*\)$"):
        trainer_arguments(TrainConfig(trl={"lr_scheduler_type": "not_a_schedule"}), "sft", tmp_path)


@pytest.mark.parametrize(
    ("stage", "offload", "moved"),
    [
        (2, "cpu", {"offload_optimizer"}),
        (3, "cpu", {"offload_optimizer", "offload_param"}),
        (3, "nvme", {"offload_optimizer", "offload_param"}),
    ],
)
def test_offload_is_what_deepspeed_takes_it_for(stage: int, offload: str, moved: set[str], tmp_path: Path) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    place = {"nvme_path": tmp_path} if offload == "nvme" else {}
    train = TrainConfig(use_gpu=True, zero_stage=stage, offload=offload, **place)  # type: ignore[arg-type]
    read = DeepSpeedZeroConfig(**deepspeed_config(train)["zero_optimization"])
    there = {name: getattr(read, name) for name in ("offload_optimizer", "offload_param") if getattr(read, name) is not None}
    assert there.keys() == moved
    assert {str(place.device) for place in there.values()} == {offload}
    assert {place.nvme_path for place in there.values()} == {tmp_path if offload == "nvme" else None}
