"""Answers that do not come in time for their round: they count in a later one, for less, and earn like any other."""

from dataclasses import replace

import pytest
from world import TOY

from client.steps import logged, repeat
from consortium.simulate import Result, simulate
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records.kinds import Receipt, RoundClose

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
