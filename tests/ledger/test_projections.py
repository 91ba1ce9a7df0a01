"""The projections: built step by step, built anew and counted by hand they are the same to the bit; and what a machine
has lost is put right."""

import hashlib
import json
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import databases
import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_service import serving, write_key
from sqlmodel import SQLModel
from world import CONSORTIUM, World, added, affirmed, digest, key, revoked, whole

import ledger.log
import ledger.projections
import ledger.store
from consortium.cli import main
from ledger.log import Log
from ledger.projections import TABLES, Difference, Projector
from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.keys import SigningKey
from shared_models.records.kinds import (
    FIRST,
    KINDS,
    Charter,
    Equivocation,
    KeyAdd,
    KeyRevoke,
    QuoteOpen,
    QuoteSeal,
    Receipt,
    RoundClose,
)
from shared_models.records.merkle import leaf_hash
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.quotes import sealed

DATABASES: dict[Path, str] = {}  # The URL of the database of each test's folder.


@pytest.fixture(params=databases.KINDS)
def folder(request, tmp_path):
    write_key(tmp_path)
    DATABASES[tmp_path] = databases.fresh(request.param)
    return tmp_path


@pytest.fixture
def filled(folder):
    """A log in this folder with every kind of entry, and its tables."""
    log = open_log(folder)
    append(log, whole().leaves)
    projector = Projector(log)
    projector.catch_up()
    yield projector
    log.close()


def open_log(folder: Path, **more: object) -> Log:
    return ledger.log.open_log(folder, database=DATABASES[folder], **more)


def append(log: Log, leaves: list[bytes]) -> None:
    (answers,) = log.commit([[log.admit(leaf) for leaf in leaves]])
    assert not [each for each in answers if isinstance(each, Refused)]


def change(folder: Path, statement: str, **values: object) -> None:
    databases.change(DATABASES[folder], folder, statement, **values)


def ask(folder: Path, statement: str) -> list[tuple[object, ...]]:
    engine = sqlalchemy.create_engine(DATABASES[folder] or f"sqlite:///{folder / 'ledger.db'}")
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(sqlalchemy.text(statement))]
    engine.dispose()
    return found


def digests(log: Log) -> dict[str, str]:
    with log.store.engine.connect() as connection:
        return {name: ledger.projections.digest(table, connection)[1] for name, table in TABLES.items()}


def refused(act, *arguments, **more) -> Refused:
    with pytest.raises(Refused) as caught:
        act(*arguments, **more)
    return caught.value


# What the tables must hold, counted from the whole log at once.


