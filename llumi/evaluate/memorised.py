"""Verbatim runs of words that replies share with what their models learned from.

A model that repeats a stretch of its training text may give away what a person wrote there. Replies and training text
are compared as runs of `length` words, hashed, so that only the runs of the replies are held in memory, however large the
training text is. After Carlini et al. 2021 (arXiv 2012.07805) and 2023 (arXiv 2202.07646), who count verbatim runs of 50
tokens as memorised; replies are short, so a run here may be shorter.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

_WORD = r"[\p{L}\p{N}]+(?:['’\-][\p{L}\p{N}]+)*"
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))


def longest_shared_runs(
    replies: pl.Series, training: Iterable[pl.Series], length: int, ignored: pl.Series | None = None
) -> Rows:
    """Of each reply the words of its longest run that is in a text of `training` too; 0 below `length` words.

    `training` is met once, part by part. Case and punctuation do not count. Runs that lie in `ignored`, such as the
    instruction that every prompt holds, are passed over. Where two runs of `length` words follow each other, they count as
    one longer run, though they may come from two texts.
    """
    runs, row_of_run = _runs(replies, length)
    wanted = np.unique(runs)
    is_shared = np.zeros(len(wanted), dtype=bool)
    for texts in training:
        is_shared |= np.isin(wanted, _runs(texts, length)[0])
    if ignored is not None:
        is_shared &= ~np.isin(wanted, _runs(ignored, length)[0])
    return _longest(is_shared[np.searchsorted(wanted, runs)], row_of_run, len(replies), length)


def _runs(texts: pl.Series, length: int) -> tuple[Hashes, Rows]:
    """The hash of every run of `length` words, in order, and the row of its text.

    With words w and a base B, the hash of the run at i is the sum of w[i + j] B^j modulo 2^64 (Karp and Rabin 1987), taken
    from the running sum of w[k] B^k over all texts.
    """
    words = texts.fill_null("").str.to_lowercase().str.extract_all(_WORD)
    sizes = words.list.len().to_numpy().astype(np.int64)
    hashes = words.explode().drop_nulls().hash(seed=17).to_numpy()
    rows = np.repeat(np.arange(len(sizes)), sizes)
    num_runs = len(hashes) - length + 1
    if num_runs <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(len(hashes) - 1, _BASE)]))
        inverses = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(num_runs - 1, _INVERSE)]))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes * powers)])
        of_runs = (sums[length:] - sums[:-length]) * inverses
    within_a_text = rows[:num_runs] == rows[length - 1 :]
    return of_runs[within_a_text], rows[:num_runs][within_a_text]


def _longest(
    is_shared: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64], num_rows: int, length: int
) -> npt.NDArray[np.int64]:
    """The longest stretch of shared runs of each row, as words."""
    longest = np.zeros(num_rows, np.int64)
    # A stretch ends where a run is not shared, and where its text ends.
    breaks = ~is_shared | (np.diff(rows, prepend=-1) != 0)
    stretch = np.cumsum(breaks)
    first = np.full(stretch[-1] + 1 if len(stretch) else 1, 0)
    np.add.at(first, stretch, is_shared.astype(np.int64))
    np.maximum.at(longest, rows, np.where(is_shared, first[stretch] + length - 1, 0))
    return longest
