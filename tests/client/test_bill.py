"""Every number of a bill opens, a change of it adds up, and other programs read it."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction

import pytest
from beancount import loader
from hypothesis import given
from hypothesis import strategies as st
from world import CONSORTIUM, World, key, whole
from world import member as member_of
from world import pot as pot_of

from bench.receipts import publish
from client import explain, export
from consortium.cli import main
from shared_models.records import entry as entries
from shared_models.records import tlog
from shared_models.records.kinds import (
    FIRST,
    Amendment,
    Coalition,
    CostItem,
    CreditNote,
    Dispute,
    Price,
    QuoteOpen,
    QuoteSeal,
    Rate,
    Resolution,
    Statement,
    Usage,
    Vote,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.currency import money
from shared_models.rules.pricing import round_flop
from shared_models.rules.pricing import value as value_of
from shared_models.rules.quotes import sealed
from shared_models.rules.what_if import under

LOG = key(f"{CONSORTIUM}/log")
NOVEMBER, DECEMBER, JANUARY = "2026-11", "2026-12", "2027-01"


def months() -> tuple[World, dict[str, explain.Opened]]:
    """Three months: two of work and of costs, at a price that no decimal spells, and one in which nothing happened."""
    world, opened = World(quorum=2, price=Fraction(10**14, 3)), {}

    def bill(period: str) -> None:
        stated = world.statement(period)
        opened[period] = explain.Opened.of(world.books, stated)
        world.bill(period)

    world.start(rounds=9)
    world.round()
    world.say("birch/admin", world.item("birch", 1_200))
    world.round(members=["acme", "cedar"])
    world.say("acme/admin", world.item("acme", 501, "mail"))
    bill(NOVEMBER)
    for members in (["acme"], ["acme", "birch"], ["birch", "cedar"]):
        world.round(members=members)
    world.say("birch/admin", world.item("birch", 3_333, "disk", period=DECEMBER))
    bill(DECEMBER)
    bill(JANUARY)
    return world, opened


WORLD, OPENED = months()


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    publish(folder, WORLD.leaves, LOG)
    return folder


@pytest.fixture
def bill(log, capsys):
    def act(*words: str) -> tuple[int, str, str]:
        code = main(["bill", str(log), *words])
        return code, *capsys.readouterr()

    return act


# Explain.


def test_the_credit_of_a_pot_opens_down_to_each_receipt_and_its_proof(bill):
    code, out, _ = bill("--period", NOVEMBER, "--explain", "acme/compute")
    assert code == 0
    flop = sum(work.flop for _, work in OPENED[NOVEMBER].accepted if work.member == "acme")
    credit = next(each.credit for each in OPENED[NOVEMBER].bill.lines if (each.pot, each.member) == ("compute", "acme"))
    assert credit == Fraction(10**14, 3) * flop / 10**18
    assert f"which is {credit} minor units" in out
    assert f"  {flop:,} FLOP x " in out
    receipts = [index for index, leaf in enumerate(WORLD.leaves[: OPENED[NOVEMBER].bill.end]) if by_acme(leaf)]
    assert [int(found) for found in re.findall(r"entry (\d+) +receipt of run r1", out)] == receipts

    told = json.loads(bill("--period", NOVEMBER, "--explain", "acme/compute", "--json")[1])
    assert [each["index"] for each in told["entries"]] == sorted({each["index"] for each in told["entries"]})
    assert {*receipts, 0} < {each["index"] for each in told["entries"]}
    for each in told["entries"]:
        proof = tlog.Proof.parse(each["proof"].encode())
        assert proof.index == each["index"]
        proof.verify(bytes.fromhex(each["leaf_hash"]), WORLD.books.keys)


def by_acme(leaf: bytes) -> bool:
    return leaf.startswith(f"{CONSORTIUM}/receipt@".encode()) and b'"member":"acme"' in leaf


def test_a_shared_cost_opens_down_to_its_invoice(bill):
    out = bill("--period", NOVEMBER, "--explain", "birch/services")[1]
    item = next(index for index, leaf in enumerate(WORLD.leaves) if b'"item":"hosting"' in leaf)
    assert f"entry {item:<8} hosting, paid by birch" in out
    assert "12.00 for hosting, evidence " in out
    assert "divided by the rule equal" in out
    assert "acme 2, birch 1, cedar 1" in out
    assert "  nothing\n" in bill("--period", NOVEMBER, "--explain", "cedar/services")[1]


def test_a_net_opens_into_its_lines_and_its_rounding(bill):
    for member in WORLD.members:
        out = bill("--period", DECEMBER, "--explain", member)[1]
        balance = next(each for each in OPENED[DECEMBER].bill.balances if each.member == member)
        assert out.startswith(f"{member}: net {money(balance.net, WORLD.charter)} EUR\n")
        due = Fraction(re.search(r"which is (\S+) minor units", out)[1])
        assert due == balance.net + balance.carry
        assert out.count("credit ") == len(WORLD.charter.pots)


@pytest.mark.parametrize("line", ["nobody", "acme/nothing", "", "nobody/compute"])
def test_a_line_that_is_not_in_the_bill_is_refused(bill, line):
    code, _, err = bill("--explain", line)
    assert (code, err.startswith("error not_found")) == (2, True)


# What has changed, and what would.


def test_the_parts_of_a_change_sum_to_it_exactly(bill):
    told = json.loads(bill("--period", DECEMBER, "--diff", NOVEMBER, "--json")[1])["members"]
    for member, parts in told.items():
        nets = [explain.net_of(OPENED[period].bill, member) for period in (NOVEMBER, DECEMBER)]
        assert sum(map(Fraction, parts.values())) == nets[1] - nets[0]
        assert (parts["price"], parts["fx"]) == ("0", "0")
        assert abs(Fraction(parts["rounding"])) < 2
    assert sorted(told) == WORLD.members
    out = bill("--period", DECEMBER, "--diff", NOVEMBER)[1]
    assert out.splitlines()[1].split() == [NOVEMBER, "price", "volume", "share", "fx", "rounding", DECEMBER]


def test_where_there_was_nothing_it_is_the_volume_that_changed():
    for before, after in ((DECEMBER, JANUARY), (JANUARY, DECEMBER)):
        parts = explain.change(OPENED[before], OPENED[after], "acme")
        assert parts["share"] == parts["price"] == parts["fx"] == 0
        assert parts["volume"] != 0


def test_a_price_that_doubles_is_the_whole_reason():
    before = OPENED[NOVEMBER]
    after = replace(before, facts=replace(before.facts, price=2 * before.facts.price))
    after = replace(after, bill=under(after.bill, after.facts, {}))
    for member in WORLD.members:
        parts = explain.change(before, after, member)
        work = sum(
            (each.credit - each.charge for each in before.bill.lines if (each.pot, each.member) == ("compute", member)),
            Fraction(0),
        )
        assert (parts["price"], parts["volume"], parts["share"], parts["fx"]) == (work, 0, 0, 0)


def test_of_a_stranger_nothing_has_changed():
    with pytest.raises(Refused) as caught:
        explain.change(OPENED[NOVEMBER], OPENED[DECEMBER], "dogwood")
    assert (caught.value.refusal, "dogwood" in caught.value.detail) == (Refusal.NOT_FOUND, True)


def test_under_its_own_rules_a_bill_is_itself():
    for opened in OPENED.values():
        assert under(opened.bill, opened.facts, {}).lines == opened.bill.lines
        assert under(opened.bill, opened.facts, {"services": "equal"}).balances == opened.bill.balances


def test_the_same_costs_under_another_rule(bill):
    code, out, _ = bill("--period", NOVEMBER, "--what-if", "services=proportional")
    assert code == 0
    assert "if services=proportional; this statement is signed by nobody" in out
    assert "services: charge, proportional" in out
    other = under(OPENED[NOVEMBER].bill, OPENED[NOVEMBER].facts, {"services": "proportional"})
    charges = {each.member: each.charge for each in other.lines if each.pot == "services"}
    assert charges == {"acme": Fraction(1701, 2), "birch": Fraction(1701, 4), "cedar": Fraction(1701, 4)}
    more = explain.net_of(other, "acme") - explain.net_of(OPENED[NOVEMBER].bill, "acme")
    assert f"acme would have {money(-more, WORLD.charter)} less" in out
    told = json.loads(bill("--period", NOVEMBER, "--what-if", "services=proportional", "--json")[1])
    assert {each["member"]: each["net"] for each in told["balances"]} == {
        each.member: each.net for each in other.balances
    }


@pytest.mark.parametrize("asked", ["services=fair", "nothing=equal", "services", "=", "services=equal=equal"])
def test_a_rule_or_a_pot_that_there_is_not_is_refused(bill, asked):
    code, out, err = bill("--what-if", asked)
    assert (code, out, err.startswith("error bad_field")) == (2, "", True)


def test_floors_and_caps_are_told_and_hold_under_another_rule_too(tmp_path, capsys):
    limits = {"floors": {"acme": 900}, "caps": {"cedar": 50}}
    world = World(pots=(pot_of("compute", "proportional"), pot_of("services", "equal", **limits)))
    world.say("birch/admin", world.item("birch", 1_000))
    world.say("cedar/admin", world.item("cedar", 200, "mail"))
    world.bill(NOVEMBER)
    bill = published(tmp_path / "bill", capsys, world)
    code, out, _ = bill("--explain", "acme/services")
    assert (code, "charge 9.000000, which is 900 minor units" in out) == (0, True)
    assert "`shared_models.rules.allocation.bounded` none below its floor: acme 900\n" in out
    assert "  and none above its cap: cedar 50; in minor units" in out
    told = json.loads(bill("--what-if", "services=proportional", "--json")[1])
    assert [each["charge"] for each in told["lines"] if each["pot"] == "services"] == ["900", "250", "50"]
    world.say("acme/admin", Dispute(seq=0, prev=FIRST, member="acme", about="item/birch/hosting", reason=""))
    bill = published(tmp_path / "later", capsys, world)
    code, out, _ = bill()
    assert (code, out.splitlines()[-1]) == (
        0,
        "infeasible: pot services: the floors sum to 900, 700 more than the cost",
    )


# Money in other currencies, caps, who joins, disputes, certificates.


def published(tmp_path, capsys, world: World):
    """Publish a world's log; what `bill` prints of it: (exit code, output, complaints)."""
    publish(tmp_path, world.leaves, LOG)

    def act(*words: str) -> tuple[int, str, str]:
        code = main(["bill", str(tmp_path), *words])
        return code, *capsys.readouterr()

    return act