def naive(leaves: list[bytes]) -> dict[str, str]:
    """The digest of each table, from the records alone."""
    said = [(index, entries.peek(leaf)) for index, leaf in enumerate(leaves)]

    def of(kind):
        return [(index, record) for index, record in said if record.kind == kind]

    def hash_of(index):
        return leaf_hash(leaves[index]).hex()

    def copied(kind, names, many=lambda record: [record], of_period=False):
        rows = []
        for index, record in of(kind):
            for part, each in enumerate(many(record)):
                owner = {"hash": hash_of(index), **({"period": record.period} if of_period else {})}
                rows.append([index, part, *(owner.get(name) or getattr(each, name) for name in names.split())])
        return rows

    charters = [(0, record) for index, record in of(Charter.kind)]
    keys = [
        [index, part, holder, role, text.split("+")[1], text]
        for index, charter in charters
        for part, (holder, role, text) in enumerate(entries.roles(charter))
    ]
    keys += [[i, 0, new.holder, new.role, new.key.split("+")[1], new.key] for i, new in of(KeyAdd.kind)]
    ends = {(old.holder, old.role, old.id): [index, old.suspect_from] for index, old in of(KeyRevoke.kind)}
    closes = {(close.run, close.round): (index, close) for index, close in of(RoundClose.kind)}
    counted = {each.receipt: index for index, close in closes.values() for each in close.included}
    runs = {end.run: [index, end.checkpoint, end.status, end.reason] for index, end in of("run.end")}
    opens = {(said.member, said.idem): [index, said.amount] for index, said in of("quote.open")}
    manifest = "run bundle rounds quorum deadline_ms flop_per_token base loss_unats"
    receipt = (
        "run round member node tokens steps flop device devices busy_ms wall_ms cpu_ms energy_mj energy_method"
        " bytes_down bytes_up started_ms ended_ms witnessed_size"
    )
    member = "name admin compute witness attest benefit pledge"
    rounds = []
    for row in copied("round.open", "run round base opened_ms deadline_ms"):
        index, close = closes.get((row[2], row[3]), (None, None))
        rounds.append([*row, index, close and close.checkpoint, close and close.loss_unats])
    receipts, spent = {hash_of(index): said for index, said in of(Receipt.kind)}, []
    for index, close in of(RoundClose.kind):
        so_far = [other for at, other in of(RoundClose.kind) if at <= index and other.run == close.run]
        counts = [receipts[each.receipt] for other in so_far for each in (*other.included, *other.late)]
        measured = [each for each in counts if each.energy_method != "none"]
        energy = sum(each.energy_mj for each in measured)
        busy, wall = sum(each.busy_ms for each in counts), sum(each.wall_ms for each in counts)
        spent.append([index, 0, close.run, len(counts), len(measured), energy, busy, wall])
    rows = {
        "member": [
            [index, part, hash_of(index), *(getattr(each, name) for name in member.split())]
            for index, charter in of(Charter.kind) + [(index, each.charter) for index, each in of("amendment")]
            for part, each in enumerate(charter.members)
        ],
        "amendment": copied("amendment", "hash member amendment replaces"),
        "vote": copied("vote", "member amendment choice"),
        "leave": copied("member.leave", "member reason"),
        "key": [row + ends.get(tuple(row[2:5]), [None, None]) for row in keys],
        "affirmed": copied("key.affirm", "holder role id start end"),
        "run": [row + runs.get(row[2], [None] * 4) for row in copied("run.manifest", manifest)],
        "consent": copied("run.consent", "run member manifest"),
        "round": rounds,
        "receipt": [[*row, counted.get(row[2])] for row in copied(Receipt.kind, f"hash {receipt}")],
        "spent": spent,
        "excluded": [
            [index, part, close.run, close.round, each.member, each.reason]
            for index, close in closes.values()
            for part, each in enumerate(close.excluded)
        ],
        "rate": copied("rate", "currency date rate source"),
        "item": copied("cost.item", "hash item payer pot period category amount currency date evidence"),
        "credit_note": copied("credit.note", "note payer item period amount reason"),
        "usage": copied("usage", "member pot period quantity source"),
        "quote": [
            [*row, *opens.get((row[2], seal.idem), [None, None])]
            for (_, seal), row in zip(
                of("quote.seal"), copied("quote.seal", "member about period members seal"), strict=True
            )
        ],
        "price": copied("price", "period price quotes"),
        "dispute": copied("dispute", "member about reason"),
        "resolution": copied("resolution", "member about outcome reason"),
        "statement": copied("statement", "period charter price start end root unspent_flop"),
        "line": copied("statement", "period pot member credit charge", lambda bill: bill.lines, True),
        "balance": copied("statement", "period member flop net carry", lambda bill: bill.balances, True),
        "transfer": copied("statement", "period payer payee amount", lambda bill: bill.transfers, True),
        "certificate": copied("statement", "period members charge alone", lambda bill: bill.certificate, True),
        "settlement": copied("settlement", "member period netting payer payee amount"),
        "defaults": copied("default", "member period netting defaulter reason"),
        "equivocation": [
            [index, 0, each.first, entries.peek(leaves[each.first]).kind, entries.peek(leaves[each.first]).idem]
            for index, each in of(Equivocation.kind)
        ],
        "artefact": copied("artefact", "publisher artefact size form"),
        "lineage": [
            [index, part, made.artefact, *source]
            for index, made in of("artefact")
            for part, source in enumerate(
                [(each.run, each.round, None) for each in made.checkpoints]
                + [(None, None, parent) for parent in made.parents]
            )
        ],
        "grants": copied("access", "member artefact fetch"),
        "revocation": copied("access.revoke", "member notice revoked reason"),
        "audit_result": copied("audit.result", "auditor run round member receipt segment verdict distance_ppm build"),
        "worth": copied("worth", "member run checkpoint text losses_unats routes"),
        "served": [
            [
                index,
                0,
                *(each.member, each.period, each.run, each.model, each.tokens),
                *zip(*((route.member, route.tokens) for route in each.routes), strict=True),
                each.replaces,
            ]
            for index, each in of("served")
        ],
        "lent": copied("expert.grant", "member run to"),
        "restoration": copied("access.restore", "member notice"),
    }
    return {name: hashed(name, rows[name]) for name in TABLES}


WHOLE = {
    *("index", "part", "round", "rounds", "quorum", "start", "end", "first", "witnessed_size", "netting"),
    *("revoked", "suspect_from", "ended", "closed", "included", "opened"),
}


def hashed(name: str, rows: list[list[object]]) -> str:
    columns = TABLES[name].columns.keys()
    lines = [[name, *columns]]
    for row in sorted(rows, key=lambda row: row[:2]):
        lines.append(
            [
                f"{value.numerator}/{value.denominator}"
                if isinstance(value, Fraction)
                else str(value)
                if isinstance(value, int) and column not in WHOLE
                else "+".join(map(str, value))
                if isinstance(value, tuple)
                else value
                for column, value in zip(columns, row, strict=True)
            ]
        )
    text = "\n".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in lines)
    return hashlib.sha256(text.encode()).hexdigest()


ACTS = st.one_of(
    st.tuples(st.just("round"), st.sets(st.sampled_from(["acme", "birch", "cedar"])), st.integers(0, 2**96)),
    st.tuples(st.just("open"), st.booleans()),
    st.tuples(st.just("item"), st.sampled_from(["acme", "birch"]), st.integers(1, 2**63 - 1)),
    st.tuples(st.just("bill")),
    st.tuples(st.just("lie")),
    st.tuples(
        st.just("key"), st.sampled_from(["acme", "cedar"]), st.sampled_from(["witness", "attest"]), st.floats(0, 1)
    ),
    st.tuples(st.just("end"), st.sampled_from(["completed", "failed", "stopped"])),
)


