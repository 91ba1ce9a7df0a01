"""The bill: exact to the last carry, whoever the members are and however often they are billed."""

import hashlib
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import charter
from world import pot as pot_of

from client.bill import text
from shared_models.records.kinds import Statement
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.allocation import RULES, equal, proportional
from shared_models.rules.currency import money
from shared_models.rules.netting import net_transfers
from shared_models.rules.statement import Facts, Put, settle, statement

names = st.lists(st.from_regex("[a-z]{1,6}", fullmatch=True), min_size=1, max_size=11, unique=True)


def item(payer: str, amount: int, pot: str = "services") -> Put:
    return Put(0, pot, payer, Fraction(amount), "EUR", Fraction(amount, 100), "x")


def facts(benefits, work=None, put=(), carries=None, period="p", price=Fraction(10**18), **more) -> Facts:
    """Facts under which 1 FLOP is worth 1 minor unit, unless another price is given."""
    whole = Facts(
        period=period,
        start=0,
        end=0,
        charter=charter(benefits),
        charter_hash="0" * 64,
        price=price,
        work=work or {},
        put=tuple(put),
        usage={},
        gone=(),
        joined=(),
        past={},
        quotes={},
        carries=carries or {},
        worth={},
        served={},
    )
    return replace(whole, **more)


def bill(benefits, work, put=(), carries=None, period="p", price=Fraction(10**18), **more) -> Statement:
    said = facts(benefits, work, put, carries, period, price, **more)
    return statement(said, root="", cosignatures=(), seq=0, prev="")


@st.composite
def bills(draw):
    members = draw(names)
    benefits = {member: draw(st.integers(0, 9)) for member in members}
    benefits[members[0]] += 1
    work = {member: draw(st.integers(0, 10**6)) for member in members}
    items = [item(draw(st.sampled_from(members)), draw(st.integers(1, 10**5))) for _ in range(draw(st.integers(0, 3)))]
    return benefits, work, items, Fraction(draw(st.integers(0, 10**19)), draw(st.integers(1, 7)))


def test_a_bill_that_can_be_checked_by_hand():
    whole = bill({"ada": 2, "bob": 1, "eve": 0}, {"ada": 10, "bob": 20, "eve": 60}, [item("bob", 100)])
    assert [(line.pot, line.member, line.credit, line.charge) for line in whole.lines] == [
        ("compute", "ada", 10, 60),
        ("compute", "bob", 20, 30),
        ("compute", "eve", 60, 0),
        ("services", "ada", 0, 50),
        ("services", "bob", 100, 50),
        ("services", "eve", 0, 0),
    ]
    assert [(balance.member, balance.net, balance.carry) for balance in whole.balances] == [
        ("ada", -100, 0),
        ("bob", 40, 0),
        ("eve", 60, 0),
    ]
    assert [(pay.payer, pay.payee, pay.amount) for pay in whole.transfers] == [("ada", "eve", 60), ("ada", "bob", 40)]


def test_the_most_generous_member_does_not_pay_most():
    whole = bill({"ada": 1, "bob": 1}, {"ada": 900, "bob": 100})
    assert {balance.member: balance.net for balance in whole.balances} == {"ada": 400, "bob": -400}


@given(bills())
def test_what_is_credited_is_charged_and_the_nets_sum_to_zero(case):
    benefits, work, items, price = case
    whole = bill(benefits, work, items, price=price)
    for pot in ("compute", "services"):
        lines = [line for line in whole.lines if line.pot == pot]
        assert sum(line.credit for line in lines) == sum(line.charge for line in lines)
    assert sum(balance.net for balance in whole.balances) == 0
    assert sum(balance.carry for balance in whole.balances) == 0


@given(bills())
def test_who_has_no_benefit_is_charged_nothing(case):
    benefits, work, items, price = case
    for line in bill(benefits, work, items, price=price).lines:
        assert line.charge == 0 or benefits[line.member] > 0


@given(bills(), st.randoms())
def test_the_order_of_members_and_items_does_not_matter(case, random):
    benefits, work, items, price = case
    mixed = [list(each.items()) for each in (benefits, work)]
    for each in (*mixed, items):
        random.shuffle(each)
    assert bill(dict(mixed[0]), dict(mixed[1]), items, price=price) == bill(benefits, work, items, price=price)


@st.composite
def limits(draw):
    """Benefits, what each member has paid into a pot, its rule, and floors and caps that are not below them."""
    members = draw(names)
    benefits = {member: draw(st.integers(0, 9)) for member in members}
    benefits[members[0]] += 1
    paid = [item(draw(st.sampled_from(members)), draw(st.integers(1, 300))) for _ in range(draw(st.integers(1, 3)))]
    some = st.lists(st.sampled_from(members), unique=True)
    floors = {member: draw(st.integers(0, 100)) for member in draw(some)}
    caps = {member: floors.get(member, 0) + draw(st.integers(0, 100)) for member in draw(some)}
    return benefits, paid, draw(st.sampled_from(sorted(RULES))), floors, caps


