"""What a step of `llumi train` costs beside TRL and DeepSpeed bare, under torchrun, with the same settings.

    python benchmarks/train.py [--only sft dpo] [--pairs 96] [--batch 4] [--workers 2] [--zero 2]
    python benchmarks/train.py --only lengths --corpus FOLDER     the length mix of a corpus of yours
    python benchmarks/train.py --gpu --workers 1 --shape mistral-7b --method lora

Ratios, each on the same work in the same run: SFT against the bare libraries; a DPO step with the reference's
log-probabilities kept, and one with each prompt computed once as well, against TRL's default with a reference model; batches
of like length against random ones, on the lengths of the sample corpus; and the time that a checkpoint every ten steps costs.
Then three epochs of DPO as a whole, the reference included, with the epoch from which keeping it pays. The model is a random
one of 12 million parameters, so that a step takes a CPU some seconds, or of Mistral-7B's shape; `--model` takes another. On
GPUs the table shows the model FLOPs utilisation of our own runs.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
import zstandard

from llumi.config import Config, RayConfig, Stage, load_config
from llumi.corpus.sample import write_sample
from llumi.models import ensure_base
from llumi.pairs.build import build_pairs
from llumi.ray_session import ray_session
from llumi.storage import Manifest, Storage
from llumi.train.run import train
from llumi.train.settings import deepspeed_config

EPOCHS = 3

SAMPLE_POSTS = 320
SHAPES = {
    "small": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6},
    # config.json of mistralai/Mistral-7B-Instruct-v0.2
    "mistral-7b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32000,
    },
}  # fmt: skip
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True)
class Run:
    """One training: seconds of its steps but the first, how many they were, peak memory of a rank, and the mean loss."""

    name: str
    seconds: float
    steps: int
    memory_gib: float
    loss: float
    reference_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    mfu: float | None = None

    @property
    def a_step(self) -> float:
        """Seconds."""
        return self.seconds / self.steps


def main() -> int:
    """Run what was asked for, and print a table of runs and their ratios."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="llumi-bench-") as name, ray_session(RayConfig(num_cpus=max(4, options.workers))):
        bench = Bench(options, Path(name))
        return max(getattr(bench, part)() for part in options.only)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["sft", "dpo", "lengths"], default=["sft", "dpo"])
    parser.add_argument("--corpus", help="a folder of dumps; the sample corpus otherwise")
    parser.add_argument("--model", help="a model folder; a random model otherwise")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small", help="of the random model")
    parser.add_argument("--method", choices=["full", "lora"], default="full", help="of DPO")
    parser.add_argument("--pairs", type=int, default=96, help="how many pairs and examples to learn from")
    parser.add_argument("--batch", type=int, default=4, help="pairs, or examples, of a rank at each step")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--zero", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--gpu", action="store_true")
    return parser.parse_args()


