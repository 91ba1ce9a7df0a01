"""The log on disk: what was answered is there after a crash, what is not as it was published is refused by entry."""

import base64
import fcntl
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import databases
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledger_service import write_key
from sqlmodel import SQLModel
from world import CONSORTIUM, World, added, digest, key

import ledger.log
import ledger.tables  # So that its tables are known.
from ledger.log import Log, Placed
from ledger.register import FileRegister
from shared_models import durable
from shared_models.published import fetch, reader
from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.keys import MLDSA44, SigningKey
from shared_models.records.merkle import leaf_hash, verify_consistency, verify_inclusion
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.audit import audit

KEYS = note.known([key(f"{CONSORTIUM}/log").verify_key])


DATABASES: dict[Path, str] = {}  # The URL of the database of each test's folder.


@pytest.fixture(params=databases.KINDS)
def folder(request, tmp_path):
    write_key(tmp_path)
    DATABASES[tmp_path] = databases.fresh(request.param)
    return tmp_path


def open_log(folder: Path) -> Log:
    return ledger.log.open_log(folder, database=DATABASES.get(folder, ""))


@pytest.fixture
def elsewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture
def log(folder):
    opened = open_log(folder)
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
    log = open_log(folder)
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


def test_another_text_under_the_same_name_is_refused_and_both_are_kept_as_evidence(log):
    world = World()
    log.append(world.leaves[0])
    first, other = (world.sign(world.coordinator, world.manifest(rounds=rounds)) for rounds in (3, 9))
    log.append(first)
    caught = refused(log.append, other)
    assert (caught.refusal, "both are kept in entry 2" in caught.detail) == (Refusal.CONFLICT, True)
    leaves = fetch(log.published).leaves
    evidence = entries.peek(leaves[2])
    assert (evidence.one.encode(), evidence.other.encode(), evidence.first) == (first, other, 1)
    assert note.parse(leaves[2]).signatures[0].name == f"{CONSORTIUM}/log"
    third = world.sign(world.coordinator, world.manifest(rounds=5))
    caught = refused(log.append, third)  # Two are proof enough.
    assert (caught.refusal, log.head.size) == (Refusal.CONFLICT, 3)
    new, proof = log.append(first)
    assert (new, proof.index) == (False, 1)


def test_a_request_is_answered_entry_by_entry_and_what_is_new_stands_in_a_row(log):
    world = World()
    world.start()
    for leaf in world.leaves:
        log.append(leaf)
    size = log.head.size
    world.say(world.coordinator, world.opened())
    opened = world.leaves[-1]
    receipts = [world.sign(f"{name}/compute", world.receipt(name)) for name in world.members]
    conflict = world.sign("birch/compute", world.consent("birch", manifest=digest("another")))
    forged = receipts[0].replace(b'"tokens":96', b'"tokens":97')
    asked = [opened, receipts[0], conflict, world.leaves[1], receipts[1], receipts[0], receipts[2]]
    (one, two) = log.commit([[log.admit(leaf) for leaf in [*asked, forged]], [log.admit(receipts[1])]])
    assert [each.refusal if isinstance(each, Refused) else (each.at, each.new) for each in one] == [
        (size, True),
        (size + 1, True),
        Refusal.CONFLICT,
        (1, False),
        (size + 2, True),
        (size + 1, False),
        (size + 3, True),
        Refusal.BAD_SIGNATURE,
    ]
    assert two == [Placed(size + 2, False)]
    assert log.head.size == size + 5  # The evidence stands behind them.
    leaves = fetch(log.published).leaves
    assert leaves[size : size + 4] == [opened, *receipts]
    assert b"/equivocation@v1" in leaves[-1]
    report = audit(leaves, log.head.note, [leaf_hash(leaf) for leaf in leaves])
    assert report.findings == []


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
    log = open_log(folder)
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
    open_log(folder).close()


