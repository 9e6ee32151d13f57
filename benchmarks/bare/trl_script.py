"""The script that one would write without LLUMI: TRL and DeepSpeed under torchrun, as their manuals show it.

    torchrun --nproc-per-node 2 benchmarks/bare/trl_script.py SETTINGS.json

Reads the model, the Parquet files and TRL's arguments from the JSON; rank 0 writes `result` there: seconds in
`trainer.train()` and steps made.
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train as one rank."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # as in LLUMI, so that the collectives are the same
    deepspeed.init_distributed(dist_backend=settings["backend"])
    torch.set_num_threads(settings["threads"])
    rows = load_dataset("parquet", data_files=settings["files"], split="train", cache_dir=settings["cache"])
    trainer = SFTTrainer(
        model=settings["model"],
        args=SFTConfig(**settings["arguments"]),
        train_dataset=rows.select_columns(["prompt", "completion"]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **settings["lora"]),
    )
    outcome = trainer.train()
    if trainer.is_world_process_zero():
        result = {"seconds": outcome.metrics["train_runtime"], "steps": outcome.global_step, "loss": outcome.training_loss}
        Path(settings["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