def rated(world: World, value: Fraction, date: str) -> None:
    said = Rate(
        seq=0, prev=FIRST, currency="USD", date=date, rate=value, source="European Central Bank", replaces=FIRST
    )
    world.say(f"{CONSORTIUM}/admin", said)


def dollars(world: World, amount: str, date: str, **changes) -> None:
    world.say("birch/admin", world.item("birch", 0, date, amount=amount, currency="USD", date=date, **changes))


def test_an_invoice_in_dollars_opens_into_its_amount_and_its_rate(tmp_path, capsys):
    world = World()
    rated(world, Fraction(9, 10), "2026-11-05")
    dollars(world, "20.5", "2026-11-05")
    world.bill(NOVEMBER)
    out = published(tmp_path, capsys, world)("--explain", "birch/services")[1]
    assert "  18.45 for 2026-11-05, 41/2 USD x 9/10 EUR, evidence " in out


def test_a_line_cites_every_entry_that_it_follows_from_and_of_what_was_corrected_the_last(tmp_path, capsys):
    world = whole()
    for period in (JANUARY, "2027-02"):  # Under the first charter, and under the other one.
        world.bill(period)
    said = [entries.peek(leaf) for leaf in world.leaves]

    def last(kind: type, **fields: str) -> int:
        found = (at for at, each in enumerate(said) if isinstance(each, kind))
        return [at for at in found if all(getattr(said[at], name) == value for name, value in fields.items())][-1]

    act = published(tmp_path, capsys, world)

    def cited(line: str, period: str = DECEMBER) -> dict[int, str]:
        told = json.loads(act("--period", period, "--explain", line, "--json")[1])
        return {each["index"]: each["what"] for each in told["entries"]}

    assert cited("acme/services") == {
        0: "the charter: price, rules, benefits",
        last(Rate): "what USD was worth that day",
        last(CostItem, item="storage"): "storage, paid by acme",
        last(CreditNote): "credit note n1 for storage, paid by acme",
        last(Usage): "what birch has used",
    }
    assert cited("cedar/compute").keys() == {0, last(Price)}
    assert cited("cedar/compute", JANUARY).keys() == {0}
    assert cited("cedar/compute", "2027-02").keys() == {last(Amendment)}
    assert 0 in cited("acme/compute", NOVEMBER)