def test_proofs_between_any_two_sizes(folder):
    world = filled(folder)
    log = open_log(folder)
    size = len(world.leaves)
    for old in range(size + 1):
        verify_consistency(old, size, log.books.tree.root(old), log.books.tree.root(size), log.consistency(old, size))
    for index in range(size):
        verify_inclusion(leaf_hash(world.leaves[index]), index, size, log.books.tree.root(), log.inclusion(index, size))
    for act, *arguments in (
        (log.consistency, 3, size + 1),
        (log.consistency, 4, 3),
        (log.inclusion, size, size),
        (log.run, 5, 5, size),
        (log.run, 5, size + 1, size),
        (log.run, 5, 6, size + 1),
    ):
        assert refused(act, *arguments).refusal is Refusal.NOT_FOUND
    assert refused(log.last, "nobody/compute").refusal is Refusal.NOT_FOUND
    assert log.last("acme/compute").hash == world.books.chains["acme/compute"].hash
    log.close()


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/64/000", "tile/0/1", "tile/0/000.p/0", "../ledger.db", "tile/0/../0/000", "", "x"]
)
def test_only_published_files_are_given_out(folder, path):
    filled(folder)
    log = open_log(folder)
    assert refused(log.published, path).refusal is Refusal.NOT_FOUND
    log.close()


# Opening again.


def test_a_restart_goes_on_where_it_was(folder):
    world = filled(folder)
    log = open_log(folder)
    assert log.books.tree.root() == world.books.tree.root()
    log.append(world.sign(world.coordinator, world.opened()))
    log.close()


def test_one_process_at_a_time(folder, log):
    assert refused(open_log, folder).refusal is Refusal.LOCKED


def test_one_ledger_writes_to_a_postgresql_database_whatever_its_folder(folder, log, elsewhere):
    if not DATABASES[folder]:
        pytest.skip("a SQLite database lies in its ledger's folder")
    write_key(elsewhere)
    DATABASES[elsewhere] = DATABASES[folder]
    caught = refused(open_log, elsewhere)
    assert (caught.refusal, "another ledger writes to" in caught.detail) == (Refusal.LOCKED, True)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/ledger.db", "postgresql+psycopg://ledger:secret@127.0.0.1:1/x"])
def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path, url):
    write_key(tmp_path)
    DATABASES[tmp_path] = url
    caught = refused(open_log, tmp_path)
    assert (caught.refusal, url[:9] in caught.detail, "secret" in caught.detail) == (Refusal.UNREACHABLE, True, False)
    DATABASES[tmp_path] = ""
    open_log(tmp_path).close()  # Nothing was left locked.


def test_without_a_key_there_is_no_log(tmp_path):
    assert refused(open_log, tmp_path).refusal is Refusal.NOT_SET_UP


def test_a_crash_before_anything_was_published_loses_nothing(folder, elsewhere):
    world = filled(folder)
    kept = elsewhere / "log"
    shutil.copytree(folder / "log", kept)
    log = open_log(folder)
    leaf = world.sign(world.coordinator, world.opened())
    log.append(leaf)
    log.close()
    shutil.rmtree(folder / "log")
    shutil.copytree(kept, folder / "log")  # As if the process had died before it published.
    log = open_log(folder)
    assert log.books.tree.size == len(world.leaves) + 1
    assert fetch(log.published).leaves == [*world.leaves, leaf]
    new, _ = log.append(leaf)
    assert not new
    log.close()


def test_an_old_copy_of_the_database_is_refused_because_signing_from_it_would_fork_the_log(folder):
    world = filled(folder)
    log = open_log(folder)
    log.append(world.sign(world.coordinator, world.opened()))
    log.close()
    change(folder, 'DELETE FROM entry WHERE "index" = :last', last=len(world.leaves))
    caught = refused(open_log, folder)
    assert caught.refusal is Refusal.BEHIND
    assert f"{len(world.leaves)} entries" in caught.detail


def change(folder: Path, statement: str, **values: object) -> None:
    databases.change(DATABASES[folder], folder, statement, **values)


def test_a_changed_entry_in_the_database_is_named(folder):
    world = filled(folder)
    index = 7
    leaf = world.leaves[index].replace(b'"tokens":96', b'"tokens":99')
    assert leaf != world.leaves[index]
    change(folder, 'UPDATE entry SET leaf = :leaf WHERE "index" = :index', leaf=leaf, index=index)
    caught = refused(open_log, folder)
    assert (caught.refusal, "entry 7 in the database" in caught.detail) == (Refusal.CORRUPT, True)


