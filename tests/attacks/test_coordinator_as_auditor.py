"""A coordinator that audits says more than it may: of what the log did not draw, in another's name, or twice."""

import pytest
from world import CONSORTIUM, World

from shared_models.records.refusals import Refused
from shared_models.rules.challenge import Challenge


@pytest.fixture
def drawn() -> tuple[World, Challenge]:
    world = World()
    world.start()
    world.drawn("birch")
    (found,) = world.books.challenges(("r1", 1, "birch"))
    return world, found


def test_it_picks_nothing_that_the_log_did_not_draw(drawn):
    world, found = drawn
    others = [each for each in world.books.challenges() if each.segment is None]
    lies = [{"segment": 1 - (found.segment or 0)}, {"size": found.size - 1}, {"member": "cedar"}, {"round": 2}]
    for changes in [*lies, *({"member": each.member, "receipt": each.receipt} for each in others)]:
        with pytest.raises(Refused, match="not_drawn"):
            world.say(world.coordinator, world.result(found, CONSORTIUM, **changes))
    assert world.books.results == []


def test_it_neither_speaks_as_a_member_nor_lets_one_speak_for_it(drawn):
    world, found = drawn
    for author, auditor in (
        (world.coordinator, "acme"),
        ("acme/compute", CONSORTIUM),
        (f"{CONSORTIUM}/admin", CONSORTIUM),
    ):
        with pytest.raises(Refused, match="wrong_role"):
            world.say(author, world.result(found, auditor))


def test_what_it_has_found_it_does_not_take_back(drawn):
    """Nor does it audit itself: it has no work that earns, so the log draws none of it."""
    world, found = drawn
    with pytest.raises(Refused, match="wrong_member"):
        world.say(world.coordinator, world.result(found, CONSORTIUM, member=CONSORTIUM))
    world.say(world.coordinator, world.result(found, CONSORTIUM, verdict="differs", distance_ppm=999_999))
    with pytest.raises(Refused, match="conflict"):
        world.say(world.coordinator, world.result(found, CONSORTIUM))
    assert [each.verdict for _, each in world.books.results] == ["differs"]
