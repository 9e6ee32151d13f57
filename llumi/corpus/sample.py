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
    """What a post may be about: how it begins, how it goes on, what a friend might say or suggest, and that said bluntly."""

    titles: tuple[str, ...]
    openings: tuple[str, ...]
    details: tuple[str, ...]
    understood: tuple[str, ...]
    steps: tuple[str, ...]
    blunt: tuple[str, ...]


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
        (
            "Just go to some class or a library evening, then you see the same faces.",
            "Quiet evenings in a new place are what you get when you move.",
            "Call one old friend once a week and that is that.",
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
        (
            "A dog is a dog, write down a few things that you loved and then move on.",
            "Of course it hurts, you shared every day, everybody knows that.",
            "Put the bowl away when you feel like it, nobody minds.",
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
        (
            "Cook one of her meals on that day and it will pass.",
            "You miss your grandmother, that is how it goes with grandmothers.",
            "Ask somebody else in the family, they lost her too.",
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
        (
            "Do twenty minutes on one topic, take a break and repeat.",
            "Everybody freezes in front of a book before exams.",
            "Write a mail to your teacher or the student office and be done with it.",
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
        (
            "Tell one person this week that you lost the job.",
            "No answer after forty letters is normal in this market.",
            "Write applications two hours a day and leave it at that.",
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
        (
            "Write your lists on paper before bed and turn the clock around.",
            "Broken nights make everything look heavy, sleep and it looks better.",
            "See a doctor about the sleep if it goes on.",
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
        (
            "Send one honest line to your friend and leave it.",
            "Losing a friend hurts like any goodbye.",
            "Talk to someone else who makes you laugh.",
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
MOMENTS = (
    "It is Sunday and it has been raining since noon.",
    "I am writing this on the bus home.",
    "It is late and the street below is empty.",
    "I made tea and let it go cold again.",
    "My coat is still on, I just sat down.",
    "The neighbours are laughing behind the wall.",
    "I took the long way home today.",
    "The first snow came this morning.",
    "I have started this message four times.",
    "I cleaned the whole kitchen instead of calling anyone.",
    "The radio is on so that it is not so quiet.",
    "It is my birthday next week.",
)
ASIDES = (
    "My sister says that I think too much.",
    "I used to be the one who cheered up others.",
    "At work nobody would guess.",
    "I eat, I sleep a little, I go on.",
    "A year ago I would have laughed about it.",
    "I do not want to be a weight on anyone.",
    "Sometimes a song is enough to bring it all back.",
    "I keep a notebook, but the pages stay empty.",
    "There was one good hour on Thursday, in the park.",
    "My father would have known what to say.",
    "I smile at people so that they do not ask.",
    "I have read many posts here and felt less strange.",
)
SHARED = (
    "Something like it happened to me three winters ago, and I remember how long the days were.",
    "When I was there, I counted the hours until evening.",
    "My brother went through this, and we often sat together without a word.",
    "I know that hour of the night very well.",
    "For me it came in waves, and the waves became smaller.",
    "I was ashamed to tell anyone, and later I was glad that I did.",
    "It took me a whole spring, and nothing was wrong with that.",
    "A neighbour once brought me bread in such a week, and I never forgot it.",
    "I still have days like yours, only fewer.",
    "Nobody could repair it for me, but it helped that somebody stayed.",
    "I wrote letters that I never sent, and they did me good.",
    "What you describe made me stop and read it twice.",
)
ENDS = (
    "Will you tell us how tomorrow was?",
    "I will look in here again this evening.",
    "There is no hurry with any of it.",
    "You can write here as often as you like.",
    "I hope that tonight is a little softer.",
    "One small thing is enough for one day.",
    "You have done something already by writing this.",
    "I am sending you a quiet greeting from far away.",
)
THIN_STARTS = (
    "Well, this happens to everybody.",
    "Same here last year.",
    "Not sure what to say.",
    "Honestly, it could be worse.",
    "There are many threads about this.",
    "Okay.",
    "I would not worry so much.",
    "Read this on my way to work.",
    "You will get used to it.",
    "Hm, that is life.",
    "Most people do not even notice.",
    "First of all, calm down.",
)
THIN_ENDS = (
    "That is all I can say.",
    "Give it some time.",
    "Keep busy for a while.",
    "Try to look on the bright side.",
    "Use the search, it was all said before.",
    "What do you expect that people here are going to do?",
    "Worked for my cousin.",
    "Anyway, good luck.",
    "Then it is simply over one day.",
    "Think about something else.",
    "Nothing more to it.",
    "Next week you will have forgotten it.",
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
            self._add_comment(post, self._thin(theme), self.random.randint(-3, 2))
        self._add_irregular(post, theme, number)

    def _add_post(self, theme: Theme, created: int) -> dict[str, Any]:
        body = " ".join(self.random.choice(part) for part in (MOMENTS, theme.openings, theme.details, ASIDES, WISHES))
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
        last = theme.steps if self.random.random() < 0.7 else CLOSINGS
        parts = (WELCOMES, theme.understood, SHARED, last, ENDS)
        return " ".join(filter(None, (self.random.choice(part) for part in parts)))

    def _thin(self, theme: Theme) -> str:
        return " ".join(self.random.choice(part) for part in (THIN_STARTS, theme.blunt, THIN_ENDS))

    def _add_irregular(self, post: dict[str, Any], theme: Theme, number: int) -> None:
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
                self._add_comment(post, self._thin(theme), 2, parent_id=f"t1_{last['id']}")
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
