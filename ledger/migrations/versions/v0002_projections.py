"""The projections: what the entries say, in tables. They are empty, and are filled when they are first read."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"

_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Columns behind the key; `#` is a whole number, `?` may be empty, all else is text.
_TABLES = {
    "member": "name admin compute witness attest benefit",
    "key": "holder role id key #revoked? #suspect_from?",
    "affirmed": "holder role id #start #end",
    "run": "run bundle #rounds #quorum deadline_ms flop_per_token base loss_unats #ended? checkpoint? status? reason?",
    "consent": "run member manifest",
    "round": "run #round base opened_ms deadline_ms #closed? checkpoint? loss_unats?",
    "receipt": (
        "hash run #round member node tokens steps flop device devices busy_ms wall_ms cpu_ms energy_mj energy_method"
        " bytes_down bytes_up started_ms ended_ms #witnessed_size #included?"
    ),
    "excluded": "run #round member reason",
    "item": "item payer pot amount currency evidence",
    "statement": "period #start #end root",
    "line": "period pot member credit charge",
    "balance": "period member flop net carry",
    "transfer": "period payer payee amount",
    "equivocation": "#first kind idem",
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
    op.create_index("ix_round_run_round", "round", ["run", "round"], if_not_exists=True)
    op.create_index("ix_receipt_hash", "receipt", ["hash"], if_not_exists=True)
    cursor = op.create_table(
        "projection",
        sa.Column("size", _WHOLE, primary_key=True, autoincrement=False),
        sa.Column("root", sa.String(), nullable=False),
        if_not_exists=True,
    )
    op.bulk_insert(cursor, [{"size": 0, "root": hashlib.sha256().hexdigest()}])  # The empty tree (RFC 9162, 2.1.1).


def _column(spelled: str) -> "sa.Column[object]":
    kind = _WHOLE if spelled.startswith("#") else sa.String()
    return sa.Column(spelled.strip("#?"), kind, nullable=spelled.endswith("?"))
