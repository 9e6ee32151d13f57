"""A small file of pairs that people preferred, read and checked row by row: NDJSON (plain, .zst or .gz) or Parquet.

A row that is not right is an error and not a count: somebody made the file by hand or by a script, and can mend it.
"""

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from llumi.corpus.dump import Form, form_of, read_lines
from llumi.corpus.privacy import Domain, bare_name
from llumi.errors import PairsError
from llumi.prompts import Role

_EXPECTED = "expected NDJSON (.ndjson, .jsonl or .json, also with .zst or .gz behind it) or .parquet"
_COMPRESSED: dict[str, Form] = {"": "plain", ".zst": "zstd", ".gz": "gzip"}
_FORMS: dict[str, Form] = {
    **{name + suffix: form for name in (".ndjson", ".jsonl", ".json") for suffix, form in _COMPRESSED.items()},
    ".parquet": "parquet",
}


def _text(value: str) -> str:
    text = value.replace("\0", "").strip()
    if not text:
        raise ValueError("is empty; give a text")
    return text


def _named(domain: Domain) -> AfterValidator:
    def bare(value: str) -> str:
        name = bare_name(domain, value)
        if name is None:  # llumi forget could not be asked for it
            raise ValueError("is empty, of several words, or holds a #; give one word, or leave it out")
        return name

    return AfterValidator(bare)


Text = Annotated[str, AfterValidator(_text)]
Author = Annotated[str, _named("author")]
PostId = Annotated[str, _named("post")]


class PreferredPair(BaseModel):
    """One row: to `post` somebody preferred `chosen` over `rejected`; for IM both revise `draft`.

    `weight` says how much the pair counts. Identifiers and names are raw here, or pseudonyms already; `rater` is who
    preferred, the others wrote the texts. Where several were asked, `agreement` is the share of `num_raters` who preferred.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Role
    post: Text
    draft: Text | None = None
    chosen: Text
    rejected: Text
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    community: Text | None = None
    post_id: PostId | None = None
    post_author: Author | None = None
    draft_author: Author | None = None
    chosen_author: Author | None = None
    rejected_author: Author | None = None
    rater: Author | None = None
    num_raters: int | None = Field(None, ge=1)
    agreement: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _draft_where_it_belongs(self) -> Self:
        if self.role == "im" and self.draft is None:
            raise ValueError("draft: missing; a row for im needs the draft that was revised")
        if self.role == "gm" and (self.draft is not None or self.draft_author is not None):
            raise ValueError("draft: there is none for gm; leave it out with its author, or set role to im")
        return self

    @model_validator(mode="after")
    def _texts_differ(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError("rejected: the same text as chosen; give two texts of which one was preferred")
        return self


FIELDS = PreferredPair.model_fields
REQUIRED = [name for name, field in FIELDS.items() if field.is_required()]
_SCHEMA = dict.fromkeys(FIELDS, pl.String()) | {"weight": pl.Float64(), "num_raters": pl.Int64(), "agreement": pl.Float64()}


@dataclass(frozen=True)
class PreferredPairs:
    """The rows of one file, in its order, a column for each field of `PreferredPair`; and the hash of the file."""

    rows: pl.DataFrame
    sha256: str


def read_preferred(file: Path) -> PreferredPairs:
    """Read and check the whole file.

    Raises PairsError in one line for the first thing that is not right: the file, the line or row, the field, and what
    would be right, never the text itself.
    """
    content = _content(file)
    form = _form(file, content)
    found = _parquet_rows(file, content) if form == "parquet" else _lines(file, content, form)
    rows = [_checked(where, row) for where, row in found]
    if not rows:
        raise PairsError(f"{file}: holds no pair; give one a row, with {', '.join(REQUIRED)}")
    frame = pl.DataFrame([row.model_dump() for row in rows], schema=_SCHEMA)
    return PreferredPairs(frame, hashlib.sha256(content).hexdigest())


def _content(file: Path) -> bytes:
    try:
        return file.expanduser().read_bytes()
    except OSError as error:
        raise PairsError(f"{file}: cannot be read ({error.strerror}); {_EXPECTED}") from None


def _form(file: Path, content: bytes) -> Form:
    """What the name promises, where the first bytes agree."""
    promised = next((form for suffix, form in _FORMS.items() if file.name.lower().endswith(suffix)), None)
    if promised is None:
        raise PairsError(f"{file}: not a known suffix; {_EXPECTED}")
    if not content:
        raise PairsError(f"{file}: is empty, 0 bytes long; {_EXPECTED}")
    found = form_of(content[:4])
    if found != promised:
        raise PairsError(f"{file}: named as {promised}, but begins as {found} does; name it after what it is")
    return promised


def _lines(file: Path, content: bytes, form: Form) -> Iterator[tuple[str, dict[str, Any]]]:
    text, is_cut = read_lines(content, form)
    if is_cut and form != "plain":
        num_whole = text.count(b"\n")
        raise PairsError(f"{file}: cut off or damaged after {num_whole} whole lines; write or copy it again")
    for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise PairsError(f'{file}: line {number}: not a whole JSON object; give one pair a line, as {{"role": "gm", ...}}')
        yield f"{file}: line {number}", row


def _parquet_rows(file: Path, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table = pq.read_table(pa.BufferReader(content))
        missing = [name for name in REQUIRED if name not in table.column_names]
        if missing:
            raise PairsError(f"{file}: no column {' and no '.join(missing)}; expected {', '.join(FIELDS)}")
        for number, row in enumerate(table.to_pylist(), start=1):
            yield f"{file}: row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise PairsError(f"{file}: not a whole Parquet file with text in UTF-8; write or copy it again") from None


def _checked(where: str, row: dict[str, Any]) -> PreferredPair:
    """A field that is null counts as left out: Parquet has no other way to say it."""
    try:
        return PreferredPair.model_validate({name: value for name, value in row.items() if value is not None})
    except ValidationError as error:
        raise PairsError(f"{where}: {_problem(error)}") from None


def _problem(error: ValidationError) -> str:
    """The first field that is not right, and what would be; names that are not ours might be text, so they are not said."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    match first["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(field, FIELDS, n=1)
            return f"a field of another name{f' (is it {near[0]}?)' if near else ''}; there are {', '.join(FIELDS)}"
        case "missing":
            return f"{field}: missing; every row needs {', '.join(REQUIRED)}"
        case "value_error":
            return f"{field}: {first['ctx']['error']}" if field else str(first["ctx"]["error"])
        case _:
            return f"{field}: should be {first['msg'].removeprefix('Input should be ')}"
