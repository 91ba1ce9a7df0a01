"""Invites to join, and the answers to them; beside the log, and no projection of it."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """SQLite makes each table for good at once: what an interrupted start has made is there already."""
    op.create_table(
        "invite",
        sa.Column("hash", sa.String(), primary_key=True),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("inviter", "member")),
        sa.Column("expires_s", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("invite", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        if_not_exists=True,
    )
