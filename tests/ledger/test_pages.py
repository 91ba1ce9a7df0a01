"""What people see of the log: pages of a real ledger with every kind of entry, read as a browser would."""

import html
import json
import re
import time
import urllib.parse
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate

import pytest
from ledger_service import serving, write_key
from reading import get, links, rows, served, text
from world import CONSORTIUM, OPEN, World, digest, experts, whole

from ledger import lineage, pages
from ledger.curve import drawn, track
from ledger.lineage import ACROSS, HIGH, WIDE, graph
from ledger.log import open_log
from ledger.projections import Projector
from ledger.shown import ROWS, amount, lasting, moment, newest, oldest, remaining, work
from ledger.views import training
from shared_models.ledger_http import LedgerHttp
from shared_models.records import entry as entries
from shared_models.records.kinds import FIRST, Artefact, Checkpoint, Dispute, Receipt
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import REMEDY, Refusal, Refused
from shared_models.rules.currency import money
from shared_models.rules.pricing import round_flop, value

HOSTILE = "<script>alert(1)</script>\"' onload=x"


@pytest.fixture(scope="module")
def world():
    """Every kind of entry, a round that is open, and reasons that want to be code."""
    world = whole()
    world.say("birch/admin", Dispute(seq=0, prev=FIRST, member="birch", about="work/r2/1/birch", reason=HOSTILE))
    world.say(world.coordinator, world.end("r2", status="failed", reason=HOSTILE))
    world.say(world.coordinator, world.manifest("r4", charter=world.books.agreement.hash, members=("birch", "cedar")))
    for member in ("birch",):
        world.say(f"{member}/compute", world.consent(member, "r4"))
    world.say(world.coordinator, world.opened("r4", invited=("birch",)))
    return world


@pytest.fixture(scope="module")
def ledger(world, tmp_path_factory):
    with served(world, tmp_path_factory.mktemp("ledger")) as ledger:
        yield ledger


def test_every_link_of_every_page_leads_to_something_and_writes_nothing(ledger, world):
    seen, left, before = set[str](), ["/"], get(ledger, "/checkpoint")[2]
    while left:
        path = left.pop()
        seen.add(path)
        status, headers, page = get(ledger, path)
        assert status == 200, path
        if headers["Content-Type"].startswith("text/html"):
            new = {urllib.parse.urljoin(ledger.url + path, link).removeprefix(ledger.url) for link in links(page)}
            left += sorted(new - seen - set(left))
    entries = {f"/log/{index}" for index in range(world.books.tree.size)}
    models = {f"/models/{each}" for each in world.books.library.artefacts}
    rounds = {f"/runs/r1/{number}" for number in (1, 2, 3)}
    assert seen > entries | models | rounds | {
        "/bills/2026-11",
        "/bills/2026-12/costs",
        "/bills/2026-12/what-if",
        "/bills/2026-12/disputes",
        "/charter",
        f"/amendments/{world.books.agreement.hash}",
        "/joins",
        "/members",
        "/static/style.css",
    }
    assert get(ledger, "/checkpoint")[2] == before


PAGES = [
    "/overview",
    "/runs",
    "/runs/r1",
    "/runs/r1?against=tokens",
    "/runs/r1?against=kwh",
    "/overview?against=cost",
    "/runs/r1/2",
    "/bills",
    "/bills/2026-11",
    "/bills/2026-11/receipts",
    "/bills/2026-11/costs",
    "/bills/2026-11/what-if",
    "/bills/2026-11/what-if?rule=services=proportional",
    "/bills/2026-12/disputes",
    "/charter",
    "/amendments",
    "/joins",
    "/log",
    "/log/0",
    "/members",
    "/models",
]
REFUSED = [
    ("/runs/none", 404, "not_found"),
    ("/runs/r1/9", 404, "not_found"),
    ("/runs/r1/0", 404, "not_found"),
    ("/runs/r1/x", 422, "bad_field"),
    ("/bills/1999-01", 404, "not_found"),
    ("/bills/1999-01/receipts", 404, "not_found"),
    ("/bills/1999-01/costs", 404, "not_found"),
    ("/bills/1999-01/what-if", 404, "not_found"),
    ("/bills/1999-01/disputes", 404, "not_found"),
    ("/bills/2026-11/receipts?member=A", 422, "bad_field"),
    ("/bills/2026-11/what-if?rule=services=fair", 422, "bad_field"),
    ("/bills/2026-11/what-if?rule=mail=equal", 422, "bad_field"),
    ("/bills/2026-11/what-if?rule=%3Cscript%3E", 422, "bad_field"),
    ("/bills/2026-11/what-if?" + "&".join(["rule=services=equal"] * (ROWS + 1)), 422, "bad_field"),
    ("/bills/2026-11?format=xml", 422, "bad_field"),
    ("/bills/2026-11?format=csv&table=nets", 404, "not_found"),
    ("/bills/1999-01?format=csv", 404, "not_found"),
    ("/amendments/" + "0" * 64, 404, "not_found"),
    ("/amendments/x", 422, "bad_field"),
    ("/charter?after=x", 422, "bad_field"),
    ("/joins?after=-1", 422, "bad_field"),
    ("/bills/2026-11%00", 422, "bad_field"),
    ("/log/100000", 404, "not_found"),
    ("/log/-1", 422, "bad_field"),
    ("/log/99999999999999999999", 422, "bad_field"),
    ("/log?before=-1", 422, "bad_field"),
    ("/runs/r1?before=x", 422, "bad_field"),
    ("/runs/r1?against=money", 422, "bad_field"),
    ("/models/" + "0" * 64, 404, "not_found"),
    ("/models/%3Cscript%3E", 422, "bad_field"),
    ("/static/..%2Flog.key", 404, None),
    ("/static/none.css", 404, "not_found"),
]


