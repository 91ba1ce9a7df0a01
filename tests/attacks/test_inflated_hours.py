"""A member says that its work took longer than it did."""

from world import World


def test_hours_are_not_paid():
    bills = []
    for longer in (1, 10):
        world = World()
        world.start()
        world.say(world.coordinator, world.opened())
        said = {"busy_ms": 900 * longer, "wall_ms": 1_200 * longer, "cpu_ms": 1_000 * longer}
        said["ended_ms"] = 1_000_500 + 1_200 * longer
        included = {name: world.say(f"{name}/compute", world.receipt(name)) for name in ("birch", "cedar")}
        included["acme"] = world.say("acme/compute", world.receipt("acme", **said))
        world.say(world.coordinator, world.close(included))
        bill = world.statement()
        bills.append((bill.lines, bill.balances))
    assert bills[0] == bills[1]
