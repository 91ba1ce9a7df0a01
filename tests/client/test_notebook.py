"""A log as objects: the numbers are those of the audit, and what a notebook shows is them."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_bill import DECEMBER, JANUARY, LOG, NOVEMBER, OPENED, WORLD, stopped_early
from test_guard import three

from bench.receipts import publish
from client.notebook import Ledger
from shared_models.records.kinds import Receipt
from shared_models.records.refusals import Refused
from shared_models.rules.currency import money
from shared_models.rules.what_if import under

PAGE = Path(__file__).parents[2] / "docs" / "notebook.md"


@pytest.fixture
def folder(tmp_path):
    publish(tmp_path / "log", WORLD.leaves, LOG)
    return tmp_path / "log"


@pytest.fixture
def log(folder):
    return Ledger.connect(folder)


def test_bills_are_those_of_the_log_and_what_they_would_be(log):
    assert (log.findings, log.periods) == ((), (NOVEMBER, DECEMBER, JANUARY))
    for period in log.periods:
        assert replace(log.bill(period).statement, cosignatures=()) == OPENED[period].bill
    assert log.bill().statement.period == JANUARY
    other = log.bill(NOVEMBER, rule={"services": "proportional"})
    assert replace(other.statement, cosignatures=()) == under(
        OPENED[NOVEMBER].bill, OPENED[NOVEMBER].facts, {"services": "proportional"}
    )
    assert other.net("acme") != log.bill(NOVEMBER).net("acme")
    assert "services: charge, proportional" in str(other)
    assert sum(row["credit"] - row["charge"] for row in other.rows()) == 0
    assert "entry" in log.bill(NOVEMBER).explain("acme/compute")


def test_a_bill_shows_what_was_not_spent(log, tmp_path):
    publish(tmp_path / "stopped", stopped_early().leaves, LOG)
    said = "not spent, as runs stopped early: 51,314,688 FLOP, worth 513.146880 EUR; in no line above"
    shown = Ledger.connect(tmp_path / "stopped").bill()
    assert said in str(shown)
    assert said in shown._repr_html_()
    assert "not spent" not in log.bill(NOVEMBER)._repr_html_()


def test_a_change_is_told_by_its_reasons(log):
    change = log.bill(DECEMBER).diff(log.bill(NOVEMBER))
    for member, parts in change.parts.items():
        assert sum(parts.values()) == log.bill(DECEMBER).net(member) - log.bill(NOVEMBER).net(member)
    assert str(change).splitlines()[1].split()[0] == NOVEMBER


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda log: log.bill("2020-01"), "not_found: the log holds no statement 2020-01"),
        (lambda log: log.bill(rule={"services": "fair"}), "bad_field"),
        (lambda log: log.bill().net("dogwood"), "not_found"),
        (lambda log: log.curve("r9"), "unknown_run"),
        (lambda log: next(log.records("recipe")), "bad_field: no record is a recipe"),
    ],
)
def test_what_there_is_not_is_refused_by_name(log, ask, why):
    with pytest.raises(Refused, match=why):
        ask(log)


def test_a_curve_goes_on_with_the_tokens_that_counted(log):
    curve, run = log.curve("r1"), log.runs["r1"]
    closed = [each.closed for each in run.rounds if each.closed]
    assert [point.round for point in curve] == list(range(len(closed) + 1))
    assert curve[0] == (0, 0, 0, run.manifest.loss_unats / 1e6)
    assert curve[-1].flop == sum(each.flop for each in closed)
    assert curve[-1].tokens * run.manifest.flop_per_token == curve[-1].flop


def test_records_are_read_by_kind_from_where_one_asks_and_only_what_was_audited(log, folder):
    everything = list(log.records())
    assert [index for index, _ in everything] == list(range(len(WORLD.leaves)))
    receipts = [(index, each) for index, each in everything if isinstance(each, Receipt)]
    assert list(log.records("receipt")) == receipts
    assert list(log.records("receipt", since=receipts[3][0])) == receipts[3:]
    path = next(each for each in (folder / "tile" / "entries").rglob("*") if each.is_file())
    path.write_bytes(path.read_bytes().replace(b'"member":"acme"', b'"member":"acne"', 1))
    with pytest.raises(Refused, match="corrupt: entries from 0 on are not those that were audited"):
        list(log.records())


def test_a_wrong_statement_is_a_finding_and_no_bill(folder):
    path = next(each for each in (folder / "tile" / "entries").rglob("*") if each.is_file())
    net = f'"member":"acme","net":{OPENED[JANUARY].bill.balances[0].net}'.encode()
    data = path.read_bytes()
    assert net in data
    path.write_bytes(data[::-1].replace(net[::-1], net[:-1][::-1].join((b"7", b"")), 1)[::-1])
    log = Ledger.connect(folder)
    assert log.findings
    with pytest.raises(Refused, match=r"wrong_statement|not_found"):
        log.bill(JANUARY)
    assert "findings" in log._repr_html_()


def test_a_ledger_for_members_only_is_asked_by_the_folder_s_key(tmp_path):
    with three(tmp_path, members_only=True) as founded:
        url = founded.coordinator.settings.ledger
        with pytest.raises(Refused, match="not_signed_in"):
            Ledger.connect(url)
        log = Ledger.connect(url, home=founded.member("acme").path)
        assert (log.findings, log.charter.consortium) == ((), founded.coordinator.charter.consortium)
        key = founded.member("birch").path / "keys" / "compute.key"
        assert Ledger.connect(url, key=key).books.tree.root() == log.books.tree.root()


def test_a_home_pins_what_its_member_signed(tmp_path, folder):
    with three(tmp_path / "others") as founded:
        assert any(
            each.refusal == "wrong_charter" or "charter" in str(each)
            for each in Ledger.connect(folder, home=founded.member("acme").path).findings
        )


def seen(page: str) -> str:
    """What a browser shows of it; it must be well-formed."""
    root = ElementTree.fromstring(f"<div>{page}</div>")  # noqa: S314
    return " ".join("".join(root.itertext()).split())


def test_a_notebook_shows_the_numbers_and_escapes_names(log):
    shown = seen(log.bill(NOVEMBER)._repr_html_())
    for member in WORLD.members:
        assert money(log.bill(NOVEMBER).net(member), log.charter) in shown
    assert NOVEMBER in shown
    assert "r1: " in seen(log.curve("r1")._repr_html_())
    assert "<script" not in log.bill(NOVEMBER)._repr_html_()
    assert "every number recomputed" in seen(log._repr_html_())
    assert DECEMBER in seen(log.bill(DECEMBER).diff(log.bill(NOVEMBER))._repr_html_())


@pytest.mark.timeout(900)
def test_the_code_of_the_page_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shows = "print(result._repr_html_())"
    script = "\n".join((*blocks, shows))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "statement simulated of commons.example" in done.stdout
    shown = seen(done.stdout[done.stdout.index("<figure>") :])
    assert shown.startswith("r1: 5.5")
    assert re.search(r"statement simulated of commons.example.*net, EUR", shown)
