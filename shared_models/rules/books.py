"""The books: what the log says, folded entry by entry, and what an entry must fulfil to be let in.

The ledger asks this before it writes, the auditor asks it again of every entry: one set of rules for both, in which
nobody has to be believed. The state is a pure function of the entries; it holds no clock, no file and no network. Of a
receipt it keeps some dozens of bytes, so that a log of millions fits.
"""

from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass, field
from itertools import count, repeat, takewhile
from operator import lt
from typing import Any, NamedTuple, TypeVar

from shared_models.records import entry as entries
from shared_models.records import note, tlog
from shared_models.records.entry import Entry, digest_of
from shared_models.records.kinds import (
    BILLION,
    FIRST,
    Access,
    AccessRestore,
    AccessRevoke,
    Amendment,
    Artefact,
    AuditResult,
    Chained,
    Charter,
    Consent,
    CostItem,
    CreditNote,
    Default,
    Dispute,
    Equivocation,
    ExpertGrant,
    KeyAdd,
    KeyAffirm,
    KeyRevoke,
    Leave,
    Manifest,
    Price,
    QuoteOpen,
    QuoteSeal,
    Rate,
    Receipt,
    Resolution,
    RoundClose,
    RoundOpen,
    RunEnd,
    Served,
    Settlement,
    Statement,
    Usage,
    Vote,
    Worth,
    sealed_seed,
)
from shared_models.records.merkle import Tree
from shared_models.records.refusals import Refusal, Refused
from shared_models.rules.access import Grounds, Library, Verdict
from shared_models.rules.accounts import Accounts, Work
from shared_models.rules.agreement import Agreement, check_charter
from shared_models.rules.challenge import Challenge, auditors, check_verdict, drawn, ends
from shared_models.rules.keyring import Keyring
from shared_models.rules.pricing import check_claim, flop_per_token, tokens_asked
from shared_models.rules.recipes import check_recipe, check_start
from shared_models.rules.served import check_served
from shared_models.rules.skim import MANY, Context, Receipts, Skimmed, Turn
from shared_models.rules.statement import statement
from shared_models.rules.stopping import plateau, unspent
from shared_models.rules.worth import Said, check_worth

T = TypeVar("T")


class Closed(NamedTuple):
    """How a round ended."""

    checkpoint: str
    included: tuple[str, ...]  # Members.
    excluded: tuple[tuple[str, str], ...]  # (member, name of the reason).
    loss_unats: int
    flop: int  # Of the receipts that it counts, of this round and of earlier ones.
    at: int  # Index of the round.close.
    tokens: int  # Of the same.


@dataclass(slots=True)
class Round:
    """One exchange of a run."""

    number: int
    hash: str  # Leaf hash of its round.open.
    base: str
    invited: frozenset[str]
    sealed: str  # Nothing, when it is closed.
    opened_ms: int  # By the coordinator's clock.
    said: Set[tuple[str, str]] = field(default_factory=set)  # (member, node) of each receipt, for ever.
    receipts: dict[str, Work] = field(default_factory=dict)  # By leaf hash, for as long as it is open.
    closed: Closed | None = None


@dataclass(slots=True)
class Run:
    """One run: what was agreed, who consented, how far it is."""

    manifest: Manifest
    hash: str
    leaf: bytes
    checkpoint: str
    by: bytes  # The id of the coordinator's key that signed its newest close; before the first one, its manifest.
    consents: set[str] = field(default_factory=set)
    rounds: list[Round] = field(default_factory=list)
    late: dict[str, tuple[int, Work]] = field(default_factory=dict)  # By leaf hash: (round, work) that may still count.
    ended: RunEnd | None = None

    def closed(self) -> Iterator[tuple[str, int]]:
        """(checkpoint, index of its round.close) of each round that is over."""
        return ((turn.closed.checkpoint, turn.closed.at) for turn in self.rounds if turn.closed is not None)

    def stops(self) -> bool:
        """Whether it may stop now, before its last round: none is open, and its losses show a plateau.

        A round without a quorum, or one that was handed over, has taken no step: its loss says nothing.
        """
        closed = [(turn.base, turn.closed) for turn in self.rounds if turn.closed is not None]
        losses = [each.loss_unats for base, each in closed if each.checkpoint != base]
        between = len(closed) == len(self.rounds) < self.manifest.rounds
        return between and plateau([self.manifest.loss_unats, *losses], self.manifest.patience)


class Last(NamedTuple):
    """The newest entry of one author."""

    seq: int
    hash: str
    at: int  # Index in the log.


NOTHING = Last(-1, FIRST, -1)  # Before an author's first entry.


