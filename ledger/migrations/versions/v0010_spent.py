"""A projection of what counted receipts say of themselves, added up; all tables begin again when next read."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0010", "0009"

_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """SQLite makes each table for good at once: what an interrupted start has made is there already."""
    op.create_table(
        "spent",
        *(sa.Column(name, _WHOLE, primary_key=True, autoincrement=False) for name in ("index", "part")),
        sa.Column("run", sa.String(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("receipts", "measured", "energy_mj")),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("busy_ms", "wall_ms")),
        if_not_exists=True,
    )
    op.create_index("ix_spent_run", "spent", ["run", "index"], if_not_exists=True)
    cursor = sa.table("projection", sa.column("size", _WHOLE), sa.column("root", sa.String()))
    op.execute(cursor.delete())  # To a place that no log has: the tables begin again.
    op.bulk_insert(cursor, [{"size": 0, "root": ""}])
