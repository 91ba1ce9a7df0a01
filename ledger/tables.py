"""The tables. `entry` is the log; every other one but `head` and `invite` is a projection of it, to be queried.

A projection decides nothing, and can be built again from the log (`projections`). Each of its rows says of which entry
it is, and which part of it. Places in the log and numbers of rounds and nettings are integers. Whatever is measured,
paid or owed is text, spelled as in the record: a FLOP count goes up to 2^96 and a carry is a fraction, and text is the
one type that keeps both to the last digit, the same in every database. To sum it, cast it:
`sum(cast(tokens AS numeric))`. Several names in one column are joined by `+`, in their order.
"""

from sqlalchemy import BigInteger, Index, Integer, UniqueConstraint
from sqlmodel import Field, SQLModel

Whole = BigInteger().with_variant(Integer(), "sqlite")  # 64 bits in every database.


class Entry(SQLModel, table=True):
    """One entry of the log, append-only: triggers refuse to change or delete it.

    `leaf` is the record exactly as it was signed. The other columns are read out of it, index it, and can be rebuilt
    from it. Whoever can write here can stop the service, and nothing else.
    """

    __table_args__ = (UniqueConstraint("author", "kind", "idem"),)
    index: int = Field(primary_key=True, sa_type=Whole)
    author: str
    kind: str
    idem: str
    leaf: bytes


class Head(SQLModel, table=True):
    """The size and root of the tree after each commit, in the same transaction as its entries; not signed."""

    size: int = Field(primary_key=True, sa_type=Whole)
    root: bytes


class Projection(SQLModel, table=True):
    """One row: the size and root of the tree, in hex, up to which all tables below hold."""

    size: int = Field(primary_key=True, sa_type=Whole)
    root: str


class Projected(SQLModel):
    """A row of a projection. Whoever can write there can mislead who queries it, until `consortium ledger rebuild`."""

    index: int = Field(primary_key=True, sa_type=Whole)  # Of the entry it comes from,
    part: int = Field(primary_key=True, sa_type=Whole)  # and the part of it; 0 where an entry makes one such row.


class Member(Projected, table=True):
    """A legal entity, with what a charter gives it: the founding one, or one that an amendment proposes.

    Which charter is in force no entry tells by itself: count the votes. Each statement names the one it follows.
    """

    charter: str  # Leaf hash of the charter, or of the amendment.
    name: str
    admin: str
    compute: str
    witness: str
    attest: str
    benefit: str
    pledge: str


class Amendment(Projected, table=True):
    """A member has proposed another charter; its members are in `member`, the rest is in the leaf."""

    hash: str  # Of its leaf: what votes cite.
    member: str
    amendment: str
    replaces: str


class Vote(Projected, table=True):
    """A member's vote for the amendment with this leaf hash, or against it."""

    member: str
    amendment: str
    choice: str


class Leave(Projected, table=True):
    """A member has left."""

    member: str
    reason: str


class Key(Projected, table=True):
    """A key: it counts for entries behind `index` and before `revoked`.

    What it signed from `suspect_from` on is disputed, but for what is `affirmed`. The first keys of who joined by an
    amendment stand in `member` alone, and their revocation in no table: no entry tells by itself whether they count.
    """

    holder: str
    role: str
    id: str
    key: str
    revoked: int | None = Field(default=None, sa_type=Whole)  # Index of the key.revoke.
    suspect_from: int | None = Field(default=None, sa_type=Whole)


class Affirmed(Projected, table=True):
    """What a revoked key signed from `start` to `end`, `end` excluded, stands all the same."""

    holder: str
    role: str
    id: str
    start: int = Field(sa_type=Whole)
    end: int = Field(sa_type=Whole)


class Run(Projected, table=True):
    """A training run; the columns from `ended` on are empty until it has ended."""

    run: str
    bundle: str
    rounds: int = Field(sa_type=Whole)
    quorum: int = Field(sa_type=Whole)
    deadline_ms: str
    flop_per_token: str
    base: str
    loss_unats: str  # Of `base`.
    ended: int | None = Field(default=None, sa_type=Whole)  # Index of the run.end.
    checkpoint: str | None = None
    status: str | None = None
    reason: str | None = None


