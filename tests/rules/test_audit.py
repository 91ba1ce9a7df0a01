"""The audit finds nothing in an honest log, and in a dishonest one the entry, the rule and the number."""

from dataclasses import replace

import pytest
from world import CONSORTIUM, World, digest, key, november, whole

from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.kinds import CostItem, Manifest, Receipt, RoundClose, RoundOpen, Statement
from shared_models.records.merkle import EMPTY_ROOT, leaf_hash
from shared_models.records.refusals import Refusal
from shared_models.rules.audit import Audit, Report, Witnessed, audit
from shared_models.rules.skim import skim


def audited(world: World, leaves: list[bytes] | None = None, **more) -> Report:
    """The audit of this world's log by someone who signed its charter, perhaps with other leaves in place."""
    more = {"charter": world.books.charter_hash} | more
    return audit(leaves or world.leaves, world.head(), world.hashes(), **more)


def found(report: Report) -> list[tuple[int | None, Refusal]]:
    return [(finding.index, finding.refusal) for finding in report.findings]


def at(world: World, kind: type, which: int = 0) -> int:
    return [i for i, leaf in enumerate(world.leaves) if isinstance(entries.peek(leaf), kind)][which]


def altered(world: World, index: int, old: bytes, new: bytes) -> list[bytes]:
    leaf = world.leaves[index].replace(old, new, 1)
    assert leaf != world.leaves[index]
    return [*world.leaves[:index], leaf, *world.leaves[index + 1 :]]


def test_an_honest_log_has_no_findings_and_everything_was_counted():
    world = whole()
    report = audited(world)
    assert report.findings == []
    assert (report.entries, report.receipts, report.accepted) == (len(world.leaves), 10, 10)
    assert report.signatures == len(world.leaves) - 1 + len(world.charter_signers())
    assert report.numbers == sum(2 * 6 + 3 * 3 + len(each.transfers) for each in world.books.statements)


def test_a_log_that_has_only_begun_is_right_too():
    assert audited(World()).findings == []


def test_an_empty_log_proves_nothing():
    head = tlog.TreeHead(f"{CONSORTIUM}/log", 0, EMPTY_ROOT).sign(key(f"{CONSORTIUM}/log"))
    assert found(audit([], head, [])) == [(None, Refusal.UNKNOWN_KEY)]


@pytest.mark.parametrize("index", range(71))
def test_a_changed_byte_anywhere_is_found_at_its_entry(index):
    world = whole()
    assert len(world.leaves) == 71
    report = audited(world, altered(world, index, b'":"', b'":"0'))
    assert found(report)[0] == (index, Refusal.CORRUPT)
    assert {finding.index for finding in report.findings[:2]} == {index}


def test_a_forged_receipt_is_named_and_so_is_what_it_would_change():
    world = november()
    index = at(world, Receipt, 1)
    report = audited(world, altered(world, index, b'"tokens":96', b'"tokens":99'))
    assert found(report)[:3] == [
        (index, Refusal.CORRUPT),
        (index, Refusal.BAD_SIGNATURE),
        (index, Refusal.BAD_SIGNATURE),
    ]
    assert "birch trained 99 tokens in round 1" in report.findings[2].detail
    # The round that counted it, the bill that paid for it; nothing else is accused.
    assert {finding.index for finding in report.findings} == {index, at(world, RoundClose), at(world, Statement)}


@pytest.mark.parametrize("kind", [Manifest, RoundOpen, CostItem])
def test_one_lie_does_not_make_every_later_entry_look_wrong(kind):
    world = november()
    index = at(world, kind)
    report = audited(world, altered(world, index, b'"seq":', b'"seq":1'))
    accused = {finding.index for finding in report.findings}
    assert min(accused) == index
    assert len(accused) <= 3, [str(finding) for finding in report.findings]


def test_a_statement_is_judged_by_the_right_one_before_it_and_not_by_a_wrong_one():
    world = World()
    world.start()
    world.round()
    first = world.statement("a")
    lie = replace(first, balances=tuple(replace(each, carry=each.carry) for each in first.balances))
    world.say(f"{CONSORTIUM}/admin", lie)
    index = at(world, Statement)
    world.round()
    world.bill("b")
    forged = altered(world, index, b'"net":-', b'"net":-9')
    assert {finding.index for finding in audited(world, forged).findings} == {index}


