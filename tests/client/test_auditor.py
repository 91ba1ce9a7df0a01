"""The audit of a long log on many cores finds what the audit of a short one in one process finds."""

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import pytest
from world import CONSORTIUM, World, key, revoked

from bench.receipts import attest, publish
from client.auditor import MODES, Auditor
from shared_models.published import fetch, leaf_at, reader
from shared_models.records import note, tlog
from shared_models.records.kinds import FIRST, KeyAdd
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit

LOG = key(f"{CONSORTIUM}/log")
BOTH = pytest.mark.parametrize("workers", [0, 2])


def long() -> World:
    """Two runs, the second of which begins when workers have long been looking; some 1,500 entries."""
    world = World()
    for run in ("r1", "r2"):
        world.start(run, rounds=150)
        for _ in range(150):
            world.round(run)
    world.say("birch/admin", world.item("birch", 1_200))
    world.bill()
    return world


WORLD = long()
CHARTER = WORLD.books.charter_hash
COORDINATED = sum(CONSORTIUM.encode() + b"/coordinator " in leaf for leaf in WORLD.leaves[1:])
LAST = max(at for at, leaf in enumerate(WORLD.leaves) if b"/receipt@v1" in leaf)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    publish(folder, WORLD.leaves, LOG)
    attest(folder, WORLD.members, key)
    return folder


@pytest.fixture
def folder(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "log")


def found(report) -> list[tuple[int | None, Refusal]]:
    return [(each.index, each.refusal) for each in report.findings]


def altered(at: int) -> bytes:
    leaf = WORLD.leaves[at]
    assert leaf.count(b'"busy_ms":900') == 1
    return leaf.replace(b'"busy_ms":900', b'"busy_ms":901')


def replaced(at: int, leaf: bytes) -> list[bytes]:
    return [*WORLD.leaves[:at], leaf, *WORLD.leaves[at + 1 :]]