def lived(acts: list[tuple]) -> World:
    """A world in which these things happened, where they could."""
    world = World()
    world.start(rounds=100, patience=1)
    generations: dict[tuple[str, str], int] = {}
    for number, (act, *how) in enumerate(acts):
        size, run = world.books.tree.size, list(world.books.runs)[-1]
        rounds = world.books.runs[run].rounds
        if act == "round":
            if not rounds or rounds[-1].closed is not None:
                world.say(world.coordinator, world.opened(run))
            hashes = {
                name: world.say(f"{name}/compute", world.receipt(name, run, node=f"n{number}", energy_mj=how[1]))
                for name in sorted(how[0])
            }
            world.say(world.coordinator, world.close(hashes, run))
        elif act == "open" and (not rounds or rounds[-1].closed is not None):
            world.say(world.coordinator, world.opened(run))
            if how[0]:
                world.say("birch/compute", world.receipt("birch", run))
        elif act == "item":
            world.say(f"{how[0]}/admin", world.item(how[0], how[1], f"item-{number}"))
        elif act == "bill":
            world.bill(f"p{number}")
        elif act == "lie" and number < 3:
            world.say(f"{CONSORTIUM}/log", world.equivocation(2 + number, manifest=digest("another")))
        elif act == "key":
            holder, role, suspect = how
            old = generations.setdefault((holder, role), 1)
            generations[holder, role] += 1
            name, first = f"{holder}/{role}", int(suspect * size)
            world.say(f"{holder}/admin", added(holder, role, key(name, old + 1)))
            world.say(f"{holder}/admin", revoked(holder, role, key(name, old), first))
            world.say(f"{holder}/admin", affirmed(holder, role, key(name, old), first, first + 1))
        elif act == "end":
            status = "completed" if how[0] == "stopped" and not world.books.runs[run].stops() else how[0]
            world.say(world.coordinator, world.end(run, status=status, reason="ünd so"))
            world.start(f"{run}x", rounds=100, patience=1)
    return world


@pytest.mark.parametrize("kind", databases.KINDS)
@given(data=st.data(), acts=st.lists(ACTS, max_size=12))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_step_by_step_anew_and_by_hand_the_tables_are_the_same_to_the_bit(kind, data, acts):
    leaves = lived(acts).leaves
    folder = Path(tempfile.mkdtemp(prefix="projections-"))
    write_key(folder)
    DATABASES[folder] = databases.fresh(kind)
    log = open_log(folder)
    try:
        projector = Projector(log)
        cuts = data.draw(st.sets(st.integers(1, len(leaves)), max_size=4))
        with pytest.MonkeyPatch.context() as few:
            few.setattr(ledger.projections, "AT_ONCE", data.draw(st.sampled_from([1, 2, 5, 256])))
            for cut in sorted({*cuts, len(leaves)}):
                append(log, leaves[log.head.size : cut])
                assert projector.catch_up() == cut
                assert digests(log) == naive(leaves[:cut])
            assert [each.differences for each in projector.rebuild()] == [[]] * (len(TABLES) + 1)
        assert digests(log) == naive(leaves)
    finally:
        log.close()
        shutil.rmtree(folder)


def test_a_whole_log_in_tables(filled):
    leaves = whole().leaves
    assert filled.catch_up() == len(leaves)
    assert digests(filled._log) == naive(leaves)
    (cedar,) = [row for row in filled.page("key").rows if row["holder"] == "cedar" and row["revoked"]]
    assert (cedar["role"], cedar["suspect_from"], cedar["index"]) == ("compute", 5, 0)
    receipts = filled.page("receipt").rows
    assert len(receipts) == 10
    for row in receipts:
        close = entries.peek(leaves[row["included"]])
        assert row["hash"] in [each.receipt for each in close.included]
    assert [(row["member"], row["reason"]) for row in filled.page("excluded").rows] == [("birch", "late")]
    bills = [entries.peek(leaves[row["index"]]) for row in filled.page("statement").rows]
    assert [(row["payer"], row["payee"], row["amount"]) for row in filled.page("transfer").rows] == [
        (each.payer, each.payee, str(each.amount)) for bill in bills for each in bill.transfers
    ]
    assert [tuple(row.values())[2:] for row in filled.page("certificate").rows] == [
        ("2026-12", "acme", "0/1", "5000/1")
    ]
    assert [row["quotes"] for row in filled.page("price").rows] == ["acme+birch"]
    assert [(row["payer"], row["amount"], row["currency"]) for row in filled.page("item").rows] == [
        ("birch", "12", "EUR"),
        ("acme", "5.01", "EUR"),
        ("acme", "20.5", "USD"),
    ]
    assert filled.page("credit_note").rows[0]["item"] == filled.page("item").rows[-1]["hash"]
    assert sum(Fraction(row["credit"]) - Fraction(row["charge"]) for row in filled.page("line").rows) == 0


def test_every_kind_of_entry_is_in_the_tables():
    leaves = whole().leaves
    told = {entries.peek(leaf).kind for index, leaf in enumerate(leaves) if list(ledger.projections.rows(index, leaf))}
    assert told == set(KINDS)


