"""The script that one would write without LLUMI: TRL and DeepSpeed under torchrun, as their manuals show it.

    torchrun --nproc-per-node 2 benchmarks/bare/trl_script.py SETTINGS.json

Reads the model, the Parquet files and TRL's arguments from the JSON; rank 0 writes `result` there: seconds in
`trainer.train()`, steps made, the mean loss, and the highest memory of a rank.
"""

import json
import resource
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from datasets import load_dataset
from peft import LoraConfig
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
    outcome = trainer.train()
    memory = torch.tensor([peak_gib()])
    if torch.cuda.is_available():
        memory = memory.cuda()
    dist.all_reduce(memory, op=dist.ReduceOp.MAX)
    if trainer.is_world_process_zero():
        result = {"seconds": outcome.metrics["train_runtime"], "steps": outcome.global_step, "loss": outcome.training_loss}
        Path(settings["result"]).write_text(json.dumps(result | {"memory_gib": memory.item()}))


def peak_gib() -> float:
    """Of this rank: memory of its GPU, on CPUs its resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
