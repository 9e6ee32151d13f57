"""The figures that a plan rests on: each says whether it was measured here, published by others, or assumed."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["measured", "published", "assumed"]


@dataclass(frozen=True)
class Range:
    """A quantity that is not known exactly: at least, typically, at most."""

    low: float
    typical: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Range":
        """A quantity without a doubt."""
        return cls(value, value, value)

    def __mul__(self, factor: float) -> "Range":
        return Range(self.low * factor, self.typical * factor, self.high * factor)

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.typical + other.typical, self.high + other.high)

    def at_least(self, other: "Range") -> "Range":
        """The larger of both: of two things that happen at the same time, the slower one decides."""
        return Range(max(self.low, other.low), max(self.typical, other.typical), max(self.high, other.high))

    def under(self, work: float) -> "Range":
        """How long `work` takes at a speed in this range: the most at the lowest speed."""
        return Range(work / self.high, work / self.typical, work / self.low)


_UNITS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def short(value: float) -> str:
    """Two digits: what is known to a factor of two has no third."""
    if value < 10:
        return f"{value:.2g}"
    rounded = round(value, 2 - len(str(int(value))))
    if rounded < 1e6:
        return f"{rounded:,.0f}"
    unit, name = next(entry for entry in _UNITS if rounded >= entry[0])
    return f"{rounded / unit:.3g} {name}"


@dataclass(frozen=True)
class Figure:
    """One figure that plans rest on."""

    name: str
    value: Range
    unit: str
    kind: Kind
    source: str


PAIRS_START = Figure(
    "start of a build", Range(10, 14, 20), "s", "measured",
    "docs/corpus.md: 33 s for 2 and 90 s for 8 million comments on two cores leave 14 s for none",
)  # fmt: skip
PAIRS_WORK = Figure(
    "a build for each million comments that are wanted", Range(17, 19, 26), "core seconds", "measured",
    "docs/corpus.md: 9.4 s for each further million on two shared cores; made-up texts of some 60 words",
)  # fmt: skip
PASSING_OVER = Figure(
    "a build for each million comments of other communities", Range(5, 7.2, 10), "core seconds", "measured",
    "benchmarks/corpus.py: 138,000 lines a second of one core, of a month of which 1 % is wanted, with all published fields",
)  # fmt: skip
PAIRS_SCALING = Figure(
    "cores that a build on many nodes uses well", Range(0.5, 0.8, 1.0), "share", "assumed",
    "measured on two cores alone; the first pass reads each file with one core",
)  # fmt: skip
PAIRS_MEMORY = Figure(
    "a build for each core", Range(0.9, 1.5, 3.3), "GiB", "measured",
    "docs/corpus.md: 2.5 and 3.6 GiB on two cores; benchmarks/plan.py: 2.0 for 0.5 million; a zstd window is 2 GiB at most",
)  # fmt: skip
COMPRESSED = Figure(
    "a comment in a dump (zstd)", Range(60, 110, 200), "bytes", "assumed",
    "published months of Reddit differ by year; ls -l on yours decides",
)  # fmt: skip
PLAIN_PER_COMPRESSED = Figure(
    "text for each byte of a zstd dump", Range(8, 10, 14), "bytes", "assumed", "llumi/pairs/partition.py reckons with 10"
)
SCRATCH = Figure(
    "scratch for each wanted comment", Range(130, 160, 400), "bytes", "measured",
    "benchmarks/plan.py: the most that a build held at one time, 156 for 0.5 and 2 million; IM and longer texts take more",
)  # fmt: skip
SCRATCH_PIECE = Figure(
    "a piece of scratch that a build reads, without the wait for the store", Range(0.14e-3, 0.22e-3, 3.8e-3), "core seconds",
    "measured", "benchmarks/plan.py: a folder 0.14 to 0.45 ms, S3 2.4 to 3.7 ms",
)  # fmt: skip
SCRATCH_REQUESTS = Figure(
    "answers of the store that a piece waits for, one after the other", Range(3, 8, 8), "", "measured",
    "benchmarks/plan.py: 31 ms a piece through 20 ms each way, sixteen at once; the S3 client asks for size, footer, columns",
)  # fmt: skip
SFT_YIELD = Figure(
    "SFT examples for each wanted comment", Range(0.05, 0.137, 0.3), "", "published",
    "arXiv 2605.30273: 42,503 of 310,000 post-comment pairs, one community",
)  # fmt: skip
DPO_YIELD = Figure(
    "DPO pairs for each wanted comment", Range(0.005, 0.0142, 0.1), "", "published",
    "arXiv 2605.30273: 4,390 of 310,000, preset paper; other presets keep more, some communities far less",
)  # fmt: skip
UTILISATION = Figure(
    "what training uses of a GPU's bf16 peak", Range(0.21, 0.35, 0.46), "share", "published",
    "GPT-3 0.21 and PaLM 0.46 (arXiv 2204.02311, table 3); 0.35 is assumed, as by llumi train --dry-run. On two CPU cores the "
    "steps of docs/training.md make 0.29 and 0.31",
)  # fmt: skip
ROW_LENGTH = Figure(
    "tokens of a row",
    Range(0.25, 1.0, 1.0),
    "of train.max_length",
    "assumed",
    "full rows are the worst case; replies are shorter",
)
DECODING = Figure(
    "what generation uses of a GPU's memory bandwidth", Range(0.3, 0.5, 0.8), "share", "assumed",
    "the roofline of decoding (arXiv 2211.05102, sec. 2.1); kernels, scheduler and prompts take the rest",
)  # fmt: skip
FAILURES = Figure(
    "GPU hours between two failures", Range(13_600, 50_700, 50_700), "h", "published",
    "Llama 3: 419 failures in 54 days of 16,384 GPUs (arXiv 2407.21783, sec. 3.3.4); least: OPT, 105 restarts in two months of "
    "992 GPUs (arXiv 2205.01068, sec. 2.5)",
)  # fmt: skip
RESTART = Figure(
    "restart of a group of ranks", Range(40, 120, 600), "s", "assumed",
    "30 to 40 s were measured on two CPU ranks with a small model; large models load longer",
)  # fmt: skip
ALL = (
    PAIRS_START, PAIRS_WORK, PASSING_OVER, PAIRS_SCALING, PAIRS_MEMORY, COMPRESSED, PLAIN_PER_COMPRESSED, SCRATCH,
    SCRATCH_PIECE, SCRATCH_REQUESTS, SFT_YIELD, DPO_YIELD, UTILISATION, ROW_LENGTH, DECODING, FAILURES, RESTART,
)  # fmt: skip