def test_what_the_rate_has_changed_is_a_part_of_the_change_and_the_parts_sum_to_it(tmp_path, capsys):
    world = World()
    for period, date, value in ((NOVEMBER, "2026-11-05", Fraction(9, 10)), (DECEMBER, "2026-12-05", Fraction(7, 6))):
        rated(world, value, date)
        dollars(world, "20.5", date, period=period)
        world.say("acme/admin", world.item("acme", 333, f"mail-{date}", period=period))
        world.bill(period)
    act = published(tmp_path, capsys, world)
    told = json.loads(act("--diff", NOVEMBER, "--json")[1])["members"]
    nets = [{each.member: each.net for each in bill.balances} for bill in world.books.statements]
    for member, parts in told.items():
        assert sum(map(Fraction, parts.values())) == nets[1][member] - nets[0][member]
        assert (parts["price"], parts["volume"], parts["share"]) == ("0", "0", "0")
    moved = Fraction("20.5") * (Fraction(7, 6) - Fraction(9, 10)) * 100
    assert Fraction(told["birch"]["fx"]) == moved * Fraction(2, 3) > 0
    assert Fraction(told["acme"]["fx"]) == Fraction(told["cedar"]["fx"]) == -moved / 3
    assert act("--diff", NOVEMBER)[1].splitlines()[1].split()[4:6] == ["fx", "rounding"]


