"""A page that is open moves on by itself when the log grows, and leaves its reader where she is."""

import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from looking import looking
from reading import served
from world import World

from ledger.shown import remaining
from shared_models.ledger_http import LedgerHttp
from shared_models.records.kinds import FIRST, Settlement

pytestmark = [pytest.mark.slow, pytest.mark.browser]


class Live(NamedTuple):
    """A ledger, and everybody's keys to say more in it."""

    ledger: LedgerHttp
    world: World

    def say(self, *leaves: bytes) -> None:
        for leaf in leaves:
            self.ledger.append(leaf)


@pytest.fixture
def live(tmp_path) -> Iterator[Live]:
    """A round was billed and another is open, in which nobody has answered yet."""
    world = World()
    world.start()
    world.round()
    world.say("birch/admin", world.item("birch", 1_200))
    world.bill()
    world.say(world.coordinator, world.opened())
    with served(world, tmp_path) as ledger:
        yield Live(ledger, world)


def said(live: Live, member: str) -> bytes:
    """This member's receipt for the open round, which stands in no log yet."""
    live.world.say(f"{member}/compute", live.world.receipt(member))
    return live.world.leaves[-1]


def settled(live: Live) -> list[bytes]:
    """Payer and payee of the first transfer say that it is paid."""
    each, start = live.world.books.accounts.settlements.open("2026-11")[0], len(live.world.leaves)
    for by in (each.payer, each.payee):
        said = Settlement(
            seq=0,
            prev=FIRST,
            member=by,
            period="2026-11",
            netting=each.netting,
            payer=each.payer,
            payee=each.payee,
            amount=each.amount,
        )
        live.world.say(f"{by}/admin", said)
    return live.world.leaves[start:]


def seen(page: Any, what: str, text: str) -> None:
    """Wait until this is there, and says that."""
    page.locator(what).filter(has_text=re.compile(re.escape(text))).wait_for(state="attached", timeout=60_000)


def test_a_page_moves_on_without_being_loaded_again(chromium, live):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{live.ledger.url}/overview")
        page.evaluate("window.same = true")
        assert page.locator("tr", has_text="acme").first.inner_text().split("\t")[1].startswith("waited for")
        assert page.inner_text("#live") == ""
        live.say(said(live, "acme"))
        seen(page, "tbody:not(details *) > tr >> nth=0", "answered")
        size = live.world.books.tree.size
        assert page.inner_text("#live") == f"This page has moved on to entry {size - 1}."
        assert page.get_attribute("#live", "role") == "status"
        live.say(said(live, "birch"))
        seen(page, "#live", f"entry {size}.")
        assert page.evaluate("window.same")
        assert wrong == []


def test_what_the_reader_has_opened_focused_and_scrolled_stays(chromium, live):
    with looking(chromium, 390, "dark") as (page, wrong):
        page.goto(f"{live.ledger.url}/bills/2026-11")
        page.click("summary >> nth=1")
        page.fill("#verify-key", "my key")
        page.evaluate(
            "document.querySelector('.scroll').scrollLeft = 40; window.first = document.querySelector('table')"
        )
        page.focus("summary >> nth=1")
        page.evaluate("scrollTo(0, 300)")
        live.say(*settled(live))
        seen(page, "#live", " ")
        assert page.evaluate("document.querySelectorAll('details')[1].open")
        assert page.evaluate("document.activeElement === document.querySelectorAll('summary')[1]")
        assert page.evaluate("[scrollY, document.querySelector('.scroll').scrollLeft]") == [300, 40]
        assert page.input_value("#verify-key") == "my key"
        assert page.evaluate("window.first === document.querySelector('table')")  # It did not differ.
        page.fill("#verify-key", "")
        page.click("#verify button")
        page.wait_for_selector("#verify button:not([disabled])")
        assert page.inner_text("#verify output") != ""
        assert wrong == []


