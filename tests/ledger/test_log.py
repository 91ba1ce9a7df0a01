"""The log on disk: what was answered is there after a crash, what is not as it was published is refused by entry."""

import shutil
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledger_service import write_key
from world import CONSORTIUM, World, key

from ledger.log import Log
from shared_models import durable
from shared_models.published import fetch, reader
from shared_models.records import note, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.merkle import leaf_hash, verify_consistency, verify_inclusion
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit

KEYS = note.known([key(f"{CONSORTIUM}/log").verify_key])


@pytest.fixture
def folder(tmp_path):
    write_key(tmp_path)
    return tmp_path


@pytest.fixture
def log(folder):
    opened = Log(folder)
    yield opened
    opened.close()


def refused(act, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    return caught.value


def filled(folder: Path, rounds: int = 1) -> World:
    """A log in this folder that holds a run of so many rounds."""
    world = World()
    world.start()
    for _ in range(rounds):
        world.round()
    log = Log(folder)
    for leaf in world.leaves:
        log.append(leaf)
    log.close()
    return world


def test_an_append_answers_with_a_proof_that_holds_offline(log):
    for index, leaf in enumerate(World().leaves):
        new, proof = log.append(leaf)
        assert (new, proof.index) == (True, index)
        assert tlog.Proof.parse(proof.data()).verify(leaf_hash(leaf), KEYS).size == index + 1


def test_the_same_text_again_has_its_first_place(log):
    world = World()
    world.start()
    for leaf in world.leaves:
        log.append(leaf)
    new, proof = log.append(world.leaves[2])
    assert (new, proof.index, log.books.tree.size) == (False, 2, len(world.leaves))
    proof.verify(leaf_hash(world.leaves[2]), KEYS)


def test_another_text_under_the_same_name_is_refused_and_nothing_is_written(folder, log):
    world = World()
    log.append(world.leaves[0])
    log.append(world.sign(world.coordinator, world.manifest()))
    before = (log.head, sorted(folder.rglob("*")))
    other = world.sign(world.coordinator, world.manifest(rounds=9))
    assert refused(log.append, other).refusal is Refusal.CONFLICT
    assert (log.head, sorted(folder.rglob("*"))) == before


def test_a_tampered_entry_is_refused_and_nothing_is_written(folder, log):
    world = World()
    log.append(world.leaves[0])
    before = (log.head, sorted(folder.rglob("*")))
    leaf = world.sign(world.coordinator, world.manifest()).replace(b'"rounds":3', b'"rounds":4')
    assert refused(log.append, leaf).refusal is Refusal.BAD_SIGNATURE
    assert (log.head, sorted(folder.rglob("*"))) == before


def test_an_entry_that_breaks_a_rule_is_refused_and_nothing_is_written(folder, log):
    world = World()
    for leaf in world.leaves:
        log.append(leaf)
    before = (log.head, sorted(folder.rglob("*")))
    wrong = world.sign(world.coordinator, world.manifest(flop_per_token=1))
    assert refused(log.append, wrong).refusal is Refusal.WRONG_FLOP
    assert (log.head, sorted(folder.rglob("*"))) == before


def test_what_it_publishes_is_a_log_that_anyone_can_audit(folder):
    world = filled(folder, rounds=3)
    published = fetch(reader(str(folder / "log")))
    assert published.leaves == world.leaves
    report = audit(published.leaves, published.head, published.hashes, charter=world.books.charter_hash)
    assert report.findings == []


def test_more_than_one_tile(folder):
    world = World({f"m{number:02}": 1 for number in range(50)})
    world.start()
    log = Log(folder)
    for _ in range(3):
        world.round()
    for leaf in world.leaves:
        log.append(leaf)
    assert log.books.tree.size == len(world.leaves) > 200
    world.start("r2")
    for leaf in world.leaves[log.books.tree.size :]:
        log.append(leaf)
    assert log.books.tree.size > 256
    published = fetch(log.published)
    assert published.leaves == world.leaves
    assert not (folder / "log" / "tile" / "0" / "000.p").exists()  # The whole tile stands for its beginnings.
    assert (folder / "log" / "tile" / "1" / "000.p" / "1").exists()
    log.close()
    Log(folder).close()


def test_proofs_between_any_two_sizes(folder):
    world = filled(folder)
    log = Log(folder)
    size = len(world.leaves)
    for old in range(size + 1):
        verify_consistency(old, size, log.books.tree.root(old), log.books.tree.root(size), log.consistency(old, size))
    for index in range(size):
        verify_inclusion(leaf_hash(world.leaves[index]), index, size, log.books.tree.root(), log.inclusion(index, size))
    for act, arguments in [(log.consistency, (3, size + 1)), (log.consistency, (4, 3)), (log.inclusion, (size, size))]:
        assert refused(act, *arguments).refusal is Refusal.NOT_FOUND
    assert refused(log.last, "nobody/compute").refusal is Refusal.NOT_FOUND
    assert log.last("acme/compute").hash == world.books.chains["acme/compute"].hash
    log.close()


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/64/000", "tile/0/1", "tile/0/000.p/0", "../ledger.db", "tile/0/../0/000", "", "x"]
)
def test_only_published_files_are_given_out(folder, path):
    filled(folder)
    log = Log(folder)
    assert refused(log.published, path).refusal is Refusal.NOT_FOUND
    log.close()


