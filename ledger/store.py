"""The database of entries: SQLite by default, PostgreSQL for those who have one. One process writes.

Not trusted: whoever can change it can stop the service, and nothing else. What is read back is hashed again before
anything is signed.
"""

import fcntl
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection, Engine, TextClause, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from shared_models.records.refusals import Refusal, Refused

REVISION = "0012"  # The newest of migrations/versions.
ADVISORY_LOCK = 0x6C6F67  # PostgreSQL's name for "somebody writes this log"; one log is one database.


class Row(NamedTuple):
    """An entry as it is stored; all but `leaf` and its place is read out of the leaf."""

    at: int
    author: str
    kind: str
    idem: str
    leaf: bytes


class Store(Protocol):
    """Where entries are kept. Methods raise OSError if the database fails."""

    engine: Engine  # For the projections, which lie beside the entries;
    turn: threading.Lock  # whoever writes there takes it, for one transaction.

    def append(self, rows: Sequence[Row], size: int, root: bytes) -> None:
        """Add these rows, and the size and root of the tree they make: all or nothing, on the disk on return."""
        ...

    def read(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """(index, leaf) of the entries from `start` to `end`, in order, as far as they are there."""
        ...

    def size(self) -> int:
        """How many entries there are."""
        ...

    def find(self, author: str, kind: str, idem: str) -> tuple[int, bytes] | None:
        """(index, leaf) of what this author said about this, or None."""
        ...

    def close(self) -> None: ...


class SqlStore:
    """Entries in a database that SQLAlchemy reaches."""

    def __init__(self, url: str, folder: Path) -> None:
        """Open it and bring its tables up to date, as the only writer.

        Raises `Refused`: LOCKED if another process writes this log, UNREACHABLE if there is no database.
        """
        self._lock_file = open(folder / "lock", "w")  # noqa: SIM115 - held for as long as this store is open.
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise Refused(Refusal.LOCKED, f"another ledger serves {folder}") from None
        self.engine, self.turn = connect(url), threading.Lock()
        self._writer: Connection | None = None
        try:
            self._writer = self._only_writer(url)
            migrate(self._writer)
        except SQLAlchemyError as error:
            self.close()
            where = make_url(url).render_as_string(hide_password=True)
            raise Refused(Refusal.UNREACHABLE, f"{where}: {error}") from None
        except Refused:
            self.close()
            raise
        mark = "%s" if self.engine.dialect.name == "postgresql" else "?"
        self._insert = f'INSERT INTO entry ("index", author, kind, idem, leaf) VALUES ({", ".join([mark] * 5)})'  # noqa: S608
        self._head = f"INSERT INTO head (size, root) VALUES ({mark}, {mark})"  # noqa: S608

    def _only_writer(self, url: str) -> Connection:
        """The one connection that writes. A PostgreSQL server keeps its lock for as long as it lives, and no longer."""
        writer = self.engine.connect()
        if self.engine.dialect.name == "postgresql":
            got = writer.execute(text("SELECT pg_try_advisory_lock(:name)"), {"name": ADVISORY_LOCK}).scalar()
            writer.commit()
            if not got:
                writer.close()
                where = make_url(url).render_as_string(hide_password=True)
                raise Refused(Refusal.LOCKED, f"another ledger writes to {where}")
        return writer

    def close(self) -> None:
        if self._writer is not None:
            with suppress(SQLAlchemyError):
                if self.engine.dialect.name == "postgresql":  # Its server would only when it sees that we are gone.
                    self._writer.execute(text("SELECT pg_advisory_unlock(:name)"), {"name": ADVISORY_LOCK})
                    self._writer.commit()
                self._writer.close()
        self.engine.dispose()
        self._lock_file.close()

    def append(self, rows: Sequence[Row], size: int, root: bytes) -> None:
        assert self._writer is not None
        try:
            with self.turn, self._writer.begin():
                self._writer.exec_driver_sql(self._insert, list(rows))
                self._writer.exec_driver_sql(self._head, (size, root))
        except SQLAlchemyError as error:
            raise OSError(f"the database did not take entries: {error}") from error

    def read(self, start: int, end: int) -> list[tuple[int, bytes]]:
        asked = text('SELECT "index", leaf FROM entry WHERE "index" >= :start AND "index" < :end ORDER BY "index"')
        return [(index, bytes(leaf)) for index, leaf in self._all(asked, start=start, end=end)]

    def size(self) -> int:
        return int(self._all(text("SELECT count(*) FROM entry"))[0][0])

    def find(self, author: str, kind: str, idem: str) -> tuple[int, bytes] | None:
        asked = text('SELECT "index", leaf FROM entry WHERE author = :author AND kind = :kind AND idem = :idem')
        found = self._all(asked, author=author, kind=kind, idem=idem)
        return (int(found[0][0]), bytes(found[0][1])) if found else None

    def _all(self, asked: TextClause, **values: int | str) -> Sequence[Any]:
        try:
            with self.engine.connect() as connection:
                return connection.execute(asked, values).all()
        except SQLAlchemyError as error:
            raise OSError(f"the database did not answer: {error}") from error


def connect(url: str) -> Engine:
    """An engine for this database; a commit is on the disk when it returns."""
    engine = create_engine(url)

    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _pragmas(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA wal_autocheckpoint=8192")  # Pages: the index is written once for many commits.
            cursor.close()
    else:

        @event.listens_for(engine, "connect")
        def _synchronous(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
            cursor = connection.cursor()
            cursor.execute("SET synchronous_commit = on")
            cursor.close()
            connection.commit()

    return engine


def migrate(connection: Connection) -> None:
    """Bring the tables to the newest form, step by step, if they are not there yet."""
    with suppress(SQLAlchemyError):
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        connection.commit()
        if found == REVISION:
            return
    connection.rollback()
    from alembic import command  # Half a second, and seldom needed.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "ledger:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()
