"""A made-up corpus in the layout of a dump: gentle, varied, and with the irregularities that cleaning is there for.

Nobody wrote these texts. They are short, so that a small model trains on them within minutes on a CPU.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import zstandard

from llumi.corpus.dump import MAX_WINDOW_BYTES
from llumi.corpus.reddit import base36

COMMUNITIES = ("quietporch", "smallsteps")
_START = 1_672_531_200  # 2023-01-01
_HOUR = 3600
_BLOCK_RECORDS = 100  # so that a file cut short still gives the records of its whole blocks, as a large one does


@dataclass(frozen=True)
class Theme:
    """What a post may be about: how it begins, how it goes on, and what a friend might say to it or suggest."""

    titles: tuple[str, ...]
    openings: tuple[str, ...]
    details: tuple[str, ...]
    understood: tuple[str, ...]
    steps: tuple[str, ...]


THEMES = (
    Theme(
        ("New town, quiet evenings", "Three months here and still no one to call", "How do you start over somewhere?"),
        (
            "I moved to a new town in spring and I still do not know anyone here.",
            "My job brought me to this city and the evenings are very quiet.",
            "Since the move I talk to the cashier and to nobody else all week.",
        ),
        (
            "On weekends I walk around and watch other people meet their friends.",
            "I keep my phone near me, but it hardly ever rings.",
            "My old friends are kind, but their lives go on without me.",
        ),
        (
            "Starting again where nobody knows you is lonely, even when the move was your own choice.",
            "Quiet evenings in a strange place can feel twice as long as they are.",
        ),
        (
            "Is there a class or a library evening where you would see the same faces every week?",
            "Perhaps call one old friend on a fixed day, so that the week has a warm spot in it.",
        ),
    ),
    Theme(
        (
            "The house is so still now",
            "Missing an animal more than I can explain",
            "Twelve years of steps behind me",
        ),
        (
            "My old dog died two weeks ago and I still listen for his steps.",
            "We had to say goodbye to our cat after fourteen years together.",
            "I came home today and nobody was waiting behind the door.",
        ),
        (
            "People tell me that it was only an animal, and I stop talking then.",
            "I cannot put the bowl away yet, and I feel silly about it.",
            "The mornings are the hardest, because we always walked then.",
        ),
        (
            "Of course it hurts, because you shared every single day.",
            "Grief for an animal is real grief, and you do not have to explain it to anyone.",
        ),
        (
            "Would it help to write down a few small things that you loved about those years?",
            "Leave the bowl where it is until you are ready, and tell someone kind one story.",
        ),
    ),
    Theme(
        ("My grandmother is gone", "I keep wanting to ring my grandmother", "The first holiday without her"),
        (
            "My grandmother died in autumn and her kitchen was my favourite place.",
            "I wanted to ring my grandmother today and then I remembered.",
            "The first holiday without my grandmother is coming and I dread it.",
        ),
        (
            "Everyone else in the family seems to be fine already.",
            "I found her handwriting in a cookbook and had to sit down.",
            "She taught me to ride a bicycle and I never thanked her enough.",
        ),
        (
            "Someone who was home to you is missing, and that does not follow a calendar.",
            "How much you miss her says how much there was between you.",
        ),
        (
            "Could you cook one of her meals on that day and tell someone about her?",
            "Maybe ask one person in the family how they are, because they may be waiting for that too.",
        ),
    ),
    Theme(
        ("Exams in two weeks and I freeze", "I read the same page all day", "Everyone seems to be ahead of me"),
        (
            "My exams start in two weeks and I freeze whenever I open a book.",
            "I study until midnight and remember nothing in the morning.",
            "I failed one test in winter and now I doubt everything that I know.",
        ),
        (
            "My parents mean well, but every question about it makes my stomach tight.",
            "The others talk about their notes and I just nod.",
            "I have made four plans already and followed none of them.",
        ),
        (
            "Freezing in front of a book is what pressure does, and it says nothing about how able you are.",
            "Two weeks of fear are exhausting, and still you are here and trying.",
        ),
        (
            "Try twenty minutes on one small topic today, then a real break, and count that as done.",
            "Your teacher or the student office has seen this often, and one short mail would be enough.",
        ),
    ),
    Theme(
        ("Lost my job on Friday", "Forty applications and no answer", "I do not know what to say when people ask"),
        (
            "My company let me go on Friday after six years.",
            "I have sent forty applications since summer and heard nothing back.",
            "I lost my job and I still leave the house at eight every day.",
        ),
        (
            "I have not told my family, because I do not want them to worry.",
            "The savings last until spring, but I count them every night.",
            "When somebody asks what I do, I change the subject.",
        ),
        (
            "Six years are a long time, and losing that place can shake how you see yourself.",
            "Silence after so many letters would wear anyone down, and it is no verdict on you.",
        ),
        (
            "Is there one person whom you could tell this week, so that you do not carry it alone?",
            "Perhaps keep two hours a day for letters, and let the rest of the day be yours.",
        ),
    ),
    Theme(
        ("Awake at three again", "Tired all day, awake all night", "How do you quiet your head at night?"),
        (
            "I have been awake at three every night for a month now.",
            "As soon as the light is off, my head begins to make lists.",
            "I am tired all day and wide awake the moment I lie down.",
        ),
        (
            "At work I smile and hope that no one notices.",
            "I have stopped planning things, because I never know how I will feel.",
            "The longer I look at the clock, the worse it gets.",
        ),
        (
            "A month of broken nights makes everything look heavier than it is by day.",
            "Lying awake with a busy head is lonely, and very many of us know that hour.",
        ),
        (
            "If it goes on, a doctor can help with sleep more often than people think.",
            "Try to put the lists on paper before bed, and turn the clock to the wall.",
        ),
    ),
    Theme(
        ("My best friend stopped answering", "A friendship just faded", "I think I lost my oldest friend"),
        (
            "My best friend of ten years has stopped answering my messages.",
            "We shared a flat and a thousand jokes, and now we are strangers.",
            "I said something careless in summer and a friendship ended over it.",
        ),
        (
            "I go over our last talk again and again and find no answer.",
            "I see her pictures with other people and have to look away.",
            "I wrote three letters to him and sent none of them.",
        ),
        (
            "The end of a friendship hurts like any other goodbye, only nobody brings you soup for it.",
            "Not knowing why is often the hardest part, and your mind keeps looking for a reason.",
        ),
        (
            "One honest line without any demand may be enough, and after that it is no longer in your hands.",
            "Who else makes you laugh a little? Perhaps let that person know that you are sad just now.",
        ),
    ),
)
WISHES = (
    "I do not really know what I am asking for.",
    "Has anyone else been there, and what helped a little?",
    "I just wanted to say it somewhere.",
    "Some days are better, and today is not one of them.",
    "Thank you for reading this.",
)
WELCOMES = (
    "Thank you for telling us.",
    "I am glad that you wrote this here.",
    "That sounds really heavy.",
    "I am sorry that you are going through this.",
    "You do not sound silly to me at all.",
)
CLOSINGS = ("We are here if you want to tell more.", "Be gentle with yourself tonight.", "You are not alone with it.", "")
THIN = (
    "This happens to everybody at some point, so just give it some time.",
    "I had the same thing last year and then it was simply over.",
    "Have you tried to think about something else and stay busy for a while?",
    "It could be a lot worse, so try to look on the bright side.",
    "There are many other threads about exactly this, use the search and read those.",
    "I would not worry about it so much, most people never do.",
    "Okay, but what do you expect that people here are going to do?",
)
THANKS = "Thank you so much, I read every answer twice and I feel less alone with it now."
NOTICE = "Welcome to this community. Please read the rules in the sidebar before you post or answer here."


@dataclass
class _Writer:
    """Records of one community, as they pile up."""

    community: str
    random: random.Random
    next_id: int
    posts: list[dict[str, Any]] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)

    def add_thread(self, number: int) -> None:
        """One post with its replies, and here and there what a real dump has beside them."""
        theme = self.random.choice(THEMES)
        created = _START + number * 5 * _HOUR + self.random.randrange(_HOUR)
        post = self._add_post(theme, created)
        for _ in range(self.random.randint(2, 4)):
            self._add_comment(post, self._support(theme), 4 + int(self.random.expovariate(1 / 14)))
        for _ in range(self.random.randint(1, 3)):
            self._add_comment(post, self.random.choice(THIN), self.random.randint(-3, 2))
        self._add_irregular(post, number)

    def _add_post(self, theme: Theme, created: int) -> dict[str, Any]:
        body = " ".join(self.random.choice(part) for part in (theme.openings, theme.details, WISHES))
        post = {
            "id": self._new_id(),
            "subreddit": self.community,
            "author": f"neighbour_{self.random.randrange(10**5)}",
            "created_utc": created,
            "retrieved_on": created + 48 * _HOUR,
            "score": self.random.randint(1, 60),
            "title": self.random.choice(theme.titles),
            "selftext": body,
            "is_self": True,
            "stickied": False,
            "distinguished": None,
            "removed_by_category": None,
        }
        self.posts.append(post)
        return post

    def _add_comment(self, post: dict[str, Any], body: str, score: int, **changes: Any) -> dict[str, Any]:
        created = post["created_utc"] + self.random.randrange(1, 24) * _HOUR
        comment = {
            "id": self._new_id(),
            "subreddit": self.community,
            "author": f"neighbour_{self.random.randrange(10**5)}",
            "link_id": f"t3_{post['id']}",
            "parent_id": f"t3_{post['id']}",
            "created_utc": created,
            "retrieved_on": created + 48 * _HOUR,
            "score": score,
            "body": body,
            "stickied": False,
            "distinguished": None,
            "is_submitter": False,
        }
        self.comments.append(comment | changes)
        return self.comments[-1]

    def _support(self, theme: Theme) -> str:
        parts = (
            (WELCOMES, theme.understood, theme.steps) if self.random.random() < 0.7 else (WELCOMES, theme.understood, CLOSINGS)
        )
        return " ".join(self.random.choice(part) for part in parts).strip()

    def _add_irregular(self, post: dict[str, Any], number: int) -> None:
        """What cleaning must see: thanks, notices, removals, replies to replies, and records captured twice."""
        last = self.comments[-1]
        match number % 12:
            case 1:
                self._add_comment(post, THANKS, 9, author=post["author"], is_submitter=True)
            case 3:
                self._add_comment(post, NOTICE, 1, author="AutoModerator", stickied=True, distinguished="moderator")
            case 4:
                self._add_comment(post, "[removed]", 3)
            case 5:
                self._add_comment(post, "[deleted]", 1, author="[deleted]")
            case 6:
                self._add_comment(post, self.random.choice(THIN), 2, parent_id=f"t1_{last['id']}")
            case 8:
                early = {"score": 1, "retrieved_on": last["created_utc"] + 60}
                self.comments.append(last | early)
            case 9:
                self.comments.append(last | {"body": "[removed]", "retrieved_on": last["retrieved_on"] + _HOUR})
            case 10 if number % 24 == 10:
                post |= {"selftext": "[removed]", "removed_by_category": "deleted"}
            case _:
                pass

    def _new_id(self) -> str:
        self.next_id += 1
        return base36(self.next_id)


def write_sample(folder: Path, num_posts: int, seed: int = 17) -> None:
    """Write `num_posts` posts and their replies, of two communities, as `NAME_submissions.zst` and `NAME_comments.zst`.

    The same arguments write the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writers = [
        _Writer(community, random.Random(f"{seed} {community}"), next_id=36**5 * (place + 1))  # noqa: S311
        for place, community in enumerate(COMMUNITIES)
    ]
    for number in range(num_posts):
        writers[number % len(writers)].add_thread(number // len(writers))
    for writer in writers:
        _write(folder / f"{writer.community}_submissions.zst", writer.posts)
        _write(folder / f"{writer.community}_comments.zst", writer.comments)


def _write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One JSON record per line in a zstd frame that declares the window of real dumps; whole or not at all."""
    # Unless its size stays unsaid, a short text would shrink the window; small tables keep the compressor light.
    parameters = zstandard.ZstdCompressionParameters(
        window_log=MAX_WINDOW_BYTES.bit_length() - 1, strategy=zstandard.STRATEGY_FAST, hash_log=17, chain_log=17, search_log=1
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as stream:
        for start in range(0, len(records), _BLOCK_RECORDS):
            lines = b"".join(orjson.dumps(record) + b"\n" for record in records[start : start + _BLOCK_RECORDS])
            stream.write(compressor.compress(lines) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        stream.write(compressor.flush())
    partial.rename(path)