def alter_entry(folder, at: int) -> None:
    """Other bytes for one entry, and the tiles as they were."""
    start = at - at % tlog.WIDTH
    path = folder / tlog.tile_path("entries", start // tlog.WIDTH, min(tlog.WIDTH, len(WORLD.leaves) - start))
    path.write_bytes(tlog.pack(replaced(at, altered(at))[start : start + tlog.WIDTH]))


@BOTH
@pytest.mark.parametrize("mode", MODES)
def test_an_honest_log_has_no_findings_and_comes_to_the_same_books_in_every_mode(honest, mode, workers):
    shown = []
    report = Auditor(charter=CHARTER, mode=mode, workers=workers, share=0.3, shown=lambda *at: shown.append(at)).run(
        str(honest)
    )
    log = fetch(reader(str(honest)))
    right = audit(log.leaves, log.head, log.hashes, cosigned=log.cosigned, charter=CHARTER)
    assert (found(report), right.findings) == ([], [])
    counted = ("entries", "receipts", "accepted", "numbers", "cosignatures", "notices")
    assert [getattr(report, name) for name in counted] == [getattr(right, name) for name in counted]
    assert report.books.statements == WORLD.books.statements == right.books.statements
    assert report.signatures + report.vouched == right.signatures
    if mode == "sampled":
        assert 0.6 < report.vouched / report.receipts < 0.8
    else:
        assert report.vouched == (report.receipts + COORDINATED - 1 if mode == "attested" else 0)
    assert shown[-1] == (len(WORLD.leaves), len(WORLD.leaves))
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert multiprocessing.active_children() == []


@BOTH
def test_an_entry_that_was_altered_is_named_in_every_mode(folder, workers):
    alter_entry(folder, 701)
    for mode in MODES:
        report = Auditor(charter=CHARTER, mode=mode, workers=workers).run(str(folder))
        assert found(report)[:2] == [(701, Refusal.CORRUPT), (701, Refusal.BAD_SIGNATURE)]


@BOTH
def test_a_receipt_that_the_ledger_made_up_and_logged_properly_is_found(folder, workers):
    """The tiles and the head are those of the lie: only signatures tell, and what members have attested."""
    lie = replaced(LAST, altered(LAST))
    shutil.rmtree(folder / "tile")
    publish(folder, lie, LOG)
    report = Auditor(charter=CHARTER, workers=workers).run(str(folder))
    assert (LAST, Refusal.BAD_SIGNATURE) in found(report)
    assert (None, Refusal.FORK) in found(Auditor(charter=CHARTER, workers=workers, mode="attested").run(str(folder)))
    sampled = Auditor(charter=CHARTER, workers=workers, mode="sampled", share=1.0).run(str(folder))
    assert (LAST, Refusal.BAD_SIGNATURE) in found(sampled)


def test_who_was_not_vouched_for_is_verified(folder):
    (folder / "attest" / "acme").unlink()
    report = Auditor(charter=CHARTER, mode="attested", workers=0).run(str(folder))
    assert (found(report), report.vouched) == ([], report.receipts * 2 // 3 + COORDINATED - 1)
    # What another key signed vouches for nobody.
    shutil.copy(folder / "attest" / "birch", folder / "attest" / "acme")
    report = Auditor(charter=CHARTER, mode="attested", workers=0).run(str(folder))
    assert report.vouched == report.receipts * 2 // 3 + COORDINATED - 1


def test_entries_behind_what_was_attested_are_verified(tmp_path):
    publish(tmp_path, WORLD.leaves[:500], LOG)
    attest(tmp_path, WORLD.members, key)
    publish(tmp_path, WORLD.leaves, LOG)
    report = Auditor(charter=CHARTER, mode="attested", workers=2).run(str(tmp_path))
    assert found(report) == []
    assert report.vouched == sum(b"/receipt@v1" in leaf for leaf in WORLD.leaves[:500]) + COORDINATED - 1


class Coordinator(World):
    """A log whose ledger can put an entry into it that the coordinator has not signed, though it bears its name."""

    def forge(self, record, *signers) -> bytes:
        """Append this record with another signature of the same key."""
        honest, other = self.sign(self.coordinator, record, *signers), self.sign(self.coordinator, self.end(), *signers)
        leaf = note.Note(note.parse(honest).text, note.parse(other).signatures).data()
        self.books.add(replace(self.books.open(honest), leaf=leaf, hash=leaf_hash(leaf)))
        self.leaves.append(leaf)
        return leaf

    def audited(self, folder, mode: str):
        publish(folder, self.leaves, LOG)
        attest(folder, self.members, key)
        return Auditor(mode=mode, workers=0).run(str(folder))


@pytest.fixture
def coordinator():
    world = Coordinator()
    world.start()
    world.round()
    return world


def test_what_the_coordinator_has_not_signed_is_found_in_every_mode(coordinator, tmp_path):
    coordinator.forge(coordinator.opened())
    for mode in ("full", "attested"):
        report = coordinator.audited(tmp_path / mode, mode)
        assert (found(report), report.vouched) == ([(len(coordinator.leaves) - 1, Refusal.BAD_SIGNATURE)], 0)


def test_with_its_newest_entry_the_coordinator_stands_for_those_before_it(coordinator, tmp_path):
    coordinator.forge(coordinator.opened())
    forged = len(coordinator.leaves) - 1
    coordinator.say(coordinator.coordinator, coordinator.end())
    assert found(coordinator.audited(tmp_path / "full", "full")) == [(forged, Refusal.BAD_SIGNATURE)]
    report = coordinator.audited(tmp_path / "attested", "attested")
    assert (found(report), report.vouched) == ([], report.receipts + 4)  # Of its five entries.


def test_another_key_does_not_stand_for_what_the_first_one_signed(coordinator, tmp_path):
    name = coordinator.coordinator
    record = KeyAdd(seq=0, prev=FIRST, holder=CONSORTIUM, role="coordinator", key=key(name, 2).verify_key.text())
    coordinator.say(name, record)
    coordinator.forge(coordinator.opened())
    forged = len(coordinator.leaves) - 1
    coordinator.append(coordinator.sign(name, coordinator.end(), key(name, 2)))
    for mode in ("full", "attested"):
        assert found(coordinator.audited(tmp_path / mode, mode)) == [(forged, Refusal.BAD_SIGNATURE)]


def test_a_revoked_coordinators_word_stands_for_nothing(coordinator, tmp_path):
    name = coordinator.coordinator
    record = KeyAdd(seq=0, prev=FIRST, holder=CONSORTIUM, role="coordinator", key=key(name, 2).verify_key.text())
    coordinator.say(name, record)
    coordinator.append(coordinator.sign(name, coordinator.opened(), key(name, 2)))
    coordinator.say(f"{CONSORTIUM}/admin", revoked(CONSORTIUM, "coordinator", key(name)))
    report = coordinator.audited(tmp_path, "attested")
    assert (found(report), report.vouched) == ([], 0)


def test_a_revoked_key_vouches_for_nothing(tmp_path):
    world = World()
    world.start()
    world.round()
    world.say("acme/admin", revoked("acme", "attest", key("acme/attest")))
    publish(tmp_path, world.leaves, LOG)
    attest(tmp_path, world.members, key)
    report = Auditor(mode="attested", workers=0).run(str(tmp_path))
    assert (found(report), report.vouched, report.receipts) == ([], 0, 3)


def test_an_entry_is_found_by_its_index_and_one_that_is_not_there_is_not(honest):
    read, size = reader(str(honest)), len(WORLD.leaves)
    for index in (0, 255, 256, size - 1):
        assert leaf_at(read, index, size) == WORLD.leaves[index]
    for index, of in ((size, size), (0, 0)):
        with pytest.raises(Refused) as caught:
            leaf_at(read, index, of)
        assert caught.value.refusal is Refusal.NOT_FOUND


# Resuming.


@BOTH
def test_what_was_verified_once_is_not_verified_again(tmp_path, workers):
    publish(tmp_path / "log", WORLD.leaves[:900], LOG)
    auditor = Auditor(charter=CHARTER, workers=workers, verified_path=tmp_path / "verified.json")
    assert auditor.run(str(tmp_path / "log")).vouched == 0
    publish(tmp_path / "log", WORLD.leaves, LOG)
    report = auditor.run(str(tmp_path / "log"))
    assert (found(report), report.receipts) == ([], 900)
    assert report.vouched == sum(b"/receipt@v1" in leaf for leaf in WORLD.leaves[:900])
    for other in (replace(auditor, charter=None), replace(auditor, mode="sampled", share=1.0)):
        assert other.run(str(tmp_path / "log")).vouched == 0


@BOTH
def test_an_audit_that_was_interrupted_goes_on_where_it_was(honest, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("client.auditor.KEEP", 256)

    def interrupt(done: int, _: int) -> None:
        if done >= 1_000:
            raise KeyboardInterrupt

    auditor = Auditor(charter=CHARTER, workers=workers, verified_path=tmp_path / "verified.json", shown=interrupt)
    with pytest.raises(KeyboardInterrupt):
        auditor.run(str(honest))
    assert multiprocessing.active_children() == []
    done = json.loads((tmp_path / "verified.json").read_text())["size"]
    assert done >= 1_000
    report = replace(auditor, shown=lambda *_: None).run(str(honest))
    assert (found(report), report.vouched) == ([], sum(b"/receipt@v1" in leaf for leaf in WORLD.leaves[:done]))


@BOTH
def test_another_history_than_the_verified_one_is_verified_from_its_beginning(honest, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("client.auditor.KEEP", 256)
    auditor = Auditor(charter=CHARTER, workers=workers, verified_path=tmp_path / "verified.json")
    publish(tmp_path / "log", WORLD.leaves[:600], LOG)
    auditor.run(str(tmp_path / "log"))
    at = next(at for at in range(400, 500) if b"/receipt@v1" in WORLD.leaves[at])
    publish(tmp_path / "log", replaced(at, altered(at)), LOG)
    assert (at, Refusal.BAD_SIGNATURE) in found(auditor.run(str(tmp_path / "log")))
    # What is noted is of this history now, and ends before the finding.
    verified = json.loads((tmp_path / "verified.json").read_text())
    assert 0 < verified["size"] <= at
    assert verified["root"] == WORLD.books.tree.root(verified["size"]).hex()
    assert auditor.run(str(honest)).findings == []


@pytest.mark.parametrize("text", ["", "[]", "null", '{"size": 1}', '{"size": "1", "root": 2, "charter": 3, "more": 4}'])
def test_a_broken_note_of_what_was_verified_is_no_note(honest, tmp_path, text):
    (tmp_path / "verified.json").write_text(text)
    report = Auditor(charter=CHARTER, workers=0, verified_path=tmp_path / "verified.json").run(str(honest))
    assert (found(report), report.vouched) == ([], 0)


# What goes wrong.


@BOTH
def test_a_part_that_is_missing_is_named_and_no_process_stays(folder, workers):
    (folder / tlog.tile_path("entries", 3)).unlink()
    with pytest.raises(Refused) as caught:
        Auditor(charter=CHARTER, workers=workers).run(str(folder))
    assert (caught.value.refusal, "tile/entries/003" in caught.value.detail) == (Refusal.NOT_FOUND, True)
    assert multiprocessing.active_children() == []


def test_a_bundle_that_is_cut_is_named(folder):
    path = folder / tlog.tile_path("entries", 3)
    whole = path.read_bytes()
    path.write_bytes(tlog.pack(tlog.unpack(whole)[:-1]))
    assert (None, Refusal.WRONG_HEAD) in found(Auditor(charter=CHARTER, workers=2).run(str(folder)))
    path.write_bytes(whole[:-1])
    with pytest.raises(Refused) as caught:
        Auditor(charter=CHARTER, workers=2).run(str(folder))
    assert caught.value.refusal is Refusal.CORRUPT


def test_a_worker_that_is_killed_ends_the_audit_with_a_reason(honest):
    def kill(done: int, _: int) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(Refused) as caught:
        Auditor(charter=CHARTER, workers=1, shown=kill).run(str(honest))
    assert caught.value.refusal is Refusal.STOPPED


def test_a_log_without_a_charter_or_of_another_one(tmp_path, honest):
    publish(tmp_path, WORLD.leaves[1:], LOG)
    assert found(Auditor(workers=2).run(str(tmp_path)))[0][0] == 0
    assert found(Auditor(workers=2, charter="0" * 64).run(str(honest))) == [(0, Refusal.NO_CHARTER)]
