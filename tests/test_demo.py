"""The whole line through `llumi demo`: real Ray, two gloo ranks under DeepSpeed, the random two-layer model."""

import contextlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llumi.config import StorageConfig
from llumi.demo import DRAFT, POST
from llumi.serve.ring import POLL_SECONDS
from llumi.storage import Storage
from tests import outbound
from tests.conftest import free_port
from tests.documented import commands, programs, section
from tests.outbound import Watched, clean_environment, stays_here, watch

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
SMALL = [
    "pairs.revisions.max_pairs=60",
    "train.max_length=1000",
    "train.sft.max_steps=2",
    "train.dpo1.max_steps=2",
    "generate.max_posts=4",
    "generate.max_new_tokens=6",
    "serve.max_new_tokens=8",
]
HERE = "llumi-data/demo"
TRY = "Try it"
MODELS = ["base", "gm-dpo1", "gm-sft", "im-dpo1", "im-sft"]
GENERATIONS = ["gm-base", "gm-dpo1", "gm-sft", "im-base", "im-dpo1", "im-sft"]


@dataclass(frozen=True)
class Demo:
    """A run of the demo, given on `desk` as a newcomer gives it."""

    run: Watched
    desk: Path
    ray_folder: Path
    environment: dict[str, str]
    overrides: list[str]

    @property
    def folder(self) -> Path:
        return self.desk / HERE


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Demo]:
    home = tmp_path_factory.mktemp("home")
    # Ray's sockets must have short paths.
    ray_folder = Path(tempfile.mkdtemp(prefix="llumi-", dir="/tmp"))
    environment = clean_environment(home) | {"RAY_TMPDIR": str(ray_folder), "PYTHONPATH": str(outbound.ROOT)}
    overrides = [part for value in [f"train.base={tiny_model}", *SMALL] for part in ("--set", value)]
    desk = home / "desk"
    desk.mkdir()
    command = [sys.executable, "-m", "llumi.cli", "demo", "--posts", "120", *overrides]
    run = watch(command, environment, home / "watch", timeout=1700, cwd=desk)
    yield Demo(run, desk, ray_folder, environment, overrides)
    shutil.rmtree(ray_folder, ignore_errors=True)


def test_it_ends_with_a_draft_a_revision_the_report_and_what_to_try_next(demo: Demo) -> None:
    assert demo.run.returncode == 0, demo.run.output[-3000:]
    for expected in ("GM drafts (gm-dpo1", "IM revises (im-dpo1", "llumi serve --set", "llumi pipeline --set"):
        assert expected in demo.run.output
    report = demo.desk / re.findall(r"The report: (\S+)", demo.run.output)[0]
    assert "<svg" in report.read_text(encoding="utf-8")


def test_every_artifact_of_the_line_stands_with_its_lineage(demo: Demo) -> None:
    storage = Storage.open(StorageConfig(uri=str(demo.folder)))
    assert [m.name for m in storage.list("models")] == MODELS
    assert [m.name for m in storage.list("generations")] == GENERATIONS
    assert [m.name for m in storage.list("evaluations")] == ["default"]
    assert [i.name for i in storage.manifest("models/gm-dpo1").inputs] == ["models/gm-sft", "pairs/default"]
    assert [i.name for i in storage.manifest("models/im-sft").inputs] == ["models/base", "pairs/default"]


def test_its_processes_open_no_connection_beyond_loopback(demo: Demo) -> None:
    assert demo.run.num_addresses_seen > 0
    assert demo.run.beyond_loopback == set()


def test_no_text_reaches_a_log_of_ray(demo: Demo) -> None:
    logs = [path for path in demo.ray_folder.rglob("logs/**/*") if path.is_file()]
    assert logs
    for path in logs:
        content = path.read_text(errors="replace")
        assert POST[:40] not in content, path.name
        assert DRAFT[:30] not in content, path.name


