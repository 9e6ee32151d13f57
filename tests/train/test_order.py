"""The order of examples: complete, its own in every epoch, and the same for any number of ranks."""

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from torch.utils.data import BatchSampler, DataLoader

from llumi.train.order import EpochOrder, epoch_order

LENGTHS = np.random.default_rng(0).integers(10, 500, 1003).tolist()


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_an_epoch_meets_every_example_once_in_an_order_of_its_own(lengths: list[int] | None) -> None:
    orders = [epoch_order(1003, 8, 17, epoch, lengths) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(1003)) for order in orders)
    assert (orders[0] != orders[1]).any()
    assert (orders[0] == epoch_order(1003, 8, 17, 0, lengths)).all()
    assert (orders[0] != epoch_order(1003, 8, 18, 0, lengths)).any()


def padding(order: np.ndarray, batch: int) -> int:
    of = np.asarray(LENGTHS)
    batches = [of[order[start : start + batch]] for start in range(0, len(order), batch)]
    return sum(int((each.max() - each).sum()) for each in batches)


def test_buckets_save_most_of_the_padding_and_begin_with_the_longest() -> None:
    plain, bucketed = epoch_order(1003, 8, 17, 0, None), epoch_order(1003, 8, 17, 0, LENGTHS)
    assert padding(bucketed, 8) < padding(plain, 8) / 10
    assert max(LENGTHS[i] for i in bucketed[:8]) == max(LENGTHS[i] for i in bucketed[:1000])
    means = [np.mean([LENGTHS[i] for i in bucketed[start : start + 8]]) for start in range(8, 1000, 8)]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # no drift from long to short within an epoch


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_a_step_takes_the_same_examples_whatever_the_number_of_ranks(num_ranks: int) -> None:
    order = EpochOrder(64, 8, 17, epoch=lambda: 3, lengths=LENGTHS[:64])
    batches = BatchSampler(order, 8 // num_ranks, drop_last=False)
    ranks = [list(BatchSamplerShard(batches, num_ranks, rank)) for rank in range(num_ranks)]
    expected = epoch_order(64, 8, 17, 3, LENGTHS[:64])
    for step in range(8):
        assert [i for rank in ranks for i in rank[step]] == expected[8 * step : 8 * step + 8].tolist()


def test_a_loader_that_skips_goes_on_in_the_order_of_its_epoch() -> None:
    order = EpochOrder(20, 4, 17, epoch=lambda: 2)
    loader = skip_first_batches(DataLoader(range(20), batch_size=4, sampler=order), 3)
    assert [i for batch in loader for i in batch.tolist()] == epoch_order(20, 4, 17, 2, None)[12:].tolist()
