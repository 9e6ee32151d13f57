"""The audit log: a chain in which whatever was done to it shows, and that a crash or a full disk does not end."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from llumi.config import ServeConfig, StorageConfig
from llumi.errors import AuditError
from llumi.serve.audit import AuditLog, audit_folder, log_files
from llumi.serve.audit_check import verify
from llumi.storage import Storage

WHOLE = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def write(folder: Path, count: int = WHOLE, **options: int) -> None:
    log = AuditLog(folder, **options)
    for number in range(count):
        log.write({"time": "2026-11-26T10:00:00.000Z", "status": 200, "route": f"/v1/{number}"})
    log.close()


def only_file(folder: Path) -> Path:
    [file] = log_files(folder)
    return file


def test_the_chain_holds_over_starts_and_files(folder: Path):
    write(folder)
    write(folder, file_bytes=900)
    write(folder, file_bytes=900)
    assert len(log_files(folder)) > 2
    assert all(file.stat().st_size <= 2000 for file in log_files(folder))
    verdict = verify(folder)
    assert (verdict.lines, verdict.first, verdict.torn) == (3 * WHOLE, 1, 0)
    later = log_files(folder)[1]
    assert verify(later).first == len(log_files(folder)[0].read_bytes().splitlines()) + 1


def altered(lines: list[bytes]) -> tuple[list[bytes], int]:
    return [line.replace(b'"status":200', b'"status":201') if number == 2 else line for number, line in enumerate(lines)], 3


def altered_at_the_end(lines: list[bytes]) -> tuple[list[bytes], int]:
    return [*lines[:-1], lines[-1].replace(b"200", b"201")], WHOLE


def removed(lines: list[bytes]) -> tuple[list[bytes], int]:
    return lines[:2] + lines[3:], 3


def removed_at_the_beginning(lines: list[bytes]) -> tuple[list[bytes], int]:
    return lines[1:], 1


def reordered(lines: list[bytes]) -> tuple[list[bytes], int]:
    return [lines[0], lines[2], lines[1], *lines[3:]], 2


def inserted(lines: list[bytes]) -> tuple[list[bytes], int]:
    return [*lines[:3], b"not a line", *lines[3:]], 5


def repeated(lines: list[bytes]) -> tuple[list[bytes], int]:
    return [*lines[:3], lines[2], *lines[3:]], 4


@pytest.mark.parametrize(
    "done",
    [altered, altered_at_the_end, removed, removed_at_the_beginning, reordered, inserted, repeated],
    ids=lambda f: f.__name__,
)
def test_whatever_was_done_to_it_shows_at_the_first_line_where_it_does(folder: Path, done):
    write(folder)
    file = only_file(folder)
    lines, where = done(file.read_bytes().splitlines())
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(AuditError, match=rf"^{re.escape(str(file))}:{where}: the chain breaks here: "):
        verify(folder)


def test_any_byte_that_is_changed_shows(folder: Path):
    write(folder)
    file = only_file(folder)
    whole = file.read_bytes()
    for place in random.Random(3).sample(range(len(whole)), 150):
        changed = bytearray(whole)
        changed[place] ^= 1 << random.Random(place).randrange(8)
        file.write_bytes(changed)
        try:
            verdict = verify(folder)
        except AuditError:
            continue
        assert verdict.torn == 1  # of the last line's hash field: it looks as if a crash had torn it, and is said so
        assert verdict.lines == WHOLE - 1


def test_a_file_that_is_gone_shows(folder: Path):
    write(folder, 20, file_bytes=900)
    log_files(folder)[1].unlink()
    with pytest.raises(AuditError, match=r"audit-000003\.jsonl:1: the chain breaks here: line \d+ was removed"):
        verify(folder)


def test_an_end_that_was_cut_off_shows_against_a_head_that_was_noted(folder: Path):
    write(folder)
    head = verify(folder).head.hash
    write(folder)
    assert verify(folder, head).lines == 2 * WHOLE
    file = only_file(folder)
    file.write_bytes(b"".join(line + b"\n" for line in file.read_bytes().splitlines()[:-8]))
    assert verify(folder).lines == 2 * WHOLE - 8
    with pytest.raises(AuditError, match=f"no line has the hash {head}: the end was cut off"):
        verify(folder, head)


@pytest.mark.parametrize("torn", [1, 40, -1], ids=["a-byte", "some", "all-but-the-newline"])
def test_a_line_that_a_crash_tore_is_closed_off_by_the_next_start(folder: Path, torn: int):
    write(folder)
    file = only_file(folder)
    *before, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(before) + last[:torn])
    whole = torn == -1
    assert verify(folder).torn == (not whole)
    write(folder, 2)
    verdict = verify(folder)
    assert verdict.torn == (not whole)
    assert verdict.lines == WHOLE + 2  # whole: the line itself; torn: the line that closes it off
    assert last[:torn] in file.read_bytes()


def test_a_crash_while_a_torn_line_is_closed_off_is_closed_off_too(folder: Path):
    write(folder)
    file = only_file(folder)
    whole = file.read_bytes()
    for torn in (b'{"number":7,"ti', b'{"number":7,"ti\n', b'{"number":7,"ti\n{"number":7,"time', b"\n\n"):
        file.write_bytes(whole + torn)
        write(folder, 1)
        assert (verify(folder).lines, verify(folder).torn) == (WHOLE + 2, 1)


def test_a_file_that_was_torn_in_its_first_line_goes_on_from_the_file_before(folder: Path):
    write(folder, 20, file_bytes=900)
    last = log_files(folder)[-1]
    last.write_bytes(last.read_bytes()[:30])
    write(folder, 3)
    assert verify(folder).torn == 1


def test_a_last_line_that_was_altered_is_not_gone_on_from(folder: Path):
    write(folder)
    file = only_file(folder)
    file.write_bytes(file.read_bytes().replace(b"/v1/5", b"/v1/6"))
    with pytest.raises(AuditError, match="its last line was altered; keep this log"):
        AuditLog(folder)


ENDLESS = """
import sys
from pathlib import Path
from llumi.serve.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
print("up", flush=True)
while True:
    log.write({"status": 200, "route": "/v1/draft"})
