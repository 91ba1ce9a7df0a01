"""Signing in to a ledger for members only, in a real Chromium, by the link that a member's command prints."""

import subprocess
import sys

import pytest
from looking import looking
from parties import three

from shared_models.ledger_http import LedgerHttp

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_a_link_signs_in_and_the_session_verifies_reads_and_signs_out(chromium, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    with three(tmp_path, members_only=True) as founded, looking(chromium, 390, "dark") as (page, wrong):
        url, home = founded.member("acme").settings.ledger, str(founded.member("acme").path)
        LedgerHttp(url).append(founded.charter)
        assert page.goto(f"{url}/log").status == 401
        assert "consortium open" in page.locator("main").inner_text()
        wrong.clear()  # Chromium says that the page was refused.
        command = [sys.executable, "-m", "consortium", "open", "--home", home]
        link = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert page.goto(link).status == 200
        assert Axe().run(page).response["violations"] == []
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/overview")
        page.get_by_role("link", name="Log", exact=True).click()
        assert "charter" in page.locator("main").inner_text()
        page.get_by_role("link", name="Session").click()
        assert "acme/compute" in page.locator("main").inner_text()
        assert Axe().run(page).response["violations"] == []
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert page.evaluate("document.cookie") == ""
        assert wrong == []
        page.goto(f"{url}/log")
        other = page.context.new_page()  # Where she signs out, and the page that is open is told nothing more.
        other.goto(f"{url}/open")
        other.get_by_role("button", name="Sign out").click()
        assert "not_signed_in" in other.locator("main").inner_text()
        page.locator("#live", has_text="Your session has ended").wait_for(timeout=60_000)
