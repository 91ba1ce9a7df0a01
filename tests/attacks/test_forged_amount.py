"""Somebody changes one number of a bill in a copy of the log."""

from dataclasses import replace

import pytest
from world import CONSORTIUM, World, november

from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit


def test_the_audit_names_the_line_and_both_numbers():
    world = november()
    bill = world.books.statements[0]
    victim = bill.balances[0]
    old, new = (f'"member":"acme","net":{net}'.encode() for net in (victim.net, victim.net - 100))
    at = next(i for i, each in enumerate(world.leaves) if b"/statement@v1" in each)
    leaves = [*world.leaves[:at], world.leaves[at].replace(old, new), *world.leaves[at + 1 :]]
    report = audit(leaves, world.head(), world.hashes(), charter=world.books.charter_hash)
    assert [finding.refusal for finding in report.findings] == [
        Refusal.CORRUPT,
        Refusal.BAD_SIGNATURE,
        Refusal.WRONG_STATEMENT,
    ]
    assert report.findings[-1].detail == (
        f"statement 2026-11, balance acme: net stated {victim.net - 100}, recomputed {victim.net}"
    )


def test_the_ledger_refuses_such_a_statement_though_the_administrator_signed_it():
    world = World()
    world.start()
    world.round()
    bill = world.statement()
    lie = replace(bill, balances=(replace(bill.balances[0], net=-1), *bill.balances[1:]))
    with pytest.raises(Refused) as caught:
        world.say(f"{CONSORTIUM}/admin", lie)
    assert caught.value.refusal is Refusal.WRONG_STATEMENT