@pytest.mark.parametrize("path", [*PAGES, *(path for path, _, name in REFUSED if name), "/static/style.css"])
def test_no_page_may_load_or_run_what_this_ledger_does_not_serve(ledger, path):
    _, headers, page = get(ledger, path)
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self';"
        " font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    assert not re.search(r"<[^>]*\s(style|on\w+)=", page)
    scripts = {f'<script type="module" src="/static/{name}.js">' for name in ("countdown", "live", "verify")}
    assert set(re.findall(r"<script[^>]*>", page)) <= scripts
    assert all(link.startswith(("/", "?")) for link in links(page))


@pytest.mark.parametrize(("path", "status", "name"), REFUSED)
def test_what_is_not_there_is_a_page_that_names_the_refusal(ledger, path, status, name):
    got, headers, page = get(ledger, path)
    assert got == status
    if name is not None:
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert name in page
        assert REMEDY[Refusal(name)] in text(page)


@pytest.mark.parametrize("path", ["/runs", "/runs/r2", "/log"])
def test_what_a_member_wrote_is_never_code(ledger, world, path):
    _, _, page = get(ledger, path)
    assert HOSTILE not in page
    if path != "/log":
        assert HOSTILE in html.unescape(page)


def test_an_entry_is_shown_as_it_was_signed_and_with_its_proof(ledger, world):
    at = next(index for index, leaf in enumerate(world.leaves) if HOSTILE.replace('"', '\\"').encode() in leaf)
    _, _, page = get(ledger, f"/log/{at}")
    assert HOSTILE.replace('"', '\\"') in html.unescape(page)
    assert "<script" not in page.partition("<main")[2]
    size = world.books.tree.size
    said = text(page)
    assert leaf_hash(world.leaves[at]).hex() in said
    assert all(each.hex() in said for each in world.books.tree.inclusion(at, size))
    assert world.books.tree.root(size).hex() in said


def test_the_overview_says_who_is_waited_for_since_when_and_until_when(ledger, world):
    said = text(get(ledger, "/overview")[2])
    assert "Round 1 of 3" in said
    since = r"Since 1970-01-01 00:16:40 UTC \( entry \d+ \), until 1970-01-01 00:17:40 UTC : passed \d+ d \d+ h ago \."
    assert re.search(r"Waited for: birch ; 1 of 1 that were asked have no receipt in the log\. " + since, said)
    assert f"{world.books.tree.size} entries" in said


def test_who_has_answered_is_not_waited_for(tmp_path):
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    world.say("birch/compute", world.receipt("birch", isolation="landlock-6"))
    with served(world, tmp_path) as ledger:
        said = text(get(ledger, "/overview")[2])
    assert "birch answered" in said
    assert "1.2 s landlock-6" in said
    assert "acme waited for" in said
    assert "Waited for: acme, cedar ; 2 of 3 that were asked have no receipt" in said


def test_until_the_deadline_it_is_said_how_long_that_is_without_a_script(tmp_path):
    world, hour_ms = World(), 3_600_000
    world.start()
    now_ms = time.time_ns() // 1_000_000
    world.say(world.coordinator, world.opened(opened_ms=now_ms - hour_ms, deadline_ms=now_ms + hour_ms))
    with served(world, tmp_path) as ledger:
        for path in ("/overview", "/runs/r1/1"):
            page = get(ledger, path)[2]
            assert re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC : in 59 min \d+ s \.", text(page))
            (left_ms,) = re.findall(r'<span role="timer" data-left-ms="(-?\d+)">', page)
            assert 0 < hour_ms - int(left_ms) < 60_000
            assert '<script type="module" src="/static/countdown.js">' in page


