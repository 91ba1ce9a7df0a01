"""Answers that do not come in time for their round: they count in a later one, for less, and earn like any other."""

from dataclasses import replace

import pytest
from world import TOY, World, counted, digest

from client.steps import logged, repeat
from consortium.simulate import Result, simulate
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt, RoundClose
from shared_models.records.refusals import Refusal, Refused

FOUR = {"acme": 1, "birch": 1, "cedar": 1, "dogwood": 1}
RECIPE = replace(TOY, outer="nesterov", outer_momentum="0.5", up="int8")


def toy(folder, **more) -> Result:
    return simulate(folder / "parties", FOUR, **{"rounds": 5, "recipe": RECIPE, "deadline_s": 3.0} | more)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """The first run of a process imports half of what there is: no deadline here is spent on that."""
    toy(tmp_path_factory.mktemp("warm"), rounds=1)


def leaves(result: Result) -> list[bytes]:
    return fetch(reader(str(result.founded.ledger / "log"))).leaves


def closes(result: Result) -> list[RoundClose]:
    return [each for leaf in leaves(result) if isinstance(each := entries.peek(leaf), RoundClose)]


def right(result: Result) -> bool:
    """Whether the bill is, and anyone comes to the same checkpoints."""
    assert result.report.findings == []
    found = list(repeat(logged(leaves(result), "r1"), result.founded.coordinator.path))
    assert [each.wrong for each in found] == [""] * len(found)
    return True


def test_a_late_answer_counts_in_the_next_round_for_less_and_is_paid_like_any_other(tmp_path):
    result = toy(tmp_path, late=2, rounds=4, misbehave={"cedar": 3.5, "dogwood": 1.0})
    assert right(result)
    said = closes(result)
    assert [each.member for close in said for each in close.late] == ["cedar"] * len([c for c in said if c.late])
    assert sum(len(close.late) for close in said) >= 1
    for close in said:
        for each in close.late:
            assert each.judged in ("stale", "clipped")
            assert 0 < each.weight <= close.included[0].weight / 2**0.5 + 1
    counted = {each.receipt for close in said for each in (*close.included, *close.late)}
    work = {balance.member: balance.flop for balance in result.bill.balances}
    assert work["cedar"] > 0
    assert result.report.accepted == len(counted)


def test_without_that_a_late_answer_is_lost(tmp_path):
    result = toy(tmp_path, late=0, misbehave={"cedar": 4.0}, rounds=2)
    assert right(result)
    assert {balance.member: balance.flop > 0 for balance in result.bill.balances}["cedar"] is False
    assert [close.late for close in closes(result)] == [(), ()]


def test_no_round_waits_for_more_than_a_quorum_and_nobody_who_works_is_asked_again(tmp_path):
    result = toy(tmp_path, rounds=12, wait="quorum", quorum=2, late=9, deadline_s=30, misbehave={"dogwood": 1.0})
    assert right(result)
    assert result.seconds < 20
    said = closes(result)
    assert {len(close.included) + len(close.late) for close in said} <= {2, 3}
    at_work: dict[str, int] = {}
    receipts = [each for leaf in leaves(result) if isinstance(each := entries.peek(leaf), Receipt)]
    assert len({(each.member, each.round) for each in receipts}) == len(receipts)
    for close in said:
        for each in close.excluded:
            assert each.reason == "late"
            assert each.member not in at_work
            at_work[each.member] = close.round
        for each in close.late:
            del at_work[each.member]
    assert result.losses[-1] < result.losses[0]


def test_a_member_that_is_slow_goes_on_from_its_own_memory(tmp_path):
    result = toy(tmp_path, late=3, wait="quorum", quorum=3, rounds=6, deadline_s=20, misbehave={"dogwood": 0.4})
    assert right(result)
    assert len(list(result.founded.member("dogwood").memory_path.rglob("*.memory"))) <= 2


# The books.


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
