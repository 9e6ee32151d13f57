"""Pseudonyms: a keyed hash in the place of every author and identifier.

Whoever holds the key can find a person's records again (to remove them); nobody else can tell whose they are, nor look
the thread up. The key lies apart from every artifact: in LLUMI_PRIVACY_KEY, or in a file that is made on first use.
"""

import hashlib
import os
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import polars as pl

from llumi.config import Config
from llumi.errors import ConfigError

KEY_VARIABLE = "LLUMI_PRIVACY_KEY"
MIN_KEY_CHARACTERS = 16
PSEUDONYM_BYTES = 12
"""96 bits: among 10^9 records two share a pseudonym with probability 10^-11."""

Domain = Literal["author", "post", "comment"]


@dataclass(frozen=True)
class Pseudonymizer:
    """Keyed BLAKE2b (RFC 7693), one domain for authors, posts and comments each, so that equal names stay unlinked."""

    key: bytes = field(repr=False)

    @classmethod
    def from_secret(cls, secret: str) -> Self:
        """From the text that an operator keeps, of any length."""
        return cls(hashlib.blake2b(secret.encode(), digest_size=32, person=b"llumi-key").digest())

    @classmethod
    def open(cls, config: Config) -> Self:
        """With the key of this deployment; raises ConfigError where it is too short or lies inside the storage."""
        secret = os.environ.get(KEY_VARIABLE, "").strip()
        where = KEY_VARIABLE
        if not secret:
            path = config.privacy.key_file.expanduser().absolute()
            where = f"privacy.key_file {path}"
            _refuse_inside_storage(path, config.storage.uri)
            secret = _read_or_make(path)
        if len(secret) < MIN_KEY_CHARACTERS:
            raise ConfigError(f"{where}: a key of {len(secret)} characters; give at least {MIN_KEY_CHARACTERS}, at random")
        return cls.from_secret(secret)

    def pseudonym(self, domain: Domain, raw: str) -> str:
        """24 hexadecimal digits for an author's name or an identifier without its prefix."""
        keyed = self._keyed[domain].copy()
        if domain == "author":
            raw = raw.lower()  # the site knows no case in names, and dumps disagree
        keyed.update(raw.encode("utf-8", "surrogatepass"))
        return keyed.hexdigest()

    def column(self, domain: Domain, raws: pl.Series) -> pl.Series:
        """The pseudonym of each row; empty text stays empty."""
        distinct = raws.unique()
        pseudonyms = pl.Series([self.pseudonym(domain, raw) if raw else "" for raw in distinct], dtype=pl.String)
        return raws.replace_strict(distinct, pseudonyms, return_dtype=pl.String)

    def hashed(self, domain: Domain, raws: pl.Series) -> pl.Series:
        """64 bits for each row, keyed and fast, for what stays within one run and need not be found again."""
        seed = hashlib.blake2b(domain.encode(), key=self.key, digest_size=8, person=b"seed").digest()
        return raws.hash(int.from_bytes(seed, "big"))

    @property
    def key_id(self) -> str:
        """Which key this is, without a way back to it; another key makes other pairs."""
        return hashlib.blake2b(key=self.key, digest_size=8, person=b"key-id").hexdigest()

    @cached_property
    def _keyed(self) -> "dict[Domain, hashlib.blake2b]":
        """Hash states that have taken in the key already: copying one costs half of keying it again."""
        domains: tuple[Domain, ...] = ("author", "post", "comment")
        return {name: hashlib.blake2b(key=self.key, digest_size=PSEUDONYM_BYTES, person=name.encode()) for name in domains}

    def __getstate__(self) -> dict[str, bytes]:
        return {"key": self.key}  # hash states cannot be pickled


def _refuse_inside_storage(path: Path, storage_uri: str) -> None:
    if storage_uri.startswith("s3://"):
        return
    root = Path(storage_uri).expanduser().absolute().resolve()
    if path.resolve().is_relative_to(root):
        raise ConfigError(f"privacy.key_file {path}: lies inside storage.uri {root}; keep the key apart from the artifacts")


def _read_or_make(path: Path) -> str:
    try:
        if not path.exists():
            _make(path)
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not a text of hexadecimal digits"
        raise ConfigError(
            f"privacy.key_file {path}: cannot be used ({problem}); name a file of this user's, or set {KEY_VARIABLE}"
        ) from None


def _make(path: Path) -> None:
    """Write a new key whole or not at all; of two processes that try at once, the first one's key stands."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return
    finally:
        partial.unlink()