def test_a_quote_is_sealed_until_it_is_opened_and_no_other_is_opened_with_it(folder):
    world, salt = World(), digest("salt")
    named = [
        ("acme", "alone", "2026-11", ("acme",)),
        ("acme", "price", "2026-11", ("acme",)),
        ("acme", "alone", "2026-12", ("acme",)),
        ("acme", "alone", "2026-11", ("acme", "birch")),
        ("birch", "alone", "2026-11", ("acme", "birch")),
    ]
    for by, *about in named:
        what = dict(zip(("about", "period", "members"), about, strict=True))
        seal = sealed(*about, "12.5", salt)
        world.say(f"{by}/admin", QuoteSeal(seq=0, prev=FIRST, member=by, **what, seal=seal))
    log = open_log(folder)
    projector = Projector(log)

    def opened() -> list[tuple[object, ...]]:
        append(log, world.leaves[log.head.size :])
        rows = projector.page("quote").rows
        assert [tuple(row[name] for name in ("member", "about", "period", "members")) for row in rows] == [
            (*rest, "+".join(members)) for *rest, members in named
        ]
        return [(row["opened"], row["amount"]) for row in rows]

    shut = (None, None)
    assert opened() == [shut] * 5
    for at in (0, 3):
        by, about, period, members = named[at]
        what = {"about": about, "period": period, "members": members, "amount": "12.5", "salt": salt}
        world.say(f"{by}/admin", QuoteOpen(seq=0, prev=FIRST, member=by, **what))
        assert opened() == [(6, "12.5"), shut, shut, (7, "12.5") if at else shut, shut]
    log.close()


def test_the_members_that_a_bill_knows_are_those_of_the_charter_that_it_follows(folder, filled):
    world, size = whole(), len(whole().leaves)
    world.bill("2027-01")  # It begins before the amendment was in force.
    world.bill("2027-02")
    append(filled._log, world.leaves[size:])
    filled.catch_up()
    assert ask(
        folder,
        "SELECT period, count(*), max(amendment) FROM statement JOIN member USING (charter)"
        " LEFT JOIN amendment ON hash = charter GROUP BY period ORDER BY period",
    ) == [("2026-11", 3, None), ("2026-12", 3, None), ("2027-01", 3, None), ("2027-02", 3, "quorum")]
    assert [row["amendment"] for row in filled.page("vote").rows] == [filled.page("amendment").rows[0]["hash"]] * 2


def test_a_receipt_that_nobody_counts_is_there_and_says_so(folder):
    world = World()
    world.start()
    world.say(world.coordinator, world.opened())
    late = world.sign("cedar/compute", world.receipt("cedar"))
    hashes = {name: world.say(f"{name}/compute", world.receipt(name)) for name in ("acme", "birch")}
    world.say(world.coordinator, world.close(hashes))
    world.append(late)
    log = open_log(folder)
    append(log, world.leaves)
    close = len(world.leaves) - 2
    assert [(row["member"], row["included"]) for row in Projector(log).page("receipt").rows] == [
        ("acme", close),
        ("birch", close),
        ("cedar", None),
    ]
    log.close()


# Rows that are not what the log says.


@pytest.mark.parametrize(
    ("statement", "differences"),
    [
        (
            "UPDATE receipt SET tokens = '97' WHERE \"index\" = 6",
            [Difference("receipt", "6.0", "tokens", '"97"', '"96"')],
        ),
        (
            'UPDATE receipt SET included = NULL WHERE "index" = 6',
            [Difference("receipt", "6.0", "included", "null", "9")],
        ),
        (
            "UPDATE balance SET carry = '0' WHERE \"index\" = 26 AND part = 1",
            [Difference("balance", "26.1", "carry", '"0"', '"0/1"')],
        ),
        (
            'UPDATE consent SET part = 7 WHERE "index" = 3',
            [
                Difference("consent", "3.0", "", None, f'[3,0,"r1","birch","{whole().books.runs["r1"].hash}"]'),
                Difference("consent", "3.7", "", f'[3,7,"r1","birch","{whole().books.runs["r1"].hash}"]', None),
            ],
        ),
        ("DELETE FROM excluded", [Difference("excluded", "14.0", "", None, '[14,0,"r1",2,"birch","late"]')]),
        (
            "INSERT INTO transfer VALUES (26, 2, '2026-11', 'acme', 'birch', '5')",
            [Difference("transfer", "26.2", "", '[26,2,"2026-11","acme","birch","5"]', None)],
        ),
        (
            "INSERT INTO excluded VALUES (99, 0, 'r1', 3, 'acme', 'late')",
            [Difference("excluded", "99.0", "", '[99,0,"r1",3,"acme","late"]', None)],
        ),
    ],
)
def test_what_was_changed_by_hand_is_found_named_and_put_right(folder, filled, statement, differences):
    before = digests(filled._log)
    change(folder, statement)
    assert digests(filled._log) != before
    found = filled.rebuild()
    assert [one for each in found for one in each.differences] == differences
    assert digests(filled._log) == before == {each.table: each.digest for each in found if each.table in TABLES}
    assert not [one for each in filled.rebuild() for one in each.differences]