class Consent(Projected, table=True):
    """A member has consented to a run."""

    run: str
    member: str
    manifest: str


class Round(Projected, table=True):
    """A round of a run; the columns from `closed` on are empty until it is closed."""

    __table_args__ = (Index("ix_round_run_round", "run", "round"),)
    run: str
    round: int = Field(sa_type=Whole)
    base: str
    opened_ms: str
    deadline_ms: str
    closed: int | None = Field(default=None, sa_type=Whole)  # Index of the round.close.
    checkpoint: str | None = None
    loss_unats: str | None = None  # Of `checkpoint`.


class Receipt(Projected, table=True):
    """A member's metered account of its work in a round. It earns if it is included."""

    __table_args__ = (Index("ix_receipt_member", "member", "index", "part"),)
    hash: str = Field(index=True)  # Of its leaf.
    run: str
    round: int = Field(sa_type=Whole)
    member: str
    node: str
    tokens: str
    steps: str
    flop: str
    device: str
    devices: str
    busy_ms: str
    wall_ms: str
    cpu_ms: str
    energy_mj: str
    energy_method: str
    bytes_down: str
    bytes_up: str
    started_ms: str
    ended_ms: str
    witnessed_size: int = Field(sa_type=Whole)
    included: int | None = Field(default=None, sa_type=Whole, index=True)  # Index of the round.close that counts it.


class Spent(Projected, table=True):
    """What the receipts that a run's closes count say of themselves, added up to the close of this index."""

    __table_args__ = (Index("ix_spent_run", "run", "index"),)
    run: str
    receipts: str
    measured: str  # Of them, those that say how their energy was measured,
    energy_mj: str  # and these alone.
    busy_ms: str
    wall_ms: str


class Excluded(Projected, table=True):
    """A member was invited to a round, and its answer does not count."""

    run: str
    round: int = Field(sa_type=Whole)
    member: str
    reason: str


class Rate(Projected, table=True):
    """What one unit of a currency was worth on a day: an exact rational of units of the charter's."""

    currency: str
    date: str
    rate: str
    source: str


class Item(Projected, table=True):
    """A shared cost that one member paid for all; `amount` in units of `currency`, as on the invoice."""

    hash: str  # Of its leaf: what credit notes cite.
    item: str
    payer: str
    pot: str
    period: str
    category: str
    amount: str
    currency: str
    date: str
    evidence: str


class CreditNote(Projected, table=True):
    """So much less than the item with this leaf hash said, in its currency."""

    __tablename__ = "credit_note"
    note: str
    payer: str
    item: str
    period: str
    amount: str
    reason: str


class Usage(Projected, table=True):
    """How much of a pot a member has used in a period, in the unit that the pot is metered in."""

    member: str
    pot: str
    period: str
    quantity: str
    source: str


class Quote(Projected, table=True):
    """A member's quote for a period, for itself and the others in `members`; empty from `opened` on while sealed."""

    member: str
    about: str
    period: str
    members: str
    seal: str
    opened: int | None = Field(default=None, sa_type=Whole)  # Index of the quote.open.
    amount: str | None = None  # In units of the charter's currency.


class Price(Projected, table=True):
    """What an NCU is worth in a period, in minor units: the median of the quotes of these members."""

    period: str
    price: str
    quotes: str


class Dispute(Projected, table=True):
    """A member objects to what is billed: `about` is item/PAYER/ITEM or work/RUN/ROUND/MEMBER."""

    member: str
    about: str
    reason: str


class Resolution(Projected, table=True):
    """A member's ruling on what is disputed; what more than half of the members say, holds."""

    member: str
    about: str
    outcome: str
    reason: str


