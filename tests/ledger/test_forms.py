"""Every table of every page as CSV and as JSON: the same rows, exact, and no formula for a spreadsheet."""

import csv
import html
import io
import json
from dataclasses import replace
from fractions import Fraction

import pytest
from reading import get, links, rows, served, tables
from world import World, digest, whole

from ledger.forecast import FEW
from ledger.pages import TABLES
from ledger.shown import Shown, as_csv, as_json
from shared_models.records.kinds import FIRST, Amendment, Dispute

FORMULA = '=HYPERLINK("http://x","<b>")'
PAGES = (
    "/overview",
    "/runs",
    "/runs/r1",
    "/runs/r1/2",
    "/runs/r4",
    "/bills",
    "/bills/2026-11",
    "/bills/2026-11/receipts",
    "/bills/2026-12/costs",
    "/bills/2026-11/what-if?rule=services=proportional",
    "/bills/2027-01",
    "/bills/2027-01/disputes",
    "/charter",
    "/amendments",
    "/amendments/{amendment}",
    "/joins",
    "/log",
    "/log/3",
    "/members",
    "/models",
    "/models/{model}",
)


@pytest.fixture(scope="module")
def world():
    world = whole()
    early = {"charter": world.books.agreement.hash, "members": ("birch", "cedar"), "quorum": 1}
    world.say(world.coordinator, world.manifest("early", **early, patience=1, rounds=6))
    world.say("birch/compute", world.consent("birch", "early"))
    for number in range(2):  # The second round's loss is the first one's.
        world.say(world.coordinator, world.opened("early", invited=("birch",)))
        hashed = world.say("birch/compute", world.receipt("birch", "early"))
        moved = {"checkpoint": digest(f"early {number}")}
        world.say(world.coordinator, world.close({"birch": hashed}, "early", **moved))
    world.say(world.coordinator, world.end("early", status="stopped"))
    world.say("birch/admin", world.item("birch", 1_000, "disk", period="2027-01"))
    world.bill("2027-01")
    world.say("cedar/admin", Dispute(seq=0, prev=FIRST, member="cedar", about="item/birch/disk", reason=FORMULA))
    agreement = world.books.agreement
    charter = replace(agreement.charter, price=Fraction(7))
    world.say(
        "birch/admin",
        Amendment(seq=0, prev=FIRST, member="birch", amendment="price", replaces=agreement.hash, charter=charter),
    )
    world.say(world.coordinator, world.end("r2", status="failed", reason=FORMULA))
    last = {"charter": agreement.hash, "members": ("birch", "cedar"), "rounds": 9, "steps": (1, 3)}
    world.say(world.coordinator, world.manifest("r4", **last))
    world.say("birch/compute", world.consent("birch", "r4"))
    for _ in range(FEW + 1):
        world.round("r4", invited=("birch",))
    return world


@pytest.fixture(scope="module")
def ledger(world, tmp_path_factory):
    with served(world, tmp_path_factory.mktemp("ledger")) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def paths(world):
    (model,) = world.books.library.artefacts
    return [path.format(amendment=world.books.agreement.hash, model=model) for path in PAGES]


def forms(page: str) -> list[str]:
    return sorted(html.unescape(link) for link in links(page) if "format=" in link)


def test_each_table_of_each_page_has_both_forms_with_the_same_rows(ledger, paths):
    seen = set[str]()
    for path in paths:
        page, plain = get(ledger, path)[2], path.partition("?")[0]
        here = {link: get(ledger, plain + link) for link in forms(page)}
        assert all(status == 200 for status, _, _ in here.values()), path
        for table in tables(page):
            linked = forms(table)
            if not linked:  # One of many alike, which have one link together behind them.
                assert "<details>" in page
                continue
            assert len(linked) == 2, path
            as_csv_, as_json_ = (here[link][2] for link in linked)
            told, read = json.loads(as_json_), list(csv.reader(io.StringIO(as_csv_)))
            assert len(rows(table)) == len(read) == len(told["rows"]) + 1, path
            assert read[0] == told["columns"] == [*(told["rows"] or [dict.fromkeys(read[0])])[0]]
            seen.add(f"{len(seen)} {told['table']}")
        for link, (_, headers, _) in here.items():
            kind = "application/json" if "format=json" in link else "text/csv; charset=utf-8; header=present"
            assert headers["Content-Type"] == kind
            assert headers["X-Content-Type-Options"] == "nosniff"
    assert len(seen) >= 28