class Books:
    """Everything that follows from the entries so far.

    Use: `entry = books.open(leaf)`, `books.check(entry)`, then, once it is stored, `books.add(entry)`. A receipt may
    come as `skim` read it instead.
    """

    def __init__(self) -> None:
        self.tree = Tree()
        self.chains: dict[str, Last] = {}  # By author.
        self.runs: dict[str, Run] = {}
        self.about_keys: list[tuple[int, bytes]] = []  # (index, leaf) of each entry of `keyring.AboutKeys`.
        self.charter_hash = ""  # Leaf hash of the first charter, which members anchor on; empty before there is one.
        self._keyring: Keyring | None = None
        self._accounts: Accounts | None = None
        self.library = Library()
        self.results: list[tuple[int, AuditResult]] = []  # (index, what an auditor found), in the log's order.
        self.context: Context | None = None  # What receipts are skimmed against: another object whenever it changes.
        self._said: set[bytes] = set()
        self._turns: dict[Turn, Round] = {}  # What receipts have lately said of rounds, and was right;
        self._latest: tuple[Turn | None, Round | None] = (None, None)  # the one that was asked for last.
        self._same: dict[Any, Any] = {}  # One object for equal ones: names and sets of members repeat in every round.

    @property
    def charter(self) -> Charter:
        """The charter in force. Raises `Refused(NO_CHARTER)` before there is one."""
        return self.agreement.charter

    @property
    def agreement(self) -> Agreement:
        """What the members have agreed. Raises `Refused(NO_CHARTER)` before there is a charter."""
        return self.keyring.agreement

    @property
    def keyring(self) -> Keyring:
        """The keys of this log. Raises `Refused(NO_CHARTER)` before there is a charter."""
        if self._keyring is None:
            raise Refused(Refusal.NO_CHARTER, "the log is empty")
        return self._keyring

    @property
    def accounts(self) -> Accounts:
        """What was paid and billed. Raises `Refused(NO_CHARTER)` before there is a charter."""
        if self._accounts is None:
            raise Refused(Refusal.NO_CHARTER, "the log is empty")
        return self._accounts

    @property
    def statements(self) -> list[Statement]:
        """Every bill so far; none before there is a charter."""
        return self._accounts.statements if self._accounts is not None else []

    @property
    def worths(self) -> list[Said]:
        """What members have measured of experts, in the log's order."""
        return self._accounts.worths.said if self._accounts is not None else []

    @property
    def keys(self) -> note.Keys:
        """Every key there ever was; none before there is a charter."""
        return self._keyring.keys if self._keyring is not None else {}

    def origin(self, run: str) -> tuple[str, tuple[str, int] | None] | None:
        """What a run began with, if weights were given: their digest, and the first (run, round) before it that has
        led to them; no round if they came from elsewhere. Raises `Refused(UNKNOWN_RUN)`.
        """
        start = self.run(run).manifest.start
        if start == FIRST:
            return None
        for name, other in takewhile(lambda each: each[0] != run, self.runs.items()):
            for turn in other.rounds:
                if turn.closed is not None and turn.closed.checkpoint == start != turn.base:
                    return start, (name, turn.number)
        return start, None

    def holding(self, checkpoint: str) -> Iterator[str]:
        """The artefacts that are this checkpoint of a closed round, in order."""
        for name, held in self.library.artefacts.items():
            whole = len(held.record.checkpoints) == 1 and not held.record.without
            for each in held.record.checkpoints if whole else ():
                closed = self.runs[each.run].rounds[each.round - 1].closed
                if closed is not None and closed.checkpoint == checkpoint:
                    yield name

    def owners(self, run: str, model: str) -> Collection[str]:
        """Whose experts of this run are in a model, which is an artefact or a checkpoint of the run.

        Raises `Refused`: UNKNOWN_RUN, WRONG_CHECKPOINT.
        """
        manifest, held = self.run(run).manifest, self.library.artefacts.get(model)
        if held is not None:
            return [owner for of, owner in held.experts if of == run]
        if model not in dict(self.run(run).closed()):
            raise Refused(Refusal.WRONG_CHECKPOINT, f"no artefact is {model[:12]}…, and run {run} never was there")
        return manifest.members if manifest.recipe.member_experts else ()

    def run(self, name: str) -> Run:
        """The run of this name. Raises `Refused(UNKNOWN_RUN)`."""
        if name not in self.runs:
            raise Refused(Refusal.UNKNOWN_RUN, f"the log holds no manifest of a run {name}")
        return self.runs[name]

    # Reading an entry.

    def open(self, leaf: bytes, vouched: Collection[str] = ()) -> Entry:
        """The entry in this leaf: its bytes are right and a key of this log signed it. Raises `Refused`.

        Signatures by `vouched` names are taken for good.
        """
        if self._keyring is None:
            return entries.open_charter(leaf)
        return entries.open_leaf(leaf, self.charter.consortium, self.keys, vouched)

    def said(self, entry: Entry | Skimmed) -> bool:
        """Whether the author of this has said something about the same thing before."""
        if isinstance(entry, Entry):
            if not isinstance(entry.record, Receipt):
                return digest_of(*entry.about) in self._said
            entry = Skimmed.of(entry)
        turn = self._turn(entry.turn) or self._round(entry.turn)
        return turn is not None and (entry.member, entry.node) in turn.said

    def spoken(self, author: str, record: Chained) -> bool:
        """The same of a record that nobody has signed yet."""
        return digest_of(author, record.kind, record.idem) in self._said

    # Rules. Each raises `Refused` and changes nothing.

    def check(self, entry: Entry | Skimmed) -> None:
        """Whether this entry may come next.

        1. It comes first and is a charter, or the log has one and it is another kind.
        2. Its author holds the role that writes this kind, speaks for nobody else, and its key counts.
        3. Its author has said nothing about the same thing before.
        4. It continues its author's chain: the next number, and the hash of the one before.
        5. What its kind asks for holds.
        """
        if isinstance(entry, Skimmed):
            self.keyring.check_counts(entry.author, entry.key_id)
            self._check_new(entry)
            self._check_chain(entry.author, entry.seq, entry.prev)
            self._check_receipt(entry)
            return
        record = entry.record
        if isinstance(record, Charter):
            if self._keyring is not None:
                raise Refused(Refusal.CONFLICT, "this log has its charter, at entry 0")
            check_charter(record)
            return
        self._check_author(entry)
        self.keyring.check_counts(entry.author, entry.signers[0].id)
        self._check_new(entry)
        self._check_chain(entry.author, record.seq, record.prev)
        match record:
            case KeyAdd() | KeyRevoke() | KeyAffirm() | Amendment() | Vote() | Leave():
                self.keyring.check(record, self.tree.size)
            case Equivocation():
                self._check_equivocation(record)
            case Manifest():
                self._check_manifest(record)
            case Consent():
                self._check_consent(record)
            case RoundOpen():
                self._check_open(record)
            case Receipt():
                self._check_receipt(Skimmed.of(entry), record)
            case RoundClose():
                self._check_close(record, entry.signers[0].id)
            case AuditResult():
                self._check_result(record)
            case RunEnd():
                self._check_end(record)
            case Worth():
                self._check_worth(record)
            case Served():
                check_served(record, self.owners(record.run, record.model))
                self.accounts.check(record)
            case Statement():
                self._check_statement(record)
            case Artefact() | Access() | AccessRevoke() | AccessRestore() | ExpertGrant():
                self.library.check(record, self.grounds())
                if isinstance(record, Artefact):
                    self._check_teachers(record)
            case _:
                self.accounts.check(record)

    def _check_author(self, entry: Entry) -> None:
        match entry.record:
            case KeyAdd() | KeyRevoke() | KeyAffirm() | Amendment() | Vote() | Leave():
                self.keyring.check_author(entry)
                return
            case Consent(member=holder) | Receipt(member=holder) | Access(member=holder) | Worth(member=holder):
                role = "compute"
            case CostItem(payer=holder) | CreditNote(payer=holder):
                role = "admin"
            case (
                QuoteSeal(member=holder)
                | QuoteOpen(member=holder)
                | Dispute(member=holder)
                | Resolution(member=holder)
                | Settlement(member=holder)
                | Default(member=holder)
                | AccessRevoke(member=holder)
                | AccessRestore(member=holder)
                | ExpertGrant(member=holder)
                | Served(member=holder)
            ):
                role = "admin"
            case AuditResult(auditor=holder):
                role = "coordinator" if holder == self.charter.consortium else "compute"
            case Artefact(publisher=holder):
                role = "coordinator" if holder == self.charter.consortium else "admin"
            case Statement() | Rate() | Usage() | Price():
                holder, role = self.charter.consortium, "admin"
            case Equivocation():
                holder, role = self.charter.consortium, "log"
            case _:
                holder, role = self.charter.consortium, "coordinator"
        speaker, _, spoken = entry.author.rpartition("/")
        if spoken != role or (speaker == self.charter.consortium) != (holder == self.charter.consortium):
            raise Refused(Refusal.WRONG_ROLE, f"{entry.author} wrote a {entry.record.kind}; that is for {role} keys")
        if speaker != holder:
            raise Refused(Refusal.WRONG_MEMBER, f"{entry.author} signed for {holder}")

    def _check_chain(self, author: str, seq: int, prev: str) -> None:
        last = self.chains.get(author, NOTHING)
        if seq != last.seq + 1:
            raise Refused(Refusal.SEQUENCE_GAP, f"{author} is at {last.seq}, this says {seq}")
        if prev != last.hash:
            raise Refused(Refusal.WRONG_PREV, f"{author} cites {prev[:12]}…, its last is {last.hash[:12]}…")

    def _check_new(self, entry: Entry | Skimmed) -> None:
        if self.said(entry):
            about = ("receipt", entry.idem) if isinstance(entry, Skimmed) else entry.about[1:]
            raise Refused(Refusal.CONFLICT, f"{entry.author} has spoken about {' '.join(about)} before; once counts")

    def _check_equivocation(self, evidence: Equivocation) -> None:
        one, other = (
            entries.open_leaf(text.encode(), self.charter.consortium, self.keys)
            for text in (evidence.one, evidence.other)
        )
        if evidence.first >= self.tree.size or one.hash != self.tree.leaf(evidence.first):
            raise Refused(Refusal.WRONG_EVIDENCE, f"the first note is not entry {evidence.first}")
        if one.about != other.about or one.text == other.text:
            raise Refused(Refusal.WRONG_EVIDENCE, "the two notes say the same, or are about different things")

    def _check_manifest(self, manifest: Manifest) -> None:
        if manifest.charter != self.agreement.hash:
            raise Refused(Refusal.NO_CHARTER, f"the manifest cites another charter, {manifest.charter[:12]}…")
        members = set(self.agreement.present())
        if not members.issuperset(manifest.members) or not _rising(manifest.members):
            raise Refused(
                Refusal.WRONG_MEMBER, f"not members in order of their names: {', '.join(manifest.members)[:120]}"
            )
        if not manifest.quorum <= len(manifest.members):
            raise Refused(Refusal.BAD_FIELD, f"a quorum of {manifest.quorum} among {len(manifest.members)} members")
        if manifest.patience >= manifest.rounds:
            cause = f"a patience of {manifest.patience} rounds in a run of {manifest.rounds}: it would never stop early"
            raise Refused(Refusal.BAD_FIELD, cause)
        check_recipe(manifest.recipe)
        check_start(manifest)
        if manifest.teacher != FIRST:
            self._check_taught(manifest)
        right = flop_per_token(manifest.recipe)
        if manifest.flop_per_token != right:
            raise Refused(Refusal.WRONG_FLOP, f"{manifest.flop_per_token} FLOP per token; the formula gives {right}")

    def _check_taught(self, manifest: Manifest) -> None:
        """Each member is sent the teacher's weights, so each may have an artefact that is these."""
        artefact = next(iter(self.holding(manifest.teacher)), None)
        if artefact is None:
            raise Refused(
                Refusal.NOT_FOUND, f"no artefact is the checkpoint {manifest.teacher[:12]}…, which is to teach"
            )
        grounds = self.grounds()
        for member in manifest.members:
            verdict = self.library.access(member, artefact, grounds, anew=False)
            if not verdict.granted:
                cause = f"{member} may not have the teacher, artefact {artefact[:12]}…"
                raise Refused(Refusal.NO_ACCESS, f"{cause}: {'; '.join(verdict.reasons)}")

    def _check_teachers(self, record: Artefact) -> None:
        """What was learnt from a teacher descends from it."""
        for each in record.checkpoints:
            teacher = self.runs[each.run].manifest.teacher
            if teacher != FIRST and not set(self.holding(teacher)) & set(record.parents):
                cause = f"run {each.run} has learnt from the checkpoint {teacher[:12]}…"
                raise Refused(Refusal.WRONG_LINEAGE, f"{cause}, and no artefact that is it is named as a parent")

    def _check_consent(self, consent: Consent) -> None:
        run = self.run(consent.run)
        if consent.manifest != run.hash:
            raise Refused(Refusal.WRONG_MANIFEST, f"{consent.member} consents to {consent.manifest[:12]}…")
        if consent.member not in run.manifest.members:
            raise Refused(Refusal.NOT_INVITED, f"run {consent.run} does not name {consent.member}")

    def _check_open(self, opened: RoundOpen) -> None:
        run = self._going(opened.run)
        if opened.manifest != run.hash:
            raise Refused(Refusal.WRONG_MANIFEST, f"the round cites {opened.manifest[:12]}…")
        if opened.round != len(run.rounds) + 1 or opened.round > run.manifest.rounds:
            raise Refused(Refusal.WRONG_ROUND, f"round {opened.round} after {len(run.rounds)} of {run.manifest.rounds}")
        if run.rounds and run.rounds[-1].closed is None:
            raise Refused(Refusal.WRONG_ROUND, f"round {len(run.rounds)} is still open")
        if opened.base != run.checkpoint:
            raise Refused(Refusal.WRONG_BASE, f"{opened.base[:12]}…; the run is at {run.checkpoint[:12]}…")
        missing = set(opened.invited) - run.consents
        if missing or not opened.invited or not _rising(opened.invited):
            who = ", ".join(sorted(missing)) or "nobody, or members out of order"
            raise Refused(Refusal.NO_CONSENT, f"round {opened.round} invites {who}")
        if gone := set(opened.invited) & self.agreement.left.keys():
            raise Refused(Refusal.WRONG_MEMBER, f"round {opened.round} invites {', '.join(sorted(gone))}: has left")

    def _check_receipt(self, receipt: Skimmed, slowly: Receipt | None = None) -> None:
        """`slowly` is the receipt where it was not skimmed, so that its claim is still to be checked."""
        turn = self._turn(receipt.turn) or self._check_turn(receipt.turn)
        if receipt.member not in turn.invited:
            raise Refused(Refusal.NOT_INVITED, f"round {turn.number} does not invite {receipt.member}")
        if slowly is not None:
            check_claim(slowly, self.run(slowly.run).manifest, self.charter)

    def _check_turn(self, said: Turn) -> Round:
        """The round that a receipt speaks of, if it knows it. What was right once is right for ever."""
        self.run(said.run)
        turn = self._round(said)
        if turn is None or turn.hash != said.opened:
            raise Refused(Refusal.WRONG_ROUND, f"run {said.run} has no round {said.round} {said.opened[:12]}…")
        if said.base != turn.base:
            raise Refused(Refusal.WRONG_BASE, f"{said.base[:12]}…; the round's is {turn.base[:12]}…")
        if said.witnessed_size > self.tree.size or self.tree.root(said.witnessed_size).hex() != said.witnessed_root:
            raise Refused(
                Refusal.WRONG_HEAD, f"root {said.witnessed_root[:12]}… at size {said.witnessed_size}: another history"
            )
        if len(self._turns) > MANY:
            self._turns.clear()
        self._turns[said] = turn
        self._latest = said, turn
        return turn

    def _turn(self, said: Turn) -> Round | None:
        """The round of which this was right before. Most receipts in a row say the same, in one object."""
        if said is not self._latest[0]:
            self._latest = said, self._turns.get(said)
        return self._latest[1]

    def _round(self, said: Turn) -> Round | None:
        run = self.runs.get(said.run)
        return run.rounds[said.round - 1] if run is not None and 1 <= said.round <= len(run.rounds) else None

    def _check_close(self, close: RoundClose, by: bytes) -> None:
        run = self._going(close.run)
        if close.round != len(run.rounds) or run.rounds[-1].closed is not None:
            raise Refused(Refusal.WRONG_ROUND, f"round {close.round} is not open")
        turn = run.rounds[-1]
        if close.base != turn.base:
            raise Refused(Refusal.WRONG_BASE, f"{close.base[:12]}…; the round's is {turn.base[:12]}…")
        inside = tuple([each.member for each in close.included])
        outside = tuple([each.member for each in close.excluded])
        each_once = len(inside) + len(outside) == len(turn.invited) and turn.invited == {*inside, *outside}
        if not _rising(inside) or not _rising(outside) or not each_once:
            raise Refused(Refusal.NOT_INVITED, "included and excluded are not, in order, the members invited")
        for each in close.included:
            work = turn.receipts.get(each.receipt)
            if work is None or work.member != each.member:
                raise Refused(
                    Refusal.WRONG_RECEIPT, f"{each.receipt[:12]}… is no receipt of {each.member} in this round"
                )
        if not _rising(tuple([each.member for each in close.late])):
            raise Refused(Refusal.WRONG_RECEIPT, "the late answers are not in member order, or two are of one member")
        for each in close.late:
            number, work = run.late.get(each.receipt, (0, None))
            if work is None or work.member != each.member or number < close.round - run.manifest.late:
                raise Refused(
                    Refusal.WRONG_RECEIPT,
                    f"{each.receipt[:12]}… is no receipt of {each.member} for one of the {run.manifest.late} rounds"
                    " before, or has counted",
                )
        if close.seed == FIRST:
            _check_handed_over(close, run, by)
            return
        if len(inside) + len(close.late) < run.manifest.quorum and close.checkpoint != close.base:
            raise Refused(
                Refusal.WRONG_CHECKPOINT,
                f"{len(inside) + len(close.late)} answers, quorum {run.manifest.quorum}: the base must stay",
            )
        wholes = max(1, run.manifest.recipe.member_experts)  # Each moves its own expert, and nothing else does.
        if (weight := sum([each.weight for each in (*close.included, *close.late)])) > wholes * BILLION:
            most = "a whole" if wholes == 1 else f"{wholes} wholes"
            raise Refused(Refusal.BAD_FIELD, f"the updates count {weight} billionths together, more than {most}")
        if sealed_seed(close.seed) != turn.sealed:
            raise Refused(Refusal.WRONG_SEED, f"{close.seed[:12]}… is not the seed that the round's opening sealed")

    def _check_end(self, end: RunEnd) -> None:
        run = self._going(end.run)
        if end.checkpoint != run.checkpoint:
            raise Refused(Refusal.WRONG_CHECKPOINT, f"{end.checkpoint[:12]}…; the run is at {run.checkpoint[:12]}…")
        if end.status == "stopped" and not run.stops():
            behind = f"behind {len(run.rounds)} of {run.manifest.rounds} rounds"
            cause = f"{behind} run {end.run} shows no plateau by its patience of {run.manifest.patience}"
            raise Refused(Refusal.WRONG_ROUND, f"{cause}, or a round is open, or none is left")

    def _check_result(self, result: AuditResult) -> None:
        """1. Nobody audits itself. 2. The receipt counts, and can be disputed. 3. The log drew this segment of it.
        4. The verdict is what the distance means."""
        if result.auditor == result.member:
            raise Refused(Refusal.WRONG_MEMBER, f"{result.auditor} audits its own work")
        about = result.run, result.round, result.member
        asked = next(self.challenges(about), None)
        if asked is None or asked.receipt != result.receipt:
            raise Refused(
                Refusal.NOT_DRAWN,
                f"{result.receipt[:12]}… is no work of {result.member} in round {result.round} of {result.run} that"
                " counts and can be disputed",
            )
        if (asked.size, asked.segment) != (result.size, result.segment):
            drew = "nothing" if asked.segment is None else f"segment {asked.segment}"
            raise Refused(
                Refusal.NOT_DRAWN,
                f"the log of size {asked.size} drew {drew} of it; this is segment {result.segment} by size"
                f" {result.size}",
            )
        check_verdict(result.verdict, result.distance_ppm)

    def _check_worth(self, worth: Worth) -> None:
        run = self.run(worth.run)
        if worth.checkpoint not in dict(run.closed()):
            cause = f"no round of run {worth.run} has led to {worth.checkpoint[:12]}…"
            raise Refused(Refusal.WRONG_CHECKPOINT, cause)
        check_worth(worth, run.manifest)

    def challenges(self, about: tuple[str, int, str] | None = None) -> Iterator[Challenge]:
        """All accepted work that can be disputed, or this member's of this round, and what the log drew of it.

        It follows from entries alone: the receipt, and the root of the log right behind its round's close.
        """
        for accepted, work in self.accounts.disputable():
            named = accepted.run, accepted.round, work.member
            if about in (None, named):
                receipt, size = self.tree.leaf(work.at).hex(), accepted.index + 1
                run, seed = self.run(accepted.run), self.tree.root(size)
                segment = drawn(seed, receipt, len(ends(run.manifest.recipe_of(work.member))) - 1)
                others = run.rounds[accepted.round - 1].invited - {work.member}
                who = auditors(seed, receipt, others) if segment is not None else ()
                yield Challenge(*named, receipt, size, segment, who)

    def _check_statement(self, stated: Statement) -> None:
        right = self.statement(
            stated.period, stated.end, seq=stated.seq, prev=stated.prev, cosignatures=stated.cosignatures
        )
        if stated.start != right.start:
            raise Refused(
                Refusal.WRONG_PERIOD, f"from {stated.start} to {stated.end}; the last one ended at {right.start}"
            )
        wrong = differences(stated, right)
        if wrong:
            raise Refused(Refusal.WRONG_STATEMENT, wrong[0])
        self.check_cosignatures(right)

    def check_cosignatures(self, stated: Statement) -> None:
        """Whether the charter's quorum of members has cosigned the tree head that a statement covers.

        Raises `Refused`: NOT_A_NOTE, UNKNOWN_KEY, BAD_SIGNATURE for a line, NO_QUORUM for all of them.
        """
        origin = f"{self.charter.consortium}/log"
        text = tlog.TreeHead(origin, stated.end, bytes.fromhex(stated.root)).text.encode()
        witnesses = set()
        for line in stated.cosignatures:
            signature = note.parse_signature(line)
            key = self.keys.get((signature.name, signature.id))
            member, _, role = signature.name.rpartition("/")
            if key is None or role != "witness" or not self.keyring.counts(key.name, key.id):
                raise Refused(Refusal.UNKNOWN_KEY, f"{signature.name} is no witness whose key counts")
            if not key.verifies(signature.raw, text):
                raise Refused(Refusal.BAD_SIGNATURE, f"{signature.name} did not cosign the head of size {stated.end}")
            witnesses.add(member)
        if len(witnesses) < self.charter.quorum:
            raise Refused(
                Refusal.NO_QUORUM,
                f"{len(witnesses)} members have cosigned the head of size {stated.end}, it takes {self.charter.quorum}",
            )

    def _going(self, name: str) -> Run:
        run = self.run(name)
        if run.ended is not None:
            raise Refused(Refusal.WRONG_ROUND, f"run {name} has ended: {run.ended.status}")
        return run

    def take(self, receipt: Skimmed) -> int:
        """`check` and `add` at once; its index. What is not plainly in order is left to `check`, which names it.

        Raises `Refused` as `check`.
        """
        turn, last = self._turn(receipt.turn), self.chains.get(receipt.author, NOTHING)
        if (
            turn is None
            or (receipt.member, receipt.node) in turn.said
            or receipt.member not in turn.invited
            or receipt.seq != last.seq + 1
            or receipt.prev != last.hash
            or not self.keyring.counts(receipt.author, receipt.key_id)
        ):
            self.check(receipt)
        return self.add(receipt)

    def take_all(self, receipts: Receipts) -> bool:
        """`take` each of these at once, many times faster; False, and nothing is changed, if not all are in order."""
        try:
            turn = self._turn(receipts.turn) or self._check_turn(receipts.turn)
        except Refused:
            return False
        said = set(zip(receipts.members, receipts.nodes, strict=True))
        if (
            turn.closed is not None
            or len(said) < len(receipts.members)
            or not said.isdisjoint(turn.said)
            or not turn.invited.issuperset(receipts.members)
            or not self.keyring.counted.issuperset(zip(receipts.authors, receipts.key_ids, strict=True))
        ):
            return False
        chains, hashes = dict[str, Last](), [each.hex() for each in receipts.hashes]
        for index, (author, seq, prev, hashed) in enumerate(
            zip(receipts.authors, receipts.seqs, receipts.prevs, hashes, strict=True), self.tree.size
        ):
            last = chains.get(author) or self.chains.get(author, NOTHING)
            if seq != last.seq + 1 or prev != last.hash:
                return False
            chains[author] = Last(seq, hashed, index)
        assert isinstance(turn.said, set)
        turn.said |= said
        works = zip(receipts.members, repeat(receipts.turn.flop), count(self.tree.size), receipts.key_ids, strict=False)
        turn.receipts.update(zip(hashes, map(Work._make, works), strict=True))
        self.chains.update(chains)
        self.tree.extend(receipts.hashes)
        return True

    # What follows.

    def add(self, entry: Entry | Skimmed) -> int:
        """Take in an entry that was checked; its index."""
        index, hashed = self.tree.size, entry.hash.hex()
        if isinstance(entry, Skimmed):
            self._add_receipt(entry, index, hashed)
            self.chains[entry.author] = Last(entry.seq, hashed, index)
            self.tree.append(entry.hash)
            return index
        record = entry.record
        match record:
            case Charter():
                self._keyring, self.charter_hash = Keyring(record, hashed), hashed
                self._accounts = Accounts(self._keyring)
                self._renew_context()
            case KeyAdd() | KeyRevoke() | KeyAffirm() | Amendment() | Vote() | Leave():
                if isinstance(record, Leave):
                    self.library.add_leave(record.member, self.grounds())
                self.keyring.add(record, index, hashed)
                self.about_keys.append((index, entry.leaf))
                self._renew_context()
            case Manifest():
                self.runs[record.run] = Run(record, hashed, entry.leaf, record.base, entry.signers[0].id)
                self.library.add_run(record)
                self._renew_context()
            case Consent():
                self.runs[record.run].consents.add(record.member)
            case RoundOpen():
                invited = self._one(frozenset(record.invited))
                turn = Round(record.round, hashed, record.base, invited, record.sealed, record.opened_ms)
                self.runs[record.run].rounds.append(turn)
                self.accounts.quotes.begin(index)
            case Receipt():
                self._add_receipt(Skimmed.of(entry), index, hashed)
            case RoundClose():
                self._add_close(record, index)
                self.runs[record.run].by = entry.signers[0].id
                self.library.add_close(record, index)
            case RunEnd():
                self._add_end(record, index)
            case Statement():
                self.accounts.add_statement(record, index)
                self.library.add_statement({each.member for each in record.balances}, self.grounds())
            case Artefact() | Access() | AccessRevoke() | AccessRestore():
                self.library.add(record, index, self.agreement.present())
            case ExpertGrant():
                self.library.add_lent(record, index, hashed)
            case AuditResult():
                self.results.append((index, record))
            case Worth():
                self._add_worth(record, index)
            case Equivocation():
                pass
            case _:
                self.accounts.add(record, index, hashed, (entry.author, entry.signers[0].id))
        if not isinstance(record, Charter):
            self.chains[entry.author] = Last(record.seq, hashed, index)
        if not isinstance(record, Receipt):
            self._said.add(digest_of(*entry.about))
        self.tree.append(entry.hash)
        return index

    def _add_end(self, end: RunEnd, index: int) -> None:
        run = self.runs[end.run]
        members = run.consents - self.agreement.left.keys()
        if members and end.status == "stopped" and run.stops():
            self.accounts.unspent.append(unspent(index, run.manifest, len(run.rounds), members))
        run.ended = end
        self.library.add_end(end.run)

    def _add_worth(self, record: Worth, index: int) -> None:
        run = self.runs[record.run]
        closed = next(at for checkpoint, at in run.closed() if checkpoint == record.checkpoint)
        said = Said(index, record, run.manifest.members)
        self.accounts.worths.add(said, run.manifest.recipe.corpus, closed, self.agreement.present())

    def _renew_context(self) -> None:
        runs = {name: run.manifest for name, run in self.runs.items()}
        self.context = Context(self.charter, self.keys, runs)

    def _one(self, value: T) -> T:
        found: T = self._same.setdefault(value, value)
        return found

    def _add_receipt(self, receipt: Skimmed, index: int, hashed: str) -> None:
        turn = self._turn(receipt.turn) or self._check_turn(receipt.turn)
        named = receipt.member, receipt.node
        if turn.closed is None:
            assert isinstance(turn.said, set)
            turn.said.add(named)
            turn.receipts[hashed] = Work(receipt.member, receipt.turn.flop, index, receipt.key_id)
        else:  # One that comes later stands in the log, and earns nothing; unless the run takes it late.
            run = self.runs[receipt.turn.run]
            if turn.number >= len(run.rounds) - run.manifest.late:
                work = Work(receipt.member, receipt.turn.flop, index, receipt.key_id)
                run.late[hashed] = turn.number, work
            turn.said = self._one(turn.said | {self._one(named)})

    def _add_close(self, close: RoundClose, index: int) -> None:
        run = self.runs[close.run]
        run.checkpoint = close.checkpoint
        turn = run.rounds[-1]
        # All of them are there after `check`; the audit goes on where that failed.
        works = [work for each in close.included if (work := turn.receipts.get(each.receipt))]
        late = {turn.number: works}
        for each in close.late:
            if (found := run.late.pop(each.receipt, None)) is not None:
                late.setdefault(found[0], []).append(found[1])
        if run.manifest.late:
            counted = {each.receipt for each in close.included}
            left = {key: (turn.number, work) for key, work in turn.receipts.items() if key not in counted}
            first = turn.number - run.manifest.late
            run.late = {key: found for key, found in (run.late | left).items() if found[0] > first}
        said = frozenset(turn.said)
        turn.sealed = ""
        turn.receipts, turn.said = {}, self._same.get(said) or self._one(frozenset(map(self._one, said)))
        turn.closed = Closed(
            close.checkpoint,
            self._one(tuple([each.member for each in close.included])),
            self._one(tuple([(each.member, each.reason) for each in close.excluded])),
            close.loss_unats,
            sum(work.flop for works in late.values() for work in works),
            index,
            sum(tokens_asked(run.manifest.recipe_of(work.member)) for works in late.values() for work in works),
        )
        for number in sorted(late):
            if late[number]:
                self.accounts.add_close(index, close.run, number, late[number])

    def access(self, member: str, artefact: str, *, anew: bool = True) -> Verdict:
        """Whether a member may download an artefact, as the log stands. Raises `Refused(NOT_FOUND)`."""
        return self.library.access(member, artefact, self.grounds(), anew=anew)

    def grounds(self) -> Grounds:
        """What access depends on beyond the library."""
        accounts, agreement = self.accounts, self.agreement
        return Grounds(
            charter=self.charter,
            present=agreement.present(),
            left=agreement.left,
            defaulters=accounts.settlements.in_default(),
            given=accounts.given,
            running=accounts.running(),
        )

    def statement(self, period: str, end: int, *, seq: int, prev: str, cosignatures: tuple[str, ...] = ()) -> Statement:
        """The statement of what is not yet billed before entry `end`. Raises `Refused`: WRONG_PERIOD, INFEASIBLE.

        What is disputed as of `end` is left for a later one.
        """
        if not self.accounts.start <= end <= self.tree.size:
            raise Refused(
                Refusal.WRONG_PERIOD,
                f"from {self.accounts.start} to {end}; the log has {self.tree.size} entries",
            )
        facts, root = self.accounts.facts(period, end), self.tree.root(end).hex()
        return statement(facts, root=root, cosignatures=cosignatures, seq=seq, prev=prev)