def test_an_entry_that_says_the_same_in_other_bytes_is_named_too(folder):
    """A signature of nobody known is passed over when a note is opened; the leaf is another one all the same."""
    world = filled(folder)
    stranger = note.sign("x\n", [key("dogwood/compute")]).splitlines(True)[-1]
    change(folder, 'UPDATE entry SET leaf = :leaf WHERE "index" = 1', leaf=world.leaves[1] + stranger)
    caught = refused(open_log, folder)
    assert (caught.refusal, caught.detail) == (
        Refusal.CORRUPT,
        "entry 1 in the database is not what was published",
    )


def test_a_missing_entry_in_the_database_is_named(folder):
    world = filled(folder)
    last = len(world.leaves) - 1
    for gone in (last, 3):  # Each is put behind the end: there are as many entries as before.
        change(folder, 'UPDATE entry SET "index" = :behind WHERE "index" = :gone', behind=last + 1 + gone, gone=gone)
        caught = refused(open_log, folder)
        assert (caught.refusal, caught.detail) == (Refusal.CORRUPT, f"entry {gone} is missing from the database")


def test_an_entry_that_breaks_a_rule_is_not_signed_though_somebody_put_it_into_the_database(folder):
    world = filled(folder)
    wrong = world.sign(world.coordinator, world.opened(round=9))
    insert = "INSERT INTO entry VALUES (:index, :author, 'round.open', 'r1/9', :leaf)"
    change(folder, insert, index=len(world.leaves), author=world.coordinator, leaf=wrong)
    caught = refused(open_log, folder)
    assert (caught.refusal, "wrong_round" in caught.detail) == (Refusal.CORRUPT, True)


@pytest.mark.parametrize("kind", ["0", "entries"])
def test_a_changed_tile_is_named_with_its_entry_at_the_start_and_while_serving(folder, kind):
    world = filled(folder)
    path = folder / "log" / tlog.tile_path(kind, 0, len(world.leaves))
    whole = path.read_bytes()
    log = open_log(folder)
    # One bit of entry 5: of its hash in the tile, of its last signature byte in the bundle.
    at = 5 * 32 if kind == "0" else len(tlog.pack(world.leaves[:6])) - 10
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    caught = refused(log.published, tlog.tile_path(kind, 0, len(world.leaves)))
    assert (caught.refusal, "entry 5" in caught.detail) == (Refusal.CORRUPT, True)
    log.close()
    caught = refused(open_log, folder)
    assert (caught.refusal, "entry 5" in caught.detail) == (Refusal.CORRUPT, True)


@pytest.mark.parametrize("kind", ["0", "entries"])
def test_a_cut_or_missing_tile_is_refused(folder, kind):
    world = filled(folder)
    path = folder / "log" / tlog.tile_path(kind, 0, len(world.leaves))
    whole = path.read_bytes()
    cut = 32 if kind == "0" else len(world.leaves[-1]) + 2
    path.write_bytes(whole[:-cut])
    assert refused(open_log, folder).refusal is Refusal.CORRUPT
    path.unlink()
    assert refused(open_log, folder).refusal is Refusal.CORRUPT


def test_a_head_signed_by_somebody_else_is_refused(folder):
    world = filled(folder)
    other = SigningKey.generate(f"{CONSORTIUM}/log")
    head = tlog.TreeHead(f"{CONSORTIUM}/log", len(world.leaves), world.books.tree.root()).sign(other)
    (folder / "log" / "checkpoint").write_bytes(head)
    assert refused(open_log, folder).refusal is Refusal.UNKNOWN_KEY


def test_entries_and_tiles_that_agree_with_each_other_but_not_with_the_head_are_refused(folder):
    filled(folder)
    log = open_log(folder)
    size, root = log.books.tree.size, log.books.tree.root(3)
    log.close()
    wrong = tlog.TreeHead(f"{CONSORTIUM}/log", size, root).sign(key(f"{CONSORTIUM}/log"))
    (folder / "log" / "checkpoint").write_bytes(wrong)
    assert refused(open_log, folder).refusal is Refusal.CORRUPT


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
    again = open_log(folder)  # The entry had reached the database: it is there, and its sender gets its place.
    new, proof = again.append(world.leaves[1])
    assert (new, proof.index) == (False, 1)
    again.append(world.leaves[2])
    again.close()