def test_bytes_are_not_taken_for_the_text_that_spells_them(tmp_path):
    """SQLite keeps what it is given, whatever the type of the column; a key that is no number, too."""
    write_key(tmp_path)
    DATABASES[tmp_path] = ""
    log = open_log(tmp_path)
    append(log, whole().leaves)
    projector = Projector(log)
    projector.catch_up()
    right = digests(log)
    change(tmp_path, 'UPDATE receipt SET hash = CAST(hash AS BLOB) WHERE "index" = 6')
    change(tmp_path, "UPDATE item SET part = 'x' WHERE item = 'mail'")
    found = {(one.table, one.key, one.column) for each in projector.rebuild() for one in each.differences}
    assert found == {("receipt", "6.0", "hash"), ("item", "15.0", ""), ("item", "15.x", "")}
    assert digests(log) == right
    log.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE projection SET size = 99",  # Ahead of the log.
        "UPDATE projection SET size = 7",  # The root is not of that size.
        "UPDATE projection SET root = :root",
        "UPDATE projection SET root = ''",
        "UPDATE projection SET size = -1",
        "DELETE FROM projection",
        "INSERT INTO projection VALUES (99, :root)",  # Beside the right one.
    ],
)
@pytest.mark.parametrize("act", ["catch_up", "rebuild"])
def test_a_place_that_is_not_of_this_log_is_begun_again(folder, filled, statement, act):
    right = digests(filled._log)
    change(folder, statement, **({"root": "01" * 32} if ":root" in statement else {}))
    change(folder, "UPDATE receipt SET tokens = '97' WHERE \"index\" = 6")
    found = getattr(filled, act)()
    if act == "rebuild":
        wrong = {each.table for each in found if each.differences}
        assert wrong == {"projection", "receipt"}
    assert digests(filled._log) == right
    ((size, root),) = ask(folder, "SELECT size, root FROM projection")
    assert (size, root) == (filled._log.head.size, filled._log.head.root.hex())


def test_what_the_tables_lack_only_because_nobody_has_read_them_is_no_difference(folder, filled):
    world = whole()
    world.say("birch/admin", world.item("birch", 5, "late", period="2027-01"))
    append(filled._log, world.leaves[-1:])
    found = filled.rebuild()
    assert not [one for each in found for one in each.differences]
    assert digests(filled._log) == naive(world.leaves)


def test_a_row_where_one_should_come_is_no_obstacle(folder, filled):
    world = whole()
    change(folder, "UPDATE item SET \"index\" = :next WHERE item = 'mail'", next=len(world.leaves))
    world.say("birch/admin", world.item("birch", 5, "late", period="2027-01"))
    append(filled._log, world.leaves[-1:])
    assert filled.page("item").rows[-1]["item"] == "late"
    assert digests(filled._log) == naive(world.leaves)


def test_rows_and_place_go_together(folder, monkeypatch):
    log = open_log(folder)
    leaves = whole().leaves
    append(log, leaves)
    projector = Projector(log)
    move = ledger.projections._move

    def dies(connection, size, root):
        move(connection, size, root)
        if size == 20:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(ledger.projections, "AT_ONCE", 5)
        disk.setattr(ledger.projections, "_move", dies)
        with pytest.raises(OSError, match="No space left"):
            projector.catch_up()
        assert ask(folder, "SELECT size FROM projection") == [(15,)]
        assert digests(log) == naive(leaves[:15])
    projector.catch_up()
    assert digests(log) == naive(leaves)
    log.close()


def test_an_entry_that_somebody_changed_in_the_database_gets_into_no_table(folder):
    log = open_log(folder)
    leaves = whole().leaves
    append(log, leaves)
    change(
        folder,
        'UPDATE entry SET leaf = :leaf WHERE "index" = 7',
        leaf=leaves[7].replace(b'"tokens":96', b'"tokens":99'),
    )
    caught = refused(Projector(log).page, "receipt")
    assert (caught.refusal, "entry 7" in caught.detail) == (Refusal.CORRUPT, True)
    assert ask(folder, "SELECT count(*) FROM receipt") == [(0,)]
    log.close()


def test_entries_are_appended_while_the_tables_catch_up(folder, monkeypatch):
    """Both write to one database: neither finds it busy, and neither waits for more than one transaction."""
    monkeypatch.setattr(ledger.projections, "AT_ONCE", 1)
    world = World()
    log = open_log(folder)
    append(log, world.leaves)
    world.start(rounds=30)
    for _ in range(12):
        world.round()
    projector, ended = Projector(log), threading.Event()

    def read() -> None:
        while not ended.is_set():
            projector.catch_up()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for leaf in world.leaves[1:]:
            log.append(leaf)
    finally:
        ended.set()
        reader.join()
    assert projector.catch_up() == len(world.leaves)
    assert digests(log) == naive(world.leaves)
    log.close()


@pytest.mark.parametrize("who", ["the log", "the tables"])
def test_who_writes_waits_for_the_turn(folder, who):
    log, leaves = open_log(folder), whole().leaves
    append(log, leaves[:5])
    projector, ended = Projector(log), threading.Event()

    def write() -> None:
        append(log, leaves[5:]) if who == "the log" else projector.catch_up()
        ended.set()

    writer = threading.Thread(target=write)
    with log.store.turn:
        writer.start()
        assert not ended.wait(0.3)
        assert (log.head.size, ask(folder, "SELECT size FROM projection")) == (5, [(0,)])
    writer.join()
    assert ended.is_set()
    log.close()


# Over HTTP.


