"""Time and memory of `llumi pairs build` against the scripts that one would write instead, in Polars and in DuckDB.

All three read the same generated dumps (zstd, a window of 2^31) and must find the same pairs, as whole processes from
nothing: Ray's start is in LLUMI's time, decompression in DuckDB's. Two sizes give the time of each further million of
comments. Then, on one core: from file to cleaned columns against a bare loop of zstandard and orjson.

python benchmarks/corpus.py --millions 2 8 --repeats 1
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import polars as pl
import psutil
import zstandard

BARE = Path(__file__).parent / "bare"
COMMUNITIES = ("kettle", "porch", "lantern", "harbour")
REPLIES_PER_POST = 20
WORDS = [
    *("you", "are", "not", "alone", "with", "this", "it", "sounds", "heavy", "thank", "for", "telling", "us", "maybe", "small"),
    *("walk", "could", "help", "tonight", "friend", "call", "library", "evening", "window", "tea", "morning", "quiet", "rain"),
    *("street", "bread", "letter", "song", "winter", "spring", "neighbour", "garden", "slowly", "again"),
]
FIELDS = (
    '"all_awardings":[],"approved_at_utc":null,"approved_by":null,"archived":false,"associated_award":null,'
    '"author_flair_background_color":null,"author_flair_css_class":null,"author_flair_richtext":[],'
    '"author_flair_template_id":null,"author_flair_text":null,"author_flair_text_color":null,"author_flair_type":"text",'
    '"author_is_blocked":false,"author_patreon_flair":false,"author_premium":false,"awarders":[],"banned_at_utc":null,'
    '"banned_by":null,"can_gild":false,"can_mod_post":false,"collapsed":false,"collapsed_because_crowd_control":null,'
    '"collapsed_reason":null,"collapsed_reason_code":null,"comment_type":null,"downs":0,"gildings":{},"likes":null,'
    '"locked":false,"mod_note":null,"mod_reason_by":null,"mod_reason_title":null,"mod_reports":[],"no_follow":true,'
    '"num_reports":null,"removal_reason":null,"replies":"","report_reasons":null,"saved":false,"score_hidden":false,'
    '"send_replies":true,"subreddit_name_prefixed":"r/kettle","subreddit_type":"public","top_awarded_type":null,'
    '"total_awards_received":0,"treatment_tags":[],"unrepliable_reason":null,"ups":1,"user_reports":[]'
)
ONE_CORE = {"POLARS_MAX_THREADS": "1"}


def main() -> None:
    """Print a table of seconds, peak memory and ratios for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, nargs="+", default=[0.25, 1.0], help="Comments; 2 8 is the full measure.")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="Where the dumps go; a temporary folder otherwise.")
    parser.add_argument("--every-rule", action="store_true", help="Also LLUMI with every rule of its defaults.")
    parser.add_argument("--skew", type=float, default=0.0, help="Share of the comments on one single post.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llumi-bench-", dir=options.folder) as name:
        one_core(Path(name))
        sizes = [compare(Path(name), round(millions * 1e6), options) for millions in options.millions]
    if len(sizes) > 1:
        step = options.millions[-1] - options.millions[0]
        further = {name: (sizes[-1][name][0] - sizes[0][name][0]) / step for name in sizes[0]}
        best = min(further["polars"], further["duckdb"])
        print("each further million: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in further.items()))
        print(f"ratio llumi / best script  {further['llumi'] / best:.2f}")
        print(f"llumi's peak memory, largest / smallest  {sizes[-1]['llumi'][1] / sizes[0]['llumi'][1]:.2f}")


def compare(folder: Path, num_comments: int, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Median seconds and peak MiB of each, on one corpus, in turn."""
    dumps = folder / f"dumps-{num_comments}"
    generate(dumps, num_comments, options.skew)
    commands = {"llumi": llumi(folder, dumps), "polars": bare("polars", folder, dumps), "duckdb": bare("duckdb", folder, dumps)}
    if options.every_rule:
        commands["llumi, every rule"] = llumi(folder, dumps, every_rule=True)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(options.repeats):
        for name, command in commands.items():
            runs[name].append(measured(command))
    medians = {
        name: (statistics.median(run[0] for run in of_name), statistics.median(run[1] for run in of_name))
        for name, of_name in runs.items()
    }
    found = {"polars": scores(folder / "polars.parquet"), "duckdb": scores(folder / "duckdb.parquet")}
    ours = scores(folder / "store" / "pairs" / "default" / "gm-dpo")
    if not all(ours.equals(theirs) for theirs in found.values()):
        raise SystemExit(f"they differ: {len(ours)} pairs here, {[len(theirs) for theirs in found.values()]} there")
    print(f"comments {num_comments}  pairs {len(ours)}  repeats {options.repeats}")
    for name, (seconds, mib) in medians.items():
        print(f"  {name:18} {seconds:7.1f} s   peak {mib:6.0f} MiB")
    print(f"  ratio llumi / best script  {medians['llumi'][0] / min(medians['polars'][0], medians['duckdb'][0]):.2f}")
    return medians


def llumi(folder: Path, dumps: Path, every_rule: bool = False) -> list[str]:
    """The command, with the rules switched off that the scripts do not have."""
    store = folder / ("store-all" if every_rule else "store")
    values = {"storage.uri": store, "corpus.uri": dumps, "privacy.key_file": folder / "key", "pairs.revisions.source": "none"}
    if not every_rule:
        values |= {"pairs.split_by": "post", "pairs.near_duplicates": "keep", "corpus.min_tokens": 0}
    given = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "llumi.cli", "pairs", "build", "--json", *given]


def bare(library: str, folder: Path, dumps: Path) -> list[str]:
    """The command of a script."""
    return [sys.executable, str(BARE / f"pairs_{library}.py"), str(dumps), str(folder / f"{library}.parquet")]


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds of a whole process, and the peak of its and its children's memory in MiB (shared pages once)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"RAY_DEDUP_LOGS": "0"})
    peak, stop = [0.0], threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peak, stop))
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command[:4])} ended with {code}")
    return seconds, peak[0]


def _watch(pid: int, peak: list[float], stop: threading.Event) -> None:
    while not stop.wait(0.5):
        total = 0
        try:
            tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in tree:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak[0] = max(peak[0], total / 2**20)


def scores(path: Path) -> pl.DataFrame:
    """The scores of all pairs, sorted: what must agree."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    frames = []
    for file in files:
        frame = pl.read_parquet(file)
        if "chosen_score" in frame.columns:
            frame = frame.rename({"chosen_score": "score", "rejected_score": "score_rejected"})
        frames.append(frame.select("score", "score_rejected"))
    return pl.concat(frames).sort("score", "score_rejected")


def generate(folder: Path, num_comments: int, skew: float) -> None:
    """Posts and comments of four communities, eight files, gentle and made up."""
    folder.mkdir(parents=True)
    bodies = [" ".join(WORDS[(n * (k + 3) + k * k) % len(WORDS)] for k in range(8 + n * 7 % 52)) for n in range(1, 4001)]
    for place, community in enumerate(COMMUNITIES):
        own = num_comments // len(COMMUNITIES)
        first_post = 36**4 + place * 10**7
        num_posts = max(1, own // REPLIES_PER_POST)
        write(
            folder / f"{community}_submissions.zst",
            (_post(first_post + n, community, bodies[n % 4000]) for n in range(num_posts)),
        )
        write(folder / f"{community}_comments.zst", _comments(own, place, community, first_post, num_posts, bodies, skew))


def _post(number: int, community: str, body: str) -> str:
    return (
        f'{{"id":"k{number:x}","subreddit":"{community}","author":"asker_k{number:x}","score":{number % 90},'
        f'"created_utc":{1_600_000_000 + number % 10**7},"retrieved_on":{1_650_000_000},"num_comments":12,'
        '"over_18":false,"is_self":true,"stickied":false,'
        f'"distinguished":null,"title":"A quiet evening","selftext":"{body}","permalink":"/r/{community}/k{number:x}"}}\n'
    )


def _comments(  # noqa: PLR0917  (what one community is made of)
    own: int, place: int, community: str, first_post: int, num_posts: int, bodies: list[str], skew: float
) -> Iterator[str]:
    """Comments in the order of time; a few are removed, by bots, replies to replies, or captured twice."""
    state = 12345 + place
    for n in range(own):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        chance = state >> 33
        number = 36**5 + place * 10**8 + n
        post = first_post + (0 if chance % 1000 < skew * 1000 else min(n // REPLIES_PER_POST + chance % 50, num_posts - 1))
        body = "[removed]" if chance % 37 == 0 else f"{bodies[chance % 4000]} {bodies[number % 3989]}"
        author = "AutoModerator" if chance % 97 == 0 else f"neighbour_{chance % 2_000_003}"
        parent = f"t1_k{number - 7:x}" if chance % 10 < 3 else f"t3_k{post:x}"
        score = (chance >> 7) % 40 * ((chance >> 13) % 5) // 4 - 3
        line = (
            f'{{"id":"k{number:x}","subreddit":"{community}","subreddit_id":"t5_2q{place}","author":"{author}","link_id":"t3_k{post:x}",'
            f'"parent_id":"{parent}","created_utc":{1_600_000_000 + n},"retrieved_on":{1_650_000_000},"score":{score},'
            f'"body":"{body}","stickied":false,"distinguished":null,"is_submitter":false,"edited":false,"gilded":0,'
            f'"controversiality":0,"permalink":"/r/{community}/comments/k{post:x}/_/k{number:x}/"}}\n'
        )
        yield line
        if chance % 211 == 0:
            yield line.replace('"retrieved_on":1650000000', '"retrieved_on":1660000000')


def write(path: Path, lines: Iterator[str]) -> None:
    """A zstd frame that declares the window of real dumps."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=31, strategy=zstandard.STRATEGY_FAST, hash_log=17, chain_log=17, search_log=1
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    block: list[str] = []
    with path.open("wb") as stream:
        for line in lines:
            block.append(line)
            if len(block) == 20_000:
                stream.write(compressor.compress("".join(block).encode()))
                block.clear()
        stream.write(compressor.compress("".join(block).encode()) + compressor.flush())


def one_core(folder: Path) -> None:
    """Rows a second from file to cleaned columns against the bare loop, for one community's dump and for a month of all."""
    dumps = folder / "one-core"
    generate(dumps, 800_000, 0.0)
    dump = dumps / "kettle_comments.zst"
    with_all_fields(dump)
    monthly = dumps / "RC_2020-10.zst"
    with dump.open("rb") as stream:
        reader = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(stream)
        lines = reader.read().decode().splitlines(keepends=True)
    write(monthly, (line if n % 100 == 0 else line.replace('"kettle"', '"elsewhere"') for n, line in enumerate(lines)))
    for name, path, communities in (("one community", dump, []), ("a month, 1% wanted", monthly, ["Kettle"])):
        here = str(Path(__file__).parent)
        code = f"import sys; sys.path.insert(0, {here!r}); import corpus; corpus.time_reading({str(path)!r}, {communities})"
        subprocess.run([sys.executable, "-c", code, name], check=True, env=os.environ | ONE_CORE)


def with_all_fields(dump: Path) -> None:
    """Give each record the forty-odd fields that records of published dumps have."""
    with dump.open("rb") as stream:
        lines = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(stream).read().decode().splitlines()
    write(dump, (f"{line[:-1]},{FIELDS}}}\n" for line in lines))


def time_reading(path: str, communities: list[str]) -> None:
    """Alternate both readers of one file, and print the ratio of their rows a second."""
    from pyarrow.fs import LocalFileSystem

    from llumi.config import CorpusConfig
    from llumi.corpus.clean import Rules, clean_lines
    from llumi.corpus.dump import Dump, iter_chunks

    os.sched_setaffinity(0, {0})
    dump = Dump(path, path, "comments", Path(path).stat().st_size, 0, "zstd")
    rules = Rules.of(CorpusConfig(communities=tuple(communities)))

    def ours() -> int:
        chunks = iter_chunks(LocalFileSystem(), dump)
        return sum(clean_lines(chunk.data, "comments", rules)[1].records for chunk in chunks)

    def bare_loop() -> int:
        with Path(path).open("rb") as stream:
            reader = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(stream, read_across_frames=True)
            num, rest = 0, b""
            while block := reader.read(2**24):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    orjson.loads(line)
                    num += 1
        return num

    rates = [(rate(ours), rate(bare_loop)) for _ in range(3)]
    one, other = (statistics.median(side) for side in zip(*rates, strict=True))
    print(f"{sys.argv[1]:20} llumi {one / 1e3:6.0f} k rows/s   bare loop {other / 1e3:6.0f} k rows/s   ratio {one / other:.2f}")


def rate(work: Callable[[], int]) -> float:
    """Rows a second of processor time, which other programs on the machine do not stretch."""
    start = time.process_time()
    return work() / (time.process_time() - start)


if __name__ == "__main__":
    main()