def quoting(world: World, **amounts: str) -> None:
    """Each seals what the period would cost it alone, and opens it."""
    for member, amount in amounts.items():
        salt = f"{len(member):064x}"
        named = {"member": member, "about": "alone", "period": NOVEMBER, "members": (member,)}
        seal = sealed("alone", NOVEMBER, (member,), amount, salt)
        world.say(f"{member}/admin", QuoteSeal(seq=0, prev=FIRST, seal=seal, **named))
        world.say(f"{member}/admin", QuoteOpen(seq=0, prev=FIRST, amount=amount, salt=salt, **named))


def test_a_pot_that_is_divided_by_a_table_opens_into_the_table(tmp_path, capsys):
    table = tuple(
        Coalition(members=tuple(names.split()), cost=cost)
        for names, cost in (("acme", 6), ("birch", 5), ("acme birch", 9))
    )
    world = World(pots=(pot_of("compute", "equal"), pot_of("services", "shapley", table=table)))
    world.say("cedar/admin", world.item("cedar", 900))
    world.bill(NOVEMBER)
    out = published(tmp_path, capsys, world)("--explain", "acme/services")[1]
    assert "charge 5.000000, which is 500 minor units" in out
    assert (
        "by the rule shapley, `shared_models.rules.games.shapley`, of the table: acme 6, birch 5, acme birch 9" in out
    )


def test_a_cap_is_a_line_that_opens_and_the_certificate_says_who_is_nearest_to_leaving(tmp_path, capsys):
    world = World(cap="alone")
    quoting(world, cedar="1.5", birch="9")
    world.say("acme/admin", world.item("acme", 900))
    world.bill(NOVEMBER)
    act = published(tmp_path, capsys, world)
    out = act()[1]
    assert re.search(r"^cap: credit +0.000000 +0.000000 +1.500000$", out, re.M)
    assert re.search(r"^cap: charge +-0.750000 +-0.750000 +-?0.000000$", out, re.M)
    assert out.splitlines()[-1] == (
        "nobody who quoted would pay less alone; the nearest, cedar, would pay 0.000000 more"
    )
    out = act("--explain", "cedar/cap")[1]
    assert "  by `shared_models.rules.statement`, as nobody is charged more than it has quoted for going alone" in out
    quotes = [at for at, leaf in enumerate(world.leaves) if isinstance(entries.peek(leaf), QuoteOpen)]
    assert [int(each) for each in re.findall(r"entry (\d+) +a quote for going alone", out)] == quotes


