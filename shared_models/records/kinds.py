"""Every kind of record: what is agreed, done, paid and owed, in units that cannot drift.

Each class is one kind of log entry; its fields are its schema (see `canonical`). Nothing is ever updated: what
changes is a new entry. A record refers to another entry by its leaf hash. All times are Unix milliseconds. What is
owed is whole minor units of the charter's currency or exact rationals of them; what an invoice says is a decimal of
its own currency (`Amount`).

Every record but the charter belongs to a chain: its author's entries carry a dense `seq` from 0 and in `prev` the
leaf hash of the one before, so that an omission shows. `idem` names what a record is about: the same author may say
it once.
"""

import hashlib
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, ClassVar

from shared_models.records.canonical import Count, Decimal, Hash, Line, Name, Pattern, Range, Signed
from shared_models.records.refusals import Refusal, Refused

FIRST = "0" * 64  # The `prev` of an author's first entry.

Origin = Annotated[str, Pattern(r"[a-z0-9][a-z0-9./-]{0,62}[a-z0-9]")]  # C2SP: a URL without its scheme.
VKey = Annotated[str, Pattern(r"[^ +]{1,128}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}")]  # As keys.VerifyKey.text writes it,
AnyVKey = Annotated[str, Pattern(r"[^ +]{1,128}\+[0-9a-f]{8}\+[A-Za-z0-9+/=]{44,1752}")]  # and one of ML-DSA-44 too.
KeyId = Annotated[str, Pattern(r"[0-9a-f]{8}")]
SignatureLine = Annotated[str, Pattern(r"— [^ +]{1,128} [A-Za-z0-9+/=]{8,3300}")]  # Of a note, without its newline.
NoteText = Annotated[str, Pattern(r"[^\x00-\x09\x0b-\x1f\ud800-\udfff]{1,65535}")]
Positive = Annotated[int, Range(1, 2**63 - 1)]
Share = Annotated[str, Pattern(r"0(\.[0-9]{0,11}[1-9])?")]  # A Decimal below 1.
Word = Annotated[str, Pattern(r"[a-z][a-z_]{0,31}")]
Currency = Annotated[str, Pattern(r"[A-Z]{3}")]  # ISO 4217; rules.currency knows which there are.
Amount = Annotated[str, Pattern(r"(0|[1-9][0-9]{0,17})(\.[0-9]{0,11}[1-9])?")]  # In units of a currency, exact.
Date = Annotated[str, Pattern(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")]
Isolation = Annotated[str, Pattern(r"none|landlock-[1-9][0-9]?(\+netns)?")]  # Which of Linux's Landlock; no network.
Build = Annotated[str, Pattern(r"[A-Za-z0-9._+-]{1,40}(/[A-Za-z0-9._+-]{1,40}){4}")]
ModelName = Annotated[str, Pattern("gpt|sha256:[0-9a-f]{64}:[a-z_][a-z0-9_]{0,63}")]  # A file, and a function of it.
Billed = Annotated[str, Pattern(r"(item/[a-z0-9.-]{1,63}/|work/[a-z0-9.-]{1,63}/[1-9][0-9]{0,18}/)[a-z0-9.-]{1,63}")]

BILLION = 10**9  # The weight of a whole.
# How updates may travel; docs/protocol.md says what each writes.
CODECS = ("fp32", "bf16", "int8", "int4", "sign2", "sign1", "top64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A legal entity, the only party that is billed."""

    name: Name
    admin: VKey  # Signs the charter, cost items and the member's further keys; kept by a person.
    compute: VKey  # Signs consents and receipts; held by the member's daemon.
    witness: VKey  # Cosigns tree heads: "this log has one history, and I have seen it". Held by the daemon.
    attest: VKey  # Cosigns tree heads: "and every entry of mine in it is mine". Held by the daemon.
    benefit: Count  # The weight of its access: what it pays by, for as long as this charter holds.
    pledge: Count  # What it promised to give in each period, in minor units: work, costs paid, or money.


@dataclass(frozen=True, slots=True, kw_only=True)
class Pot:
    """A kind of cost, and the rule that divides it."""

    name: Name
    rule: Word  # One of rules.allocation.RULES, or of TABLE_RULES.
    driver: Annotated[str, Pattern("benefit|usage|paid")]  # What a rule divides by; who has `paid` a cost bears it.
    table: "tuple[Coalition, ...]"  # What each coalition would cost by itself, for a rule of TABLE_RULES; else nothing.
    floors: "tuple[Limit, ...]"  # What a member is charged at least, of all that the pot holds in a period,
    caps: "tuple[Limit, ...]"  # and at most: in order of their names; who is not named has no such limit.


@dataclass(frozen=True, slots=True, kw_only=True)
class Coalition:
    """What some members would cost by themselves, as all have agreed."""

    members: tuple[Name, ...]  # In order of their names.
    cost: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A floor or a cap of what one member is charged from a pot for a period."""

    member: Name
    amount: Count  # Minor units.


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """What a member may do with a model that it gave so much for."""

    name: Name
    share: Fraction  # Of what it pledged, it has given at least so much over the charter's window.
    right: Annotated[str, Pattern("use|download")]  # To download it is to use it, too.
    lag: Count  # So many rounds must have closed behind the one whose checkpoint it is, or the run have ended.
    quota: Count  # Bytes that it may fetch between two statements.


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
    currency: Currency
    minor_digits: Annotated[int, Range(0, 4)]
    price: Fraction  # Minor units for one NCU (10^18 accepted model-FLOP).
    compute_pot: Name  # The pot that accepted work is credited to, at this price.
    pots: tuple[Pot, ...]
    members: tuple[Member, ...]  # In order of their names.
    devices: tuple[Device, ...]
    quorum: Count  # So many members must have witnessed the tree head that a statement covers.
    approvals: Positive  # So many members must vote for another charter; more than half of them.
    cap: Annotated[str, Pattern("none|alone")]  # `alone`: nobody is charged more than it quoted for training alone.
    objection: Count  # So many statements after the one that bills it, what is billed can still be disputed.
    accession: Fraction  # Who joins pays this part of the price of all earlier work, to those who did it.
    window: Positive  # So many statements back, what was given counts for access.
    tiers: tuple[Tier, ...]  # From the least to the most.
    admin: VKey  # Signs statements, rates and prices.
    coordinator: VKey  # Signs manifests and rounds.
    log: VKey  # Signs tree heads.
    worth_share: Fraction  # This part of what the compute pot holds is paid by benefit, to those whose experts gain.
    expert_price: Fraction  # Minor units for a million tokens served through another's expert; 0: its use is free.

    @property
    def idem(self) -> str:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAdd:
    """A holder has one more key for a role, from the next entry on. By a key of that role, or the holder's admin; of an
    auditor, who only reads, by the admin.

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
    kv_heads: Count  # Of keys and values, each for as many heads: grouped-query attention; 0: each head has its own.
    width: Positive
    context: Positive  # Tokens in one training sequence.
    feed: Annotated[str, Pattern("gelu|swiglu")]  # What a feed-forward does between its matrices.
    rank: Count  # Of a feed-forward's matrices, each the product of two; 0: they are whole.
    shared: Positive  # So many layers in a row have the same weights; 1: each has its own.
    experts: Count  # Feed-forwards of a layer, of which a token goes through some; 0: through the only one.
    experts_per_token: Count
    adapter: Count  # Rank of what alone is trained, beside each matrix of the layers; 0: all weights are.
    batch: Positive  # Sequences in one step.
    inner_steps: Positive  # Steps a member trains in one round; where `Manifest.steps` says how many, the most.
    inner: Annotated[
        str, Pattern("adamw|muon|adafactor|lamb|lion|scion")
    ]  # How a member steps: shared_models.lm.inner.
    inner_rate: Decimal  # Its learning rate at the highest.
    outer: Annotated[str, Pattern("adam|mean|nesterov")]  # How a round's mean update is followed: server.outer.
    outer_rate: Decimal
    outer_momentum: Share  # What it grows to; `mean` has none.
    aggregate: Annotated[str, Pattern("centred|krum|mean|median|trimmed")]  # How updates become one: lm.hygiene.
    influence: Share  # No update counts more in a step than this, or than an equal share, whichever is more.
    corpus: Annotated[str, Pattern("python-stdlib|sha256:[0-9a-f]{64}")]  # What checkpoints are scored on: lm.corpus.
    seed: Count
    up: Name  # The codec, one of CODECS, of what members send,
    down: Name  # and of the step that the coordinator sends to members that hold the checkpoint before it.
    segment: Positive  # Inner steps between two states that a receipt commits to: rules.challenge.
    precision: Annotated[str, Pattern("bf16|fp32")]  # Of matrix products; weights, memory and sums are fp32.
    member_experts: Count  # One for each member of the run, which alone trains it, beside given weights; 0: none.
    shortest: Count  # Tokens in the run's first sequences, which double up to `context`; 0: all have `context`.
    teacher_layers: Count  # Of a frozen model whose predictions are learnt too; 0: there is none.
    teacher_heads: Count
    teacher_width: Count
    temperature: Decimal  # By which its predictions, and those that learn them, are made even.
    taught: Share  # What they weigh in what training lowers; the text weighs the rest.
    tokenizer: Annotated[str, Pattern("bytes|sha256:[0-9a-f]{64}")]  # What a token is: a byte, or as that file says.
    feed_dim: Count  # Numbers between a feed-forward's matrices, or each expert's; 0: as many as `feed_width` says.
    head_dim: Count  # Numbers of a head; 0: the width is divided among the heads.
    qk_norm: Annotated[str, Pattern("none|head|whole")]  # Queries and keys are normed, each head's or all at once.
    bias: Annotated[str, Pattern("none|qkv")]  # What is added to queries, keys and values.
    embeddings: Annotated[str, Pattern("apart|tied")]  # Of tokens, in and out: two matrices, or one.
    expert_weights: Annotated[str, Pattern("shares|softmax")]  # Of those gone through: shares of 1, or the router's.
    rope_theta: Positive  # The base of rotary positions' wavelengths,
    rope_factor: Count  # of which the long ones are so many times longer, as Llama 3's; 0: as they are.
    norm_eps: Decimal  # What a norm adds to a mean square; 0: float32's own, 2^-23.
    merge_dropout: Share  # So many of a tokenizer's merges are left out, at random, of the text that is trained on.
    model: ModelName  # What is trained: `gpt`, ours; or what that function of a Python file builds: lm.models.
    model_flop: Count  # Of one that is not ours, forward and back: of a token, however long its sequence,
    model_flop_per_position: Count  # and for each token in that as many more. Of ours they are 0: a formula says it.
    candidates: Positive  # Sequences that are drawn for each one trained on: the hardest. 1: all are trained on.

    @property
    def ours(self) -> bool:
        """Whether what is trained is our own model, which the other fields say all of."""
        return self.model == "gpt"

    @property
    def beside(self) -> bool:
        """Whether weights that are given stay as they are, and what is trained stands beside them."""
        return self.adapter > 0 or self.member_experts > 0

    @property
    def feed_width(self) -> int:
        """How wide a feed-forward is between its matrices, or each of the experts.

        If the recipe does not say, a token goes through 8·width² weights of a layer's feed-forwards, whatever they are:
        SwiGLU has three matrices instead of two (arXiv:2002.05202), and several experts are so much narrower; up to the
        next multiple of 8.
        """
        if self.feed_dim:
            return self.feed_dim
        if self.feed == "gelu":
            return 4 * self.width
        return 8 * -(-self.width // (3 * max(1, self.experts_per_token)))

    @property
    def head_width(self) -> int:
        """How wide a head is."""
        return self.head_dim or self.width // self.heads

    @property
    def teacher(self) -> "Recipe | None":
        """What the teacher is a model of: whole matrices, of its own in each layer."""
        if not self.teacher_layers:
            return None
        sizes = {"layers": self.teacher_layers, "heads": self.teacher_heads, "width": self.teacher_width}
        nobody = {"teacher_layers": 0, "teacher_heads": 0, "teacher_width": 0, "temperature": "0", "taught": "0"}
        return replace(self, **sizes, **nobody, rank=0, shared=1, adapter=0)  # type: ignore[arg-type]


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
    wait: Annotated[str, Pattern("all|quorum")]  # For whom a round waits until its deadline: `quorum`, for no more.
    late: Count  # An answer still counts in the so many rounds behind its own; 0: in none.
    patience: Count  # The run stops early when the loss was no lower for so many rounds; 0: it does not.
    flop_per_token: Positive  # rules.pricing.flop_per_token of the recipe, in sequences of its context.
    start: Hash  # Digest of the weights that it was given to begin with; `FIRST`: none, the recipe's seed draws them.
    base: Hash  # Digest of the first checkpoint,
    loss_unats: Count  # and its held-out loss, in millionths of a nat per byte.
    teacher: Hash  # Digest of the teacher's weights, a checkpoint of a closed round; `FIRST`: there is none.
    steps: tuple[Positive, ...]  # Of each member in a round, in the order of `members`; none: the recipe's, of each.

    @property
    def idem(self) -> str:
        return self.run

    @property
    def frozen(self) -> str:
        """The digest of what stands beside what is trained: a teacher, or the given weights; or `FIRST`."""
        return self.start if self.recipe.beside else self.teacher

    def recipe_of(self, member: str) -> Recipe:
        """By what this member of the run trains: the recipe, with its own steps. What a schedule counts in steps, the
        rate and the length of sequences, it has gone through as far as the others in each round. Raises
        `Refused(NOT_INVITED)`.
        """
        if not self.steps:
            return self.recipe
        if member not in self.members:
            raise Refused(Refusal.NOT_INVITED, f"{member} is no member of run {self.run}")
        return replace(self.recipe, inner_steps=self.steps[self.members.index(member)])


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


def sealed_seed(seed: str) -> str:
    """What a round's opening says of its seed: nobody can guess the seed from it, and who wrote it cannot change it."""
    return hashlib.sha256(bytes.fromhex(seed)).hexdigest()


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
    sealed: Hash  # `sealed_seed` of the seed that the close reveals: it draws the text that the answers are scored on.

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
    update: Hash  # Digest of the weight change this receipt pays for, as what was sent decodes to.
    data: Hash  # H(salt, digest of every token trained on): opened to an auditor on demand.
    trajectory: Hash  # Root over the states that training went through (rules.challenge): a segment can be asked for.
    build: Build  # Library, instruction set, threads, number format, processor: where they are the same, so are bits.
    tokens: Count
    steps: Count
    flop: Count  # rules.pricing.round_flop of its round.
    busy_ms: Count  # The training process's own time inside its steps.
    wall_ms: Count
    cpu_ms: Count
    device: Name
    devices: Positive
    energy_mj: Count
    energy_method: Word  # How energy was measured; `none` means it was not.
    memory_bytes: Count  # The most that the training process and its children took at a time; 0: not measured.
    isolation: Isolation  # What kept the training process from the member's keys and files, as its daemon says.
    bytes_down: Count  # The tensors that came with the task,
    bytes_up: Count  # and those of the answer; the coordinator counted these too.
    started_ms: Count
    ended_ms: Count
    witnessed_size: Count  # The newest tree head that the signer had verified.
    witnessed_root: Hash

    @property
    def idem(self) -> str:
        return f"{self.run}/{self.round}/{self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """A segment of a receipt's training was done again, because the log drew it: rules.challenge.

    By another member's daemon, or the coordinator. It moves no money: it is what a dispute can be about.
    """

    kind: ClassVar[str] = "audit.result"
    seq: Count
    prev: Hash
    auditor: Origin  # A member, or the consortium.
    run: Name
    round: Positive
    member: Name  # Whose work it was.
    receipt: Hash
    size: Count  # The root of the log of this size is what drew it: the tree that ends with the round.close.
    segment: Count  # From 0.
    verdict: Annotated[str, Pattern("matches|close|differs|unanswered")]
    distance_ppm: Count  # Between the two outcomes, in millionths of the change: client.reexecute.distance_ppm.
    build: Build  # What the auditor computed with.

    @property
    def idem(self) -> str:
        return self.receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What the experts of a run's members are worth on a text, as a member has measured it: rules.worth.

    By its daemon's key. Whoever has the checkpoint and the text can measure it again.
    """

    kind: ClassVar[str] = "worth"
    seq: Count
    prev: Hash
    member: Name  # Who has measured.
    run: Name
    checkpoint: Hash  # One that a round of the run has led to.
    text: Hash  # SHA-256.
    losses_unats: tuple[
        Count, ...
    ]  # With each set of experts; the bits of its place say whose, as the manifest's order.
    routes: tuple[Count, ...]  # Through the given feed-forwards, then through each member's: rules.worth.

    @property
    def idem(self) -> str:
        return f"{self.run}/{self.checkpoint}/{self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """So many of the tokens that were served are those of one member's expert."""

    member: Name
    tokens: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How many tokens a member has served in a period with a model that holds members' experts: rules.served.

    By its administrator, whom it can cost money. It is corrected by another one that cites it, until the period is
    closed.
    """

    kind: ClassVar[str] = "served"
    seq: Count
    prev: Hash
    member: Name  # Who has served them.
    period: Name
    run: Name
    model: Hash  # An artefact, or a checkpoint of the run.
    tokens: Count
    routes: tuple[Routed, ...]  # In order of their names; the rest are those of the given weights.
    replaces: Hash  # As in a rate.

    @property
    def idem(self) -> str:
        return f"{self.period}/{self.run}/{self.model}{_correction(self.replaces)}"


@dataclass(frozen=True, slots=True)
class Included:
    """An answer that counts: its receipt earns. How far its update moved the weights is no matter of money."""

    member: Name
    receipt: Hash
    weight: Count  # The update's coefficient in the step, in billionths; those of a round are at most 10^9 together.
    gain_unats: Signed  # How much lower the held-out loss is with this update alone, in millionths of a nat per byte.
    judged: Word  # `whole`, or why it counts less.


@dataclass(frozen=True, slots=True)
class Excluded:
    """An invited member whose answer does not count, and the name of the reason."""

    member: Name
    reason: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundClose:
    """One exchange ended: which answers count, and the checkpoint they led to. By the coordinator.

    If it was handed over, another coordinator says so, who has neither the seed nor the updates: no step is taken, the
    work that is receipted counts all the same, and the run goes on from a checkpoint that it had.
    """

    kind: ClassVar[str] = "round.close"
    seq: Count
    prev: Hash
    run: Name
    round: Positive
    base: Hash
    checkpoint: Hash
    included: tuple[Included, ...]  # In member order: a sum of floats depends on its order.
    excluded: tuple[Excluded, ...]  # In member order.
    late: tuple[Included, ...]  # Answers to earlier rounds that did not come in time for them; in member order.
    loss_unats: Count  # Held-out loss of `checkpoint`, in millionths of a nat per byte.
    state: Hash  # Digest of what the outer step remembers: with it and the updates, anyone can repeat the next one.
    seed: Hash  # Drew the held-out text that the answers were scored on; `FIRST`: the round was handed over.

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
class Amendment:
    """Another charter, as a whole, for the one in force. By the administrator of a member that proposes it.

    It is in force when the charter's `approvals` have voted for it; nobody else signs it.
    """

    kind: ClassVar[str] = "amendment"
    seq: Count
    prev: Hash
    member: Name
    amendment: Name
    replaces: Hash  # Leaf hash of the charter, or the amendment, that is in force.
    charter: Charter

    @property
    def idem(self) -> str:
        return self.amendment


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One member's vote: each has one, whatever it gives. By its administrator."""

    kind: ClassVar[str] = "vote"
    seq: Count
    prev: Hash
    member: Name
    amendment: Hash  # Leaf hash: of the very text that was read.
    choice: Annotated[str, Pattern("yes|no")]

    @property
    def idem(self) -> str:
        return self.amendment


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """A member leaves. It is billed for the period that runs, and for none behind it. By its administrator."""

    kind: ClassVar[str] = "member.leave"
    seq: Count
    prev: Hash
    member: Name
    reason: Line

    @property
    def idem(self) -> str:
        return self.member


def _correction(replaces: str) -> str:
    """What tells a correction from what it corrects: one entry is corrected once."""
    return f"/{replaces}" if replaces != FIRST else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a currency was worth on a day, so that no payer chooses it. By the consortium's administrator.

    It is corrected by another one that cites it, until something is billed by it.
    """

    kind: ClassVar[str] = "rate"
    seq: Count
    prev: Hash
    currency: Currency
    date: Date
    rate: Fraction  # Units of the charter's currency for one unit of this one.
    source: Line
    replaces: Hash  # Leaf hash of the one that this corrects; `FIRST` if there is none.

    @property
    def idem(self) -> str:
        return f"{self.currency}/{self.date}{_correction(self.replaces)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostItem:
    """A shared cost that one member paid for all. By its payer's administrator."""

    kind: ClassVar[str] = "cost.item"
    seq: Count
    prev: Hash
    item: Name
    payer: Name
    pot: Name
    period: Name  # The period whose statement divides it.
    category: Word  # What was bought: compute, storage, network, staff, tax, ...
    amount: Amount  # As on the invoice, above zero.
    currency: Currency
    date: Date  # Of the invoice: it is converted once, at the rate of this day.
    evidence: Hash  # H(salt, invoice): opened to an auditor on demand.

    @property
    def idem(self) -> str:
        return self.item


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote:
    """Less than an invoice said: a refund, or a correction after it was billed. By its payer's administrator."""

    kind: ClassVar[str] = "credit.note"
    seq: Count
    prev: Hash
    note: Name
    payer: Name
    item: Hash  # Leaf hash of the cost.item; its currency and its rate hold here too.
    period: Name
    amount: Amount
    reason: Line

    @property
    def idem(self) -> str:
        return self.note


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much of a pot a member has used in a period, or needs: its driver. By the consortium's administrator.

    It is corrected by another one that cites it, until the period is closed.
    """

    kind: ClassVar[str] = "usage"
    seq: Count
    prev: Hash
    member: Name
    pot: Name
    period: Name
    quantity: Amount  # In the unit that the pot is metered in: GB-days, GB, tokens.
    source: Line
    replaces: Hash  # As in a rate.

    @property
    def idem(self) -> str:
        return f"{self.period}/{self.pot}/{self.member}{_correction(self.replaces)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteSeal:
    """A quote that nobody can read yet, and that can no longer be changed. By a member's administrator.

    About `price`: what an NCU should be worth. About `alone`: what the period would cost these members by themselves.
    """

    kind: ClassVar[str] = "quote.seal"
    seq: Count
    prev: Hash
    member: Name
    about: Annotated[str, Pattern("price|alone")]
    period: Name
    members: tuple[Name, ...]  # Whose quote this is, the author among them; for a price, the author.
    seal: Hash  # rules.quotes.sealed of what `quote.open` will say.

    @property
    def idem(self) -> str:
        return f"{self.about}/{self.period}/{'+'.join(self.members)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteOpen:
    """What was sealed. By the same administrator."""

    kind: ClassVar[str] = "quote.open"
    seq: Count
    prev: Hash
    member: Name
    about: Annotated[str, Pattern("price|alone")]
    period: Name
    members: tuple[Name, ...]
    amount: Amount  # In the charter's currency: for an NCU, or for the period.
    salt: Hash

    @property
    def idem(self) -> str:
        return f"{self.about}/{self.period}/{'+'.join(self.members)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The price of an NCU for a period: the median of the members' opened quotes. By the consortium's administrator."""

    kind: ClassVar[str] = "price"
    seq: Count
    prev: Hash
    period: Name
    price: Fraction  # Minor units for one NCU.
    quotes: tuple[Name, ...]  # The members whose quotes were opened, in order of their names.

    @property
    def idem(self) -> str:
        return self.period


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A member objects to what is billed, or will be. By its administrator. It is not billed until it was ruled on."""

    kind: ClassVar[str] = "dispute"
    seq: Count
    prev: Hash
    member: Name
    about: Billed  # item/PAYER/ITEM or work/RUN/ROUND/MEMBER.
    reason: Line

    @property
    def idem(self) -> str:
        return self.about


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A member's ruling on what is disputed. By its administrator; what more than half of the members say, holds."""

    kind: ClassVar[str] = "resolution"
    seq: Count
    prev: Hash
    member: Name
    about: Billed
    dispute: Hash  # Leaf hash of the first one about it.
    outcome: Annotated[str, Pattern("stands|void")]
    reason: Line

    @property
    def idem(self) -> str:
        return self.about


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
class Quoted:
    """What the members of a coalition are charged, beside what they had quoted for going alone."""

    members: tuple[Name, ...]
    charge: Fraction
    alone: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The bill of one period: a claim about entries, which every auditor recomputes. By the administrator."""

    kind: ClassVar[str] = "statement"
    seq: Count
    prev: Hash
    period: Name
    charter: Hash  # Leaf hash of the charter or the amendment whose rules it follows: that in force at `start`.
    price: Fraction  # Minor units for one NCU.
    start: Count  # It covers the entries from start to end, end not included.
    end: Count
    root: Hash  # Of the tree of size `end`.
    cosignatures: tuple[SignatureLine, ...]  # Of that tree head, by the charter's quorum of members.
    lines: tuple[StatementLine, ...]  # In order of pot as in the charter, then of member.
    balances: tuple[Balance, ...]  # In member order.
    transfers: tuple[Transfer, ...]
    certificate: tuple[Quoted, ...]  # Every coalition that quoted, the one that gains least by staying first.
    unspent_flop: Count  # What runs that stopped early in the period left undone: rules.stopping. No line has it.

    @property
    def idem(self) -> str:
        return self.period


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A transfer was paid. It is settled when both have said so, each by its administrator."""

    kind: ClassVar[str] = "settlement"
    seq: Count
    prev: Hash
    member: Name  # The payer or the payee, whichever speaks.
    period: Name
    netting: Count  # 0 for the statement's transfers. Each default of the period nets anew, and counts one up.
    payer: Name
    payee: Name
    amount: Positive

    @property
    def idem(self) -> str:
        return f"{self.period}/{self.netting}/{self.payer}/{self.payee}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """A member says that another does not pay what it owes for a period. By its administrator.

    When more than half of the members say so, the rest bear what is owed and settle anew among themselves.
    """

    kind: ClassVar[str] = "default"
    seq: Count
    prev: Hash
    member: Name
    period: Name
    netting: Count  # The newest, as in a settlement.
    defaulter: Name
    reason: Line

    @property
    def idem(self) -> str:
        return f"{self.period}/{self.netting}/{self.defaulter}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The weights that a round led to."""

    run: Name
    round: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file that members may have, and what it was made from. By the coordinator, or a member that derived it."""

    kind: ClassVar[str] = "artefact"
    seq: Count
    prev: Hash
    publisher: Origin
    artefact: Hash  # SHA-256 of its bytes.
    size: Positive  # Bytes.
    form: Name  # Such as safetensors or gguf.
    checkpoints: tuple[Checkpoint, ...]
    parents: tuple[Hash, ...]  # Other artefacts, by their SHA-256.
    without: tuple[Name, ...]  # Members whose experts were left out of the checkpoint; in order.

    @property
    def idem(self) -> str:
        return self.artefact


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A member takes an artefact that it has a right to. By its daemon; before the first byte is served."""

    kind: ClassVar[str] = "access"
    seq: Count
    prev: Hash
    member: Name
    artefact: Hash
    fetch: Positive  # Its number: 1 for the first time that the member takes this one.

    @property
    def idem(self) -> str:
        return f"{self.artefact}/{self.fetch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGrant:
    """To whom a member grants its expert of a run, and to nobody else. By its administrator.

    Until a member says so, the others that take part in the run may have its expert: they are sent it.
    """

    kind: ClassVar[str] = "expert.grant"
    seq: Count
    prev: Hash
    member: Name  # Whose expert it is.
    run: Name
    to: tuple[Name, ...]  # Other members, in order.
    replaces: Hash  # As in a rate.

    @property
    def idem(self) -> str:
        return f"{self.run}{_correction(self.replaces)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRevoke:
    """A member says that another shall get no more artefacts. By its administrator.

    It gets none from the entry on by which more than half of the members have said so under one notice.
    """

    kind: ClassVar[str] = "access.revoke"
    seq: Count
    prev: Hash
    member: Name
    notice: Name
    revoked: Name
    reason: Line

    @property
    def idem(self) -> str:
        return self.notice


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRestore:
    """A member says that a revocation shall end. It ends when more than half of the members have said so."""

    kind: ClassVar[str] = "access.restore"
    seq: Count
    prev: Hash
    member: Name
    notice: Name

    @property
    def idem(self) -> str:
        return self.notice


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
    | AuditResult
    | RunEnd
    | Amendment
    | Vote
    | Leave
    | Rate
    | CostItem
    | CreditNote
    | Usage
    | QuoteSeal
    | QuoteOpen
    | Price
    | Dispute
    | Resolution
    | Statement
    | Settlement
    | Default
    | Artefact
    | Access
    | AccessRevoke
    | AccessRestore
    | Worth
    | ExpertGrant
    | Served
)
Record = Charter | Chained  # What an entry can hold.
KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in (Charter, *Chained.__args__)}
