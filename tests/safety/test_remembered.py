import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from llumi.safety.remembered import Remembered

SENTENCE = "I walked home along the river."
SCORES = np.array([0.25, -0.5], np.float32)


def test_what_was_asked_for_is_known_again_and_the_oldest_is_forgotten():
    remembered = Remembered(size=2)
    assert remembered.get(SENTENCE) is None
    remembered.put(SENTENCE, SCORES)
    remembered.put("b", 2 * SCORES)
    assert np.array_equal(remembered.get(SENTENCE), SCORES)
    remembered.put("c", 3 * SCORES)
    assert len(remembered) == 2
    assert remembered.get("b") is None
    assert np.array_equal(remembered.get(SENTENCE), SCORES)
    remembered.put("\ud800", SCORES)
    assert np.array_equal(remembered.get("\ud800"), SCORES)


def test_nothing_of_a_sentence_is_kept_and_no_two_processes_know_it_by_the_same_name():
    one, other = Remembered(), Remembered()
    for each in (one, other):
        each.put(SENTENCE, SCORES)
    assert not {name for name in one._scores if name in other._scores}
    assert b"river" not in pickle.dumps(vars(one)["_scores"])


def test_a_copy_starts_empty():
    remembered = Remembered(size=1)
    remembered.put(SENTENCE, SCORES)
    copy = pickle.loads(pickle.dumps(remembered))
    assert len(copy) == 0
    copy.put(SENTENCE, SCORES)
    copy.put("b", SCORES)
    assert len(copy) == 1


def test_threads_may_share_it():
    remembered = Remembered(size=50)

    def work(number: int) -> None:
        for turn in range(500):
            sentence = str((number * turn) % 90)
            remembered.put(sentence, np.float32([int(sentence)]))
            found = remembered.get(sentence)
            assert found is None or found[0] == int(sentence)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(1, 5)))
    assert len(remembered) == 50
