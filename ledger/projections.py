"""The projections: what the entries say, as tables to query. Step by step or built anew, they are the same to the bit.

Nobody who decides asks them: the rules of the log read `Books`. They follow the log when they are read, and never while
something is appended. Not trusted: whoever can write to the database can make these tables lie until they are rebuilt,
and cannot make us sign anything.
"""

import hashlib
import json
import tempfile
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Table, and_, bindparam, create_engine, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from ledger import tables
from ledger.log import Log
from ledger.tables import Projected
from shared_models.records import entry as entries
from shared_models.records.keys import VerifyKey
from shared_models.records.kinds import (
    Access,
    AccessRestore,
    AccessRevoke,
    Amendment,
    Artefact,
    AuditResult,
    Charter,
    Consent,
    CostItem,
    CreditNote,
    Default,
    Dispute,
    Equivocation,
    ExpertGrant,
    KeyAdd,
    KeyAffirm,
    KeyRevoke,
    Leave,
    Manifest,
    Price,
    QuoteOpen,
    QuoteSeal,
    Rate,
    Receipt,
    Record,
    Resolution,
    RoundClose,
    RoundOpen,
    RunEnd,
    Served,
    Settlement,
    Statement,
    Usage,
    Vote,
    Worth,
)
from shared_models.records.merkle import EMPTY_ROOT, leaf_hash
from shared_models.records.refusals import Refusal, Refused

AT_ONCE = 256  # Entries in one transaction: some 10 ms, and an append waits for no more than one.
FAR = (
    10_000  # Entries that take a second: tables that are further behind are brought up beside, and not while one waits.
)
WAIT_S = 1.0  # Who asks while the tables catch up for somebody else is told to come again after so long.

# The kinds whose entries are one row each, of their own fields.
PLAIN: Mapping[type[Record], type[Projected]] = {
    Vote: tables.Vote,
    Leave: tables.Leave,
    KeyAffirm: tables.Affirmed,
    Manifest: tables.Run,
    Consent: tables.Consent,
    RoundOpen: tables.Round,
    Rate: tables.Rate,
    CreditNote: tables.CreditNote,
    Usage: tables.Usage,
    QuoteSeal: tables.Quote,
    Price: tables.Price,
    Dispute: tables.Dispute,
    Resolution: tables.Resolution,
    Settlement: tables.Settlement,
    Default: tables.Default,
    Access: tables.Grant,
    AccessRevoke: tables.Revocation,
    AccessRestore: tables.Restoration,
    AuditResult: tables.AuditResult,
    Worth: tables.Worth,
    ExpertGrant: tables.Lent,
}

Value = str | int | None


class Row(NamedTuple):
    """A new row of a table."""

    table: type[Projected]
    values: dict[str, Value]


class Change(NamedTuple):
    """What a later entry says about the rows of an earlier one."""

    table: type[Projected]
    where: Mapping[str, Value]
    values: Mapping[str, Value]


