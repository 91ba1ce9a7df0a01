"""The ledger's pages in a real Chromium: of a run that was trained and billed, and of every kind of entry."""

from collections.abc import Callable
from typing import Any

import pytest
from looking import looking

# What axe looks at beside the colours depends on neither of them.
LOOKS = [(390, "dark", "all"), (1280, "light", "color-contrast"), (1280, "dark", ""), (390, "light", "")]
PAGES = [
    "/overview",
    "/runs",
    "/runs/r1",
    "/runs/r1?against=tokens",
    "/runs/r1?against=kwh",
    "/overview?against=cost",
    "/runs/r1/2",
    "/bills",
    "/bills/simulated",
    "/bills/simulated/what-if",
    "/bills/simulated/what-if?rule=services=proportional&rule=compute=two_part",
    "/bills/simulated/disputes",
    "/bills/simulated/what-if?rule=services=shapley",
    "/bills/simulated/receipts",
    "/bills/simulated/receipts?member=acme",
    "/bills/simulated/costs",
    "/log",
    "/log/0",
    "/log/5",
    "/members",
    "/charter",
    "/amendments",
    "/joins",
    "/models",
    "/models/" + "ab" * 32,
]

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def overflow(page: Any) -> int:
    """CSS pixels by which it is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture(scope="module")
def faults() -> Callable[..., list[str]]:
    """What axe-core finds in a page, its folded parts opened."""
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()

    def found(page: Any, rules: str = "all") -> list[str]:
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        only = {} if rules == "all" else {"runOnly": [rules]}
        violations = axe.run(page, options={"resultTypes": ["violations"], **only}).response["violations"]
        return [f"{each['id']}: {node['html']}" for each in violations for node in each["nodes"]]

    return found


@pytest.mark.parametrize(("width", "scheme", "rules"), LOOKS)
def test_every_page_is_without_errors_and_fits_and_axe_finds_nothing(chromium, real, faults, width, scheme, rules):
    with looking(chromium, width, scheme) as (page, wrong):
        for path in PAGES:
            assert page.goto(real.url + path).status == 200, path
            assert page.locator("h1").count() == 1
            assert overflow(page) <= 0, path
            if rules:
                assert faults(page, rules) == [], path
                assert overflow(page) <= 0, path
        assert wrong == []


def test_so_are_pages_with_everything_that_a_log_can_hold(chromium, every_kind, faults):
    paths = (
        "/overview",
        "/runs/r1/2",
        "/runs/r4",
        "/bills/2026-11",
        "/bills/2026-11/what-if?rule=services=two_part",
        "/bills/2026-12",
        "/bills/2026-12/disputes",
        "/charter",
        "/amendments",
        "/log",
        "/members",
        "/models",
    )
    with looking(chromium, 390, "light") as (page, wrong):
        for path in paths:
            assert page.goto(every_kind + path).status == 200, path
            assert faults(page) == [], path
            assert overflow(page) <= 0, path
        page.goto(f"{every_kind}/amendments")
        page.click("main th a")
        page.wait_for_url("**/amendments/*")
        assert "pots/services/rule" in page.locator("main").inner_text()
        assert faults(page) == []
        assert overflow(page) <= 0
        page.goto(f"{every_kind}/overview")
        assert "waited for" in page.locator("main").inner_text()
        assert page.locator("table:visible", has_text="To come, at most").locator("tbody tr").count() == 5
        assert wrong == []


def test_a_page_that_is_refused_is_as_good(chromium, real, faults):
    with looking(chromium, 390, "dark") as (page, _):
        assert page.goto(f"{real.url}/bills/never").status == 404
        assert faults(page) == []
        assert overflow(page) <= 0
        assert "not_found" in page.locator("main").inner_text()


def test_these_checks_see_what_is_wrong(chromium, real, faults):
    with looking(chromium, 390, "light") as (page, wrong):
        page.goto(f"{real.url}/overview")
        page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img width=500 height=9>')")
        assert [each.partition(":")[0] for each in faults(page)] == ["image-alt"]
        assert overflow(page) > 0
        page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<p style=\"color:red\">x</p>')")
        page.evaluate("document.head.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
        assert page.evaluate("window.ran") is None
        assert len([each for each in wrong if "Content Security Policy" in each]) >= 2


def test_by_keyboard(chromium, real):
    with looking(chromium, 1280, "light") as (page, wrong):
        page.goto(f"{real.url}/bills/simulated")

        def focused(what: str) -> Any:
            return page.evaluate(f"document.activeElement.{what}")

        page.keyboard.press("Tab")
        assert focused("textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert focused("id") == "main"
        for _ in range(20):
            page.keyboard.press("Tab")
            if focused("tagName") == "SUMMARY":
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert not page.evaluate("document.activeElement.parentElement.open")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.parentElement.open")
        for _ in range(40):
            page.keyboard.press("Tab")
            if focused("textContent") == "Receipts":
                break
        page.keyboard.press("Enter")
        page.wait_for_url("**/receipts")
        assert page.locator("table tbody tr").count() == 9
        assert wrong == []


def test_without_javascript(chromium, real):
    with looking(chromium, 390, "light", java_script_enabled=False) as (page, wrong):
        page.goto(real.url)
        page.click("text=Statement simulated")
        page.click("summary >> nth=0")
        assert page.locator("details >> nth=0").locator("table").is_visible()
        page.click("text=proof that it stands")
        assert page.locator("body").inner_text().startswith("c2sp.org/tlog-proof@v1")
        assert wrong == []


@pytest.mark.parametrize("script", [True, False])
def test_another_rule_is_asked_for_by_keyboard_and_the_table_is_taken_along(chromium, real, script):
    with looking(chromium, 390, "light", java_script_enabled=script) as (page, wrong):
        page.goto(f"{real.url}/bills/simulated")
        page.focus("text=What other rules would bill")
        page.keyboard.press("Enter")
        page.wait_for_url("**/what-if")
        page.focus("select >> nth=1")
        page.keyboard.type("equal")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/what-if?rule=&rule=services%3Dequal")
        assert page.locator("select >> nth=1").input_value() == "services=equal"
        rows = page.locator("table >> nth=0").locator("tbody tr")
        assert rows.count() == 3
        with page.expect_download() as taken:
            page.click("text=CSV >> nth=0")
        assert taken.value.suggested_filename == "what_if-nets.csv"
        told = taken.value.path().read_text().splitlines()
        assert told[0] == "member,billed_minor,other_minor,difference_minor"
        assert [line.split(",")[0] for line in told[1:]] == ["acme", "birch", "cedar"]
        assert wrong == []


def test_a_table_that_goes_on_to_the_right_says_so_until_it_is_scrolled(chromium, real):
    with looking(chromium, 390, "light") as (page, _):

        def shaded() -> bool:
            """Whether it is, when two frames more were painted."""
            shade = page.evaluate(
                """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() =>
                    done(getComputedStyle(document.querySelector('.scroll')).boxShadow))))"""
            )
            return "-12px" in shade

        page.goto(f"{real.url}/bills/simulated")
        assert shaded()
        page.evaluate("document.querySelector('.scroll').scrollLeft = 1000")
        assert not shaded()
        page.set_viewport_size({"width": 1280, "height": 844})
        assert not shaded()
        page.click("summary >> nth=0")
        assert page.evaluate(
            "[...document.querySelectorAll('.scroll')].every(each => each.scrollWidth === each.clientWidth)"
        )


def test_digits_stand_below_each_other(chromium, real):
    with looking(chromium, 1280, "light") as (page, _):
        page.goto(f"{real.url}/bills/simulated")
        ends = page.evaluate(
            """[...document.querySelectorAll('table')[0].querySelectorAll('tbody tr')].map(row =>
                [...row.querySelectorAll('td')].map(cell => {
                    const range = document.createRange()
                    range.selectNodeContents(cell.querySelector('strong')?.firstChild ?? cell.firstChild)
                    return Math.round(range.getBoundingClientRect().right)
                }))"""
        )
        assert len(ends) == 3
        assert ends[0] == ends[1] == ends[2]
