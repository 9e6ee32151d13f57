"""Bulk generation: Ray Data carries held-out posts, or drafts for a teacher, through actors that each hold an engine."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from llumi import errors
from llumi.config import Config, GenerateConfig
from llumi.engine import Request, Sampling, check_engine, open_engine
from llumi.engine.capacity import require_room
from llumi.errors import ArtifactError, ConfigError, EngineError, LlumiError
from llumi.models import fetch_model
from llumi.progress import Progress, silent
from llumi.prompts import Message, Role, gm_prompt, im_prompt
from llumi.records import GENERATION_SCHEMA
from llumi.storage import Manifest, Storage, fingerprint, store_errors

FAILURE = "failure"
HELD_OUT = "held-out"
DRAFTS = "drafts"
ROWS = "rows"
ROWS_PER_TASK = 8
"""Prompts that travel together: few, so that progress shows and a dead node costs little; engines batch across tasks."""

ROWS_PER_FILE = 10_000


@dataclass(frozen=True)
class Work:
    """What an actor needs to know: how to draw, and who answers as what; `drafts` where a teacher revises them all."""

    config: GenerateConfig
    storage: Storage
    role: Role
    model: str
    drafts: bool = False

    @property
    def name(self) -> str:
        """The artifact that comes of it."""
        return generation_name(self.role, self.model, self.drafts)


def generation_name(role: Role, model: str, drafts: bool = False) -> str:
    """The artifact of `model` in `role`: ("gm", "gm-dpo1") gives "gm-dpo1", ("im", "base", True) "im-base-drafts"."""
    return f"{role}-{model.removeprefix(f'{role}-')}" + (f"-{DRAFTS}" if drafts else "")


def generate(config: Config, role: Role, model: str, progress: Progress = silent, *, drafts: bool = False) -> Manifest:
    """Answer the held-out posts (IM: revise their drafts) with `models/<model>` -> `generations/<role>-<model>`.

    With `drafts` the model is a teacher: it revises the drafts of train and test posts alike, for `llumi pairs teach`,
    -> `generations/im-<model>-drafts`.

    A prompt that fails is recorded with its reason and the rest goes on. Raises ArtifactError or ModelError for the inputs,
    ConfigError where the cluster cannot hold the actors, EngineError where no prompt was answered.
    """
    if drafts and role != "im":
        raise ConfigError(f"--drafts: {role} writes replies; it is im that revises drafts: llumi generate im {model} --drafts")
    started = time.monotonic()
    storage = Storage.open(config.storage)
    mark = generate_fingerprint(config, storage, role, model, drafts)
    inputs = [storage.manifest(f"pairs/{config.pairs.name}"), storage.manifest(f"models/{model}")]
    work = Work(config.generate, storage, role, model, drafts)
    prompts = select_prompts(config, storage, role, drafts)
    check_engine(config.generate.engine, "generate.engine")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    require_room("generate.engine", config.generate.num_actors, config.generate.engine, nodes)
    rows = _answer_all(work, prompts, progress)
    counts = _count(rows)
    if not counts["answered"]:
        reason, _ = Counter(rows["error"].to_pylist()).most_common(1)[0]
        raise EngineError(f"models/{model}: not one of {rows.num_rows} prompts was answered; most often: {reason}")
    draft = storage.begin("generations", work.name)
    files = [draft.write_table(f"{ROWS}/part-{index:05d}.parquet", part) for index, part in enumerate(_parts(rows))]
    return draft.publish(
        files,
        fingerprint=mark,
        config=config.model_dump(mode="json"),
        inputs=[manifest.as_input() for manifest in inputs],
        counts=counts,
        metrics=_metrics(rows, time.monotonic() - started),
    )


def generate_fingerprint(config: Config, storage: Storage, role: Role, model: str, drafts: bool = False) -> str:
    """What determines the generations: the model, the posts or drafts, and how replies are drawn from whom."""
    inputs = [storage.manifest(f"pairs/{config.pairs.name}").as_input(), storage.manifest(f"models/{model}").as_input()]
    drawn = config.generate.model_dump(mode="json", exclude={"num_actors", "engine"})
    if drafts:
        drawn |= {"max_posts": config.pairs.revisions.max_pairs, "drafts": True}
    engine = config.generate.engine.model_dump(mode="json", include={"kind", "precision", "vllm"})
    return fingerprint("generate", {"role": role, "engine": engine, **drawn}, inputs)


def select_prompts(config: Config, storage: Storage, role: Role, drafts: bool = False) -> pa.Table:
    """The held-out posts (for IM those with a draft), by a hash of their ids: the first `max_posts` are a fair sample.

    With `drafts` those of the train posts too, `pairs.revisions.max_pairs` in all. Only what is chosen is held in memory.
    """
    folders = (DRAFTS, HELD_OUT) if drafts else (HELD_OUT,)
    limit = config.pairs.revisions.max_pairs if drafts else config.generate.max_posts
    pairs = storage.manifest(f"pairs/{config.pairs.name}")
    ranks = np.concatenate([np.empty(0, np.uint64), *(rank for _, rank in _posts(storage, pairs, folders, role, ["post_id"]))])
    if not len(ranks):
        raise ArtifactError(f"{storage.uri}/{pairs.reference}: no held-out post for {role}; raise pairs.test_fraction")
    last = None if limit is None or limit >= len(ranks) else np.partition(ranks, limit - 1)[limit - 1]
    chosen, places = [], []
    for posts, rank in _posts(storage, pairs, folders, role, ["post_id", "community", "post"]):
        is_chosen = np.full(len(rank), True) if last is None else rank <= last
        chosen.append(posts.filter(pa.array(is_chosen)))
        places.append(rank[is_chosen])
    return pa.concat_tables(chosen).take(pa.array(np.argsort(np.concatenate(places), kind="stable")))


def _posts(
    storage: Storage, pairs: Manifest, folders: tuple[str, ...], role: Role, columns: list[str]
) -> Iterator[tuple[pa.Table, npt.NDArray[np.uint64]]]:
    """File by file: the posts to answer, and the rank of each, a hash of its id."""
    for folder in folders:
        files = pairs.files_under(folder)
        if not files:
            raise ArtifactError(f"{storage.uri}/{pairs.reference}: holds no {folder}/; run `llumi pairs build` again")
        for file in files:
            with store_errors(storage.uri):
                posts = pq.read_table(
                    storage.path(pairs.reference, file), filesystem=storage.filesystem, columns=[*columns, "draft"]
                )
            if role == "im":
                posts = posts.filter(pc.is_valid(posts["draft"]))
            ranks = [hashlib.sha256(post_id.encode()).digest()[:8] for post_id in posts["post_id"].to_pylist()]
            yield posts, np.frombuffer(b"".join(ranks), dtype=">u8").astype(np.uint64)


def prompt_seed(seed: int, post_id: str) -> int:
    """The seed of one prompt: its own, yet the same in every run and for every model."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{post_id}".encode()).digest()[:4], "big")


