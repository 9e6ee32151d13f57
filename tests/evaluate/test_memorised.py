"""Runs of words that replies share with training text: found, measured, and not invented."""

import numpy as np
import polars as pl
import pytest

from llumi.evaluate.memorised import longest_shared_runs

TRAINING = [
    pl.Series(["My sister calls on Sundays and we talk about the garden.", "The bus was late again; I walked home."]),
    pl.Series(["Thank you for writing to us tonight."]),
]


def runs(replies: list[str | None], length: int = 4, ignored: list[str] | None = None) -> list[int]:
    return longest_shared_runs(
        pl.Series(replies, dtype=pl.String), TRAINING, length, pl.Series(ignored) if ignored else None
    ).tolist()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("I hear that. MY SISTER calls, on Sundays!", 5),
        ("my sister calls", 0),
        ("my sister calls on", 4),
        ("We talk about the garden. The bus was late again.", 5),
        ("She calls on Sundays and we talk about other things.", 7),
        ("thank you for writing to me, and thank you for writing to us tonight", 7),
        ("", 0),
        ("garden", 0),
        (None, 0),
    ],
)
def test_the_longest_run_of_a_reply(reply: str | None, words: int) -> None:
    assert runs([reply]) == [words]


def test_a_run_does_not_reach_from_one_text_into_the_next() -> None:
    # "garden" ends one training text and "the bus" begins the next; the same holds for two replies.
    assert runs(["about the garden the bus was"]) == [0]
    assert runs(["my sister", "calls on sundays"]) == [0, 0]


def test_each_reply_is_measured_by_itself() -> None:
    assert runs(["nothing of it", "the bus was late again i walked home", "", "for writing to us"]) == [0, 8, 0, 4]


def test_what_every_prompt_holds_is_passed_over() -> None:
    assert runs(["thank you for writing to us tonight"], ignored=["Thank you for writing to us."]) == [4]


def test_of_the_length_asked_for() -> None:
    reply = ["we talk about the garden"]
    assert [runs(reply, length)[0] for length in (1, 2, 5, 6)] == [5, 5, 5, 0]


def test_against_a_search_word_by_word() -> None:
    random = np.random.default_rng(3)
    vocabulary = np.array(["rain", "tea", "walk", "home", "light"])
    texts = [" ".join(vocabulary[random.integers(0, 5, size)]) for size in random.integers(0, 12, 60)]
    training, replies = pl.Series(texts[:30]), pl.Series(texts[30:])
    known = {tuple(words[i : i + 3]) for words in (text.split() for text in texts[:30]) for i in range(len(words) - 2)}

    def search(words: list[str]) -> int:
        longest = stretch = 0
        for i in range(len(words) - 2):
            stretch = stretch + 1 if tuple(words[i : i + 3]) in known else 0
            longest = max(longest, stretch + 2 if stretch else 0)
        return longest

    expected = [search(text.split()) for text in texts[30:]]
    assert max(expected) > 4
    assert min(expected) == 0
    assert longest_shared_runs(replies, [training], 3).tolist() == expected


def test_no_reply_at_all() -> None:
    assert runs([]) == []