def limited(benefits, paid, rule, floors, caps, **more) -> Statement:
    pots = (pot_of("compute", "proportional"), pot_of("services", rule, floors=floors, caps=caps))
    said = facts(benefits, put=paid, **more)
    said = replace(said, charter=replace(said.charter, pots=pots))
    return statement(said, root="", cosignatures=(), seq=0, prev="")


@given(limits(), st.randoms())
def test_no_charge_is_below_its_floor_or_above_its_cap_and_all_of_them_are_the_cost(case, random):
    """Or there is no division, and the refusal says by how much: asked here of the sums alone."""
    benefits, paid, rule, floors, caps = case
    cost = sum(each.amount for each in paid)
    most = [caps.get(each, cost) if benefit else floors.get(each, 0) for each, benefit in benefits.items()]
    over, short = sum(floors.values()) - cost, cost - sum(most)
    if over > 0 or short > 0:
        with pytest.raises(Refused) as caught:
            limited(benefits, paid, rule, floors, caps)
        said = (
            f"floors sum to {sum(floors.values())}, {over} more"
            if over > 0
            else f"caps sum to {cost - short}, {short} less"
        )
        assert caught.value.refusal is Refusal.INFEASIBLE
        assert caught.value.detail == f"pot services: the {said} than the cost"
        return
    bill = limited(benefits, paid, rule, floors, caps)
    charges = {each.member: each.charge for each in bill.lines if each.pot == "services"}
    assert sum(charges.values()) == cost
    for each, charge in charges.items():
        assert floors.get(each, 0) <= charge <= caps.get(each, cost)
    assert sum(each.net for each in bill.balances) == 0
    mixed = [list(each.items()) for each in (benefits, floors, caps)]
    for each in (*mixed, paid):
        random.shuffle(each)
    assert limited(dict(mixed[0]), paid, rule, dict(mixed[1]), dict(mixed[2])) == bill


def test_floors_and_caps_that_can_be_checked_by_hand():
    """200 by benefit would be 100, 50, 50: bob stays at 80, and of the rest ada pays no more than 70."""
    paid = [item("ada", 200)]
    bill = limited({"ada": 2, "bob": 1, "eve": 1}, paid, "proportional", {"bob": 80}, {"ada": 70})
    assert [each.charge for each in bill.lines if each.pot == "services"] == [70, 80, 50]


def test_what_a_pot_gives_back_or_does_not_hold_knows_no_limits():
    floors, caps = {"ada": 80}, {"ada": 90, "bob": 90}
    back = limited({"ada": 1, "bob": 1}, [item("ada", -50)], "equal", floors, caps)
    assert [each.charge for each in back.lines if each.pot == "services"] == [-25, -25]
    nothing = limited({"ada": 1, "bob": 1}, [], "equal", floors, caps)
    assert [each.charge for each in nothing.lines if each.pot == "services"] == [0, 0]


def test_who_has_left_has_no_floor_any_more():
    bill = limited({"ada": 1, "bob": 1}, [item("ada", 50)], "equal", {"bob": 40}, {"bob": 60}, gone=["bob"])
    assert [each.charge for each in bill.lines if each.pot == "services"] == [50, 0]


@given(bills(), st.integers(1, 8), st.integers(0, 10**6))
def test_splitting_a_member_in_two_changes_nobody_s_compute_lines(case, benefit, part):
    benefits, work, _, price = case
    one = min(benefits)
    benefits[one] += benefit
    work[one] += part
    split_benefits = benefits | {one: benefits[one] - benefit, one + "2": benefit}
    split_work = work | {one: work[one] - part, one + "2": part}

    def net(benefits, work):
        lines = [line for line in bill(benefits, work, price=price).lines if line.pot == "compute"]
        return {line.member: line.credit - line.charge for line in lines}

    before, after = net(benefits, work), net(split_benefits, split_work)
    assert after.pop(one + "2") + after.pop(one) == before.pop(one)
    assert after == before


@given(st.lists(bills(), min_size=1, max_size=1), st.integers(2, 60), st.randoms())
def test_rounding_never_adds_up_to_a_unit_however_often_it_happens(case, periods, random):
    benefits, work, items, price = case[0]
    carries: dict[str, Fraction] = {}
    exact, paid = dict.fromkeys(benefits, Fraction(0)), dict.fromkeys(benefits, 0)
    for period in range(periods):
        turn = {member: random.randint(0, flop) for member, flop in work.items()}
        whole = bill(benefits, turn, items, carries, str(period), price)
        for line in whole.lines:
            exact[line.member] += line.credit - line.charge
        for balance in whole.balances:
            paid[balance.member] += balance.net
            assert abs(balance.carry) < 1
            assert balance.carry == exact[balance.member] - paid[balance.member]
        carries = {balance.member: balance.carry for balance in whole.balances}


