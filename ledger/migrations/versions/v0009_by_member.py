"""The receipts of one member are asked for by pages; the tables stay as they are."""

from alembic import op

revision, down_revision = "0009", "0008"


def upgrade() -> None:
    """SQLite makes an index for good at once: what an interrupted start has made is there already."""
    op.create_index("ix_receipt_member", "receipt", ["member", "index", "part"], if_not_exists=True)
