"""Stands in for MinIO's `mc`, of which no package exists: the commands that setup.sh gives, carried out on a real server."""

import contextlib
import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider
from minio.error import S3Error

PROGRAM = """#!{python} -SE
import json, socket, sys
words = sys.argv[1:]
given = sys.stdin.read() if words[:3] == ["admin", "user", "add"] else ""
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    line.sendall(json.dumps([words, given]).encode() + b"\\n")
    status, said = json.loads(line.makefile().readline())
print(said, end="", file=sys.stderr if status else sys.stdout)
sys.exit(status)
"""


@dataclass(frozen=True)
class Mc:
    """What `mc` does to the server at `endpoint`, as its root user; the alias is always `store`."""

    endpoint: str
    user: str
    password: str

    @contextlib.contextmanager
    def installed(self, folder: Path) -> Iterator[None]:
        """Put a program `mc` into `folder`, which hands its arguments to this process: starts of Python would take minutes."""
        address = str(folder / "mc.socket")
        (folder / "mc").write_text(PROGRAM.format(python=sys.executable, address=address))
        (folder / "mc").chmod(0o755)
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                words, given = json.loads(self.rfile.readline())
                self.wfile.write(json.dumps(outer.run(words, given)).encode() + b"\n")

        with socketserver.UnixStreamServer(address, Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()

    def run(self, words: list[str], given: str) -> tuple[int, str]:
        """Do what one command line says, with `given` on standard input; its exit status and what it prints."""
        said = ""
        match words:
            case ["mb", "--ignore-existing", where]:
                if not self._server().bucket_exists(bucket_name=_bucket(where)):
                    self._server().make_bucket(bucket_name=_bucket(where))
            case ["version", "info", where]:
                said = f"{where} versioning is enabled" if self.keeps_versions(_bucket(where)) else f"{where} is un-versioned"
            case ["anonymous", "set", "none", where]:
                self._server().delete_bucket_policy(bucket_name=_bucket(where))
            case ["admin", "policy", "create", "store", name, file]:
                self.admin().policy_add(policy_name=name, policy_file=file)
            case ["admin", "user", "add", "store"]:
                name, secret = given.splitlines()
                self.admin().user_add(access_key=name, secret_key=secret)
            case ["admin", "policy", "attach", "store", name, "--user", user]:
                self.admin().policy_set(policy_name=name, user=user)  # the server is older than `attach`
            case _:
                return 2, f"mc: {' '.join(words)}: setup.sh gives a command that mc.py does not know\n"
        return 0, said + "\n"

    def admin(self) -> MinioAdmin:
        """The server, as its administrator."""
        return MinioAdmin(endpoint=self.endpoint, credentials=StaticProvider(self.user, self.password), secure=False)

    def keeps_versions(self, bucket: str) -> bool:
        """Whether what is deleted in the bucket stays."""
        try:
            return self._server().get_bucket_versioning(bucket_name=bucket).status == "Enabled"
        except S3Error as error:
            if error.code == "NotImplemented":
                return False
            raise

    def _server(self) -> Minio:
        return Minio(endpoint=self.endpoint, access_key=self.user, secret_key=self.password, secure=False)


def _bucket(where: str) -> str:
    return where.removeprefix("store/")