def answer(url: str) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(url) as reply:  # noqa: S310
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("kind", databases.KINDS)
def test_tables_are_read_page_by_page(tmp_path, kind):
    world = whole()
    with serving(tmp_path, database_url=databases.fresh(kind)) as served:
        tables = f"{served.url}/v1/tables"
        assert answer(f"{tables}/member") == (200, {"size": 0, "rows": [], "next": None})
        bills = [
            (index, said) for index, said in enumerate(map(entries.peek, world.leaves)) if said.kind == "statement"
        ]
        first = bills[0][0]
        for leaf in world.leaves[:first]:
            served.append(leaf)
        assert answer(f"{tables}/statement") == (200, {"size": first, "rows": [], "next": None})
        for leaf in world.leaves[first:]:
            served.append(leaf)
        rows, after = [], ""
        while after is not None:
            _, page = answer(f"{tables}/line?limit=4{after and f'&after={after}'}")
            assert (page["size"], len(page["rows"]) <= 4) == (len(world.leaves), True)
            rows, after = rows + page["rows"], page["next"]
        assert [(row["index"], row["part"], row["pot"], row["member"], row["credit"]) for row in rows] == [
            (index, part, each.pot, each.member, f"{each.credit.numerator}/{each.credit.denominator}")
            for index, bill in bills
            for part, each in enumerate(bill.lines)
        ]
        assert answer(f"{tables}/line?limit={len(rows)}")[1]["next"] is None
        for wrong, status, code in [
            ("/entry", 404, "not_found"),
            ("/projection", 404, "not_found"),
            ("/line?limit=1001", 422, "bad_field"),
            ("/line?limit=0", 422, "bad_field"),
            ("/line?after=7", 422, "bad_field"),
            ("/line?after=7.%CC%81", 422, "bad_field"),
        ]:
            found = answer(tables + wrong)
            assert (found[0], found[1]["code"]) == (status, code)


def test_who_asks_while_the_tables_catch_up_for_long_is_told_to_come_again(filled, monkeypatch):
    monkeypatch.setattr(ledger.projections, "WAIT_S", 0.01)
    with filled._reading:
        assert refused(filled.page, "line").refusal is Refusal.BUSY
    assert filled.page("line").size == filled._log.head.size


def reached(folder) -> int:
    """The size of the log that the tables have."""
    return ask(folder, "SELECT size FROM projection")[0][0]


def test_tables_that_are_far_behind_are_brought_up_beside_and_who_asks_meanwhile_is_told_to_come_again(
    folder, monkeypatch
):
    monkeypatch.setattr(ledger.projections, "FAR", 10)
    log, leaves = open_log(folder), whole().leaves
    append(log, leaves[:-11])
    projector = Projector(log)
    log.store.turn.acquire()  # Nobody writes to the database until it is given back.
    with projector.following():
        caught = refused(projector.page, "receipt")
        assert (caught.refusal, "entries behind" in caught.detail) == (Refusal.BUSY, True)
        log.store.turn.release()
        while reached(folder) < len(leaves) - 11:
            time.sleep(0.01)
        append(log, leaves[-11:-1])
        assert projector.page("receipt").size == len(leaves) - 1  # That is not far: it waits for these.
        monkeypatch.setattr(ledger.projections, "FAR", 0)
        append(log, leaves[-1:])
        assert refused(projector.page, "receipt").refusal is Refusal.BUSY
        while reached(folder) < len(leaves):
            time.sleep(0.01)
        assert projector.page("receipt").size == len(leaves)
    assert digests(log) == naive(leaves)
    log.close()


def test_who_ends_does_not_wait_for_tables_that_are_far_behind(folder, monkeypatch):
    monkeypatch.setattr(ledger.projections, "FAR", 10)
    monkeypatch.setattr(ledger.projections, "AT_ONCE", 1)
    log = open_log(folder)
    append(log, whole().leaves)
    before = threading.enumerate()  # A ledger that other tests of this process share has such a thread too.
    with ExitStack() as following, log.store.turn:
        projector = Projector(log)
        following.enter_context(projector.following())
        while not projector._reading.locked():  # Until it has begun.
            time.sleep(0.001)
        projector._ended.set()
    assert reached(folder) <= 1
    assert [each for each in threading.enumerate() if each.name == "tables" and each not in before] == []
    log.close()


def test_what_is_refused_beside_is_told_to_who_asks(folder, monkeypatch):
    monkeypatch.setattr(ledger.projections, "FAR", 10)
    log, leaves = open_log(folder), whole().leaves
    append(log, leaves)
    forged = leaves[7].replace(b'"tokens":96', b'"tokens":99')
    change(folder, 'UPDATE entry SET leaf = :leaf WHERE "index" = 7', leaf=forged)
    projector = Projector(log)
    with projector.following():
        while projector._beside:
            time.sleep(0.01)
        assert refused(projector.page, "receipt").refusal is Refusal.CORRUPT
    log.close()


def test_a_ledger_that_starts_brings_up_tables_that_are_far_behind(folder, monkeypatch):
    monkeypatch.setattr(ledger.projections, "FAR", 10)
    leaves = whole().leaves
    with serving(folder, database_url=DATABASES[folder]) as served:
        for leaf in leaves:
            served.append(leaf)
    assert reached(folder) == 0
    with serving(folder, database_url=DATABASES[folder]):
        while reached(folder) < len(leaves):
            time.sleep(0.01)