def test_at_each_step_of_a_run_it_is_said_who_is_waited_for(tmp_path):
    world = World()
    with served(world, tmp_path) as ledger:

        def waited(path: str = "/overview") -> list[str]:
            """For whom, after what has been said since."""
            for leaf in world.leaves[ledger.size() :]:
                ledger.append(leaf)
            return re.findall(r"Waited for: .*?(?= since| that were asked|: all)", text(get(ledger, path)[2]))

        assert waited() == []
        world.say(world.coordinator, world.manifest(rounds=1))
        world.say("birch/compute", world.consent("birch"))
        assert waited() == ["Waited for: acme, cedar , to consent,"]
        for member in ("acme", "cedar"):
            world.say(f"{member}/compute", world.consent(member))
        assert waited() == ["Waited for: the coordinator , to open round 1,"]
        world.say(world.coordinator, world.opened())
        hashes = {member: world.say(f"{member}/compute", world.receipt(member)) for member in ("acme", "birch")}
        assert waited() == waited("/runs/r1/1") == ["Waited for: cedar ; 1 of 3"]
        hashes["cedar"] = world.say("cedar/compute", world.receipt("cedar"))
        assert waited() == waited("/runs/r1/1") == ["Waited for: the coordinator , to close the round"]
        world.say(world.coordinator, world.close(hashes, excluded=()))
        assert waited() == ["Waited for: the coordinator , to end the run,"]
        world.say(world.coordinator, world.end())
        assert waited() == []
        world.start("r2", rounds=2)
        world.round("r2")
        assert waited() == ["Waited for: the coordinator , to open round 2,"]
        world.say(world.coordinator, world.opened("r2"))
        world.say(world.coordinator, world.end("r2", status="failed", reason="power cut"))
        assert waited() == waited("/runs/r2/2") == []
        said = text(get(ledger, "/runs/r2/2")[2])
        assert "and never closed: the run has ended." in said
        assert "acme no answer" in said


def test_the_overview_is_of_the_run_that_trains_and_not_of_one_that_was_only_proposed():
    world = World()
    assert training(world.books) is None
    world.start("r1")
    world.say(world.coordinator, world.manifest("r2"))
    assert training(world.books) == "r2"
    world.round("r1")
    assert training(world.books) == "r1"
    world.say(world.coordinator, world.end("r1", status="failed", reason="power cut"))
    assert training(world.books) == "r2"
    world.say(world.coordinator, world.end("r2", status="failed", reason="power cut"))
    assert training(world.books) == "r2"


def test_a_run_shows_the_steps_of_each_member_where_they_differ(tmp_path, ledger):
    assert "Steps of each member" not in text(get(ledger, "/runs/r1")[2])
    assert json.loads(get(ledger, "/runs/r1?format=json&table=steps")[2])["rows"] == []
    world = World()
    world.start(steps=(3, 1, 2))
    with served(world, tmp_path) as other:
        page = get(other, "/runs/r1")[2]
        assert "Steps of each member in a round: acme 3, birch 1, cedar 2 ." in text(page)
        assert {"?format=csv&table=steps", "?format=json&table=steps"} <= links(html.unescape(page))
        told = json.loads(get(other, "/runs/r1?format=json&table=steps")[2])["rows"]
    assert told == [{"member": member, "steps": steps} for member, steps in (("acme", 3), ("birch", 1), ("cedar", 2))]


def test_a_round_shows_who_was_left_out_and_why(ledger):
    found = {row[0]: row for row in rows(get(ledger, "/runs/r1/2")[2])}
    assert found["birch"][1:3] == ["left out", "late"]
    assert found["acme"][1] == "included"
    assert found["acme"][3] == "96"
    assert ["Round 2", "3", "2", "2", "birch: late", "3.000", "3.000", "192", "8,552,448 FLOP"] in rows(
        get(ledger, "/runs/r1")[2]
    )


def test_a_bill_is_what_its_statement_says(ledger, world):
    for bill in world.books.statements:
        page = get(ledger, f"/bills/{bill.period}")[2]
        charter, found = world.charter, {row[0]: row for row in rows(page) if len(row) == 7}
        for each in bill.balances:
            lines = [line for line in bill.lines if line.member == each.member]
            credits_, charges = sum(line.credit for line in lines), sum(line.charge for line in lines)
            carried = each.net + each.carry - credits_ + charges
            shown = [amount(value, charter).text for value in (each.net, credits_, charges, carried, each.carry)]
            assert found[each.member][1:6] == shown
            assert f'title="{each.net} minor units of EUR"' in page
        for each in bill.transfers:
            assert [each.payer, each.payee, amount(each.amount, charter).text] in rows(page)
    december = world.books.statements[1]
    before = {each.member: each.carry for each in world.books.statements[0].balances}
    assert any(before.values())
    assert december.start == world.books.statements[0].end


def test_what_is_still_to_be_paid_is_what_the_log_says(ledger, world):
    for bill in world.books.statements:
        left = world.books.accounts.settlements.open(bill.period)
        found = rows(get(ledger, f"/bills/{bill.period}")[2])
        for each in left:
            said = ", ".join(sorted(each.said)) or "nobody"
            assert [each.payer, each.payee, amount(each.amount, world.charter).text, said] in found
        assert sum(len(row) == 4 and row[0] != "Payer" for row in found) == len(left)


