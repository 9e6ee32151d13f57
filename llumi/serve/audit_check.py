"""Whether the chain of an audit log holds, or the first line where it does not."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llumi.errors import AuditError
from llumi.serve.audit import Head, log_files, opened


@dataclass(frozen=True)
class Verdict:
    """What was found: how many lines, from which number to which head, how many were torn by a crash.

    `refused` is the number of requests that have no line of their own, since they came in a flood without a key that opens.
    """

    lines: int
    first: int
    head: Head
    torn: int
    refused: int = 0


def verify(path: Path, head: str | None = None) -> Verdict:
    """Follow the chain through a folder's files, or through one file.

    A folder must begin with line 1; a single file may begin anywhere. `head` is a hash that was noted earlier: it must be
    in the chain, else lines were cut off at its end. Raises AuditError, naming file and line, where the chain breaks.
    """
    files = [path] if path.is_file() else log_files(path)
    if not files:
        raise AuditError(f"{path}: no audit log; give the folder of serve.audit, or one of its files")
    current: Head | None = Head() if path.is_dir() else None
    lines = first = num_torn = num_refused = 0
    seen_head = head is None
    torn: list[bytes] = []
    for where, line in _lines(files):
        try:
            fields = opened(line)
        except AuditError:
            raise AuditError(f"{where}: the chain breaks here: this line was altered") from None
        if fields is None:
            torn.append(line)
            continue
        if torn:
            if fields.get("torn") != hashlib.sha256(b"\n".join(torn)).hexdigest():
                raise AuditError(
                    f"{where}: the chain breaks here: what stands before this line is no line, and no start closed it off"
                )
            torn, num_torn = [], num_torn + 1
        current = current or Head(fields["number"] - 1, fields["previous"])
        if (fields["number"] - 1, fields["previous"]) != (current.number, current.hash):
            raise AuditError(f"{where}: the chain breaks here: line {current.number + 1} was removed, moved or written anew")
        current = Head(fields["number"], fields["hash"])
        first = first or current.number
        seen_head = seen_head or current.hash == head
        lines += 1
        num_refused += fields.get("refused", 0)
    if not seen_head:
        raise AuditError(f"{path}: no line has the hash {head}: the end was cut off, or the whole was written anew")
    return Verdict(lines, first, current or Head(), num_torn + bool(torn), num_refused)


def _lines(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield f"{file}:{number}", line.removesuffix(b"\n")
