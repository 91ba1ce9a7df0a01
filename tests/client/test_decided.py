"""What the members decide, on pages: other rules for a bill, the charter and votes, who wants to join, disputes."""

import html
import json
from dataclasses import replace
from itertools import combinations
from urllib.parse import urlencode

import pytest
from databases import KINDS, change, fresh
from parties import three
from reading import get, links, rows, served, text
from world import CONSORTIUM, World, key, pot

import client.invites
import client.join
from bench.receipts import publish
from client.charter import lines, vote
from client.invites import admit
from consortium.cli import main
from ledger import decided
from ledger.shown import amount
from shared_models import invites
from shared_models.invites import Join, Ticket
from shared_models.ledger_http import LedgerHttp
from shared_models.records.kinds import FIRST, Amendment, Dispute, Resolution, Vote
from shared_models.rules import wording
from shared_models.rules.agreement import changes
from shared_models.rules.what_if import without

HOSTILE = "=cmd|' /C calc'!A0 <script>alert(1)</script>"


def disputing(world: World, by: str, about: str, reason: str = "no") -> str:
    return world.say(f"{by}/admin", Dispute(seq=0, prev=FIRST, member=by, about=about, reason=reason))


def ruled(world: World, about: str, dispute: str, outcome: str, *who: str) -> None:
    for by in who:
        said = Resolution(seq=0, prev=FIRST, member=by, about=about, dispute=dispute, outcome=outcome, reason="")
        world.say(f"{by}/admin", said)


@pytest.fixture(scope="module")
def world():
    """Two bills: of the first one cost is disputed, one is void and one stands, another was in dispute before it; and
    two amendments that are open behind one that is in force and one that it overtook."""
    world = World(pots=(pot("compute", "proportional"), pot("services", "equal")))
    world.start()
    world.round()
    for name, payer in (("hosting", "acme"), ("mail", "birch"), ("disk", "cedar"), ("early", "cedar")):
        world.say(f"{payer}/admin", world.item(payer, 900, name))
    disputing(world, "acme", "item/cedar/early", "not ours")
    world.say("birch/admin", world.item("birch", 900, "wrong"))
    ruled(world, "item/birch/wrong", disputing(world, "acme", "item/birch/wrong"), "void", "acme", "cedar")
    world.bill()
    disputing(world, "birch", "item/acme/hosting", HOSTILE)
    disputing(world, "cedar", "item/acme/hosting")
    void = disputing(world, "acme", "item/birch/mail")
    ruled(world, "item/birch/mail", void, "void", "acme", "cedar")
    stands = disputing(world, "acme", "item/cedar/disk")
    ruled(world, "item/cedar/disk", stands, "stands", "birch", "cedar")
    world.bill("2026-12")
    world.say("cedar/admin", world.item("cedar", 900, "afterwards", period="2027-01"))
    disputing(world, "acme", "item/cedar/afterwards")

    def proposed(by: str, name: str, **changed: object) -> str:
        agreement = world.books.agreement
        charter = replace(agreement.charter, **changed)
        said = Amendment(seq=0, prev=FIRST, member=by, amendment=name, replaces=agreement.hash, charter=charter)
        return world.say(f"{by}/admin", said)

    def voted(hashed: str, **choices: str) -> None:
        for by, choice in choices.items():
            world.say(f"{by}/admin", Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice=choice))

    proposed("acme", "cheaper", price=world.charter.price / 2)
    voted(proposed("birch", "window", window=4), birch="yes", cedar="yes")
    voted(
        proposed("cedar", "rule", pots=(world.charter.pots[0], pot("services", "proportional"))), acme="no", cedar="yes"
    )
    proposed("acme", "capped", cap="alone")
    return world


@pytest.fixture(scope="module")
def ledger(world, tmp_path_factory):
    with served(world, tmp_path_factory.mktemp("ledger")) as ledger:
        yield ledger


# What if.


