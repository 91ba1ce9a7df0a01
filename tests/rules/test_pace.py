"""How many steps each member is asked for, by what the log says of its speed."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World

from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.pace import checked, speeds, steps

MEMBERS = ("acme", "birch", "cedar")


@pytest.fixture(scope="module")
def receipt():
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    return world.receipt("acme")


def test_a_members_speed_is_that_of_its_newest_run(receipt):
    old = replace(receipt, run="r0", flop=1, busy_ms=1_000)
    said = [
        old,
        replace(receipt, flop=600, busy_ms=100),
        replace(receipt, member="birch", flop=50, busy_ms=0),
        replace(receipt, round=2, flop=600, busy_ms=300),
        replace(old, member="cedar"),
    ]
    assert speeds(said) == {"acme": Fraction(3), "birch": Fraction(50), "cedar": Fraction(1, 1000)}


def test_the_fastest_trains_the_most_and_others_in_proportion():
    assert steps(MEMBERS, 40, {}) == ()
    assert steps(MEMBERS, 40, {}, {"acme": Fraction(4), "birch": Fraction(1), "cedar": Fraction(3)}) == (40, 10, 30)
    assert steps(MEMBERS, 40, {}, dict.fromkeys(MEMBERS, Fraction(7))) == ()
    assert steps(MEMBERS, 40, {}, dict.fromkeys(MEMBERS, Fraction(7)) | {"acme": Fraction(1, 1000)}) == (1, 40, 40)


def test_who_is_named_trains_so_many():
    assert steps(MEMBERS, 40, {"birch": 10}) == (40, 10, 40)
    assert steps(MEMBERS, 40, dict.fromkeys(MEMBERS, 40)) == ()
    fast = {"acme": Fraction(9), "cedar": Fraction(3)}
    assert steps(MEMBERS, 9, {"birch": 2}, fast) == (9, 2, 3)
    assert steps(MEMBERS, 9, {"acme": 2, "birch": 2}, fast) == (2, 2, 9)  # The fastest of the others.


def test_who_is_no_member_or_has_no_speed_is_named():
    for named, told, refusal, why in (
        ({"dogwood": 3}, None, Refusal.WRONG_MEMBER, "steps of dogwood; the run's members: acme, birch, cedar"),
        ({}, {"acme": Fraction(1), "birch": Fraction(1)}, Refusal.INFEASIBLE, "cedar is: name its steps, --steps ced"),
        ({}, dict.fromkeys(MEMBERS, Fraction(0)), Refusal.INFEASIBLE, "how fast acme is"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            steps(MEMBERS, 40, named, told)
        assert caught.value.refusal is refusal


def test_a_manifest_is_held_against_the_receipts_before_it_and_no_later_ones(receipt):
    run = World().manifest()
    most, members = run.recipe.inner_steps, run.members
    assert (most, members) == (3, MEMBERS)
    every = [
        replace(receipt, member=member, flop=flop, busy_ms=1) for member, flop in zip(members, (3, 2, 1), strict=True)
    ]
    slower = replace(receipt, run="r2", flop=1, busy_ms=2)
    said = [run, None, *every, replace(run, run="r2", steps=(3, 2, 1)), slower, replace(run, run="r3", steps=(3, 1, 1))]
    found = list(checked(said))
    assert [(each.entry, each.run) for each in found] == [(0, "r1"), (5, "r2"), (7, "r3")]
    assert [tuple(each.asked.values()) for each in found] == [(3, 3, 3), (3, 2, 1), (3, 1, 1)]
    assert [dict(each.paced) for each in found] == [
        {},
        {"acme": 3, "birch": 2, "cedar": 1},
        {"acme": 1, "birch": 3, "cedar": 1},
    ]


def test_of_members_that_are_as_fast_none_is_asked_for_less_whatever_the_manifest_says(receipt):
    run = replace(World().manifest(), steps=(3, 1, 2))
    (found,) = checked([*(replace(receipt, member=member) for member in ("acme", "birch")), run])
    assert found.paced == {"acme": 3, "birch": 3}  # Of cedar nothing is known.


@given(st.tuples(*3 * [st.fractions(min_value=Fraction(1, 1000), max_value=1000)]), st.integers(1, 500))
def test_nobody_takes_longer_than_the_fastest_but_for_one_step(fractions, most):
    told = dict(zip(MEMBERS, fractions, strict=True))
    found = steps(MEMBERS, most, {}, told) or 3 * (most,)
    assert max(found) == most
    ends = most / max(fractions)
    for own, speed in zip(found, fractions, strict=True):
        assert own == 1 or own / speed <= ends < (own + 1) / speed
