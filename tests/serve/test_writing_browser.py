"""Helpers at the writing page in a real browser: by mouse and by keyboard, with a service that answers, is slow, or is away."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from llumi.config import RateConfig, ServeConfig
from llumi.rate.database import Database
from llumi.rate.flags import list_flags
from llumi.serve.api import LABEL
from llumi.serve.router import build_app
from tests.serve.keyed import SECRET
from tests.serve.test_router import EngineBackend, failing
from tests.serve.writing import DRAFT, POST, REPLY, REVISION, Writer, listening, page_service

pytestmark = [pytest.mark.browser, pytest.mark.slow]
DESK = {"width": 1280, "height": 900}
PHONE = {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True}
SMALLEST = {"width": 320, "height": 640}
MAX_TABS = 60
BANNER = "You are not alone with this. People who listen, at any hour: Samaritans, 116 123."
LINE = {"name": "The Evening Line", "numbers": ["555 0100"], "text": "HELLO to 55501", "domains": ["evening.example"]}
GUARDED = {"model": "im-sft@1", "finish_reason": "stop", "banner": BANNER, "resources": [LINE]}
ERRORS: list[tuple[int, dict[str, str], str]] = [
    (401, {}, "This key does not open the service"),
    (403, {}, "Your key is not for this"),
    (413, {}, "too long for the model"),
    (422, {}, "did not take what was sent"),
    (429, {"Retry-After": "12"}, "Please wait 12 seconds and try again"),
    (429, {"Retry-After": "1"}, "Please wait 1 second and try again"),
    (429, {"Retry-After": "600"}, "Please wait 10 minutes and try again"),
    (429, {}, "Please wait a minute and try again"),
    (500, {}, "The service has a problem (500)"),
    (503, {}, "cannot answer just now"),
    (504, {}, "took too long"),
]
CONTRAST = """() => {
    const channel = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    const rgba = (color) => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const { rgb, a } = rgba(getComputedStyle(at).backgroundColor);
            if (a === 1) return rgb;
        }
    };
    const weak = [];
    for (const node of document.querySelectorAll("body *")) {
        const holdsText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!node.checkVisibility() || !holdsText) continue;
        if (node.closest("[aria-disabled=true], .unseen, .skip-link, option")) continue;
        const [text, back] = [light(rgba(getComputedStyle(node).color).rgb), light(behind(node))];
        const ratio = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
        if (ratio < 4.5) weak.push(`${node.tagName} ${node.className} ${node.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
    }
    return weak;
}"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "rate.db"


@pytest.fixture(scope="module")
def url(database: Path) -> Iterator[str]:
    with listening(build_app(page_service(database))) as at:
        yield at


@pytest.fixture
def sit_down(chromium: Any, url: str) -> Iterator[Callable[..., Writer]]:
    """Open the page in a fresh browser; at the end nothing was refused by its policy, broken, or asked for elsewhere."""
    writers: list[Writer] = []

    def open_page(at: str = url, **device: Any) -> Writer:
        writers.append(Writer(chromium, at, **{"viewport": DESK, "reduced_motion": "reduce"} | device))
        return writers[-1]

    yield open_page
    for writer in writers:
        # A status such as 401 is a complaint of the browser too, and what the test asked for.
        assert [said for said in writer.complaints if "Failed to load resource" not in said] == []
        assert writer.outside == []
        writer.context.close()


def composed(parts: list[dict[str, str]], accepted: set[int]) -> str:
    """What the text has to be, worked out here and not in the page."""
    said, place = "", 0
    for part in parts:
        if "same" in part:
            said += part["same"]
        else:
            said += part["new"] if place in accepted else part["old"]
            place += 1
    return said


def test_the_text_is_what_the_choices_say(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.improve()
    assert writer.text == DRAFT
    code = "async (given) => (await import('/static/diff.js')).diff(...given)"
    parts = writer.page.evaluate(code, [DRAFT, REVISION])
    num_changes = writer.page.locator("#changes li").count()
    assert num_changes == sum("same" not in part for part in parts) > 2
    rng = random.Random(3)
    for _ in range(4):
        accepted = set(rng.sample(range(num_changes), num_changes // 2))
        writer.press("Reject all")
        for place in sorted(accepted, key=lambda _: rng.random()):
            writer.press(f"Accept change {place + 1}")
        assert writer.text == composed(parts, accepted)
        assert writer.page.locator("#changes li[data-state=accepted]").count() == len(accepted)
    writer.press("Accept all")
    assert writer.text == REVISION
    writer.press("Reject all")
    assert writer.text == DRAFT
    writer.press("Undo")
    assert writer.text == REVISION


def test_pressing_once_more_opens_a_change_again(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.improve()
    writer.press("Accept change 1")
    assert writer.text != DRAFT
    button = writer.page.get_by_role("button", name="Accept change 1", exact=True)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert (button.get_attribute("aria-pressed"), writer.text) == ("false", DRAFT)


def test_what_one_types_stays_until_one_chooses_and_comes_back_by_undo(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.improve()
    mine = "My own words.\n\n  Two spaces before these."
    writer.fill(result=mine)
    assert writer.text == mine
    writer.press("Accept all")
    assert writer.text == REVISION
    assert "Undo brings it back" in writer.said
    writer.press("Undo")
    assert writer.text == mine
    writer.press("Undo")
    assert writer.text == DRAFT
    assert writer.page.locator("#undo").get_attribute("aria-disabled") == "true"


def test_why_a_change_is_there_and_what_it_adds(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.improve()
    cards = writer.page.locator("#changes li").all_text_contents()
    assert all("word" in card for card in cards)
    [news] = [card for card in cards if "number “3”" in card]
    assert "Added information" in news
    assert "new sentence “Anna at the library knows 3 groups.”" in news
    assert "add information: look at it closely" in writer.page.locator("#note").text_content()
    assert [card for card in cards if "Added information" not in card]


def test_a_draft_from_nothing_is_yours_to_edit(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.fill(post=POST)
    writer.press("Draft a reply")
    writer.page.locator("#suggestion").wait_for()
    assert writer.text == REPLY
    assert "Not in the post: number “9”" in writer.page.locator("#facts").text_content()
    assert not writer.page.locator("#review").is_visible()
    assert "gm-dpo1@" in writer.page.locator("#model").text_content()
    # A revision that comes next takes its place, and leaves nothing of it.
    writer.improve()
    assert not writer.page.locator("#facts").is_visible()
    assert writer.text == DRAFT


def test_by_keyboard_alone(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, keys = writer.page, writer.page.keyboard

    def tab_to(name: str) -> None:
        for _ in range(MAX_TABS):
            keys.press("Tab")
            at = page.evaluate("document.activeElement.labels?.[0]?.textContent ?? document.activeElement.textContent")
            if at.strip() == name:
                assert page.evaluate("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"{name} is not reached by keyboard")

    keys.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip-link"
    keys.press("Enter")
    tab_to("What the person wrote")
    keys.type(POST)
    tab_to("Your reply, if you have begun one")
    keys.type(DRAFT)
    tab_to("Improve mine")
    keys.press("Enter")
    page.locator("#suggestion").wait_for()
    assert page.evaluate("document.activeElement.id") == "suggestion-title"
    tab_to("Accept all")
    keys.press("Enter")
    tab_to("Reject change 1")
    keys.press("Space")
    tab_to("Copy")
    keys.press("Enter")
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == writer.text
    assert writer.text.startswith("That sounds hard. Would a club")
    assert writer.text.endswith("Anna at the library knows 3 groups.")


def test_copying_where_the_browser_has_no_clipboard_for_the_page(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.context.grant_permissions(["clipboard-read"])
    writer.improve()
    reader = writer.page.evaluate_handle("navigator.clipboard")
    writer.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    writer.press("Copy")
    writer.page.get_by_text("Copied.").wait_for()
    assert reader.evaluate("clipboard => clipboard.readText()") == DRAFT


@pytest.mark.parametrize("device", [{}, PHONE], ids=["desk", "phone"])
def test_label_and_crisis_lines_are_in_sight_wherever_one_is(device: dict[str, Any], sit_down: Callable[..., Writer]) -> None:
    writer = sit_down(**device)

    def in_sight() -> None:
        height = writer.page.viewport_size["height"]
        number = "#first-line" if device else "#lines li:first-child"
        for place, text in (("header .label", LABEL), (number, "116 123")):
            found = writer.page.locator(place)
            assert text in found.text_content()
            box = found.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= height
            on_top = "e => e.contains(document.elementFromPoint(...(r => [r.x + 20, r.y + 5])(e.getBoundingClientRect())))"
            assert found.evaluate(on_top), "something lies over it"

    in_sight()
    writer.page.locator("#key-box summary").click()
    in_sight()
    writer.page.locator("#key-box summary").click()
    writer.improve()
    in_sight()
    writer.page.evaluate("scrollTo({ top: 5000, behavior: 'instant' })")
    in_sight()
    if device:
        writer.page.locator("#lines-box summary").tap()
    number = writer.page.get_by_role("link", name="116 123")
    assert number.is_visible()
    assert number.get_attribute("href") == "tel:116123"


def test_crisis_lines_that_do_not_come_are_said(sit_down: Callable[..., Writer], chromium: Any, url: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.route("**/v1/resources", lambda route: route.abort())
    page.goto(url)
    page.get_by_text("The list of crisis lines could not be loaded.").wait_for()
    assert page.get_by_text("The emergency number where that person is comes first.").is_visible()
    context.close()


def test_a_banner_is_an_alert_and_its_lines_take_their_place(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    guard = {"decision": "regenerated", "tier": "possible"}
    writer.answer("/v1/improve", text=REVISION, guard=guard, **GUARDED)
    writer.improve()
    alert = writer.page.get_by_role("alert").filter(has_text=BANNER)
    assert alert.is_visible()
    assert alert.bounding_box()["y"] > writer.page.locator("header").bounding_box()["height"]
    assert alert.bounding_box()["y"] < DESK["height"] / 2
    assert writer.page.locator("#lines li").all_text_contents() == [
        "The Evening Line 555 0100 text HELLO to 55501 evening.example"
    ]
    assert "this is its second" in writer.page.locator("#note").text_content()
    writer.page.unroute("**/v1/improve")
    writer.improve(post="I moved in May, and the evenings are quiet.")
    assert not writer.page.locator("#banner").is_visible()


def test_the_guard_of_the_service_is_heard_at_the_page(sit_down: Callable[..., Writer], tmp_path: Path) -> None:
    harsh = page_service(tmp_path / "rate.db", revision="Just get over it.")
    with listening(build_app(harsh)) as at:
        writer = sit_down(at)
        writer.improve(post="I do not want to be here any more.")
        assert "116 123" in writer.page.get_by_role("alert").filter(has_text="at any hour").text_content()
        note = "The safety rules refused what the model wrote. Your own draft stands, as it was."
        assert writer.page.locator("#note").text_content() == note
        assert writer.text == DRAFT


@pytest.mark.parametrize("decision", ["fallback", "error"])
def test_a_fixed_text_is_never_laid_over_the_persons_words(decision: str, sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    fixed = "Thank you for telling us."
    guard = {"decision": decision, "tier": "none"}
    writer.answer("/v1/improve", text=fixed, guard=guard, **GUARDED)
    writer.improve()
    assert writer.text == DRAFT
    assert writer.page.locator("#instead").text_content() == fixed
    assert "the same for everybody" in writer.page.locator("#note").text_content()
    assert not writer.page.locator("#review").is_visible()


def test_errors_are_said_in_plain_words_and_no_text_is_lost(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    for status, headers, words in ERRORS:
        writer.answer("/v1/improve", status, headers, error={"message": "lantern"})
        writer.improve()
        alert = writer.page.get_by_role("alert").filter(has_text=words)
        assert "Your texts are still here." in alert.text_content()
        assert writer.page.locator("#post").input_value() == POST
        assert writer.page.locator("#draft").input_value() == DRAFT
        assert not writer.page.locator("#suggestion").is_visible()
        writer.page.unroute("**/v1/improve")
    writer.improve()
    assert not writer.page.locator("#problem").is_visible()
    assert writer.text == DRAFT


def test_a_network_that_is_away_loses_nothing(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.improve()
    writer.press("Accept all")
    writer.context.set_offline(True)
    writer.press("Improve mine")
    writer.page.get_by_role("alert").filter(has_text="cannot be reached just now").wait_for()
    assert (writer.text, writer.page.locator("#post").input_value()) == (REVISION, POST)
    writer.press("Flag as unsafe")
    writer.page.get_by_text("Not flagged. The service cannot be reached").wait_for()
    writer.context.set_offline(False)
    writer.improve()
    assert writer.text == DRAFT


def test_the_key_goes_with_every_request_and_stays_in_this_tab(sit_down: Callable[..., Writer], url: str) -> None:
    writer = sit_down(key="")
    sent: list[str | None] = []
    writer.page.on(
        "request", lambda request: sent.append(request.headers.get("authorization")) if request.method == "POST" else None
    )
    writer.fill(post=POST)
    writer.press("Draft a reply")
    writer.page.get_by_role("alert").filter(has_text="asks for a key").wait_for()
    assert writer.page.evaluate("document.activeElement.id") == "key"
    writer.page.keyboard.type(SECRET)
    writer.press("Draft a reply")
    writer.page.get_by_text("gm-dpo1@").wait_for()
    writer.press("Flag as unsafe")
    writer.page.get_by_text("Flagged, and kept").wait_for()
    assert sent == [None, f"Bearer {SECRET}", f"Bearer {SECRET}"]
    stores = "() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
    assert writer.page.evaluate(stores) == [[SECRET], [], ""]
    other = writer.context.new_page()
    other.goto(url)
    assert other.locator("#key").input_value() == ""
    writer.fill(key="")
    assert writer.page.evaluate(stores) == [[], [], ""]


def test_a_request_can_be_cancelled(sit_down: Callable[..., Writer], tmp_path: Path) -> None:
    slow = page_service(tmp_path / "rate.db", ServeConfig(country="IE"), seconds_per_token=30)
    with listening(build_app(slow)) as at:
        writer = sit_down(at)
        writer.fill(post=POST, draft=DRAFT)
        writer.press("Improve mine")
        writer.page.get_by_role("status").filter(has_text="The model is writing.").wait_for()
        assert writer.page.locator("#ask-draft").get_attribute("aria-disabled") == "true"
        cancel = writer.page.get_by_role("button", name="Cancel")
        cancel.press("Enter")
        writer.page.get_by_role("status").filter(has_text="Cancelled. Your texts are still here.").wait_for()
        assert not cancel.is_visible()
        assert writer.page.evaluate("document.activeElement.id") == "ask-improve"
        assert writer.page.locator("#ask-draft").get_attribute("aria-disabled") == "false"
        assert writer.page.locator("#draft").input_value() == DRAFT


def test_a_draft_comes_sentence_by_sentence_with_label_and_lines_beside_it(
    sit_down: Callable[..., Writer], tmp_path: Path
) -> None:
    with listening(build_app(page_service(tmp_path / "rate.db", seconds_per_token=0.1))) as at:
        writer = sit_down(at)
        writer.fill(post="I do not want to be here any more.")
        writer.press("Draft a reply")
        growing = writer.page.locator("#growing")
        growing.get_by_text("Quiet evenings in a new place can feel very long.").wait_for()
        assert "Would you like" not in growing.text_content()
        assert writer.page.locator("header .label").is_visible()
        assert writer.page.get_by_role("button", name="Cancel").is_visible()
        assert "116 123" in writer.page.locator("#lines").text_content()
        alert = writer.page.get_by_role("alert").filter(has_text="at any hour")
        assert "116 123" in alert.text_content()
        assert alert.bounding_box()["y"] < growing.bounding_box()["y"]
        assert not writer.page.locator("#suggestion").is_visible()
        writer.page.locator("#suggestion").wait_for()
        assert not growing.is_visible()
        assert writer.text == REPLY


def test_cancelling_a_draft_that_has_begun_ends_the_generation(sit_down: Callable[..., Writer], tmp_path: Path) -> None:
    slow = page_service(tmp_path / "rate.db", seconds_per_token=0.1, reply=f"I read it. {'word ' * 600}")
    with listening(build_app(slow)) as at:
        writer = sit_down(at)
        writer.fill(post=POST)
        writer.press("Draft a reply")
        writer.page.locator("#growing").get_by_text("I read it.").wait_for()
        writer.press("Cancel")
        writer.page.get_by_text("Cancelled. Your texts are still here.").wait_for()
        assert not writer.page.locator("#growing").is_visible()
        writer.page.wait_for_timeout(300)
        assert slow.backends["gm"].left == 1


@pytest.mark.parametrize("role", ["gm", "im"])
def test_a_rest_that_is_refused_is_said_and_a_draft_keeps_its_words(
    role: str, sit_down: Callable[..., Writer], tmp_path: Path
) -> None:
    said = "The evenings sound long. That is a lot to carry. Just get over it."
    with listening(build_app(page_service(tmp_path / "rate.db", reply=said, revision=said))) as at:
        writer = sit_down(at)
        if role == "im":
            writer.improve()
        else:
            writer.fill(post=POST)
            writer.press("Draft a reply")
        writer.page.get_by_text("The safety rules refused the rest of what the model wrote.").wait_for()
        shown = writer.text if role == "gm" else writer.page.locator("#instead").text_content()
        assert shown.startswith("The evenings sound long.")
        assert "get over it" not in shown
        assert "I will stop here for now." in shown
        if role == "im":
            assert writer.text == DRAFT


def test_a_model_that_breaks_off_is_said_and_no_half_sentence_stays(sit_down: Callable[..., Writer], tmp_path: Path) -> None:
    broken = page_service(tmp_path / "rate.db")
    broken = replace(broken, backends=dict(broken.backends) | {"gm": EngineBackend(failing(RuntimeError(POST), after=3))})
    with listening(build_app(broken)) as at:
        writer = sit_down(at)
        writer.fill(post=POST)
        writer.press("Draft a reply")
        writer.page.get_by_role("alert").filter(has_text="The model stopped before it was done.").wait_for()
        assert not writer.page.locator("#growing").is_visible()
        assert not writer.page.locator("#suggestion").is_visible()
        assert writer.page.locator("#post").input_value() == POST


def test_the_country_of_the_lines_is_chosen_and_remembered_here_alone(sit_down: Callable[..., Writer], url: str) -> None:
    writer = sit_down()
    select = writer.page.get_by_label("Where is the person?")
    assert select.input_value() == "IE"
    names = select.locator("option").all_text_contents()
    assert names[0] == "Australia"
    assert names[-1] == "Anywhere else"
    asked: list[str] = []
    writer.page.on("request", lambda request: asked.append(request.method))
    select.select_option("United States")
    assert "988" in writer.page.locator("#lines li").first.text_content()
    assert asked == []
    writer.improve(post="I do not want to be here any more.")
    assert "988" in writer.page.locator("#banner").text_content()
    assert "988" in writer.page.locator("#lines li").first.text_content()
    assert writer.page.evaluate("Object.values(localStorage)") == ["US"]
    other = writer.context.new_page()
    other.goto(url)
    other.locator("#lines").get_by_text("Crisis Text Line").wait_for()
    other.locator("#country").select_option("Ireland")
    assert other.evaluate("Object.values(localStorage)") == []
    other.evaluate("localStorage.setItem('llumi country', 'XX')")
    other.reload()
    other.locator("#lines").get_by_text("Pieta", exact=True).wait_for()
    assert other.locator("#country").input_value() == "IE"


def test_what_is_missing_is_asked_for_where_it_is_missing(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.press("Draft a reply")
    assert "what the person wrote" in writer.page.locator("#problem").text_content()
    assert writer.page.evaluate("document.activeElement.id") == "post"
    writer.page.keyboard.type("Hello.")
    writer.press("Improve mine")
    assert "write your reply first" in writer.page.locator("#problem").text_content()
    assert writer.page.evaluate("document.activeElement.id") == "draft"


def test_a_flag_is_one_click_and_is_kept(database: Path, sit_down: Callable[..., Writer]) -> None:
    def kept() -> list[dict[str, Any]]:
        with contextlib.closing(Database.open(RateConfig(database=f"sqlite:///{database}"), create=True)) as opened:
            return list_flags(opened)

    before = len(kept())
    writer = sit_down()
    writer.improve()
    assert "Flagging keeps the post, your draft and the suggestion" in writer.page.locator("#flag-hint").text_content()
    writer.press("Accept all")
    writer.fill(post="Another post that the suggestion is not for.")
    writer.press("Flag as unsafe")
    writer.page.get_by_text("Flagged, and kept").wait_for()
    writer.page.locator("#flag").press("Enter")  # a second time, which keeps nothing
    writer.improve()
    writer.page.get_by_label("Reason, if you like").select_option("It plays down what the person feels")
    writer.press("Flag as unsafe")
    writer.page.get_by_text("Flagged, and kept").wait_for()
    first, second = kept()[before:]
    for flag in (first, second):
        assert (flag["post"], flag["draft"], flag["suggestion"]) == (POST, DRAFT, REVISION)
        assert (flag["role"], flag["model"]) == ("im", "im-sft@ba9876543210")
    assert (first["reason"], second["reason"]) == (None, "minimising")


def test_markup_in_a_text_stays_text(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    spoken = "<img src=x onerror=alert(1)> <b>warm</b> & well"
    writer.answer("/v1/improve", text=f"{spoken} now", model="im@1", finish_reason="stop", banner=spoken)
    writer.improve(draft=spoken)
    writer.press("Accept all")
    assert writer.text == f"{spoken} now"
    assert writer.page.locator("main img, main b").count() == 0
    assert writer.page.locator("#banner").text_content() == spoken


def test_leaving_with_a_text_asks_first(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.page.locator("#post").press_sequentially("Hello.")
    asked: list[str] = []
    writer.page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    writer.page.reload()
    assert asked == ["beforeunload"]
    assert writer.page.locator("#post").input_value() == ""
    writer.page.reload()
    assert asked == ["beforeunload"]


def test_what_a_screen_reader_is_told(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    writer.improve()
    page = writer.page
    for role in ("banner", "main", "complementary"):
        assert page.get_by_role(role).count() == 1
    for name in ("What the person wrote", "Your reply, if you have begun one", "Your text"):
        assert page.get_by_role("textbox", name=name, exact=True).count() == 1
    assert page.get_by_role("complementary", name="Crisis lines").get_by_role("listitem").count() > 3
    assert page.get_by_role("list", name="Changes").get_by_role("listitem").count() > 2
    diff = page.get_by_role("group", name="Your draft, with what would change").aria_snapshot()
    assert "deletion" in diff
    assert "insertion" in diff
    assert page.get_by_role("button", name="Flag as unsafe", description="Flagging keeps the post").count() == 1
    writer.press("Accept change 1")
    assert "Change 1 accepted." in page.get_by_role("status").filter(has_text="accepted").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read_in_light_and_in_dark(scheme: str, sit_down: Callable[..., Writer]) -> None:
    writer = sit_down(color_scheme=scheme)
    writer.answer("/v1/improve", text=REVISION, **GUARDED)
    writer.improve()
    writer.press("Accept change 1")
    writer.press("Reject change 2")
    assert writer.page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [SMALLEST, PHONE["viewport"], DESK], ids=["320", "390", "1280"])
def test_nothing_runs_out_of_the_page(width: dict[str, int], sit_down: Callable[..., Writer]) -> None:
    writer = sit_down(viewport=width)
    writer.improve(draft="a" * 200 + " " + DRAFT)
    writer.page.get_by_text("Key", exact=True).click()
    assert writer.page.locator("#key").is_visible()
    assert writer.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_moves_for_whoever_asked_for_that(sit_down: Callable[..., Writer]) -> None:
    writer = sit_down()
    moving = "getComputedStyle(document.getElementById('status'), '::before').animationName"
    writer.page.evaluate("document.getElementById('status').className = 'status busy'")
    assert writer.page.evaluate(moving) == "none"
    assert writer.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    writer.page.emulate_media(reduced_motion="no-preference")
    assert writer.page.evaluate(moving) == "breathe"