# From an older database.


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("version", ["0001", "0002"])
def test_a_database_of_an_older_ledger_gets_the_tables_and_keeps_its_entries(folder, monkeypatch, version, interrupted):
    def older(connection):
        config = Config()
        config.set_main_option("script_location", "ledger:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        connection.commit()

    leaves = whole().leaves
    with monkeypatch.context() as yesterday:
        yesterday.setattr(ledger.store, "migrate", older)
        log = open_log(folder)
        append(log, leaves)
        log.close()
    before = databases.dump(DATABASES[folder], folder)
    assert ask(folder, "SELECT version_num FROM alembic_version") == [(version,)]
    if version == "0002":
        change(folder, "INSERT INTO member VALUES (0, 0, 'acme', '', '', '', '', '2')")
        root = whole().books.tree.root().hex()
        change(folder, "UPDATE projection SET size = :size, root = :root", size=len(leaves), root=root)
    if interrupted and not DATABASES[folder]:  # PostgreSQL makes all tables or none.
        open_log(folder).close()
        if version == "0001":
            change(folder, "DROP TABLE projection")
            change(folder, "DROP INDEX ix_receipt_hash")
        change(folder, "DROP TABLE statement")
        change(folder, "UPDATE alembic_version SET version_num = :version", version=version)
    log = open_log(folder)
    assert Projector(log).catch_up() == len(leaves)
    assert digests(log) == naive(leaves)
    log.close()
    assert databases.dump(DATABASES[folder], folder) == before
    engine = sqlalchemy.create_engine(DATABASES[folder] or f"sqlite:///{folder / 'ledger.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    engine.dispose()


@pytest.mark.parametrize("version", ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009"])
def test_a_database_of_any_older_form_is_brought_to_the_newest(folder, version):
    engine = ledger.store.connect(DATABASES[folder] or f"sqlite:///{folder / 'ledger.db'}")
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", "ledger:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        connection.commit()
        ledger.store.migrate(connection)
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
        asked = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))
        assert asked.scalar() == ledger.store.REVISION
    engine.dispose()


def test_the_receipts_of_one_member_are_found_by_an_index_and_no_other_s_are_read(folder):
    log = open_log(folder)
    append(log, whole().leaves)
    projector = Projector(log)
    projector.catch_up()
    engine, plans = log.store.engine, list[str]()

    def watch(connection, cursor, statement, parameters, context, many):
        if "FROM receipt" in statement and engine.dialect.name == "sqlite":  # The other reads so few rows as they lie.
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(str(row[-1]) for row in cursor.fetchall())

    sqlalchemy.event.listen(engine, "before_cursor_execute", watch)
    found = projector.page("receipt", (3, 0), 2, end=60, of={"member": "birch"})
    assert [each["member"] for each in found.rows] == ["birch", "birch"]
    assert all("INDEX ix_receipt_member (member=? AND (index,part)>(?,?) AND index<?)" in plan for plan in plans)
    assert len(plans) == (engine.dialect.name == "sqlite")
    log.close()


# A register that is lost.


@pytest.fixture
def lost(folder):
    """A log whose register is lost: (its folder, its world)."""
    world = World(quorum=2)
    world.start()
    world.round()
    log = open_log(folder)
    append(log, world.leaves)
    log.close()
    (folder / "register" / "head").unlink()
    return folder, world


def at(world: World, size: int) -> tlog.TreeHead:
    return tlog.TreeHead(f"{CONSORTIUM}/log", size, world.books.tree.root(size))


def witnessed(head: tlog.TreeHead, *keys: SigningKey) -> bytes:
    lines = [note.signature(head.text, key(f"{CONSORTIUM}/log"))]
    lines += [note.signature(head.text, each, 1_700_000_000) for each in keys]
    return note.Note(head.text, tuple(lines)).data()


def test_a_lost_register_is_written_from_a_head_that_the_admin_names(lost):
    folder, world = lost
    size = len(world.leaves)
    assert "consortium ledger adopt" in refused(open_log, folder).detail
    log = open_log(folder, adopted=at(world, size))
    assert (log.head.size, log.head.root) == (size, world.books.tree.root())
    log.close()
    assert tlog.unsigned((folder / "register" / "head").read_bytes()) == at(world, size)
    log = open_log(folder)  # And goes on as ever.
    log.append(world.sign("acme/admin", world.item("acme", 5, "more")))
    log.close()
    caught = refused(open_log, folder, adopted=at(world, size))
    assert (caught.refusal, "nothing is to be adopted" in caught.detail) == (Refusal.CONFLICT, True)


def test_a_lost_register_is_written_from_a_head_that_a_quorum_has_cosigned(lost):
    folder, world = lost
    shutil.rmtree(folder / "log")  # The published folder is lost too.
    head = at(world, len(world.leaves) - 3)
    log = open_log(folder, adopted=witnessed(head, key("acme/witness"), key("birch/witness")))
    assert log.head.size == len(world.leaves)  # What the database has beyond it is verified, and signed.
    log.close()


def test_a_log_whose_key_was_changed_and_whose_heads_are_gone_is_not_gone_on_with(lost):
    folder, world = lost
    shutil.rmtree(folder / "log")
    (folder / "log.key").unlink()
    SigningKey.create(folder / "log.key", f"{CONSORTIUM}/log")
    assert refused(open_log, folder, adopted=at(world, len(world.leaves))).refusal is Refusal.UNKNOWN_KEY
    assert not (folder / "register" / "head").exists()


def test_what_does_not_prove_to_be_the_newest_is_not_adopted(lost):
    folder, world = lost
    size = len(world.leaves)
    newer = World()
    newer.start()
    acme, birch = key("acme/witness"), key("birch/witness")
    ahead = tlog.TreeHead(f"{CONSORTIUM}/log", size + 1, world.books.tree.root())
    other = tlog.TreeHead(f"{CONSORTIUM}/log", size, newer.books.tree.root())
    stranger = SigningKey.generate("acme/witness", key("acme/witness").verify_key.kind)
    elsewhere = tlog.TreeHead("elsewhere.example/log", size, world.books.tree.root())
    acme_s = tlog.TreeHead("acme/admin", size, world.books.tree.root())
    of_acme = note.signature(acme_s.text, key("acme/admin"))
    for adopted, refusal in [
        (ahead, Refusal.BEHIND),  # The database lacks an entry that a member has seen.
        (other, Refusal.CORRUPT),  # Another history.
        (at(world, size - 1), Refusal.BEHIND),  # Older than what lies published beside it.
        (witnessed(ahead, acme, birch), Refusal.BEHIND),
        (witnessed(other, acme, birch), Refusal.CORRUPT),
        (witnessed(at(world, size), acme), Refusal.NO_QUORUM),
        (witnessed(at(world, size), acme, acme), Refusal.NO_QUORUM),
        (witnessed(at(world, size), acme, stranger), Refusal.NO_QUORUM),
        (witnessed(at(world, size), acme, key("birch/attest")), Refusal.NO_QUORUM),
        (witnessed(at(world, size), acme, birch).replace(b" birch/witness ", b" cedar/witness "), Refusal.NO_QUORUM),
        (note.Note(at(world, size).text, (note.signature(at(world, size).text, acme, 1),)).data(), Refusal.UNKNOWN_KEY),
        (note.sign(elsewhere.text, [key(f"{CONSORTIUM}/log")]), Refusal.UNKNOWN_KEY),
        (
            note.Note(acme_s.text, (of_acme, *note.parse(witnessed(acme_s, acme, birch)).signatures[1:])).data(),
            Refusal.WRONG_ORIGIN,
        ),
        (b"hello", Refusal.NOT_A_NOTE),
    ]:
        assert refused(open_log, folder, adopted=adopted).refusal is refusal
        assert not (folder / "register" / "head").exists()


def test_a_witness_whose_key_was_revoked_does_not_count_for_a_register(folder):
    world = World(quorum=1)
    world.say("acme/admin", revoked("acme", "witness", key("acme/witness")))
    log = open_log(folder)
    append(log, world.leaves)
    log.close()
    (folder / "register" / "head").unlink()
    head = at(world, 2)
    assert refused(open_log, folder, adopted=witnessed(head, key("acme/witness"))).refusal is Refusal.NO_QUORUM
    open_log(folder, adopted=witnessed(head, key("birch/witness"))).close()


# As commands.


@pytest.fixture
def run(capsys, folder, monkeypatch):
    """Run `consortium ledger ...` on this folder: (exit code, what it printed, what it complained)."""
    monkeypatch.setenv("CONSORTIUM_LEDGER__DATABASE_URL", DATABASES[folder])

    def command_(*words: object) -> tuple[int, str, str]:
        code = main(["ledger", *(str(word) for word in words), "--dir", str(folder)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command_


def test_rebuild_says_of_each_table_whether_it_was_right(run, folder):
    world = whole()
    log = open_log(folder)
    append(log, world.leaves)
    code, _, err = run("rebuild")
    assert (code, err.startswith("error locked: ")) == (2, True)
    Projector(log).catch_up()
    log.close()
    code, out, _ = run("rebuild")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, len(TABLES) + 2)
    right = naive(world.leaves)
    for line, name in zip(lines, TABLES, strict=False):
        assert line.split()[0] == name
        assert line.endswith(f" rows  {right[name][:16]}…  as it was")
    assert lines[-1] == f"size {len(world.leaves)}, root {world.books.tree.root().hex()}"
    change(folder, "UPDATE receipt SET tokens = '97', flop = '0' WHERE \"index\" = 6")
    change(folder, "DELETE FROM consent")
    code, out, _ = run("rebuild")
    assert code == 1
    assert f"{'receipt':14}{10:>9} rows  {right['receipt'][:16]}…  1 row differed\n" in out
    assert '  6.0 tokens: was "97", is "96"\n' in out
    assert "  2.0: was missing, is [2,0," in out
    change(folder, "DELETE FROM receipt")
    code, out, _ = run("rebuild", "--json")
    told = json.loads(out)
    assert (code, told["schema"], told["size"]) == (1, "consortium.rebuild/1", len(world.leaves))
    (table,) = [each for each in told["tables"] if each["differences"]]
    assert (table["table"], table["rows"], len(table["differences"])) == ("receipt", 10, 10)
    assert run("rebuild")[0] == 0


def test_adopt_as_a_command(run, lost, tmp_path):
    folder, world = lost
    size, root = len(world.leaves), world.books.tree.root().hex()
    for words in [(), ("--size", size), ("--size", 0, "--root", root), ("--size", size, "--root", "xyz")]:
        code, _, err = run("adopt", *words)
        assert (code, err.startswith("error bad_field: ")) == (2, True)
    assert run("adopt", "--cosigned", tmp_path / "nothing")[0] == 2
    (tmp_path / "cosigned").write_bytes(witnessed(at(world, size), key("acme/witness"), key("cedar/witness")))
    assert run("adopt", "--cosigned", tmp_path / "cosigned", "--size", size)[0] == 2
    code, out, _ = run("adopt", "--cosigned", tmp_path / "cosigned")
    assert (code, out) == (0, f"the register is at size {size}, root {root}\n")
    code, _, err = run("adopt", "--size", size, "--root", root)
    assert (code, err.startswith("error conflict: ")) == (2, True)
    (folder / "register" / "head").unlink()
    assert run("adopt", "--size", size, "--root", root)[0] == 0
    open_log(folder).close()
