"""Who pays whom: the fewest transfers there are, and the same ones for everybody who computes them."""

import json
import random
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import slowness

from shared_models.rules.netting import EXACT, net_transfers

CASES = json.loads((Path(__file__).parent.parent / "vectors" / "facts" / "netting.json").read_text())["cases"]


def balanced(amounts: list[int]) -> dict[str, int]:
    amounts = [*amounts[:-1], -sum(amounts[:-1])]
    return {f"m{number:04}": amount for number, amount in enumerate(amounts)}


few = st.lists(st.integers(-6, 6), min_size=1, max_size=8).map(balanced)
many = st.lists(st.integers(-1000, 1000), min_size=EXACT, max_size=40).map(balanced)


def paid(nets: dict[str, int]) -> list[tuple[str, str, int]]:
    return [(each.payer, each.payee, each.amount) for each in net_transfers(nets)]


def one_by_one(nets: dict[str, int]) -> list[tuple[str, str, int]]:
    """Greedy, as it is said: the largest debtor pays the largest creditor, and everything is looked at again."""
    left, transfers = dict(nets), []
    while any(left.values()):
        payer = min(left, key=lambda member: (left[member], member))
        payee = min(left, key=lambda member: (-left[member], member))
        amount = min(-left[payer], left[payee])
        transfers.append((payer, payee, amount))
        left[payer] += amount
        left[payee] -= amount
    return transfers


def fewest(nets: dict[str, int]) -> int:
    """By trying every payment that settles one of two parties."""

    @cache
    def search(left: tuple[int, ...]) -> int:
        if not left:
            return 0
        first, *rest = left
        tried = []
        for number, other in enumerate(rest):
            if first * other < 0:
                after = [*rest[:number], first + other, *rest[number + 1 :]]
                tried.append(1 + search(tuple(sorted(net for net in after if net))))
        return min(tried)

    return search(tuple(sorted(net for net in nets.values() if net)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(list(case["nets"].values())))
def test_published_cases(case):
    assert len(paid(case["nets"])) == case["transfers"]


@given(few)
def test_there_is_no_way_with_fewer_transfers(nets):
    assert len(paid(nets)) == fewest(nets)


@given(st.one_of(few, many))
def test_every_net_is_settled_by_fewer_transfers_than_parties(nets):
    left = dict(nets)
    for payer, payee, amount in paid(nets):
        assert amount > 0
        assert nets[payer] < 0 < nets[payee]
        left[payer] += amount
        left[payee] -= amount
    assert not any(left.values())
    assert len(paid(nets)) <= max(0, sum(1 for net in nets.values() if net) - 1)


@given(st.one_of(few, many), st.randoms())
def test_the_order_of_parties_does_not_matter(nets, random):
    mixed = list(nets.items())
    random.shuffle(mixed)
    assert net_transfers(dict(mixed)) == net_transfers(nets)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=3).map(balanced))
def test_up_to_three_parties_the_largest_debtor_pays_the_largest_creditor(nets):
    assert paid(nets) == one_by_one(nets)


@given(many.filter(lambda nets: sum(1 for net in nets.values() if net) > EXACT))
def test_beyond_fourteen_parties_too(nets):
    assert paid(nets) == one_by_one(nets)


KNOT = {"a": -4, "b": -3, "c": -2, "d": 4, "e": 5}


def test_greedy_alone_would_need_more():
    assert one_by_one(KNOT) == [("a", "e", 4), ("b", "d", 3), ("c", "d", 1), ("c", "e", 1)]
    assert paid(KNOT) == [("a", "d", 4), ("b", "e", 3), ("c", "e", 2)]


def test_fourteen_parties_settle_with_the_fewest_and_fifteen_as_one_group():
    pairs = {f"{side}{number}": sign * (1000 + number) for number in range(5) for side, sign in (("u", -1), ("v", 1))}
    three = {"x": -70, "y": -50, "z": 120}
    fourteen = KNOT | dict(list(pairs.items())[:6]) | three | {"nobody": 0}
    assert len(paid(fourteen)) == 3 + 3 + 2
    assert len(paid(KNOT | pairs)) == 4 + 5
    assert paid(KNOT | pairs) == one_by_one(KNOT | pairs)


def test_a_thousand_parties_settle_at_once():
    draw = random.Random(1)
    nets = balanced([draw.randint(-(10**8), 10**8) for _ in range(1000)])
    started = time.process_time()
    transfers = net_transfers(nets)
    spent = time.process_time() - started
    assert spent < 0.25 * slowness()  # 50 ms, with room for a busy machine: `python -m bench.money`.
    assert len(transfers) <= 999