def test_a_second_attempt_finds_every_step_standing(demo: Demo) -> None:
    here = [f"storage.uri={HERE}", f"corpus.uri={HERE}/corpus"]
    same = [part for value in here for part in ("--set", value)] + demo.overrides
    config = Path(__file__).parents[1] / "llumi" / "demo.yaml"
    command = [sys.executable, "-m", "llumi.cli", "pipeline", "--config", str(config), *same]
    again = subprocess.run(
        command, env=demo.environment, cwd=demo.desk, capture_output=True, text=True, check=False, timeout=400
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("stands ") == 1 + len(MODELS) + len(GENERATIONS) + 1
    assert "published" not in again.stdout


@dataclass
class Follower:
    """Somebody who has run the demo, and types what docs/serving.md says, with another port, since this machine is shared."""

    demo: Demo
    port: int = field(default_factory=free_port)
    key: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{self.demo.environment['PATH']}"
        return self.demo.environment | {"PATH": path, "KEY": self.key}

    def types(self, command: str) -> str:
        """Run it to its end; what it prints."""
        command = command.replace(":8000", f":{self.port}")
        done = subprocess.run(
            ["bash", "-c", command],
            env=self.environment,
            cwd=self.demo.desk,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """`llumi serve` as it is written there, until the end."""
        (self.demo.desk / "ray_config.yaml").write_text(f"serve: {{port: {self.port}}}")
        with (self.demo.desk / "serve.txt").open("w+") as output:
            process = subprocess.Popen(
                shlex.split(command), env=self.environment, cwd=self.demo.desk, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                deadline = time.monotonic() + 180
                while f"serving {self.url}" not in (said := (self.demo.desk / "serve.txt").read_text()):
                    assert process.poll() is None, said
                    assert time.monotonic() < deadline, said
                    time.sleep(0.2)
                yield
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(60)


@pytest.fixture(scope="module")
def follower(demo: Demo) -> Iterator[Follower]:
    """The service of the page is up, with a key; what stands before its first `curl` was typed."""
    follower = Follower(demo)
    setup, start, serve, make_key, export, *_ = commands(section("serving.md", TRY))
    assert (setup, start) == ("make demo", "source .venv/bin/activate")
    with follower.serving(serve):
        follower.key = re.findall(r"^llumi_\S+$", follower.types(make_key), re.MULTILINE)[0]
        assert export == "export KEY=llumi_..."
        time.sleep(2 * POLL_SECONDS)  # a person takes longer to copy a key than a router to see it
        yield follower


def test_the_lines_of_the_page_for_operators_work_on_what_the_demo_made(follower: Follower) -> None:
    asked = [command for command in commands(section("serving.md", TRY)) if command.startswith("curl ")]
    assert len(asked) >= 4
    answers = [json.loads(follower.types(command)) for command in asked]
    assert [answer for answer in answers if "error" in answer] == []
    assert [answer["model"].partition("@")[0] for answer in answers if "label" in answer] == ["gm-dpo1", "im-dpo1"]


def test_the_openai_client_of_the_page_works_on_what_the_demo_made(follower: Follower) -> None:
    [program] = programs(section("serving.md", TRY))
    done = subprocess.run(
        [sys.executable, "-c", program.replace(":8000", f":{follower.port}")],
        env=follower.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.browser
def test_the_writing_page_works_on_what_the_demo_made(follower: Follower, chromium: Any) -> None:
    from tests.serve.writing import Writer

    writer = Writer(chromium, follower.url, follower.key)
    writer.fill(post=POST, draft=DRAFT)
    for button, model in (("Draft a reply", "gm-dpo1"), ("Improve mine", "im-dpo1")):
        writer.press(button)
        writer.page.locator("#model").filter(has_text=f"{model}@").wait_for(timeout=60_000)
        assert writer.text.strip()
    assert writer.outside == []
    writer.context.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "localhost", "0.0.0.0"])
def test_the_watch_lets_loopback_pass(host: str) -> None:
    assert stays_here(host)


def test_the_watch_sees_an_attempt_to_leave(tmp_path: Path) -> None:
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9))"
    seen = watch([sys.executable, "-c", code], clean_environment(tmp_path), tmp_path / "watch", timeout=60)
    assert seen.beyond_loopback == {"socket.connect 192.0.2.1"}


HOLD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 9))
time.sleep(30)
"""


def test_the_table_of_the_kernel_tells_the_family_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "stays_here", lambda host: not host.startswith("127.0.9."))
    watched, other = (subprocess.Popen([sys.executable, "-S", "-c", HOLD, f"127.0.9.{number}"]) for number in (1, 2))
    table = outbound.ConnectionTable(watched.pid)
    table.start()
    try:
        deadline = time.monotonic() + 20
        while not table.remote_hosts & {"127.0.9.1"} and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        table.stop()
        for process in (watched, other):
            process.kill()
            process.wait()
    assert "127.0.9.1" in table.remote_hosts
    assert "127.0.9.2" not in table.remote_hosts
