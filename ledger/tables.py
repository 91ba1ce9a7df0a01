"""The tables. `entry` is the log; everything else can be rebuilt from it."""

from sqlalchemy import BigInteger, Integer, UniqueConstraint
from sqlmodel import Field, SQLModel

Index = BigInteger().with_variant(Integer(), "sqlite")  # A place in the log; 64 bits in every database.


class Entry(SQLModel, table=True):
    """One entry of the log, append-only: triggers refuse to change or delete it.

    `leaf` is the record exactly as it was signed. The other columns are read out of it, index it, and can be rebuilt
    from it. Whoever can write here can stop the service, and nothing else.
    """

    __table_args__ = (UniqueConstraint("author", "kind", "idem"),)
    index: int = Field(primary_key=True, sa_type=Index)
    author: str
    kind: str
    idem: str
    leaf: bytes


class Head(SQLModel, table=True):
    """The size and root of the tree after each commit, in the same transaction as its entries; not signed."""

    size: int = Field(primary_key=True, sa_type=Index)
    root: bytes