def test_receipts_and_costs_of_a_period_are_those_of_its_entries(ledger, world):
    november = world.books.statements[0]
    found = rows(get(ledger, "/bills/2026-11/receipts")[2])[1:]
    assert len(found) == 8
    assert all(int(row[0].split()[1]) < november.end for row in found)
    costs = rows(get(ledger, "/bills/2026-11/costs")[2])[1:]
    assert [(row[1], row[2], row[5]) for row in costs] == [("hosting", "birch", "12"), ("mail", "acme", "5.01")]
    costs = rows(get(ledger, "/bills/2026-12/costs")[2])[1:]
    assert [(row[1], row[5], row[6]) for row in costs] == [("storage", "20.5", "USD")]


def test_a_line_of_a_bill_leads_to_the_receipts_and_invoices_of_its_member(ledger, world, monkeypatch):
    november = world.books.statements[0]
    page = get(ledger, "/bills/2026-11")[2]
    receipts, costs = "/bills/2026-11/receipts?member=birch", "/bills/2026-11/costs?member=birch"
    assert {receipts, costs} <= links(page)
    assert not any("carry" in link or "correction" in link for link in links(page))
    every = rows(get(ledger, "/bills/2026-11/receipts")[2])[1:]
    assert rows(get(ledger, receipts)[2])[1:] == [row for row in every if row[1] == "birch"] != []
    assert [row[1] for row in rows(get(ledger, costs)[2])[1:]] == ["hosting"]
    assert rows(get(ledger, "/bills/2026-11/receipts?member=nobody")[2])[1:] == []
    monkeypatch.setattr(pages, "LOOKED", 7)
    found, at = [], receipts
    while at:  # Seven entries at a time come to the same.
        page = get(ledger, at)[2]
        found += rows(page)[1:]
        more = re.search('<a href="([^"]*)">Next</a>', page)
        at = urllib.parse.urljoin(receipts, html.unescape(more[1])) if more else ""
        assert not at or "member=birch" in at
    assert found == [row for row in every if row[1] == "birch"]
    assert int(found[-1][0].split()[1]) < november.end


def test_a_bill_shows_what_experts_are_worth_and_leads_to_who_has_measured(tmp_path):
    world = experts()
    first, second = (each.entry for each in world.books.worths)
    world.bill("2026-11")
    world.round()
    world.bill("2026-12")
    with served(world, tmp_path) as ledger:
        page = get(ledger, "/bills/2026-11")[2]
        told = json.loads(get(ledger, "/bills/2026-11?format=json&table=worths")[2])["rows"]
        other = get(ledger, "/bills/2026-12")[2]
    text = f"{digest('text')[:12]}…"
    row = ["acme", "91", "0.0%", "r1", text, "acme", f"entry {first}"]
    assert row in rows(page)
    assert ["cedar", "-30", "0.0%", "r1", text, "birch", f"entry {second}"] in rows(page)
    assert {f"/log/{first}", f"/log/{second}", "/runs/r1"} <= links(page)
    assert [each["worth_unats"] for each in told] == ["181/2", "61/2", "-30"] * 2
    assert told[0]["text"] == digest("text")
    assert "What experts are worth" not in other
    assert ("Nothing is billed by it" in page, "lines worth" in page) == (True, False)


def test_a_bill_that_pays_for_experts_stands_on_what_most_have_measured(tmp_path):
    world = experts(worth_share=Fraction(1, 10))
    entries_ = [each.entry for each in world.books.worths]
    bill = world.bill("2026-11")
    world.round()
    world.bill("2026-12")
    with served(world, tmp_path) as ledger:
        pages_ = [get(ledger, f"/bills/{period}")[2] for period in ("2026-11", "2026-12")]
    for page in pages_:  # The second goes by what was measured in the first.
        at = page.index("by which the lines worth are paid")
        assert all(f"/log/{entry}" in page[at : at + 200] for entry in entries_)
    credit = next(each.credit for each in bill.lines if (each.pot, each.member) == ("worth", "acme"))
    assert ["worth", amount(credit, world.charter).text] in [row[:2] for row in rows(pages_[0])]
    assert "is paid by benefit to the members whose experts are worth something" in pages_[0]
    assert "Nothing is billed by it" not in pages_[0]