def test_what_if_is_what_the_command_says(ledger, world, tmp_path, capsys):
    publish(tmp_path, world.leaves, key(f"{CONSORTIUM}/log"))
    rules = ("services=proportional", "compute=equal")
    for bill in world.books.statements:
        asked = [word for rule in rules for word in ("--what-if", rule)]
        assert main(["bill", str(tmp_path), "--period", bill.period, "--json", *asked]) == 0
        told = json.loads(capsys.readouterr().out)
        page = get(ledger, f"/bills/{bill.period}/what-if?rule={rules[0]}&rule={rules[1]}")[2]
        nets = {each["member"]: each["net"] for each in told["balances"]}
        assert any(each.net != nets[each.member] for each in bill.balances)
        for each in bill.balances:
            found = [amount(net, world.charter).text for net in (each.net, nets[each.member])]
            moved = amount(nets[each.member] - each.net, world.charter).text
            assert [each.member, *found, moved] in rows(page)
        charges = {(each["member"], each["pot"]): each["charge"] for each in told["lines"]}
        given = json.loads(
            get(ledger, f"/bills/{bill.period}/what-if?rule={rules[0]}&rule={rules[1]}&format=json&table=charges")[2]
        )
        assert {(row["member"], row["pot"]): row["other_minor"] for row in given["rows"]} == charges


def test_the_form_says_what_was_asked_and_what_stays(ledger):
    page = get(ledger, "/bills/2026-11/what-if?rule=services%3Dproportional&rule=")[2]
    assert '<form method="get">' in page
    assert '<option value="services=proportional" selected>' in page
    assert page.count(" selected>") == 1
    assert "If services=proportional" in text(page)
    empty = get(ledger, "/bills/2026-11/what-if?rule=&rule=")[2]
    assert "No other rule is asked for yet." in text(empty)
    assert rows(empty) == []


def test_a_rule_of_coalitions_asks_for_their_costs_and_takes_them(ledger, world, tmp_path, capsys):
    asked = "/bills/2026-11/what-if?rule=services%3Dshapley&rule="
    page = get(ledger, asked)[2]
    assert rows(page) == []
    assert '<option value="services=shapley" selected>' in page
    assert 'name="costs" value="services="' in page
    assert page.count('name="costs"') == 1
    assert "services: write above what each coalition" in text(page)
    names = sorted(member.name for member in world.charter.members)
    alone = {name: 10 * (at + 2) for at, name in enumerate(names)}
    sets = [each for many in range(1, len(names) + 1) for each in combinations(names, many)]
    table = " ".join(f"{'+'.join(each)}:{sum(map(alone.__getitem__, each)) - 5 * (len(each) - 1)}" for each in sets)
    page = get(ledger, asked + "&" + urlencode({"costs": f"services={table}"}))[2]
    assert f'value="services={table}"' in page
    publish(tmp_path, world.leaves, key(f"{CONSORTIUM}/log"))
    what = ["--period", "2026-11", "--what-if", f"services=shapley {table}"]
    assert main(["bill", str(tmp_path), *what, "--json"]) == 0
    nets = {each["member"]: each["net"] for each in json.loads(capsys.readouterr().out)["balances"]}
    for each in world.books.statements[0].balances:
        moved = amount(nets[each.member] - each.net, world.charter).text
        assert next(row[3] for row in rows(page) if row[0] == each.member) == moved
    assert get(ledger, "/bills/2026-11/what-if?rule=services=shapley&costs=services=acme:one")[0] == 422
    assert get(ledger, "/bills/2026-11/what-if?rule=mail=shapley")[0] == 422
    assert get(ledger, f"/bills/2026-11/what-if?rule=services=shapley&costs=services={'a' * 5000}")[0] == 422


# The charter and votes.


def test_the_charter_is_shown_clause_by_clause_as_the_command_does(ledger, world):
    page = get(ledger, "/charter")[2]
    agreement = world.books.agreement
    for clause in wording.clauses(agreement.charter):
        assert list(clause) in rows(page)
    assert ["window", "4"] in rows(page)
    assert ["members/acme", "benefit 2, pledge 0"] in rows(page)
    assert ["pots/services", "rule equal, driver benefit, table none, floors none, caps none"] in rows(page)
    assert agreement.hash in page
    assert f'<a href="/log/{agreement.entries[agreement.hash]}">' in page
    assert not any(world.charter.members[0].admin in cell for row in rows(page) for cell in row)


def test_what_is_voted_on_says_who_is_for_it_and_who_is_missing(ledger, world):
    found = {row[0]: row for row in rows(get(ledger, "/charter")[2])}
    assert found["rule"][1] == "open"
    assert found["rule"][2] == "for it: cedar; 1 more needed; not voted: birch"
    assert found["capped"][2] == "for it: nobody; 2 more needed; not voted: acme, birch, cedar"
    assert "window" not in {row[0] for row in rows(get(ledger, "/charter")[2]) if len(row) == 5}