def test_in_a_part_that_is_replaced_focus_and_scrolling_stay_where_they_were(chromium, live):
    with looking(chromium, 390, "light") as (page, wrong):
        page.goto(f"{live.ledger.url}/overview")
        page.evaluate(
            """() => {
                window.old = document.querySelector('.scroll:not(details *)')
                window.old.focus()
                window.old.scrollLeft = 55
                scrollTo(0, 700)
            }"""
        )
        top = "document.querySelectorAll('h2')[2].getBoundingClientRect().top"
        before = page.evaluate(top)
        live.say(said(live, "acme"))
        seen(page, "#live", " ")
        assert page.evaluate("window.old !== document.querySelector('.scroll:not(details *)')")
        assert page.evaluate("document.activeElement === document.querySelector('.scroll:not(details *)')")
        assert page.evaluate("document.querySelector('.scroll:not(details *)').scrollLeft") == 55
        assert abs(page.evaluate(top) - before) <= 1
        assert wrong == []


def test_what_opens_and_closes_in_the_part_that_is_replaced_stays_so(chromium, live):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{live.ledger.url}/members")
        page.click("summary >> nth=2")
        page.evaluate("window.old = document.querySelectorAll('details')[2]")
        live.say(said(live, "cedar"))
        seen(page, "#live", " ")
        assert page.evaluate("[...document.querySelectorAll('details')].map(each => each.open)") == [False, False, True]
        assert page.evaluate("document.querySelectorAll('details')[2] !== window.old")
        assert wrong == []


def test_what_stands_behind_the_part_that_is_replaced_stays_too(chromium, live):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{live.ledger.url}/runs/r1")
        page.evaluate(
            """() => {
                window.table = document.querySelector('.scroll:not(details *)')
                window.behind = document.querySelector('.forms')
            }"""
        )
        live.say(said(live, "acme"))
        seen(page, "#live", " ")
        assert page.evaluate("window.table !== document.querySelector('.scroll:not(details *)')")
        assert page.evaluate("window.behind === document.querySelector('.forms')")
        assert wrong == []


def test_parts_that_are_alike_stay_as_many_as_they_are(chromium, live):
    with looking(chromium, 1280, "light") as (page, wrong):
        told = ["<p>one</p>", "<p>same</p>", "<p>same</p>", "<p>end</p>"]

        def answer(route: Any) -> None:
            got = route.fetch()
            body = re.sub(r"(<main[^>]*>).*(</main>)", rf"\1{''.join(told)}\2", got.text(), flags=re.S)
            told[0] = "<p>two</p><p>more</p>"
            route.fulfill(response=got, body=body)

        page.route("**/bills", answer)
        page.goto(f"{live.ledger.url}/bills")
        assert page.inner_text("main").split() == ["one", "same", "same", "end"]
        live.say(said(live, "acme"))
        seen(page, "main", "two")
        assert page.inner_text("main").split() == ["two", "more", "same", "same", "end"]
        assert wrong == []


def test_a_page_that_the_growth_is_not_about_stays_as_it_is(chromium, live):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{live.ledger.url}/bills")
        page.evaluate("window.first = document.querySelector('main').firstElementChild")
        with page.expect_response(lambda answer: re.search(r"/bills$", answer.url) is not None, timeout=60_000):
            live.say(said(live, "acme"))
        page.wait_for_timeout(200)
        assert page.inner_text("#live") == ""
        assert page.evaluate("window.first === document.querySelector('main').firstElementChild")
        assert wrong == []


def test_an_entry_between_the_page_and_its_listening_is_not_missed(chromium, live):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.route("**/static/live.js", lambda route: (live.say(said(live, "acme")), route.continue_())[1])
        page.goto(f"{live.ledger.url}/overview")
        seen(page, "tbody:not(details *) > tr >> nth=0", "answered")
        assert wrong == []


def test_an_entry_that_comes_while_the_page_is_read_is_not_missed(chromium, live):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{live.ledger.url}/overview")
        held = list[Any]()

        def late(route: Any) -> None:
            if held:
                route.continue_()
            else:
                held.append((route, route.fetch()))

        page.route("**/overview", late)
        live.say(said(live, "acme"))
        while not held:
            page.wait_for_timeout(50)
        live.say(said(live, "birch"))
        page.wait_for_timeout(1_500)
        ((route, answer),) = held
        route.fulfill(response=answer)
        seen(page, "tbody:not(details *) > tr >> nth=1", "answered")
        assert wrong == []


