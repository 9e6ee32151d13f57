"""What the guard finds, and what it costs.

    python benchmarks/guard.py [--replies 200] [--comments FILE] [--no-model] [--json]

Found: the tiers of the labelled posts and the refused share of the worst and of gentle replies, with Wilson's 95 % intervals.
`read` is what the rules were widened with and likeness fitted to; what is `held out` was used for neither. `left out`: what
likeness alone finds of a text that it was fitted to, by what is fitted to all the others. `--comments` is a dump of comments
(.zst); its texts, taken for safe, are judged, too. Cost: CPU milliseconds of a post's tier; and of a made-up reply for the
guard with its threads and the rules for its post, whole and streamed by word, beside the same patterns in the loop that one
would write by hand (each pattern over each sentence and each run of neighbours, without looking anything up first), and
beside the embedded model writing a reply of 60 tokens. Medians of three rounds; the model writes once. Likeness remembers
sentences, so each that it is given has a word of its own, which makes it a token or two longer.
"""

import argparse
import asyncio
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
import yaml
import zstandard
from common import never_read

from llumi.config import ServeConfig, load_config
from llumi.corpus.sample import CLOSINGS, THEMES, WELCOMES
from llumi.engine import Delta, Request, Sampling, open_engine
from llumi.evaluate.proportion import wilson
from llumi.evaluate.ratings import Estimate
from llumi.models import ensure_base, fetch_model
from llumi.prompts import gm_prompt
from llumi.safety.likeness import LabelledPosts, LabelledReplies, Likeness
from llumi.safety.sentences import Sentences
from llumi.safety.sieve import Judge
from llumi.safety.standard import Standard
from llumi.serve.guard import Case, Guard
from llumi.storage import Storage

HELD_OUT = sorted((Path(__file__).parents[1] / "tests" / "safety" / "held_out").glob("*.yaml"))
T = TypeVar("T")
CONFIDENCE = 0.95
NUM_TOKENS = 60
ROUNDS = 3
NUM_POSTS = 20
NUM_LIKE = 20
POST = "I moved to a new town, and the evenings are quiet. My old friends are kind, but their lives go on without me."
REPLY = "It makes sense that the evenings feel long when you have just moved somewhere new and quiet."
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
    return f"{successes}/{n} = {100 * found.value:.3g} % ({100 * found.low:.3g} to {100 * found.high:.3g})"


def detection(standard: Standard) -> dict[str, str]:
    """Posts found at risk and false alarms, with the rules alone too; worst and gentle replies that are refused."""
    posts, replies = LabelledPosts.read(), LabelledReplies.read()
    sets = {"read": {"posts": posts.model_dump(), "worst": replies.refused, "good": replies.safe}}
    sets |= {f"held out {path.stem}": yaml.safe_load(path.read_text(encoding="utf-8")) for path in HELD_OUT}
    figures = {}
    for name, texts in sets.items():
        figures |= {f"{name}: {key}": figure for key, figure in of_posts(standard, texts["posts"]).items()}
        figures |= {f"{name}: {key}": figure for key, figure in of_replies(standard, texts).items()}
    return figures


def of_posts(standard: Standard, posts: Mapping[str, Mapping[str, list[str]]]) -> dict[str, str]:
    """For each tier: with and without likeness."""
    figures = {}
    for tier, kinds in posts.items():
        texts = every(kinds)
        for which, told in (("", standard.tiers(texts)), (", rules alone", replace(standard, likeness=None).tiers(texts))):
            at_risk = share(sum(one != "none" for one in told), len(told))
            figures["false alarms" + which if tier == "none" else f"{tier}, found at risk{which}"] = at_risk
            if tier == "imminent":
                figures[f"imminent, found as imminent{which}"] = share(told.count(tier), len(told))
    return figures


def of_replies(standard: Standard, texts: Mapping[str, Any]) -> dict[str, str]:
    """Of the worst, in all and by kind, and of the gentle ones where there are any: with and without likeness."""
    figures = {}
    for which, judge in (("", standard), (", rules alone", replace(standard, reply_likeness=None))):
        refused = {kind: [bool(judge.refusals(text)) for text in worst] for kind, worst in texts["worst"].items()}
        everything = every(refused)
        figures[f"worst replies refused{which}"] = share(sum(everything), len(everything))
        figures |= {f"worst replies refused, {kind}{which}": f"{sum(each)}/{len(each)}" for kind, each in refused.items()}
        if good := texts.get("good"):
            figures[f"gentle replies refused{which}"] = share(sum(bool(judge.refusals(text)) for text in good), len(good))
    return figures