@given(names, st.data())
def test_an_amount_that_is_whole_is_paid_to_the_unit(members, data):
    amounts = {member: Fraction(data.draw(st.integers(-(10**6), 10**6))) for member in members}
    amounts[members[0]] -= sum(amounts.values())
    nets, carries = settle(amounts, {}, "p")
    assert nets == amounts
    assert not any(carries.values())


def test_the_leftover_cent_goes_to_the_largest_fraction():
    exact = {"ada": Fraction(2, 10), "bob": Fraction(7, 10), "eve": Fraction(-9, 10)}
    assert settle(exact, {}, "p") == (
        {"ada": 0, "bob": 1, "eve": -1},
        {"ada": Fraction(2, 10), "bob": Fraction(-3, 10), "eve": Fraction(1, 10)},
    )


def test_a_tie_falls_by_hash_of_the_period_and_not_by_name():
    thirds = {"ada": Fraction(1, 3), "bob": Fraction(1, 3), "eve": Fraction(-2, 3)}
    winners = {}
    for period in "abcdefgh":
        _, carries = settle(thirds, {}, period)
        (winners[period],) = (name for name, carry in carries.items() if carry < 0)
    for period, winner in winners.items():
        assert winner == min(thirds, key=lambda name: hashlib.sha256(f"{period}|{name}".encode()).digest())
    assert len(set(winners.values())) > 1


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    # Largest remainder on published cases: the Alabama paradox of 1880, a third of 100, a refund.
    [
        (10, (6, 6, 2), [2, 4, 4]),
        (11, (6, 6, 2), [1, 5, 5]),
        (100, (1, 1, 1), [33, 33, 34]),
        (-100, (1, 1, 1), [-34, -33, -33]),
    ],
)
def test_published_rounding_cases(total, weights, shares):
    drivers = {str(number): Fraction(weight) for number, weight in enumerate(weights)}
    exact = proportional(Fraction(total), drivers) | {"payer": Fraction(-total)}
    nets, _ = settle(exact, {}, "p")
    assert sorted(nets[name] for name in drivers) == shares


def test_equal_asks_the_same_of_everybody_who_benefits():
    assert equal(Fraction(10), {"a": Fraction(5), "b": Fraction(1), "c": Fraction(0)}) == {"a": 5, "b": 5, "c": 0}
    assert set(RULES) == {"proportional", "equal", "two_part", "airport"}


@given(names, st.data())
def test_transfers_settle_every_net_with_fewer_payments_than_members(members, data):
    nets = {member: data.draw(st.integers(-1000, 1000)) for member in members}
    nets[members[0]] -= sum(nets.values())
    left = dict(nets)
    transfers = net_transfers(nets)
    for transfer in transfers:
        assert transfer.amount > 0
        left[transfer.payer] += transfer.amount
        left[transfer.payee] -= transfer.amount
    assert not any(left.values())
    assert len(transfers) < max(2, sum(1 for net in nets.values() if net))
    assert not {transfer.payer for transfer in transfers} & {transfer.payee for transfer in transfers}


@pytest.mark.parametrize(
    ("nets", "most"),
    [
        ({"a": -10, "b": 10}, 1),
        ({"a": -10, "b": -20, "c": 10, "d": 20}, 2),
        ({"a": -5, "b": -5, "c": -6, "d": 8, "e": 8}, 4),
        ({"a": 0, "b": 0}, 0),
    ],
)
def test_published_netting_cases(nets, most):
    assert len(net_transfers(nets)) == most


def test_money_is_shown_to_the_minor_unit_and_lines_as_far_as_they_go():
    euro, yen = charter({"a": 1}), charter({"a": 1}, currency="JPY", minor_digits=0)
    assert money(123456, euro) == "1,234.56"
    assert money(-5, euro) == "-0.05"
    assert money(123456, yen) == "123,456"
    assert money(Fraction(1, 3), euro) == "0.003333~"
    assert money(Fraction(-1, 3), euro) == "-0.003333~"
    assert money(Fraction(5, 2), yen) == "2.5000"


def test_the_printed_bill_in_full():
    whole = bill({"ada": 2, "bob": 1}, {"ada": 1000, "bob": 2000}, [item("bob", 1200)])
    assert text(whole, charter({"ada": 2, "bob": 1})) == (
        """\
statement p of commons.example, entries 0 to -1
                                      ada         bob
accepted work, FLOP                 1,000       2,000
compute: credit                 10.000000   20.000000
compute: charge, proportional  -20.000000  -10.000000
services: credit                 0.000000   12.000000
services: charge, equal         -6.000000   -6.000000
carried over                     0.000000    0.000000
net, EUR                           -16.00       16.00
ada pays bob 16.00 EUR"""
    )
