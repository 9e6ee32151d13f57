"""Bulk generation: Ray Data carries posts, or the drafts to them, through actors that each hold an engine."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from llumi import errors
from llumi.config import Config
from llumi.engine import check_engine
from llumi.engine.capacity import require_room
from llumi.engine.endpoint import check_in_house
from llumi.errors import ConfigError, EngineError
from llumi.generate.answer import FAILURE, STOOD_AT, Answerer, Work
from llumi.generate.kept import Kept, kept_rows
from llumi.generate.names import Posts
from llumi.generate.select import select_prompts
from llumi.progress import Progress, silent
from llumi.prompts import Role
from llumi.storage import Input, Manifest, Storage, digest, fingerprint

ROWS = "rows"
ROWS_PER_TASK = 8
"""Prompts that travel together: few, so that progress shows and a dead node costs little; engines batch across tasks."""

ROWS_PER_FILE = 10_000


def generate(config: Config, role: Role, model: str, progress: Progress = silent, *, posts: Posts = "held-out") -> Manifest:
    """Answer the held-out posts (IM: revise their drafts) with `models/<model>` -> `generations/<role>-<model>`.

    `model` may also name one of `generate.endpoints`. Of `train` posts comes `generations/<role>-<model>-train`, for a study
    whose preferences dpo2 learns from. With `drafts` the model is a teacher: it revises the drafts of train and test posts
    alike, for `llumi pairs teach`, -> `generations/im-<model>-drafts`.

    A prompt that fails is recorded with its reason and the rest goes on. An attempt that died goes on where it stood. Raises
    ArtifactError or ModelError for the inputs, ConfigError where the cluster cannot hold the actors or an endpoint is not in
    this network, EngineError where no prompt was answered.
    """
    if posts == "drafts" and role != "im":
        raise ConfigError(f"--posts drafts: {role} writes replies; im revises drafts: llumi generate im {model} --posts drafts")
    started = time.time()
    storage = Storage.open(config.storage)
    inputs = _inputs(config, storage, model)
    mark = generate_fingerprint(config, storage, role, model, posts)
    work = Work(config.generate, storage, role, model, posts)
    prompts = select_prompts(config, storage, role, posts)
    _check(work)
    with kept_rows(storage, work.name, mark) as kept:
        standing = kept.read()
        rows, stood_at = _answer_all(work, prompts, standing, kept, progress)
        counts = _count(rows)
        if not counts["answered"]:
            reason, _ = Counter(rows["error"].to_pylist()).most_common(1)[0]
            raise EngineError(f"{inputs[1].name}: not one of {rows.num_rows} prompts was answered; most often: {reason}")
        draft = storage.begin("generations", work.name)
        files = [draft.write_table(f"{ROWS}/part-{index:05d}.parquet", part) for index, part in enumerate(_parts(rows))]
        return draft.publish(
            files,
            fingerprint=mark,
            config=config.model_dump(mode="json"),
            inputs=inputs,
            counts=counts,
            metrics=_metrics(rows, standing, started, stood_at),
        )


def generate_fingerprint(config: Config, storage: Storage, role: Role, model: str, posts: Posts = "held-out") -> str:
    """What determines the generations: the model, the posts, and how replies are drawn from whom."""
    drawn = config.generate.model_dump(mode="json", exclude={"num_actors", "engine", "endpoints"})
    if posts != "held-out":
        drawn["posts"] = posts
    if posts == "drafts":
        drawn["max_posts"] = config.pairs.revisions.max_pairs
    engine = config.generate.engine.model_dump(mode="json", include={"kind", "precision", "vllm"})
    given = {} if model in config.generate.endpoints else {"engine": engine}
    return fingerprint("generate", {"role": role, **given, **drawn}, _inputs(config, storage, model))


def _inputs(config: Config, storage: Storage, model: str) -> list[Input]:
    pairs = storage.manifest(f"pairs/{config.pairs.name}").as_input()
    endpoint = config.generate.endpoints.get(model)
    if endpoint is None:
        return [pairs, storage.manifest(f"models/{model}").as_input()]
    return [pairs, Input(f"endpoints/{model}", digest({"url": endpoint.url, "model": endpoint.model}))]


def _check(work: Work) -> None:
    """Say what cannot work before anything is started on the cluster."""
    if work.endpoint is not None:
        check_in_house(f"generate.endpoints.{work.model}", work.endpoint)
        return
    check_engine(work.config.engine, "generate.engine")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    require_room("generate.engine", work.config.num_actors, work.config.engine, nodes)


def _answer_all(
    work: Work, prompts: pa.Table, standing: pa.Table, kept: Kept, progress: Progress
) -> tuple[pa.Table, float | None]:
    """Every prompt through the actors but those that stand answered: rows in the order of `prompts`, and when the first
    engine stood.
    """
    what = f"generations/{work.name}"
    progress(what, done := standing.num_rows, prompts.num_rows)
    answered, stood_at = [standing], []
    for streamed in _stream(work, prompts.filter(pc.invert(pc.is_in(prompts["post_id"], standing["post_id"])))):
        _raise_failure(streamed)
        stood_at += streamed[STOOD_AT].to_pylist()
        rows = streamed.drop_columns([STOOD_AT])
        kept.add(rows)
        answered.append(rows)
        done += rows.num_rows
        progress(what, done, prompts.num_rows)
    rows = pa.concat_tables(answered)
    place = {post_id: index for index, post_id in enumerate(prompts["post_id"].to_pylist())}
    in_order = pc.sort_indices(pa.array([place[post_id] for post_id in rows["post_id"].to_pylist()]))
    return rows.take(in_order), min(stood_at, default=None)


def _stream(work: Work, prompts: pa.Table) -> Iterator[pa.Table]:
    if not prompts.num_rows:
        return
    engine = work.config.engine
    # Neighbours in length share a batch, and the longest come first: what does not fit in memory shows at once.
    lengths = pc.add(pc.utf8_length(prompts["post"]), pc.fill_null(pc.utf8_length(prompts["draft"]), 0))
    ordered = prompts.take(pc.sort_indices(pc.negate(lengths)))
    blocks = [ordered.slice(start, ROWS_PER_TASK) for start in range(0, ordered.num_rows, ROWS_PER_TASK)]
    # Twice what is answered at once, so that a place that becomes free is taken.
    at_once = engine.max_batch_size if work.endpoint is None else work.endpoint.max_in_flight
    tasks_per_actor = max(2, -(-2 * at_once // ROWS_PER_TASK))
    answers = ray.data.from_arrow(blocks).map_batches(
        Answerer,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=engine.num_cpus,
        num_gpus=engine.num_gpus if work.endpoint is None else 0,
        compute=ray.data.ActorPoolStrategy(
            size=min(work.config.num_actors if work.endpoint is None else 1, len(blocks)),
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


def _metrics(rows: pa.Table, standing: pa.Table, started: float, stood_at: float | None) -> dict[str, Any]:
    """Tokens of all replies; how fast this attempt made its own, the start of its actors included; rows of earlier attempts.

    `start_seconds` of `seconds` had passed when the first engine stood; null where nothing was left to answer.
    """
    tokens, earlier = (pc.sum(table["num_completion_tokens"]).as_py() or 0 for table in (rows, standing))
    seconds = time.time() - started
    return {
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "start_seconds": None if stood_at is None else round(stood_at - started, 3),
        "tokens_per_second": round((tokens - earlier) / seconds, 2),
        "answered_before": standing.num_rows,
    }
