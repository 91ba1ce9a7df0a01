"""Cooperative games: published values to the last digit, and proofs that a lie does not pass."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_models.records.refusals import Refused
from shared_models.rules.allocation import airport
from shared_models.rules.games import (
    MOST_FOR_NUCLEOLUS,
    MOST_PLAYERS,
    Block,
    Game,
    Tariff,
    Tight,
    by_table,
    certifies,
    nucleolus,
    sampled_shapley,
    scrb,
    shapley,
    shapley_by_class,
    worst_coalition,
)

FACTS = json.loads((Path(__file__).parent.parent / "vectors" / "facts" / "games.json").read_text())
SIZES = {name: Fraction(size) for name, size in FACTS["airport"]["sizes"].items()}


def game(players, cost: Callable[[tuple[str, ...]], int | Fraction]) -> Game:
    sets = [each for size in range(1, len(players) + 1) for each in combinations(players, size)]
    return Game.of({frozenset(each): cost(each) for each in sets})


def airport_game(sizes: dict[str, Fraction]) -> Game:
    return game(list(sizes), lambda coalition: max(sizes[each] for each in coalition))


def value_game(players, value: Callable[[tuple[str, ...]], int]) -> Game:
    """Of a game in which each wants much: what it gets is what it is charged, with the other sign."""
    return game(players, lambda coalition: -value(coalition))


def glove_game() -> Game:
    return value_game(
        FACTS["glove"]["players"],
        lambda coalition: min(sum(each == "L" for each in coalition), sum(each != "L" for each in coalition)),
    )


def negated(shares: dict[str, Fraction]) -> dict[str, Fraction]:
    return {name: -share for name, share in shares.items()}


@st.composite
def games(draw, largest: int = 4):
    n = draw(st.integers(1, largest))
    parts = draw(st.integers(1, 3))
    costs = [0, *(draw(st.integers(-20, 60)) for _ in range(2**n - 1))]
    return Game(tuple("abcdefgh"[:n]), costs, parts)


@st.composite
def sharing(draw, largest: int = 4):
    """Games in which all together cost no more than each alone, so that a nucleolus exists."""
    drawn = draw(games(largest))
    alone = sum(drawn.costs[1 << number] for number in range(len(drawn.players)))
    if len(drawn.players) == 1:
        return drawn
    return replace(drawn, costs=[*drawn.costs[:-1], alone - draw(st.integers(0, 40))])


def by_orders(played: Game) -> dict[str, Fraction]:
    """The Shapley value as it is defined: the mean over all orders."""
    shares = dict.fromkeys(played.players, Fraction(0))
    for order in permutations(range(len(played.players))):
        mask = 0
        for number in order:
            added = played.costs[mask | 1 << number] - played.costs[mask]
            shares[played.players[number]] += Fraction(added, played.parts)
            mask |= 1 << number
    return {name: share / math.factorial(len(played.players)) for name, share in shares.items()}


@given(games(5))
def test_shapley_is_the_mean_over_all_orders(played):
    assert shapley(played) == by_orders(played)
    assert sum(shapley(played).values()) == played.total
    assert list(shapley(played)) == list(played.players)


def test_the_published_airport_is_a_shapley_value():
    assert shapley(airport_game(SIZES)) == FACTS["airport"]["shapley"]


@given(st.dictionaries(st.sampled_from("abcdef"), st.fractions(1, 50, max_denominator=6), min_size=1))
def test_the_closed_form_for_airports_is_the_shapley_value(sizes):
    assert airport(max(sizes.values()), sizes) == shapley(airport_game(sizes))


def test_the_security_council():
    case = FACTS["un_security_council"]

    def passes(counts: tuple[int, ...]) -> int:
        return int(counts[0] == case["permanent"] and sum(counts) >= case["needed"])

    shares = shapley_by_class({"permanent": case["permanent"], "elected": case["elected"]}, passes)
    assert shares == {
        "permanent": Fraction(case["shapley_permanent"]),
        "elected": Fraction(case["shapley_elected"]),
    }
    assert 5 * shares["permanent"] + 10 * shares["elected"] == 1


def test_the_security_council_member_by_member():
    case = FACTS["un_security_council"]
    permanent = (1 << case["permanent"]) - 1
    costs = [int(mask & permanent == permanent and mask.bit_count() >= case["needed"]) for mask in range(1 << 15)]
    shares = list(shapley(Game(tuple(f"m{number:02}" for number in range(15)), costs)).values())
    assert shares == [Fraction(case["shapley_permanent"])] * 5 + [Fraction(case["shapley_elected"])] * 10


@given(st.integers(0, 3), st.integers(0, 3), st.lists(st.integers(-9, 9), min_size=16, max_size=16))
def test_players_of_a_class_are_players(a, b, table):
    if a + b == 0:
        assert shapley_by_class({"a": 0, "b": 0}, sum) == {"a": 0, "b": 0}
        return

    def cost(counts: tuple[int, ...]) -> int:
        return table[4 * counts[0] + counts[1]] if any(counts) else 0

    names = [f"a{number}" for number in range(a)] + [f"b{number}" for number in range(b)]
    one_by_one = shapley(
        game(names, lambda each: cost((sum(n[0] == "a" for n in each), sum(n[0] == "b" for n in each))))
    )
    classes = shapley_by_class({"a": a, "b": b}, cost)
    assert all(share == classes[name[0]] for name, share in one_by_one.items())


def test_one_left_glove_and_two_right():
    case = FACTS["glove"]
    assert negated(shapley(glove_game())) == {name: Fraction(share) for name, share in case["shapley"].items()}
    assert negated(nucleolus(glove_game()).charges) == case["nucleolus"]


def test_the_talmud_divides_by_the_nucleolus():
    case = FACTS["talmud"]
    claims = dict(zip("xyz", case["claims"], strict=True))
    for estate, awards in case["nucleolus_by_estate"].items():
        played = value_game(
            "xyz",
            lambda coalition, estate=int(estate): max(
                0, estate - sum(claims[each] for each in claims.keys() - coalition)
            ),
        )
        assert list(negated(nucleolus(played).charges).values()) == list(map(Fraction, awards))


def test_the_nucleolus_of_an_airport():
    """The least of size / (number up to it + 1) goes to all of these, and so on (Littlechild, IJGT 3(1), 1974)."""
    found = nucleolus(airport_game(SIZES)).charges
    assert found == {"A": Fraction(13, 4), "B": Fraction(13, 4), "C": Fraction(13, 4), "D": Fraction(33, 4)}


def slacks(played: Game, charges: dict[str, Fraction]) -> list[Fraction]:
    return sorted(
        Fraction(played.costs[mask], played.parts) - sum(charges[name] for name in played.members(mask))
        for mask in range(1, len(played.costs))
    )


@given(sharing(), st.data())
def test_no_other_charges_are_better_for_the_worst_off(played, data):
    found, proof = nucleolus(played)
    assert sum(found.values()) == played.total
    assert certifies(played, found, proof)
    alone = {name: Fraction(played.costs[1 << number], played.parts) for number, name in enumerate(played.players)}
    assert all(found[name] <= alone[name] for name in found)
    first, second = data.draw(st.sampled_from(played.players)), data.draw(st.sampled_from(played.players))
    step = data.draw(st.fractions(0, 20, max_denominator=8))
    other = dict(found)
    other[first] += step
    other[second] -= step
    if all(other[name] <= alone[name] for name in other):
        assert slacks(played, other) <= slacks(played, found)
    if other != found:
        assert not certifies(played, other, proof)


@given(sharing(5))
@settings(max_examples=30)
def test_the_nucleolus_is_in_the_core_if_anything_is(played):
    """If the worst coalition blocks the nucleolus, coalitions of its proof show that they together ask too much."""
    charges, proof = nucleolus(played)
    worst = worst_coalition(played, charges)
    if worst.slack >= 0 or len(played.players) == 1:
        return
    weights, asked = dict.fromkeys(played.players, Fraction(0)), Fraction(0)
    for mask, alone, multiplier in proof[0]:
        assert alone or Fraction(played.costs[mask], played.parts) - sum(charges[n] for n in played.members(mask)) < 0
        asked += multiplier * Fraction(played.costs[mask], played.parts)
        for name in played.members(mask):
            weights[name] += multiplier
    (weight,) = set(weights.values())  # Balanced: everybody is in as much of a coalition as everybody else,
    assert asked < weight * played.total  # and they would pay less in these than all together cost (Bondareva, 1963).


def test_a_proof_that_does_not_prove_is_not_one():
    played = Game(("a", "b", "c"), [0, 10, 10, 10, 10, 10, 4, 6])
    charges, proof = nucleolus(played)
    assert charges == {"a": 6, "b": 0, "c": 0}
    half = Fraction(1, 2)
    assert proof == (  # First a against b and c, with a slack of 4; then b against c, with a slack of 4 too.
        (Tight(0b001, False, half), Tight(0b110, False, half)),
        (Tight(0b011, False, half), Tight(0b101, False, half)),
    )
    stage = proof[0]
    assert not certifies(played, charges, proof[:-1])  # Nothing fixes the rest.
    assert not certifies(played, charges, ())
    assert not certifies(played, charges, (*proof[1:], stage))  # What the second stage rests on is missing.
    for wrong in (Fraction(0), Fraction(-1), stage[0].multiplier * 2):
        assert not certifies(played, charges, ((stage[0]._replace(multiplier=wrong), *stage[1:]), *proof[1:]))
    assert not certifies(played, shapley(played), proof)
    assert not certifies(played, {"a": 6, "b": 1, "c": -1}, proof)


def test_a_proof_is_of_charges_that_sum_to_the_cost_and_are_no_more_than_alone():
    assert certifies(Game(("a",), [0, 7]), {"a": 7}, ())
    assert not certifies(Game(("a",), [0, 7]), {"a": 6}, ())
    halves = ((Tight(0b01, False, Fraction(1)), Tight(0b10, False, Fraction(1))),)
    assert certifies(Game(("a", "b"), [0, 2, 2, 4]), {"a": 2, "b": 2}, halves)
    assert not certifies(Game(("a", "b"), [0, 1, 1, 4]), {"a": 2, "b": 2}, halves)


def test_a_multiplier_is_above_zero():
    """Else any coalition with the least slack could be called fixed, whoever could still be given more."""
    played, charges, a = Game(("a", "b"), [0, 10, 10, 10]), {"a": 8, "b": 2}, Tight(0b01, False, Fraction(1))
    assert nucleolus(played).charges == {"a": 5, "b": 5}
    for multipliers in ((1, -1), (0,), (1,)):
        stage = tuple(a._replace(multiplier=Fraction(multiplier)) for multiplier in multipliers)
        assert not certifies(played, charges, (stage,))


def test_only_the_least_slack_shows_anything():
    """Every member, once, sums to all together: were that a proof, it would prove any charges."""
    played = Game(("a", "b", "c"), [0, 10, 10, 12, 10, 12, 12, 12])
    everybody = (tuple(Tight(1 << number, False, Fraction(1)) for number in range(3)),)
    assert nucleolus(played).charges == dict.fromkeys("abc", 4)
    assert not certifies(played, {"a": 5, "b": 5, "c": 2}, everybody)


@pytest.mark.parametrize("mask", [0b110, -0b010])  # In Python the last but one of eight is the same coalition.
def test_only_one_member_pays_what_it_would_alone(mask):
    """Two who pay what they would together are no limit, if there are others who are worse off."""
    played = Game(("a", "b", "c"), [0, 10, 10, 10, 10, 10, 12, 22])
    lie = (
        (Tight(0b001, True, Fraction(1)), Tight(mask, True, Fraction(1))),
        (Tight(0b011, False, Fraction(1)), Tight(0b101, False, Fraction(1))),
    )
    assert not certifies(played, {"a": 10, "b": 6, "c": 6}, lie)
    assert nucleolus(played).charges == {"a": 6, "b": 8, "c": 8}


def test_a_coalition_is_fixed_that_is_half_a_sum_of_others():
    """Of a to d any two are weighed against the other two: that fixes a, by 2a = ab + ac - bc. Then e against f."""
    slack = {(0, 2): 1, (4, 0): 1, (2, 0): 2, (2, 2): 2, (0, 1): 5, (4, 1): 5, (4, 2): 0}  # Of so many of abcd, of ef.

    def cost(coalition: tuple[str, ...]) -> int:
        return 10 * len(coalition) + slack.get((len({*coalition} & {*"abcd"}), len({*coalition} & {*"ef"})), 50)

    played = game("abcdef", cost)
    charges, proof = nucleolus(played)
    assert charges == dict.fromkeys("abcdef", 10)
    assert len(proof) == 1 + 3 + 1


def test_nothing_proves_nothing():
    played = airport_game(SIZES)
    for proof in ((), ((),)):
        assert not certifies(played, nucleolus(played).charges, proof)


def test_one_player_pays_the_cost():
    played = Game(("a",), [0, 7], 2)
    assert shapley(played) == nucleolus(played).charges == {"a": Fraction(7, 2)}
    assert worst_coalition(played, {"a": Fraction(7, 2)}) == (("a",), 0)
    assert scrb(7, {"a": 7}, {"a": 0}) == {"a": 7}


def test_separable_costs_and_remaining_benefits_by_hand():
    """c(abc) = 100; a adds 20, b 30, c 10 to the others; the other 40 go by what each still saves: 40, 20, 20."""
    charges = scrb(100, {"a": 60, "b": 50, "c": 30}, {"a": 80, "b": 70, "c": 90})
    assert charges == {"a": 40, "b": 40, "c": 20}
    assert scrb(60, {"a": 1, "b": 2}, {"a": 30, "b": 30}) == {"a": 30, "b": 30}  # Nothing is left to be divided.


def test_quotes_that_do_not_fit_are_refused():
    with pytest.raises(Refused, match="bad_field: each member needs a quote alone and one without it"):
        scrb(100, {"a": 60}, {"a": 80, "b": 70})
    with pytest.raises(Refused, match="bad_field: the driver of b is -5, below zero"):
        scrb(100, {"a": 60, "b": 25}, {"a": 80, "b": 70})


def test_who_would_leave_and_for_how_much():
    played = Game(("a", "b", "c"), [0, 10, 10, 12, 10, 12, 18, 30])
    assert worst_coalition(played, {"a": 10, "b": 10, "c": 10}) == (("a", "b"), -8)  # a and c too: first by name.
    assert worst_coalition(played, {"a": 12, "b": 9, "c": 9}) == (("a", "b"), -9)
    assert worst_coalition(played, {"a": 4, "b": 14, "c": 12}) == (("b", "c"), -8)
    assert worst_coalition(played, {"a": Fraction("9.5"), "b": Fraction("11"), "c": Fraction("9.5")}).slack == Fraction(
        -17, 2
    )
    smallest = Game(("a", "b", "c"), [0, 5, 9, 14, 9, 14, 9, 15])
    assert worst_coalition(smallest, {"a": 5, "b": 5, "c": 5}) == (("b", "c"), -1)
    assert worst_coalition(smallest, {"a": 6, "b": 5, "c": 4}) == (("a",), -1)


@given(games(), st.data())
def test_the_worst_coalition_is_the_worst(played, data):
    charges = {name: data.draw(st.fractions(-9, 9, max_denominator=4)) for name in played.players[1:]}
    charges[played.players[0]] = played.total - sum(charges.values())
    worst = worst_coalition(played, charges)
    everything = slacks(played, charges)
    if len(played.players) > 1:
        everything.remove(0)  # Of all together.
    assert worst.slack == everything[0]


def test_charges_of_another_game_are_refused():
    played = airport_game(SIZES)
    with pytest.raises(Refused, match="bad_field: the charges do not sum to 18"):
        worst_coalition(played, dict.fromkeys(SIZES, 4))
    with pytest.raises(Refused, match="bad_field: the charges are not those of the players"):
        worst_coalition(played, {"A": 18})


def test_a_table_says_every_cost_once():
    costs = {frozenset("a"): 1, frozenset("b"): Fraction(1, 2), frozenset("ab"): Fraction(4, 3)}
    assert Game.of(costs) == Game(("a", "b"), [0, 6, 3, 8], 6)
    assert Game.of(costs | {frozenset(): 0}) == Game.of(costs)
    for wrong, said in (
        ({**costs, frozenset("c"): 1}, "the table has no cost for a c"),
        ({}, "0 players"),
        ({**costs, frozenset(): 1}, "the first zero"),
        ({frozenset(map(str, range(MOST_PLAYERS + 1))): 1}, "21 players: at most 20"),
    ):
        with pytest.raises(Refused, match=f"bad_field: .*{said}"):
            Game.of(wrong)


def test_a_game_that_is_none_is_refused():
    assert Game(tuple(map(str, range(MOST_PLAYERS))), [0] * 2**MOST_PLAYERS).total == 0
    for players, costs, parts in (
        ((), [0], 1),
        (("a", "a"), [0, 1, 1, 1], 1),
        (("a",), [0, 1, 2], 1),
        (("a",), [1, 1], 1),
        (("a",), [0, 1], 0),
        (tuple(map(str, range(MOST_PLAYERS + 1))), [0] * 2 ** (MOST_PLAYERS + 1), 1),
    ):
        with pytest.raises(Refused, match="bad_field"):
            Game(players, costs, parts)


def test_a_nucleolus_that_nobody_could_accept_or_compute_is_refused():
    with pytest.raises(Refused, match="infeasible: all together cost 1/2 more than each alone"):
        nucleolus(Game(("a", "b"), [0, 1, 1, 5 - 2], 2))
    n = MOST_FOR_NUCLEOLUS + 1
    largest = Game(tuple(map(str, range(n - 1))), [min(mask, 1) for mask in range(2 ** (n - 1))])
    assert set(nucleolus(largest).charges.values()) == {Fraction(1, n - 1)}
    with pytest.raises(Refused, match="bad_field: 11 players"):
        nucleolus(Game(tuple(map(str, range(n))), [0] * 2**n))


def test_a_sampled_airport_of_a_hundred_is_within_its_bounds():
    case = FACTS["airport_100"]
    sizes = {}
    for size, count in enumerate(case["players_of_size_1_to_10"], 1):
        sizes |= {f"{size}-{number}": size for number in range(count)}
    ranges = {name: (0, size) for name, size in sizes.items()}
    found = sampled_shapley(lambda players: max(map(sizes.__getitem__, players), default=0), ranges, 300, b"seed")
    assert sum(estimate.value for estimate in found.values()) == 10
    for name, size in sizes.items():
        error = abs(found[name].value - Fraction(case["shapley_by_size"][str(size)]))
        assert error <= found[name].bound
    # Per range: sqrt(ln(2 · 100 / 0.05) / (2 · 300)), and hardly more.
    exact = math.sqrt(math.log(4000) / 600)
    assert exact <= found["1-0"].bound < exact + 1e-11
    assert found["10-0"].bound == 10 * found["1-0"].bound


def test_a_bound_holds_as_often_as_it_says():
    """With ten samples and a risk of a half, bounds that hold at once in at least half of two hundred draws."""
    played = glove_game()
    cost = {frozenset(played.members(mask)): cost for mask, cost in enumerate(played.costs)}
    true = shapley(played)
    held = 0
    for seed in range(200):
        found = sampled_shapley(cost.__getitem__, dict.fromkeys(true, (-1, 0)), 10, b"%d" % seed, risk=Fraction(1, 2))
        held += all(abs(estimate.value - true[name]) <= estimate.bound for name, estimate in found.items())
    assert held >= 100


def test_a_sample_depends_on_its_seed_and_on_nothing_else():
    sizes = {"a": 1, "b": 2, "c": 4}

    def sampled(names: str, seed: bytes):
        ranges = {name: (0, sizes[name]) for name in names}
        return sampled_shapley(lambda each: max(map(sizes.__getitem__, each), default=0), ranges, 7, seed)

    assert sampled("abc", b"1") == sampled("cba", b"1")
    assert len({tuple(sampled("abc", b"%d" % seed).values()) for seed in range(9)}) > 1


def test_an_order_is_that_of_hashes_so_that_anybody_finds_the_same():
    found = sampled_shapley(lambda each: 2 ** len(each), dict.fromkeys("abcde", (1, 16)), 2, b"root")
    values = dict.fromkeys("abcde", 0)
    for sample in (b"0", b"1"):
        order = sorted(values, key=lambda name: hashlib.sha256(b"root|%b|%b" % (sample, name.encode())).digest())
        values = {name: value + 2 ** order.index(name) for name, value in values.items()}
    assert {name: 2 * estimate.value for name, estimate in found.items()} == values


@st.composite
def tariffs(draw):
    ends = sorted(draw(st.sets(st.fractions(1, 20, max_denominator=3), max_size=3)))
    prices = [draw(st.fractions(0, 9, max_denominator=4)) for _ in range(len(ends) + 1)]
    return Tariff(draw(st.fractions(0, 30, max_denominator=2)), tuple(map(Block, [*ends, None], prices)))


@given(tariffs(), st.dictionaries(st.sampled_from("abcdef"), st.fractions(0, 12, max_denominator=3), min_size=1))
def test_what_a_demand_adds_to_a_tariff_is_in_its_range_and_reaches_both_ends(tariff, demand):
    everything = sum(demand.values())
    ranges = {name: tariff.adds(units, everything - units) for name, units in demand.items()}
    found = sampled_shapley(lambda each: tariff.cost(sum(map(demand.__getitem__, each))), ranges, 3, b"root")
    assert sum(each.value for each in found.values()) == tariff.cost(everything)
    units, others = next(iter(demand.values())), everything - next(iter(demand.values()))
    low, high = tariff.adds(units, others)
    added = [tariff.cost(at + units) - tariff.cost(at) for at in (others * Fraction(part, 60) for part in range(61))]
    assert low <= min(added)
    assert max(added) <= high


def test_a_tariff_costs_what_its_blocks_do():
    tariff = Tariff(
        Fraction(500), (Block(Fraction(100), Fraction(9)), Block(Fraction(150), Fraction(6)), Block(None, Fraction(5)))
    )
    assert [tariff.cost(units) for units in (0, 1, 100, 101, 150, 160)] == [0, 509, 1400, 1406, 1700, 1750]
    assert tariff.adds(0, 50) == (0, 0)
    assert tariff.adds(10, 0) == (590, 590)
    assert tariff.adds(10, 200) == (50, 590)
    up = Tariff(
        Fraction(0), (Block(Fraction(10), Fraction(1)), Block(Fraction(20), Fraction(7)), Block(None, Fraction(2)))
    )
    assert up.adds(10, 5) == (10, 10 * 7 - 5 * 6)
    assert up.adds(10, 30) == (10, 70)  # Dearest where both its ends are at a kink.
    for blocks in (
        (),
        (Block(Fraction(1), Fraction(1)),),
        (Block(None, Fraction(1)),) * 2,
        (Block(Fraction(0), Fraction(1)), Block(None, Fraction(1))),
    ):
        with pytest.raises(Refused, match="each block of a tariff ends behind the one before it"):
            Tariff(Fraction(0), blocks)


def test_the_bound_of_a_sampled_tariff_holds():
    demand = {name: number for number, name in enumerate("abcdefg", 1)}
    tariff = Tariff(Fraction(40), (Block(Fraction(9), Fraction(12)), Block(None, Fraction(4))))
    true = shapley(game(list(demand), lambda each: tariff.cost(sum(map(demand.__getitem__, each)))))
    everything = sum(demand.values())
    ranges = {name: tariff.adds(units, everything - units) for name, units in demand.items()}
    found = sampled_shapley(lambda each: tariff.cost(sum(map(demand.__getitem__, each))), ranges, 400, b"root")
    assert all(abs(found[name].value - true[name]) <= found[name].bound for name in demand)
    assert any(found[name].value != true[name] for name in demand)


def test_what_cannot_be_sampled_is_refused():
    def cost(players: frozenset[str]) -> int:
        return len(players)

    for ranges, samples, risk in (
        ({"a": (0, 1)}, 0, "1/2"),
        ({"a": (0, 1)}, 1, 0),
        ({"a": (0, 1)}, 1, 1),
        ({}, 1, "1/2"),
    ):
        with pytest.raises(Refused, match="bad_field: one sample at least"):
            sampled_shapley(cost, ranges, samples, b"", Fraction(risk))
    for low, high in ((2, 3), (-1, 0)):
        with pytest.raises(Refused, match="bad_field: a adds 1, which is not in its range"):
            sampled_shapley(cost, {"a": (low, high)}, 1, b"")
    assert sampled_shapley(cost, {"a": (1, 1)}, 1, b"") == {"a": (1, 0)}


def test_a_table_by_which_all_together_cost_nothing_divides_nothing():
    with pytest.raises(Refused, match="bad_field: by the table all together cost nothing"):
        by_table("shapley", {frozenset({"acme"}): 0})
    assert by_table("shapley", {frozenset({"acme"}): 3}) == {"acme": 1}
