"""Time and memory of `llumi pairs build` against the script that one would write instead.

The script is a single process: zstandard, Polars' NDJSON parser, one join, the same rules and the same cap. Both read the
same made-up corpus and must find the same pairs. Reported are medians, Ray's start apart, and the ratio script / LLUMI:
above 1, LLUMI is faster.

python benchmarks/pairs.py --posts 20000 --repeats 3
"""

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import zstandard

from llumi.config import Config, RayConfig, load_config
from llumi.corpus.sample import write_sample

MIN_GAP, MAX_PAIRS = 2, 4
PLACEHOLDERS = ["[removed]", "[deleted]"]


def script(folder: Path) -> list[tuple[int, int]]:
    """The pairs' scores as the script finds them."""
    posts = _read(folder, "submissions", {"id": pl.String, "selftext": pl.String, "title": pl.String})
    columns = {"id": pl.String, "parent_id": pl.String, "author": pl.String, "score": pl.Int64, "body": pl.String}
    columns |= {"retrieved_on": pl.Int64, "stickied": pl.Boolean, "is_submitter": pl.Boolean}
    comments = _read(folder, "comments", columns).sort("id", "retrieved_on").unique("id", keep="last", maintain_order=True)
    kept_posts = posts.filter(~pl.col("selftext").is_in(PLACEHOLDERS)).select(parent_id=pl.lit("t3_") + pl.col("id"))
    kept = comments.filter(
        ~pl.col("body").is_in(PLACEHOLDERS), pl.col("author") != "AutoModerator", ~pl.col("stickied"), ~pl.col("is_submitter")
    ).join(kept_posts, on="parent_id", how="semi")
    best, worst = (_extremes(kept, best_first) for best_first in (True, False))
    pairs = best.join(worst, on="parent_id", suffix="_rejected")
    pairs = pairs.with_columns(gap=pl.col("score") - pl.col("score_rejected")).filter(pl.col("gap") >= MIN_GAP)
    pairs = pairs.sort("parent_id", "gap", "rank", "rank_rejected", descending=[False, True, False, False])
    widest = pairs.group_by("parent_id", maintain_order=True).head(MAX_PAIRS)
    widest.write_parquet(folder / ".script.parquet")
    return sorted(widest.select("score", "score_rejected").iter_rows())


def llumi(config: Config) -> list[tuple[int, int]]:
    """The same from `llumi pairs build`, on a cluster that runs already."""
    from llumi.pairs.build import build_pairs
    from llumi.storage import Storage

    build_pairs(config)
    storage = Storage.open(config.storage)
    tables = [
        pl.DataFrame(pl.from_arrow(storage.read_table("pairs/default", f"gm-dpo/{split}"))) for split in ("train", "test")
    ]
    return sorted(pl.concat(tables).select("chosen_score", "rejected_score").iter_rows())


def main() -> None:
    """Print both medians, the script's peak memory and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posts", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--script-only", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.script_only:
        script(options.script_only)
        return
    with tempfile.TemporaryDirectory(prefix="llumi-bench-") as name:
        compare(Path(name), options.posts, options.repeats)


def compare(folder: Path, num_posts: int, repeats: int) -> None:
    """Alternate both on one corpus, so that a busy machine slows both alike."""
    from llumi.ray_session import ray_session

    write_sample(folder / "dumps", num_posts)
    config = load_config(
        None,
        [
            f"corpus.uri={folder}/dumps",
            f"storage.uri={folder}/store",
            f"privacy.key_file={folder}/key",
            f"pairs.margin.min_gap={MIN_GAP}",
        ],
    )
    start = time.perf_counter()
    with ray_session(RayConfig()):
        ray_seconds = time.perf_counter() - start
        found_by_llumi = llumi(config)  # also brings up Ray's workers
        found_by_script = script(folder / "dumps")
        if found_by_llumi != found_by_script:
            raise SystemExit(f"they differ: {len(found_by_llumi)} pairs here, {len(found_by_script)} there")
        seconds = [(_timed(lambda: llumi(config)), _timed(lambda: script(folder / "dumps"))) for _ in range(repeats)]
    ours, theirs = (statistics.median(side) for side in zip(*seconds, strict=True))
    print(f"posts {num_posts}  pairs {len(found_by_llumi)}  repeats {repeats}")
    print(f"script  {theirs:7.2f} s   peak {_peak_mib(folder / 'dumps'):.0f} MiB")
    print(f"llumi   {ours:7.2f} s   (and {ray_seconds:.1f} s for Ray's start)")
    print(f"ratio script / llumi  {theirs / ours:.2f}")


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _peak_mib(dumps: Path) -> float:
    """Peak memory of the script in a process of its own."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, sys.executable, __file__, "--script-only", str(dumps)]
    return int(subprocess.check_output(command, text=True).split()[-1]) / 1024


def _read(folder: Path, kind: str, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    frames = []
    for path in sorted(folder.glob(f"*_{kind}.zst")):
        with path.open("rb") as stream:
            reader = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(stream, read_across_frames=True)
            frames.append(pl.read_ndjson(io.BytesIO(reader.read()), schema=columns))
    return pl.concat(frames)


def _extremes(kept: pl.DataFrame, best_first: bool) -> pl.DataFrame:
    ordered = kept.sort("parent_id", "score", "id", descending=[False, best_first, False])
    few = ordered.group_by("parent_id", maintain_order=True).head(MAX_PAIRS)
    return few.select("parent_id", "id", "score", "body").with_columns(rank=pl.int_range(pl.len()).over("parent_id"))


if __name__ == "__main__":
    main()
