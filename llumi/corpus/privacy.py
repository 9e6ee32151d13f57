"""Pseudonyms: a keyed hash in the place of every author and identifier.

Whoever holds the key can find a person's records again (to remove them); nobody else can tell whose they are, nor look
the thread up. The key lies apart from every artifact: in LLUMI_PRIVACY_KEY, or in a file that is made on first use.
"""

import hashlib
import os
import re
import secrets
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
import polars as pl
import pyarrow as pa
from pandas.util import hash_array

from llumi.config import Config
from llumi.errors import ConfigError

KEY_VARIABLE = "LLUMI_PRIVACY_KEY"
MIN_KEY_CHARACTERS = 16
PSEUDONYM_BYTES = 12
"""96 bits: among 10^9 records two share a pseudonym with probability 10^-11."""

_KEY_LETTERS = string.ascii_letters + string.digits + "-_"

Domain = Literal["author", "post", "comment"]

_PREFIXES: dict[Domain, tuple[str, ...]] = {"post": ("t3_",), "author": ("/u/", "u/"), "comment": ("t1_",)}
_PSEUDONYM = re.compile(rf"[0-9a-f]{{{2 * PSEUDONYM_BYTES}}}")


@dataclass(frozen=True)
class Pseudonymizer:
    """SipHash-2-4 (Aumasson and Bernstein 2012) under two keys: a pseudorandom function that pandas applies to whole columns.

    The keys are derived with BLAKE2b (RFC 7693) for each domain, so that equal names of authors and posts stay unlinked.
    """

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
        """24 hexadecimal digits for an author's name or an identifier without its prefix; empty text stays empty."""
        return str(self.column(domain, pl.Series([raw]))[0])

    def column(self, domain: Domain, raws: pl.Series) -> pl.Series:
        """The pseudonym of each row."""
        if domain == "author":
            raws = raws.str.to_lowercase()  # the site knows no case in names, and dumps disagree
        return hex_digests(raws, self._keys(domain)).set(raws == "", "")

    def hashed(self, domain: Domain, raws: pl.Series) -> pl.Series:
        """64 bits for each row, keyed and fast, for what stays within one run and need not be found again."""
        seed = hashlib.blake2b(domain.encode(), key=self.key, digest_size=8, person=b"seed").digest()
        return raws.hash(int.from_bytes(seed, "big"))

    @property
    def key_id(self) -> str:
        """Which key this is, without a way back to it; another key makes other pairs."""
        return hashlib.blake2b(key=self.key, digest_size=8, person=b"key-id").hexdigest()

    def _keys(self, domain: Domain) -> tuple[str, str]:
        """Two keys of 16 bytes; pandas wants them as text, so each byte carries 6 bits."""
        digest = hashlib.blake2b(domain.encode(), key=self.key, digest_size=32, person=b"pseudonym").digest()
        text = "".join(_KEY_LETTERS[byte % 64] for byte in digest)
        return text[:16], text[16:]


def bare_name(domain: Domain, written: str) -> str | None:
    """A name or an identifier as people write it, without its prefix; None where it is empty, of several words, or has a #."""
    bare = written.strip()
    prefix = next((prefix for prefix in _PREFIXES[domain] if bare.startswith(prefix)), "")
    bare = bare.removeprefix(prefix)
    return bare if len(bare.split()) == 1 and "#" not in bare else None


def is_pseudonym(value: str) -> bool:
    """No name and no identifier of a dump is that long."""
    return _PSEUDONYM.fullmatch(value) is not None


def hex_digests(texts: pl.Series, keys: tuple[str, str]) -> pl.Series:
    """24 hexadecimal digits for each text: SipHash-2-4 under two keys of 16 characters, cut to 96 bits."""
    values = np.empty(len(texts), object)
    values[:] = texts.to_list()
    low, high = (hash_array(values, encoding="utf-8", hash_key=key, categorize=False) for key in keys)
    digests = np.column_stack([high.astype(">u8"), low.astype(">u8")]).view(np.uint8)[:, :PSEUDONYM_BYTES]
    digits = digests.tobytes().hex().encode()
    ends = pa.py_buffer(np.arange(0, len(digits) + 1, 2 * PSEUDONYM_BYTES))
    return pl.Series(texts.name, pl.from_arrow(pa.LargeStringArray.from_buffers(len(texts), ends, pa.py_buffer(digits))))


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