class Bench:
    """A store with the pairs of the sample corpus and a model to start from, and the runs on it."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.corpus = options.corpus or folder / "corpus"
        write_sample(folder / "corpus", SAMPLE_POSTS)  # also what the tokenizer learns from
        self.model = options.model or _random_model(folder, options)
        # One account asks everything in some corpora, so a split by author would leave no pair.
        built = self.config("pairs.name=sample", "pairs.revisions.source=none", "pairs.split_by=post")
        self.storage = Storage.open(built.storage)
        build_pairs(built)
        self.take("gm-sft", "gm-dpo")
        base = ensure_base(built, self.storage)
        draft = self.storage.begin("models", "gm-sft")
        files = [entry for entry in draft.upload(self.storage.fetch("models/base")) if entry.path != "manifest.json"]
        draft.publish(files, fingerprint="the base", config={}, inputs=[base.as_input()])

    def config(self, *more: str) -> Config:
        """The settings that all runs share, and some of their own."""
        options = self.options
        epoch = math.ceil(options.pairs / (options.batch * options.workers))
        stages = [
            f"train.{stage}.{field}"
            for stage, steps in (("sft", epoch), ("dpo1", EPOCHS * epoch))
            for field in (f"batch_size_per_worker={options.batch}", f"max_steps={steps}", "gradient_accumulation_steps=1")
        ]
        return load_config(
            None,
            [
                f"storage.uri={self.folder / 'store'}", f"corpus.uri={self.corpus}",
                f"privacy.key_file={self.folder / 'key'}", f"train.base={self.model}", f"train.use_gpu={options.gpu}",
                f"train.num_workers={options.workers}", f"train.zero_stage={options.zero}", "train.max_eval_examples=0",
                f"train.max_length={options.max_length}", "train.checkpoint_steps=100000", "train.max_failures=0",
                "train.tensorboard=false", *stages, *more,
            ],
        )  # fmt: skip

    def take(self, *folders: str) -> None:
        """Of the sample's pairs so many as were asked for, as `pairs/default`."""
        draft = self.storage.begin("pairs", "default")
        files = []
        for folder in folders:
            table = self.storage.read_table("pairs/sample", f"{folder}/train").slice(0, self.options.pairs)
            files.append(draft.write_table(f"{folder}/train/part-00000.parquet", table))
        draft.publish(files, fingerprint="bench", config={}, inputs=[])

    def sft(self) -> int:
        """LoRA, for one epoch; exit code 1 where the losses differ: then they did not do the same work."""
        config = self.config("train.method=lora")
        bare, ours = self.bare("torchrun + TRL", config, "sft"), self.ours("llumi train", config, "sft")
        print("SFT, LoRA")
        _table([bare, ours])
        print(f"  tokens a second, llumi train / bare script     {bare.a_step / ours.a_step:.3f}")
        return 0 if math.isclose(ours.loss, bare.loss, rel_tol=0.02) else 1  # the order of examples is another one

    def dpo(self) -> int:
        """Three epochs, of the whole model if not asked otherwise: then TRL's default holds a second one for reference."""
        full = f"train.method={self.options.method}"
        as_they_come = "train.dpo1.length_buckets=false"
        bare = self.bare("TRL, reference model", self.config(full), "dpo1")
        kept = self.ours("llumi, reference kept", self.config(full, as_they_come, "train.dpo1.share_prompt=false"), "dpo1")
        shared = self.ours("llumi, prompt once", self.config(full, as_they_come), "dpo1")
        bucketed = self.ours("llumi, like lengths", self.config(full), "dpo1")
        saving = self.ours("llumi, checkpoints", self.config(full, "train.checkpoint_steps=10", "train.seed=18"), "dpo1")
        print(f"DPO, {self.options.method}, {EPOCHS} epochs of {self.options.pairs} pairs")
        _table([bare, kept, shared, bucketed, saving])
        whole = bare.seconds / (kept.reference_seconds + bucketed.seconds)
        saved = bare.a_step - bucketed.a_step
        epoch = (bucketed.steps + 1) / EPOCHS
        even = kept.reference_seconds / saved / epoch if saved > 0 else math.inf
        lost = saving.checkpoint_seconds / saving.seconds
        print(f"  seconds a step, reference kept / reference model      {kept.a_step / bare.a_step:.3f}")
        print(f"  the same with each prompt computed once               {shared.a_step / bare.a_step:.3f}")
        print(f"  peak memory of a rank, the same                       {shared.memory_gib / bare.memory_gib:.3f}")
        print(f"  samples a second, like lengths / random               {shared.a_step / bucketed.a_step:.3f}")
        print(f"  whole run, TRL's default / llumi with the reference   {whole:.3f}  (breaks even after {even:.2f} epochs)")
        print(f"  time lost to a checkpoint every 10 steps              {lost:.3f}")
        return 0

    def lengths(self) -> int:
        """Batches of like length against random ones, on the same pairs, one epoch each."""
        one_epoch = f"train.dpo1.max_steps={math.ceil(self.options.pairs / (self.options.batch * self.options.workers))}"
        method = f"train.method={self.options.method}"
        random = self.ours("as they come", self.config(method, one_epoch, "train.dpo1.length_buckets=false"), "dpo1")
        alike = self.ours("like lengths", self.config(method, one_epoch), "dpo1")
        print(f"DPO, {self.options.method}, one epoch of {self.options.pairs} pairs")
        _table([random, alike])
        print(f"  samples a second, like lengths / random               {random.a_step / alike.a_step:.3f}")
        return 0

    def ours(self, name: str, config: Config, stage: Stage) -> Run:
        """Through `llumi train`; a reference that stands is used."""
        standing = self.storage.find("references/default-gm-by-gm-sft")
        manifest: Manifest = train(config, "gm", stage)
        log = json.loads((self.storage.fetch(manifest.reference) / "training_log.json").read_text())
        last = next(entry for entry in reversed(log) if "train_runtime" in entry)
        steps = [entry["seconds"] for entry in log if "loss" in entry][1:]
        reference = None if standing else self.storage.find("references/default-gm-by-gm-sft")
        return Run(
            name, sum(steps), len(steps), manifest.metrics["memory_gib"], last["train_loss"],
            reference.metrics["seconds"] if reference else 0.0, manifest.metrics["checkpoint_seconds"],
            manifest.metrics.get("mfu"),
        )  # fmt: skip

    def bare(self, name: str, config: Config, stage: Stage) -> Run:
        """Through the bare script, at the niceness at which Ray runs its workers, which tells on a busy machine."""
        settings, result, log = (self.folder / file for file in ("settings.json", "result.json", "bare.log"))
        settings.write_text(json.dumps(self._bare_settings(config, stage) | {"result": str(result)}))
        launch = ["nice", "-n", "15", sys.executable, "-m", "torch.distributed.run"]
        script = Path(__file__).parent / "bare" / "trl_script.py"
        environment = os.environ | ({} if config.train.use_gpu else {"DS_ACCELERATOR": "cpu"})
        with log.open("wb") as sink:
            command = [*launch, "--nproc-per-node", str(config.train.num_workers), str(script), str(settings)]
            done = subprocess.run(command, env=environment, check=False, stdout=sink, stderr=sink)
        if done.returncode:
            sys.exit(f"the bare script failed:\n{log.read_text()[-4000:]}")
        return Run(name, **json.loads(result.read_text()))

    def _bare_settings(self, config: Config, stage: Stage) -> dict[str, Any]:
        train_config, lora = config.train, config.train.lora
        section, gpu = train_config.stage(stage), train_config.use_gpu
        objective = "sft" if stage == "sft" else "dpo"
        return {
            "objective": objective,
            "model": self.storage.path("models/base"),
            "files": [self.storage.path(f"pairs/default/gm-{objective}/train/part-00000.parquet")],
            "cache": str(self.folder / "cache"),
            "backend": "nccl" if gpu else "gloo",
            "threads": train_config.cpus_per_worker,
            "lora": {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": lora.target_modules}
            if train_config.method == "lora"
            else None,
            "arguments": {
                "output_dir": str(self.folder / "bare"),
                "max_steps": section.max_steps,
                "learning_rate": section.learning_rate,
                "per_device_train_batch_size": section.batch_size_per_worker,
                "gradient_checkpointing": gpu,
                "max_length": train_config.max_length,
                "seed": train_config.seed,
                "bf16": gpu,
                "use_cpu": not gpu,
                "deepspeed": deepspeed_config(train_config),
                "logging_steps": train_config.logging_steps,
                "save_steps": train_config.checkpoint_steps,
                "report_to": "none",
                "disable_tqdm": True,
                "model_init_kwargs": {"dtype": "bfloat16" if gpu else "float32"},
            },
        }


def _random_model(folder: Path, options: argparse.Namespace) -> Path:
    """Random weights behind a tokenizer of few tokens, trained on the sample corpus, so that layers take the time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<|end|>", "<|pad|>"], initial_alphabet=alphabet)
    texts = pl.scan_ndjson(_unpacked(folder), infer_schema_length=None).select("body").collect()["body"].to_list()
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = CHAT_TEMPLATE
    settings = {"vocab_size": len(fast), "num_key_value_heads": 6} | SHAPES[options.shape]
    shape = MistralConfig(
        **settings, sliding_window=None, max_position_embeddings=32768, eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.device("cuda" if options.gpu else "cpu"):
        model = MistralForCausalLM._from_config(shape, dtype=torch.bfloat16 if options.gpu else torch.float32)
    model.save_pretrained(folder / "model")
    fast.save_pretrained(folder / "model")
    return folder / "model"


def _unpacked(folder: Path) -> list[Path]:
    """The comments of the sample corpus as plain lines."""
    plain = []
    for dump in sorted((folder / "corpus").glob("*_comments.zst")):
        plain.append(folder / dump.stem)
        with dump.open("rb") as source, plain[-1].open("wb") as sink:
            zstandard.ZstdDecompressor(max_window_size=2**31).copy_stream(source, sink)
    return plain


def _table(runs: Sequence[Run]) -> None:
    print(f"  {'':24}{'s a step':>10}{'steps':>7}{'GiB a rank':>12}{'mean loss':>11}{'reference s':>13}{'MFU':>7}")
    for run in runs:
        figures = f"{run.a_step:>10.3f}{run.steps:>7}{run.memory_gib:>12.2f}{run.loss:>11.4f}{run.reference_seconds:>13.1f}"
        print(f"  {run.name:24}{figures}{'' if run.mfu is None else f'{run.mfu:>7.2f}'}")


if __name__ == "__main__":
    sys.exit(main())