def _check_handed_over(close: RoundClose, run: Run, by: bytes) -> None:
    """Whether a round ends so without a step: its coordinator has lost the seed and the updates with the one before.

    1. By another key than the close before. 2. No update counts. 3. The run goes on from where it was once.
    Raises `Refused`: WRONG_SEED, BAD_FIELD, WRONG_CHECKPOINT.
    """
    if by == run.by:
        raise Refused(Refusal.WRONG_SEED, "this coordinator's key closed the round before: it hands nothing over")
    if any(each.weight for each in (*close.included, *close.late)):
        raise Refused(Refusal.BAD_FIELD, "an update counts in a round that was handed over")
    if close.checkpoint not in {run.manifest.base, *(turn.closed.checkpoint for turn in run.rounds if turn.closed)}:
        raise Refused(Refusal.WRONG_CHECKPOINT, f"run {close.run} never was at {close.checkpoint[:12]}…")


def _rising(names: tuple[str, ...]) -> bool:
    return all(map(lt, names, names[1:]))


def differences(stated: Statement, right: Statement) -> list[str]:
    """Each place where a statement is not what its entries say, a sentence for each number, lines first."""
    wrong = []
    for name, key, parts in (
        ("lines", ("pot", "member"), ("credit", "charge")),
        ("balances", ("member",), ("flop", "net", "carry")),
        ("transfers", ("payer", "payee"), ("amount",)),
    ):
        said = {tuple(getattr(each, part) for part in key): each for each in getattr(stated, name)}
        true = {tuple(getattr(each, part) for part in key): each for each in getattr(right, name)}
        for at in dict.fromkeys([*true, *said]):
            where = f"statement {right.period}, {name[:-1]} {' '.join(at)}"
            if at not in said or at not in true:
                wrong.append(f"{where}: {'left out' if at in true else 'should not be there'}")
                continue
            wrong += [
                f"{where}: {part} stated {getattr(said[at], part)}, recomputed {getattr(true[at], part)}"
                for part in parts
                if getattr(said[at], part) != getattr(true[at], part)
            ]
    if stated.root != right.root:
        wrong.append(f"statement {right.period}: root stated {stated.root[:12]}…, recomputed {right.root[:12]}…")
    if stated.unspent_flop != right.unspent_flop:
        numbers = f"stated {stated.unspent_flop}, recomputed {right.unspent_flop}"
        wrong.append(f"statement {right.period}: FLOP not spent {numbers}")
    if not wrong and stated != right:
        wrong.append(f"statement {right.period}: its numbers are right, but repeated or out of order")
    return wrong