def test_a_bill_shows_what_was_served_and_leads_to_who_has_said_so(tmp_path):
    world = experts(expert_price=Fraction(30))
    world.say("acme/admin", world.served("acme", 1_000_000, {"acme": 100_000, "birch": 500_000}))
    ((at, _, _, said),) = world.books.accounts.due("2026-11", world.books.tree.size)
    world.bill("2026-11")
    world.round()
    world.bill("2026-12")
    with served(world, tmp_path) as ledger:
        page, other = (get(ledger, f"/bills/{period}")[2] for period in ("2026-11", "2026-12"))
        told = json.loads(get(ledger, "/bills/2026-11?format=json&table=served")[2])["rows"]
        free = get(ledger, "/bills/2026-11/what-if?rule=served%3D0")
        dear = get(ledger, "/bills/2026-12/what-if?rule=served%3D60")
        wrong = get(ledger, "/bills/2026-11/what-if?rule=served%3Ddear")
    model = f"{said.model[:12]}…"
    found = [row[:7] for row in rows(page)]
    assert ["acme", "1,000,000", "birch", "500,000", "0.150000", "r1", model] in found
    assert ["acme", "1,000,000", "acme", "100,000", "0.000000", "r1", model] in found
    assert {f"/log/{at}", f"/v1/proof?index={at}"} <= links(page)
    assert "pays that member for them, by the charter's price: 0.300000 EUR for 1,000,000" in html.unescape(page)
    assert [(each["owner"], each["pays_minor"]) for each in told] == [("acme", "0"), ("birch", "15")]
    assert "What was served" not in other
    assert ["served", "0.150000", "0.000000", "-0.150000"] in rows(free[2])
    assert (free[0], dear[0], wrong[0]) == (200, 200, 422)


def test_a_bill_shows_what_was_not_spent_run_by_run_and_only_where_there_is_something(tmp_path):
    world = World(price=Fraction(10**15))
    world.start(rounds=6, patience=1)
    world.round()
    world.bill("2026-10")
    world.round()  # Its loss is the one of the round before.
    world.say(world.coordinator, world.end(status="stopped"))
    at, flop = world.books.tree.size - 1, 4 * 3 * round_flop(world.books.runs["r1"].manifest, 1, "acme")
    world.bill("2026-11")
    with served(world, tmp_path) as ledger:
        before, page = (get(ledger, f"/bills/{period}")[2] for period in ("2026-10", "2026-11"))
        (told,) = json.loads(get(ledger, "/bills/2026-11?format=json&table=unspent")[2])["rows"]
    worth = money(value(flop, world.charter.price), world.charter)
    assert ["r1", "2", "6", "3", f"{flop // 10**6:,} MFLOP", worth] in [row[:6] for row in rows(page)]
    assert {f"/log/{at}", f"/v1/proof?index={at}", "/runs/r1"} <= links(page)
    assert f"come to {flop // 10**6:,} MFLOP of work, worth {worth} EUR at this bill's price" in " ".join(
        text(page).split()
    )
    assert (told["work_flop"], told["worth_minor"]) == (str(flop), str(value(flop, world.charter.price)))
    assert "Not spent" not in before


def test_a_model_says_whose_experts_were_left_out_and_who_grants_which(tmp_path):
    world = experts(tiers=(OPEN,))
    world.say("birch/admin", world.lent("birch", "acme"))
    made = Artefact(
        seq=0,
        prev=FIRST,
        publisher=CONSORTIUM,
        artefact=digest("part"),
        size=1_000,
        form="safetensors",
        checkpoints=(Checkpoint(run="r1", round=1),),
        parents=(),
        without=("cedar",),
    )
    world.say(world.coordinator, made)
    with served(world, tmp_path) as ledger:
        page = get(ledger, f"/models/{made.artefact}")[2]
    assert "without the experts of cedar" in page
    found = {row[0]: row for row in rows(page)}
    assert [found[member][1] for member in world.members] == ["yes", "yes", "no"]
    assert found["cedar"][3] == "birch has not granted cedar its expert of run r1"


def test_models_say_who_may_have_them_and_why_not(ledger, world):
    (name,) = world.books.library.artefacts
    found = {row[0]: row for row in rows(get(ledger, f"/models/{name}")[2])}
    for member in world.members:
        verdict = world.books.access(member, name)
        assert found[member][1] == ("yes" if verdict.granted else "no")
        assert found[member][3] == "; ".join(verdict.reasons)
    assert {row[1] for row in found.values()} >= {"yes", "no"}


