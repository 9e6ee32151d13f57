"""`llumi forget`: take a post or a person out of every artifact of the store, out of the studies of the rating page and out
of the flags of the writing page, and name the models that learned from them.

The order makes it safe to die anywhere and to run again. What only the pairs can tell (whose posts, whose drafts, in which
words) is used up before they change: the exclude file first, then flags, studies, marks on the models, evaluations,
generations, and the pairs last.
An artifact changes in one step: new files under new names, the manifest, and only then the old files go.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from rich.table import Table

from llumi.config import Config
from llumi.corpus.exclude import Exclusions, read_exclusions
from llumi.corpus.privacy import KEY_VARIABLE, Domain, Pseudonymizer, bare_name, is_pseudonym
from llumi.errors import ArtifactError, ConfigError
from llumi.forget_flags import Wording, forget_flags, standing_flags, texts_of
from llumi.progress import Progress, silent
from llumi.rate.forget import StudyRows, forget_items, look_into_studies
from llumi.storage import (
    FileEntry,
    Input,
    Kind,
    Manifest,
    Storage,
    cache_folder,
    delete_stale_copies,
    delete_tree,
    parquet,
    store_errors,
)
from llumi.terminal import console, show_figures

KINDS: tuple[Kind, ...] = ("evaluations", "generations", "pairs")
"""What holds rows of people, in the order in which it is changed."""

FORGOTTEN = "forgotten"
"""In `counts` of an artifact: when rows were last taken out, how many by folder, and the hashes it had before."""

SAW_FORGOTTEN = "saw_forgotten"
"""In `counts` of a model: since when it is known to have learned from rows that are gone."""

_IDENTIFIERS = {"post_id", "example_id", "pair_id", "role"}
_TRAINED = re.compile(r"(?:gm|im)-(?:sft|dpo)")
_EARLIER_HASH = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True)
class ForgetReport:
    """What was taken out (or, in a dry run, would be), and what remains to be done; no name and no identifier.

    `rows` are those removed: artifact -> folder -> number, "studies/first" -> items, pages and scores -> number, and "flags"
    -> flags -> number. `models` learned from them; `models_before` from rows that earlier runs removed, and still stand; of
    `models_unknown` nobody can say, since what they were made from is gone. `without_authors` are artifacts and studies in
    which authors cannot be looked for. `cleared` are folders of unfinished work.
    """

    dry_run: bool
    rows: dict[str, dict[str, int]]
    models: tuple[str, ...] = ()
    models_before: tuple[str, ...] = ()
    models_unknown: tuple[str, ...] = ()
    without_authors: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    num_cached_copies: int = 0
    advice: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "dry_run": self.dry_run,
            "rows": self.rows,
            "models": list(self.models),
            "models_before": list(self.models_before),
            "models_unknown": list(self.models_unknown),
            "without_authors": list(self.without_authors),
            "cleared": list(self.cleared),
            "cached_copies_deleted": self.num_cached_copies,
            "advice": list(self.advice),
        }


def forget(
    config: Config,
    posts: Sequence[str],
    authors: Sequence[str],
    progress: Progress = silent,
    *,
    dry_run: bool = False,
    storage: Storage | None = None,
) -> ForgetReport:
    """Remove posts (ids, with or without "t3_") and authors (names, with or without "u/") from a store, all studies and flags.

    The store is that of `config`, unless one is given. A pseudonym may stand in the place of an id or a name. Where
    `corpus.exclude` is set, they are added to that file, so that no later build brings them back. Let no job run on the
    store meanwhile; after any interruption, run it again. Raises ConfigError where nothing is named, or where the key of
    the pseudonyms is not here, ArtifactError for files that are not what their manifest says, and DatabaseError where the
    rating database does not answer.
    """
    named = _named(posts, authors)
    traces = _traces(config, named)
    storage = storage or Storage.open(config.storage)
    artifacts = [manifest for kind in KINDS for manifest in storage.list(kind)]
    without_authors = _look_into_pairs(storage, artifacts, traces)
    changes = [change for change in _changes(storage, artifacts, traces, progress) if change.rows]
    lineage = _Lineage.of(storage, changes)
    leftovers = _leftovers(storage)
    studies = look_into_studies(config.rate, traces.posts, traces.authors)
    flags = _flags(config, storage, changes, traces)
    num_copies = 0
    if not dry_run:
        _exclude(config.corpus.exclude, named)
        forget_flags(config.rate, flags)
        forget_items(config.rate, traces.posts, traces.authors)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        for model in lineage.saw:
            storage.replace(replace(model, counts=model.counts | {SAW_FORGOTTEN: {"at": at}}))
        for done, change in enumerate(changes):
            progress("rewrite artifacts", done, len(changes))
            _rewrite(storage, change, traces, at)
        num_copies = _delete_what_is_old(storage)
        for leftover in leftovers:
            delete_tree(storage.filesystem, storage.path(leftover))
    return ForgetReport(
        dry_run=dry_run,
        rows={change.manifest.reference: change.rows_by_folder for change in changes}
        | studies.rows
        | ({"flags": {"flags": len(flags)}} if flags else {}),
        models=tuple(model.reference for model in lineage.saw),
        models_before=lineage.before,
        models_unknown=lineage.unknown,
        without_authors=(*without_authors, *studies.without_authors) if authors else (),
        cleared=leftovers,
        num_cached_copies=num_copies,
        advice=tuple(_advice(config, storage, named, lineage, studies)),
    )


def show_forgotten(report: ForgetReport, uri: str, as_json: bool = False) -> None:
    """Print the report: a row for each folder, then the models by name, then what remains to be done."""
    if as_json:
        show_figures("forget", report.figures(), as_json=True)
        return
    if report.rows:
        table = Table("artifact", "folder", "rows to remove" if report.dry_run else "rows removed", box=None)
        table.columns[2].justify = "right"
        for reference, rows in report.rows.items():
            for folder, num_rows in rows.items():
                table.add_row(reference, folder, f"{num_rows:,}")
        console.print(table)
    else:
        console.print(f"nothing of it is in {uri}", soft_wrap=True)
    for label, names in (
        ("trained on it:", report.models),
        ("trained on what was forgotten before:", report.models_before),
        ("perhaps trained on it, its inputs are gone:", report.models_unknown),
        ("built without authors, so not searched for them:", report.without_authors),
        ("unfinished work to delete:" if report.dry_run else "unfinished work deleted:", report.cleared),
    ):
        if names:
            console.print(f"[yellow]{label}[/] {', '.join(names)}", soft_wrap=True)
    if report.num_cached_copies:
        console.print(f"copies deleted on this machine: {report.num_cached_copies}")
    for line in report.advice:
        console.print(f"- {line}", soft_wrap=True)


_Named = dict[Domain, list[str]]


def _named(posts: Sequence[str], authors: Sequence[str]) -> _Named:
    """What was asked for, without prefixes; a line of the exclude file each, so none may hold a break."""
    if not posts and not authors:
        raise ConfigError("llumi forget: nobody named; give --post ID or --author NAME, several times if need be")
    given: dict[Domain, Sequence[str]] = {"post": posts, "author": authors}
    named: _Named = {"post": [], "author": []}
    for domain, values in given.items():
        for value in values:
            bare = bare_name(domain, value)
            if bare is None:
                raise ConfigError(f"--{domain}: empty, of several words, or with a #; give one {domain} an option")
            named[domain].append(bare)
    return named


@dataclass
class _Traces:
    """By what rows are recognised, all of it pseudonyms.

    `examples` are the pairs that an author has a part in: IM's examples hold the draft of a pair, not its author.
    `drafted` are the posts with a draft of the authors', `measured` the held-out posts whose row goes.
    """

    posts: set[str]
    authors: set[str]
    examples: set[str] = field(default_factory=set)
    drafted: set[str] = field(default_factory=set)
    measured: set[str] = field(default_factory=set)

    def hits(self, kind: Kind, rows: pa.Table) -> pa.Array:
        """Which rows of a table of this kind are to go."""
        hit = _none(rows)
        if kind == "pairs":
            for column in rows.column_names:
                if column in {"example_id", "pair_id"}:
                    hit = pc.or_(hit, _is_in(rows, column, self.examples))
            hit = pc.or_(hit, self.author_hits(rows))
        if kind == "generations":
            hit = pc.and_(_is_in(rows, "post_id", self.drafted), _is_in(rows, "role", {"im"}))
        if kind == "evaluations":
            hit = _is_in(rows, "post_id", self.measured)
        return pc.or_(hit, _is_in(rows, "post_id", self.posts))

    def author_hits(self, rows: pa.Table) -> pa.Array:
        """Which rows hold text of the authors."""
        hit = _none(rows)
        for column in filter(_is_author, rows.column_names):
            hit = pc.or_(hit, _is_in(rows, column, self.authors))
        return hit

    def follow(self, rows: pa.Table) -> None:
        """Learn from rows of pairs which posts and pairs the authors have a part in."""
        if "post_author" in rows.column_names:
            self.posts |= _values(rows, "post_id", _is_in(rows, "post_author", self.authors))
        for column in ("example_id", "pair_id"):
            if column in rows.column_names:
                self.examples |= _values(rows, column, self.author_hits(rows))
        if "reply_author" in rows.column_names:
            self.measured |= _values(rows, "post_id", self.author_hits(rows))
        if "draft_author" in rows.column_names:
            self.drafted |= _values(rows, "post_id", _is_in(rows, "draft_author", self.authors))


def _traces(config: Config, named: _Named) -> _Traces:
    """The pseudonyms of what was named, as it is spelled and in small letters."""
    key_file = config.privacy.key_file.expanduser()
    if not os.environ.get(KEY_VARIABLE, "").strip() and not key_file.exists():
        # A key made now would match nothing, and the answer would be that nothing is there.
        raise ConfigError(
            f"privacy.key_file {key_file}: not there; bring the key that the pairs were built with, or set {KEY_VARIABLE}"
        )
    key = Pseudonymizer.open(config)

    def pseudonyms(domain: Domain) -> set[str]:
        found = set[str]()
        for value in named[domain]:
            found |= {value} if is_pseudonym(value) else {key.pseudonym(domain, form) for form in (value, value.lower())}
        return found

    return _Traces(pseudonyms("post"), pseudonyms("author"))


def _look_into_pairs(storage: Storage, artifacts: Sequence[Manifest], traces: _Traces) -> tuple[str, ...]:
    """Follow the authors through all pair sets; returns those that were built without authors."""
    without = []
    for manifest in artifacts:
        if manifest.kind != "pairs":
            continue
        has_rows = has_authors = False
        for path in _tables(manifest):
            rows = _slim(storage, manifest, path)
            has_rows |= rows.num_rows > 0
            has_authors |= any(rows[name].null_count < rows.num_rows for name in filter(_is_author, rows.column_names))
            traces.follow(rows)
        if has_rows and not has_authors:
            without.append(manifest.reference)
    return tuple(without)


@dataclass(frozen=True)
class _Change:
    """An artifact as it stands, and how many rows are to go from which of its files."""

    manifest: Manifest
    rows: dict[str, int]

    @property
    def rows_by_folder(self) -> dict[str, int]:
        """As the manifest counts them; a table beside the manifest counts under its own name."""
        counted: Counter[str] = Counter()
        for path, num_rows in self.rows.items():
            counted[_folder(path)] += num_rows
        return dict(counted)


def _changes(storage: Storage, artifacts: Sequence[Manifest], traces: _Traces, progress: Progress) -> Iterator[_Change]:
    for done, manifest in enumerate(artifacts):
        progress("look into artifacts", done, len(artifacts))
        counted = {
            path: int(pc.sum(traces.hits(manifest.kind, _slim(storage, manifest, path))).as_py() or 0)
            for path in _tables(manifest)
        }
        yield _Change(manifest, {path: num_rows for path, num_rows in counted.items() if num_rows})


@dataclass(frozen=True)
class _Lineage:
    """Which models learned from the rows that go, or from such a model; the names of those before and in doubt."""

    saw: tuple[Manifest, ...]
    before: tuple[str, ...]
    unknown: tuple[str, ...]

    @classmethod
    def of(cls, storage: Storage, changes: Sequence[_Change]) -> "_Lineage":
        """Follow the inputs that manifests name."""
        models = storage.list("models")
        pairs = {change.manifest.reference: change for change in changes if change.manifest.kind == "pairs"}
        saw: dict[str, Manifest] = {}
        unknown: set[str] = set()
        for _ in models:  # as many rounds as the longest lineage can have
            for model in models:
                verdicts = {_verdict(model, entry, pairs, saw, unknown) for entry in model.inputs}
                if True in verdicts:
                    saw[model.reference] = model
                elif None in verdicts:
                    unknown.add(model.reference)
        before = [model.reference for model in models if SAW_FORGOTTEN in model.counts and model.reference not in saw]
        return cls(tuple(saw[name] for name in sorted(saw)), tuple(before), tuple(sorted(unknown - set(saw) - set(before))))


def _verdict(
    model: Manifest, entry: Input, pairs: dict[str, _Change], saw: dict[str, Manifest], unknown: set[str]
) -> bool | None:
    """Whether `model` saw the rows through this input; None where that input no longer stands as it was."""
    if entry.name in saw:
        return True if entry.sha256 == saw[entry.name].as_input().sha256 else None
    if entry.name in unknown:
        return None
    if entry.name not in pairs:
        return False
    change = pairs[entry.name]
    if entry.sha256 not in _hashes(change.manifest):
        return None
    return not _trained_on(model, change.manifest).isdisjoint(change.rows_by_folder)


def _trained_on(model: Manifest, pairs: Manifest) -> set[str]:
    """The folders whose rows a model learned from: "gm-dpo1" and a sweep's "gm-dpo1-1a2b3c4d" from gm-dpo/train.

    A model of another name learned from any of them.
    """
    trained = _TRAINED.match(model.name)
    own = f"{trained[0]}/train" if trained else ""
    return {own} if pairs.files_under(own) else {_folder(entry.path) for entry in pairs.files if "/train/" in entry.path}


def _hashes(manifest: Manifest) -> set[str]:
    """By which an artifact may be named as an input: as it stands, or as it stood before rows were taken out."""
    return {manifest.as_input().sha256, *manifest.counts.get(FORGOTTEN, {}).get("was", [])}


def _rewrite(storage: Storage, change: _Change, traces: _Traces, at: str) -> None:
    """Write the changed files under new names, then exchange the manifest; the old files lie there until the sweep."""
    manifest = change.manifest
    files = {entry.path: entry for entry in manifest.files}
    gone = []
    for path in change.rows:
        table = _whole(storage, manifest, files.pop(path))
        hits = traces.hits(manifest.kind, table)
        gone.append(table.filter(hits))
        content = parquet(table.filter(pc.invert(hits)))
        entry = FileEntry.of(path, content)
        entry = replace(entry, path=_with_hash(path, entry.sha256))
        storage.write(f"{manifest.reference}/{entry.path}", content)
        files[entry.path] = entry
    storage.replace(
        replace(
            manifest, files=tuple(files[path] for path in sorted(files)), counts=_counts(change, gone) | _account(change, at)
        )
    )


def _counts(change: _Change, gone: Sequence[pa.Table]) -> dict[str, Any]:
    """The figures of the manifest that say how many rows there are; the account of how they came to be stays."""
    counts = dict(change.manifest.counts)
    if change.manifest.kind == "pairs" and "examples" in counts:
        removed = change.rows_by_folder
        counts["examples"] = {folder: num - removed.get(folder, 0) for folder, num in counts["examples"].items()}
    if change.manifest.kind == "generations":
        num_rows = sum(rows.num_rows for rows in gone)
        num_failed = sum(rows.num_rows - rows["error"].null_count for rows in gone)
        for key, num in (("prompts", num_rows), ("answered", num_rows - num_failed), ("failed", num_failed)):
            if key in counts:
                counts[key] -= num
    return counts


def _account(change: _Change, at: str) -> dict[str, Any]:
    earlier = change.manifest.counts.get(FORGOTTEN, {"rows": {}, "was": []})
    rows = Counter(earlier["rows"]) + Counter(change.rows_by_folder)
    was = [*earlier["was"], change.manifest.as_input().sha256]
    return {FORGOTTEN: {"at": at, "rows": dict(sorted(rows.items())), "was": was}}


def _delete_what_is_old(storage: Storage) -> int:
    """Delete what changed artifacts no longer list, also what a run that was cut off left; returns the copies deleted."""
    num_copies = 0
    for kind in KINDS:
        for manifest in storage.list(kind):
            if FORGOTTEN in manifest.counts:
                storage.sweep(manifest)
                num_copies += delete_stale_copies(manifest)
    return num_copies


def _leftovers(storage: Storage) -> tuple[str, ...]:
    """Folders that hold text and belong to no artifact: of builds that died, between their passes or before publishing."""
    found = []
    with store_errors(storage.uri):
        for parent in ("scratch", *KINDS):
            selector = pafs.FileSelector(storage.path(parent), allow_not_found=True)
            for info in storage.filesystem.get_file_info(selector):
                reference = f"{parent}/{info.base_name}"
                if info.type != pafs.FileType.Directory or (parent != "scratch" and storage.find(reference)):
                    continue
                below = storage.filesystem.get_file_info(pafs.FileSelector(info.path, recursive=True))
                if any(entry.type == pafs.FileType.File for entry in below):
                    found.append(reference)
    return tuple(sorted(found))


def _flags(config: Config, storage: Storage, changes: Sequence[_Change], traces: _Traces) -> list[int]:
    """The flags that hold a text of the rows of pairs that are to go; where there are no flags, no text is read."""
    flags = standing_flags(config.rate)
    texts = set[str]()
    for change in changes if flags else ():
        if change.manifest.kind == "pairs":
            entries = {entry.path: entry for entry in change.manifest.files}
            for path in change.rows:
                rows = _whole(storage, change.manifest, entries[path])
                rows = rows.filter(traces.hits("pairs", rows))
                texts |= set(texts_of(rows, traces.posts, traces.authors))
    return Wording(config).flags_with(flags, texts) if texts else []


def _exclude(path: Path | None, named: _Named) -> None:
    """Add to the exclude file what is not in it yet; a new one is for this user alone."""
    if path is None:
        return
    path = path.expanduser()
    known = read_exclusions(path) if path.exists() else Exclusions()
    there = {"post": known.posts, "author": known.authors}
    lines = [
        f"{domain} {value}\n"
        for domain, values in named.items()
        for value in dict.fromkeys(values)
        if not is_pseudonym(value) and value.lower() not in there[domain]
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+", encoding="utf-8") as stream:
            before = stream.read()
            stream.write("\n" * (bool(before) and not before.endswith("\n")) + "".join(lines))
    except OSError as error:
        raise ConfigError(
            f"corpus.exclude {path}: cannot be added to ({error.strerror}); name a text file of this user's"
        ) from None


def _advice(config: Config, storage: Storage, named: _Named, lineage: _Lineage, studies: StudyRows) -> Iterator[str]:
    if config.corpus.exclude is None:
        yield (
            "the dumps still hold it: set corpus.exclude to a file with a line `post ID` or `author NAME` for each, "
            "or the next build brings it back"
        )
    elif any(is_pseudonym(value) for values in named.values() for value in values):
        yield "a pseudonym cannot be excluded: add the id or the name to corpus.exclude, or the next build brings it back"
    if not storage.is_local:
        yield f"other machines may hold copies: delete {cache_folder() / 'artifacts'} on each, or run this there, too"
    if studies.rows:
        yield "exports of these studies still hold scores of it: delete them, and run `llumi rate export` again"
    if lineage.saw or lineage.before:
        yield "stop serving the models that were trained on it, and train them again"


def _tables(manifest: Manifest) -> list[str]:
    return [entry.path for entry in manifest.files if entry.path.endswith(".parquet")]


def _slim(storage: Storage, manifest: Manifest, path: str) -> pa.Table:
    """The columns of one file by which its rows are recognised."""
    with _readable(storage, manifest, path) as stream:
        file = pq.ParquetFile(stream)
        names = [name for name in file.schema_arrow.names if name in _IDENTIFIERS or _is_author(name)]
        return file.read(columns=names)


def _whole(storage: Storage, manifest: Manifest, entry: FileEntry) -> pa.Table:
    """One file, if it is what the manifest says: what is written from it gets a hash of its own."""
    with _readable(storage, manifest, entry.path) as stream:
        content = stream.read()
    if FileEntry.of(entry.path, content) != entry:
        raise ArtifactError(
            f"{storage.uri}/{manifest.reference}/{entry.path}: not what the manifest says; rebuild the artifact"
        )
    return pq.read_table(pa.BufferReader(content))


@contextlib.contextmanager
def _readable(storage: Storage, manifest: Manifest, path: str) -> Iterator[pa.NativeFile]:
    try:
        with store_errors(storage.uri), storage.filesystem.open_input_file(storage.path(manifest.reference, path)) as stream:
            yield stream
    except FileNotFoundError:
        raise ArtifactError(f"{storage.uri}/{manifest.reference}/{path}: listed, but not there; rebuild the artifact") from None


def _is_author(column: str) -> bool:
    return column == "author" or column.endswith("_author")


def _none(rows: pa.Table) -> pa.Array:
    return pa.array([False] * rows.num_rows, pa.bool_())


def _is_in(rows: pa.Table, column: str, values: set[str]) -> pa.Array:
    if column not in rows.column_names:
        return _none(rows)
    return pc.is_in(rows[column], value_set=pa.array(sorted(values), pa.string()))


def _values(rows: pa.Table, column: str, hits: pa.Array) -> set[str]:
    return set(rows[column].filter(hits).to_pylist())


def _folder(path: str) -> str:
    """The folder of a file within its artifact; a file outside of any stands under its own name."""
    place = PurePosixPath(path)
    return str(place.parent) if place.parent.name else _EARLIER_HASH.sub("", place.stem)


def _with_hash(path: str, sha256: str) -> str:
    """A name that no file of another content has: "part-00000-1a2b3c4d.parquet"."""
    place = PurePosixPath(path)
    return str(place.with_name(f"{_EARLIER_HASH.sub('', place.stem)}-{sha256[:8]}{place.suffix}"))