def rows(index: int, leaf: bytes) -> Iterator[Row | Change]:
    """What an entry adds to the tables and changes in them. It stands in the log, so it was verified when it came."""
    record, hashed = entries.peek(leaf), leaf_hash(leaf).hex()
    assert record is not None
    match record:
        case Charter():
            yield from _members(record, index, hashed)
            for part, (holder, role, text) in enumerate(entries.roles(record)):
                yield _row(tables.Key, None, index, part, holder=holder, role=role, key=text, id=_id(text))
        case KeyAdd():
            yield _row(tables.Key, record, index, id=_id(record.key))
        case KeyRevoke():
            yield Change(
                tables.Key,
                {"holder": record.holder, "role": record.role, "id": record.id},
                {"revoked": index, "suspect_from": record.suspect_from},
            )
        case Equivocation():
            said = entries.peek(record.one.encode())
            assert said is not None
            yield _row(tables.Equivocation, record, index, kind=said.kind, idem=said.idem)
        case Amendment():
            yield _row(tables.Amendment, record, index, hash=hashed)
            yield from _members(record.charter, index, hashed)
        case Receipt():
            yield _row(tables.Receipt, record, index, hash=hashed)
        case RoundClose():
            loss = _text(record.loss_unats)
            yield Change(
                tables.Round,
                {"run": record.run, "round": record.round},
                {"closed": index, "checkpoint": record.checkpoint, "loss_unats": loss},
            )
            counted = (*record.included, *record.late)
            yield from (Change(tables.Receipt, {"hash": each.receipt}, {"included": index}) for each in counted)
            for part, out in enumerate(record.excluded):
                yield _row(tables.Excluded, out, index, part, run=record.run, round=record.round)
        case RunEnd():
            yield Change(
                tables.Run,
                {"run": record.run},
                {"ended": index, "checkpoint": record.checkpoint, "status": record.status, "reason": record.reason},
            )
        case CostItem():
            yield _row(tables.Item, record, index, hash=hashed)
        case QuoteOpen():
            yield Change(
                tables.Quote,
                {
                    "member": record.member,
                    "about": record.about,
                    "period": record.period,
                    "members": _text(record.members),
                },
                {"opened": index, "amount": record.amount},
            )
        case Artefact(artefact=made):
            yield _row(tables.Artefact, record, index)
            sources = [{"run": each.run, "round": each.round, "parent": None} for each in record.checkpoints]
            sources += [{"run": None, "round": None, "parent": each} for each in record.parents]
            for part, source in enumerate(sources):
                yield _row(tables.Lineage, None, index, part, artefact=made, **source)
        case Served():
            through, routed = (tuple(getattr(each, name) for each in record.routes) for name in ("member", "tokens"))
            yield _row(tables.Served, record, index, through=_text(through), routed=_text(routed))
        case Statement():
            yield _row(tables.Statement, record, index)
            for table, many in (
                (tables.Line, record.lines),
                (tables.Balance, record.balances),
                (tables.Transfer, record.transfers),
                (tables.Certificate, record.certificate),
            ):
                yield from (_row(table, many[part], index, part, period=record.period) for part in range(len(many)))
        case _:
            yield _row(PLAIN[type(record)], record, index)


def _members(charter: Charter, index: int, hashed: str) -> Iterator[Row]:
    for part, member in enumerate(charter.members):
        yield _row(tables.Member, member, index, part, charter=hashed)


def _row(table: type[Projected], record: object, index: int, part: int = 0, **more: Value) -> Row:
    """The row whose columns are the record's fields of the same names, and these; others are empty until a later entry
    changes them.
    """
    values: dict[str, Value] = {"index": index, "part": part, **more}
    for name, required, text in _columns(table):
        if name not in values:
            values[name] = None
            if required:
                value = getattr(record, name)
                values[name] = _text(value) if text else value
    return Row(table, values)


@cache
def _columns(table: type[Projected]) -> list[tuple[str, bool, bool]]:
    """(name, whether every row has it from the first, whether it is text) of each."""
    return [(name, field.is_required(), field.annotation is str) for name, field in table.model_fields.items()]


def _text(value: str | int | Fraction | tuple[str | int, ...]) -> str:
    match value:
        case str():
            return value
        case int():
            return str(value)
        case tuple():
            return "+".join(map(str, value))
    return f"{value.numerator}/{value.denominator}"


def _id(key: str) -> str:
    return VerifyKey.parse(key).id.hex()


def _table(cls: type[SQLModel]) -> Table:
    return SQLModel.metadata.tables[str(cls.__tablename__)]


TABLES: Mapping[str, Table] = {str(cls.__tablename__): _table(cls) for cls in Projected.__subclasses__()}
CURSOR = _table(tables.Projection)


class Difference(NamedTuple):
    """A value that was not what the log says; where a whole row was missing or too much, it has no column."""

    table: str
    key: str
    column: str
    was: str | None  # As JSON; None: there was no such row,
    now: str | None  # or there is none.


class Rebuilt(NamedTuple):
    """A table after it was built anew."""

    table: str
    rows: int
    digest: str
    differences: list[Difference]


