"""Projections of what is newer than the first ones; they are built anew when they are next read."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_AGAIN = ("member", "item", "statement")  # They have other columns now, and begin empty.
# Columns behind the key; `#` is a whole number, `?` may be empty, all else is text.
_TABLES = {
    "member": "charter name admin compute witness attest benefit pledge",
    "amendment": "hash member amendment replaces",
    "vote": "member amendment choice",
    "leave": "member reason",
    "rate": "currency date rate source",
    "item": "hash item payer pot period category amount currency date evidence",
    "credit_note": "note payer item period amount reason",
    "usage": "member pot period quantity source",
    "quote": "member about period members seal #opened? amount?",
    "price": "period price quotes",
    "dispute": "member about reason",
    "resolution": "member about outcome reason",
    "statement": "period charter price #start #end root",
    "certificate": "period members charge alone",
    "settlement": "member period #netting payer payee amount",
    "defaults": "member period #netting defaulter reason",
    "artefact": "publisher artefact size form",
    "lineage": "artefact run? #round? parent?",
    "grants": "member artefact fetch",
    "revocation": "member notice revoked reason",
    "restoration": "member notice",
}


def upgrade() -> None:
    """SQLite makes each table for good at once: what an interrupted start has made is there already."""
    for name in _AGAIN:
        op.drop_table(name, if_exists=True)
    for name, columns in _TABLES.items():
        op.create_table(
            name,
            sa.Column("index", _WHOLE, primary_key=True, autoincrement=False),
            sa.Column("part", _WHOLE, primary_key=True, autoincrement=False),
            *map(_column, columns.split()),
            if_not_exists=True,
        )
    cursor = sa.table("projection", sa.column("size", _WHOLE), sa.column("root", sa.String()))
    op.execute(cursor.delete())  # To a place that no log has: the tables begin again.
    op.bulk_insert(cursor, [{"size": 0, "root": ""}])


def _column(spelled: str) -> "sa.Column[object]":
    kind = _WHOLE if spelled.startswith("#") else sa.String()
    return sa.Column(spelled.strip("#?"), kind, nullable=spelled.endswith("?"))