def test_without_a_cap_the_bill_says_who_would_pay_less_alone(tmp_path, capsys):
    world = World()
    quoting(world, cedar="1.5", birch="2")
    world.say("acme/admin", world.item("acme", 900))
    world.bill(NOVEMBER)
    act = published(tmp_path, capsys, world)
    expected = "birch and cedar would pay 2.500000 less alone, by what was quoted before the period"
    assert act()[1].splitlines()[-1] == expected
    told = json.loads(act("--json")[1])["certificate"]
    assert [(each["members"], each["charge"], each["alone"]) for each in told] == [
        (["cedar"], "300", "150"),
        (["birch"], "300", "200"),
    ]


def test_nobody_is_nearest_to_leaving_where_nobody_quoted(bill):
    assert "alone" not in bill("--period", NOVEMBER)[1]


def test_who_joins_pays_its_part_of_earlier_work_on_a_line_that_opens(tmp_path, capsys):
    world = World(accession=Fraction(1, 2))
    world.start()
    world.round()
    world.bill(NOVEMBER)
    larger = replace(
        world.charter, members=(*world.charter.members, member_of("dogwood", 1)), approvals=3, accession=Fraction(1, 2)
    )
    proposal = Amendment(
        seq=0, prev=FIRST, member="acme", amendment="dogwood", replaces=world.books.agreement.hash, charter=larger
    )
    hashed = world.say("acme/admin", proposal)
    for by in ("acme", "birch"):
        world.say(f"{by}/admin", Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice="yes"))
    world.bill(DECEMBER)
    world.bill(JANUARY)
    act = published(tmp_path, capsys, world)
    code, out, _ = act("--period", JANUARY, "--explain", "dogwood/accession")
    done = sum(each.flop for each in world.books.statements[0].balances)
    owed = Fraction(1, 2) * world.charter.price * done / 10**18
    assert f"charge {money(owed, world.charter)}, which is {owed} minor units" in out
    assert "as who joins pays its part of the price of all earlier work to those who did it" in out
    bills = [at for at, leaf in enumerate(world.leaves) if isinstance(entries.peek(leaf), Statement)]
    assert [int(each) for each in re.findall(r"entry (\d+) +a statement, and", out)] == bills[:2]
    net = act("--period", JANUARY, "--explain", "dogwood")[1]
    assert f"entry {bills[1]:<8} the statement before, and what it carried on" in net
    assert "the statement before" not in act("--period", NOVEMBER, "--explain", "acme")[1]
    lines = {each.member: each for each in world.books.statements[-1].lines if each.pot == "accession"}
    assert sum(each.credit for each in lines.values()) == lines["dogwood"].charge == owed > 0
    assert (code, "accession: charge" in act()[1]) == (0, True)


def test_a_disputed_bill_is_shown_with_and_without_what_is_disputed(tmp_path, capsys):
    world = World()
    world.say("acme/admin", world.item("acme", 900))
    world.say("birch/admin", world.item("birch", 300, "mail"))
    stated = world.bill(NOVEMBER)
    assert "in dispute" not in published(tmp_path, capsys, world)()[1]
    about = "item/acme/hosting"
    first = world.say("birch/admin", Dispute(seq=0, prev=FIRST, member="birch", about=about, reason="never agreed"))
    whole, _, without = published(tmp_path, capsys, world)()[1].partition(f"\nin dispute: {about}; without it:\n")
    assert re.search(r"^net, EUR +5.00 +-1.00 +-4.00$", whole, re.M)
    assert re.search(r"^net, EUR +-1.00 +2.00 +-1.00$", without, re.M)
    told = json.loads(published(tmp_path, capsys, world)("--json")[1])
    assert {each["member"]: each["net"] for each in told["balances"]} == {
        each.member: each.net for each in stated.balances
    }
    for by in ("birch", "cedar"):
        said = Resolution(seq=0, prev=FIRST, member=by, about=about, dispute=first, outcome="void", reason="")
        world.say(f"{by}/admin", said)
    assert "in dispute" not in published(tmp_path, capsys, world)()[1]


