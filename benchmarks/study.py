"""A whole study with simulated raters, command by command: from generations to the outcome, and from preferences to DPO2.

    python benchmarks/study.py [--posts 150] [--raters 6] [--lead 0.8] [--studies 1000] [--folder FOLDER] [--json]

First the commands of docs/evaluation.md on a made-up community, timed one by one, with the embedded model. Raters come over
HTTP to the real page; each prefers what people wrote over what the model wrote by `lead` in log-odds, with ties, and dislikes
some items for no reason. Then the outcome's intervals over `studies` studies of the same kind: how many hold the lead that
the raters were given, beside Wilson's interval over all choices, which is what one would compute by hand.
"""

import argparse
import contextlib
import html
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from common import free_port

from llumi.config import load_config
from llumi.evaluate.bradley_terry import bradley_terry
from llumi.evaluate.preference import win_rates
from llumi.evaluate.ratings import Choice, Resampling
from llumi.rate.answers import VERDICT, fields_of
from llumi.storage import Storage

TIES = 0.4
"""Davidson's nu: a tie between arms that are alike has odds of 0.4 to a win."""

ITEM_SPREAD = 0.5
"""The SD of what an item adds to the log-odds, whoever rates it."""

SHAPES = [(30, 3), (60, 1), (60, 3), (60, 6), (120, 3)]
"""Simulated studies: items, and raters for each."""

PEOPLE, MODEL = "human-reply", "gm-sft"
STEPS = ["--set", "train.sft.max_steps=8", "--set", "train.dpo1.max_steps=4", "--set", "train.dpo2.max_steps=6"]
SMALL = ["--set", "train.max_length=256", "--set", "generate.max_new_tokens=40", "--set", "pairs.test_fraction=0.3"]


@dataclass
class Deployment:
    """A folder in which the commands are given, and how long each took."""

    folder: Path
    settings: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    def llumi(self, *command: str) -> str:
        """Give one command; its output."""
        started = time.perf_counter()
        settings = [] if command[0] == "sample" else self.settings
        done = subprocess.run(
            [sys.executable, "-m", "llumi.cli", *command, *settings],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"llumi {' '.join(command)}\n{done.stdout}{done.stderr}")
        self.seconds[" ".join(command)] = round(time.perf_counter() - started, 1)
        return done.stdout

    @property
    def storage(self) -> Storage:
        """Where artifacts are."""
        return Storage.open(load_config(None, self.settings[1::2]).storage)

    @contextlib.contextmanager
    def rating_page(self, port: int) -> Iterator[str]:
        """`llumi rate serve`, answering."""
        command = [sys.executable, "-m", "llumi.cli", "rate", "serve", *self.settings]
        server = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        try:
            for _ in range(300):
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(f"http://127.0.0.1:{port}/support", trust_env=False)
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


@dataclass
class Rater:
    """Somebody with a browser who likes what people wrote by a known amount."""

    choosing: random.Random
    scoring: random.Random
    by_people: set[str]
    lead: float

    def rate_all(self, link: str) -> int:
        """Every page that the service has for them; how many they were."""
        with httpx.Client(follow_redirects=True, trust_env=False, timeout=60) as client:
            page = client.get(link)
            base = f"{page.url.scheme}://{page.url.netloc.decode()}"
            page = client.post(f"{base}/start", data={"csrf": _hidden(page.text, "csrf")})
            pages = 0
            while 'name="turn"' in page.text:
                page = client.post(f"{base}/item", data=self._answers(page.text))
                page.raise_for_status()
                pages += 1
        return pages

    def _answers(self, page: str) -> dict[str, str]:
        texts = [html.unescape(text) for text in re.findall(r"<blockquote>(.*?)</blockquote>", page, re.DOTALL)]
        post, first, _ = texts
        is_first = first in self.by_people
        verdict = prefer(self.choosing, self.lead + ITEM_SPREAD * random.Random(post).gauss(0, 1))
        sides = {"win": "left" if is_first else "right", "loss": "right" if is_first else "left", "tie": "tie"}
        scores = {name: self._score(name.startswith("first") == is_first) for name in fields_of("gm")}
        return {"csrf": _hidden(page, "csrf"), "turn": _hidden(page, "turn"), VERDICT: sides[verdict], **scores}

    def _score(self, is_by_people: bool) -> str:
        """From 1 to 5, half a point higher for what people wrote."""
        return str(min(5, max(1, round(self.scoring.gauss(3.7 if is_by_people else 3.2, 0.8)))))


def prefer(generator: random.Random, lead: float) -> str:
    """What a rater says of an arm that is ahead by `lead` in log-odds: win, loss or tie, by Davidson's model."""
    weights = [math.exp(lead / 2), math.exp(-lead / 2), TIES]
    return generator.choices(["win", "loss", "tie"], weights)[0]


