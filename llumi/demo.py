"""`llumi demo`: the whole line on made-up text, ending with a draft and a revision from the running router."""

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.panel import Panel

from llumi.config import load_config
from llumi.corpus.sample import write_sample
from llumi.job import Job, show_steps
from llumi.pipeline import pipeline
from llumi.ray_session import ray_session
from llumi.serve.app import Serving, serve, stop_serving
from llumi.storage import Storage
from llumi.terminal import console, progress_shown

POST = (
    "I moved to a new town for work in spring. The days are fine, but in the evenings the flat is so quiet, "
    "and I do not know whom to call."
)
DRAFT = "that sucks. maybe join a club or something, you will get used to it"
REQUEST_SECONDS = 300


def run_demo(folder: Path, num_posts: int, overrides: Sequence[str]) -> None:
    """Write a corpus into `folder`, run the pipeline on it, serve both models, ask each once, and say what to try next."""
    started = time.monotonic()
    own = [f"storage.uri={folder}", f"corpus.uri={folder / 'corpus'}", f"serve.port={_free_port()}"]
    config = load_config(Path(__file__).with_name("demo.yaml"), [*own, *overrides])
    storage = Storage.open(config.storage)
    console.rule("A made-up community")
    write_sample(folder / "corpus", num_posts)
    console.print(f"{num_posts} posts with their replies in {folder / 'corpus'}", soft_wrap=True)
    with progress_shown() as progress:
        progress("starting Ray", 0)
        with ray_session(config.ray):
            progress.finish()
            console.rule("Pairs, SFT, DPO1, generations, evaluation")
            show_steps(pipeline(config, progress), Job(config, progress))
            console.rule("Both models behind one router")
            progress("starting GM and IM", 0)
            serving = serve(config)
            progress.finish()
            try:
                draft = _ask(serving, "draft", {"post": POST, "seed": 1})
                revision = _ask(serving, "improve", {"post": POST, "draft": DRAFT, "seed": 1})
            finally:
                stop_serving()
    console.print(Panel(POST, title="a post (made up)"))
    console.print(Panel(draft["reply"], title=f"GM drafts ({draft['model']})"))
    console.print(Panel(DRAFT, title="a person's draft (made up)"))
    console.print(Panel(revision["revision"], title=f"IM revises ({revision['model']})"))
    report = f"{storage.uri}/evaluations/{config.evaluate.name}/report.html"
    console.print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes. The report: {report}", soft_wrap=True)
    console.print(
        "A 135M model after ten steps shows that the line works, not what it can become. Next:\n"
        f"  llumi serve --set storage.uri={folder}          write with both models, until Ctrl-C; shows a key\n"
        "  llumi pipeline --set corpus.uri=/path/to/dumps   the same line on your own community\n"
        "  llumi config show                                every knob and its default",
        soft_wrap=True,
    )


def _ask(serving: Serving, route: str, body: dict[str, Any]) -> dict[str, Any]:
    key = {"Authorization": f"Bearer {serving.secret}"}
    answer = httpx.post(f"{serving.url}/v1/{route}", json=body, headers=key, timeout=REQUEST_SECONDS)
    answer.raise_for_status()
    result: dict[str, Any] = answer.json()
    return result


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