# Opening again.


def test_a_restart_goes_on_where_it_was(folder):
    world = filled(folder)
    log = Log(folder)
    assert log.books.tree.root() == world.books.tree.root()
    log.append(world.sign(world.coordinator, world.opened()))
    log.close()


def test_one_process_at_a_time(folder, log):
    assert refused(Log, folder).refusal is Refusal.LOCKED


def test_without_a_key_there_is_no_log(tmp_path):
    assert refused(Log, tmp_path).refusal is Refusal.NOT_SET_UP


def test_a_crash_after_the_database_and_before_the_head_loses_nothing(folder):
    world = filled(folder)
    kept = folder.with_name("kept")
    shutil.copytree(folder / "log", kept)
    log = Log(folder)
    leaf = world.sign(world.coordinator, world.opened())
    log.append(leaf)
    log.close()
    shutil.rmtree(folder / "log")
    shutil.copytree(kept, folder / "log")  # As if the process had died before it published.
    log = Log(folder)
    assert log.books.tree.size == len(world.leaves) + 1
    assert fetch(log.published).leaves == [*world.leaves, leaf]
    new, _ = log.append(leaf)
    assert not new
    log.close()


def test_an_old_copy_of_the_database_is_refused_because_signing_from_it_would_fork_the_log(folder):
    world = filled(folder)
    kept = (folder / "ledger.db").read_bytes()
    log = Log(folder)
    log.append(world.sign(world.coordinator, world.opened()))
    log.close()
    for path in folder.glob("ledger.db*"):
        path.unlink()
    (folder / "ledger.db").write_bytes(kept)
    caught = refused(Log, folder)
    assert caught.refusal is Refusal.BEHIND
    assert f"{len(world.leaves)} entries" in caught.detail