class Statement(Projected, table=True):
    """The bill of a period: of the entries from `start` to `end`, `end` excluded."""

    period: str
    charter: str  # Leaf hash of the charter that it follows, or of the amendment.
    price: str  # Of an NCU, in minor units.
    start: int = Field(sa_type=Whole)
    end: int = Field(sa_type=Whole)
    root: str
    unspent_flop: str  # Of runs that stopped early.


class Line(Projected, table=True):
    """What one pot gives and takes one member in a period: exact rationals of minor units."""

    period: str
    pot: str
    member: str
    credit: str
    charge: str


class Balance(Projected, table=True):
    """A member's period: its accepted work, what it is owed (or owes, below zero), and what rounding left over."""

    period: str
    member: str
    flop: str
    net: str
    carry: str


class Transfer(Projected, table=True):
    """A payment that settles the balances of a period."""

    period: str
    payer: str
    payee: str
    amount: str


class Certificate(Projected, table=True):
    """What the members of a coalition are charged in a period, and had quoted for going alone; in minor units."""

    period: str
    members: str
    charge: str
    alone: str


class Settlement(Projected, table=True):
    """The payer or the payee says that a transfer was paid; it is settled when both have. `amount` in minor units."""

    member: str
    period: str
    netting: int = Field(sa_type=Whole)
    payer: str
    payee: str
    amount: str


class Default(Projected, table=True):
    """A member says that another does not pay what it owes for a period."""

    __tablename__ = "defaults"  # DEFAULT is a word of SQL.
    member: str
    period: str
    netting: int = Field(sa_type=Whole)
    defaulter: str
    reason: str


class Equivocation(Projected, table=True):
    """The author of entry `first` has said something else as well, under the same kind and name."""

    first: int = Field(sa_type=Whole)
    kind: str
    idem: str


class Artefact(Projected, table=True):
    """A file that members may have, if `rules.access` grants it; `artefact` is its SHA-256."""

    publisher: str
    artefact: str
    size: str
    form: str


class Lineage(Projected, table=True):
    """What an artefact was made from: the checkpoint of a round of a run, or another artefact, its parent."""

    artefact: str
    run: str | None = None
    round: int | None = Field(default=None, sa_type=Whole)
    parent: str | None = None


class Grant(Projected, table=True):
    """A member has taken an artefact, for the so-many-eth time."""

    __tablename__ = "grants"  # GRANT is a word of SQL.
    member: str
    artefact: str
    fetch: str


class Revocation(Projected, table=True):
    """A member has said that another shall get no more artefacts."""

    member: str
    notice: str
    revoked: str
    reason: str


class AuditResult(Projected, table=True):
    """What an auditor found when it did a drawn segment of a receipt's training again."""

    __tablename__ = "audit_result"
    auditor: str
    run: str
    round: int = Field(sa_type=Whole)
    member: str
    receipt: str
    segment: str
    verdict: str
    distance_ppm: str
    build: str


class Worth(Projected, table=True):
    """What a member has measured of a run's experts: the loss with each set of them, and routes, joined by `+`."""

    member: str
    run: str
    checkpoint: str
    text: str
    losses_unats: str
    routes: str


class Served(Projected, table=True):
    """What a member says that it has served: through whose experts, and so many tokens of each, joined by `+`."""

    member: str
    period: str
    run: str
    model: str
    tokens: str
    through: str
    routed: str
    replaces: str


class Lent(Projected, table=True):
    """To whom a member grants its expert of a run, and to nobody else, until it says so anew."""

    member: str
    run: str
    to: str


class Restoration(Projected, table=True):
    """A member has said that a revocation shall end."""

    member: str
    notice: str


class Invite(SQLModel, table=True):
    """An invite, and the answer to it when one has come; both as they were signed. No projection: no entry says it.

    The other columns are read out of the invite. Whoever can write here can lose an invite or an answer, and cannot
    make one up (`ledger/invites.py`).
    """

    hash: str = Field(primary_key=True)
    inviter: str
    member: str
    expires_s: int = Field(sa_type=Whole)
    invite: bytes
    answer: bytes | None = None
