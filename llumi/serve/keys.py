"""The keys of the service, in the store: any router of the deployment reads them, and no database need be kept for them.

Only a hash is at rest. SHA-256 without salt or stretching suffices: a secret is 256 random bits, which nobody can try
through, and a fast hash keeps it cheap to turn a wrong key away.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict, ValidationError

from llumi.config import ARTIFACT_NAME
from llumi.errors import AccessError
from llumi.storage import Storage, store_errors

Scope = Literal["gm", "im", "rate", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Clock = Callable[[], float]
FOLDER = "keys"
VERSION = f"{FOLDER}/VERSION"
"""Written anew after every change: routers ask for this one file, and read the keys when it is another."""

PREFIX = "llumi_"
"""Of every secret, so that one that was committed or posted by mistake can be found by its look."""

SECRET_BYTES = 32
DAY_SECONDS = 86400


class Replaced(BaseModel):
    """The secret before the last rotation, and until when it still opens (seconds since 1970)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: str
    until: float


class Key(BaseModel):
    """Who may ask for what, and how much; times are seconds since 1970. `id` stands in the audit log, `name` does not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    scopes: tuple[Scope, ...]
    hash: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    replaced: Replaced | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def refusal(self, secret_hash: str, now: float) -> str | None:
        """Why the secret of this hash, which is or was this key's, does not open; None where it does."""
        if self.revoked_at is not None:
            return "was revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "has expired"
        if secret_hash != self.hash and (self.replaced is None or now >= self.replaced.until):
            return "was replaced by a new secret"
        return None

    def state(self, now: float) -> str:
        """As `llumi keys list` shows it."""
        return (self.refusal(self.hash, now) or "open").removeprefix("has ").removeprefix("was ")


def new_secret() -> str:
    """A secret that nobody has yet."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def hashed(secret: str) -> str:
    """How a secret is kept, and looked up."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_key(
    name: str,
    secret: str,
    scopes: Iterable[str],
    now: float,
    *,
    days: float | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> Key:
    """The key that `secret` opens from now on, for `days` or for good; raises AccessError for a scope that there is not."""
    wanted = set(scopes)
    if unknown := ", ".join(sorted(wanted.difference(SCOPES))):
        raise AccessError(f"scope {unknown}: no such scope; there are {', '.join(SCOPES)}")
    return Key(
        id=f"k-{secrets.token_hex(4)}",
        name=name,
        scopes=tuple(scope for scope in SCOPES if scope in wanted),
        hash=hashed(secret),
        created_at=now,
        expires_at=None if days is None else now + days * DAY_SECONDS,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )


class KeyStore:
    """The keys below `keys/` of a store, a file each, so that changes to two keys at once do not lose one another."""

    def __init__(self, storage: Storage, clock: Clock = time.time) -> None:
        self._storage = storage
        self._clock = clock

    def version(self) -> bytes | None:
        """Another value after every change; None where no key was ever made."""
        return self._storage.read(VERSION)

    def all(self) -> list[Key]:
        """All of them, the oldest first, those that open nothing any more as well."""
        selector = pafs.FileSelector(self._storage.path(FOLDER), allow_not_found=True)
        with store_errors(self._storage.uri):
            names = [info.base_name for info in self._storage.filesystem.get_file_info(selector)]
        keys = [self._read(name) for name in names if name.endswith(".json")]
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        days: float | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which is kept nowhere. Raises AccessError for a name that is taken, or is none."""
        if not re.fullmatch(ARTIFACT_NAME, name):
            raise AccessError(f"key {name!r}: not a name; take lower-case letters, digits, dots and dashes, such as clinic-web")
        if self._open(name):
            raise AccessError(f"key {name}: stands already; take another name, or `llumi keys rotate {name}` for a new secret")
        secret = new_secret()
        key = make_key(
            name,
            secret,
            scopes,
            self._clock(),
            days=days,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        self._write(key)
        return key, secret

    def rotate(self, name: str, grace_hours: float = 0) -> tuple[Key, str]:
        """A new secret for a key that is open; the one that it replaces goes on to open for `grace_hours`."""
        [key, *others] = self._named(name)
        if others:
            raise AccessError(
                f"key {name}: {1 + len(others)} keys have this name; `llumi keys revoke {name}`, and create it anew"
            )
        secret = new_secret()
        replaced = Replaced(hash=key.hash, until=self._clock() + grace_hours * 3600)
        rotated = key.model_copy(update={"hash": hashed(secret), "replaced": replaced})
        self._write(rotated)
        return rotated, secret

    def revoke(self, name: str) -> list[Key]:
        """Close every open key of this name, for good; returns them as they are now."""
        revoked = [key.model_copy(update={"revoked_at": self._clock()}) for key in self._named(name)]
        for key in revoked:
            self._write(key)
        return revoked

    def any_open(self) -> bool:
        """Whether anybody could get in."""
        return any(key.state(self._clock()) == "open" for key in self.all())

    def _open(self, name: str) -> list[Key]:
        return [key for key in self.all() if key.name == name and key.state(self._clock()) == "open"]

    def _named(self, name: str) -> list[Key]:
        named = self._open(name)
        if not named:
            there = ", ".join(key.name for key in self.all() if key.state(self._clock()) == "open") or "none"
            raise AccessError(f"key {name}: no open key has this name; there are: {there}")
        return named

    def _read(self, name: str) -> Key:
        content = self._storage.read(f"{FOLDER}/{name}")
        try:
            return Key.model_validate_json(content or b"")
        except ValidationError:
            raise AccessError(f"{self._storage.uri}/{FOLDER}/{name}: not a key of LLUMI; delete this file") from None

    def _write(self, key: Key) -> None:
        self._storage.put(f"{FOLDER}/{key.id}.json", key.model_dump_json().encode())
        self._storage.put(VERSION, secrets.token_hex(8).encode())
