"""In which order a run meets its examples: a function of seed and epoch alone, whatever the number of ranks.

Every step takes the next `batch` examples of the order, so that a run resumes at the right example of the right epoch, and
another number of ranks with the same global batch learns from the same examples at every step.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

BATCHES_PER_WINDOW = 50
"""Among so many batches examples are sorted by length: enough for batches of like length, few enough to stay random."""


def epoch_order(num_examples: int, batch: int, seed: int, epoch: int, lengths: Sequence[int] | None) -> npt.NDArray[np.int64]:
    """The examples of one epoch as indices, shape (num_examples,).

    With `lengths` the `batch` examples of a step are of like length, which saves padding; the steps come in random order,
    but the longest first: where memory does not suffice, it shows at once.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(num_examples)
    if lengths is None:
        return order
    of = np.asarray(lengths)
    window = batch * BATCHES_PER_WINDOW
    windows = [order[start : start + window] for start in range(0, num_examples, window)]
    order = np.concatenate([each[np.argsort(-of[each], kind="stable")] for each in windows])
    num_whole = num_examples // batch
    whole, rest = order[: num_whole * batch].reshape(num_whole, batch), order[num_whole * batch :]
    whole = whole[random.permutation(num_whole)]
    if num_whole:
        longest = int(of[whole].max(axis=1).argmax())
        whole[[0, longest]] = whole[[longest, 0]]
    return np.concatenate([whole.ravel(), rest])


class EpochOrder(Sampler[int]):  # type: ignore[misc]  # torch is skipped
    """`epoch_order` as the loader asks for it; `epoch` tells at the start of each pass which one it is.

    It is asked, not set: a loader that skips what was learned before a restart hides its sampler from `set_epoch`.
    """

    def __init__(
        self, num_examples: int, batch: int, seed: int, epoch: Callable[[], int], lengths: Sequence[int] | None = None
    ) -> None:
        self.num_examples, self.batch, self.seed = num_examples, batch, seed
        self.epoch, self.lengths = epoch, lengths

    def __iter__(self) -> Iterator[int]:
        yield from epoch_order(self.num_examples, self.batch, self.seed, self.epoch(), self.lengths).tolist()

    def __len__(self) -> int:
        return self.num_examples
