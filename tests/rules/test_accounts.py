"""The accounts: currencies, credit notes, usage, disputes, caps, who joins. What is closed stays closed."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import CONSORTIUM, FIRST, World, cents, charter, member, pot

from shared_models.records.kinds import (
    Amendment,
    Charter,
    Coalition,
    CreditNote,
    Dispute,
    Quoted,
    Rate,
    Resolution,
    Statement,
    Usage,
    Vote,
)
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules import currency
from shared_models.rules.audit import audit
from shared_models.rules.statement import ACCESSION, CAP, Facts, statement

ADMIN = f"{CONSORTIUM}/admin"


def trained(**changes) -> World:
    """A consortium whose members have trained one round."""
    world = World(**changes)
    world.start()
    world.round()
    return world


def refused(world: World, author: str, record) -> Refusal:
    size = world.books.tree.size
    with pytest.raises(Refused) as caught:
        world.say(author, record)
    assert world.books.tree.size == size
    return caught.value.refusal


def rate(currency: str, value: Fraction, date: str = "2026-11-05", replaces: str = FIRST) -> Rate:
    return Rate(
        seq=0, prev=FIRST, currency=currency, date=date, rate=value, source="European Central Bank", replaces=replaces
    )


def note(
    world: World, item: str, amount: str, period: str = "2026-11", name: str = "n1", payer: str = "acme"
) -> CreditNote:
    return CreditNote(
        seq=0, prev=FIRST, note=name, payer=payer, item=item, period=period, amount=amount, reason="too much"
    )


def dispute(by: str, about: str) -> Dispute:
    return Dispute(seq=0, prev=FIRST, member=by, about=about, reason="never agreed")


def ruling(by: str, about: str, first: str, outcome: str) -> Resolution:
    return Resolution(seq=0, prev=FIRST, member=by, about=about, dispute=first, outcome=outcome, reason="")


def credit(bill: Statement, member: str, pot: str = "services") -> Fraction:
    return next(each.credit for each in bill.lines if (each.pot, each.member) == (pot, member))


def test_an_invoice_in_another_currency_is_converted_once_at_the_rate_of_its_day_and_exactly():
    world = World()
    world.say(ADMIN, rate("JPY", Fraction(1, 163)))
    world.say(ADMIN, rate("KWD", Fraction("2.8125")))
    world.say("acme/admin", world.item("acme", 0, "fans", amount="1000", currency="JPY"))
    world.say("birch/admin", world.item("birch", 0, "rack", amount="1.001", currency="KWD"))
    bill = world.statement()
    assert credit(bill, "acme") == Fraction(100_000, 163)
    assert credit(bill, "birch") == Fraction("1.001") * Fraction("2.8125") * 100
    assert sum(each.net for each in bill.balances) == 0


def test_a_payer_cannot_choose_the_rate():
    world = World()
    assert refused(world, "acme/admin", world.item("acme", 5, currency="USD")) is Refusal.NO_RATE
    world.say(ADMIN, rate("USD", Fraction(9, 10), "2026-11-04"))
    assert refused(world, "acme/admin", world.item("acme", 5, currency="USD")) is Refusal.NO_RATE
    assert refused(world, "acme/admin", rate("USD", Fraction(2))) is Refusal.WRONG_ROLE
    assert refused(world, ADMIN, rate("USD", Fraction(2), "2026-11-04")) is Refusal.CONFLICT


@pytest.mark.parametrize(("code", "value"), [("EUR", Fraction(1)), ("USD", Fraction(0)), ("USD", Fraction(-1))])
def test_a_rate_is_of_another_currency_and_above_zero(code, value):
    assert refused(World(), ADMIN, rate(code, value)) is Refusal.BAD_FIELD


def test_currencies_have_as_many_digits_as_iso_4217_says():
    assert [currency.digits(code) for code in ("JPY", "EUR", "KWD", "CLF")] == [0, 2, 3, 4]
    assert currency.minor("1.001", "KWD") == 1001
    for code in ("XXX", "eur", "EURO", ""):
        with pytest.raises(Refused, match="unknown_currency"):
            currency.digits(code)
    assert refused(World(), ADMIN, rate("ABC", Fraction(1))) is Refusal.UNKNOWN_CURRENCY


def test_a_cost_is_billed_in_the_period_it_is_for_and_none_is_entered_for_a_closed_one():
    world = World()
    world.say("acme/admin", world.item("acme", 700, "november"))
    world.say("acme/admin", world.item("acme", 900, "december", period="2026-12"))
    bill = world.bill("2026-11")
    assert credit(bill, "acme") == 700
    late = world.item("birch", 5, "late")
    assert refused(world, "birch/admin", late) is Refusal.CLOSED
    world.say("birch/admin", replace(late, period="2026-12"))
    bill = world.bill("2026-12")
    assert (credit(bill, "acme"), credit(bill, "birch")) == (900, 5)


def test_a_credit_note_gives_back_in_a_later_period_at_the_rate_of_the_invoice():
    world = World()
    world.say(ADMIN, rate("USD", Fraction(9, 10)))
    item = world.say("acme/admin", world.item("acme", 0, amount="10", currency="USD"))
    assert credit(world.bill("2026-11"), "acme") == 900
    assert refused(world, "acme/admin", note(world, item, "4")) is Refusal.CLOSED
    world.say("acme/admin", note(world, item, "4", "2026-12"))
    bill = world.bill("2026-12")
    assert credit(bill, "acme") == -360
    assert [each.charge for each in bill.lines if each.pot == "services"] == [-120] * 3


def test_credit_notes_give_back_no_more_than_was_paid_and_only_by_who_paid():
    world = World()
    item = world.say("acme/admin", world.item("acme", 1000))
    world.say("acme/admin", note(world, item, "6"))
    for wrong in (note(world, item, "4.01", name="n2"), note(world, item, "0", name="n2")):
        assert refused(world, "acme/admin", wrong) is Refusal.WRONG_ITEM
    assert refused(world, "acme/admin", note(world, "0" * 64, "1", name="n2")) is Refusal.WRONG_ITEM
    assert refused(world, "birch/admin", note(world, item, "1", name="n2", payer="birch")) is Refusal.WRONG_ITEM
    assert refused(world, "birch/admin", note(world, item, "1", name="n2")) is Refusal.WRONG_MEMBER
    world.say("acme/admin", note(world, item, "4", name="n2"))
    assert credit(world.statement(), "acme") == 0


def used(member: str, quantity: str, pot: str = "storage", period: str = "2026-11", replaces: str = FIRST) -> Usage:
    return Usage(
        seq=0,
        prev=FIRST,
        member=member,
        pot=pot,
        period=period,
        quantity=quantity,
        source="bucket metrics, GB-days",
        replaces=replaces,
    )


def with_storage(rule: str = "two_part", driver: str = "usage") -> World:
    return World(pots=(pot("compute", "proportional"), pot("storage", rule, driver), pot("services", "equal")))


def test_a_metered_pot_is_charged_by_what_was_used_and_by_benefit_if_nothing_was():
    world = with_storage()
    world.say("acme/admin", world.item("acme", 800, pot="storage"))
    by_benefit = [each.charge for each in world.statement().lines if each.pot == "storage"]
    assert by_benefit == [Fraction(200, 3) + 300, Fraction(200, 3) + 150, Fraction(200, 3) + 150]
    world.say(ADMIN, used("birch", "30"))
    world.say(ADMIN, used("cedar", "10.5"))
    charges = [each.charge for each in world.statement().lines if each.pot == "storage"]
    assert charges == [
        0,
        100 + 600 * Fraction("30") / Fraction("40.5"),
        100 + 600 * Fraction("10.5") / Fraction("40.5"),
    ]


def test_usage_is_said_once_by_the_administrator_of_a_pot_a_member_and_an_open_period():
    world = with_storage()
    world.say(ADMIN, used("birch", "30"))
    assert refused(world, ADMIN, used("birch", "31")) is Refusal.CONFLICT
    assert refused(world, ADMIN, used("nobody", "31")) is Refusal.WRONG_MEMBER
    assert refused(world, ADMIN, used("acme", "31", pot="magic")) is Refusal.WRONG_ITEM
    for not_metered in ("services", "compute"):
        assert refused(world, ADMIN, used("acme", "31", pot=not_metered)) is Refusal.WRONG_ITEM
    assert refused(world, "birch/admin", used("birch", "1", period="2026-12")) is Refusal.WRONG_ROLE
    world.bill("2026-11")
    assert refused(world, ADMIN, used("acme", "31")) is Refusal.CLOSED


def test_usage_is_corrected_by_citing_what_stands_until_the_period_is_closed():
    world = with_storage("proportional")
    world.say("acme/admin", world.item("acme", 1_000, pot="storage"))
    first = world.say(ADMIN, used("birch", "30"))
    world.say(ADMIN, used("cedar", "10"))
    second = world.say(ADMIN, used("birch", "40", replaces=first))
    covered = world.books.tree.size
    for stale in (FIRST, first, "9" * 64):
        assert refused(world, ADMIN, used("birch", "50", replaces=stale)) is Refusal.CONFLICT
    assert refused(world, ADMIN, used("acme", "50", replaces=second)) is Refusal.CONFLICT
    assert refused(world, "birch/admin", used("birch", "0", replaces=second)) is Refusal.WRONG_ROLE
    third = world.say(ADMIN, used("birch", "0", replaces=second))

    def storage(end: int) -> list[Fraction]:
        stated = world.books.statement("2026-11", end, seq=0, prev=FIRST)
        return [each.charge for each in stated.lines if each.pot == "storage"]

    assert storage(covered) == [0, 800, 200]  # As it stood then: the head that members cosign may be older.
    assert storage(covered - 1) == [0, 750, 250]
    assert storage(world.books.tree.size) == [0, 0, 1_000]
    world.bill("2026-11")
    assert refused(world, ADMIN, used("birch", "1", replaces=third)) is Refusal.CLOSED
    assert audit(world.leaves, world.head(), world.hashes()).findings == []


def test_a_rate_is_corrected_until_an_item_was_billed_by_it_and_credit_notes_keep_to_that():
    world = World(objection=3)
    first = world.say(ADMIN, rate("USD", Fraction(9)))
    item = world.say("acme/admin", world.item("acme", 0, "fans", amount="1000", currency="USD"))
    covered = world.books.tree.size
    assert refused(world, ADMIN, rate("USD", Fraction(1, 2), replaces="9" * 64)) is Refusal.CONFLICT
    assert refused(world, ADMIN, rate("USD", Fraction(0), replaces=first)) is Refusal.BAD_FIELD
    assert world.books.accounts.running()["acme"] == 900_000
    second = world.say(ADMIN, rate("USD", Fraction(9, 10), replaces=first))
    assert refused(world, ADMIN, rate("USD", Fraction(1, 2), replaces=first)) is Refusal.CONFLICT
    assert world.books.accounts.running()["acme"] == 90_000
    world.say("acme/admin", note(world, item, "100"))
    assert credit(world.books.statement("2026-11", covered, seq=0, prev=FIRST), "acme") == 900_000
    assert credit(world.statement(), "acme") == 81_000
    world.say("birch/admin", world.item("birch", 0, "rack", amount="10", currency="USD", period="2026-12"))
    world.bill("2026-11")
    assert refused(world, ADMIN, rate("USD", Fraction(1), replaces=second)) is Refusal.CLOSED
    world.say("acme/admin", note(world, item, "200", "2026-12", "n2"))
    december = world.bill("2026-12")
    assert (credit(december, "acme"), credit(december, "birch")) == (-18_000, 900)
    opened = world.say("birch/admin", dispute("birch", "item/acme/fans"))
    for by in ("birch", "cedar"):
        world.say(f"{by}/admin", ruling(by, "item/acme/fans", opened, "void"))
    assert credit(world.bill("2027-01"), "acme") == -63_000  # What is left of it, as it was billed.
    assert audit(world.leaves, world.head(), world.hashes()).findings == []


def test_a_correction_behind_the_end_of_a_statement_does_not_touch_what_that_bills():
    """Members have cosigned the log as it was before; the statement comes behind the correction."""
    world = World()
    first = world.say(ADMIN, rate("USD", Fraction(9)))
    item = world.say("acme/admin", world.item("acme", 0, "fans", amount="10", currency="USD"))
    covered = world.books.tree.size
    world.say(ADMIN, rate("USD", Fraction(1), replaces=first))
    last = world.books.chains[ADMIN]
    world.say(ADMIN, world.books.statement("2026-11", covered, seq=last.seq + 1, prev=last.hash))
    world.say("acme/admin", note(world, item, "4", "2026-12"))
    world.say("birch/admin", world.item("birch", 0, "rack", amount="10", currency="USD", period="2026-12"))
    december = world.bill("2026-12")
    assert (credit(december, "acme"), credit(december, "birch")) == (-3_600, 1_000)
    assert audit(world.leaves, world.head(), world.hashes()).findings == []


def test_direct_costs_are_borne_by_who_paid_them():
    world = with_storage("proportional", "paid")
    world.say("acme/admin", world.item("acme", 800, pot="storage"))
    world.say("birch/admin", world.item("birch", 5, "b", pot="storage"))
    bill = world.statement()
    assert [each.charge for each in bill.lines if each.pot == "storage"] == [800, 5, 0]
    assert [each.net for each in bill.balances] == [0, 0, 0]


def test_a_pot_can_be_divided_by_a_declared_cost_table():
    table = tuple(
        Coalition(members=tuple(names.split()), cost=cost)
        for names, cost in {"acme": 8, "birch": 11, "cedar": 13, "acme birch": 11, "acme cedar": 13, "birch cedar": 13,
                            "acme birch cedar": 13}.items()
    )  # fmt: skip
    world = World(pots=(pot("compute", "equal"), pot("services", "shapley", table=table)))
    world.say("acme/admin", world.item("acme", 26_00))
    charges = [each.charge for each in world.statement().lines if each.pot == "services"]
    assert charges == [Fraction(2600, 13) * share for share in (Fraction(8, 3), Fraction(8, 3) + Fraction(3, 2),
                                                                Fraction(8, 3) + Fraction(3, 2) + 2)]  # fmt: skip


def test_an_item_is_of_something_in_a_shared_pot_by_a_member_of_the_period_that_runs():
    world = World()
    for wrong in ({"pot": "compute"}, {"amount": "0"}, {"pot": "magic"}):
        assert refused(world, "acme/admin", world.item("acme", 5, **wrong)) is Refusal.WRONG_ITEM
    larger = replace(world.charter, members=(*world.charter.members, member("dogwood", 1)), approvals=3)
    proposal = Amendment(
        seq=0, prev=FIRST, member="acme", amendment="more", replaces=world.books.agreement.hash, charter=larger
    )
    hashed = world.say("acme/admin", proposal)
    for by in ("acme", "birch"):
        world.say(f"{by}/admin", Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice="yes"))
    assert refused(world, "dogwood/admin", world.item("dogwood", 5)) is Refusal.WRONG_MEMBER
    world.bill("2026-11")
    world.say("dogwood/admin", world.item("dogwood", 5, period="2026-12"))


# Disputes.


def test_what_is_disputed_before_it_is_billed_waits_until_it_was_ruled_on():
    world = trained()
    world.say("acme/admin", world.item("acme", 700))
    item = world.say("birch/admin", dispute("birch", "item/acme/hosting"))
    work = world.say("birch/admin", dispute("birch", "work/r1/1/cedar"))
    bill = world.bill("2026-11")
    assert (credit(bill, "acme"), credit(bill, "cedar", "compute"), bill.balances[2].flop) == (0, 0, 0)
    for by in ("acme", "birch"):
        world.say(f"{by}/admin", ruling(by, "item/acme/hosting", item, "stands"))
        world.say(f"{by}/admin", ruling(by, "work/r1/1/cedar", work, "void"))
    bill = world.bill("2026-12")
    assert (credit(bill, "acme"), credit(bill, "cedar", "compute")) == (700, 0)
    assert credit(world.bill("2027-01"), "acme") == 0


def test_what_was_billed_and_is_void_is_taken_back_as_it_was_billed():
    world = trained()
    item = world.say("acme/admin", world.item("acme", 700))
    first = world.bill("2026-11")
    world.say("acme/admin", note(world, item, "2", "2026-12"))
    disputes = {about: world.say("birch/admin", dispute("birch", about))
                for about in ("item/acme/hosting", "work/r1/1/cedar")}  # fmt: skip
    assert [put.amount for _, put in world.books.accounts.disputed(first)] == [700, credit(first, "cedar", "compute")]
    for about, hashed in disputes.items():
        for by in ("birch", "cedar"):
            world.say(f"{by}/admin", ruling(by, about, hashed, "void"))
    assert world.books.accounts.disputed(first) == []
    bill = world.bill("2026-12")
    assert credit(bill, "acme") == -200 - 500
    assert credit(bill, "cedar", "compute") == -credit(first, "cedar", "compute")
    again = note(world, item, "1", "2027-01", name="n2")
    assert refused(world, "acme/admin", again) is Refusal.WRONG_ITEM


def test_what_a_statement_covers_is_billed_even_if_it_is_disputed_behind_its_end():
    world = World()
    world.say("acme/admin", world.item("acme", 700))
    end = world.books.tree.size
    first = world.say("birch/admin", dispute("birch", "item/acme/hosting"))
    world.say(ADMIN, world.books.statement("2026-11", end, seq=0, prev=FIRST))
    assert credit(world.books.statements[-1], "acme") == 700
    for by in ("birch", "cedar"):
        world.say(f"{by}/admin", ruling(by, "item/acme/hosting", first, "void"))
    assert credit(world.bill("2026-12"), "acme") == -700


@pytest.mark.parametrize("objection", [0, 1, 2])
def test_it_can_be_disputed_as_long_as_the_charter_says(objection):
    world = trained(objection=objection)
    world.say("acme/admin", world.item("acme", 700))
    for number in range(objection):
        world.bill(f"p{number}" if number else "2026-11")
    world.say("birch/admin", dispute("birch", "work/r1/1/cedar"))
    world.bill("2026-11" if not objection else "last")
    for about in ("item/acme/hosting", "work/r1/1/acme"):
        assert refused(world, "birch/admin", dispute("birch", about)) is Refusal.WRONG_DISPUTE


def test_a_ruling_takes_more_than_half_of_the_members_each_of_whom_speaks_once():
    world = World({"acme": 1, "birch": 1, "cedar": 1, "dogwood": 1})
    world.say("acme/admin", world.item("acme", 700))
    about = "item/acme/hosting"
    first = world.say("birch/admin", dispute("birch", about))
    world.say("cedar/admin", dispute("cedar", about))
    for by, outcome in (("birch", "void"), ("cedar", "void"), ("acme", "stands")):
        world.say(f"{by}/admin", ruling(by, about, first, outcome))
    assert refused(world, "birch/admin", ruling("birch", about, first, "void")) is Refusal.CONFLICT
    assert world.books.accounts.cases[about].ruled is None
    world.say("dogwood/admin", ruling("dogwood", about, first, "void"))
    assert world.books.accounts.cases[about].outcome == "void"
    assert refused(world, "dogwood/admin", dispute("dogwood", about)) is Refusal.WRONG_DISPUTE


@pytest.mark.parametrize("about", ["item/acme/nothing", "work/r1/1/nobody", "work/r1/9/acme", "work/r2/1/acme"])
def test_what_is_not_in_the_log_cannot_be_disputed_or_ruled_on(about):
    world = trained()
    assert refused(world, "birch/admin", dispute("birch", about)) is Refusal.WRONG_DISPUTE
    assert refused(world, "birch/admin", ruling("birch", about, "0" * 64, "void")) is Refusal.WRONG_DISPUTE


def test_a_ruling_cites_the_first_dispute_and_none_comes_after_the_last():
    world = World()
    world.say("acme/admin", world.item("acme", 700))
    about = "item/acme/hosting"
    first = world.say("birch/admin", dispute("birch", about))
    second = world.say("cedar/admin", dispute("cedar", about))
    assert refused(world, "acme/admin", ruling("acme", about, second, "void")) is Refusal.WRONG_DISPUTE
    for by in ("birch", "cedar"):
        world.say(f"{by}/admin", ruling(by, about, first, "stands"))
    assert refused(world, "acme/admin", ruling("acme", about, first, "void")) is Refusal.WRONG_DISPUTE


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("item"), st.sampled_from(["acme", "birch"]), st.integers(1, 900)),
        st.tuples(st.just("note"), st.integers(0, 3), st.integers(1, 400)),
        st.tuples(st.just("dispute"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("rule"), st.integers(0, 3), st.sampled_from(["stands", "void"])),
        st.tuples(st.just("close"), st.integers(0, 3), st.just(0)),
    ),
    max_size=16,
)


@settings(deadline=None)
@given(ACTS)
def test_whatever_happens_each_cost_is_billed_once_less_what_was_given_back_and_void_ones_not_at_all(acts):
    world, items, rulings, period = World(objection=5), [], {}, 0
    for what, who, how in acts:
        try:
            if what == "item":
                name = f"i{len(items)}"
                hashed = world.say(f"{who}/admin", world.item(who, how, name, period=f"p{period}"))
                items.append([who, name, hashed, how])
            elif what == "close":
                # Some entries may already lie behind its end: they are for the next.
                end = max(world.books.accounts.start, world.books.tree.size - who)
                last = world.books.chains.get(ADMIN)
                seq, prev = (last.seq + 1, last.hash) if last else (0, FIRST)
                world.say(ADMIN, world.books.statement(f"p{period}", end, seq=seq, prev=prev))
                period += 1
            elif who < len(items):
                payer, name, hashed, _ = items[who]
                about = f"item/{payer}/{name}"
                if what == "note":
                    at = note(world, hashed, cents(how), f"p{period}", f"n{world.books.tree.size}", payer)
                    world.say(f"{payer}/admin", at)
                    items[who][3] -= how
                elif what == "dispute":
                    rulings.setdefault(about, world.say("cedar/admin", dispute("cedar", about)))
                elif about in rulings:
                    for by in ("acme", "cedar"):
                        world.say(f"{by}/admin", ruling(by, about, rulings[about], how))
        except Refused:
            pass
    for _ in range(2):  # What is left of closed periods comes with the next one.
        world.bill(f"p{period}")
        period += 1
    cases = world.books.accounts.cases
    for payer in ("acme", "birch"):
        billed = sum(credit(each, payer) for each in world.books.statements)
        due = 0
        for who, name, _, left in items:
            case = cases.get(f"item/{who}/{name}")
            waiting = case is not None and case.ruled is None and case.billed is None
            if who == payer and not waiting and not (case is not None and case.outcome == "void"):
                due += left
        assert billed == due
    for each in world.books.statements:
        assert sum(balance.net for balance in each.balances) == 0
        assert all(abs(balance.carry) < 1 for balance in each.balances)


# The clauses of the statement: caps, and who joins.


def facts(terms: Charter, **changes) -> Facts:
    whole = Facts(
        period="p",
        start=0,
        end=0,
        charter=terms,
        charter_hash="0" * 64,
        price=Fraction(10**18),
        work={},
        put=(),
        usage={},
        gone=(),
        joined=(),
        past={},
        quotes={},
        carries={},
        worth={},
        served={},
    )
    return replace(whole, **changes)


def stated(said: Facts) -> Statement:
    return statement(said, root="", cosignatures=(), seq=0, prev=FIRST)


def charged(bill: Statement) -> dict[str, Fraction]:
    total = {each.member: Fraction(0) for each in bill.balances}
    for line in bill.lines:
        total[line.member] += line.charge - (line.credit if line.pot == CAP else 0)
    return total


def alone(**amounts: int) -> dict[frozenset[str], Fraction]:
    return {frozenset(names.split("_")): Fraction(amount) for names, amount in amounts.items()}


def test_nobody_is_charged_more_than_it_quoted_for_going_alone_and_the_others_bear_the_rest():
    said = facts(charter({"acme": 1, "birch": 1, "cedar": 1}, cap="alone"), work={"acme": 300}, quotes=alone(acme=40))
    bill = stated(said)
    assert charged(bill) == {"acme": 40, "birch": 130, "cedar": 130}
    assert [(each.credit, each.charge) for each in bill.lines if each.pot == CAP] == [(60, 0), (0, 30), (0, 30)]
    assert bill.certificate == (Quoted(members=("acme",), charge=Fraction(40), alone=Fraction(40)),)
    without = stated(replace(said, charter=replace(said.charter, cap="none")))
    assert charged(without) == {"acme": 100, "birch": 100, "cedar": 100}
    assert without.certificate == (Quoted(members=("acme",), charge=Fraction(100), alone=Fraction(40)),)


def test_caps_below_the_cost_are_an_error_that_says_by_how_much():
    said = facts(charter({"acme": 1, "birch": 1}, cap="alone"), work={"acme": 300}, quotes=alone(acme=100, birch=150))
    with pytest.raises(Refused, match="infeasible: the caps sum to 250, 50 less than the cost"):
        stated(said)


def test_floors_and_caps_that_cannot_be_kept_to_close_no_period_and_the_audit_recomputes_those_that_can():
    limits = {"floors": {"acme": 900, "birch": 100}, "caps": {"birch": 150, "cedar": 250}}
    world = trained(pots=(pot("compute", "proportional"), pot("services", "equal", **limits)))
    world.say("birch/admin", world.item("birch", 700))
    with pytest.raises(Refused, match="infeasible: pot services: the floors sum to 1000, 300 more than the cost"):
        world.bill()
    world.say("cedar/admin", world.item("cedar", 700, "mail"))
    honest = world.statement()
    charges = {each.member: each.charge for each in honest.lines if each.pot == "services"}
    assert charges == {"acme": 1_000, "birch": 150, "cedar": 250}
    moved = {"acme": Fraction(1_100), "cedar": Fraction(150)}
    lines = (replace(each, charge=moved.get(each.member, each.charge)) for each in honest.lines)
    assert refused(world, ADMIN, replace(honest, lines=tuple(lines))) is Refusal.WRONG_STATEMENT
    world.bill()
    assert audit(world.leaves, world.head(), world.hashes()).findings == []


def test_who_joins_pays_for_earlier_work_at_today_s_price_to_those_who_did_it():
    terms = charter({"acme": 1, "birch": 1, "cedar": 1}, accession=Fraction(1, 3))
    bill = stated(facts(terms, joined=["cedar"], past={"acme": 60, "birch": 30}, price=Fraction(2 * 10**18)))
    lines = [(each.credit, each.charge) for each in bill.lines if each.pot == ACCESSION]
    assert lines == [(40, 0), (20, 0), (0, 60)]
    assert [each.net for each in bill.balances] == [40, 20, -60]


def test_what_a_newcomer_does_before_its_first_period_is_billed_in_that():
    world = World()
    newcomer = member("dogwood", 1)
    bigger = replace(world.charter, members=(*world.charter.members, newcomer), approvals=3, accession=Fraction(1))
    proposal = Amendment(
        seq=0, prev=FIRST, member="acme", amendment="dogwood", replaces=world.books.agreement.hash, charter=bigger
    )
    hashed = world.say("acme/admin", proposal)
    for by in ("acme", "birch"):
        world.say(f"{by}/admin", Vote(seq=0, prev=FIRST, member=by, amendment=hashed, choice="yes"))
    world.members.append("dogwood")
    world.start(charter=world.books.agreement.hash)
    world.round()
    worth = world.books.accounts.running()["acme"]
    first = world.bill("2026-11")
    assert [each.member for each in first.balances] == ["acme", "birch", "cedar"]
    assert {credit(first, each.member, "compute") for each in first.balances} == {worth}
    second = world.bill("2026-12")
    assert [credit(second, each.member, "compute") for each in second.balances] == [0, 0, 0, worth]
    assert [(each.member, each.charge) for each in second.lines if each.pot == ACCESSION and each.charge] == [
        ("dogwood", 3 * worth)
    ]
    assert credit(world.bill("2027-01"), "dogwood", "compute") == 0


def test_who_joins_before_anything_was_done_pays_nothing():
    terms = charter({"acme": 1, "birch": 1}, accession=Fraction(1))
    bill = stated(facts(terms, joined=["birch"]))
    assert [each.net for each in bill.balances] == [0, 0]


def test_who_has_left_is_charged_nothing_and_still_gets_what_it_is_owed():
    terms = charter({"acme": 1, "birch": 1})
    bill = stated(facts(terms, gone=["birch"], work={"birch": 100}))
    assert [each.net for each in bill.balances] == [-100, 100]


def test_what_each_gave_is_kept_for_each_period():
    world = trained()
    accounts = world.books.accounts
    world.say("acme/admin", world.item("acme", 700))
    running = accounts.running()
    bill = world.bill("2026-11")
    assert accounts.given == [{each.member: credit(bill, each.member, "compute") + credit(bill, each.member)
                               for each in bill.balances}] == [running]  # fmt: skip
    assert set(accounts.running().values()) == {0}
