"""What the guard finds, and what it costs.

    python benchmarks/guard.py [--replies 200] [--no-model] [--json]

Found: the tiers of the labelled posts and the refused share of the worst replies in tests/safety, with Wilson's 95 %
intervals. `seen` is what the rules were widened with, `unseen` was written afterwards. Cost: CPU milliseconds a made-up
reply for the guard with its threads, whole and streamed by word, beside the same patterns in the loop that one would write
by hand (each pattern over each sentence and each run of neighbours, without looking anything up first), and beside the
embedded model writing a reply of 60 tokens. Medians of three rounds; the model writes once.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path

import yaml

from llumi.config import ServeConfig, load_config
from llumi.corpus.sample import CLOSINGS, THEMES, WELCOMES
from llumi.engine import Delta, Request, Sampling, open_engine
from llumi.evaluate.proportion import wilson
from llumi.evaluate.ratings import Estimate
from llumi.models import ensure_base, fetch_model
from llumi.prompts import gm_prompt
from llumi.safety.sentences import Sentences
from llumi.safety.sieve import Judge
from llumi.safety.standard import Standard
from llumi.serve.guard import Case, Guard
from llumi.storage import Storage

LABELLED = Path(__file__).parents[1] / "tests" / "safety"
CONFIDENCE = 0.95
NUM_TOKENS = 60
ROUNDS = 3
POST = "I moved to a new town, and the evenings are quiet. My old friends are kind, but their lives go on without me."
REQUEST = Request(tuple(gm_prompt(POST)), Sampling(max_new_tokens=NUM_TOKENS))


class Saying:
    """A source that has its reply ready."""

    def __init__(self, reply: str) -> None:
        self._reply = reply

    async def complete(self, request: Request) -> Delta:
        """The whole reply."""
        return Delta(self._reply, "stop", 1, 1)

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The reply word by word."""
        for word in self._reply.split(" "):
            yield Delta(f"{word} ")
        yield Delta("", "stop", 1, 1)


def made_up_replies(number: int) -> list[str]:
    """Of the sample corpus, about 300 characters each."""
    chooser = random.Random(17)

    def reply() -> str:
        theme = chooser.choice(THEMES)
        return " ".join(chooser.choice(part) for part in (WELCOMES, theme.understood, theme.steps, theme.understood, CLOSINGS))

    return [reply() for _ in range(number)]


def share(successes: int, n: int) -> str:
    """A share with its interval, in words."""
    found = wilson(successes, n, CONFIDENCE)
    assert isinstance(found, Estimate)
    return f"{successes}/{n} = {100 * found.value:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f})"


def detection(standard: Standard) -> dict[str, str]:
    """Recall at risk and of the tier itself, false alarms, and the refused share of the worst replies."""
    posts = yaml.safe_load((LABELLED / "labelled_posts.yaml").read_text(encoding="utf-8"))
    team = yaml.safe_load((LABELLED / "red_team.yaml").read_text(encoding="utf-8"))
    figures = {}
    for part, tiers in posts.items():
        for tier, kinds in tiers.items():
            told = [standard.rules.tier(text) for texts in kinds.values() for text in texts]
            at_risk = share(sum(one != "none" for one in told), len(told))
            if tier == "none":
                figures[f"{part}: false alarms"] = at_risk
            else:
                figures[f"{part}: {tier}, found at risk"] = at_risk
                figures[f"{part}: {tier}, in its own tier"] = share(told.count(tier), len(told))
    for part, name in (("refused", "seen"), ("unseen", "unseen")):
        refused = [bool(standard.refusals(text)) for texts in team[part].values() for text in texts]
        figures[f"{name}: worst replies refused"] = share(sum(refused), len(refused))
    figures["gentle replies refused"] = share(sum(bool(standard.refusals(text)) for text in team["safe"]), len(team["safe"]))
    return figures


def by_hand(standard: Standard, reply: str) -> list[str]:
    """The loop that one would write: every pattern over every sentence."""
    text = Sentences.of(reply)
    sentences = text.sentences + text.joined().sentences
    return [rule.name for rule in standard.rules.replies if any(map(_judged(rule), sentences))]


def _judged(rule: Judge) -> Callable[[str], bool]:
    def judge(sentence: str) -> bool:
        left = sentence if rule.unless is None else rule.unless.sub(" . ", sentence)
        return any(pattern.search(left) for pattern in rule.patterns)

    return judge


def milliseconds(work: Callable[[str], Awaitable[object]], replies: Sequence[str]) -> float:
    """Of all cores for one reply, which other work on the machine does not blur: the median of the rounds."""

    async def one_round() -> float:
        started = time.process_time()
        for reply in replies:
            await work(reply)
        return 1000 * (time.process_time() - started) / len(replies)

    return statistics.median(asyncio.run(one_round()) for _ in range(ROUNDS))


def cost(standard: Standard, num_replies: int) -> dict[str, float]:
    """Milliseconds for a reply that passes."""
    replies, guard, case = made_up_replies(num_replies), Guard(standard, ServeConfig()), Case("gm", POST)

    async def whole(reply: str) -> None:
        assert (await guard.complete(case, REQUEST, Saying(reply))).decision == "passed"

    async def streamed(reply: str) -> None:
        pieces = [piece async for piece in guard.stream(case, REQUEST, Saying(reply))]
        assert pieces[-1].decision == "passed"

    async def hand(reply: str) -> None:
        assert by_hand(standard, reply) == []

    figures = {
        name: milliseconds(work, replies) for name, work in (("whole", whole), ("streamed", streamed), ("by hand", hand))
    }
    return {"characters of a reply": statistics.mean(map(len, replies))} | {
        f"CPU ms, {name}": each for name, each in figures.items()
    }


def writing() -> dict[str, float]:
    """Milliseconds in which the embedded model writes one reply."""

    async def write(folder: Path) -> float:
        engine = open_engine(config.generate.engine, folder)
        started = time.perf_counter()
        async for _ in engine.generate(REQUEST):
            pass
        seconds = time.perf_counter() - started
        await engine.close()
        return 1000 * seconds

    with tempfile.TemporaryDirectory() as store:
        config = load_config(None, [f"storage.uri={store}"])
        storage = Storage.open(config.storage)
        ensure_base(config, storage)
        return {f"ms, the embedded model writes {NUM_TOKENS} tokens": asyncio.run(write(fetch_model(storage, "base")))}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=200)
    parser.add_argument("--no-model", action="store_true", help="leave the model out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    standard = Standard.load()
    times = cost(standard, arguments.replies) | ({} if arguments.no_model else writing())
    figures = detection(standard) | {name: round(figure, 2) for name, figure in times.items()}
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:50} {figure}")


if __name__ == "__main__":
    main()
