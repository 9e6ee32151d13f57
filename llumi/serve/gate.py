"""Where a growing text may be cut: it comes in as deltas, and is judged sentence by sentence."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from llumi.safety.sentences import END_MARKS, WINDOW, sentence_ends


@dataclass
class Gate:
    """Holds all text of a reply; `num_released` characters of it have left."""

    text: str = ""
    num_released: int = 0
    _starts: list[int] = field(default_factory=lambda: [0])
    _looked_at: int = 0

    def add(self, piece: str, *, ended: bool) -> Iterator[tuple[str, str, int, bool]]:
        """For each sentence that `piece` ends: it, alone and after the `WINDOW` - 1 before it, where it ends, and whether it is
        the last.

        The last sentence of a reply ends when the reply has `ended`.
        """
        self.text += piece
        for end, following in sentence_ends(self.text, max(self._starts[-1], self._looked_at)):
            yield self.text[self._starts[-1] : end], self._recent(end), end, False
            self._starts.append(following)
        self._looked_at = self._open_end()
        if ended:
            yield self.text[self._starts[-1] :], self._recent(len(self.text)), len(self.text), True

    def release(self, end: int) -> str:
        """The text up to `end` that has not left yet; it counts as sent."""
        start, self.num_released = self.num_released, end
        return self.text[start:end]

    def _recent(self, end: int) -> str:
        return self.text[self._starts[-WINDOW:][0] : end]

    def _open_end(self) -> int:
        """Where the marks and spaces begin that may become the end of a sentence: what lies before is looked at once."""
        at = len(self.text)
        while at > 0 and (self.text[at - 1].isspace() or self.text[at - 1] in END_MARKS):
            at -= 1
        return at