def left_out() -> dict[str, str]:
    """What likeness finds of each labelled text by all the others."""
    figures = {}
    posts, post_scores = Likeness.left_out(LabelledPosts.read())
    reached = post_scores > Likeness.load(LabelledPosts).thresholds
    imminent, at_risk, any_reached = posts[:, 0] > 0, posts[:, 1] > 0, reached.any(axis=1)
    for name, found, among in (
        ("imminent, found as imminent", reached[:, 0], imminent),
        ("possible, found at risk", any_reached, at_risk & ~imminent),
        ("false alarms", any_reached, ~at_risk),
    ):
        figures[f"left out: {name}"] = share(int(found[among].sum()), int(among.sum()))
    replies, reply_scores = Likeness.left_out(LabelledReplies.read())
    harmful, refused = replies[:, 0] > 0, (reply_scores > Likeness.load(LabelledReplies).thresholds)[:, 0]
    for name, among in (("harmful sentences refused", harmful), ("kind sentences refused", ~harmful)):
        figures[f"left out: {name}"] = share(int(refused[among].sum()), int(among.sum()))
    return figures


def of_comments(standard: Standard, file: Path) -> dict[str, str]:
    """Of all comments of a dump, those that each judge refuses."""
    with zstandard.open(file, "rb", dctx=zstandard.ZstdDecompressor(max_window_size=2**31)) as lines:
        replies = [orjson.loads(line)["body"] for line in io.BufferedReader(lines)]
    judge = standard.reply_likeness
    assert judge is not None
    rules = [bool(standard.rules.refusals(reply)) for reply in replies]
    like = [judge.is_harmful(reply) for reply in replies]
    sentences = [sentence for reply in replies for sentence in Sentences.of(reply).sentences]
    either = sum(one or other for one, other in zip(rules, like, strict=True))
    return {
        "comments: sentences refused by likeness": share(sum(map(judge.is_harmful, sentences)), len(sentences)),
        "comments refused by likeness": share(sum(like), len(replies)),
        "comments refused by rules": share(sum(rules), len(replies)),
        "comments refused by either": share(either, len(replies)),
    }


def every(kinds: Mapping[str, Iterable[T]]) -> list[T]:
    """The texts of all kinds."""
    return [text for texts in kinds.values() for text in texts]


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
    replies, case = made_up_replies(num_replies), Case("gm", POST)
    guard = Guard(replace(standard, likeness=None, reply_likeness=None), ServeConfig())

    async def whole(reply: str) -> None:
        assert (await guard.complete(case, REQUEST, Saying(reply))).decision == "passed"

    async def liked(reply: str) -> None:
        assert standard.refusals(never_read(reply)) == ()

    async def streamed(reply: str) -> None:
        pieces = [piece async for piece in guard.stream(case, REQUEST, Saying(reply))]
        assert pieces[-1].decision == "passed"

    async def hand(reply: str) -> None:
        assert by_hand(standard, reply) == []

    async def told(post: str) -> None:
        standard.tier(never_read(post))

    async def told_by_rules(post: str) -> None:
        standard.rules.tier(post)

    figures = {
        name: milliseconds(work, texts)
        for name, work, texts in (
            ("whole", whole, replies),
            ("streamed", streamed, replies),
            ("by hand", hand, replies),
            ("likeness of a reply, rules included", liked, replies[:NUM_LIKE]),
            ("likeness of a reply of one sentence, rules included", liked, [REPLY] * NUM_LIKE),
            ("tier of a post of two sentences", told, [POST] * NUM_POSTS),
            ("the same, rules alone", told_by_rules, [POST] * NUM_POSTS),
        )
    }
    sentences = statistics.mean(len(Sentences.of(reply).sentences) for reply in replies)
    return {"characters of a reply": statistics.mean(map(len, replies)), "sentences of a reply": sentences} | {
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
    parser.add_argument("--comments", type=Path, metavar="FILE")
    parser.add_argument("--no-model", action="store_true", help="leave the model out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    standard = Standard.load()
    times = cost(standard, arguments.replies) | ({} if arguments.no_model else writing())
    found = detection(standard) | left_out() | (of_comments(standard, arguments.comments) if arguments.comments else {})
    figures = found | {name: round(figure, 2) for name, figure in times.items()}
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:62} {figure}")


if __name__ == "__main__":
    main()