# For other programs.


def test_csv_sums_to_what_was_put_in_and_holds_what_is_exact(bill):
    rows = list(csv.DictReader(io.StringIO(bill("--as", "csv")[1])))
    assert len(rows) == sum(len(each.bill.lines) for each in OPENED.values())
    for period, opened in OPENED.items():
        for pot in ("compute", "services"):
            found = [row for row in rows if (row["period"], row["pot"]) == (period, pot)]
            assert sum(Fraction(row["credit"]) - Fraction(row["charge"]) for row in found) == 0
            exact = sum(Fraction(row["credit_exact"]) for row in found)
            assert exact * 100 == sum(each.credit for each in opened.bill.lines if each.pot == pot)
    for row in rows:
        assert abs(Fraction(row["credit"]) - Fraction(row["credit_exact"])) < Fraction(1, 10**13)


@pytest.fixture(scope="session")
def hledger():
    if shutil.which("hledger") is None:
        if os.environ.get("CONSORTIUM_REQUIRE_HLEDGER"):
            raise RuntimeError("hledger is not installed")
        pytest.skip("hledger is not installed")

    def run(journal: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["hledger", "-f", "-", *words], input=journal, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def test_hledger_accepts_the_journal_and_finds_that_nobody_owes_anything(bill, hledger):
    journal = bill("--as", "hledger")[1]
    checked = hledger(journal, "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    left = hledger(journal, "balance", "members", "pots", "--no-total", "--output-format", "csv")
    assert left.stdout.splitlines() == ['"account","balance"']
    carried = hledger(journal, "balance", "rounding", "--no-total", "--output-format", "csv", "--layout", "bare")
    found = {row["account"]: row["balance"] for row in csv.DictReader(io.StringIO(carried.stdout))}
    for balance in OPENED[JANUARY].bill.balances:
        kept = Fraction(found.get(f"rounding:{balance.member}", "0"))
        assert abs(kept * 100 + balance.carry) < Fraction(1, 10**10)


def test_hledger_refuses_a_journal_in_which_a_cent_was_moved(bill, hledger):
    journal = bill("--as", "hledger")[1]
    transfer = OPENED[NOVEMBER].bill.transfers[0]
    paid = f"members:{transfer.payer}  -{transfer.amount / 100:.2f} EUR"
    assert journal.count(paid) == 1
    assert hledger(
        journal.replace(paid, f"members:{transfer.payer}  -{transfer.amount / 100 + 1:.2f} EUR"), "check"
    ).returncode


def test_beancount_accepts_the_journal_and_refuses_another(bill):
    journal = bill("--as", "beancount")[1]
    _, errors, _ = loader.load_string(journal)
    assert errors == []
    assert journal.count(" balance Assets:Members:") == len(OPENED) * len(WORLD.members)
    transfer = OPENED[NOVEMBER].bill.transfers[0]
    paid = f"Assets:Members:{transfer.payer.capitalize()}  -{transfer.amount / 100:.2f} EUR"
    assert journal.count(paid) == 1
    _, errors, _ = loader.load_string(journal.replace(paid, paid.replace("-", "-1")))
    assert errors != []


@given(names=st.lists(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,6}[a-z0-9])?", fullmatch=True), min_size=2, unique=True))
def test_two_members_never_share_an_account(names):
    accounts = {export.beancount_account(("members", name)) for name in names}
    assert len(accounts) == len(names)
    for each in accounts:
        assert re.fullmatch(r"Assets:Members:[A-Z0-9][A-Za-z0-9-]*", each)


def test_a_journal_needs_a_date():
    opened = OPENED[NOVEMBER]
    for period, date, day in (
        ("2026-11", None, "2026-11-30"),
        ("2028-02", None, "2028-02-29"),
        ("2026", None, "2026-12-31"),
        ("first", "2026-05-06", "2026-05-06"),
    ):
        assert export.last_day(period, date).isoformat() == day
    for period, date in (("first", None), ("2026-13", None), ("2026-11", "soon"), ("2026-11", "2026-02-30")):
        with pytest.raises(Refused) as caught:
            export.last_day(period, date)
        assert (caught.value.refusal, "--date YYYY-MM-DD" in caught.value.detail) == (Refusal.BAD_FIELD, True)
    assert "2030-01-01 * 2026-11: compute" in export.hledger([opened.bill], opened.charter, "2030-01-01")


def test_nothing_is_compared_with_a_statement_that_is_not_there(bill):
    code, out, err = bill("--diff", "1999-12")
    assert (code, out, err.startswith("error not_found: ")) == (2, "", True)


def test_rows_in_focus_form_name_their_entries_and_sum_to_what_each_pays(bill):
    rows = list(csv.DictReader(io.StringIO(bill("--as", "focus")[1])))
    for period, opened in OPENED.items():
        mine = [row for row in rows if row["x_Period"] == period]
        assert {int(row["x_LedgerLeafIndex"]) for row in mine} <= {opened.bill.end}
        for balance in opened.bill.balances:
            paid = [row for row in mine if balance.member in (row["AllocatedResourceId"], row["SubAccountId"])]
            assert sum(Fraction(row["BilledCost"]) for row in paid) * 100 == -balance.net


def test_one_form_at_a_time(bill):
    assert bill("--as", "csv", "--json")[0] == 2


def test_a_bill_for_programs_is_that_of_the_log(bill):
    told = json.loads(bill("--json")[1])
    assert (told["schema"], told["period"]) == ("consortium.bill/1", JANUARY)
    plain = explain.as_json(OPENED[JANUARY].bill, WORLD.charter)
    assert told == {"schema": "consortium.bill/1", **plain, "worth": [], "served": [], "unspent": []}


def stopped_early() -> World:
    """A period in which a run has stopped behind the second of six rounds."""
    world = World(price=Fraction(10**15))
    world.start(rounds=6, patience=1)
    world.round()
    world.round()  # Its loss is the one of the round before.
    world.say(world.coordinator, world.end(status="stopped"))
    world.bill("2026-11")
    return world


def test_a_run_that_stopped_early_is_booked_as_not_spent_run_by_run(tmp_path, capsys):
    world = stopped_early()
    at, each = world.books.tree.size - 2, 3 * round_flop(world.books.runs["r1"].manifest, 1, "acme")
    publish(tmp_path, world.leaves, LOG)
    assert main(["bill", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    worth = money(value_of(4 * each, world.charter.price), world.charter)
    assert f"not spent, as runs stopped early: {4 * each:,} FLOP, worth {worth} EUR; in no line above" in out
    said = f"behind round 2 of 6; not spent: 4 rounds of 3 members, {4 * each:,} FLOP, worth {worth} EUR"
    assert f"entry {at}: run r1 stopped early, its held-out loss no lower any more, {said}\n" in out
    assert main(["bill", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    row = {"entry": at, "run": "r1", "trained": 2, "rounds": 6, "members": 3, "flop": str(4 * each)}
    assert told["unspent"] == [row | {"worth": str(value_of(4 * each, world.charter.price))}]
    assert told["unspent_flop"] == str(4 * each)


def test_of_a_statement_that_is_not_what_its_entries_say_no_number_is_opened(tmp_path, capsys):
    world, _ = months()
    stated = OPENED[JANUARY].bill
    lied = replace(stated, period="2027-02", lines=stated.lines[1:])
    leaf = world.sign(f"{CONSORTIUM}/admin", replace(lied, start=world.books.statements[-1].end))
    publish(tmp_path, [*world.leaves, leaf], LOG)
    assert main(["bill", str(tmp_path), "--explain", "acme", "--period", "2027-02"]) == 2
    assert "error wrong_statement" in capsys.readouterr().err
    assert main(["bill", str(tmp_path), "--as", "focus"]) == 2
    assert "error wrong_statement" in capsys.readouterr().err
    assert main(["bill", str(tmp_path), "--explain", "acme", "--period", DECEMBER]) == 1
    assert "this log is not right" in capsys.readouterr().err
