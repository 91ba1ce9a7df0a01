"""Those who hold the log's key and the administrator's change a bill, and hash and sign everything again."""

from dataclasses import replace

from world import CONSORTIUM, World, key, november

from shared_models.records import entry as entries
from shared_models.records import merkle, tlog
from shared_models.records.refusals import Refusal
from shared_models.rules.audit import Report, Witnessed, audit


def rebuilt(world: World, leaves: list[bytes], **more) -> Report:
    """The audit of a log of these leaves, freshly hashed and signed by the log's own key."""
    tree = merkle.Tree()
    for leaf in leaves:
        tree.append(merkle.leaf_hash(leaf))
    head = tlog.TreeHead(f"{CONSORTIUM}/log", tree.size, tree.root()).sign(key(f"{CONSORTIUM}/log"))
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    return audit(leaves, head, hashes, charter=world.books.charter_hash, **more)


def test_the_recomputed_bill_is_another():
    world = november()
    bill = world.books.statements[0]
    lie = replace(bill, balances=(replace(bill.balances[0], net=bill.balances[0].net - 100), *bill.balances[1:]))
    leaf = entries.sign(lie, CONSORTIUM, [key(f"{CONSORTIUM}/admin")])
    at = next(i for i, each in enumerate(world.leaves) if b"/statement@v1" in each)
    report = rebuilt(world, [*world.leaves[:at], leaf])
    assert [finding.refusal for finding in report.findings] == [Refusal.WRONG_STATEMENT]


def test_a_receipt_dropped_from_the_middle_leaves_a_gap_in_its_author_s_chain():
    world = november()
    (first, *_) = [i for i, leaf in enumerate(world.leaves) if b"/receipt@v1" in leaf and b"cedar/compute " in leaf]
    report = rebuilt(world, world.leaves[:first] + world.leaves[first + 1 :])
    assert Refusal.SEQUENCE_GAP in {finding.refusal for finding in report.findings}


def test_a_member_s_last_entry_dropped_is_missed_by_who_signed_it():
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    world.say("acme/compute", world.receipt("acme"))
    mine = [leaf for leaf in world.leaves if b"acme/compute " in leaf]
    assert rebuilt(world, world.leaves[:-1]).findings == []  # To a stranger this log is as good as the other.
    (finding,) = rebuilt(world, world.leaves[:-1], mine=mine).findings
    assert (finding.refusal, "receipt r1/1/1" in finding.detail) == (Refusal.NOT_FOUND, True)


def test_a_rewritten_past_is_not_the_one_that_was_witnessed():
    world = november()
    seen = Witnessed(len(world.leaves), world.books.tree.root().hex())
    (finding,) = rebuilt(world, world.leaves[:-1], witnessed=[seen]).findings
    assert finding.refusal is Refusal.FORK
