"""A bill again from its own facts: itself under its own rules, another under others, and without what is disputed."""

from dataclasses import replace
from fractions import Fraction

import pytest
from world import World, pot, whole

from shared_models.records.kinds import FIRST, Dispute, Resolution
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.what_if import asked, under, with_rules, without


def test_what_the_accounts_keep_of_a_statement_is_all_that_it_follows_from():
    world = whole()
    accounts = world.books.accounts
    assert len(accounts.stated) == len(accounts.statements) == 2
    for bill, facts in zip(accounts.statements, accounts.stated, strict=True):
        assert under(bill, facts, {}) == bill


def two_costs() -> World:
    world = World(pots=(pot("compute", "proportional"), pot("services", "equal")))
    world.say("acme/admin", world.item("acme", 900))
    world.say("birch/admin", world.item("birch", 300, "mail"))
    world.bill()
    return world


def test_another_rule_divides_the_same_costs_and_nothing_else():
    world = two_costs()
    (bill,), (facts,) = world.books.accounts.statements, world.books.accounts.stated
    other = under(bill, facts, {"services": "proportional"})
    assert {each.member: each.charge for each in other.lines if each.pot == "services"} == {
        "acme": 600,
        "birch": 300,
        "cedar": 300,
    }
    assert {each.member: each.net for each in other.balances} == {"acme": 300, "birch": 0, "cedar": -300}
    assert [each for each in other.lines if each.pot == "compute"] == [
        each for each in bill.lines if each.pot == "compute"
    ]
    assert (other.root, other.start, other.end, other.price) == (bill.root, bill.start, bill.end, bill.price)


@pytest.mark.parametrize("rules", [{"services": "fair"}, {"mail": "equal"}, {"services": ""}, {"": ""}])
def test_a_rule_or_a_pot_that_there_is_not_is_refused(rules):
    world = two_costs()
    (bill,), (facts,) = world.books.accounts.statements, world.books.accounts.stated
    with pytest.raises(Refused) as caught:
        under(bill, facts, rules)
    assert caught.value.refusal is Refusal.BAD_FIELD
    assert "rules are proportional, equal, two_part, airport" in caught.value.detail


def test_a_rule_that_is_asked_for_takes_no_table_and_keeps_a_meter():
    charter = World(pots=(pot("compute", "proportional", "usage"), pot("services", "proportional", "paid"))).charter
    changed = with_rules(charter, {"compute": "equal", "services": "equal"})
    assert [(each.rule, each.driver, each.table) for each in changed.pots] == [
        ("equal", "usage", ()),
        ("equal", "benefit", ()),
    ]
    assert with_rules(charter, {}) == charter


GAME = "acme:60 birch:50 cedar:40 acme+birch:90 acme+cedar:80 birch+cedar:70 acme+birch+cedar:120"


def charged(other) -> dict[str, Fraction]:
    return {each.member: each.charge for each in other.lines if each.pot == "services"}


@pytest.mark.parametrize("rule", ["shapley", "scrb", "nucleolus"])
def test_a_rule_of_a_table_divides_by_the_one_that_stands_behind_it_or_by_the_charter_s(rule):
    """By hand: two together save 20 and all three 30, whoever they are: so each pays 10 less than alone."""
    world = two_costs()
    (bill,), (facts,) = world.books.accounts.statements, world.books.accounts.stated
    other = under(bill, facts, {"services": f"{rule} {GAME}"})
    assert charged(other) == {"acme": 500, "birch": 400, "cedar": 300}  # 50, 40 and 30 of 120, of 1,200.
    told = with_rules(facts.charter, {"services": f"{rule} {GAME}"})
    assert under(bill, replace(facts, charter=told), {"services": "shapley"}).lines == other.lines


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("shapley", "the pot services has no table"),
        ("equal acme:60", "the rule equal takes no table"),
        (f"shapley {GAME} acme:60", "a coalition stands twice"),
        ("shapley acme:60 dogwood:3 acme+dogwood:61", "is not of members"),
        ("shapley acme:60 birch:50", "the table has no cost for acme birch"),
        ("shapley acme:0", "all together cost nothing"),
        ("shapley acme", "is no coalition and its cost"),
        ("shapley acme:1.5", "is no coalition and its cost"),
    ],
)
def test_a_table_that_is_none_is_refused(rule, why):
    world = two_costs()
    (bill,), (facts,) = world.books.accounts.statements, world.books.accounts.stated
    with pytest.raises(Refused, match=why) as caught:
        under(bill, facts, {"services": rule})
    assert caught.value.refusal is Refusal.BAD_FIELD


def test_what_is_asked_is_read_up_to_the_first_sign():
    assert asked(["a=b", "c", "d=e=f"]) == {"a": "b", "c": "", "d": "e=f"}


def test_without_what_is_in_dispute():
    world = two_costs()
    about = "item/acme/hosting"
    world.say("birch/admin", Dispute(seq=0, prev=FIRST, member="birch", about=about, reason="never agreed"))
    (bill,), (facts,) = world.books.accounts.statements, world.books.accounts.stated
    disputed = [put for _, put in world.books.accounts.disputed(bill)]
    left = without(bill, facts, disputed)
    assert {each.member: each.net for each in left.balances} == {"acme": -100, "birch": 200, "cedar": -100}
    assert sum(each.credit for each in left.lines) == Fraction(300)


# What the accounts know of a dispute.


def test_a_case_says_who_disputes_it_and_which_bill_it_is_about():
    world = two_costs()
    cases, said = world.books.accounts.cases, {}
    for by in ("birch", "cedar"):
        dispute = Dispute(seq=0, prev=FIRST, member=by, about="item/acme/hosting", reason="no")
        said[by] = world.say(f"{by}/admin", dispute)
    case = cases["item/acme/hosting"]
    assert (case.period, case.by) == (
        "2026-11",
        {"birch": world.books.tree.size - 2, "cedar": world.books.tree.size - 1},
    )
    world.say("cedar/admin", world.item("cedar", 100, "disk", period="2026-12"))
    world.say("birch/admin", Dispute(seq=0, prev=FIRST, member="birch", about="item/cedar/disk", reason="no"))
    first = world.books.chains["birch/admin"].hash
    assert cases["item/cedar/disk"].period == ""
    world.bill("2026-12")
    assert cases["item/cedar/disk"].period == ""
    for by in ("birch", "acme"):
        ruling = Resolution(
            seq=0, prev=FIRST, member=by, about="item/cedar/disk", dispute=first, outcome="stands", reason=""
        )
        world.say(f"{by}/admin", ruling)
    world.bill("2027-01")
    assert cases["item/cedar/disk"].period == "2027-01"
    assert case.period == "2026-11"
    assert [about for about, _ in world.books.accounts.disputed(world.books.statements[0])] == ["item/acme/hosting"]
    assert world.books.accounts.disputed(world.books.statements[2]) == []
