import random

import polars as pl
import pytest

from llumi.config import Config
from llumi.pairs.text import TextRules, count_tokens, language_of
from llumi.safety import SafetyRules
from tests.pairs.threads import replies, texts

ENGLISH = [
    "That sounds like a long and lonely week, and I am glad that you told us about it.",
    "Could you call your sister this evening and ask her to come over for tea?",
    "I was new in my town once, and the library evening helped me to find friends.",
]
GERMAN = [
    "Das klingt nach einer langen und einsamen Woche, und ich bin froh, dass du davon erzählst.",
    "Könntest du heute Abend deine Schwester anrufen und sie auf einen Tee einladen?",
    "Ich war auch einmal neu in meiner Stadt, und der Abend in der Bücherei hat mir geholfen.",
]
VETOED = next(rule.examples[0] for rule in SafetyRules.load().file.replies if rule.name == "minimising")


def rules(config: Config, **corpus: object) -> TextRules:
    return TextRules.of(config.model_copy(update={"corpus": config.corpus.model_copy(update=corpus)}))


def judged(text_rules: TextRules, bodies: list[str], scores: list[int] | None = None, posts: str = "") -> pl.DataFrame:
    """The verdicts in the order of `bodies`, all replies to one post unless `posts` has a letter for each."""
    frame = replies({"p": scores or list(range(len(bodies)))}).with_row_index("row")
    if posts:
        frame = frame.with_columns(post_id=pl.Series(list(posts)))
    return text_rules.judge(frame.sample(fraction=1, shuffle=True, seed=1), pl.Series(bodies, dtype=pl.String)).sort("row")


def odd_texts() -> list[str]:
    """Texts of all lengths, some whose words or bytes alone decide, and many that only the tokenizer can decide."""
    chance = random.Random(17)
    plain = [next(texts(number, num_words=chance.randint(1, 12))) for number in range(200)]
    marks = [
        "...",
        "🙂🙂",
        "a",
        "Hm.",
        "¡Ánimo!",
        "ok ok",
        "a\u2003b\u2003c",
        "x" * 40,
        "one\n\ntwo\tthree",
        "Could you call a friend tonight?",
    ]
    return list(dict.fromkeys([*plain, *marks, *(text * 2 for text in marks)]))


@pytest.mark.parametrize(("least", "most"), [(3, 1024), (12, 40), (30, 31), (0, 5)])
def test_lengths_in_tokens_are_those_of_the_tokenizer(config: Config, least: int, most: int) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(config.train.base)
    bodies = odd_texts()
    lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in bodies]
    assert count_tokens(config.train.base, bodies) == lengths
    reasons = ["too_few_tokens" if n < least else "too_many_tokens" if n > most else None for n in lengths]
    found = judged(rules(config, min_tokens=least, max_tokens=most), bodies)
    assert found["reason"].to_list() == reasons
    assert len(set(reasons)) > 1


def test_lengths_in_characters_are_of_the_text(config: Config) -> None:
    assert judged(rules(config), ["One quiet week.", "Ánimo, 🙂!"])["length"].to_list() == [15, 9]


def test_other_languages_are_dropped_where_some_are_named(config: Config) -> None:
    bodies = [*ENGLISH, *GERMAN]
    assert [language_of(text) for text in bodies] == ["en"] * 3 + ["de"] * 3
    other = "other_language"
    assert judged(rules(config, languages=("EN",)), bodies)["reason"].to_list() == [None] * 3 + [other] * 3
    assert judged(rules(config, languages=("de",)), bodies)["reason"].to_list() == [other] * 3 + [None] * 3
    assert judged(rules(config, languages=("de", "en")), bodies)["reason"].null_count() == 6
    assert judged(rules(config), bodies)["reason"].null_count() == 6


def test_a_text_of_several_lines_has_one_language(config: Config) -> None:
    assert language_of("\n\n".join(GERMAN)) == "de"
    assert judged(rules(config, languages=("en",), min_tokens=3), ["I.", "\n"])["reason"].to_list() == ["too_few_tokens"] * 2


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_the_best_safe_replies_of_each_post_are_found_and_no_other_is_among_them(config: Config, limit: int) -> None:
    chance, safety = random.Random(limit), SafetyRules.load()
    bodies = [f"{chance.choice(ENGLISH)} {VETOED if chance.random() < 0.6 else ''} {number}" for number in range(120)]
    frame = replies({f"p{post}": [chance.randrange(5) for _ in range(20)] for post in range(6)}).with_row_index("row")
    found = rules(config).veto(frame.sample(fraction=1, shuffle=True, seed=2), pl.Series(bodies), limit)
    assert found.columns == frame.columns
    assert found.drop("veto").sort("row").equals(frame.drop("veto"))
    everywhere = frame.with_columns(veto=safety.vetoes(pl.Series(bodies)))
    assert best_safe(found, limit) == best_safe(everywhere, limit)
    assert set(found["veto"].drop_nulls()) == {"minimising"}
    assert set(found.drop_nulls("veto")["row"]) <= set(everywhere.drop_nulls("veto")["row"])


def best_safe(frame: pl.DataFrame, limit: int) -> list[int]:
    ordered = frame.filter(pl.col("veto").is_null()).sort("post_id", "score", "id", descending=[False, True, False])
    return ordered.group_by("post_id", maintain_order=True).head(limit)["row"].to_list()


def test_where_safety_refuses_all_replies_none_is_left(config: Config) -> None:
    frame = replies({"p": [1, 2, 3]}).with_row_index("row")
    assert rules(config).veto(frame, pl.Series([VETOED] * 3), 1)["veto"].to_list() == ["minimising"] * 3
    assert rules(config).veto(frame[:0], pl.Series([VETOED] * 3), 1).height == 0


def test_of_the_same_words_below_one_post_the_most_endorsed_stays(config: Config) -> None:
    bodies = [ENGLISH[0], ENGLISH[0].upper(), ENGLISH[0], ENGLISH[1], ENGLISH[0]]
    found = judged(rules(config), bodies, scores=[3, 9, 5, 1, 2], posts="ppppq")
    assert found["reason"].to_list() == ["near_duplicate", None, "near_duplicate", None, None]


def test_a_rule_of_length_comes_before_the_copy(config: Config) -> None:
    found = judged(rules(config, min_tokens=50), [ENGLISH[0], ENGLISH[0]])
    assert found["reason"].to_list() == ["too_few_tokens"] * 2


def test_persons_are_taken_out_and_crisis_lines_stay(config: Config) -> None:
    scrubbed, counts = rules(config).scrub(
        pl.Series(["Write to u/some_neighbour or to kind.person@example.org.", "You can call or text 988.", "Nothing here."])
    )
    assert "neighbour" not in scrubbed[0]
    assert "example" not in scrubbed[0]
    assert scrubbed.to_list()[1:] == ["You can call or text 988.", "Nothing here."]
    assert counts == {"user": 1, "email": 1}


def test_no_replies_no_verdicts(config: Config) -> None:
    found = rules(config).judge(replies({"p": [1]}).with_row_index("row")[:0], pl.Series([], dtype=pl.String))
    assert found.height == 0
    assert {"reason", "length"} <= set(found.columns)
