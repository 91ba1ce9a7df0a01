"""Which receipts a close counts is asked for by the place of the close; the tables stay as they are."""

from alembic import op

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    """SQLite makes an index for good at once: what an interrupted start has made is there already."""
    op.create_index("ix_receipt_included", "receipt", ["included"], if_not_exists=True)
