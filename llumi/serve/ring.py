"""The keys as a router holds them: in memory, read again as soon as one changes, wherever it was changed."""

import logging
import threading
import time
from collections.abc import Sequence

from llumi.errors import LlumiError
from llumi.serve.keys import Clock, Key, KeyStore, hashed

POLL_SECONDS = 2.0
"""How long a revoked key may still open."""

REREAD_SECONDS = 60.0
"""The keys are read again after this time even so: somebody may have changed a file by hand."""

_log = logging.getLogger(__name__)


class KeyRing:
    """Looks keys up by the hash of what a client sent.

    The look-up is one in a dict, whatever was sent: wrong keys cost no more than right ones, and leave nothing behind.
    How long it takes tells nothing either, since nobody can choose the hash of a secret that is to be found.
    """

    def __init__(self, store: KeyStore, own: Sequence[Key] = (), clock: Clock = time.time) -> None:
        """Read the keys of `store` beside `own`, which are in no store; raises StoreError or AccessError."""
        self._store = store
        self._own = tuple(own)
        self._clock = clock
        self._version: bytes | None = None
        self._read_at = float("-inf")
        self._failing = False
        self._by_hash: dict[str, Key] = {}
        self._stopped = threading.Event()
        self.refresh()

    def find(self, secret: str) -> tuple[Key | None, str | None]:
        """The key of a secret, and why it does not open, where it does not; no key where nobody knows the secret."""
        secret_hash = hashed(secret)
        key = self._by_hash.get(secret_hash)
        return (None, None) if key is None else (key, key.refusal(secret_hash, self._clock()))

    def refresh(self) -> None:
        """Read the keys where they have changed."""
        version = self._store.version()
        if version == self._version and time.monotonic() - self._read_at < REREAD_SECONDS:
            return
        by_hash: dict[str, Key] = {}
        for key in (*self._store.all(), *self._own):
            by_hash[key.hash] = key
            if key.replaced is not None:
                by_hash[key.replaced.hash] = key
        # The version was read first: a change that came since is another version, and read the next time.
        self._by_hash, self._version, self._read_at = by_hash, version, time.monotonic()

    def watch(self) -> None:
        """Refresh every POLL_SECONDS in the background, for as long as this process lives or until `close`.

        While the store does not answer, the keys that are known go on to open: an outage of the store is none of the service.
        """
        threading.Thread(target=self._watch, name="keys", daemon=True).start()

    def close(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            try:
                self.refresh()
            except Exception as error:  # whatever it is: were the thread to end, revoked keys would stay open
                if not self._failing:
                    reason = str(error) if isinstance(error, LlumiError) else type(error).__name__
                    _log.error("keys cannot be read, those known go on to open: %s", reason)
                self._failing = True
            else:
                self._failing = False
