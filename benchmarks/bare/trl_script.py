"""The script that one would write without LLUMI: TRL and DeepSpeed under torchrun, as their manuals show it.

    torchrun --nproc-per-node 2 benchmarks/bare/trl_script.py SETTINGS.json

Reads the model, the Parquet files and TRL's arguments from the JSON; rank 0 writes `result` there: seconds from the end of
the first step to that of the last, how many steps those were, the mean loss, and the highest memory of a rank.
"""

import json
import resource
import sys
import time
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from datasets import load_dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

COLUMNS = {"sft": ["prompt", "completion"], "dpo": ["prompt", "chosen", "rejected"]}


def main() -> None:
    """Train as one rank."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # as in LLUMI, so that the collectives are the same
    deepspeed.init_distributed(dist_backend=settings["backend"])
    torch.set_num_threads(settings["threads"])
    rows = load_dataset("parquet", data_files=settings["files"], split="train", cache_dir=settings["cache"])
    kind, arguments = (DPOTrainer, DPOConfig) if settings["objective"] == "dpo" else (SFTTrainer, SFTConfig)
    trainer = kind(
        model=settings["model"],
        args=arguments(**settings["arguments"]),
        train_dataset=rows.select_columns(COLUMNS[settings["objective"]]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **settings["lora"]) if settings["lora"] else None,
    )
    clock = Clock()
    trainer.add_callback(clock)
    outcome = trainer.train()
    memory = torch.tensor([peak_gib()])
    if torch.cuda.is_available():
        memory = memory.cuda()
    dist.all_reduce(memory, op=dist.ReduceOp.MAX)
    if trainer.is_world_process_zero():
        result = {"seconds": clock.last - clock.first, "steps": outcome.global_step - 1, "loss": outcome.training_loss}
        Path(settings["result"]).write_text(json.dumps(result | {"memory_gib": memory.item()}))


class Clock(TrainerCallback):
    """When the first step ended, which loads and sets up what later ones use, and when the last one did."""

    first = last = 0.0

    def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
        """Read the time."""
        self.last = time.perf_counter()
        self.first = self.first or self.last


def peak_gib() -> float:
    """Of this rank: memory of its GPU, on CPUs its resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
