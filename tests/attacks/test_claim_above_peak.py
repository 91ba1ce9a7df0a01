"""A member claims more work than was asked for, or than its machine can do."""

import pytest
from world import World

from shared_models.records.refusals import Refusal, Refused


@pytest.mark.parametrize(
    ("times", "changed"),
    [
        (10, ("tokens", "steps", "flop")),  # More tokens than the round asked for,
        (10, ("tokens", "flop")),  # or than its steps hold,
        (10, ("flop",)),  # or more work for each.
    ],
)
def test_more_work_than_was_asked_for(times, changed):
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    honest = world.receipt("acme")
    lie = world.receipt("acme", **{name: times * getattr(honest, name) for name in changed})
    with pytest.raises(Refused) as caught:
        world.say("acme/compute", lie)
    assert caught.value.refusal in (Refusal.IMPLAUSIBLE, Refusal.WRONG_FLOP)


def test_all_that_was_asked_for_in_less_time_than_its_machine_takes_at_its_peak():
    world = World()
    world.start(recipe=World().manifest().recipe)
    world.say(world.coordinator, world.opened())
    honest = world.receipt("acme")
    peak = world.charter.devices[0].peak_flops
    assert honest.flop <= peak * honest.wall_ms // 1000
    with pytest.raises(Refused) as caught:
        world.say("acme/compute", world.receipt("acme", busy_ms=0, wall_ms=0, ended_ms=honest.started_ms))
    assert (caught.value.refusal, "above the peak" in caught.value.detail) == (Refusal.IMPLAUSIBLE, True)
