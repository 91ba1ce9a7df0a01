"""Receipts that a close takes for rounds before its own: each once, of whom it is, and not too late."""

from dataclasses import replace

import pytest
from world import World, counted, digest

from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt, RoundClose
from shared_models.records.refusals import Refusal, Refused


def late_world(late: int = 1) -> tuple[World, Receipt]:
    """A round is over in which cedar answered too late; the next one is open."""
    world = World()
    world.start(late=late)
    world.say(world.coordinator, world.opened())
    said = world.receipt("cedar")
    world.say(world.coordinator, world.close(answered(world, "acme", "birch")))
    world.say(world.coordinator, world.opened())
    return world, said


def answered(world: World, *members: str) -> dict[str, str]:
    """The receipts of these members for the open round, by member."""
    return {member: world.say(f"{member}/compute", world.receipt(member)) for member in members}


def refuses(world: World, close: RoundClose, refusal: Refusal) -> None:
    with pytest.raises(Refused) as caught:
        world.books.check(
            entries.open_leaf(world.sign(world.coordinator, close), world.charter.consortium, world.books.keys)
        )
    assert caught.value.refusal is refusal


def flop(world: World) -> dict[str, bool]:
    return {balance.member: balance.flop > 0 for balance in world.statement().balances}


def test_a_close_takes_a_late_receipt_once_and_it_earns():
    world, said = late_world()
    hashed = world.say("cedar/compute", said)
    good = world.close(answered(world, "acme", "birch"), late=(counted("cedar", hashed),))
    for late, refusal in [
        ((counted("acme", hashed),), Refusal.WRONG_RECEIPT),
        ((counted("cedar", digest("none")),), Refusal.WRONG_RECEIPT),
        ((counted("cedar", hashed), counted("cedar", hashed)), Refusal.WRONG_RECEIPT),
        ((counted("cedar", hashed, 10**9),), Refusal.BAD_FIELD),
        ((counted("cedar", good.included[0].receipt),), Refusal.WRONG_RECEIPT),
    ]:
        refuses(world, replace(good, late=late), refusal)
    world.say(world.coordinator, good)
    assert flop(world) == {"acme": True, "birch": True, "cedar": True}
    assert [each.closed.flop for each in world.books.runs["r1"].rounds] == [2 * said.flop, 3 * said.flop]
    world.say(world.coordinator, world.opened())
    refuses(world, world.close(answered(world, "acme", "birch"), late=good.late), Refusal.WRONG_RECEIPT)


def test_a_receipt_that_stood_in_the_log_when_its_round_closed_may_count_late_too():
    world = World()
    world.start(late=1)
    world.say(world.coordinator, world.opened())
    hashes = answered(world, "acme", "birch", "cedar")
    late = hashes.pop("cedar")
    world.say(world.coordinator, world.close(hashes))
    world.say(world.coordinator, world.opened())
    world.say(world.coordinator, world.close(answered(world, "acme", "birch"), late=(counted("cedar", late),)))
    assert flop(world)["cedar"]


def test_an_answer_is_not_taken_later_than_the_manifest_says():
    world, said = late_world(late=1)
    hashed = world.say("cedar/compute", said)
    world.say(world.coordinator, world.close(answered(world, "acme", "birch")))
    world.say(world.coordinator, world.opened())
    close = world.close(answered(world, "acme", "birch"), late=(counted("cedar", hashed),))
    refuses(world, close, Refusal.WRONG_RECEIPT)
    none, said = late_world(late=0)
    late = counted("cedar", none.say("cedar/compute", said))
    refuses(none, none.close(answered(none, "acme", "birch"), late=(late,)), Refusal.WRONG_RECEIPT)


def test_late_answers_make_a_quorum_too():
    world, said = late_world()
    hashed = world.say("cedar/compute", said)
    moved = {"checkpoint": digest("moved"), "late": (counted("cedar", hashed),)}
    refuses(world, world.close({}, **moved | {"late": ()}), Refusal.WRONG_CHECKPOINT)
    world.say(world.coordinator, world.close(answered(world, "acme"), **moved))
    assert world.books.runs["r1"].checkpoint == digest("moved")