def test_a_ledger_that_cannot_be_reached_is_said(chromium, live):
    with looking(chromium, 1280, "light") as (page, _):
        page.goto(f"{live.ledger.url}/overview")
        page.route("**/overview", lambda route: route.fulfill(status=429, body="<main>come again</main>"))
        live.say(said(live, "acme"))
        seen(page, "#live", " ")
        assert page.inner_text("#live") == "The ledger cannot be reached; this page may be behind."
        assert "come again" not in page.inner_text("main")
        page.unroute_all()
        live.say(said(live, "birch"))
        seen(page, "#live", "This page has moved on")


def test_a_page_that_nobody_sees_does_not_listen(chromium, live):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{live.ledger.url}/overview")
        hide = """hidden => {
            Object.defineProperty(document, 'hidden', {value: hidden, configurable: true})
            document.dispatchEvent(new Event('visibilitychange'))
        }"""
        page.evaluate(hide, True)
        live.say(said(live, "acme"))
        page.wait_for_timeout(2_500)
        assert "answered" not in page.inner_text("tbody:not(details *) > tr >> nth=0")
        page.evaluate(hide, False)
        seen(page, "tbody:not(details *) > tr >> nth=0", "answered")
        assert wrong == []


COUNTDOWN = "[role=timer]"


@pytest.fixture
def soon(tmp_path) -> Iterator[Live]:
    """A round is open, in which nobody has answered yet, for 90 s more."""
    world = World()
    world.start()
    now_ms = time.time_ns() // 1_000_000
    world.say(world.coordinator, world.opened(opened_ms=now_ms, deadline_ms=now_ms + 90_000))
    with served(world, tmp_path) as ledger:
        yield Live(ledger, world)


@pytest.mark.parametrize("path", ["/overview", "/runs/r1/1"])
def test_the_countdown_to_a_deadline_ticks_and_says_when_that_has_passed(chromium, soon, path):
    with looking(chromium, 390, "light") as (page, wrong):
        page.clock.install(time=0)  # The reader's clock is wrong by half a century.
        page.goto(f"{soon.ledger.url}{path}")

        def left_s() -> int:
            minutes, seconds = re.fullmatch(r"in (?:(\d+) min )?(\d+) s", page.inner_text(COUNTDOWN)).groups("0")
            return 60 * int(minutes) + int(seconds)

        before = left_s()
        assert 60 < before <= 90
        page.clock.run_for(50_000)
        assert before - 60 <= left_s() <= before - 50
        assert page.get_attribute(COUNTDOWN, "class") != "warn"
        page.clock.run_for(50_000)
        assert re.fullmatch(r"passed \d+ s ago", page.inner_text(COUNTDOWN))
        assert page.get_attribute(COUNTDOWN, "class") == "warn"
        # What the page brings when it moves on is counted from anew, by the ledger's clock: that goes as it did.
        soon.say(said(soon, "acme"))
        seen(page, "main", "Waited for: birch, cedar")
        page.clock.run_for(1_000)
        assert before - 60 < left_s() < before
        assert wrong == []


def test_without_javascript_the_countdown_stands_as_it_was_when_the_page_was_made(chromium, soon):
    with looking(chromium, 390, "dark", java_script_enabled=False) as (page, wrong):
        page.goto(f"{soon.ledger.url}/overview")
        assert re.search(r"Waited for: acme, birch, cedar; .* UTC: in (1 min )?\d+ s\.", page.inner_text("main"))
        assert wrong == []


def test_a_countdown_reads_in_the_browser_as_the_ledger_spells_it(chromium, soon):
    spans = [0, 999, 42_000, 59_999, 60_000, 3_599_999, 3_600_000, 7_505_000, 86_400_000, 10**12, -1, -61_000]
    with looking(chromium, 1280, "light") as (page, _):
        page.goto(f"{soon.ledger.url}/overview")
        said = page.evaluate(
            "async spans => spans.map((await import('/static/countdown.js')).remaining)",
            spans,
        )
    assert said == [remaining(each) for each in spans]
