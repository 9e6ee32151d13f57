from llumi.pairs.split import example_id, split_of

POSTS = [f"{number:024x}" for number in range(4000)]


def test_about_the_fraction_is_held_out() -> None:
    share = sum(split_of(post, 0.1) == "test" for post in POSTS) / len(POSTS)
    assert 0.08 < share < 0.12


def test_a_larger_fraction_keeps_what_was_held_out() -> None:
    held_out = [post for post in POSTS if split_of(post, 0.1) == "test"]
    assert all(split_of(post, 0.2) == "test" for post in held_out)


def test_ids_tell_apart_what_differs() -> None:
    parts = [("p", "a", "b"), ("p", "b", "a"), ("p", "ab"), ("p", "a"), ("pa",)]
    assert len({example_id(*some) for some in parts}) == len(parts)
    assert len(example_id("p", "a")) == 24