def test_every_amendment_says_what_became_of_it(ledger):
    found = [(row[0], row[1]) for row in rows(get(ledger, "/amendments")[2])[1:]]
    assert found == [("capped", "open"), ("rule", "open"), ("window", "in force"), ("cheaper", "overtaken")]


def test_an_amendment_says_what_it_changes_and_who_has_voted_how(ledger, world):
    agreement = world.books.agreement
    for hashed, proposal in agreement.open.items():
        page = get(ledger, f"/amendments/{hashed}")[2]
        changed = list(changes(agreement.charter, proposal.amendment.charter))
        for each, said in zip(wording.changed(changed), lines(changed), strict=True):
            assert list(each) in rows(page)
            assert said == f"  {each[0]}: {each[1]} -> {each[2]}"
        assert hashed in page
    hashed = next(iter(agreement.open))
    ballots = {row[0]: row[1] for row in rows(get(ledger, f"/amendments/{hashed}")[2]) if len(row) == 3}
    assert {name: ballots[name] for name in world.members} == {"acme": "no", "birch": "not voted", "cedar": "yes"}
    window = agreement.hash
    page = get(ledger, f"/amendments/{window}")[2]
    assert ["window", "3", "4"] in rows(page)
    assert "more needed" not in page


def test_the_founding_charter_is_no_amendment(ledger, world):
    assert get(ledger, f"/amendments/{world.books.charter_hash}")[0] == 404


# Disputes.


def test_each_disputed_line_says_by_whom_and_whether_it_was_ruled(ledger, world):
    page = get(ledger, "/bills/2026-11/disputes")[2]
    found = {row[0]: row for row in rows(page)}
    case = world.books.accounts.cases["item/acme/hosting"]
    by = " ".join(f"{name}, entry {index} : {HOSTILE if name == 'birch' else 'no'};" for name, index in case.by.items())
    assert found["item/acme/hosting"][1:] == ["open", by.removesuffix(";"), "none", "–", "9.000000"]
    assert found["item/birch/mail"][1] == "void"
    assert found["item/birch/mail"][3] == "acme: void, cedar: void"
    assert found["item/cedar/disk"][1] == "stands"
    assert found["item/cedar/early"][1] == "open"
    assert found["item/cedar/early"][5] == "–"
    assert "<script>alert" not in page
    assert HOSTILE in html.unescape(page)


def test_a_bill_is_shown_with_and_without_what_is_open(ledger, world):
    bill, facts = world.books.statements[0], world.books.accounts.stated[0]
    disputed = [put for _, put in world.books.accounts.disputed(bill)]
    assert len(disputed) == 1
    other = {each.member: each.net for each in without(bill, facts, disputed).balances}
    found = rows(get(ledger, "/bills/2026-11/disputes")[2])
    for each in bill.balances:
        nets = each.net, other[each.member], other[each.member] - each.net
        assert [each.member, *(amount(net, world.charter).text for net in nets)] in found


def test_what_was_in_dispute_and_is_not_billed_stands_with_the_period_in_which_it_was(ledger):
    found = {row[0]: row for row in rows(get(ledger, "/bills/2026-12/disputes")[2])}
    assert found.keys() == {"About", "item/cedar/early"}
    before = {row[0]: row for row in rows(get(ledger, "/bills/2026-11/disputes")[2])}
    assert before["item/birch/wrong"][1] == "void"
    assert "item/cedar/afterwards" not in before


def test_where_floors_cannot_be_kept_without_it_that_is_said(tmp_path):
    world = World(pots=(pot("compute", "proportional"), pot("services", "equal", floors={"acme": 700})))
    world.say("acme/admin", world.item("acme", 900))
    world.say("birch/admin", world.item("birch", 300, "mail"))
    world.bill()
    disputing(world, "birch", "item/acme/hosting")
    with served(world, tmp_path) as ledger:
        said = text(get(ledger, "/bills/2026-11/disputes")[2])
        assert "Without it there is no bill: infeasible: pot services" in said
        status, _, page = get(ledger, "/bills/2026-11/what-if?rule=services=two_part")
        assert status == 200
        assert "acme" in page


# Who wants to join.


@pytest.fixture
def founded(tmp_path):
    with three(tmp_path) as founded:
        yield founded


def of(founded) -> LedgerHttp:
    return LedgerHttp(founded.member("acme").settings.ledger)


