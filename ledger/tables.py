"""The database. Its bytes are not trusted: what is read back is hashed again before anything is signed."""

from pathlib import Path

from sqlalchemy import Engine, UniqueConstraint, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Field, SQLModel, create_engine


class Entry(SQLModel, table=True):
    """One entry of the log, append-only.

    `leaf` is the record exactly as it was signed. The other columns are read out of it, index it, and can be rebuilt
    from it. Whoever can write here can stop the service, and nothing else.
    """

    __table_args__ = (UniqueConstraint("author", "kind", "idem"),)
    index: int = Field(primary_key=True)
    author: str
    kind: str
    idem: str
    leaf: bytes


def connect(path: Path) -> Engine:
    """The SQLite database at this path, made if it is not there; a commit is on the disk when it returns."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _pragmas(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    SQLModel.metadata.create_all(engine)
    return engine