def test_a_run_and_its_models_say_what_weights_it_was_given_to_begin_with(tmp_path, monkeypatch):
    world, given, one = World(), digest("given"), digest("checkpoint 1")
    world.start("r1", start=given, base=given)
    world.round("r1")
    world.start("r2", start=one, base=one)
    world.round("r2")
    checkpoints = (Checkpoint(run="r1", round=1), Checkpoint(run="r2", round=1))
    made = Artefact(
        seq=0,
        prev=FIRST,
        publisher=CONSORTIUM,
        artefact=digest("model"),
        size=1,
        form="safetensors",
        checkpoints=checkpoints,
        parents=(),
        without=(),
    )
    world.say(world.coordinator, made)
    world.say(world.coordinator, replace(made, artefact=digest("small"), checkpoints=(), parents=(digest("model"),)))
    names = {
        f"Weights {given[:8]}…": 0,
        "Round 1 of r1": 1,
        "Round 1 of r2": 2,
        f"Model {digest('model')[:8]}…": 3,
        f"Model {digest('small')[:8]}…": 4,
    }
    for shown in ("model", "small"):  # The same five, whichever of the two is looked at.
        found = graph(world.books, digest(shown))
        assert {each["name"]: each["x"] // ACROSS for each in found["boxes"]} == names
        assert [each["name"] for each in found["boxes"] if each["shown"]] == [f"Model {digest(shown)[:8]}…"]
        assert (len(found["lines"]), found["whole"]) == (5, True)
        assert (found["wide"], found["high"]) == (4 * ACROSS + WIDE + 2, HIGH + 2)
    monkeypatch.setattr(lineage, "MOST", 3)
    found = graph(world.books, digest("model"))
    assert (len(found["boxes"]), found["whole"]) == (3, False)
    with served(world, tmp_path) as ledger:
        assert f"began with the weights {given} , which no round of this log" in text(get(ledger, "/runs/r1")[2])
        page = get(ledger, "/runs/r2")[2]
        assert f"began with the weights {one} , which round 1 of run r1 had led to" in text(page)
        assert '<a href="/runs/r1/1">round 1 of run r1</a> had led to' in page
        said = text(get(ledger, f"/models/{digest('model')}")[2])
        assert f"round 1 of run r1 , which began with given weights, {given}" in said
        assert "round 1 of run r2 , which began with that of round 1 of run r1" in said
        page = get(ledger, f"/models/{digest('small')}")[2]
        assert {f"/models/{digest('model')}", "/runs/r1/1"} <= links(page)
        assert "There is more than fits here" in text(page)


def test_who_has_left_or_is_in_default_is_said(ledger, world):
    found = {row[0]: row for row in rows(get(ledger, "/members")[2])}
    assert found["acme"][3] == f"left, entry {world.books.agreement.left['acme']}"
    (owes,) = world.books.accounts.settlements.in_default()
    assert found[owes][3].endswith("in default")


def test_what_an_api_answers_is_still_problem_json(ledger):
    status, headers, _ = get(ledger, "/v1/authors/nobody")
    assert (status, headers["Content-Type"]) == (404, "application/problem+json")
    status, headers, _ = get(ledger, "/nothing-here")
    assert (status, headers["Content-Type"]) == (404, "application/problem+json")


def test_a_log_without_a_charter_is_said_to_be_empty(tmp_path):
    with serving(tmp_path) as ledger:
        for path in ("/overview", "/members", "/runs/r1/1"):
            status, _, page = get(ledger, path)
            assert status in (404, 422), path
            assert REMEDY[Refusal.NO_CHARTER] in text(page) or status == 404
        assert get(ledger, "/runs")[0] == 200


# One page at a time.


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A run of so many rounds that they are more than a page, and so are its receipts."""
    world = World()
    world.start(rounds=ROWS + 5)
    for _ in range(ROWS + 5):
        world.round()
    world.bill()
    with served(world, tmp_path_factory.mktemp("ledger")) as ledger:
        yield ledger, world


def paged(ledger: LedgerHttp, path: str) -> list[list[list[str]]]:
    """The rows of each page behind this one."""
    found, at = list[list[list[str]]](), path
    while at:
        page = get(ledger, at)[2]
        whole = re.sub(r"<details>.*?</details>", "", page.partition("<h2>")[0], flags=re.S)  # What is folded in.
        found.append(rows(whole)[1:])
        (more,) = {link for link in links(page) if re.match(r"\?(before|after)=\d+$", link)} or {""}
        at = more and path + more
    return found


def test_no_page_has_more_than_its_rows_and_all_of_them_have_everything_once(long):
    ledger, world = long
    pages = paged(ledger, "/runs/r1")
    assert [len(each) for each in pages] == [ROWS, 5]
    names = [row[0] for page in pages for row in page]
    assert names == [f"Round {number}" for number in range(ROWS + 5, 0, -1)]
    pages = paged(ledger, "/log")
    assert max(map(len, pages)) == ROWS
    assert [int(row[0]) for page in pages for row in page] == list(range(world.books.tree.size))[::-1]
    pages = paged(ledger, "/bills/2026-11/receipts")
    assert max(map(len, pages)) == ROWS
    assert sum(map(len, pages)) == 3 * (ROWS + 5)
    assert len({row[0] for page in pages for row in page}) == 3 * (ROWS + 5)


def test_a_curve_has_no_more_points_than_a_page_and_ends_where_the_run_is(long):
    _, world = long
    found = drawn(track(world.books, world.books.runs["r1"]))
    assert found is not None
    assert len(found["points"]) <= ROWS + 1
    assert (found["points"][0], found["points"][-1]) == ((10, 10), (590, 140))
    assert (found["first"].text, found["last"].text, found["rounds"]) == ("5.545", "3.000", ROWS + 5)


def test_against_tokens_or_work_a_round_that_counts_more_is_wider(tmp_path):
    world = World()
    world.start(rounds=4)
    for members in (["acme"], None, ["acme", "birch"]):  # One answer, three, two: 1/6, 4/6 and 6/6 of all work.
        world.round(members=members)
    world.say(world.coordinator, world.opened())
    run = world.books.runs["r1"]
    for against, expected in (
        ("rounds", [10, 203, 396, 590]),
        ("tokens", [10, 106, 396, 590]),
        ("work", [10, 106, 396, 590]),
    ):
        found = drawn(track(world.books, run), against)
        assert found is not None
        assert [x for x, _ in found["points"]] == expected
        assert [y for _, y in found["points"]] == [10, 140, 140, 140]
    receipts = [entries.peek(leaf) for leaf in world.leaves]
    tokens = sum(each.tokens for each in receipts if isinstance(each, Receipt))
    flop = sum(each.flop for each in receipts if isinstance(each, Receipt))
    with served(world, tmp_path) as ledger:
        assert "; from left to right" not in text(get(ledger, "/runs/r1")[2])
        page = get(ledger, "/runs/r1?against=tokens")[2]
        assert f"from left to right {tokens:,} tokens that were counted." in text(page)
        assert f"0 {tokens:,} tokens Held-out loss" in text(page)
        assert '<a href="?against=tokens" aria-current="true">tokens</a>' in page
        assert f'title="{flop:,} FLOP"' in get(ledger, "/runs/r1?against=work")[2]


def test_against_cost_work_is_worth_what_it_is_billed_at(tmp_path):
    """Two rounds that a statement covers, one that none does yet: at a price that was quoted, and at the charter's."""
    world = World()
    world.start(rounds=3)
    price = Fraction(7 * 10**12)
    world.quoted(price)
    world.round()
    world.round(members=["acme"])
    world.bill()
    world.round()
    run, charter = world.books.runs["r1"], world.charter
    flop = [each.closed.flop for each in run.rounds]
    worth = [flop[0] * price, flop[1] * price, flop[2] * charter.price]
    assert price != charter.price
    with served(world, tmp_path) as ledger:
        told = json.loads(get(ledger, "/runs/r1?format=json&table=curve")[2])["rows"]
        assert [Fraction(row["cost_minor"]) * 10**18 for row in told] == [0, *accumulate(worth)]
        page = get(ledger, "/overview?against=cost")[2]
        assert f"from left to right {amount(sum(worth) / 10**18, charter).text} EUR that" in text(page)
        found = drawn(track(world.books, run), "cost")
        assert found is not None
        assert [x for x, _ in found["points"]] == [10 + 580 * each // sum(worth) for each in [0, *accumulate(worth)]]


def declaring(world: World, number: int, said: dict[str, dict[str, object]], late: Iterable[str] = ()) -> None:
    """A round in which these members' receipts say this; those of `late` are left out."""
    world.say(world.coordinator, world.opened())
    hashes = {by: world.say(f"{by}/compute", world.receipt(by, **more)) for by, more in said.items()}
    world.say(world.coordinator, world.close({by: each for by, each in hashes.items() if by not in late}))
    assert len(world.books.runs["r1"].rounds) == number


def test_against_energy_and_hours_only_receipts_that_count_are_added_up_and_what_was_not_measured_is_said(tmp_path):
    world = World()
    world.start(rounds=3)
    kwh, huge = 3_600_000_000, 2**96
    nvml, long = {"energy_method": "nvml", "energy_mj": kwh}, {"busy_ms": 3_000_000, "wall_ms": 3_600_000}
    # What is not measured counts as nothing, whatever it says; what is left out counts as nothing, whatever it is.
    unmeasured, left_out = {"energy_mj": huge}, {"energy_method": "nvml", "energy_mj": huge}
    declaring(world, 1, {"acme": nvml | long, "birch": unmeasured | long, "cedar": left_out}, late=["cedar"])
    with served(world, tmp_path) as ledger:
        page = text(get(ledger, "/runs/r1?against=kwh")[2])
        assert (
            "from left to right 1.00 kWh that 1 of 2 counted receipts declare; the others measured no energy." in page
        )
        size = len(world.leaves)
        declaring(world, 2, {"acme": nvml | {"energy_mj": 3 * kwh} | long, "birch": nvml | long, "cedar": nvml | long})
        for leaf in world.leaves[size:]:
            ledger.append(leaf)
        page = text(get(ledger, "/overview?against=kwh")[2])
        assert "6.00 kWh that 4 of 5 counted receipts declare; the others measured no energy." in page
        assert "5.00 h that the training processes" in text(get(ledger, "/runs/r1?against=hours")[2])
        told = json.loads(get(ledger, "/runs/r1?format=json&table=curve")[2])
        assert [(row["measured"], row["receipts"], row["energy_mj"]) for row in told["rows"]] == [
            (0, 0, "0"),
            (1, 2, str(kwh)),
            (4, 5, str(6 * kwh)),
        ]
        assert [(row["busy_ms"], row["wall_ms"]) for row in told["rows"]] == [
            ("0", "0"),
            ("6000000", "7200000"),
            ("15000000", "18000000"),
        ]
        plain = get(ledger, "/runs/r1")[2]
        assert "Measured" not in plain
        assert "/runs/r1?against=kwh" not in plain
        assert '<a href="?against=kwh">kWh</a>' in plain


def test_where_nobody_measures_energy_there_is_no_axis_and_it_is_said(tmp_path):
    world = World()
    world.start()
    world.round()
    with served(world, tmp_path) as ledger:
        page = text(get(ledger, "/runs/r1?against=kwh")[2])
        assert "there is no axis" in page
        assert "0.00 J that 0 of 3 counted receipts declare; the others measured no energy." in page


def test_a_curve_against_energy_waits_for_the_tables_and_any_other_does_not(tmp_path, monkeypatch):
    world = World()
    world.start()
    world.round()

    def busy(*_: object) -> None:
        raise Refused(Refusal.BUSY, "the tables are being brought up to date")

    with served(world, tmp_path) as ledger:
        monkeypatch.setattr(Projector, "spent", busy)
        assert get(ledger, "/runs/r1?against=kwh")[0] == get(ledger, "/overview?against=hours")[0] == 429
        assert get(ledger, "/runs/r1?against=cost")[0] == get(ledger, "/overview")[0] == 200


def test_a_run_that_counts_no_work_has_a_curve_too():
    world = World()
    world.start()
    world.round(members=[])
    for against in ("rounds", "tokens", "work"):
        found = drawn(track(world.books, world.books.runs["r1"]), against)
        assert found is not None
        assert [x for x, _ in found["points"]] == ([10, 590] if against == "rounds" else [10, 10])


def test_parts():
    assert newest(0, None) == (range(-1, -1, -1), None)
    assert newest(250, None) == (range(249, 149, -1), 150)
    assert newest(250, 50) == (range(49, -1, -1), None)
    assert newest(250, 9_999).more == 150
    assert oldest(250, None) == (range(100), 100)
    assert oldest(250, 200) == (range(200, 250), None)
    assert oldest(250, 9_999) == (range(250, 250), None)


def test_numbers_for_people():
    assert work(380_507_258_880) == ("380 GFLOP", "380,507,258,880 FLOP", "380507258880")
    assert work(7) == ("7 FLOP", "7 FLOP", "7")
    assert moment(10**18).text == f"{10**18} ms"


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (0, "0 s"),
        (999, "0 s"),
        (42_000, "42 s"),
        (59_999, "59 s"),
        (60_000, "1 min 0 s"),
        (3_599_999, "59 min 59 s"),
        (3_600_000, "1 h 0 min"),
        (7_505_000, "2 h 5 min"),
        (86_400_000, "1 d 0 h"),
        (10**15, "11574074 d 1 h"),
    ],
)
def test_how_long_that_is(ms, said):
    assert lasting(ms) == said
    assert remaining(ms) == f"in {said}"
    assert remaining(-ms - 1000) == f"passed {lasting(ms + 1000)} ago"


