"""A member becomes several, or two become one, to pay less or to have more votes."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, member, pot

from shared_models.records.kinds import FIRST, Amendment, Vote
from shared_models.records.refusals import Refusal, Refused

POTS = (pot("compute", "proportional"), pot("services", "proportional"))


def due(world: World, *names: str) -> Fraction:
    bill = world.statement()
    return sum((each.net + each.carry for each in bill.balances if each.member.startswith(names)), Fraction(0))


def billed(benefits: dict[str, int], pots=POTS) -> World:
    """All train but the parts of acme behind the first; birch pays for all."""
    world = World(benefits, pots=pots)
    world.members = [each for each in world.members if not each.startswith("acme-")]
    world.start()
    world.round()
    world.say("birch/admin", world.item("birch", 10_00))
    return world


def amend(world: World, changed) -> str:
    record = Amendment(
        seq=0, prev=FIRST, member="acme", amendment="a", replaces=world.books.agreement.hash, charter=changed
    )
    return world.say("acme/admin", record)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=7), st.integers(1, 9))
def test_where_all_is_by_benefit_its_parts_pay_what_it_would(parts, first):
    split = {"acme": first, **{f"acme-{number}": part for number, part in enumerate(parts)}, "birch": 3, "cedar": 4}
    whole = {"acme": first + sum(parts), "birch": 3, "cedar": 4}
    assert due(billed(split), "acme") == due(billed(whole), "acme")


def test_in_an_equal_pot_each_part_pays_as_a_member_does():
    equal = (pot("compute", "proportional"), pot("services", "equal"))
    split = due(billed({"acme": 1, "acme-2": 1, "birch": 1}, equal), "acme")
    assert due(billed({"acme": 2, "birch": 1}, equal), "acme") - split == 1000 * (Fraction(2, 3) - Fraction(1, 2))


def test_two_members_cannot_become_one():
    world = World()
    fewer = replace(world.charter, members=tuple(each for each in world.charter.members if each.name != "birch"))
    with pytest.raises(Refused) as caught:
        amend(world, fewer)
    assert caught.value.refusal is Refusal.WRONG_CHARTER


def test_it_brings_in_others_that_vote_for_it_and_has_one_vote_for_that():
    world = World()
    more = (*world.charter.members, member("zebra", 0), member("zulu", 0))
    hashed = amend(world, replace(world.charter, members=more, approvals=3))
    said = Vote(seq=0, prev=FIRST, member="acme", amendment=hashed, choice="yes")
    world.say("acme/admin", said)
    with pytest.raises(Refused) as caught:
        world.say("acme/admin", said)
    assert caught.value.refusal is Refusal.CONFLICT
    with pytest.raises(Refused) as caught:
        world.say("zebra/admin", replace(said, member="zebra"))
    assert caught.value.refusal is Refusal.UNKNOWN_KEY
    assert world.books.agreement.present() == ("acme", "birch", "cedar")
