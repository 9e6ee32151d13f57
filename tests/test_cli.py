"""Bad input through the real command: exit code 2, one clear line, no traceback, nothing that a later run would read."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from llumi.config import StorageConfig
from llumi.corpus.sample import write_sample
from llumi.storage import Storage

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def llumi(tmp_path: Path) -> Run:
    """`llumi ...` in an empty folder, with a store of its own there."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"LLUMI_PRIVACY_KEY": "a long key for the tests"}
        command = [sys.executable, "-m", "llumi.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=400)

    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_sample(tmp_path / "corpus", 100)
    return tmp_path / "corpus"


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def assert_nothing_published(folder: Path) -> None:
    storage = Storage.open(StorageConfig(uri=str(folder / "llumi-data")))
    assert [storage.list(kind) for kind in ("pairs", "generations", "evaluations")] == [[], [], []]
    assert [manifest.name for manifest in storage.list("models") if manifest.name != "base"] == []


def test_an_unknown_key_in_the_file_and_on_the_command_line(llumi: Run, tmp_path: Path) -> None:
    (tmp_path / "ray_config.yaml").write_text("pairs:\n  preste: margin\n")
    assert_one_line(llumi("config", "check"), "pairs.preste: no such key; did you mean preset?")
    (tmp_path / "ray_config.yaml").unlink()
    assert_one_line(llumi("pairs", "build", "--set", "pairs.min_gap=3"), "pairs.min_gap: no such key")


def test_a_value_out_of_range(llumi: Run) -> None:
    assert_one_line(llumi("train", "gm", "sft", "--set", "train.zero_stage=4"), "train.zero_stage: 4 is not right")


def test_the_tree_as_resolved_is_printed(llumi: Run) -> None:
    done = llumi("config", "show", "--json", "--set", "pairs.preset=paper")
    assert json.loads(done.stdout)["pairs"]["preset"] == "paper"


def test_a_row_of_preferred_pairs_that_is_not_right(llumi: Run, tmp_path: Path) -> None:
    (tmp_path / "preferred.ndjson").write_text(
        '{"role": "gm", "post": "A quiet week.", "chosen": "Thank you.", "rejected": ""}\n'
    )
    assert_one_line(llumi("pairs", "add", "human", "preferred.ndjson"), "preferred.ndjson: line 1: rejected: is empty")
    assert_one_line(llumi("pairs", "add", "default", "preferred.ndjson"), "pairs add 'default': not a name")
    assert_nothing_published(tmp_path)


def test_a_sweep_that_is_none_or_has_a_wrong_point(llumi: Run, tmp_path: Path) -> None:
    assert_one_line(llumi("sweep", "gm", "dpo1"), "nothing to sweep: give a list", "--set train.dpo1.learning_rate=[1e-5,5e-5]")
    wrong = llumi("sweep", "gm", "dpo1", "--set", "train.dpo1.learning_rate=[1e-5,-1]")
    assert_one_line(wrong, "point train.dpo1.learning_rate=-1: ", "it should be greater than 0")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_job_is_named_with_those_there_are(llumi: Run) -> None:
    assert_one_line(llumi("submit", "trian"), "jobs/trian.py: no such job")


@pytest.mark.ray
def test_a_corpus_folder_that_is_empty_or_missing(llumi: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(llumi("pairs", "build", "--set", "corpus.uri=empty"), "empty", "_submissions", "_comments")
    assert_one_line(llumi("corpus", "inspect", "nowhere"), "nowhere")
    assert_nothing_published(tmp_path)


@pytest.mark.ray
def test_a_file_that_is_no_zstd(llumi: Run, corpus: Path, tmp_path: Path) -> None:
    (corpus / "other_comments.zst").write_text('{"this is": "plain text"}\n')
    assert_one_line(llumi("pairs", "build", "--set", f"corpus.uri={corpus}"), "other_comments.zst", "zst")
    assert_nothing_published(tmp_path)


@pytest.mark.ray
def test_a_truncated_file_is_read_to_its_cut_and_refused_unless_told_otherwise(
    llumi: Run, corpus: Path, tmp_path: Path
) -> None:
    dump = next(path for path in sorted(corpus.iterdir()) if path.name.endswith("_comments.zst"))
    content = dump.read_bytes()
    dump.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(zstandard.ZstdError):
        zstandard.ZstdDecompressor(max_window_size=2**31).decompress(dump.read_bytes(), max_output_size=2**24)
    assert_one_line(llumi("corpus", "inspect", str(corpus)), dump.name, "truncated", "corpus.truncated=keep")
    assert_one_line(llumi("pairs", "build", "--set", f"corpus.uri={corpus}"), dump.name, "truncated", "corpus.truncated=keep")
    assert_nothing_published(tmp_path)
    keep = ("--set", f"corpus.uri={corpus}", "--set", "corpus.truncated=keep", "--set", "pairs.revisions.source=none")
    kept = llumi("pairs", "build", *keep, "--json")
    assert kept.returncode == 0, kept.stderr
    assert dump.name in json.dumps(json.loads(kept.stdout)["counts"]["truncated_files"])


@pytest.mark.ray
def test_a_model_folder_without_tokenizer(llumi: Run, tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    assert_one_line(llumi("pipeline", "--set", f"train.base={folder}"), str(folder), "no tokenizer")
    assert_nothing_published(tmp_path)


def test_a_store_that_refuses_the_key(llumi: Run, s3_storage: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = ["--set", f"storage.uri={s3_storage.uri}", "--set", f"storage.endpoint_url={s3_storage.endpoint_url}"]
    assert_one_line(llumi("pairs", "build", *store), s3_storage.uri, "refuses this key", "AWS_ACCESS_KEY_ID")


@pytest.mark.ray
def test_a_port_in_use(llumi: Run, tiny_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = llumi(
            "serve", "--set", f"serve.port={port}", "--set", "serve.engine.kind=echo", "--set", f"train.base={tiny_model}"
        )
    assert_one_line(done, f"127.0.0.1:{port}", "in use", "serve.port")
    assert "engine: echo (serve.engine.kind is echo)" in done.stdout


@pytest.mark.ray
def test_the_doctor_finds_this_machine_fit(llumi: Run) -> None:
    done = llumi("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {
        "nodes",
        "GPUs",
        "versions",
        "telemetry",
        "outbound paths",
        "disk",
        "memory",
        "clocks",
        "all-reduce",
        "store",
    } == set(checks)
    assert all(checks[name]["passed"] for name in checks.keys() - {"disk", "memory"})
