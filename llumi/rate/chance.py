"""Chance that follows from a study's seed: the same seed, rater and item give the same order and the same sides."""

import hashlib


def draw(seed: int, *names: object) -> int:
    """A number below 2^64 for what `names` say, as good as random."""
    said = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8, person=b"rating").digest(), "big")


def coin(seed: int, *names: object) -> bool:
    """Heads or tails."""
    return bool(draw(seed, *names) & 1)


def fraction(seed: int, *names: object) -> float:
    """A number from 0 up to 1."""
    return (draw(seed, *names) >> 11) / 2**53