"""


def test_a_writer_that_is_killed_leaves_a_chain(folder: Path):
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", ENDLESS, str(folder)], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"up\n"
        time.sleep(0.2)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert verify(folder).lines > 100


def test_one_log_has_one_writer(folder: Path):
    log = AuditLog(folder)
    with pytest.raises(AuditError, match="another service writes its log there"):
        AuditLog(folder, lock_seconds=0)
    log.close()
    AuditLog(folder, lock_seconds=0).close()


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(AuditError, match=r"file/audit: cannot be written to \(Not a directory\); correct serve\.audit"):
        AuditLog(tmp_path / "file" / "audit")
    with pytest.raises(AuditError, match="no audit log"):
        verify(tmp_path)


def test_a_full_disk_leaves_no_part_of_a_line_and_is_over_when_there_is_room(folder: Path, monkeypatch: pytest.MonkeyPatch):
    log = AuditLog(folder)
    log.write({"status": 200})
    real = os.write

    def nearly_full(file: int, content: bytes) -> int:
        return real(file, content[:10])

    def full(file: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for broken in (nearly_full, full):
        with monkeypatch.context() as disk:
            disk.setattr(os, "write", broken)
            log.write({"status": 200})
            assert not log.writable
        assert verify(folder).torn == 0
        log.write({"status": 503})
        assert log.writable
    log.close()
    assert verify(folder).lines == 3


def test_a_line_is_json_with_the_hash_of_the_one_before(folder: Path):
    write(folder, 2)
    first, second = (orjson.loads(line) for line in only_file(folder).read_bytes().splitlines())
    assert list(first) == ["number", "time", "status", "route", "previous", "hash"]
    assert (first["number"], second["number"], second["previous"]) == (1, 2, first["hash"])


def test_the_log_is_beside_the_artifacts_where_they_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_storage):
    local = Storage.open(StorageConfig(uri=str(tmp_path)))
    assert audit_folder(ServeConfig(), local) == tmp_path / "audit"
    assert audit_folder(ServeConfig(audit=Path("/var/log/llumi")), local) == Path("/var/log/llumi")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert audit_folder(ServeConfig(), Storage.open(s3_storage)) == tmp_path / ".local/state/llumi/audit"
