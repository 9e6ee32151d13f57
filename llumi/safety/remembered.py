"""Scores of sentences that were scored before: chats repeat their history, and helpers ask again for the same post."""

import hashlib
import secrets
from collections import OrderedDict
from threading import Lock
from typing import Self

import numpy as np
import numpy.typing as npt

SENTENCES = 4096

Array = npt.NDArray[np.float32]


class Remembered:
    """The last `size` scores that were asked for; safe to use from several threads.

    A sentence is known by a hash with a key that this process drew and never shows, so nobody who reads its memory without
    the key can try sentences against it. A copy that is sent to another process starts empty, with a key of its own.
    """

    def __init__(self, size: int = SENTENCES) -> None:
        self._size = size
        self._key = secrets.token_bytes(32)
        self._scores: OrderedDict[bytes, Array] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        return type(self), (self._size,)

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, sentence: str) -> Array | None:
        """The scores of a sentence, or None."""
        name = self._name(sentence)
        with self._lock:
            if name in self._scores:
                self._scores.move_to_end(name)
            return self._scores.get(name)

    def put(self, sentence: str, scores: Array) -> None:
        """Keep them, and forget what was asked for longest ago."""
        name = self._name(sentence)
        with self._lock:
            self._scores[name] = scores
            self._scores.move_to_end(name)
            if len(self._scores) > self._size:
                self._scores.popitem(last=False)

    def _name(self, sentence: str) -> bytes:
        return hashlib.blake2b(sentence.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()
