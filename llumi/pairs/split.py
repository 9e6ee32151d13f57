"""Identifiers of examples, and which of them are held out: both follow from the pseudonyms alone, on any machine."""

import hashlib

from llumi.records import Split


def example_id(*parts: str) -> str:
    """24 hexadecimal digits that stand for a post and its reply, or for a post and both replies of a pair."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12, person=b"example").hexdigest()


def split_of(post_id: str, test_fraction: float) -> Split:
    """The side of a post, and so of its whole thread; a larger fraction only moves posts from train to test."""
    number = int.from_bytes(hashlib.blake2b(post_id.encode(), digest_size=8, person=b"split").digest(), "big")
    return "test" if number < test_fraction * 2**64 else "train"
