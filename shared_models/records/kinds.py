"""Every kind of record: what is agreed, done, paid and owed, in units that cannot drift.

Each class is one kind of log entry; its fields are its schema (see `canonical`). Nothing is ever updated: what
changes is a new entry. A record refers to another entry by its leaf hash. All times are Unix milliseconds, all
amounts of money whole minor units of the charter's currency or exact rationals of them.

Every record but the charter belongs to a chain: its author's entries carry a dense `seq` from 0 and in `prev` the
leaf hash of the one before, so that an omission shows. `idem` names what a record is about: the same author may say
it once.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar

from shared_models.records.canonical import Count, Decimal, Hash, Line, Name, Pattern, Range, Signed

FIRST = "0" * 64  # The `prev` of an author's first entry.

Origin = Annotated[str, Pattern(r"[a-z0-9][a-z0-9./-]{0,62}[a-z0-9]")]  # C2SP: a URL without its scheme.
VKey = Annotated[str, Pattern(r"[^ +]{1,128}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}")]  # As keys.VerifyKey.text writes it,
AnyVKey = Annotated[str, Pattern(r"[^ +]{1,128}\+[0-9a-f]{8}\+[A-Za-z0-9+/=]{44,1752}")]  # and one of ML-DSA-44 too.
KeyId = Annotated[str, Pattern(r"[0-9a-f]{8}")]
SignatureLine = Annotated[str, Pattern(r"— [^ +]{1,128} [A-Za-z0-9+/=]{8,3300}")]  # Of a note, without its newline.
NoteText = Annotated[str, Pattern(r"[^\x00-\x09\x0b-\x1f\ud800-\udfff]{1,65535}")]
Positive = Annotated[int, Range(1, 2**63 - 1)]
Word = Annotated[str, Pattern(r"[a-z][a-z_]{0,31}")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A legal entity, the only party that is billed."""

    name: Name
    admin: VKey  # Signs the charter, cost items and the member's further keys; kept by a person.
    compute: VKey  # Signs consents and receipts; held by the member's daemon.
    witness: VKey  # Cosigns tree heads: "this log has one history, and I have seen it". Held by the daemon.
    attest: VKey  # Cosigns tree heads: "and every entry of mine in it is mine". Held by the daemon.
    benefit: Count  # The weight of its access: what it pays by, for as long as this charter holds.


