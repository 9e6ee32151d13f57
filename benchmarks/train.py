"""Seconds a step of `llumi.train` beside those of a bare TRL + DeepSpeed script with the same settings.

    python benchmarks/train.py [--model FOLDER] [--steps 8] [--workers 2] [--zero 2]

Both train LoRA on the same made-up replies, one after the other, and print their ratio; the whole duration, with
start-up and publishing, is printed beside it. Exit code 1 where the losses differ: then they did not do the same work.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from llumi.config import Config, load_config
from llumi.models import ensure_base
from llumi.prompts import answer, gm_prompt
from llumi.ray_session import ray_session
from llumi.records import SFT_SCHEMA
from llumi.storage import Storage
from llumi.train.run import train
from llumi.train.settings import deepspeed_config

NUM_ROWS = 64
SFT_FOLDER = "gm-sft/train"


def main() -> int:
    """Run both, print the table."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="llumi-bench-") as scratch:
        config = _config(options, Path(scratch))
        storage = Storage.open(config.storage)
        ensure_base(config, storage)
        _write_pairs(storage)
        bare = _bare(config, storage, Path(scratch))
        ours = _ours(config, storage)
    print(f"{'':14}{'s a step':>10}{'whole s':>10}{'mean loss':>11}")
    for name, result in (("torchrun + TRL", bare), ("llumi train", ours)):
        print(f"{name:14}{result['seconds'] / result['steps']:>10.3f}{result['whole']:>10.1f}{result['loss']:>11.4f}")
    ratio = (ours["seconds"] / ours["steps"]) / (bare["seconds"] / bare["steps"])
    print(f"ratio, seconds a step, llumi train / bare script: {ratio:.3f}")
    return 0 if math.isclose(ours["loss"], bare["loss"], rel_tol=1e-3) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a model folder, or the embedded default")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--zero", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--gpu", action="store_true")
    return parser.parse_args()


def _config(options: argparse.Namespace, scratch: Path) -> Config:
    return load_config(
        None,
        [
            f"storage.uri={scratch / 'store'}",
            f"train.base={options.model}",
            f"train.num_workers={options.workers}",
            f"train.zero_stage={options.zero}",
            f"train.use_gpu={options.gpu}",
            f"train.max_length={options.max_length}",
            f"train.sft.max_steps={options.steps}",
            "train.sft.batch_size_per_worker=1",
            "train.checkpoint_steps=100000",
            "train.max_failures=0",
        ],
    )


def _write_pairs(storage: Storage) -> None:
    rows = [
        {
            "example_id": str(i),
            "post_id": str(i),
            "community": "kindness",
            "prompt": gm_prompt(f"Evening {i} in the new town was quiet, and I missed my friends."),
            "completion": answer("That sounds lonely, and I am glad that you wrote. Could you call one of them tonight?"),
            "score": 5,
        }
        for i in range(NUM_ROWS)
    ]
    draft = storage.begin("pairs", "default")
    files = [draft.write_table(f"{SFT_FOLDER}/part-00000.parquet", pa.Table.from_pylist(rows, schema=SFT_SCHEMA))]
    draft.publish(files, fingerprint="bench", config={}, inputs=[])


def _ours(config: Config, storage: Storage) -> dict[str, Any]:
    started = time.monotonic()
    with ray_session(config.ray):
        manifest = train(config, "gm", "sft")
    whole = time.monotonic() - started
    log = json.loads((storage.fetch("models/gm-sft") / "training_log.json").read_text())
    last = next(entry for entry in reversed(log) if "train_runtime" in entry)
    return {"seconds": last["train_runtime"], "steps": manifest.metrics["steps"], "loss": last["train_loss"], "whole": whole}


def _bare(config: Config, storage: Storage, scratch: Path) -> dict[str, Any]:
    settings, result = scratch / "settings.json", scratch / "result.json"
    settings.write_text(json.dumps(_bare_settings(config, storage, scratch) | {"result": str(result)}))
    # Ray runs its workers at this niceness (RAY_worker_niceness), which tells on a machine that has other work.
    torchrun = [
        "nice",
        "-n",
        "15",
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(config.train.num_workers),
    ]
    environment = os.environ | ({} if config.train.use_gpu else {"DS_ACCELERATOR": "cpu"})
    started = time.monotonic()
    script = Path(__file__).parent / "bare" / "trl_script.py"
    log = scratch / "bare.log"
    with log.open("wb") as sink:
        done = subprocess.run([*torchrun, str(script), str(settings)], env=environment, check=False, stdout=sink, stderr=sink)
    if done.returncode:
        sys.exit(f"the bare script failed:\n{log.read_text()[-4000:]}")
    return json.loads(result.read_text()) | {"whole": time.monotonic() - started}


def _bare_settings(config: Config, storage: Storage, scratch: Path) -> dict[str, Any]:
    section, gpu = config.train.sft, config.train.use_gpu
    lora = config.train.lora
    return {
        "model": storage.path("models/base"),
        "files": [storage.path("pairs/default", SFT_FOLDER, "part-00000.parquet")],
        "cache": str(scratch / "cache"),
        "backend": "nccl" if gpu else "gloo",
        "threads": config.train.cpus_per_worker,
        "lora": {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": lora.target_modules},
        "arguments": {
            "output_dir": str(scratch / "bare"),
            "max_steps": section.max_steps,
            "learning_rate": section.learning_rate,
            "per_device_train_batch_size": section.batch_size_per_worker,
            "gradient_checkpointing": gpu,
            "max_length": config.train.max_length,
            "seed": config.train.seed,
            "bf16": gpu,
            "use_cpu": not gpu,
            "deepspeed": deepspeed_config(config.train),
            "logging_steps": config.train.logging_steps,
            "save_steps": config.train.checkpoint_steps,
            "report_to": "none",
            "disable_tqdm": True,
            "model_init_kwargs": {"dtype": "bfloat16" if gpu else "float32"},
        },
    }


if __name__ == "__main__":
    sys.exit(main())