def invited(founded, member: str, by: str = "acme") -> str:
    return client.invites.invite(founded.member(by), member, 3, 1).text()


def joined(founded, ticket: str, name: str) -> client.join.Joined | None:
    return client.join.join(ticket, founded.folder / name, lambda *_: True, data="python-stdlib:0/1")


def waiting(founded) -> dict[str, list[str]]:
    return {row[0]: [cell.replace(" ;", ";") for cell in row] for row in rows(get(of(founded), "/joins")[2])[1:]}


@pytest.mark.parametrize("kind", KINDS)
def test_who_wants_to_join_is_shown_up_to_the_vote_and_no_longer(tmp_path, kind):
    with three(tmp_path, database_url=fresh(kind)) as founded:
        join_and_vote(founded)


def join_and_vote(founded) -> None:
    assert "Nobody is waiting." in text(get(of(founded), "/joins")[2])
    ticket = invited(founded, "dogwood")
    invited(founded, "elm", by="birch")
    found = waiting(founded)
    assert found["dogwood"][1:5] == ["not answered", "–", "acme", "3"]
    assert found["elm"][3] == "birch"
    joined(founded, ticket, "dogwood")
    assert waiting(founded)["dogwood"][1] == "to be admitted"
    assert waiting(founded)["dogwood"][2] == "nobody has proposed it yet"
    said = admit(founded.member("acme"), "dogwood", lambda _: True)
    assert waiting(founded)["dogwood"][1] == "voted on"
    assert waiting(founded)["dogwood"][2] == "for it: nobody; 2 more needed; not voted: acme, birch, cedar"
    page = get(of(founded), "/joins")[2]
    assert f"/amendments/{said.hash}" in links(page)
    parsed = Ticket.parse(ticket)
    assert not any(secret in page for secret in (parsed.secret, ticket, founded.member("acme").settings.superlink))
    vote(founded.member("acme").path, said.hash, "yes")
    assert waiting(founded)["dogwood"][2] == "for it: acme; 1 more needed; not voted: birch, cedar"
    vote(founded.member("birch").path, said.hash, "yes")
    assert waiting(founded).keys() == {"elm"}


def test_an_answer_to_another_charter_than_is_in_force_says_so(founded):
    joined(founded, invited(founded, "dogwood"), "dogwood")
    joined(founded, invited(founded, "elm"), "elm")
    said = admit(founded.member("acme"), "dogwood", lambda _: True)
    for by in ("acme", "birch"):
        vote(founded.member(by).path, said.hash, "yes")
    assert waiting(founded)["elm"][1] == "to be admitted; it was shown another charter than is in force"


def test_what_the_database_has_made_up_is_not_shown(founded):
    joined(founded, invited(founded, "dogwood"), "dogwood")
    invited(founded, "elm")
    statement = "UPDATE invite SET invite = CAST(replace(invite, :was, :now) AS BLOB) WHERE member = 'elm'"
    change("", founded.ledger, statement, was='"benefit":3', now='"benefit":4')
    assert waiting(founded).keys() == {"dogwood"}
    assert "1 that are not rightly signed" in text(get(of(founded), "/joins")[2])
    (answer,) = [answer for _, answer in of(founded).invites() if answer is not None]
    hashed = invites.read(Join, answer).says.accepts
    statement = "UPDATE invite SET answer = CAST(replace(answer, :was, :now) AS BLOB) WHERE member = 'dogwood'"
    change("", founded.ledger, statement, was=hashed, now="0" * 64)
    assert waiting(founded).keys() == set()
    assert "2 that are not rightly signed" in text(get(of(founded), "/joins")[2])
    change("", founded.ledger, "UPDATE invite SET answer = invite WHERE member = 'dogwood'")
    assert waiting(founded).keys() == set()


def test_no_more_than_a_page_of_invites_is_read(founded, monkeypatch):
    monkeypatch.setattr(decided, "ROWS", 2)
    names = ["dogwood", "elm", "fir", "gorse", "hazel"]
    for name in names:
        invited(founded, name)
    found, at = list[str](), "/joins"
    for _ in range(3):
        page = get(of(founded), at)[2]
        assert len(rows(page)[1:]) <= 2
        found += [row[0] for row in rows(page)[1:]]
        (more,) = {each for each in links(page) if each.startswith("?after") and "format" not in each} or {""}
        at = f"/joins{more}"
    assert found == names
    assert at == "/joins"
