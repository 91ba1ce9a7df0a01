"""A member enters a cost that it did not have, or one dearer than it need be, or its own machines at its own price."""

from fractions import Fraction

import pytest
from world import World

from shared_models.records.kinds import FIRST, Dispute, Resolution
from shared_models.records.refusals import Refusal, Refused


def due(world: World, member: str) -> Fraction:
    last = {each.member: each.carry for each in world.books.statements[-1].balances}
    nets = sum(each.net for bill in world.books.statements for each in bill.balances if each.member == member)
    return nets + last[member]


def test_its_own_machines_have_the_price_of_all():
    world = World()
    with pytest.raises(Refused) as caught:
        world.say("acme/admin", world.item("acme", 500, "machines", pot="compute"))
    assert caught.value.refusal is Refusal.WRONG_ITEM


def test_what_is_dearer_than_it_need_be_costs_its_buyer_a_part_of_what_it_is_dearer():
    nets = []
    for minor in (900, 1800):
        world = World()
        world.say("acme/admin", world.item("acme", minor))
        world.bill()
        nets.append(due(world, "acme") - minor)
    assert nets[1] - nets[0] == -300


@pytest.mark.parametrize("billed", [False, True])
def test_what_was_invented_is_disputed_and_void_and_then_it_was_for_nothing(billed):
    world = World()
    world.say("acme/admin", world.item("acme", 900))
    if billed:
        world.bill("2026-11")
        assert due(world, "acme") == 600  # As long as nobody looks.
    about = "item/acme/hosting"
    first = world.say("birch/admin", Dispute(seq=0, prev=FIRST, member="birch", about=about, reason="no invoice"))
    for by, outcome in (("acme", "stands"), ("birch", "void"), ("cedar", "void")):
        said = Resolution(seq=0, prev=FIRST, member=by, about=about, dispute=first, outcome=outcome, reason="")
        world.say(f"{by}/admin", said)
    world.bill("2026-12")
    assert [due(world, name) for name in world.members] == [0, 0, 0]


def test_it_cannot_rule_alone_that_what_it_invented_stands():
    world = World()
    world.say("acme/admin", world.item("acme", 900))
    about = "item/acme/hosting"
    first = world.say("birch/admin", Dispute(seq=0, prev=FIRST, member="birch", about=about, reason="no invoice"))
    said = Resolution(seq=0, prev=FIRST, member="acme", about=about, dispute=first, outcome="stands", reason="")
    world.say("acme/admin", said)
    world.bill()
    assert due(world, "acme") == 0
