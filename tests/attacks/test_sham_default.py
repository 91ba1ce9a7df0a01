"""Somebody is to be declared in default that is not, or a debt is to vanish that is one."""

import pytest
from world import World

from shared_models.records.kinds import FIRST, Default, Settlement
from shared_models.records.refusals import Refusal, Refused

PERIOD = "2026-11"


def billed() -> World:
    """birch has paid for all: acme and cedar each owe it 1.00."""
    world = World()
    world.say("birch/admin", world.item("birch", 300))
    world.bill(PERIOD)
    return world


def blame(world: World, member: str, defaulter: str) -> None:
    named = {"member": member, "period": PERIOD, "defaulter": defaulter, "reason": "it owes"}
    world.say(f"{member}/admin", Default(seq=0, prev=FIRST, netting=0, **named))


def paid(world: World, member: str, payer: str, amount: int = 100) -> None:
    named = {"member": member, "period": PERIOD, "payer": payer, "payee": "birch", "amount": amount}
    world.say(f"{member}/admin", Settlement(seq=0, prev=FIRST, netting=0, **named))


def refused(action, *arguments) -> Refusal:
    with pytest.raises(Refused) as caught:
        action(*arguments)
    return caught.value.refusal


def test_a_creditor_is_declared_in_default():
    world = billed()
    assert refused(blame, world, "acme", "birch") is Refusal.NOT_OWED


def test_who_has_paid_is_declared_in_default():
    world = billed()
    blame(world, "acme", "cedar")
    paid(world, "cedar", "cedar")
    paid(world, "birch", "cedar")
    assert refused(blame, world, "birch", "cedar") is Refusal.NOT_OWED
    assert world.books.accounts.settlements.defaulters(PERIOD) == ()


def test_one_member_alone_declares_another_in_default():
    world = billed()
    blame(world, "acme", "cedar")
    record = Default(
        seq=0, prev=FIRST, member="birch", period=PERIOD, netting=0, defaulter="cedar", reason="in another's name"
    )
    assert refused(world.say, "acme/admin", record) is Refusal.WRONG_MEMBER
    assert refused(blame, world, "acme", "cedar") is Refusal.CONFLICT
    assert world.books.accounts.settlements.defaulters(PERIOD) == ()


def test_a_debtor_says_that_it_has_paid_and_nobody_has_seen_it():
    world = billed()
    paid(world, "cedar", "cedar")
    assert {each.payer for each in world.books.accounts.settlements.open(PERIOD)} == {"acme", "cedar"}
    for member in ("acme", "birch"):
        blame(world, member, "cedar")
    assert world.books.accounts.settlements.defaulters(PERIOD) == ("cedar",)
    (left,) = world.books.accounts.settlements.open(PERIOD)
    assert (left.payer, left.payee, left.amount) == ("acme", "birch", 167)  # 100, and two thirds of cedar's.


def test_a_debtor_pays_less_than_it_owes():
    assert refused(paid, billed(), "cedar", "cedar", 99) is Refusal.NOT_OWED