def walk(folder: Path, num_posts: int, num_raters: int, lead: float) -> dict[str, Any]:
    """The commands of docs/evaluation.md."""
    port = free_port()
    rules = ["rate.check_share=0", "rate.repeat_share=0", f"rate.port={port}", f"rate.database=sqlite:///{folder}/rate.db"]
    own = [f"storage.uri={folder}/store", f"corpus.uri={folder}/corpus", *rules]
    here = Deployment(folder, [*(part for value in own for part in ("--set", value)), *SMALL, *STEPS])
    here.llumi("sample", f"{folder}/corpus", "--posts", str(num_posts))
    here.llumi("pairs", "build")
    here.llumi("train", "gm", "sft")
    here.llumi("train", "gm", "dpo1")
    here.llumi("generate", "gm", "base", MODEL)
    here.llumi("generate", "gm", MODEL, "--posts", "train", "--set", "generate.max_posts=40")
    here.llumi("evaluate")
    here.llumi("rate", "create", "first", "gm", MODEL, PEOPLE)
    here.llumi("rate", "create", "second", "gm", f"{MODEL}-train", PEOPLE, "--purpose", "training")
    by_people = {
        text for part in ("held-out", "drafts") for text in here.storage.read_table("pairs/default", part)["reply"].to_pylist()
    }
    pages = 0
    for study in ("first", "second"):
        links = json.loads(here.llumi("rate", "invite", study, "--raters", str(num_raters), "--json"))
        with here.rating_page(port):
            started = time.perf_counter()
            for number, link in enumerate(links.values()):
                chance = (random.Random(f"{study}-{number}{what}") for what in ("", "-scores"))
                pages += Rater(*chance, by_people, lead).rate_all(link)
            here.seconds[f"raters of {study}"] = round(time.perf_counter() - started, 1)
    here.llumi("rate", "export", "first", "--out", f"{folder}/first")
    shown = json.loads(here.llumi("rate", "outcome", f"{folder}/first", "--reference", MODEL, "--other", PEOPLE, "--json"))
    here.llumi("rate", "export", "second", "--out", f"{folder}/second", "--pairs", f"{folder}/preferred.ndjson")
    here.llumi("pairs", "add", "human", f"{folder}/preferred.ndjson")
    here.llumi("train", "gm", "dpo2")
    here.llumi("generate", "gm", "gm-dpo2")
    here.llumi("evaluate", "gm-base", MODEL, "gm-dpo2")
    manifests = {name: here.storage.manifest(name) for name in ("pairs/human", "models/gm-dpo2", "evaluations/default")}
    return {
        "pages": pages,
        "outcome": shown,
        "human_pairs": manifests["pairs/human"].counts,
        "dpo2": manifests["models/gm-dpo2"].metrics,
        "seconds": here.seconds,
    }


def marginal_lead(lead: float) -> float:
    """The log-odds of a win to a loss over all items: what a study can see of `lead` (Gauss-Hermite over the items' luck)."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(40)
    leads = lead + ITEM_SPREAD * nodes
    total = np.exp(leads / 2) + np.exp(-leads / 2) + TIES
    return float(np.log((shares * np.exp(leads / 2) / total).sum() / (shares * np.exp(-leads / 2) / total).sum()))


def recovered(lead: float, num_studies: int, num_items: int, raters_per_item: int) -> dict[str, int]:
    """Of simulated studies, how many hold the true lead inside 95 % intervals, ours and Wilson's; how many tell it from 0."""
    truth, ours, told, wilson = marginal_lead(lead), 0, 0, 0
    share = 1 / (1 + math.exp(-truth))
    for study in range(num_studies):
        generator = random.Random(study)
        choices = []
        for item in range(num_items):
            ahead = lead + ITEM_SPREAD * generator.gauss(0, 1)
            left, right = generator.sample([PEOPLE, MODEL], 2)
            for rater in range(raters_per_item):
                side = {"win": "left" if left == PEOPLE else "right", "loss": "left" if left == MODEL else "right"}
                verdict = side.get(prefer(generator, ahead), "tie")
                choices.append(Choice(f"r{rater}", f"i{item}", left, right, verdict))
        fitted = bradley_terry(choices, MODEL, Resampling(seed=study)).log_odds[PEOPLE]
        ours += fitted.low <= truth <= fitted.high
        told += fitted.low > 0
        rate = win_rates(choices, 0.95)[PEOPLE, MODEL].share
        wilson += rate.low <= share <= rate.high
    shape = {"studies": num_studies, "items": num_items, "raters_per_item": raters_per_item}
    return shape | {"bradley_terry_holds": ours, "told_from_even": told, "wilson_holds": wilson}


def _hidden(page: str, name: str) -> str:
    return html.unescape(page.split(f'name="{name}" value="', 1)[1].split('"', 1)[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=150)
    parser.add_argument("--raters", type=int, default=6, help="raters of each of the two studies")
    parser.add_argument("--lead", type=float, default=0.8, help="how much raters prefer what people wrote, in log-odds")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="keep store and database here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    os.environ.setdefault("LLUMI_PRIVACY_KEY", "a key for a benchmark on made-up text")
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        figures = walk(folder.resolve(), options.posts, options.raters, options.lead)
    figures["lead_over_all_items"] = round(marginal_lead(options.lead), 3)
    figures["simulated"] = [recovered(options.lead, options.studies, *shape) for shape in SHAPES]
    if options.json:
        print(json.dumps(figures))
        return
    for command, seconds in figures.pop("seconds").items():
        print(f"{seconds:8.1f} s  {command}")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
