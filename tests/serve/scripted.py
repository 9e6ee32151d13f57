"""A model that says what a test tells it to, in the pieces that the test wants: what the guard must expect at worst."""

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from llumi.engine import Delta, Request, Sampling

Cut = Callable[[str], Sequence[str]]
ASKED = Request(({"role": "user", "content": "What the model is asked does not matter here."},), Sampling(seed=5))


def by_word(text: str) -> list[str]:
    """As an engine streams."""
    return [f"{word} " for word in text.split(" ")[:-1]] + text.split(" ")[-1:]


def by_chance(seed: int) -> Cut:
    """Pieces of 0 to 12 characters, so that a cut falls anywhere, also within a word or between two spaces."""

    def cut(text: str) -> list[str]:
        chooser, pieces = random.Random(seed), []
        while text:
            length = chooser.randint(0, 12)
            pieces.append(text[:length])
            text = text[length:]
        return pieces

    return cut


@dataclass
class Scripted:
    """Answers the first draw with the first of `replies`, and so on; `asked` and `broken_off` tell what became of it."""

    replies: Sequence[str]
    cut: Cut = by_word
    asked: list[Request] = field(default_factory=list)
    broken_off: int = 0

    async def complete(self, request: Request) -> Delta:
        """The whole reply."""
        pieces = [delta async for delta in self.stream(request)]
        return replace(pieces[-1], text="".join(piece.text for piece in pieces))

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The reply in its pieces; a piece counts as a token."""
        self.asked.append(request)
        pieces = self.cut(self.replies[len(self.asked) - 1])
        finished = False
        try:
            for piece in pieces:
                yield Delta(piece)
            finished = True
            yield Delta("", "stop", 7, len(pieces))
        finally:
            self.broken_off += not finished
