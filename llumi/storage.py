"""Artifacts on a local folder or on S3: opened, listed and published alike.

An artifact is a folder `<kind>/<name>/` whose `manifest.json` stands. The manifest is written last, so its existence
proves that everything else is there, even on a store that cannot rename. What a failed attempt leaves behind is not
listed, so nobody reads it; the next attempt clears it away.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Self, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from llumi import __version__
from llumi.config import StorageConfig
from llumi.errors import ArtifactError, StoreError

Given = TypeVar("Given")
Item = TypeVar("Item")
Kind = Literal["pairs", "references", "models", "generations", "evaluations"]
MANIFEST = "manifest.json"
COPY_CHUNK_BYTES = 8 * 2**20
ATTEMPTS = 4
"""How often a request to S3 is made before a store that was never reached counts as absent: within some seconds."""

PATIENT_ATTEMPTS = 10
"""The same once it was reached: 50 to 110 s, longer than a restart of a store takes."""

AT_ONCE = 16
"""Files of many that a process asks the store for at one time: each is several answers, and waits for every one of them."""

_PAUSE_SECONDS = 0.1
_GAVE_UP = ("Failed to flush response stream", "NO_SUCH_UPLOAD")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact, relative to its folder."""

    path: str
    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: str, content: bytes | pa.Buffer) -> Self:
        """The entry of a file with this content."""
        return cls(path, len(content), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class Input:
    """What an artifact was made from: another artifact ("pairs/default") or a corpus, and the hash that fixes it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything known of one artifact, and the proof that it is whole.

    `fingerprint` is the hash of what determines the content (the kind of work, its config, its inputs): a step whose
    fingerprint already stands need not run again. `counts` accounts for every record, by reason where it was dropped.
    """

    kind: Kind
    name: str
    fingerprint: str
    config: dict[str, Any]
    inputs: tuple[Input, ...]
    files: tuple[FileEntry, ...]
    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    created_at: str = ""
    llumi_version: str = __version__

    @property
    def reference(self) -> str:
        """How configs and other manifests name it: "models/gm-sft"."""
        return f"{self.kind}/{self.name}"

    def as_input(self) -> Input:
        """The artifact as an input of the next one; files and fingerprint fix it, the time of writing does not."""
        return Input(self.reference, digest({"fingerprint": self.fingerprint, "files": [asdict(f) for f in self.files]}))

    def files_under(self, folder: str) -> list[str]:
        """Paths of the files below `folder`, in order, relative to the artifact."""
        return [entry.path for entry in self.files if entry.path.startswith(f"{folder}/")]


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint(work: str, config: Mapping[str, Any], inputs: Sequence[Input]) -> str:
    """What determines an artifact's content: the kind of work, the config it saw, and its inputs."""
    return digest({"work": work, "config": dict(config), "inputs": [asdict(i) for i in inputs], "version": __version__})


@dataclass(frozen=True)
class Storage:
    """The root under which one deployment keeps its artifacts; it can be sent to any worker."""

    filesystem: pafs.FileSystem
    root: str
    uri: str

    @classmethod
    def open(cls, config: StorageConfig, create: bool = True) -> Self:
        """Open the store that `config` names; raises StoreError where it is not there or refuses the key.

        A local folder is made, unless `create` says to leave everything as it is.
        """
        if not config.uri.startswith("s3://"):
            root = Path(config.uri).expanduser().absolute()
            if create:
                with store_errors(str(root)):
                    root.mkdir(parents=True, exist_ok=True)
            return cls(pafs.LocalFileSystem(), str(root), str(root))
        root_on_s3 = config.uri.removeprefix("s3://").strip("/")
        return cls(open_s3(config), root_on_s3, f"s3://{root_on_s3}")

    @property
    def is_local(self) -> bool:
        """Whether artifacts are plain folders of this machine."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        """A path below the root, in the form that `filesystem` takes (no scheme)."""
        return str(PurePosixPath(self.root, *parts))

    def manifest(self, reference: str) -> Manifest:
        """The manifest of "kind/name"; raises ArtifactError, naming what there is, where none stands."""
        found = self.find(reference)
        if found is None:
            kind, _, name = reference.partition("/")
            there = ", ".join(known.name for known in self.list(kind)) or f"no {kind} yet"
            raise ArtifactError(f"{self.uri}/{reference}: no such artifact ({name or 'no name'}); there are: {there}")
        return found

    def find(self, reference: str) -> Manifest | None:
        """The manifest of "kind/name", or None where no artifact of that name is complete."""
        raw = self.read(f"{reference}/{MANIFEST}")
        if raw is None:
            return None
        try:
            tree = json.loads(raw)
            tree["inputs"] = tuple(Input(**entry) for entry in tree["inputs"])
            tree["files"] = tuple(FileEntry(**entry) for entry in tree["files"])
            return Manifest(**tree)
        except (ValueError, KeyError, TypeError):
            raise ArtifactError(f"{self.uri}/{reference}/{MANIFEST}: not a manifest of LLUMI; rebuild {reference}") from None

    def list(self, kind: str) -> list[Manifest]:
        """The complete artifacts of one kind, by name."""
        selector = pafs.FileSelector(self.path(kind), allow_not_found=True)
        with store_errors(self.uri):
            folders = [info for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.Directory]
        found = (self.find(f"{kind}/{info.base_name}") for info in sorted(folders, key=lambda info: info.base_name))
        return [manifest for manifest in found if manifest is not None]

    def read(self, path: str) -> bytes | None:
        """The content of one file, `path` below the root; None where there is none."""
        with store_errors(self.uri):
            try:
                with self.filesystem.open_input_file(self.path(path)) as stream:
                    content: bytes = stream.read()
            except FileNotFoundError:
                return None
        return content

    def write(self, path: str, content: bytes | pa.Buffer) -> None:
        """Write one file, `path` below the root, in one piece."""
        target = self.path(path)
        with store_errors(self.uri):
            if self.is_local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            retried(lambda: self._write(target, content))

    def _write(self, target: str, content: bytes | pa.Buffer) -> None:
        with self.filesystem.open_output_stream(target) as stream:
            stream.write(content)

    def replace(self, manifest: Manifest) -> None:
        """Put `manifest` in the place of the one that stands, in one step: a reader sees the old or the new artifact whole.

        The files that it lists must be there. Those of the old one stay until `sweep`.
        """
        self.put(f"{manifest.reference}/{MANIFEST}", json.dumps(asdict(manifest), indent=1, default=str).encode())

    def put(self, path: str, content: bytes) -> None:
        """Write one small file in one step: a reader sees what stood there before, or the new content whole."""
        if not self.is_local:  # a put on S3 is atomic
            self.write(path, content)
            return
        target = Path(self.path(path))
        with store_errors(self.uri):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            partial.write_bytes(content)
            partial.rename(target)

    def sweep(self, manifest: Manifest) -> int:
        """Delete what lies in the artifact's folder and is not listed; returns how many files that were."""
        folder = self.path(manifest.reference)
        listed = {f"{folder}/{path}" for path in (MANIFEST, *(entry.path for entry in manifest.files))}
        with store_errors(self.uri):
            infos = self.filesystem.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
            unlisted = [info.path for info in infos if info.type == pafs.FileType.File and info.path not in listed]
            for path in unlisted:
                delete_file(self.filesystem, path)
        return len(unlisted)

    def begin(self, kind: Kind, name: str) -> "Draft":
        """Start (again) on an artifact: what stands under its name is withdrawn, manifest first."""
        draft = Draft(self, kind, name)
        with store_errors(self.uri):
            delete_file(self.filesystem, self.path(kind, name, MANIFEST))
            delete_tree(self.filesystem, self.path(kind, name))
        return draft

    def read_table(self, reference: str, folder: str) -> pa.Table:
        """All Parquet files of one folder of an artifact as one table; for tables that fit one machine."""
        files = self.manifest(reference).files_under(folder)
        if not files:
            raise ArtifactError(f"{self.uri}/{reference}: holds no {folder}/")
        with store_errors(self.uri):
            return pa.concat_tables(
                at_once(lambda file: pq.read_table(self.path(reference, file), filesystem=self.filesystem), files)
            )

    def fetch(self, reference: str, only: str = "") -> Path:
        """The artifact as a local folder: itself where storage is local, else a verified copy, made once per machine.

        `only` names a folder of it: then the copy holds no other files.
        """
        manifest = self.manifest(reference)
        if self.is_local:
            return Path(self.path(reference))
        if only:
            manifest = replace(manifest, files=tuple(entry for entry in manifest.files if entry.path.startswith(f"{only}/")))
        target = cached_copy(manifest)
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        # Several ranks of one machine may fetch at once: each copies into a folder of its own, the first rename wins.
        attempt = Path(tempfile.mkdtemp(prefix=f".{manifest.name}-", dir=target.parent))
        try:
            at_once(lambda entry: self._download(manifest, entry, attempt / entry.path), manifest.files)
            with contextlib.suppress(OSError):
                attempt.rename(target)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
        return target

    def copy(self, manifest: Manifest, name: str) -> Manifest:
        """Publish a standing artifact under a second name, too: the same files, config, inputs and fingerprint."""
        draft = self.begin(manifest.kind, name)
        for entry in manifest.files:
            with store_errors(self.uri), self.filesystem.open_input_stream(self.path(manifest.reference, entry.path)) as source:
                poured = draft.pour(source, entry.path)
            _check_copy(f"{self.uri}/{manifest.reference}", entry, poured.sha256)
        second = replace(manifest, name=name)
        self.replace(second)
        return second

    def _download(self, manifest: Manifest, entry: FileEntry, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            store_errors(self.uri),
            self.filesystem.open_input_stream(self.path(manifest.reference, entry.path)) as source,
            target.open("wb") as sink,
        ):
            _, sha256 = _pour(source, sink)
        _check_copy(f"{self.uri}/{manifest.reference}", entry, sha256)


@dataclass(frozen=True)
class Draft:
    """An artifact in the making: written to from any worker, seen by nobody until `publish`."""

    storage: Storage
    kind: Kind
    name: str

    @property
    def reference(self) -> str:
        """The name it will have: "pairs/default"."""
        return f"{self.kind}/{self.name}"

    def write(self, path: str, content: bytes | pa.Buffer) -> FileEntry:
        """Write one file in one piece; the entry is what `publish` wants to be told of it."""
        self.storage.write(f"{self.reference}/{path}", content)
        return FileEntry.of(path, content)

    def write_table(self, path: str, table: pa.Table) -> FileEntry:
        """Write one Parquet file."""
        return self.write(path, parquet(table))

    def take(self, folder: str, entries: Iterable[FileEntry]) -> None:
        """Put files that were written elsewhere in the store (into `folder`, below the root) to the places of `entries`.

        They may stay in `folder`, too: S3 has no move, and its client deletes safely only one file after the other.
        """
        with store_errors(self.storage.uri):
            at_once(partial(self._take, folder), entries)

    def _take(self, folder: str, entry: FileEntry) -> None:
        source, target = self.storage.path(folder, entry.path), self.storage.path(self.reference, entry.path)
        if self.storage.is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            self.storage.filesystem.move(source, target)
        else:
            self.storage.filesystem.copy_file(source, target)

    def upload(self, folder: Path) -> list[FileEntry]:
        """Copy every file below a local folder, hashing on the way."""
        entries = []
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                with file.open("rb") as source:
                    entries.append(self.pour(source, file.relative_to(folder).as_posix()))
        return entries

    def pour(self, source: IO[bytes], path: str) -> FileEntry:
        """Write one file from a stream, hashing on the way."""
        target = self.storage.path(self.reference, path)
        with store_errors(self.storage.uri):
            if self.storage.is_local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            with self.storage.filesystem.open_output_stream(target) as sink:
                return FileEntry(path, *_pour(source, sink))

    def publish(
        self,
        files: Sequence[FileEntry],
        *,
        fingerprint: str,
        config: Mapping[str, Any],
        inputs: Sequence[Input],
        counts: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Write the manifest: from here on the artifact exists."""
        manifest = Manifest(
            kind=self.kind,
            name=self.name,
            fingerprint=fingerprint,
            config=dict(config),
            inputs=tuple(inputs),
            files=tuple(sorted(files, key=lambda entry: entry.path)),
            counts=dict(counts or {}),
            metrics=dict(metrics or {}),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.storage.replace(manifest)
        return manifest


def parquet(table: pa.Table) -> pa.Buffer:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _pour(source: IO[bytes], sink: IO[bytes]) -> tuple[int, str]:
    """Copy a stream to its end; returns how many bytes it held, and their SHA-256."""
    num_bytes, sha256 = 0, hashlib.sha256()
    while chunk := source.read(COPY_CHUNK_BYTES):
        num_bytes += len(chunk)
        sha256.update(chunk)
        sink.write(chunk)
    return num_bytes, sha256.hexdigest()


def _check_copy(uri: str, entry: FileEntry, sha256: str) -> None:
    if sha256 != entry.sha256:
        raise ArtifactError(f"{uri}/{entry.path}: not what the manifest says; rebuild the artifact")


class PatientS3(pafs.S3FileSystem):  # type: ignore[misc]  # pyarrow is untyped
    """S3 as LLUMI uses it: every process outlasts a restart of the store, and a folder is deleted key by key.

    pyarrow forgets how often to try again when its client is sent to a worker, and MinIO refuses its batch deletion.
    """

    def __init__(self, attempts: int = PATIENT_ATTEMPTS, **options: Any) -> None:
        super().__init__(retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts), **options)

    def delete_dir(self, path: str) -> None:
        """Delete every key below `path`."""
        delete_tree(self, path)

    def __reduce__(self) -> tuple[Any, ...]:
        _, (options,) = super().__reduce__()
        return partial(PatientS3, **options), ()


def open_s3(config: StorageConfig, setting: str = "storage.uri") -> PatientS3:
    """The S3 client of `config`, with credentials from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).

    Raises StoreError within seconds where no store answers there, or has no such bucket, whose name `setting` gave.
    """
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not os.environ.get(name)]
    if missing:
        raise StoreError(f"{config.uri}: {' and '.join(missing)} not in the environment; export the store's key first")
    endpoint = config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
    scheme, _, host = (endpoint or "").rpartition("://")
    client = partial(
        PatientS3,
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        session_token=os.environ.get("AWS_SESSION_TOKEN"),
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=config.region,
        connect_timeout=10,
        request_timeout=60,
        allow_delayed_open=True,  # a small file is one request and not three
    )
    bucket = config.uri.removeprefix("s3://").split("/")[0]
    with store_errors(config.uri):
        if client(ATTEMPTS).get_file_info(bucket).type == pafs.FileType.NotFound:
            raise StoreError(f"{config.uri}: no bucket {bucket!r} on this store; create it, or correct {setting}")
    return client()


def retried(work: Callable[[], Given]) -> Given:
    """What `work` gives, which may be done twice; tried again where the store was too busy and the S3 client gave up.

    It tries again by itself, but for two answers "slow down": to a request for a few bytes, whose buffer the answer does
    not fit into, and to the end of an upload in parts, which it asks for once more after it was done.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except OSError as error:
            if not any(sign in str(error) for sign in _GAVE_UP):
                raise
            time.sleep(attempt * _PAUSE_SECONDS)
    return work()


def at_once(work: Callable[[Item], Given], items: Iterable[Item]) -> list[Given]:
    """What `work` gives for each item, in their order; `AT_ONCE` are under way together. Raises what one of them raises."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(work, items))


def delete_file(filesystem: pafs.FileSystem, path: str) -> None:
    """Delete one file; a file that is not there is deleted already."""
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(path)


def delete_tree(filesystem: pafs.FileSystem, path: str) -> None:
    """Delete a folder and all below it, key by key: MinIO refuses the batch deletion of newer S3 clients.

    One after the other: the client makes sure that a folder outlasts its last file, which fails where that goes meanwhile.
    """
    if isinstance(filesystem, pafs.LocalFileSystem):
        shutil.rmtree(path, ignore_errors=True)
        return
    for info in filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True)):
        if info.type == pafs.FileType.File:
            delete_file(filesystem, info.path)


def cache_folder() -> Path:
    """Where this machine keeps its copies of artifacts; `LLUMI_CACHE` moves it."""
    return Path(os.environ.get("LLUMI_CACHE", "~/.cache/llumi")).expanduser()


def cached_copy(manifest: Manifest) -> Path:
    """Where this machine's copy of an artifact lies, once `Storage.fetch` has made it."""
    return cache_folder() / "artifacts" / manifest.kind / f"{manifest.name}-{manifest.as_input().sha256[:16]}"


def delete_stale_copies(manifest: Manifest) -> int:
    """Delete this machine's copies of what stood under the artifact's name before; returns how many there were.

    Copies in the making count as such: an attempt that was cut off has left its files, too.
    """
    current = cached_copy(manifest)
    name = re.escape(manifest.name)
    stale = re.compile(rf"{name}-[0-9a-f]{{16}}|\.{name}-[a-z0-9_]{{8}}")
    copies = [copy for copy in current.parent.glob("*") if stale.fullmatch(copy.name) and copy != current]
    for copy in copies:
        shutil.rmtree(copy)
    return len(copies)


_REFUSALS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "InvalidAccessKeyId", "HTTP status 403")


@contextlib.contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn what a filesystem raises into one line; a missing file stays FileNotFoundError for the caller to judge."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError:
        raise StoreError(f"{uri}: permission denied; the store must be writable for this user") from None
    except OSError as error:
        message = str(error)
        if any(refusal in message for refusal in _REFUSALS):
            raise StoreError(f"{uri}: the store refuses this key; check AWS_ACCESS_KEY_ID, its secret and its policy") from None
        if "NETWORK_CONNECTION" in message or "connect" in message.lower():
            raise StoreError(f"{uri}: no store answers; check storage.endpoint_url (or AWS_ENDPOINT_URL)") from None
        raise StoreError(f"{uri}: {message.splitlines()[0][:200]}") from None