def test_there_is_a_page_that_links_each_table(ledger, paths):
    found = set[str]()
    for path in paths:
        for link in forms(get(ledger, path)[2]):
            if "format=csv" in link:
                found.add(get(ledger, path.partition("?")[0] + link)[1]["Content-Disposition"])
    assert found == {
        f'attachment; filename="{template}-{name}.csv"' for template, names in TABLES.items() for name in names
    }


def test_numbers_are_exact_where_the_page_cuts_them(ledger, world):
    bill = world.books.statements[0]
    told = json.loads(get(ledger, "/bills/2026-11?format=json&table=lines")[2])["rows"]
    assert {(row["member"], row["pot"]): (row["credit_minor"], row["charge_minor"]) for row in told} == {
        (each.member, each.pot): (str(each.credit), str(each.charge)) for each in bill.lines
    }
    nets = {row["member"]: row for row in json.loads(get(ledger, "/bills/2026-11?format=json")[2])["rows"]}
    for each in bill.balances:
        row = nets[each.member]
        assert (row["net_minor"], row["carry_minor"], row["work_flop"]) == (each.net, str(each.carry), str(each.flop))
        carried = Fraction(row["carried_minor"])
        exact = Fraction(row["credit_minor"]) - Fraction(row["charge_minor"]) + carried
        assert exact == each.net + each.carry


def test_an_address_keeps_what_it_says_beside_the_form(ledger):
    page = get(ledger, "/bills/2026-11/what-if?rule=services=proportional&rule=&after=1&odd=1")[2]
    assert forms(page)[0] == "?rule=services%3Dproportional&rule=&after=1&format=csv&table=charges"
    told = csv.DictReader(io.StringIO(get(ledger, "/bills/2026-11/what-if" + forms(page)[1])[2]))
    assert [row["member"] for row in told] == ["birch", "cedar"]


def test_what_a_member_wrote_is_no_formula(ledger):
    told = get(ledger, "/runs?format=csv")[2]
    found = {row["name"]: row for row in csv.DictReader(io.StringIO(told))}
    assert found["r2"]["reason"] == "'" + FORMULA
    (there,) = [row for row in json.loads(get(ledger, "/runs?format=json")[2])["rows"] if row["name"] == "r2"]
    assert there["reason"] == FORMULA


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_begins_as_a_formula_does(first):
    (_, row) = csv.reader(io.StringIO(as_csv([{"said": f"{first}1+1"}], "said").decode(), newline=""))
    assert row == [f"'{first}1+1"]


@pytest.mark.parametrize(
    ("value", "cell", "told"),
    [
        (-5, "-5", -5),
        (Shown("-0.05", "", -5), "-5", -5),
        (Shown("-1.0~", "", "-7/3"), "-7/3", "-7/3"),
        (10**30, "1" + 30 * "0", 10**30),
        (None, "", None),
        (True, "true", True),
        (["a", "=b"], "a; =b", ["a", "=b"]),
        (["=a", "b"], "'=a; b", ["=a", "b"]),
        ("-1; =x", "'-1; =x", "-1; =x"),
        ("é ✓", "é ✓", "é ✓"),
        ('a,"b"\nc', 'a,"b"\nc', 'a,"b"\nc'),
    ],
)
def test_a_cell(value, cell, told):
    text = as_csv([{"it": value}], "it:flop").decode()
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["it_flop"], [cell]]
    found = json.loads(as_json([{"it": value}], "it:flop", "rows"))
    assert (found["schema"], found["rows"]) == ("consortium.page/1", [{"it_flop": told}])


def test_a_long_table_is_read_page_by_page_as_csv_too(tmp_path):
    world = World()
    world.start(rounds=101)
    for _ in range(101):
        world.round()
    with served(world, tmp_path) as ledger:
        first = get(ledger, "/runs/r1?format=csv")[2]
        rest = get(ledger, "/runs/r1?before=1&format=csv")[2]
    assert (len(first.splitlines()), len(rest.splitlines())) == (101, 2)
    assert rest.splitlines()[1].startswith("1,3,3,3,")


def test_who_disputes_a_bill_is_one_cell(ledger):
    (row,) = csv.DictReader(io.StringIO(get(ledger, "/bills/2027-01/disputes?format=csv")[2]))
    assert row["disputed"].startswith("cedar, entry ")
    assert row["disputed"].endswith(f": {FORMULA}")
    (there,) = json.loads(get(ledger, "/bills/2027-01/disputes?format=json")[2])["rows"]
    assert there["disputed"] == [row["disputed"]]
