"""Rules that divide a cost: exact, blind to order, nothing for nothing; and limits that are kept or refused."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import slowness

from shared_models.records.refusals import Refused
from shared_models.rules.allocation import RULES, airport, bounded, equal, proportional, two_part

FACTS = Path(__file__).parent.parent / "vectors" / "facts"
GAMES = json.loads((FACTS / "games.json").read_text())
ACCOUNTING = json.loads((FACTS / "accounting.json").read_text())

amounts = st.fractions(0, 1000, max_denominator=12)
drivers = st.dictionaries(st.sampled_from("abcdefghijk"), amounts, min_size=1).filter(lambda each: any(each.values()))


def fractions(**amounts: object) -> dict[str, Fraction]:
    return {name: Fraction(amount) for name, amount in amounts.items()}


@given(amounts, drivers, st.sampled_from(sorted(RULES)))
def test_charges_sum_to_the_cost_and_a_driver_of_zero_is_charged_nothing(cost, given_drivers, rule):
    charges = RULES[rule](cost, given_drivers)
    assert charges.keys() == given_drivers.keys()
    assert sum(charges.values()) == cost
    assert all(charge >= 0 for charge in charges.values())
    assert all(charges[member] == 0 for member, driver in given_drivers.items() if driver == 0)


@given(amounts, drivers, st.sampled_from(sorted(RULES)), st.randoms())
def test_the_order_of_members_does_not_matter(cost, given_drivers, rule, random):
    mixed = list(given_drivers.items())
    random.shuffle(mixed)
    assert RULES[rule](cost, dict(mixed)) == RULES[rule](cost, given_drivers)


@given(amounts, drivers, st.sampled_from(sorted(RULES)))
def test_who_needs_more_pays_no_less(cost, given_drivers, rule):
    charges = RULES[rule](cost, given_drivers)
    in_order = sorted(given_drivers, key=lambda member: (given_drivers[member], charges[member]))
    assert [charges[member] for member in in_order] == sorted(charges.values())


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_driver_below_zero_is_refused_and_so_is_nobody_to_charge(rule):
    with pytest.raises(Refused, match="bad_field: the driver of b is -1/2, below zero"):
        RULES[rule](Fraction(1), fractions(a=1, b="-1/2"))
    for nobody in (fractions(a=0, b=0), {}):
        with pytest.raises(Refused, match="bad_field: nobody has a driver above zero"):
            RULES[rule](Fraction(1), nobody)


@pytest.mark.parametrize("rule", RULES.values())
def test_a_refund_divides_as_the_cost_did(rule):
    paid, back = (rule(Fraction(cost), fractions(a=1, b=2)) for cost in (9, -9))
    assert back == {member: -amount for member, amount in paid.items()}


def test_two_parts_are_a_quarter_for_being_there_and_three_for_use():
    assert two_part(Fraction(800), fractions(a=1, b=2, c=0)) == {"a": 300, "b": 500, "c": 0}


def test_the_published_airport():
    case = GAMES["airport"]
    assert airport(Fraction(max(case["sizes"].values())), fractions(**case["sizes"])) == case["shapley"]


def test_an_airport_of_a_hundred_of_ten_sizes():
    case = GAMES["airport_100"]
    sizes = [size for size, count in enumerate(case["players_of_size_1_to_10"], 1) for _ in range(count)]
    charges = airport(Fraction(10), {str(number): Fraction(size) for number, size in enumerate(sizes)})
    for number, size in enumerate(sizes):
        assert charges[str(number)] == Fraction(case["shapley_by_size"][str(size)])


@given(amounts, drivers)
def test_no_coalition_pays_more_for_an_airport_than_it_would_alone(cost, sizes):
    """A coalition of those up to some size is the worst of all that need this size."""
    charges = airport(cost, sizes)
    for largest in sizes.values():
        together = sum(charges[member] for member, size in sizes.items() if size <= largest)
        assert together <= cost * largest / max(sizes.values())


def test_thirteen_thousand_aircraft_land_within_a_second():
    sizes = {str(number): Fraction(number * number + 1) for number in range(13_000)}
    started = time.process_time()
    charges = airport(Fraction(10**12), sizes)
    spent = time.process_time() - started
    assert spent < 5 * slowness()  # A second on a quiet machine: `python -m bench.money`.
    assert charges["0"] == Fraction(10**12) / (12_999**2 + 1) / 13_000


def test_an_equal_share_that_is_floored_loses_what_psyche_loses():
    for case in ACCOUNTING["psyche"]["vectors"]:
        charges = equal(Fraction(case["total"]), {str(number): Fraction(1) for number in range(case["finishers"])})
        floors = [charge.numerator // charge.denominator for charge in charges.values()]
        assert set(floors) == {case["each"]}
        assert case["total"] - sum(floors) == case["lost"]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_published_bill_of_fractions_of_a_cent_is_divided_without_remainder(rule):
    """FOCUS: allocated charges sum to the origin charge, and their ratios to one."""
    case = ACCOUNTING["focus"]
    assert sum(map(Fraction, case["by_service"].values())) == Fraction(case["sum"])
    divided = [
        RULES[rule](Fraction(billed), fractions(a=1, b=2, c=4))
        for billed in case["by_service"].values()
        if Fraction(billed) > 0
    ]
    credit = Fraction(case["by_service"]["AI and Machine Learning"])
    assert sum(sum(charges.values()) for charges in divided) + credit == Fraction(case["sum"])
    assert sum(RULES[rule](Fraction(1), fractions(a=1, b=2, c=4)).values()) == 1


@st.composite
def limited(draw):
    """A cost and limits under which it can be divided among these weights."""
    weights = draw(drivers)
    floors = {member: draw(amounts) for member in weights if draw(st.booleans())}
    caps = {
        member: floors.get(member, Fraction(0)) + draw(amounts) for member in weights if draw(st.integers(0, 3)) > 0
    }
    least = sum(floors.values(), Fraction(0))
    payers = [member for member, weight in weights.items() if weight]
    room = [caps[member] - floors.get(member, 0) if member in caps else Fraction(1000) for member in payers]
    return weights, floors, caps, least + sum(room) * draw(st.fractions(0, 1, max_denominator=8))


@given(limited())
def test_there_is_one_level_at_which_everybody_pays_its_weight_or_is_at_a_limit(case):
    weights, floors, caps, cost = case
    charges = bounded(cost, weights, floors, caps)
    assert charges.keys() == weights.keys()
    assert sum(charges.values()) == cost
    lowest, highest = [Fraction(0)], []
    for member, weight in weights.items():
        floor, charge, cap = floors.get(member, Fraction(0)), charges[member], caps.get(member)
        assert floor <= charge
        assert cap is None or charge <= cap
        assert weight or charge == floor
        if weight and charge > floor:  # Its weight times the level is its charge, or was cut down to it.
            lowest.append(charge / weight)
        if weight and charge != cap:  # Its weight times the level is its charge, or was raised to it.
            highest.append(charge / weight)
    assert not highest or max(lowest) <= min(highest)


@given(amounts, drivers)
def test_limits_that_bind_nobody_change_nothing(cost, weights):
    assert bounded(cost, weights, {}, {}) == proportional(cost, weights)
    assert bounded(cost, weights, {}, dict.fromkeys(weights, cost)) == proportional(cost, weights)


def test_what_a_cap_takes_off_one_the_others_pay_by_their_weight():
    assert bounded(Fraction(70), fractions(a=4, b=2, c=1), {}, fractions(a=10)) == {"a": 10, "b": 40, "c": 20}
    assert bounded(Fraction(70), fractions(a=4, b=2, c=1), fractions(c=40), {}) == {"a": 20, "b": 10, "c": 40}
    assert bounded(Fraction(70), fractions(a=1, b=1, c=0), fractions(c=10), fractions(b=5)) == {
        "a": 55,
        "b": 5,
        "c": 10,
    }


def test_a_talmudic_estate_is_water_filled_up_to_half_of_each_claim():
    """The rule of Aumann and Maschler below half of all claims: equal weights, capped at half a claim."""
    case = GAMES["talmud"]
    claims = {str(number): Fraction(claim) for number, claim in enumerate(case["claims"])}
    for estate, awards in case["nucleolus_by_estate"].items():
        halves = {name: claim / 2 for name, claim in claims.items()}
        charges = bounded(Fraction(estate), dict.fromkeys(claims, Fraction(1)), {}, halves)
        assert list(charges.values()) == list(map(Fraction, awards))


def test_nothing_is_divided_among_nobody():
    assert bounded(Fraction(0), fractions(a=0), {}, fractions(a=1)) == {"a": 0}


def test_limits_that_cannot_be_kept_are_refused_by_how_much():
    weights = fractions(a=1, b=1, c=0)
    with pytest.raises(Refused, match="infeasible: the caps sum to 9, 1/2 less than the cost"):
        bounded(Fraction("19/2"), weights, {}, fractions(a=4, b=5))
    with pytest.raises(Refused, match="infeasible: the caps sum to 10, 2 less than the cost"):  # c's floor is its cap.
        bounded(Fraction(12), weights, fractions(c=1, a=4), fractions(a=4, b=5, c=100))
    with pytest.raises(Refused, match="infeasible: the floors sum to 9, 2 more than the cost"):
        bounded(Fraction(7), weights, fractions(a=4, c=5), {})
    assert bounded(Fraction(9), weights, {}, fractions(a=4, b=5)) == {"a": 4, "b": 5, "c": 0}
    assert bounded(Fraction(9), weights, fractions(a=4, c=5), {}) == {"a": 4, "b": 0, "c": 5}


def test_a_limit_that_makes_no_sense_is_refused():
    weights = fractions(a=1, b=1)
    for floors, caps in (
        (fractions(c=1), {}),
        ({}, fractions(c=1)),
        (fractions(a=-1), {}),
        ({}, fractions(a=-1)),
        (fractions(a=2), fractions(a=1)),
    ):
        with pytest.raises(Refused, match="bad_field"):
            bounded(Fraction(10), weights, floors, caps)
    with pytest.raises(Refused, match="bad_field: the cost is -1, below zero"):
        bounded(Fraction(-1), weights, {}, {})
    with pytest.raises(Refused, match="bad_field: the driver of a is -1, below zero"):
        bounded(Fraction(1), fractions(a=-1, b=1), {}, {})
