"""The diff of the writing page in a real browser: exact to the last space, for any texts and any choices."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("ray")

from llumi.serve.router import build_app
from tests.serve.writing import DRAFT, POST, REVISION, Writer, listening, page_service

pytestmark = pytest.mark.browser
PIECES = [
    "I",
    "am",
    "glad",
    "Glad",
    "friends",
    "don't",
    "don’t",
    "evening",
    "7",
    "3.5",
    "wohl-an",
    "club.example/a.b",
    "naïve",
    "夜",
    "👩‍👧",
    "e\u0301",
]
GAPS = [" ", " ", " ", "  ", "\n", "\n\n", ", ", ". ", "? ", "! ", ".", "", "\t", " – ", "\u00a0", "\r\n", "</b>", "\u2028"]
NUM_PAIRS = 400


@pytest.fixture(scope="module")
def run(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """`run(module, function, *arguments)` of a module of the page, in the page."""
    with listening(build_app(page_service(tmp_path_factory.mktemp("page") / "rate.db"))) as url:
        page = Writer(chromium, url).page

        def of_module(module: str, function: str, *arguments: Any) -> Any:
            code = "async ([module, name, given]) => (await import(`/static/${module}.js`))[name](...given)"
            return page.evaluate(code, [module, function, arguments])

        of_module.page = page  # type: ignore[attr-defined]
        yield of_module


def texts(rng: random.Random) -> tuple[str, str]:
    """A text, and the same with words put in, taken out and changed."""
    words = [rng.choice(PIECES) + rng.choice(GAPS) for _ in range(rng.randrange(30))]
    edited = []
    for word in words:
        match rng.randrange(6):
            case 0:
                continue
            case 1:
                edited += [rng.choice(PIECES), rng.choice(GAPS), word]
            case 2:
                edited += [rng.choice(PIECES), rng.choice(GAPS)]
            case _:
                edited.append(word)
    return "".join(words), "".join(edited)


def chosen(parts: list[dict[str, str]], accepted: set[int]) -> str:
    """What the text has to be, worked out here and not in the page."""
    changes = [part for part in parts if "same" not in part]
    places = {id(change): place for place, change in enumerate(changes)}
    said = ""
    for part in parts:
        said += part["same"] if "same" in part else part["new"] if places[id(part)] in accepted else part["old"]
    return said


def test_any_choice_gives_exactly_its_text(run: Any) -> None:
    rng = random.Random(5)
    pairs = [texts(rng) for _ in range(NUM_PAIRS)]
    cases = run.page.evaluate(
        """async (pairs) => {
            const { diff } = await import("/static/diff.js");
            return pairs.map(([draft, revision]) => diff(draft, revision));
        }""",
        pairs,
    )
    picks = []
    for (draft, revision), parts in zip(pairs, cases, strict=True):
        changes = [part for part in parts if "same" not in part]
        assert chosen(parts, set()) == draft
        assert chosen(parts, set(range(len(changes)))) == revision
        assert all(change["old"] != change["new"] for change in changes)
        picks.append([place for place in range(len(changes)) if rng.random() < 0.5])
    composed = run.page.evaluate(
        """async (cases) => {
            const { Choices } = await import("/static/choices.js");
            return cases.map(([parts, accepted]) => {
                const choices = new Choices(parts);
                choices.choose("rejected");
                for (const index of accepted) choices.choose("accepted", index);
                const text = choices.text;
                while (choices.past.length > 0) choices.undo();
                return [text, choices.text];
            });
        }""",
        list(zip(cases, picks, strict=True)),
    )
    for (draft, _), parts, accepted, (text, undone) in zip(pairs, cases, picks, composed, strict=True):
        assert text == chosen(parts, set(accepted))
        assert undone == draft


def test_texts_that_are_too_long_for_the_table_are_one_change_and_exact(run: Any) -> None:
    draft, revision = "go out " * 2500 + "now", "stay in " * 2500 + "now"
    parts = run("diff", "diff", draft, revision)
    assert chosen(parts, set()) == draft
    assert chosen(parts, set(range(len(parts)))) == revision


@pytest.mark.parametrize(
    ("draft", "revision", "marked"),
    [
        ("Hello", "Hello", "Hello"),
        ("I am sad.", "I am here. I am sad.", "[-+I am here. ]I am sad."),
        ("Hi. One. Two. Bye.", "Hi. Bye.", "Hi. [One. -+][Two. -+]Bye."),
        ("Go out.", "Go out. Then rest. Then sleep.", "Go out.[-+ Then rest.][-+ Then sleep.]"),
        ("call me  now", "call me now", "call me[  -+ ]now"),
        ("a good  friend", "A good  friend", "[a-+A] good  friend"),
        # A short word between two larger changes is part of one.
        ("maybe you join the club", "would anybody at the door", "[maybe you join the club-+would anybody at the door]"),
        (
            "That sounds hard. It will pass.",
            "That sounds heavy. It may pass.",
            "That sounds [hard-+heavy]. It [will-+may] pass.",
        ),
    ],
)
def test_changes_are_cut_where_a_reader_would_cut_them(draft: str, revision: str, marked: str, run: Any) -> None:
    parts = run("diff", "diff", draft, revision)
    assert "".join(part["same"] if "same" in part else f"[{part['old']}-+{part['new']}]" for part in parts) == marked


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("hard", "heavy", "Wording"),
        ("", " for now", "Addition"),
        (" of course", "", "Removal"),
        ("maybe.  ", "Maybe, ", "Punctuation"),
        ("\n", " ", "Punctuation"),
    ],
)
def test_the_kind_of_a_change_follows_from_its_words(old: str, new: str, kind: str, run: Any) -> None:
    assert run("changes", "kindOf", {"old": old, "new": new})["kind"] == kind


@pytest.mark.parametrize(
    ("post", "draft", "revision", "added"),
    [
        ("I sleep 4 hours.", "Rest a bit.", "Rest a bit, 4 hours are few.", []),
        ("I sleep little.", "Rest a bit.", "Rest a bit, 4 hours are few.", [("number", "4")]),
        ("Anna left.", "Call her.", "Call Anna.", []),
        ("She left.", "Call her.", "Call Anna.", [("capitalised word", "Anna")]),
        ("She left.", "You can call.", "Maybe I'm wrong. You can call.", [("new sentence", "Maybe I'm wrong.")]),
        ("My evenings are quiet.", "Go.", "Go. Quiet evenings are heavy.", []),
        ("Hello.", "Call someone.", "Call someone, findahelpline.com knows whom.", [("address", "findahelpline.com")]),
        (POST, DRAFT, DRAFT, []),
    ],
)
def test_added_information_is_what_neither_post_nor_draft_says(
    post: str, draft: str, revision: str, added: list[tuple[str, str]], run: Any
) -> None:
    found = run("changes", "addedInformation", run("diff", "diff", draft, revision), [post, draft])
    assert [(one["what"], one["text"]) for change in found for one in change] == added


def test_added_information_stands_with_its_own_change(run: Any) -> None:
    parts = run("diff", "diff", DRAFT, REVISION)
    changes = [part for part in parts if "same" not in part]
    found = run("changes", "addedInformation", parts, [POST, DRAFT])
    assert len(found) == len(changes)
    for change, added in zip(changes, found, strict=True):
        for one in added:
            assert one["text"].rstrip(".?") in change["new"]
    assert ("number", "3") in [(one["what"], one["text"]) for one in found[-1]]