def test_an_entry_that_the_database_stores_in_other_bytes_is_not_signed(folder, log):
    world = World()
    world.start()
    for leaf in world.leaves[:3]:
        log.append(leaf)
    head = log.head
    if DATABASES[folder]:
        body = "BEGIN IF NEW.index = 3 THEN NEW.leaf = decode('00', 'hex'); END IF; RETURN NEW; END"
        change(folder, f"CREATE FUNCTION rot() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        change(folder, "CREATE TRIGGER bit_rot BEFORE INSERT ON entry FOR EACH ROW EXECUTE FUNCTION rot()")
    else:
        rot = "UPDATE entry SET leaf = x'00' WHERE \"index\" = 3"
        change(folder, f"CREATE TRIGGER bit_rot AFTER INSERT ON entry BEGIN {rot}; END")
    caught = refused(log.append, world.leaves[3])
    assert (caught.refusal, "entry 3 in the database" in caught.detail) == (Refusal.STOPPED, True)
    assert refused(log.append, world.leaves[4]).refusal is Refusal.STOPPED
    assert log.head == head


def test_an_entry_that_the_database_drops_silently_is_not_signed(folder, log):
    world = World()
    world.start()
    for leaf in world.leaves[:3]:
        log.append(leaf)
    head = log.head
    on_insert(folder, "drop")
    caught = refused(log.append, world.leaves[3])
    assert (caught.refusal, "entry 3 is missing from the database" in caught.detail) == (Refusal.STOPPED, True)
    assert log.head == head


def test_a_database_that_takes_no_entry_is_named_as_what_failed(folder, log):
    world = World()
    log.append(world.leaves[0])
    head = log.head
    on_insert(folder, "refuse")
    caught = refused(log.append, world.sign(world.coordinator, world.manifest()))
    assert (caught.refusal, "the database did not take entries" in caught.detail) == (Refusal.STOPPED, True)
    assert log.head == head


def test_a_database_that_does_not_answer_is_named_as_what_failed(folder, log):
    leaf = World().leaves[0]
    log.append(leaf)
    change(folder, "ALTER TABLE entry RENAME TO gone")
    caught = refused(log.append, leaf)
    assert (caught.refusal, "the database did not answer" in caught.detail) == (Refusal.STOPPED, True)


def on_insert(folder: Path, what: str) -> None:
    """Make the database drop every new entry, or refuse it."""
    if DATABASES[folder]:
        does = {"drop": "RETURN NULL", "refuse": "RAISE EXCEPTION 'full'"}[what]
        body = f"BEGIN {does}; END"
        change(folder, f"CREATE FUNCTION no_more() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        change(folder, "CREATE TRIGGER no_more BEFORE INSERT ON entry FOR EACH ROW EXECUTE FUNCTION no_more()")
    else:
        does = {"drop": "RAISE(IGNORE)", "refuse": "RAISE(ABORT, 'full')"}[what]
        change(folder, f"CREATE TRIGGER no_more BEFORE INSERT ON entry BEGIN SELECT {does}; END")


def test_what_somebody_changes_in_the_database_later_is_neither_published_nor_opened_again(folder, log):
    world = World()
    world.start()
    for leaf in world.leaves[:3]:
        log.append(leaf)
    change(folder, 'UPDATE entry SET leaf = :leaf WHERE "index" = 1', leaf=world.leaves[2])
    log.append(world.leaves[3])
    assert fetch(log.published).leaves == world.leaves[:4]
    log.close()
    caught = refused(open_log, folder)
    assert (caught.refusal, "entry 1 in the database" in caught.detail) == (Refusal.CORRUPT, True)


@pytest.mark.parametrize("what", ["UPDATE entry SET idem = 'x' WHERE \"index\" = 1", "DELETE FROM entry"])
def test_the_database_itself_refuses_to_change_an_entry(folder, what):
    filled(folder)
    engine = sqlalchemy.create_engine(DATABASES[folder] or f"sqlite:///{folder / 'ledger.db'}")
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.DBAPIError, match="append-only"):
        connection.execute(sqlalchemy.text(what))
    engine.dispose()


def test_a_migrated_database_is_what_the_tables_say(folder):
    filled(folder)
    engine = sqlalchemy.create_engine(DATABASES[folder] or f"sqlite:///{folder / 'ledger.db'}")
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
    engine.dispose()
    assert found == []


# The head register.


def test_the_register_is_marked_for_backups_to_leave_out(folder):
    filled(folder)
    assert (
        (folder / "register" / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    )


def test_a_backup_of_everything_but_the_register_is_refused(folder, elsewhere):
    """The database and the published files are from yesterday, and agree with each other."""
    world = filled(folder)
    kept = elsewhere / "log"
    shutil.copytree(folder / "log", kept)
    log = open_log(folder)
    log.append(world.sign(world.coordinator, world.opened()))
    log.close()
    change(folder, 'DELETE FROM entry WHERE "index" = :last', last=len(world.leaves))
    shutil.rmtree(folder / "log")
    shutil.copytree(kept, folder / "log")
    caught = refused(open_log, folder)
    assert (caught.refusal, "the log has signed" in caught.detail) == (Refusal.BEHIND, True)


def test_a_register_older_than_what_was_published_is_refused(folder):
    world = filled(folder)
    kept = (folder / "register" / "head").read_bytes()
    log = open_log(folder)
    log.append(world.sign(world.coordinator, world.opened()))
    log.close()
    (folder / "register" / "head").write_bytes(kept)
    assert refused(open_log, folder).refusal is Refusal.BEHIND


def test_without_its_register_a_log_is_not_opened(folder):
    filled(folder)
    (folder / "register" / "head").unlink()
    caught = refused(open_log, folder)
    assert (caught.refusal, "register is lost" in caught.detail) == (Refusal.NOT_SET_UP, True)


def test_a_second_writer_that_got_past_every_lock_is_stopped_by_the_register(folder, log):
    world = World()
    world.start()
    log.append(world.leaves[0])
    other = tlog.TreeHead(f"{CONSORTIUM}/log", 1, leaf_hash(b"another")).sign(key(f"{CONSORTIUM}/log"))
    (folder / "register" / "head").write_bytes(other)
    head = log.head
    caught = refused(log.append, world.leaves[1])
    assert (caught.refusal, "two ledgers" in caught.detail) == (Refusal.STOPPED, True)
    assert log.head == head


def test_of_two_that_move_the_register_on_from_one_head_the_second_waits_and_is_refused(tmp_path):
    register, refusals = FileRegister(tmp_path), []
    register.swap(None, b"one")
    second = threading.Thread(target=lambda: refusals.append(refused(register.swap, b"one", b"three").refusal))
    with open(tmp_path / "lock") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second.start()
        second.join(0.2)
        (tmp_path / "head").write_bytes(b"two")
    second.join()
    assert (refusals, register.read()) == ([Refusal.BEHIND], b"two")


def test_a_log_is_not_begun_with_the_charter_of_another(folder):
    world = World()
    other = SigningKey.generate(f"{CONSORTIUM}/log")
    (folder / "log.key").unlink()
    seed = base64.b64encode(b"\x01" + other._private.private_bytes_raw()).decode()
    (folder / "log.key").write_text(f"PRIVATE+KEY+{other.name}+{other.verify_key.id.hex()}+{seed}\n")
    log = open_log(folder)
    assert refused(log.append, world.leaves[0]).refusal is Refusal.UNKNOWN_KEY
    log.close()


def test_heads_carry_a_second_signature_where_there_is_a_second_key(folder):
    second = SigningKey.create(folder / "log-mldsa.key", f"{CONSORTIUM}/log", MLDSA44)
    world = World()
    log = open_log(folder)
    log.append(world.leaves[0])
    log.append(world.sign(f"{CONSORTIUM}/admin", added(CONSORTIUM, "log", second)))
    for keys in (KEYS, note.known([second.verify_key])):
        assert tlog.open_head(log.head.note, keys).size == 2
    log.close()
    open_log(folder).close()
    (folder / "log-mldsa.key").unlink()
    SigningKey.create(folder / "log-mldsa.key", f"{CONSORTIUM}/log")
    assert refused(open_log, folder).refusal is Refusal.BAD_KEY


class LogMachine(RuleBasedStateMachine):
    """A log through any sequence of appends, repeats, lies and restarts, beside a plain list of what it must hold."""

    @initialize(folder=st.integers(0, 2**60))
    def found(self, folder):
        self.folder = Path(tempfile.mkdtemp(prefix="log-"))
        write_key(self.folder)
        self.log = open_log(self.folder)
        self.world = World()
        self.log.append(self.world.leaves[0])
        self.heads = [tlog.open_head(self.log.head.note, KEYS)]

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
        self.log = open_log(self.folder)

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