@dataclass(frozen=True, slots=True, kw_only=True)
class Pot:
    """A kind of cost, and the rule that divides it."""

    name: Name
    rule: Word  # One of rules.allocation.RULES.


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A class of hardware; its peak bounds every claim made with it."""

    name: Name
    peak_flops: Positive  # Dense FLOP/s of one device in the dtype of the run.


@dataclass(frozen=True, slots=True, kw_only=True)
class Charter:
    """What all members signed: who they are, what they pay by, who operates for them."""

    kind: ClassVar[str] = "charter"
    consortium: Origin  # First part of every type line; the log's origin is this with "/log".
    currency: Annotated[str, Pattern(r"[A-Z]{3}")]  # ISO 4217.
    minor_digits: Annotated[int, Range(0, 3)]
    price: Fraction  # Minor units for one NCU (10^18 accepted model-FLOP).
    compute_pot: Name  # The pot that accepted work is credited to, at this price.
    pots: tuple[Pot, ...]
    members: tuple[Member, ...]  # In order of their names.
    devices: tuple[Device, ...]
    quorum: Count  # So many members must have witnessed the tree head that a statement covers.
    admin: VKey  # Signs statements.
    coordinator: VKey  # Signs manifests and rounds.
    log: VKey  # Signs tree heads.

    @property
    def idem(self) -> str:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAdd:
    """A holder has one more key for a role, from the next entry on. By a key of that role, or the holder's admin.

    Where neither is left, more than half of the members' admins sign it, the first of them as its author.
    """

    kind: ClassVar[str] = "key.add"
    seq: Count
    prev: Hash
    holder: Origin  # A member, or the consortium.
    role: Word
    key: AnyVKey

    @property
    def idem(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRevoke:
    """A key signs nothing any more, from this entry on. By the holder's admin, or more than half of all admins.

    What it signed from `suspect_from` on is disputed: it is billed only when its holder has affirmed it.
    """

    kind: ClassVar[str] = "key.revoke"
    seq: Count
    prev: Hash
    holder: Origin
    role: Word
    id: KeyId
    suspect_from: Count  # An index of the log.

    @property
    def idem(self) -> str:
        return f"{self.holder}/{self.role}+{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAffirm:
    """What a revoked key signed between two indices, the second not included, stands all the same. By the admin."""

    kind: ClassVar[str] = "key.affirm"
    seq: Count
    prev: Hash
    holder: Origin
    role: Word
    id: KeyId
    start: Count
    end: Count

    @property
    def idem(self) -> str:
        return f"{self.holder}/{self.role}+{self.id}/{self.start}-{self.end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivocation:
    """Two notes with which one author said two things under one name. They prove it, whoever wrote this: the log."""

    kind: ClassVar[str] = "equivocation"
    seq: Count
    prev: Hash
    first: Count  # The index at which the log holds the first one.
    one: NoteText
    other: NoteText

    @property
    def idem(self) -> str:
        return str(self.first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained and how: enough to repeat it."""

    vocabulary: Positive
    layers: Positive
    heads: Positive
    width: Positive
    context: Positive  # Tokens in one training sequence.
    batch: Positive  # Sequences in one step.
    inner_steps: Positive  # Steps a member trains in one round.
    inner_rate: Decimal  # AdamW's learning rate.
    outer_rate: Decimal
    outer_momentum: Decimal  # Nesterov; 0 with rate 1 is plain averaging.
    corpus: Name
    seed: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One training run, as its members consent to it. By the coordinator."""

    kind: ClassVar[str] = "run.manifest"
    seq: Count
    prev: Hash
    run: Name
    charter: Hash
    bundle: Hash  # SHA-256 of the Flower bundle whose code will run at the members.
    recipe: Recipe
    members: tuple[Name, ...]
    rounds: Positive
    deadline_ms: Positive  # From the opening of a round until it ends without those still missing.
    quorum: Positive  # Fewer accepted answers than this, and a round changes nothing.
    flop_per_token: Positive  # rules.pricing.flop_per_token of the recipe.
    base: Hash  # Digest of the first checkpoint,
    loss_unats: Count  # and its held-out loss, in millionths of a nat per byte.

    @property
    def idem(self) -> str:
        return self.run


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """A member's countersignature under a manifest: its daemon will run this bundle, and no other."""

    kind: ClassVar[str] = "run.consent"
    seq: Count
    prev: Hash
    member: Name
    run: Name
    manifest: Hash

    @property
    def idem(self) -> str:
        return self.run


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpen:
    """One exchange begins: who is asked to train from which checkpoint, until when. By the coordinator."""

    kind: ClassVar[str] = "round.open"
    seq: Count
    prev: Hash
    run: Name
    round: Positive
    manifest: Hash
    base: Hash
    invited: tuple[Name, ...]
    opened_ms: Count
    deadline_ms: Count

    @property
    def idem(self) -> str:
        return f"{self.run}/{self.round}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One member's metered account of its work in one round.

    Tokens, steps and digests are the training process's claim; wall and CPU time are the daemon's own measure of that
    process, against which it checked the claim before it signed.
    """

    kind: ClassVar[str] = "receipt"
    seq: Count
    prev: Hash
    member: Name
    node: Name
    run: Name
    round: Positive
    opened: Hash  # Leaf hash of the round.open it answers.
    base: Hash
    update: Hash  # Digest of the weight change this receipt pays for.
    data: Hash  # H(salt, digest of every token trained on): opened to an auditor on demand.
    tokens: Count
    steps: Count
    flop: Count  # tokens × the manifest's FLOP per token.
    busy_ms: Count  # The training process's own time inside its steps.
    wall_ms: Count
    cpu_ms: Count
    device: Name
    devices: Positive
    energy_mj: Count
    energy_method: Word  # How energy was measured; `none` means it was not.
    bytes_down: Count  # Payload of the task and of the answer.
    bytes_up: Count
    started_ms: Count
    ended_ms: Count
    witnessed_size: Count  # The newest tree head that the signer had verified.
    witnessed_root: Hash

    @property
    def idem(self) -> str:
        return f"{self.run}/{self.round}/{self.node}"


@dataclass(frozen=True, slots=True)
class Included:
    """An answer that counts: its receipt earns, its update moved the weights."""

    member: Name
    receipt: Hash


@dataclass(frozen=True, slots=True)
class Excluded:
    """An invited member whose answer does not count, and the name of the reason."""

    member: Name
    reason: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundClose:
    """One exchange ended: which answers count, and the checkpoint they led to. By the coordinator."""

    kind: ClassVar[str] = "round.close"
    seq: Count
    prev: Hash
    run: Name
    round: Positive
    base: Hash
    checkpoint: Hash
    included: tuple[Included, ...]  # In member order: a sum of floats depends on its order.
    excluded: tuple[Excluded, ...]  # In member order.
    loss_unats: Count  # Held-out loss of `checkpoint`, in millionths of a nat per byte.

    @property
    def idem(self) -> str:
        return f"{self.run}/{self.round}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """A run is over. By the coordinator."""

    kind: ClassVar[str] = "run.end"
    seq: Count
    prev: Hash
    run: Name
    checkpoint: Hash
    status: Annotated[str, Pattern("completed|failed|stopped")]
    reason: Line

    @property
    def idem(self) -> str:
        return self.run


@dataclass(frozen=True, slots=True, kw_only=True)
class CostItem:
    """A shared cost that one member paid for all. By its payer's administrator."""

    kind: ClassVar[str] = "cost.item"
    seq: Count
    prev: Hash
    item: Name
    payer: Name
    pot: Name
    amount: Positive  # Minor units.
    currency: Annotated[str, Pattern(r"[A-Z]{3}")]
    evidence: Hash  # H(salt, invoice): opened to an auditor on demand.

    @property
    def idem(self) -> str:
        return self.item


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """What one pot gives and takes one member. Lines are exact; they are never rounded."""

    pot: Name
    member: Name
    credit: Fraction
    charge: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """One member's period: its accepted work, and the whole minor units it is owed (or owes, below zero)."""

    member: Name
    flop: Count
    net: Signed
    carry: Fraction  # What rounding left over: below one minor unit, added before the next period is rounded.


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One payment that settles balances."""

    payer: Name
    payee: Name
    amount: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The bill of one period: a claim about entries, which every auditor recomputes. By the administrator."""

    kind: ClassVar[str] = "statement"
    seq: Count
    prev: Hash
    period: Name
    start: Count  # It covers the entries from start to end, end not included.
    end: Count
    root: Hash  # Of the tree of size `end`.
    cosignatures: tuple[SignatureLine, ...]  # Of that tree head, by the charter's quorum of members.
    lines: tuple[StatementLine, ...]  # In order of pot as in the charter, then of member.
    balances: tuple[Balance, ...]  # In member order.
    transfers: tuple[Transfer, ...]

    @property
    def idem(self) -> str:
        return self.period


Chained = (
    KeyAdd
    | KeyRevoke
    | KeyAffirm
    | Equivocation
    | Manifest
    | Consent
    | RoundOpen
    | Receipt
    | RoundClose
    | RunEnd
    | CostItem
    | Statement
)
Record = Charter | Chained  # What an entry can hold.
KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in (Charter, *Chained.__args__)}
