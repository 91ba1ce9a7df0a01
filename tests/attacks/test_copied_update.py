"""A member hands in another's update as its own, or its own made larger, to be paid for its effect."""

import pytest
from world import World, digest


@pytest.mark.parametrize("update", ["update birch 1", "its own, ten times as large"])
def test_effect_is_not_paid(update):
    bills = []
    for said in ("update acme 1", update):
        world = World()
        world.start()
        world.say(world.coordinator, world.opened())
        included = {name: world.say(f"{name}/compute", world.receipt(name)) for name in ("birch", "cedar")}
        included["acme"] = world.say("acme/compute", world.receipt("acme", update=digest(said)))
        world.say(world.coordinator, world.close(included))
        bill = world.statement()
        bills.append((bill.lines, bill.balances))
    assert bills[0] == bills[1]