def test_an_entry_that_the_database_has_changed_is_not_shown(tmp_path, monkeypatch):
    write_key(tmp_path)
    world = World()
    world.start()
    log = open_log(tmp_path)
    for leaf in world.leaves:
        log.append(leaf)
    at, leaf = log.find(world.coordinator, "run.manifest", "r1")
    assert (at, leaf) == (1, world.leaves[1])
    monkeypatch.setattr(log.store, "find", lambda *_: (1, world.leaves[2]))
    with pytest.raises(Refused) as caught:
        log.find(world.coordinator, "run.manifest", "r1")
    assert caught.value.refusal is Refusal.CORRUPT
    monkeypatch.setattr(log.store, "find", lambda *_: (len(world.leaves), world.leaves[2]))
    with pytest.raises(Refused) as caught:
        log.find(world.coordinator, "run.manifest", "r1")
    assert caught.value.refusal is Refusal.NOT_FOUND
    log.close()


def test_nothing_is_shown_of_a_log_that_has_failed_to_write(tmp_path, monkeypatch):
    write_key(tmp_path)
    world = World()
    log = open_log(tmp_path)
    log.append(world.leaves[0])

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(log.store, "append", fail)
    world.start()
    with pytest.raises(Refused):
        log.append(world.leaves[1])
    with pytest.raises(Refused) as caught, log.reading():
        pass
    assert caught.value.refusal is Refusal.STOPPED
    log.close()