def change(folder: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(folder / "ledger.db")
    with connection:
        connection.execute(sql, values)
    connection.close()


def test_a_changed_entry_in_the_database_is_named(folder):
    world = filled(folder)
    index = 7
    leaf = world.leaves[index].replace(b'"tokens":96', b'"tokens":99')
    assert leaf != world.leaves[index]
    change(folder, 'UPDATE entry SET leaf = ? WHERE "index" = ?', leaf, index)
    caught = refused(Log, folder)
    assert (caught.refusal, "entry 7 in the database" in caught.detail) == (Refusal.CORRUPT, True)


def test_an_entry_that_says_the_same_in_other_bytes_is_named_too(folder):
    """A signature of nobody known is passed over when a note is opened; the leaf is another one all the same."""
    world = filled(folder)
    stranger = note.sign("x\n", [key("dogwood/compute")]).splitlines(True)[-1]
    change(folder, 'UPDATE entry SET leaf = ? WHERE "index" = 1', world.leaves[1] + stranger)
    caught = refused(Log, folder)
    assert (caught.refusal, caught.detail) == (
        Refusal.CORRUPT,
        "entry 1 in the database is not what was published",
    )


def test_a_missing_entry_in_the_database_is_named(folder):
    world = filled(folder)
    change(folder, 'UPDATE entry SET "index" = ? WHERE "index" = 3', len(world.leaves))
    caught = refused(Log, folder)
    assert (caught.refusal, "entry 3" in caught.detail) == (Refusal.CORRUPT, True)


def test_an_entry_that_breaks_a_rule_is_not_signed_though_somebody_put_it_into_the_database(folder):
    world = filled(folder)
    wrong = world.sign(world.coordinator, world.opened(round=9))
    insert = 'INSERT INTO entry ("index", author, kind, idem, leaf) VALUES (?, ?, ?, ?, ?)'
    change(folder, insert, len(world.leaves), world.coordinator, "round.open", "r1/9", wrong)
    caught = refused(Log, folder)
    assert (caught.refusal, "wrong_round" in caught.detail) == (Refusal.CORRUPT, True)


@pytest.mark.parametrize("kind", ["0", "entries"])
def test_a_changed_tile_is_named_with_its_entry_at_the_start_and_while_serving(folder, kind):
    world = filled(folder)
    path = folder / "log" / tlog.tile_path(kind, 0, len(world.leaves))
    whole = path.read_bytes()
    log = Log(folder)
    # One bit of entry 5: of its hash in the tile, of its last signature byte in the bundle.
    at = 5 * 32 if kind == "0" else len(tlog.pack(world.leaves[:6])) - 10
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    caught = refused(log.published, tlog.tile_path(kind, 0, len(world.leaves)))
    assert (caught.refusal, "entry 5" in caught.detail) == (Refusal.CORRUPT, True)
    log.close()
    caught = refused(Log, folder)
    assert (caught.refusal, "entry 5" in caught.detail) == (Refusal.CORRUPT, True)


@pytest.mark.parametrize("kind", ["0", "entries"])
def test_a_cut_or_missing_tile_is_refused(folder, kind):
    world = filled(folder)
    path = folder / "log" / tlog.tile_path(kind, 0, len(world.leaves))
    whole = path.read_bytes()
    cut = 32 if kind == "0" else len(world.leaves[-1]) + 2
    path.write_bytes(whole[:-cut])
    assert refused(Log, folder).refusal is Refusal.CORRUPT
    path.unlink()
    assert refused(Log, folder).refusal is Refusal.CORRUPT


def test_a_head_signed_by_somebody_else_is_refused(folder):
    world = filled(folder)
    other = SigningKey.generate(f"{CONSORTIUM}/log")
    head = tlog.TreeHead(f"{CONSORTIUM}/log", len(world.leaves), world.books.tree.root()).sign(other)
    (folder / "log" / "checkpoint").write_bytes(head)
    assert refused(Log, folder).refusal is Refusal.UNKNOWN_KEY


def test_entries_and_tiles_that_agree_with_each_other_but_not_with_the_head_are_refused(folder):
    filled(folder)
    log = Log(folder)
    size, root = log.books.tree.size, log.books.tree.root(3)
    log.close()
    wrong = tlog.TreeHead(f"{CONSORTIUM}/log", size, root).sign(key(f"{CONSORTIUM}/log"))
    (folder / "log" / "checkpoint").write_bytes(wrong)
    assert refused(Log, folder).refusal is Refusal.CORRUPT


def test_after_a_failed_write_nothing_more_is_signed(folder, log, monkeypatch):
    world = World()
    world.start()
    log.append(world.leaves[0])
    head = log.head

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(durable, "write", full)
        assert refused(log.append, world.leaves[1]).refusal is Refusal.STOPPED
    assert refused(log.append, world.leaves[2]).refusal is Refusal.STOPPED
    assert refused(log.append, world.leaves[1]).refusal is Refusal.STOPPED
    assert log.head == head
    log.close()
    again = Log(folder)  # The entry had reached the database: it is there, and its sender gets its place.
    new, proof = again.append(world.leaves[1])
    assert (new, proof.index) == (False, 1)
    again.append(world.leaves[2])
    again.close()


def test_an_entry_changed_under_a_running_ledger_is_not_published(folder, log):
    world = World()
    world.start()
    for leaf in world.leaves[:3]:
        log.append(leaf)
    head = log.head
    change(folder, 'UPDATE entry SET leaf = ? WHERE "index" = 1', world.leaves[2])
    caught = refused(log.append, world.leaves[3])
    assert (caught.refusal, "entry 1 in the database" in caught.detail) == (Refusal.STOPPED, True)
    assert refused(log.append, world.leaves[4]).refusal is Refusal.STOPPED
    assert log.head == head


class LogMachine(RuleBasedStateMachine):
    """A log through any sequence of appends, repeats, lies and restarts, beside a plain list of what it must hold."""

    @initialize(folder=st.integers(0, 2**60))
    def found(self, folder):
        self.folder = Path(tempfile.mkdtemp(prefix="log-"))
        write_key(self.folder)
        self.log = Log(self.folder)
        self.world = World()
        self.log.append(self.world.leaves[0])
        self.heads = [tlog.open_head(self.log.head, KEYS)]

    @precondition(lambda self: "r1" not in self.world.books.runs)
    @rule()
    def begin_a_run(self):
        self.world.start()
        self._catch_up()

    @precondition(lambda self: "r1" in self.world.books.runs and len(self.world.books.runs["r1"].rounds) < 3)
    @rule(members=st.sets(st.sampled_from(["acme", "birch", "cedar"])))
    def train_a_round(self, members):
        self.world.round(members=sorted(members))
        self._catch_up()

    @rule(amount=st.integers(1, 10**6))
    def pay_for_something(self, amount):
        self.world.say("acme/admin", self.world.item("acme", amount, f"item-{self.world.books.tree.size}"))
        self._catch_up()

    @rule()
    def close_a_period(self):
        self.world.bill(f"p{self.world.books.tree.size}")
        self._catch_up()

    @rule(data=st.data())
    def say_something_again(self, data):
        index = data.draw(st.integers(0, len(self.world.leaves) - 1))
        new, proof = self.log.append(self.world.leaves[index])
        assert (new, proof.index) == (False, index)

    @rule(data=st.data())
    def tell_a_lie(self, data):
        index = data.draw(st.integers(0, len(self.world.leaves) - 1))
        leaf = self.world.leaves[index]
        at = data.draw(st.integers(0, len(leaf) - 1))
        with suppress(Refused):
            # One of the charter's signatures can become one of nobody known; its text is still the same and signed.
            assert self.log.append(leaf[:at] + bytes([leaf[at] ^ 1]) + leaf[at + 1 :])[0] is False
            assert (index, at > leaf.index(b"\n\n")) == (0, True)

    @rule()
    def restart(self):
        self.log.close()
        self.log = Log(self.folder)

    def _catch_up(self):
        for leaf in self.world.leaves[self.log.books.tree.size :]:
            new, proof = self.log.append(leaf)
            assert new
            self.heads.append(proof.verify(leaf_hash(leaf), KEYS))

    @invariant()
    def it_holds_what_was_said_and_every_head_it_signed_is_a_beginning_of_the_next(self):
        if not hasattr(self, "log"):
            return
        assert self.log.books.tree.root() == self.world.books.tree.root()
        published = fetch(self.log.published)
        assert published.leaves == self.world.leaves
        newest = tlog.open_head(published.head, KEYS)
        for head in self.heads[-3:]:
            path = self.log.consistency(head.size, newest.size)
            verify_consistency(head.size, newest.size, head.root, newest.root, path)
        assert self.log.books.statements == self.world.books.statements

    def teardown(self):
        if hasattr(self, "log"):
            self.log.close()
            shutil.rmtree(self.folder)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
