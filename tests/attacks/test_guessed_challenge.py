"""A member tries to know which segment will be asked for before it signs, or an auditor to ask for another one."""

from dataclasses import replace

import pytest
from world import World, digest

from shared_models.records import entry as entries
from shared_models.records.merkle import Tree, leaf_hash
from shared_models.records.refusals import Refused
from shared_models.rules.challenge import drawn

CLOSES = 400


def test_who_tries_receipts_until_one_is_not_drawn_by_what_it_knows_is_drawn_as_often_as_others():
    """It knows every head of the log so far; what draws is the root behind the close, which no head has shown it."""
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    heads = [world.books.tree.root(size) for size in range(1, world.books.tree.size + 1)]
    for busy_ms in range(900):
        leaf = world.sign("birch/compute", world.receipt("birch", busy_ms=busy_ms))
        if not any(drawn(head, leaf_hash(leaf).hex(), 2) is not None for head in heads):
            break
    hashed = world.append(leaf)
    assert all(drawn(head, hashed, 2) is None for head in heads)
    hashes = {name: world.say(f"{name}/compute", world.receipt(name)) for name in ("acme", "cedar")} | {"birch": hashed}
    before = world.hashes()
    asked = [drawn(_root(before, world, hashes, loss), hashed, 2) for loss in range(CLOSES)]
    counted = sum(each is not None for each in asked)
    assert 5 <= counted <= 40  # One in twenty is 20; these are further off than once in ten thousand times.
    assert {0, 1} <= set(asked)


def _root(before, world, hashes, loss) -> bytes:
    """Of the log with this close behind it."""
    tree = Tree()
    tree.extend([*before, leaf_hash(world.sign(world.coordinator, world.close(hashes, loss_unats=loss)))])
    return tree.root()


def test_a_member_cannot_choose_after_the_draw():
    """Another receipt for the round, once it is drawn, is refused, and the log keeps both as evidence."""
    world = World()
    world.start()
    world.drawn("birch")
    first = next(entries.peek(leaf) for leaf in world.leaves if b'"member":"birch"' in leaf and b"/receipt@" in leaf)
    with pytest.raises(Refused, match="conflict"):
        world.say("birch/compute", replace(first, trajectory=digest("a better one")))


def test_an_auditor_does_not_pick():
    world = World()
    world.start()
    world.drawn("birch")
    (found,) = world.books.challenges(("r1", 1, "birch"))
    for changes in ({"segment": 1 - found.segment}, {"size": found.size - 1}, {"member": "cedar"}):
        with pytest.raises(Refused, match="not_drawn"):
            world.say("acme/compute", world.result(found, "acme", **changes))