class Answerer:
    """What an actor of Ray Data holds: an engine.

    Where it cannot be opened, the error comes back as a row that `_raise_failure` knows: what is raised in an actor loses
    its type on the way, and Ray prints its traceback.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._opening = asyncio.Lock()
        self._engine: Any = None

    async def __call__(self, prompts: pa.Table) -> pa.Table:
        """Prompts in, rows of GENERATION_SCHEMA out, in the same order; all of them are with the engine at once."""
        try:
            async with self._opening:
                if self._engine is None:
                    self._engine = await asyncio.to_thread(self._open)
        except LlumiError as error:
            return pa.table({FAILURE: [type(error).__name__], "message": [str(error)]})
        rows = await asyncio.gather(*(self._answer(prompt) for prompt in prompts.to_pylist()))
        return pa.Table.from_pylist(rows, schema=GENERATION_SCHEMA)

    def _open(self) -> Any:
        return open_engine(self._work.config.engine, fetch_model(self._work.storage, self._work.model))

    async def _answer(self, prompt: dict[str, str]) -> dict[str, Any]:
        drawn = self._work.config
        seed = prompt_seed(drawn.seed, prompt["post_id"])
        sampling = Sampling(drawn.max_new_tokens, drawn.temperature, drawn.top_p, seed)
        row = self._row(prompt, sampling)
        try:
            async for delta in self._engine.generate(Request(tuple(self._messages(prompt)), sampling)):
                row["reply"] = (row["reply"] or "") + delta.text
                row["finish_reason"] = delta.finish_reason
                row["num_prompt_tokens"], row["num_completion_tokens"] = delta.num_prompt_tokens, delta.num_completion_tokens
        except EngineError as error:
            row |= {"reply": None, "error": str(error)}
        return row

    def _messages(self, prompt: dict[str, str]) -> list[Message]:
        return gm_prompt(prompt["post"]) if self._work.role == "gm" else im_prompt(prompt["post"], prompt["draft"])

    def _row(self, prompt: dict[str, str], sampling: Sampling) -> dict[str, Any]:
        return {
            "generation_id": hashlib.sha256(f"{self._work.name}:{prompt['post_id']}:{sampling.seed}".encode()).hexdigest()[:32],
            "post_id": prompt["post_id"],
            "community": prompt["community"],
            "role": self._work.role,
            "model": self._work.model,
            "reply": None,
            "finish_reason": None,
            "error": None,
            "num_prompt_tokens": 0,
            "num_completion_tokens": 0,
            "seed": sampling.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
        }


def _answer_all(work: Work, prompts: pa.Table, progress: Progress) -> pa.Table:
    """Every prompt through the actors; the rows come back in the order of `prompts`."""
    what = f"generations/{work.name}"
    progress(what, 0, prompts.num_rows)
    answered: list[pa.Table] = []
    done = 0
    for rows in _stream(work, prompts):
        _raise_failure(rows)
        answered.append(rows)
        done += rows.num_rows
        progress(what, done, prompts.num_rows)
    rows = pa.concat_tables(answered)
    place = {post_id: index for index, post_id in enumerate(prompts["post_id"].to_pylist())}
    return rows.take(pc.sort_indices(pa.array([place[post_id] for post_id in rows["post_id"].to_pylist()])))


def _stream(work: Work, prompts: pa.Table) -> Iterator[pa.Table]:
    engine = work.config.engine
    # Neighbours in length share a batch, and the longest come first: what does not fit in memory shows at once.
    lengths = pc.add(pc.utf8_length(prompts["post"]), pc.fill_null(pc.utf8_length(prompts["draft"]), 0))
    ordered = prompts.take(pc.sort_indices(pc.negate(lengths)))
    blocks = [ordered.slice(start, ROWS_PER_TASK) for start in range(0, ordered.num_rows, ROWS_PER_TASK)]
    # Twice what the engine batches, so that the next batch waits when one ends.
    tasks_per_actor = max(2, -(-2 * engine.max_batch_size // ROWS_PER_TASK))
    answers = ray.data.from_arrow(blocks).map_batches(
        Answerer,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=engine.num_cpus,
        num_gpus=engine.num_gpus,
        compute=ray.data.ActorPoolStrategy(
            size=min(work.config.num_actors, len(blocks)),
            max_concurrent_calls_per_actor=tasks_per_actor,
            max_tasks_in_flight_per_actor=tasks_per_actor,
        ),
    )
    yield from answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _raise_failure(rows: pa.Table) -> None:
    if FAILURE in rows.column_names:
        raise getattr(errors, rows[FAILURE][0].as_py())(rows["message"][0].as_py())


def _parts(rows: pa.Table) -> list[pa.Table]:
    return [rows.slice(start, ROWS_PER_FILE) for start in range(0, rows.num_rows, ROWS_PER_FILE)]


def _count(rows: pa.Table) -> dict[str, int]:
    failed = rows.num_rows - rows["error"].null_count
    return {"prompts": rows.num_rows, "answered": rows.num_rows - failed, "failed": failed}


def _metrics(rows: pa.Table, seconds: float) -> dict[str, float]:
    """Tokens that were generated, and how fast, the start of the actors included."""
    tokens = pc.sum(rows["num_completion_tokens"]).as_py()
    return {"tokens": tokens, "seconds": round(seconds, 3), "tokens_per_second": round(tokens / seconds, 2)}