class Spent(NamedTuple):
    """What receipts say of themselves, added up: the word of each member's own daemon."""

    receipts: int = 0
    measured: int = 0  # Of them, those that say how their energy was measured.
    energy_mj: int = 0  # Of these alone.
    busy_ms: int = 0
    wall_ms: int = 0

    def plus(self, other: "Spent") -> "Spent":
        return Spent(*(one + more for one, more in zip(self, other, strict=True)))


class Page(NamedTuple):
    """Rows of a table in key order, as the log of this size has them; where there are more, the last one's key."""

    size: int
    rows: list[dict[str, Any]]
    last: tuple[int, int] | None


class Projector:
    """The projections of one open log, in its database. May be used from several threads."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._reading = threading.Lock()
        self._beside = False  # Whether a thread of their own brings up tables that are far behind,
        self._wanted = threading.Event()  # when it is told to,
        self._ended = threading.Event()  # until this is.

    @contextmanager
    def following(self) -> Iterator[None]:
        """For as long as this lasts, tables that are far behind are brought up beside: now, and when they are found so.

        Who asks meanwhile is told to come again. What that thread is refused, who asks next finds out by itself.
        """

        def follow() -> None:
            try:
                while self._wanted.wait() and not self._ended.is_set():
                    self._wanted.clear()
                    self.catch_up()
            except Refused:
                pass
            finally:
                self._beside = False

        thread = threading.Thread(target=follow, name="tables")
        self._beside = True
        thread.start()
        try:
            if self._behind() > FAR:
                self._wanted.set()
            yield
        finally:
            self._ended.set()
            self._wanted.set()
            thread.join()

    def page(
        self,
        name: str,
        after: tuple[int, int] = (-1, 0),
        limit: int = 1_000,
        *,
        end: int | None = None,
        of: Mapping[str, str] | None = None,
    ) -> Page:
        """The rows of this table behind that key, brought up to date before; those of entries before `end`, with these
        values in these columns.

        Raises `Refused`: NOT_FOUND if there is no such table, BUSY if it is not up to date soon, as `catch_up`.
        """
        if name not in TABLES:
            raise Refused(Refusal.NOT_FOUND, f"no table is called {name[:80]}; there are {', '.join(TABLES)}")
        with self._current() as size, self._log.store.engine.connect() as connection:
            table = TABLES[name]
            behind = tuple_(*table.primary_key.columns) > tuple_(*after)
            wanted = [behind, *(table.c[column] == value for column, value in (of or {}).items())]
            wanted += [] if end is None else [table.c.index < end]
            asked = table.select().where(*wanted).order_by(*table.primary_key.columns).limit(limit + 1)
            found = [dict(row) for row in connection.execute(asked).mappings()]
        last = (found[limit - 1]["index"], found[limit - 1]["part"]) if len(found) > limit else None
        return Page(size, found[:limit], last)

    def spent(self, closes: Collection[int]) -> dict[int, Spent]:
        """What the receipts say that a run's closes count, up to each of these, by index; brought up to date before.

        Raises `Refused(BUSY)`, as `page`.
        """
        table = TABLES["spent"].c
        asked = select(table.index, *(table[name] for name in Spent._fields)).where(table.index.in_(closes))
        with self._current(), self._log.store.engine.connect() as connection:
            return {index: Spent(*map(int, said)) for index, *said in connection.execute(asked)}

    @contextmanager
    def _current(self) -> Iterator[int]:
        """The tables are up to date, and stay as they are; the size of the log that they hold for."""
        if self._beside and (behind := self._behind()) > FAR:
            self._wanted.set()
            raise Refused(Refusal.BUSY, f"the tables are {behind:,} entries behind, and are being brought up to date")
        if not self._reading.acquire(timeout=WAIT_S):
            raise Refused(Refusal.BUSY, "the tables are being brought up to date")
        try:
            yield self._catch_up()
        finally:
            self._reading.release()

    def catch_up(self) -> int:
        """Bring the tables to the log's newest head; its size. What cannot go on from where it is begins again.

        Raises `Refused(CORRUPT)` if the database has lost an entry or changed it.
        """
        with self._reading:
            return self._catch_up()

    def rebuild(self) -> list[Rebuilt]:
        """Build every table from the log anew, in another database; put right what was different here, and say what.

        Raises `Refused` as `catch_up`.
        """
        store, everything = self._log.store, {**TABLES, "projection": CURSOR}
        with self._reading, tempfile.TemporaryDirectory(prefix="projections-") as folder:
            at = self._at()
            right = create_engine(f"sqlite:///{Path(folder) / 'right.db'}")
            try:
                SQLModel.metadata.create_all(right, list(everything.values()))
                # Up to where the present ones claim to be, so that what they do not have yet is no difference.
                self._build(right, threading.Lock(), 0, self._log.head.size if at is None else at)
                with right.connect() as good, store.turn, store.engine.begin() as present:
                    found = {name: list(_differences(table, present, good)) for name, table in everything.items()}
                    for name in found:
                        if found[name]:
                            _replace(everything[name], present, good)
            finally:
                right.dispose()
            self._catch_up()
            with store.engine.connect() as connection:
                return [Rebuilt(name, *digest(everything[name], connection), found[name]) for name in everything]

    def _at(self) -> int | None:
        """The size up to which the tables hold; None if they are of no beginning of this log."""
        with self._log.store.engine.connect() as connection:
            found = connection.execute(CURSOR.select()).all()
        size, root = found[0] if len(found) == 1 else (-1, "")
        ours = 0 <= size <= self._log.head.size and root == self._log.books.tree.root(size).hex()
        return int(size) if ours else None

    def _behind(self) -> int:
        """How many entries the tables do not have yet."""
        return self._log.head.size - (self._at() or 0)

    def _catch_up(self) -> int:
        size, at, store = self._log.head.size, self._at(), self._log.store
        try:
            if at is not None:
                self._build(store.engine, store.turn, at, size)
                return size
        except IntegrityError:  # There is a row already where one should come.
            pass
        with store.turn, store.engine.begin() as connection:
            for table in TABLES.values():
                connection.execute(table.delete())
            _move(connection, 0, EMPTY_ROOT)
        self._build(store.engine, store.turn, 0, size)
        return size

    def _build(self, engine: Engine, turn: threading.Lock, start: int, end: int) -> None:
        """Go on from `start` to `end`: some entries at a time, their rows and the new place in one transaction.

        SQLite has one writer at a time, and an append that finds the database busy for long stops the log: so whoever
        writes takes the turn for one short transaction, and reads and computes outside it.
        """
        for at in range(start, end, AT_ONCE):
            if self._ended.is_set():
                raise Refused(Refusal.STOPPED, "the ledger is closing")
            until = min(at + AT_ONCE, end)
            new = [row for index, leaf in enumerate(self._log.stored(at, until), at) for row in rows(index, leaf)]
            with turn, engine.begin() as connection:
                _write(connection, new)
                _add_up(connection, new)
                _move(connection, until, self._log.books.tree.root(until))


def digest(table: Table, connection: Connection) -> tuple[int, str]:
    """(how many rows, SHA-256 over the names of the columns and the rows in key order): the same in every database."""
    count, hashed = 0, hashlib.sha256(_spell([table.name, *table.columns.keys()]).encode())
    for row in _in_order(table, connection):
        hashed.update(b"\n" + _spell(row).encode())
        count += 1
    return count, hashed.hexdigest()


def _write(connection: Connection, new: Iterable[Row | Change]) -> None:
    """Rows first, then changes: what an entry changes came before it, and nothing is changed twice."""
    added, changed = defaultdict[type[Projected], list[Any]](list), defaultdict[Any, list[Any]](list)
    for each in new:
        if isinstance(each, Row):
            added[each.table].append(each.values)
        else:
            named = {f"is_{name}": value for name, value in each.where.items()}
            named |= {f"to_{name}": value for name, value in each.values.items()}
            changed[each.table, tuple(each.where), tuple(each.values)].append(named)
    for cls, values in added.items():
        connection.execute(_table(cls).insert(), values)
    for (cls, where, names), values in changed.items():
        table = _table(cls)
        which = and_(*(table.c[name] == bindparam(f"is_{name}") for name in where))
        connection.execute(
            table.update().where(which).values({name: bindparam(f"to_{name}") for name in names}), values
        )


def _add_up(connection: Connection, new: Iterable[Row | Change]) -> None:
    """What the receipts say that these closes count, each on top of its run's last one.

    Sums may be beyond 64 bits, so no database adds them.
    """
    ended = [each for each in new if isinstance(each, Change) and each.table is tables.Round]
    closes = {int(str(each.values["closed"])): str(each.where["run"]) for each in ended}
    if not closes:
        return
    receipt, spent = TABLES["receipt"].c, TABLES["spent"]
    found, before = dict.fromkeys(closes, Spent()), dict[str, Spent]()
    asked = select(receipt.included, receipt.energy_method, receipt.energy_mj, receipt.busy_ms, receipt.wall_ms)
    for close, method, *said in connection.execute(asked.where(receipt.included >= min(closes))):
        energy_mj, busy_ms, wall_ms = map(int, said)
        measured = method != "none"
        found[close] = found[close].plus(Spent(1, int(measured), energy_mj if measured else 0, busy_ms, wall_ms))
    for run in set(closes.values()):
        newest = select(*(spent.c[name] for name in Spent._fields)).where(spent.c.run == run)
        last = connection.execute(newest.order_by(spent.c.index.desc()).limit(1)).first()
        before[run] = Spent(*map(int, last)) if last is not None else Spent()
    for close, run in sorted(closes.items()):
        before[run] = found[close].plus(before[run])
        sums = {name: str(value) for name, value in before[run]._asdict().items()}
        connection.execute(spent.insert(), {"index": close, "part": 0, "run": run} | sums)


def _move(connection: Connection, size: int, root: bytes) -> None:
    connection.execute(CURSOR.delete())
    connection.execute(CURSOR.insert(), {"size": size, "root": root.hex()})


def _replace(table: Table, connection: Connection, good: Connection) -> None:
    """Put the rows that `good` has for this table in the place of all that are there."""
    connection.execute(table.delete())
    for some in good.execute(table.select().execution_options(yield_per=AT_ONCE)).mappings().partitions():
        connection.execute(table.insert(), [dict(row) for row in some])


def _in_order(table: Table, connection: Connection) -> Iterator[tuple[Any, ...]]:
    asked = table.select().order_by(*table.primary_key.columns)
    return (tuple(row) for row in connection.execute(asked.execution_options(yield_per=AT_ONCE)))


def _differences(table: Table, present: Connection, good: Connection) -> Iterator[Difference]:
    names, keys = table.columns.keys(), len(table.primary_key.columns)

    def place(row: tuple[Any, ...]) -> list[tuple[str, Any]]:
        return [(type(value).__name__, value) for value in row[:keys]]  # SQLite lets in a key that is no number.

    one, other = _in_order(table, present), _in_order(table, good)
    was, now = next(one, None), next(other, None)
    while was is not None or now is not None:
        if now is None or (was is not None and place(was) < place(now)):
            assert was is not None
            yield Difference(table.name, _key(was[:keys]), "", _spell(was), None)
            was = next(one, None)
        elif was is None or place(now) < place(was):
            yield Difference(table.name, _key(now[:keys]), "", None, _spell(now))
            now = next(other, None)
        else:
            for name, value, true in zip(names, was, now, strict=True):
                if _spell(value) != _spell(true):
                    yield Difference(table.name, _key(was[:keys]), name, _spell(value), _spell(true))
            was, now = next(one, None), next(other, None)


def _key(values: tuple[Any, ...]) -> str:
    return ".".join(map(str, values))


def _spell(value: Any) -> str:
    """A value or a row as JSON, in one spelling; bytes are an object, so that they are never taken for text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=lambda odd: {"hex": bytes(odd).hex()})
