"""A statement's table says what was not spent, because runs stopped early; all tables begin again when next read."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0012", "0011"

_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """SQLite makes each table for good at once: what an interrupted start has made is there already."""
    op.drop_table("statement", if_exists=True)
    op.create_table(
        "statement",
        *(sa.Column(name, _WHOLE, primary_key=True, autoincrement=False) for name in ("index", "part")),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("period", "charter", "price")),
        *(sa.Column(name, _WHOLE, nullable=False) for name in ("start", "end")),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("root", "unspent_flop")),
        if_not_exists=True,
    )
    cursor = sa.table("projection", sa.column("size", _WHOLE), sa.column("root", sa.String()))
    op.execute(cursor.delete())  # To a place that no log has: the tables begin again.
    op.bulk_insert(cursor, [{"size": 0, "root": ""}])
