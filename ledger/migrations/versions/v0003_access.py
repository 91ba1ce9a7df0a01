"""Projections of what is newer than the first ones; they are built anew when they are next read."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Columns behind the key; `#` is a whole number, `?` may be empty, all else is text.
_TABLES = {
    "artefact": "publisher artefact size form",
    "lineage": "artefact run? #round? parent?",
    "grants": "member artefact fetch",
    "revocation": "member notice revoked reason",
    "restoration": "member notice",
}


def upgrade() -> None:
    """SQLite makes each table for good at once: what an interrupted start has made is there already."""
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
