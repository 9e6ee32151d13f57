"""From a corpus to pairs: hours of cores, memory, scratch, and the reads of scratch that grow faster than the corpus."""

import math
from dataclasses import dataclass

from llumi.capacity.figures import (
    COMPRESSED,
    PAIRS_MEMORY,
    PAIRS_SCALING,
    PAIRS_START,
    PAIRS_WORK,
    PASSING_OVER,
    PLAIN_PER_COMPRESSED,
    SCRATCH,
    SCRATCH_PIECE,
    SCRATCH_REQUESTS,
    Range,
)
from llumi.capacity.inputs import Question
from llumi.config import PairsConfig
from llumi.corpus.dump import CHUNK_BYTES

BUCKET_BYTES = 96 * 2**20
MAX_BUCKETS = 4096
AT_ONCE = 16
"""As llumi/pairs/partition.py cuts a corpus and llumi/storage.py reads it, which are not imported for it: a test holds these
against them.
"""

MEASURED_CORES = 2


@dataclass(frozen=True)
class PairsPlan:
    """A build. `scratch_reads` are one for each task of the first pass and bucket of the second; `seconds` count them in.

    `transfer_seconds` is what the store takes to give the dumps, and to take in scratch and give it out. `bucket_bytes` is
    the text of a bucket: what one task of the second pass holds.
    """

    seconds: Range
    memory_bytes: Range
    dump_bytes: Range
    scratch_bytes: Range
    buckets: int
    bucket_bytes: float
    scratch_reads: float
    scratch_read_seconds: Range
    work_seconds: Range
    transfer_seconds: Range


def plan_pairs(question: Question) -> PairsPlan:
    """Lay out `llumi pairs build`."""
    cores, millions = question.hardware.cores, 1e-6
    text_of_one = COMPRESSED.value.typical * PLAIN_PER_COMPRESSED.value.typical
    text = question.num_comments * text_of_one
    buckets = min(max(PairsConfig().num_buckets, math.ceil(text / BUCKET_BYTES)), MAX_BUCKETS)
    # Posts have an exchange of their own; they are few beside the comments.
    reads = max(1.0, text / CHUNK_BYTES) * buckets
    work = PAIRS_WORK.value * (question.wanted * millions) + PASSING_OVER.value * (
        (question.num_comments - question.wanted) * millions
    )
    dumps, scratch = COMPRESSED.value * question.num_comments, SCRATCH.value * question.wanted
    work_seconds = _on_cores(work, cores)
    transfer_seconds = (dumps + scratch * 2) * (1 / question.hardware.store_bandwidth)
    of_one_piece = piece_seconds(question.hardware.store_read_seconds)
    scratch_read_seconds = of_one_piece * (reads / cores)
    return PairsPlan(
        seconds=PAIRS_START.value + work_seconds.at_least(transfer_seconds) + scratch_read_seconds,
        memory_bytes=PAIRS_MEMORY.value * (cores * 2**30),
        dump_bytes=dumps,
        scratch_bytes=scratch,
        buckets=buckets,
        bucket_bytes=question.wanted * text_of_one / buckets,
        scratch_reads=reads,
        scratch_read_seconds=scratch_read_seconds,
        work_seconds=work_seconds,
        transfer_seconds=transfer_seconds,
    )


def piece_seconds(store_read_seconds: float) -> Range:
    """One of the pieces that a task reads at once: its share of the wait, and the work of one core."""
    return SCRATCH_PIECE.value + SCRATCH_REQUESTS.value * (store_read_seconds / AT_ONCE)


def _on_cores(work: Range, cores: int) -> Range:
    """What was measured on two cores is in the figures as it was; further cores are used as well as is assumed."""
    useful = PAIRS_SCALING.value if cores > MEASURED_CORES else Range.exactly(1)
    return Range(work.low / (cores * useful.high), work.typical / (cores * useful.typical), work.high / (cores * useful.low))