def test_the_tree_head_must_be_the_log_s_own_and_fit():
    world = november()
    tree = world.books.tree
    other = tlog.TreeHead(f"{CONSORTIUM}/log", tree.size, tree.root(5)).sign(key(f"{CONSORTIUM}/log"))
    assert found(audit(world.leaves, other, world.hashes())) == [(None, Refusal.WRONG_HEAD)]
    shorter = tlog.TreeHead(f"{CONSORTIUM}/log", 5, tree.root(5)).sign(key(f"{CONSORTIUM}/log"))
    assert found(audit(world.leaves, shorter, world.hashes())) == [(None, Refusal.WRONG_HEAD)]
    stranger = tlog.TreeHead("other.example/log", tree.size, tree.root()).sign(key("other.example/log"))
    assert found(audit(world.leaves, stranger, world.hashes())) == [(None, Refusal.UNKNOWN_KEY)]
    assert found(audit(world.leaves, world.head().replace(b"\n27\n", b"\n28\n"), world.hashes())) == [
        (None, Refusal.BAD_SIGNATURE)
    ]


def test_published_hashes_that_do_not_lead_to_the_head_are_found():
    world = november()
    hashes = world.hashes()
    hashes[3] = leaf_hash(b"another")
    report = audit(world.leaves, world.head(), hashes)
    assert (3, Refusal.CORRUPT) in found(report)
    assert (None, Refusal.WRONG_HEAD) in found(report)


def test_a_member_s_own_entries_and_head_must_be_in_the_log():
    world = november()
    mine = [leaf for leaf in world.leaves if b"/receipt@v1" in leaf and b"\n\n\xe2\x80\x94 acme/compute " in leaf]
    seen = Witnessed(7, world.books.tree.root(7).hex())
    assert audited(world, mine=mine, witnessed=[seen]).findings == []
    lost = world.sign("acme/compute", replace(entries.peek(mine[-1]), round=9))
    assert found(audited(world, mine=[*mine, lost])) == [(None, Refusal.NOT_FOUND)]
    for fork in (Witnessed(7, digest("another")), Witnessed(10**6, digest("another"))):
        assert found(audited(world, witnessed=[fork])) == [(None, Refusal.FORK)]


# Keys, evidence, witnesses.


def test_what_is_in_order_but_matters_is_told():
    notices = audited(november()).notices
    assert [notice.partition(":")[0] for notice in notices] == ["entry 22", "entry 24"]
    assert "acme/compute said two things about run.consent r1: here, and at entry 2" in notices[0]
    assert "cedar revoked its compute key" in notices[1]


def cosigned(world: World, size: int, root: bytes, *names: str) -> bytes:
    head = tlog.TreeHead(f"{CONSORTIUM}/log", size, root)
    signed = note.parse(head.sign(key(f"{CONSORTIUM}/log")))
    lines = tuple(note.signature(head.text, key(name), 1_700_000_000) for name in names)
    return note.Note(signed.text, signed.signatures + lines).data()


def test_every_head_that_members_cosigned_is_of_this_history():
    world = november()
    tree = world.books.tree
    right = cosigned(world, 9, tree.root(9), "acme/witness", "birch/witness", "dogwood/witness")
    report = audited(world, cosigned=[right])
    assert (report.findings, report.cosignatures) == ([], 2)
    for size, root in ((9, tree.root(8)), (99, tree.root())):
        report = audited(world, cosigned=[cosigned(world, size, root, "acme/witness")])
        assert found(report) == [(None, Refusal.FORK)]
        assert "cosigned by acme/witness" in report.findings[0].detail
    forged = right.replace(b"\n9\n", b"\n8\n")
    assert found(audited(world, cosigned=[forged])) == [(None, Refusal.BAD_SIGNATURE)]


def test_entries_that_somebody_vouches_for_are_counted_apart_and_their_history_must_be_this_one():
    world = november()
    running = Audit(charter=world.books.charter_hash, witnessed=[Witnessed(9, world.books.tree.root(9).hex(), "acme")])
    for leaf, hashed in zip(world.leaves, world.hashes(), strict=True):
        context = running.books.context
        skimmed = skim(leaf, context, verify=False) if context else None
        if skimmed is not None:
            running.feed_skimmed(skimmed)
        else:
            running.feed(leaf, hashed)
    report = running.finish(world.head())
    assert (report.findings, report.vouched, report.receipts) == ([], 8, 8)
    running = Audit(witnessed=[Witnessed(9, digest("another"), "acme")])
    for leaf, hashed in zip(world.leaves, world.hashes(), strict=True):
        running.feed(leaf, hashed)
    (finding,) = running.finish(world.head()).findings
    assert (finding.refusal, finding.detail.startswith("acme witnessed root")) == (Refusal.FORK, True)


def test_a_skimmed_receipt_that_breaks_a_rule_is_found_like_any_other():
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    leaf = world.sign("acme/compute", world.receipt("acme", witnessed_root=digest("another history")))
    leaves = [*world.leaves, leaf]
    running = Audit()
    for each in leaves:
        running.feed(each, leaf_hash(each))
    assert [(each.index, each.refusal) for each in running.report.findings] == [(len(leaves) - 1, Refusal.WRONG_HEAD)]
    assert running.books.tree.size == len(leaves)
